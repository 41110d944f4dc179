"""What every camera file becomes, and the checks that all formats share.

Pixel centres: COLMAP and nerfstudio put the first one at (0.5, 0.5), jog3r at (0, 0). `PosedFrames` keeps the former, the *edge*
grid, which scales plainly; `intrinsics_at` converts. Letters: F frames, H W pixels.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jog3r.data.local_files import read_json
from jog3r.geometry.pose_checks import pose_fault

__all__ = ["MAX_DISTORTION", "PosedFrames", "check_posed", "frames_of", "matrix_of", "number_of"]

MAX_DISTORTION = 8  # coefficients of a lens


@dataclass(frozen=True)
class PosedFrames:
    """Cameras of F frames in their order, and where the frames are.

    Attributes:
        poses: (F, 4, 4) camera-to-world, OpenCV, any world.
        intrinsics: (F, 3, 3) for the stated size, in the edge grid.
        size: (F, 2) stated height and width of each frame.
        images: F files; empty if there is a video.
        video: instead of images.
        distortion: (F, 8) coefficients in OpenCV's order: k1 k2 p1 p2 k3 k4 k5 k6, of a fisheye lens k1 k2 k3 k4; 0 behind them.
        fisheye: (F,) bool, whether the lens is OpenCV's fisheye (equidistant) model.
        depths: F files of z depth, or None.
        depth_scale: units a step of the depth files.
    """

    poses: np.ndarray
    intrinsics: np.ndarray
    size: np.ndarray
    images: tuple[Path, ...]
    video: Path | None
    distortion: np.ndarray
    fisheye: np.ndarray
    depths: tuple[Path, ...] | None = None
    depth_scale: float = 1e-3

    def intrinsics_at(self, number: int, height: int, width: int) -> np.ndarray:
        """Intrinsics (3, 3) of a frame decoded at another size of the same shape, pixel centres at integers."""
        stated_height, stated_width = self.size[number]
        scale = np.array([width / stated_width, height / stated_height])
        if abs(scale[0] / scale[1] - 1) > 0.02:  # half-pixel roundings of small copies are fine, a rotated image is not
            turned = abs((width / stated_height) / (height / stated_width) - 1) <= 0.02
            raise ValueError(
                f"frame {number} is {width} x {height} pixels, its camera says {stated_width:g} x {stated_height:g}"
                + ("; it was turned after its camera was found (pictures are read as stored, without EXIF)" if turned else "")
            )
        whole = np.floor(scale)
        repeated = (scale - whole) * [stated_width, stated_height]
        if self.video is not None and whole.min() >= 1 and repeated.max() < 1.5:
            scale = whole  # of our own video.mp4, in which an odd side is made even by one repeated row or column
        matrix = np.diag([scale[0], scale[1], 1.0]) @ self.intrinsics[number]
        matrix[:2, 2] -= 0.5
        return matrix


def frames_of(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The document of a json file of cameras, and its "frames".

    Raises:
        ValueError: no json, not an object, or "frames" is not a list of objects with at least one.
    """
    document = read_json(path)
    if not isinstance(document, dict):
        raise ValueError(f"{str(path)!r} must hold a json object, got a {type(document).__name__}")
    if "frames" not in document:
        raise ValueError(f"{str(path)!r} has no 'frames'; it needs a list of frames with their cameras")
    frames = document["frames"]
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise ValueError(f"{str(path)!r}: 'frames' must be a list of objects, got {_short(frames)}")
    if not frames:
        raise ValueError(f"{str(path)!r} has an empty list 'frames'; a clip needs at least 2")
    return document, frames


def number_of(camera: dict[str, Any], name: str, meaning: str, where: str) -> float:
    """A number that a camera must state.

    Args:
        camera: object of a json file.
        name: of the number in it.
        meaning: what it is, for the message.
        where: file and frame, for the message.

    Raises:
        ValueError: missing, or no number.
    """
    if name not in camera:
        raise ValueError(f"{where} has no {name!r}: state {meaning}, for the frame or for all")
    value = camera[name]
    if not isinstance(value, (int, float, str)) or isinstance(value, bool):
        raise ValueError(f"{where}: {name!r} must be a number, got {_short(value)}")
    try:
        return float(value)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{where}: {name!r} must be a number, got {_short(value)}") from error


def matrix_of(frame: dict[str, Any], name: str, size: int, where: str) -> np.ndarray:
    """A (size, size) matrix that a frame must state.

    Raises:
        ValueError: missing, no numbers, or of another shape.
    """
    if name not in frame:
        raise ValueError(f"{where} has no {name!r}: it needs a {size} x {size} matrix")
    try:
        matrix = np.array(frame[name], dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{where}: {name!r} must be a {size} x {size} matrix of numbers, got {_short(frame[name])}") from error
    if matrix.shape != (size, size):
        raise ValueError(f"{where}: {name!r} must be a {size} x {size} matrix, got shape {matrix.shape}")
    return matrix


def check_posed(posed: PosedFrames, path: Path) -> None:
    """Refuse what cannot be the cameras of a clip; the file and the frame (counted from 0 in the order of names) are named."""
    count = len(posed.poses)
    if count < 2:
        raise ValueError(f"{str(path)!r} has {count} frame{'' if count == 1 else 's'} with a camera; a clip needs at least 2")
    fault = pose_fault(posed.poses)
    if fault is not None:
        name = posed.images[fault[0]].name if posed.images else fault[0]
        raise ValueError(f"{str(path)!r}: the pose of frame {str(name)!r} is no rotation and translation: {fault[1]}")
    if not np.isfinite(posed.intrinsics).all() or not np.isfinite(posed.distortion).all():
        raise ValueError(f"{str(path)!r}: intrinsics and lens coefficients must be finite")
    if not (posed.intrinsics[:, [0, 1], [0, 1]] > 0).all() or not ((posed.size > 0) & np.isfinite(posed.size)).all():
        raise ValueError(f"{str(path)!r}: focal lengths and sizes must be positive")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
