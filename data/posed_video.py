"""Folders of posed frames as a source: transforms.json (nerfstudio, DL3DV-10K), cameras.json of jog3r, COLMAP's text model.

Reading the three camera formats is in `camera_formats`; here frames are found, undistorted, resized and put into a `Clip`.
Letters: F frames, H W pixels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from jog3r.data.camera_formats import PosedFrames, find_cameras, read_posed_frames
from jog3r.data.clip import Clip
from jog3r.data.poses import rebase_poses
from jog3r.data.realestate10k.files import read_captions
from jog3r.data.source import MAX_FRAMES, check_resize_mode, list_hash, read_image
from jog3r.data.video import read_video, resize_frames

__all__ = ["PosedFolders", "undistortion_grid"]

CAPTION_FILE = "caption.txt"


class PosedFolders:
    """Folders of posed frames, a clip each; frames are in the natural order of their names.

    Args:
        root: one such folder, or a folder of them (at any depth; a folder inside another clip's folder is not looked at).
        size: (H, W) to resize to.
        captions: a json of captions by folder name, see `read_captions`; else each folder's `caption.txt`.
        resize_mode: "crop" or "stretch".
        default_caption: of folders that have none; None refuses them.
        image_folder: take the images of this folder instead of the one named in transforms.json (DL3DV-10K: "images_4", smaller
            copies; the intrinsics follow).

    Raises:
        ValueError: no folder, or none with cameras.
    """

    def __init__(
        self,
        root: Path,
        size: tuple[int, int],
        captions: Path | None = None,
        resize_mode: str = "crop",
        default_caption: str | None = None,
        image_folder: str | None = None,
    ):
        if not root.is_dir():
            raise ValueError(f"{str(root)!r} is no folder")
        check_resize_mode(resize_mode)
        self._folders = _camera_folders(root)
        if not self._folders:
            raise ValueError(f"{str(root)!r} holds no transforms.json, cameras.json or COLMAP images.txt, at any depth")
        self._captions = {} if captions is None else read_captions(captions)
        self._mode, self._default, self._image_folder = resize_mode, default_caption, image_folder
        self.names: Sequence[str] = [
            folder.relative_to(root).as_posix() if folder != root else root.name for folder in self._folders
        ]
        self.size = size

    def captions(self, index: int) -> tuple[str, str]:
        """The caption, the same for both directions."""
        name, folder = self.names[index], self._folders[index]
        caption = self._captions.get(name, self._captions.get(folder.name))
        if caption is None and (folder / CAPTION_FILE).is_file():
            caption = (folder / CAPTION_FILE).read_text(encoding="utf-8").strip()
        caption = self._default if caption is None else caption
        if caption is None:
            raise ValueError(f"no caption for {name!r}: write {CAPTION_FILE} into its folder")
        return caption, caption

    def load(self, index: int) -> Clip:
        """All frames of a folder, undistorted and resized, with depth where the folder has it."""
        cameras = read_posed_frames(self._folders[index], self._image_folder)
        if len(cameras.poses) > MAX_FRAMES:
            raise ValueError(f"{self.names[index]!r} has {len(cameras.poses)} frames, more than {MAX_FRAMES}; cut it")
        frames, depth, intrinsics = self._read_frames(cameras)
        valid = np.isfinite(depth) & (depth > 0)
        return Clip(
            frames,
            np.where(valid, depth, 0).astype(np.float32),
            valid,
            rebase_poses(cameras.poses),
            intrinsics.astype(np.float32),
            self.captions(index)[0],
            {"name": self.names[index]},
        )

    def settings(self) -> dict[str, Any]:
        """Kind, list, resizing and which images."""
        return {
            "kind": "posed",
            "list_sha256": list_hash(self.names),
            "resize_mode": self._mode,
            "image_folder": self._image_folder,
        }

    def _read_frames(self, cameras: PosedFrames) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Frames (F, H, W, 3), depth (F, H, W) with 0 where unknown, intrinsics (F, 3, 3) of the new size."""
        if cameras.video is not None:
            images: Any = read_video(cameras.video, max_frames=MAX_FRAMES).frames
            if len(images) != len(cameras.poses):
                raise ValueError(f"{str(cameras.video)!r} has {len(images)} frames for {len(cameras.poses)} cameras")
        else:
            images = (read_image(path) for path in cameras.images)
        frames, depths, intrinsics, grids = [], [], [], _Grids()
        for number, image in enumerate(images):
            matrix = cameras.intrinsics_at(number, image.shape[0], image.shape[1])
            depth = np.zeros(image.shape[:2], np.float32)
            if cameras.depths is not None:
                depth = _read_depth(cameras.depths[number], cameras.depth_scale, image.shape[:2])
            if cameras.distortion is not None and np.any(cameras.distortion[number]):
                grid = grids.grid(matrix, cameras.distortion[number], image.shape[:2])
                image, depth = _bilinear(image, grid), _nearest(depth, grid)
            resized, transform = resize_frames(image[None], *self.size, self._mode)
            frames.append(resized[0])
            depths.append(_resize_depth(depth, transform, self.size))
            intrinsics.append(transform @ matrix)
        return np.stack(frames), np.stack(depths), np.stack(intrinsics)


def _camera_folders(root: Path) -> list[Path]:
    if find_cameras(root) is not None:
        return [root]
    return [folder for child in sorted(root.iterdir()) if child.is_dir() for folder in _camera_folders(child)]


def _read_depth(path: Path, scale: float, size: tuple[int, int]) -> np.ndarray:
    """z depth (H, W) float32 from an .npy or a 16-bit .png, both in steps of `scale` units as in nerfstudio; 0 is unknown."""
    try:
        if path.suffix == ".npy":
            depth = np.load(path, allow_pickle=False).astype(np.float32)
        else:
            with Image.open(path) as image:
                depth = np.asarray(image).astype(np.float32)
        depth = depth * np.float32(scale)
    except (OSError, EOFError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ValueError(f"depth {str(path)!r} cannot be read ({error})") from error
    if depth.ndim != 2:
        raise ValueError(f"depth {str(path)!r} must have one channel, got shape {depth.shape}")
    if depth.shape != size:  # smaller depth maps are common; averages across edges lie in mid-air, so the nearest value
        rows = np.clip(((np.arange(size[0]) + 0.5) * depth.shape[0] / size[0]).astype(int), 0, depth.shape[0] - 1)
        columns = np.clip(((np.arange(size[1]) + 0.5) * depth.shape[1] / size[1]).astype(int), 0, depth.shape[1] - 1)
        depth = depth[rows[:, None], columns]
    return depth


def _resize_depth(depth: np.ndarray, transform: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows = np.clip(np.rint((np.arange(size[0]) - transform[1, 2]) / transform[1, 1]), 0, depth.shape[0] - 1).astype(int)
    columns = np.clip(np.rint((np.arange(size[1]) - transform[0, 2]) / transform[0, 0]), 0, depth.shape[1] - 1).astype(int)
    return depth[rows[:, None], columns]


# Undistortion


class _Grids:
    """The last undistortion grid, as the frames of a video share their lens."""

    def __init__(self) -> None:
        self._key: tuple[bytes, ...] | None = None
        self._grid = np.zeros((0, 0, 2))

    def grid(self, intrinsics: np.ndarray, distortion: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        key = (intrinsics.tobytes(), distortion.tobytes(), bytes(str(size), "ascii"))
        if key != self._key:
            self._key, self._grid = key, undistortion_grid(intrinsics, distortion, *size)
        return self._grid


def undistortion_grid(intrinsics: np.ndarray, distortion: np.ndarray, height: int, width: int) -> np.ndarray:
    """Where each pixel of the undistorted image lies in the distorted one, (H, W, 2) as (column, row).

    The image keeps its intrinsics. Distortion is the Brown-Conrady model of OpenCV: k1, k2, p1, p2 on normalised coordinates.

    Args:
        intrinsics: (3, 3) in pixels, pixel centres at integers.
        distortion: (4,).
        height, width: H and W.
    """
    k1, k2, p1, p2 = (float(value) for value in distortion)
    x, y = np.meshgrid(
        (np.arange(width) - intrinsics[0, 2]) / intrinsics[0, 0], (np.arange(height) - intrinsics[1, 2]) / intrinsics[1, 1]
    )
    square = x * x + y * y
    radial = 1 + k1 * square + k2 * square * square
    distorted_x = x * radial + 2 * p1 * x * y + p2 * (square + 2 * x * x)
    distorted_y = y * radial + p1 * (square + 2 * y * y) + 2 * p2 * x * y
    columns = intrinsics[0, 0] * distorted_x + intrinsics[0, 2]
    rows = intrinsics[1, 1] * distorted_y + intrinsics[1, 2]
    return np.stack([columns, rows], -1)


def _bilinear(image: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """uint8 image at grid positions; the border's colour goes on outside, as cameras rarely show much of it."""
    height, width = image.shape[:2]
    columns, rows = np.clip(grid[..., 0], 0, width - 1), np.clip(grid[..., 1], 0, height - 1)
    left, top = np.minimum(columns.astype(int), width - 2), np.minimum(rows.astype(int), height - 2)
    right_share, low_share = (columns - left)[..., None], (rows - top)[..., None]
    upper = image[top, left] * (1 - right_share) + image[top, left + 1] * right_share
    lower = image[top + 1, left] * (1 - right_share) + image[top + 1, left + 1] * right_share
    return np.rint(upper * (1 - low_share) + lower * low_share).astype(np.uint8)


def _nearest(depth: np.ndarray, grid: np.ndarray) -> np.ndarray:
    columns, rows = np.rint(grid[..., 0]).astype(int), np.rint(grid[..., 1]).astype(int)
    inside = (columns >= 0) & (columns < depth.shape[1]) & (rows >= 0) & (rows < depth.shape[0])
    return np.where(inside, depth[np.where(inside, rows, 0), np.where(inside, columns, 0)], 0)
