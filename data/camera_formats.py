"""Camera files that come with frames: transforms.json, cameras.json, COLMAP text. All become OpenCV camera-to-world.

Pixel centres: COLMAP and nerfstudio put the first one at (0.5, 0.5), jog3r at (0, 0); converted here.
Letters: F frames, H W pixels.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jog3r.data.video import IMAGE_SUFFIXES

__all__ = ["PosedFrames", "find_cameras", "read_colmap_text", "read_cameras_json", "read_posed_frames", "read_transforms_json"]

CONVENTION = "opencv_cam_to_world"
COLMAP_FOLDERS = (".", "sparse/0", "sparse", "colmap/sparse/0", "sparse_text/0")  # the last: our own export
OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
# COLMAP camera models as indices into their parameters: fx, fy, cx, cy, then k1, k2, p1, p2 (None: 0).
COLMAP_MODELS: dict[str, tuple[tuple[int, ...], tuple[int | None, ...]]] = {
    "SIMPLE_PINHOLE": ((0, 0, 1, 2), (None, None, None, None)),
    "PINHOLE": ((0, 1, 2, 3), (None, None, None, None)),
    "SIMPLE_RADIAL": ((0, 0, 1, 2), (3, None, None, None)),
    "RADIAL": ((0, 0, 1, 2), (3, 4, None, None)),
    "OPENCV": ((0, 1, 2, 3), (4, 5, 6, 7)),
}


@dataclass(frozen=True)
class PosedFrames:
    """Cameras of F frames in their order, and where the frames are.

    Attributes:
        poses: (F, 4, 4) camera-to-world, OpenCV, any world.
        intrinsics: (F, 3, 3) for the stated size, in the *edge* grid (first pixel's centre at 0.5), which scales plainly.
        size: (F, 2) stated height and width of each frame.
        images: F files; empty if there is a video.
        video: instead of images.
        distortion: (F, 4) k1, k2, p1, p2, or None.
        depths: F files of z depth, or None.
        depth_scale: units a step of the depth files.
    """

    poses: np.ndarray
    intrinsics: np.ndarray
    size: np.ndarray
    images: tuple[Path, ...] = ()
    video: Path | None = None
    distortion: np.ndarray | None = None
    depths: tuple[Path, ...] | None = None
    depth_scale: float = 1e-3

    def intrinsics_at(self, number: int, height: int, width: int) -> np.ndarray:
        """Intrinsics (3, 3) of a frame decoded at another size of the same shape, pixel centres at integers."""
        stated_height, stated_width = self.size[number]
        scale = np.array([width / stated_width, height / stated_height])
        if abs(scale[0] / scale[1] - 1) > 0.02:  # half-pixel roundings of small copies are fine, a rotated image is not
            raise ValueError(f"frame {number} is {width} x {height} pixels, its camera says {stated_width:g} x {stated_height:g}")
        matrix = np.diag([scale[0], scale[1], 1.0]) @ self.intrinsics[number]
        matrix[:2, 2] -= 0.5
        return matrix


def find_cameras(folder: Path) -> Path | None:
    """The camera file of a folder: cameras.json, else transforms.json, else COLMAP's images.txt; None if there is none."""
    candidates = [folder / "cameras.json", folder / "transforms.json"]
    candidates += [folder / place / "images.txt" for place in COLMAP_FOLDERS]
    return next((path for path in candidates if path.is_file()), None)


def read_posed_frames(folder: Path, image_folder: str | None = None) -> PosedFrames:
    """Read whichever camera file `find_cameras` finds.

    Args:
        folder: of one video.
        image_folder: see `PosedFolders`.

    Raises:
        ValueError: no cameras, a file that is none, a lens model that is not supported, or fewer than 2 frames.
    """
    path = find_cameras(folder)
    if path is None:
        raise ValueError(f"{str(folder)!r} holds no transforms.json, cameras.json or COLMAP images.txt")
    try:
        if path.name == "cameras.json":
            posed = read_cameras_json(path)
        elif path.name == "transforms.json":
            posed = read_transforms_json(path, image_folder)
        else:
            posed = read_colmap_text(path.parent, folder / (image_folder or "images"))
    except (KeyError, IndexError, TypeError, OSError) as error:
        raise ValueError(f"{str(path)!r} is damaged or of another format ({error!r})") from error
    _check(posed, path)
    return posed


def read_transforms_json(path: Path, image_folder: str | None = None) -> PosedFrames:
    """nerfstudio's transforms.json: OpenGL axes, camera-to-world; intrinsics and distortion for all frames or for each."""
    document = _json(path)
    model = document.get("camera_model", "OPENCV")
    if model not in ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE"):
        raise ValueError(f"{str(path)!r} has camera_model {model!r}; undistort the images first (supported: OPENCV, PINHOLE)")
    frames = sorted(document["frames"], key=lambda frame: _natural(frame["file_path"]))
    matrices, sizes, distortion = [], [], []
    for frame in frames:
        camera = {**document, **frame}
        focal_x = camera["fl_x"]
        matrices.append([[focal_x, 0, camera["cx"]], [0, camera.get("fl_y", focal_x), camera["cy"]], [0, 0, 1]])
        sizes.append([camera["h"], camera["w"]])
        distortion.append([camera.get(name, 0.0) for name in ("k1", "k2", "p1", "p2")])
        if any(camera.get(name) for name in ("k3", "k4")):
            raise ValueError(f"{str(path)!r} has k3 or k4; undistort the images first")
    depths = None
    if frames and all("depth_file_path" in frame for frame in frames):
        depths = tuple(path.parent / frame["depth_file_path"] for frame in frames)
    return PosedFrames(
        np.array([frame["transform_matrix"] for frame in frames], dtype=np.float64) @ OPENGL_TO_OPENCV,
        np.array(matrices, dtype=np.float64),
        np.array(sizes, dtype=np.float64),
        images=tuple(_image(path.parent / frame["file_path"], image_folder) for frame in frames),
        distortion=np.array(distortion, dtype=np.float64),
        depths=depths,
        depth_scale=float(document.get("depth_unit_scale_factor", 1e-3)),
    )


def read_cameras_json(path: Path) -> PosedFrames:
    """jog3r's own cameras.json; the frames are `video.mp4` or the folder `images` beside it."""
    document = _json(path)
    if document["convention"] != CONVENTION:
        raise ValueError(f"{str(path)!r} has convention {document['convention']!r}, expected {CONVENTION!r}")
    frames = document["frames"]
    unknown = [number for number, frame in enumerate(frames) if not frame.get("pose_known", True)]
    if unknown:
        raise ValueError(f"{str(path)!r} has no pose for its frames {unknown}; cut the video to frames whose cameras are known")
    intrinsics = np.array([frame["intrinsics"] for frame in frames], dtype=np.float64)
    intrinsics[:, :2, 2] += 0.5
    folder, video = path.parent / "images", path.parent / "video.mp4"
    images: tuple[Path, ...] = ()
    if folder.is_dir():
        found = sorted(
            (file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES), key=lambda f: _natural(f.name)
        )
        if len(found) != len(frames):
            raise ValueError(f"{str(folder)!r} holds {len(found)} images for {len(frames)} cameras")
        images = tuple(found)
    elif not video.is_file():
        raise ValueError(f"{str(path.parent)!r} holds cameras.json, but neither video.mp4 nor images/")
    poses = np.array([frame["pose"] for frame in frames], dtype=np.float64)
    size = np.tile([float(document["height"]), float(document["width"])], (len(frames), 1))
    return PosedFrames(poses, intrinsics, size, images, None if images else video)


def read_colmap_text(folder: Path, images: Path) -> PosedFrames:
    """COLMAP's cameras.txt and images.txt: world-to-camera quaternions (w x y z) and translations."""
    cameras: dict[str, tuple[np.ndarray, list[float], list[float]]] = {}
    for words in _rows(folder / "cameras.txt"):
        if words[1] not in COLMAP_MODELS:
            raise ValueError(
                f"{str(folder / 'cameras.txt')!r} has a camera model {words[1]!r}; run `colmap image_undistorter` first "
                f"(supported: {', '.join(COLMAP_MODELS)})"
            )
        pinhole, lens = COLMAP_MODELS[words[1]]
        values = [float(word) for word in words[4:]]
        fx, fy, cx, cy = (values[place] for place in pinhole)
        matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        coefficients = [0.0 if place is None else values[place] for place in lens]
        cameras[words[0]] = (matrix, [float(words[3]), float(words[2])], coefficients)
    # Two lines an image; the second, its points, may be empty, so that empty lines count.
    lines = [line for line in (folder / "images.txt").read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    rows = sorted((line.split(maxsplit=9) for line in lines[::2] if line.strip()), key=lambda words: _natural(words[9]))
    used = [cameras[words[8]] for words in rows]
    return PosedFrames(
        np.array([_colmap_pose([float(word) for word in words[1:8]]) for words in rows]),
        np.array([camera[0] for camera in used]),
        np.array([camera[1] for camera in used]),
        images=tuple(images / words[9] for words in rows),
        distortion=np.array([camera[2] for camera in used]),
    )


def _colmap_pose(numbers: list[float]) -> np.ndarray:
    """Camera-to-world (4, 4) of a world-to-camera quaternion and translation."""
    w, x, y, z = np.array(numbers[:4]) / np.linalg.norm(numbers[:4])
    world_to_camera = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    pose = np.eye(4)
    pose[:3, :3] = world_to_camera.T
    pose[:3, 3] = -world_to_camera.T @ np.array(numbers[4:7])
    return pose


def _check(posed: PosedFrames, path: Path) -> None:
    count = len(posed.poses)
    if count < 2:
        raise ValueError(f"{str(path)!r} has {count} frames; a clip needs at least 2")
    if posed.poses.shape != (count, 4, 4) or posed.intrinsics.shape != (count, 3, 3):
        raise ValueError(f"{str(path)!r} needs 4 x 4 poses, 3 x 3 intrinsics; got {posed.poses.shape}, {posed.intrinsics.shape}")
    rotation = posed.poses[:, :3, :3]
    off = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max((1, 2))
    # Written so that NaN counts as wrong, too.
    if not ((off < 1e-3) & (np.linalg.det(rotation) > 0) & np.isfinite(posed.poses).all((1, 2))).all():
        raise ValueError(f"{str(path)!r}: the pose of a frame is no rotation and translation (largest deviation {off.max():.3g})")
    if not (posed.intrinsics[:, [0, 1], [0, 1]] > 0).all() or not (posed.size > 0).all():
        raise ValueError(f"{str(path)!r}: focal lengths and sizes must be positive")


def _image(path: Path, image_folder: str | None) -> Path:
    return path if image_folder is None else path.parent.parent / image_folder / path.name


def _json(path: Path) -> dict[str, Any]:
    document = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict):
        raise ValueError(f"{str(path)!r} must hold a json object, got a {type(document).__name__}")
    return document


def _rows(path: Path) -> list[list[str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.split() for line in lines if line.strip() and not line.startswith("#")]


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key by which frame_2 comes before frame_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name.lower())]
