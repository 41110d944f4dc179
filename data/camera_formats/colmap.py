"""COLMAP's sparse models, text and binary: world-to-camera quaternions (w x y z) and translations, cameras with their lens.

The formats are described in COLMAP's documentation ("Output Format"). Points, rigs and frames are not needed and not read.
"""

import struct
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import torch

from jog3r.data.camera_formats.posed_frames import MAX_DISTORTION, PosedFrames
from jog3r.data.local_files import natural_key
from jog3r.geometry.cameras import rotation_from_quaternion_wxyz

__all__ = ["read_colmap"]


@dataclass(frozen=True)
class _Model:
    """A camera model of COLMAP.

    Attributes:
        number: in binary files.
        num_params: how many parameters it has.
        pinhole: places of fx, fy, cx, cy among them; None: the lens is not supported.
        lens: places of the coefficients in OpenCV's order.
        fisheye: whether they are those of OpenCV's fisheye model.
    """

    number: int
    num_params: int
    pinhole: tuple[int, int, int, int] | None = None
    lens: tuple[int, ...] = ()
    fisheye: bool = False


_ONE, _TWO = (0, 0, 1, 2), (0, 1, 2, 3)  # one focal length or two
MODELS = {
    "SIMPLE_PINHOLE": _Model(0, 3, _ONE),
    "PINHOLE": _Model(1, 4, _TWO),
    "SIMPLE_RADIAL": _Model(2, 4, _ONE, (3,)),
    "RADIAL": _Model(3, 5, _ONE, (3, 4)),
    "OPENCV": _Model(4, 8, _TWO, (4, 5, 6, 7)),
    "OPENCV_FISHEYE": _Model(5, 8, _TWO, (4, 5, 6, 7), fisheye=True),
    "FULL_OPENCV": _Model(6, 12, _TWO, (4, 5, 6, 7, 8, 9, 10, 11)),
    "FOV": _Model(7, 5),
    "SIMPLE_RADIAL_FISHEYE": _Model(8, 4, _ONE, (3,), fisheye=True),
    "RADIAL_FISHEYE": _Model(9, 5, _ONE, (3, 4), fisheye=True),
    "THIN_PRISM_FISHEYE": _Model(10, 12),
    "RAD_TAN_THIN_PRISM_FISHEYE": _Model(11, 16),
    "SIMPLE_DIVISION": _Model(12, 4),
    "DIVISION": _Model(13, 5),
    "SIMPLE_FISHEYE": _Model(14, 3, _ONE, fisheye=True),
    "FISHEYE": _Model(15, 4, _TWO, fisheye=True),
    "EUCM": _Model(16, 6),
    "EQUIRECTANGULAR": _Model(17, 2),
}
_BY_NUMBER = {model.number: name for name, model in MODELS.items()}


@dataclass(frozen=True)
class _Camera:
    model: str
    width: float
    height: float
    params: tuple[float, ...]


@dataclass(frozen=True)
class _Image:
    name: str
    camera: int
    quaternion: tuple[float, ...]
    """(4,) w x y z, world to camera."""
    translation: tuple[float, ...]
    """(3,) world to camera."""


def read_colmap(path: str | PathLike[str], images: str | PathLike[str]) -> PosedFrames:
    """Read a sparse model.

    Args:
        path: its images.bin or images.txt; cameras.bin or cameras.txt lies beside it.
        images: folder of the pictures.

    Raises:
        ValueError: a file that is missing or damaged, or an image whose lens is neither Brown-Conrady nor OpenCV's fisheye.
    """
    path, images = Path(path), Path(images)
    cameras_path = path.with_name(f"cameras{path.suffix}")
    for file in (path, cameras_path):
        if not file.is_file():
            raise ValueError(f"{str(file)!r} is missing; a COLMAP model needs images{path.suffix} and cameras{path.suffix}")
    if path.suffix == ".bin":
        cameras, found = _binary_cameras(_Bytes(cameras_path)), _binary_images(_Bytes(path))
    else:
        cameras, found = _text_cameras(cameras_path), _text_images(path)
    found = sorted(found, key=lambda image: natural_key(image.name))
    lost = next((image for image in found if image.camera not in cameras), None)
    if lost is not None:
        raise ValueError(f"{str(path)!r}: image {lost.name!r} has camera {lost.camera}, which {cameras_path.name} does not hold")
    used = [cameras[image.camera] for image in found]
    lenses = [_lens(camera, cameras_path) for camera in used]
    return PosedFrames(
        _cam_to_world(found, path),
        np.array([lens[0] for lens in lenses]).reshape(-1, 3, 3),
        np.array([[camera.height, camera.width] for camera in used], dtype=np.float64).reshape(-1, 2),
        images=tuple(images / image.name for image in found),
        video=None,
        distortion=np.array([lens[1] for lens in lenses]).reshape(-1, MAX_DISTORTION),
        fisheye=np.array([MODELS[camera.model].fisheye for camera in used], dtype=bool),
    )


