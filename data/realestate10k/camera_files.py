"""RealEstate10K's camera files (Zhou et al., "Stereo Magnification", SIGGRAPH 2018), CC BY 4.0, Google.

A camera file is a line with the source's address, then one line a frame: time in microseconds; fx fy cx cy in units of the
image's width and height; two zeros; the world-to-camera matrix, 3 x 4 by rows. Letters: F frames, H W pixels.
"""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from jog3r.geometry.pose_checks import pose_fault

__all__ = ["CameraFile", "check_cameras", "parse_camera_file", "pixel_intrinsics", "read_camera_file"]

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


def read_camera_file(path: str | PathLike[str]) -> CameraFile:
    """Read and check one camera file.

    Raises:
        ValueError: missing, no such file, or a line whose numbers cannot be a camera; path and line are named.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"camera file {str(path)!r} does not exist")
    return parse_camera_file(path.read_text(encoding="utf-8", errors="replace"), str(path))


def parse_camera_file(text: str, name: str) -> CameraFile:
    """`read_camera_file` of a text; `name` is for messages."""
    lines = text.removeprefix("\ufeff").splitlines()
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
    wrong = {
        "has a focal length of 0 or less": (rows[:, 1:3] <= 0).any(1),
        "has lens distortion (two numbers that are not 0 behind fx fy cx cy), which is not supported": (rows[:, 5:7] != 0).any(1),
        "has a time that does not increase": np.diff(rows[:, 0], prepend=-np.inf) <= 0,
    }
    faults = [(int(rows_of.argmax()), reason) for reason, rows_of in wrong.items() if rows_of.any()]
    pose = pose_fault(world_to_camera)
    faults += [] if pose is None else [(pose[0], f"has no pose: {pose[1]}")]
    if faults:
        frame, reason = min(faults)
        raise ValueError(f"{name!r}, frame {frame}: it {reason}")
    rotation = world_to_camera[:, :3, :3]
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
