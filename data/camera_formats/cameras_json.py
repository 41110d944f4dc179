"""jog3r's own cameras.json; the frames are `video.mp4` or the folder `images` beside it."""

import logging
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from jog3r.data.camera_formats.posed_frames import MAX_DISTORTION, PosedFrames, frames_of, matrix_of, number_of
from jog3r.data.recordings.pictures import picture_files

__all__ = ["read_cameras", "read_cameras_json"]

CONVENTION = "opencv_cam_to_world"
logger = logging.getLogger(__name__)


def read_cameras(path: str | PathLike[str]) -> tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray]:
    """The cameras of a cameras.json, whatever lies beside it.

    Returns:
        The document; poses (F, 4, 4) camera-to-world; intrinsics (F, 3, 3), pixel centres at integers; known (F,) bool.

    Raises:
        ValueError: no such file, another convention, or a frame without numbers.
    """
    path = Path(path)
    document, frames = frames_of(path)
    if document.get("convention") != CONVENTION:
        raise ValueError(f"{str(path)!r} has convention {document.get('convention')!r}, expected {CONVENTION!r}")
    wheres = [f"{str(path)!r}, frame {number}" for number in range(len(frames))]
    poses, intrinsics = (
        np.stack([matrix_of(frame, name, side, where) for frame, where in zip(frames, wheres, strict=True)])
        for name, side in (("pose", 4), ("intrinsics", 3))
    )
    known = np.array([frame.get("pose_known", True) and frame.get("registered", True) for frame in frames], dtype=bool)
    return document, poses, intrinsics, known


def read_cameras_json(path: str | PathLike[str], image_folder: str | None = None) -> PosedFrames:
    """Read a cameras.json.

    Args:
        path: of the file.
        image_folder: beside it, to be read instead of `images` or the video.

    Raises:
        ValueError: no such file, another convention, a frame whose pose is unknown, or no frames beside it.
    """
    path = Path(path)
    document, poses, intrinsics, known = read_cameras(path)
    unknown = np.flatnonzero(~known).tolist()
    if unknown:
        raise ValueError(f"{str(path)!r} has no pose for its frames {unknown}; cut the video to frames whose cameras are known")
    reasons = [frame.get("doubtful") for frame in document["frames"]]
    if any(reasons):
        named = ", ".join(sorted({str(reason) for reason in reasons if reason}))
        _warn_of_doubts(f"{str(path)!r} doubts {sum(map(bool, reasons))} of its {len(poses)} poses: {named}")
    intrinsics[:, :2, 2] += 0.5
    height, width = (
        number_of(document, name, f"the {name} of the frames in pixels", repr(str(path))) for name in ("height", "width")
    )
    folder, video = path.parent / (image_folder or "images"), path.parent / "video.mp4"
    images: list[Path] = []
    if folder.is_dir():
        images = picture_files(folder)
        if len(images) != len(poses):
            raise ValueError(f"{str(folder)!r} holds {len(images)} images for {len(poses)} cameras")
    elif image_folder is not None:
        raise ValueError(f"{str(path.parent)!r} holds cameras.json, but no folder {image_folder!r}")
    elif not video.is_file():
        raise ValueError(f"{str(path.parent)!r} holds cameras.json, but neither video.mp4 nor images/")
    return PosedFrames(
        poses,
        intrinsics,
        np.tile([height, width], (len(poses), 1)),
        images=tuple(images),
        video=None if images else video,
        distortion=np.zeros((len(poses), MAX_DISTORTION)),
        fisheye=np.zeros(len(poses), bool),
    )


@cache
def _warn_of_doubts(text: str) -> None:
    """Once a file: training reads it for every clip."""
    logger.warning("%s", text)