def _cam_to_world(images: list[_Image], path: Path) -> np.ndarray:
    """Camera-to-world poses (F, 4, 4)."""
    quaternions = np.array([image.quaternion for image in images], dtype=np.float64).reshape(-1, 4)
    wrong = ~(np.linalg.norm(quaternions, axis=1) > 0)  # written so that NaN counts as wrong, too
    if wrong.any():
        raise ValueError(f"{str(path)!r}: the quaternion of image {images[int(wrong.argmax())].name!r} has no length")
    rotation = rotation_from_quaternion_wxyz(torch.from_numpy(quaternions)).numpy().transpose(0, 2, 1)  # camera to world
    translation = np.array([image.translation for image in images], dtype=np.float64).reshape(-1, 3)
    poses = np.tile(np.eye(4), (len(images), 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = rotation, -(rotation @ translation[..., None])[..., 0]
    return poses


def _lens(camera: _Camera, path: Path) -> tuple[list[list[float]], list[float]]:
    """Intrinsics (3, 3) in the edge grid, and coefficients in OpenCV's order."""
    model = MODELS[camera.model]
    if model.pinhole is None:
        supported = ", ".join(name for name, other in MODELS.items() if other.pinhole is not None)
        raise ValueError(
            f"{str(path)!r} has a camera model {camera.model!r}; run `colmap image_undistorter` first (supported: {supported})"
        )
    fx, fy, cx, cy = (camera.params[place] for place in model.pinhole)
    coefficients = [camera.params[place] for place in model.lens]
    return [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], coefficients + [0.0] * (MAX_DISTORTION - len(coefficients))


# Text


def _lines(path: Path) -> list[str]:
    # Names are bytes to the file system: those that are not UTF-8 must come back to it as they were.
    text = path.read_bytes().decode("utf-8", errors="surrogateescape")
    return [line.strip() for line in text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")]


def _text_cameras(path: Path) -> dict[int, _Camera]:
    cameras = {}
    for number, line in enumerate(_lines(path), 1):
        if not line or line.startswith("#"):
            continue
        words = line.split()
        where = f"{str(path)!r}, line {number}"
        if len(words) < 4 or words[1] not in MODELS:
            raise ValueError(f"{where} has no camera model that COLMAP knows: {line[:60]!r}")
        try:
            camera, params = int(words[0]), tuple(float(word) for word in words[4:])
            width, height = float(words[2]), float(words[3])
        except ValueError as error:
            raise ValueError(f"{where} is no camera of COLMAP ({error})") from error
        if len(params) != MODELS[words[1]].num_params:
            raise ValueError(f"{where}: {words[1]} has {MODELS[words[1]].num_params} parameters, got {len(params)}")
        if camera in cameras:
            raise ValueError(f"{where}: camera {camera} stands there twice")
        cameras[camera] = _Camera(words[1], width, height, params)
    return cameras


def _text_images(path: Path) -> list[_Image]:
    """As COLMAP reads it: comments and empty lines before an image are skipped; the line behind it, is its points."""
    images: dict[int, _Image] = {}
    before = None  # the image whose points come next
    for number, line in enumerate(_lines(path), 1):
        where = f"{str(path)!r}, line {number}"
        if before is not None:
            # COLMAP itself takes whatever stands here for points: an image would be lost without a word.
            if not line.startswith("#") and not _are_points(line.split()):
                raise ValueError(
                    f"{where} should be the points of image {before!r} (empty if it has none), got {line[:60]!r}; "
                    "put an empty line behind each image"
                )
            before = None
        elif line and not line.startswith("#"):
            words = line.split(maxsplit=9)
            try:
                image, camera, values = int(words[0]), int(words[8]), tuple(float(word) for word in words[1:8])
                found = _Image(words[9], camera, values[:4], values[4:])
            except (ValueError, IndexError) as error:
                raise ValueError(f"{where} is no image of COLMAP (id, 4 + 3 numbers, camera, name): {line[:60]!r}") from error
            if image in images:
                raise ValueError(f"{where}: image {image} stands there twice")
            images[image], before = found, found.name
    return list(images.values())


def _are_points(words: list[str]) -> bool:
    """Whether these are x, y and id of points, by threes."""
    try:
        return len([float(word) for word in words]) % 3 == 0
    except ValueError:
        return False


# Binary


class _Bytes:
    """A binary file, read from its start."""

    def __init__(self, path: Path) -> None:
        self.path, self._content, self._place = path, path.read_bytes(), 0

    def take(self, layout: str) -> tuple:
        """The next numbers, little-endian, in the letters of `struct`."""
        place = self._place
        self.skip(struct.calcsize(f"<{layout}"))
        return struct.unpack_from(f"<{layout}", self._content, place)

    def skip(self, count: int) -> None:
        """Pass over bytes."""
        if self._place + count > len(self._content):
            raise ValueError(
                f"{str(self.path)!r} is cut off or no COLMAP model: {len(self._content)} bytes, more are stated; copy it again"
            )
        self._place += count

    def text(self) -> str:
        """The next text, which ends with a zero byte."""
        end = self._content.find(b"\0", self._place)
        start = self._place
        self.skip((len(self._content) if end < 0 else end) + 1 - start)
        return self._content[start:end].decode("utf-8", errors="surrogateescape")


def _binary_cameras(file: _Bytes) -> dict[int, _Camera]:
    cameras = {}
    for _ in range(file.take("Q")[0]):
        camera, number, width, height = file.take("IiQQ")
        if number not in _BY_NUMBER:
            raise ValueError(f"{str(file.path)!r}: camera {camera} has model {number}, which COLMAP's formats do not define")
        name = _BY_NUMBER[number]
        cameras[camera] = _Camera(name, width, height, file.take(f"{MODELS[name].num_params}d"))
    return cameras


def _binary_images(file: _Bytes) -> list[_Image]:
    images = []
    for _ in range(file.take("Q")[0]):
        values = file.take("I7dI")
        images.append(_Image(file.text(), values[8], values[1:5], values[5:8]))
        file.skip(24 * file.take("Q")[0])  # points: x, y, id
    return images
