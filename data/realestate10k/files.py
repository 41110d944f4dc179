"""RealEstate10K (Zhou et al., "Stereo Magnification", SIGGRAPH 2018): official camera files, frames of the user's, captions.

The data set holds cameras only (CC BY 4.0, Google); the videos belong to their owners, are not redistributed, and have to be
supplied by the user. A camera file is a line with the source's address, then one line a frame: time in microseconds; fx fy cx cy
in units of the image's width and height; two zeros; the world-to-camera matrix, 3 x 4 by rows.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jog3r.data.clip import Clip
from jog3r.data.poses import rebase_poses
from jog3r.data.source import MAX_FRAMES, check_resize_mode, list_hash, read_image
from jog3r.data.video import IMAGE_SUFFIXES, read_video, resize_frames

__all__ = [
    "CameraFile", "RealEstate10K", "Re10kEntry", "check_cameras", "parse_camera_file", "pixel_intrinsics", "posed_clip",
    "read_camera_file", "read_caption", "read_captions", "read_posed_bytes", "read_posed_video", "read_split", "resize_posed",
]  # fmt: skip

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")
_COLUMNS = 19


@dataclass(frozen=True)
class CameraFile:
    """One camera file.

    Attributes:
        url: of the video it was made from.
        timestamps: (F,) int64, microseconds.
        normalised: (F, 4) float64, fx fy cx cy in units of width, height, width, height.
        poses: (F, 4, 4) float64 camera-to-world, in the file's own world; the unit of length is arbitrary.
    """

    url: str
    timestamps: np.ndarray
    normalised: np.ndarray
    poses: np.ndarray


@dataclass(frozen=True)
class Re10kEntry:
    """One clip of a list: its name, camera file, frames (video or folder; None: looked for by name) and caption, if listed."""

    name: str
    cameras: Path
    frames: Path | None = None
    caption: str | None = None


def read_camera_file(path: Path) -> CameraFile:
    """Read and check one camera file.

    Raises:
        ValueError: missing, no such file, or a line whose numbers cannot be a camera; path and line are named.
    """
    if not path.is_file():
        raise ValueError(f"camera file {str(path)!r} does not exist")
    return parse_camera_file(path.read_text(encoding="utf-8", errors="replace"), str(path))


def parse_camera_file(text: str, name: str) -> CameraFile:
    """`read_camera_file` of a text; `name` is for messages."""
    lines = text.splitlines()
    try:
        rows = np.array([[float(word) for word in line.split()] for line in lines[1:] if line.strip()], dtype=np.float64)
    except ValueError as error:  # not numbers, or lines of different lengths
        raise ValueError(f"{name!r} is no RealEstate10K camera file: {error}") from error
    return check_cameras(lines[0].strip() if lines else "", rows, name)


def check_cameras(url: str, rows: np.ndarray, name: str) -> CameraFile:
    """Cameras of the numbers (F, 19) of a camera file: time, fx fy cx cy, two zeros, world-to-camera.

    Raises:
        ValueError: another shape, or a row that cannot be a camera; `name` and the row are named.
    """
    if rows.ndim != 2 or rows.shape[1] != _COLUMNS or not np.isfinite(rows).all():
        raise ValueError(f"{name!r} is no RealEstate10K camera file: it needs lines of {_COLUMNS} numbers, got {rows.shape}")
    world_to_camera = np.tile(np.eye(4), (len(rows), 1, 1))
    world_to_camera[:, :3] = rows[:, 7:].reshape(-1, 3, 4)
    rotation = world_to_camera[:, :3, :3]
    off = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max((1, 2))
    wrong = (off > 1e-3) | (np.linalg.det(rotation) < 0) | (rows[:, 1:3] <= 0).any(1) | (rows[:, 5:7] != 0).any(1)
    wrong[1:] |= np.diff(rows[:, 0]) <= 0
    if wrong.any():
        raise ValueError(
            f"{name!r}, frame {int(wrong.argmax())}: not a rotation, a focal length of 0, lens distortion, or a time that "
            "does not increase"
        )
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3, :3] = rotation.transpose(0, 2, 1)
    poses[:, :3, 3] = -(rotation.transpose(0, 2, 1) @ world_to_camera[:, :3, 3:])[..., 0]
    return CameraFile(url, rows[:, 0].astype(np.int64), rows[:, 1:5], poses)


def pixel_intrinsics(normalised: np.ndarray, height: int, width: int, transform: np.ndarray | None = None) -> np.ndarray:
    """Intrinsics (F, 3, 3) float32 in pixels: fx * W, fy * H, cx * W, cy * H.

    fx and fy are in units of *different* sides, so frames that were stretched (16:9 stored as 3:2) come out right, with fx != fy
    in pixels. 0.5 is the image's centre, which in jog3r's grid is (W / 2, H / 2).

    Args:
        normalised: (F, 4).
        height, width: of the frames as decoded.
        transform: what `resize_frames` said it did to pixel coordinates afterwards.
    """
    fx, fy, cx, cy = (normalised * [width, height, width, height]).T
    intrinsics = np.zeros((len(normalised), 3, 3))
    intrinsics[:, 0, 0], intrinsics[:, 1, 1], intrinsics[:, 0, 2], intrinsics[:, 1, 2], intrinsics[:, 2, 2] = fx, fy, cx, cy, 1
    if transform is not None:
        # The centre has to stay the centre: the half pixels of the transform belong to grids with known pixel centres.
        scale = np.array([transform[0, 0], transform[1, 1]])
        edges = np.diag([scale[0], scale[1], 1.0])
        edges[:2, 2] = transform[:2, 2] - (0.5 * scale - 0.5)
        intrinsics = edges @ intrinsics
    return intrinsics.astype(np.float32)


def read_captions(path: Path) -> dict[str, str]:
    """Captions by clip: CameraCtrl's `{"<id>.mp4": ["caption", ...]}` (the first counts) or `{"<id>": "caption"}`.

    Raises:
        ValueError: no such file, or another layout.
    """
    table = _read_json(path)
    if not isinstance(table, dict):
        raise ValueError(f"{str(path)!r} must map clip names to captions, got a {type(table).__name__}")
    captions = {}
    for name, value in table.items():
        text = value[0] if isinstance(value, list) and value else value
        if not isinstance(text, str):
            raise ValueError(f"{str(path)!r}: the caption of {name!r} must be a text or a list of texts, got {value!r}")
        captions[_stem(name)] = text
        captions.setdefault(_stem(Path(name).name), text)  # keys may be paths
    return captions


def read_caption(value: Any, name: str) -> str | None:
    """The caption of clip `name` out of a text, a list of texts (the first counts), or json with such a "caption", also as bytes.

    Raises:
        ValueError: bytes that are no json.
    """
    if isinstance(value, bytes):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"the caption of clip {name!r} is no json ({error})") from error
    value = value.get("caption") if isinstance(value, dict) else value
    value = value[0] if isinstance(value, list) and value else value
    return value if isinstance(value, str) else None


def read_split(path: Path, root: Path, cameras: Path) -> list[Re10kEntry]:
    """Clips of a split list, in its order.

    Args:
        path: a text file of names, a json list of names, or CameraCtrl's annotation list of
            `{"clip_name", "clip_path", "pose_file", "caption"}`.
        root: folder that `clip_path` and `pose_file` are relative to.
        cameras: folder of camera files, for lists without `pose_file`.

    Raises:
        ValueError: no such file, another layout, an empty list or a name that stands there twice.
    """
    if path.suffix == ".json":
        rows = _read_json(path)
    elif path.is_file():
        rows = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    else:
        raise ValueError(f"split list {str(path)!r} does not exist")
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"split list {str(path)!r} must be a list of clips with at least one, got {type(rows).__name__}")
    entries = [_entry(row, path, root, cameras) for row in rows]
    names = [entry.name for entry in entries]
    if len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise ValueError(f"split list {str(path)!r} names {twice!r} twice")
    return entries


def _entry(row: Any, path: Path, root: Path, cameras: Path) -> Re10kEntry:
    if isinstance(row, str):
        name = _stem(row)
        return Re10kEntry(name, cameras / f"{name}.txt")
    if not isinstance(row, dict) or not isinstance(row.get("clip_path", row.get("clip_name")), str):
        raise ValueError(f"split list {str(path)!r}: an entry must be a name or have clip_name or clip_path, got {row!r}")
    clip_path, pose_file, caption = row.get("clip_path"), row.get("pose_file"), row.get("caption")
    if isinstance(caption, list) and caption:
        caption = caption[0]
    if caption is not None and not isinstance(caption, str):
        raise ValueError(f"split list {str(path)!r}: the caption of {row!r} is no text")
    name = _stem(str(row["clip_name"] if "clip_name" in row else Path(str(clip_path)).name))
    return Re10kEntry(
        name,
        cameras / f"{name}.txt" if pose_file is None else root / pose_file,
        None if clip_path is None else root / clip_path,
        caption,
    )


def _stem(name: str) -> str:
    suffix = Path(name).suffix.lower()
    return name[: -len(suffix)] if suffix in (*VIDEO_SUFFIXES, ".txt") else name


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as json ({error})") from error


class RealEstate10K:
    """RealEstate10K as a source of posed videos; depth is unknown.

    Args:
        cameras: folder of official camera files, `<name>.txt`.
        frames: folder that holds for each name a video of exactly the frames of its camera file, or a folder of images: named by
            their times in microseconds as in the file (more of them may be there), or as many as the file has lines.
        size: (H, W) to resize to.
        captions: see `read_captions`; None if the split list has them.
        split: see `read_split`; None takes all camera files in the order of their names.
        resize_mode: "stretch" (the paper's squares) or "crop".
        default_caption: of clips that have none; None refuses them.

    Raises:
        ValueError: a list or folder that is missing, or empty.
    """

    def __init__(
        self,
        cameras: Path,
        frames: Path,
        size: tuple[int, int],
        captions: Path | None = None,
        split: Path | None = None,
        resize_mode: str = "stretch",
        default_caption: str | None = None,
    ):
        for folder in (cameras, frames):
            if not folder.is_dir():
                raise ValueError(f"{str(folder)!r} is no folder")
        if split is None:
            self._entries = [Re10kEntry(path.stem, path) for path in sorted(cameras.glob("*.txt"))]
        else:
            self._entries = read_split(split, frames, cameras)
        if not self._entries:
            raise ValueError(f"{str(cameras)!r} holds no camera files (*.txt)")
        check_resize_mode(resize_mode)
        self._frames, self._mode, self._default = frames, resize_mode, default_caption
        self._captions = {} if captions is None else read_captions(captions)
        self.names: Sequence[str] = [entry.name for entry in self._entries]
        self.size = size

    def captions(self, index: int) -> tuple[str, str]:
        """The clip's caption, the same for both directions."""
        entry = self._entries[index]
        caption = entry.caption if entry.caption is not None else self._captions.get(entry.name, self._default)
        if caption is None:
            raise ValueError(f"no caption for clip {entry.name!r}")
        return caption, caption

    def expected_frames(self, index: int) -> int:
        """Lines of the camera file; `ValueError` if it or the frames are missing."""
        entry = self._entries[index]
        self._find(entry)
        return len(read_camera_file(entry.cameras).timestamps)

    def load(self, index: int) -> Clip:
        """All frames of a clip; `ValueError` if cameras or frames are missing, damaged or of different numbers."""
        entry = self._entries[index]
        cameras = read_camera_file(entry.cameras)
        path = self._find(entry)
        frames, intrinsics = self._read_images(path, cameras) if path.is_dir() else self._read_video(path, cameras)
        return posed_clip(frames, intrinsics, cameras, entry.name, self.captions(index)[0])

    def settings(self) -> dict[str, Any]:
        """Kind, list and resizing."""
        return {"kind": "realestate10k", "list_sha256": list_hash(self.names), "resize_mode": self._mode}

    def _find(self, entry: Re10kEntry) -> Path:
        if entry.frames is not None:
            candidates = [entry.frames]
        else:
            candidates = [self._frames / entry.name, *(self._frames / f"{entry.name}{suffix}" for suffix in VIDEO_SUFFIXES)]
        for path in candidates:
            if path.exists():
                return path
        raise ValueError(f"the frames of clip {entry.name!r} are missing: no folder {entry.name!r} and no video of that name")

    def _read_video(self, path: Path, cameras: CameraFile) -> tuple[np.ndarray, np.ndarray]:
        return read_posed_video(path, cameras, self.size, self._mode)

    def _read_images(self, folder: Path, cameras: CameraFile) -> tuple[np.ndarray, np.ndarray]:
        by_time = {
            int(path.stem): path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.stem.isdigit()
        }
        times = cameras.timestamps.tolist()
        # Numbered or named otherwise: one image a line, in order. One number may be a time by chance, as 0 of the first image is.
        if len(by_time.keys() & {*times}) < min(2, len(times)):
            return self._read_video(folder, cameras)
        missing = [time for time in times if time not in by_time]
        if missing:
            raise ValueError(f"{str(folder)!r} lacks {len(missing)} of {len(times)} frames, the first at {missing[0]} us")
        images = [read_image(by_time[time]) for time in times]
        if len({image.shape for image in images}) > 1:
            raise ValueError(f"images in {str(folder)!r} differ in size")
        return resize_posed(np.stack(images), cameras, self.size, self._mode)


def read_posed_video(path: Path, cameras: CameraFile, size: tuple[int, int], mode: str) -> tuple[np.ndarray, np.ndarray]:
    """Frames (F, H, W, 3) of a video or of a folder of images in order, resized, and intrinsics (F, 3, 3) of that size."""
    # Stretched frames owe nothing to their old size: resized while decoding, which saves memory.
    frames = read_video(path, max_frames=MAX_FRAMES, size=size if mode == "stretch" else None).frames
    return resize_posed(frames, cameras, size, mode)


def read_posed_bytes(
    content: bytes, suffix: str, cameras: CameraFile, size: tuple[int, int], mode: str
) -> tuple[np.ndarray, np.ndarray]:
    """`read_posed_video` of a file's bytes."""
    with tempfile.TemporaryDirectory() as scratch:  # decoders want a file to seek in
        path = Path(scratch) / f"video{suffix}"
        path.write_bytes(content)
        return read_posed_video(path, cameras, size, mode)


def resize_posed(frames: np.ndarray, cameras: CameraFile, size: tuple[int, int], mode: str) -> tuple[np.ndarray, np.ndarray]:
    """Frames (F, H, W, 3) resized to `size`, and intrinsics (F, 3, 3) of that size."""
    height, width = frames.shape[1:3]
    if (height, width) == size:
        return frames, pixel_intrinsics(cameras.normalised, height, width)
    resized, transform = resize_frames(frames, *size, mode)
    return resized, pixel_intrinsics(cameras.normalised, height, width, transform)


def posed_clip(frames: np.ndarray, intrinsics: np.ndarray, cameras: CameraFile, name: str, caption: str) -> Clip:
    """A clip without depth; `ValueError` if frames and cameras differ in number."""
    if len(frames) != len(cameras.timestamps):
        raise ValueError(f"the video of {name!r} has {len(frames)} frames, its camera file {len(cameras.timestamps)} lines")
    unknown = np.zeros(frames.shape[:3], np.float32)
    attributes = {"name": name, "url": cameras.url}
    return Clip(frames, unknown, unknown > 0, rebase_poses(cameras.poses), intrinsics, caption, attributes)
