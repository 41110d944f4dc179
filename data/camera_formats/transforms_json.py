"""transforms.json of nerfstudio, instant-ngp and those who write like them: OpenGL axes, camera-to-world."""

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from jog3r.data.camera_formats.posed_frames import MAX_DISTORTION, PosedFrames, frames_of, matrix_of, number_of
from jog3r.data.local_files import natural_key

__all__ = ["read_transforms_json"]

OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
PERSPECTIVE = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")
BROWN, FISHEYE = ("k1", "k2", "p1", "p2", "k3"), ("k1", "k2", "k3", "k4")  # coefficients in OpenCV's order
LENS_NAMES = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
# Lenses that instant-ngp states by flags of their own.
OTHER_LENSES = ("equirectangular", "latlong", "orthographic", "ftheta_p0")


def read_transforms_json(path: str | PathLike[str], image_folder: str | None = None) -> PosedFrames:
    """Read a transforms.json; intrinsics and lens stand there for all frames, or for each.

    Args:
        path: of the file.
        image_folder: see `PosedFolders`.

    Raises:
        ValueError: no such file, a number that is missing, or a lens that is neither Brown-Conrady nor OpenCV's fisheye.
    """
    path = Path(path)
    document, frames = frames_of(path)
    for number, frame in enumerate(frames):
        if not isinstance(frame.get("file_path"), str):
            raise ValueError(f"{str(path)!r}: frame {number} of the list has no 'file_path' of its picture")
    frames = sorted(frames, key=lambda frame: natural_key(frame["file_path"]))
    poses, matrices, sizes, distortion, fisheye = [], [], [], [], []
    for frame in frames:
        where = f"{str(path)!r}, frame {frame['file_path']!r}"
        poses.append(matrix_of(frame, "transform_matrix", 4, where) @ OPENGL_TO_OPENCV)
        camera = {**document, **frame}
        fl_x = number_of(camera, "fl_x", "the focal length in pixels", where)
        fl_y = number_of(camera, "fl_y", "the focal length in pixels", where) if "fl_y" in camera else fl_x
        cx, cy = (number_of(camera, name, "the principal point in pixels", where) for name in ("cx", "cy"))
        matrices.append([[fl_x, 0, cx], [0, fl_y, cy], [0, 0, 1]])
        sizes.append(
            [number_of(camera, "h", "the height in pixels", where), number_of(camera, "w", "the width in pixels", where)]
        )
        coefficients, is_fisheye = _lens(document, frame, where)
        distortion.append(coefficients)
        fisheye.append(is_fisheye)
    return PosedFrames(
        np.stack(poses),
        np.array(matrices),
        np.array(sizes),
        images=tuple(_image(path.parent / frame["file_path"], image_folder) for frame in frames),
        video=None,
        distortion=np.array(distortion),
        fisheye=np.array(fisheye),
        depths=_depths(path, frames),
        depth_scale=number_of({"depth_unit_scale_factor": 1e-3, **document}, "depth_unit_scale_factor", "", repr(str(path))),
    )


def _lens(document: dict[str, Any], frame: dict[str, Any], where: str) -> tuple[list[float], bool]:
    """Coefficients of a frame's lens, and whether it is a fisheye; what the frame says goes before what the file says."""
    camera = {**document, **frame}
    other = [name for name in OTHER_LENSES if camera.get(name) not in (None, False)]
    if other:
        raise ValueError(f"{where} has the lens {other[0]!r}, which is no perspective picture; render one first")
    fisheye = camera.get("is_fisheye", False)
    if not isinstance(fisheye, bool):
        raise ValueError(f"{where}: 'is_fisheye' must be true or false, got {fisheye!r}")
    model = camera.get("camera_model", "OPENCV_FISHEYE" if fisheye else "OPENCV")
    if model == "OPENCV_FISHEYE":
        fisheye = True
    elif model not in PERSPECTIVE:
        raise ValueError(
            f"{where} has camera_model {model!r}; undistort the images first "
            f"(supported: {', '.join(PERSPECTIVE)}, OPENCV_FISHEYE)"
        )
    elif fisheye:
        raise ValueError(f"{where} has camera_model {model!r} and is_fisheye; correct one of them")
    names = FISHEYE if fisheye else BROWN
    values = {name: number_of(camera, name, "", where) if name in camera else 0.0 for name in LENS_NAMES}
    unread = [name for name, value in values.items() if value and name not in names]
    if unread:
        lens = "a fisheye lens" if fisheye else f"the lens {model}"
        raise ValueError(f"{where} has {', '.join(unread)}, which {lens} does not have; undistort the images first")
    coefficients = [values[name] for name in names]
    return coefficients + [0.0] * (MAX_DISTORTION - len(names)), fisheye


def _depths(path: Path, frames: list[dict[str, Any]]) -> tuple[Path, ...] | None:
    named = [frame.get("depth_file_path") for frame in frames]
    if not any(named):
        return None
    missing = [frame["file_path"] for frame, name in zip(frames, named, strict=True) if not isinstance(name, str)]
    if missing:
        raise ValueError(
            f"{str(path)!r}: {len(missing)} of {len(frames)} frames have no 'depth_file_path', the first {missing[0]!r}; "
            "state it for all frames or for none"
        )
    return tuple(path.parent / str(name) for name in named)


def _image(path: Path, image_folder: str | None) -> Path:
    return path if image_folder is None else path.parent.parent / image_folder / path.name
