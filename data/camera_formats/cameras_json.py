"""jog3r's own cameras.json; the frames are `video.mp4` or the folder `images` beside it."""

from os import PathLike
from pathlib import Path

import numpy as np

from jog3r.data.camera_formats.posed_frames import MAX_DISTORTION, PosedFrames, frames_of, matrix_of, number_of
from jog3r.data.recordings.pictures import picture_files

__all__ = ["read_cameras_json"]

CONVENTION = "opencv_cam_to_world"


def read_cameras_json(path: str | PathLike[str], image_folder: str | None = None) -> PosedFrames:
    """Read a cameras.json.

    Args:
        path: of the file.
        image_folder: beside it, to be read instead of `images` or the video.

    Raises:
        ValueError: no such file, another convention, a frame whose pose is unknown, or no frames beside it.
    """
    path = Path(path)
    document, frames = frames_of(path)
    if document.get("convention") != CONVENTION:
        raise ValueError(f"{str(path)!r} has convention {document.get('convention')!r}, expected {CONVENTION!r}")
    unknown = [
        number for number, frame in enumerate(frames) if not (frame.get("pose_known", True) and frame.get("registered", True))
    ]
    if unknown:
        raise ValueError(f"{str(path)!r} has no pose for its frames {unknown}; cut the video to frames whose cameras are known")
    wheres = [f"{str(path)!r}, frame {number}" for number in range(len(frames))]
    intrinsics = np.stack([matrix_of(frame, "intrinsics", 3, where) for frame, where in zip(frames, wheres, strict=True)])
    intrinsics[:, :2, 2] += 0.5
    height, width = (
        number_of(document, name, f"the {name} of the frames in pixels", repr(str(path))) for name in ("height", "width")
    )
    folder, video = path.parent / (image_folder or "images"), path.parent / "video.mp4"
    images: list[Path] = []
    if folder.is_dir():
        images = picture_files(folder)
        if len(images) != len(frames):
            raise ValueError(f"{str(folder)!r} holds {len(images)} images for {len(frames)} cameras")
    elif image_folder is not None:
        raise ValueError(f"{str(path.parent)!r} holds cameras.json, but no folder {image_folder!r}")
    elif not video.is_file():
        raise ValueError(f"{str(path.parent)!r} holds cameras.json, but neither video.mp4 nor images/")
    return PosedFrames(
        np.stack([matrix_of(frame, "pose", 4, where) for frame, where in zip(frames, wheres, strict=True)]),
        intrinsics,
        np.tile([height, width], (len(frames), 1)),
        images=tuple(images),
        video=None if images else video,
        distortion=np.zeros((len(frames), MAX_DISTORTION)),
        fisheye=np.zeros(len(frames), bool),
    )
