"""One picture of any kind to 8-bit RGB, and the pictures of a folder in their order. Letters: H W pixels."""

import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jog3r.data.local_files import is_hidden, is_there, natural_key

__all__ = [
    "BACKGROUND",
    "IMAGE_SUFFIXES",
    "UNREADABLE",
    "check_kinds",
    "natural_key",
    "open_picture",
    "picture_files",
    "read_image",
    "rgb_array",
]

MAX_PIXELS = 8192 * 8192  # of one picture
BACKGROUND = 255  # white, as a page shows it: what lies behind transparent pixels; their hidden colours mean nothing
# Kinds that count as frames of a folder. PIL reads the first line, HEIC with a plug-in; the last two lines are refused by name.
IMAGE_SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".tga"),
    *(".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(".heic", ".heif", ".hif"),
    *(".jxl", ".exr", ".hdr", ".psd", ".svg"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".srw", ".pef"),
)
VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mts", ".m2ts", ".ts", ".3gp", ".wmv")
HEIC_PLUGINS = ("pi_heif", "pillow_heif")
ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")  # formats of PIL that may hold a sequence to be played
UNREADABLE = (  # what PIL's readers raise for damaged files
    *(UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError, EOFError, struct.error),
    *(IndexError, TypeError, KeyError, RuntimeError, OverflowError),
)
# How pictures begin, as (offset, bytes), for files whose name does not say so.
_SIGNATURES = ((0, b"\xff\xd8\xff"), (0, b"\x89PNG"), (0, b"GIF8"), (8, b"WEBP"), (4, b"ftypheic"), (4, b"ftypavif"))


def read_image(path: str | os.PathLike[str], *, upright: bool = True, max_side: int | None = None) -> np.ndarray:
    """A picture file as (H, W, 3) uint8 RGB; see `rgb_array`.

    Args:
        path: file of any kind that PIL reads; HEIC if pi-heif is installed.
        upright: turn and mirror as the EXIF orientation says; False gives the pixels as stored.
        max_side: refuse a larger width or height, in pixels.

    Raises:
        ValueError: no such file, no readable picture, an animation, or one that is too large. The message names the file.
    """
    path = Path(path)
    try:
        with open_picture(path) as image:
            if max_side is not None and max(image.size) > max_side:
                raise _Refused(
                    f"{str(path)!r} is {image.width} x {image.height} pixels, more than the {max_side} allowed a side; "
                    "scale it down first or raise VideoLimits.max_side"
                )
            if 0 in image.size:
                raise _Refused(f"{str(path)!r} is {image.width} x {image.height} pixels; remove or replace it")
            if image.width * image.height > MAX_PIXELS:
                raise _Refused(f"{str(path)!r} is {image.width} x {image.height} pixels, too large; scale it down first")
            if image.format in ANIMATED and (count := getattr(image, "n_frames", 1)) > 1:
                raise _Refused(f"{str(path)!r} is an animation of {count} pictures; give it as a video of its own")
            return rgb_array(image, upright=upright)
    except _Refused:
        raise
    except UNREADABLE as error:
        raise ValueError(f"{str(path)!r} is no readable image ({error}); remove or replace it") from error


class _Refused(ValueError):
    """Says already which file and why."""


def open_picture(path: Path, formats: Sequence[str] | None = None) -> Image.Image:
    """`PIL.Image.open`, which reads HEIC too if a plug-in for it is installed."""
    _learn_heic()
    return Image.open(path, formats=None if formats is None else list(formats))


def rgb_array(image: Image.Image, *, upright: bool = True) -> np.ndarray:
    """A PIL image of any mode as (H, W, 3) uint8 RGB.

    16-bit grey is scaled by its full range, floating point from 0..1. What is transparent shows white (`BACKGROUND`).

    Args:
        image: of any mode.
        upright: turn and mirror as the EXIF orientation says.

    Raises:
        ValueError: floating point outside 0..1, 32-bit integers (nothing tells their range), or a mode that PIL cannot convert.
    """
    if upright:
        image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        return _deep_grey(image)
    if image.mode == "La":
        image = image.convert("LA")
    if _has_transparency(image):
        _halve_deep_transparency(image)
        rgba = image.convert("RGBA")
        return np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, (BACKGROUND,) * 3 + (255,)), rgba))[..., :3].copy()
    try:
        return np.asarray(image.convert("RGB"))
    except ValueError as error:
        raise ValueError(f"a picture of mode {image.mode!r} cannot be brought to RGB ({error}); convert it first") from error


