"""Folders of posed frames as a source: transforms.json (nerfstudio, DL3DV-10K), cameras.json of jog3r, COLMAP's models.

Reading the three camera formats is in `camera_formats`; here frames are found, undistorted, resized and put into a `Clip`.
Letters: F frames, H W pixels.
"""

from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from jog3r.data.camera_formats import PosedFrames, find_cameras, read_posed_frames
from jog3r.data.camera_formats.lenses import Straightener
from jog3r.data.camera_formats.scenes import LOOKED_FOR, other_models
from jog3r.data.clip import Clip
from jog3r.data.local_files import is_hidden, read_text, visible_files, warn_unread
from jog3r.data.poses import rebase_poses
from jog3r.data.realestate10k.lists import own_last_parts, read_captions
from jog3r.data.recordings.pictures import IMAGE_SUFFIXES
from jog3r.data.recordings.resizing import resize_frames
from jog3r.data.source import check_count, check_frame_step, check_resize_mode, list_hash, read_image, step_setting
from jog3r.data.video_stream import stream_video

__all__ = ["PosedFolders"]

CAPTION_FILE = "caption.txt"


class PosedFolders:
    """Folders of posed frames, a clip each; frames are in the natural order of their names.

    Pictures are read as they are stored: COLMAP and nerfstudio, which found their cameras, do not turn them as EXIF says.

    Args:
        root: one such folder, or a folder of them (at any depth; a folder inside another clip's folder is not looked at).
        size: (H, W) to resize to; None leaves the frames as they are.
        captions: a json of captions by folder name, see `read_captions`; else each folder's `caption.txt`.
        resize_mode: "crop" or "stretch".
        default_caption: of folders that have none; None refuses them.
        image_folder: take the images of this folder instead of the one named in transforms.json, or of `images` (DL3DV-10K:
            "images_4", smaller copies; the intrinsics follow).
        frame_step: take every n-th frame, from the first.

    Raises:
        ValueError: no folder, or none with cameras.
    """

    def __init__(
        self,
        root: str | PathLike[str],
        size: tuple[int, int] | None,
        captions: str | PathLike[str] | None = None,
        resize_mode: str = "crop",
        default_caption: str | None = None,
        image_folder: str | None = None,
        frame_step: int = 1,
    ):
        root = Path(root)
        if not root.is_dir():
            raise ValueError(f"{str(root)!r} is no folder")
        check_resize_mode(resize_mode)
        check_frame_step(frame_step)
        unposed: list[Path] = []
        self._folders = _camera_folders(root, unposed)
        if not self._folders:
            raise ValueError(f"{str(root)!r} holds no {LOOKED_FOR}, at any depth")
        if unposed:
            warn_unread("folders of images have no cameras", [folder.relative_to(root).as_posix() for folder in unposed])
        if others := [path.relative_to(root).as_posix() for folder in self._folders for path in other_models(folder)]:
            warn_unread("COLMAP models stand beside the first of their scene, which alone is read", others)
        self._captions = {} if captions is None else read_captions(captions)
        self._mode, self._default, self._image_folder, self._step = resize_mode, default_caption, image_folder, frame_step
        self.names: Sequence[str] = [
            folder.relative_to(root).as_posix() if folder != root else root.resolve().name for folder in self._folders
        ]
        self._own_parts = own_last_parts(self.names)
        self.size = size

    def captions(self, index: int) -> tuple[str, str]:
        """The caption, the same for both directions."""
        name, folder = self.names[index], self._folders[index]
        caption = self._captions.get(name)
        if caption is None and (folder / CAPTION_FILE).is_file():
            caption = read_text(folder / CAPTION_FILE).strip()
        if caption is None and folder.name in self._own_parts:
            caption = self._captions.get(folder.name)
        caption = self._default if caption is None else caption
        if caption is None:
            raise ValueError(f"no caption for {name!r}: write {CAPTION_FILE} into its folder")
        return caption, caption

    def expected_frames(self, index: int) -> int:
        """Cameras of the folder; `ValueError` if frames of theirs are missing."""
        cameras = read_posed_frames(self._folders[index], self._image_folder)
        files = cameras.images[:: self._step] if cameras.video is None else (cameras.video,)
        missing = [path.name for path in files if not path.is_file()]
        if missing:
            raise ValueError(f"{self.names[index]!r} lacks {len(missing)} of {len(files)} files, the first {missing[0]!r}")
        return self._count(index, cameras)

    def load(self, index: int) -> Clip:
        """The frames of a folder, undistorted and resized, with depth where the folder has it."""
        cameras = read_posed_frames(self._folders[index], self._image_folder)
        self._count(index, cameras)
        frames, depth, intrinsics = self._read_frames(cameras)
        valid = np.isfinite(depth) & (depth > 0)
        return Clip(
            frames,
            np.where(valid, depth, 0).astype(np.float32),
            valid,
            rebase_poses(cameras.poses[:: self._step]),
            intrinsics.astype(np.float32),
            self.captions(index)[0],
            {"name": self.names[index]},
        )

    def _count(self, index: int, cameras: PosedFrames) -> int:
        return check_count(self.names[index], len(range(0, len(cameras.poses), self._step)))

    def settings(self) -> dict[str, Any]:
        """Kind, list, resizing, which images and which frames."""
        return {
            "kind": "posed",
            "list_sha256": list_hash(self.names),
            "resize_mode": self._mode,
            "image_folder": self._image_folder,
            **step_setting(self._step),
        }

    def _read_frames(self, cameras: PosedFrames) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Frames (F, H, W, 3), depth (F, H, W) with 0 where unknown, intrinsics (F, 3, 3) of the new size."""
        straighten = Straightener()
        frames: list[np.ndarray] = []
        depths: list[np.ndarray] = []
        intrinsics: list[np.ndarray] = []
        for number, image in _images(cameras, self._step):
            matrix = cameras.intrinsics_at(number, image.shape[0], image.shape[1])
            depth = np.zeros(image.shape[:2], np.float32)
            if cameras.depths is not None:
                depth = _read_depth(cameras.depths[number], cameras.depth_scale, image.shape[:2])
            image, depth = straighten(image, depth, matrix, cameras.distortion[number], bool(cameras.fisheye[number]))
            if self.size is not None:
                [image], transform = resize_frames(image[None], *self.size, self._mode)
                depth, matrix = _resize_depth(depth, transform, self.size), transform @ matrix
            elif frames and image.shape != frames[0].shape:
                raise ValueError(f"frame {number} is of another size than the first; give height and width")
            frames.append(image)
            depths.append(depth)
            intrinsics.append(matrix)
        return np.stack(frames), np.stack(depths), np.stack(intrinsics)


def _camera_folders(root: Path, unposed: list[Path], above: tuple[Path, ...] = ()) -> list[Path]:
    """Folders with cameras; those with images alone are appended to `unposed`. A link to one of the folders `above` is none."""
    if root.resolve() in above:
        return []
    above = (*above, root.resolve())
    if find_cameras(root) is not None:
        return [root]
    if visible_files(root, IMAGE_SUFFIXES):
        unposed.append(root)
    children = sorted(child for child in root.iterdir() if child.is_dir() and not is_hidden(child.name))
    return [folder for child in children for folder in _camera_folders(child, unposed, above)]


def _images(cameras: PosedFrames, step: int) -> Iterator[tuple[int, np.ndarray]]:
    """Every `step`-th frame (H, W, 3) with its number; `ValueError` if a video has another number of frames than of cameras."""
    if cameras.video is None:
        yield from ((number, read_image(cameras.images[number])) for number in range(0, len(cameras.images), step))
        return
    count = 0
    for count, image in enumerate(stream_video(cameras.video), 1):
        if (count - 1) % step == 0 and count <= len(cameras.poses):
            yield count - 1, image
    if count != len(cameras.poses):
        raise ValueError(f"{str(cameras.video)!r} has {count} frames for {len(cameras.poses)} cameras")


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