def _has_transparency(image: Image.Image) -> bool:
    return image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info


def _halve_deep_transparency(image: Image.Image) -> None:
    """PIL brings 16-bit colours to their high bytes, but leaves the transparent one among them as it is."""
    colour = image.info.get("transparency")
    if isinstance(colour, tuple) and max(colour) > 255:
        image.info["transparency"] = tuple(value >> 8 for value in colour)


def _deep_grey(image: Image.Image) -> np.ndarray:
    """Grey of 16 bits or of floating point to (H, W, 3) uint8."""
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F":
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
            raise ValueError(
                f"a floating-point picture must lie in 0..1, got {values.min():g}..{values.max():g}; scale it or save it as 8 bit"
            )
        peak = 1.0
    elif image.mode.startswith("I;16") or image.format == "PNG":  # older PIL opens 16-bit PNG as "I"
        tags = getattr(image, "tag_v2", {})
        peak = 4095.0 if tags.get(258) in (12, (12,)) else 65535.0  # 258: bits per sample
        if tags.get(262) == 0:  # white is zero
            values = peak - values
    else:
        raise ValueError(
            f"a picture of mode {image.mode!r} holds 32-bit integers ({values.min():g}..{values.max():g}), whose range nothing "
            "tells; save it with 8 or 16 bits"
        )
    transparent = image.info.get("transparency")
    grey = np.rint(values * (255 / peak)).astype(np.uint8)
    if isinstance(transparent, int):
        grey[np.asarray(image) == transparent] = BACKGROUND
    return np.repeat(grey[..., None], 3, -1)


@cache
def _learn_heic() -> None:
    for name in HEIC_PLUGINS:
        with suppress(ImportError):
            import_module(name).register_heif_opener()
            return


# Folders


def picture_files(folder: Path) -> list[Path]:
    """The pictures of a folder in the natural order of their names, those of kinds that cannot be read included.

    Hidden files (a leading dot, as `.DS_Store` and `._x.jpg`), texts and other companions, and subfolders are left out.

    Raises:
        ValueError: no pictures; a link to one that is not there; or a file among them of which one cannot tell whether it is
            meant: a video, or a picture by its content whose name does not say so.
    """
    visible = [file for file in folder.iterdir() if not is_hidden(file.name)]
    pictures = [file for file in visible if file.suffix.lower() in IMAGE_SUFFIXES and is_there(file)]
    if not pictures:
        raise ValueError(
            f"the folder {str(folder)!r} holds no images (PNG, JPEG, WebP, AVIF, TIFF and others; subfolders are not looked "
            "through); give a video file or images"
        )
    video = folder / "video.mp4"
    if video.is_file() and (folder / "cameras.json").is_file():
        raise ValueError(f"the folder {str(folder)!r} is a result of jog3r; give its video, {str(video)!r}")
    for file in sorted(file for file in visible if file.is_file()):
        suffix = file.suffix.lower()
        if suffix in VIDEO_SUFFIXES:
            raise ValueError(f"the folder {str(folder)!r} holds images and the video {file.name!r}; move one of the two away")
        if suffix not in IMAGE_SUFFIXES and _looks_like_picture(file):
            raise ValueError(
                f"{file.name!r} in {str(folder)!r} is a picture by its content, not by its name; rename it or move it away"
            )
    return sorted(pictures, key=lambda file: (natural_key(file.name), file.name))


def check_kinds(folder: Path, files: Sequence[Path]) -> None:
    """Refuse with `ValueError`, by name, the pictures of kinds that cannot be read here; nothing is opened."""
    _learn_heic()
    known = Image.registered_extensions()
    unread = [file.name for file in files if known.get(file.suffix.lower()) not in Image.OPEN]
    if unread:
        named = ", ".join(map(repr, unread[:3])) + (", ..." if len(unread) > 3 else "")
        heic = any(name.lower().endswith((".heic", ".heif", ".hif")) for name in unread)
        raise ValueError(
            f"{len(unread)} of {len(files)} images in {str(folder)!r} are of a kind that cannot be read here: {named}; convert "
            f"them to PNG or JPEG{', or pip install pi-heif (the extra heic)' if heic else ''}, or move them away"
        )


def _looks_like_picture(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(16)
    return any(head[offset : offset + len(magic)] == magic for offset, magic in _SIGNATURES)
