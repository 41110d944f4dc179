"""RealEstate10K clips packed into WebDataset tars: `<clip>.mp4`, `<clip>.txt` (camera file), `<clip>.json` with the caption.

The tars are read in place: their headers are listed once, a clip is then two reads at known places. Local files, in any number.
"""

import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from jog3r.data.clip import Clip
from jog3r.data.realestate10k.files import (
    VIDEO_SUFFIXES,
    CameraFile,
    parse_camera_file,
    posed_clip,
    read_caption,
    read_captions,
    read_posed_bytes,
)  # fmt: skip
from jog3r.data.source import check_resize_mode, list_hash

__all__ = ["RealEstate10KTars"]

_Place = tuple[Path, int, int]  # tar, offset, bytes


class RealEstate10KTars:
    """Tars as a source of posed videos; depth is unknown.

    Args:
        folder: of `*.tar`, or one tar. The clips are in the order of the tars' names, then as they are packed.
        size: (H, W) to resize to.
        captions: json of captions by clip, for samples without one; see `read_captions`.
        resize_mode: "stretch" or "crop".
        default_caption: of clips that have none; None refuses them.

    Raises:
        ValueError: no tars, one that cannot be read, or a name that stands there twice.
    """

    def __init__(
        self,
        folder: Path,
        size: tuple[int, int],
        captions: Path | None = None,
        resize_mode: str = "stretch",
        default_caption: str | None = None,
    ):
        tars = [folder] if folder.is_file() else sorted(folder.glob("*.tar"))
        if not tars:
            raise ValueError(f"{str(folder)!r} holds no tar files (*.tar)")
        check_resize_mode(resize_mode)
        self._samples: dict[str, dict[str, _Place]] = {}
        for path in tars:
            for key, parts in _list_samples(path).items():
                if key in self._samples:
                    raise ValueError(f"clip {key!r} stands in {str(path)!r} and before; names must be unique")
                self._samples[key] = parts
        self.names: Sequence[str] = [key for key, parts in self._samples.items() if _video_part(parts)]
        self._captions = {} if captions is None else read_captions(captions)
        self._mode, self._default = resize_mode, default_caption
        self.size = size

    def captions(self, index: int) -> tuple[str, str]:
        """The clip's caption, the same for both directions."""
        name = self.names[index]
        place = self._samples[name].get(".json")
        caption = None if place is None else read_caption(_read(place), name)
        if caption is None:
            caption = self._captions.get(name, self._captions.get(PurePosixPath(name).name, self._default))
        if caption is None:
            raise ValueError(f"no caption for clip {name!r}")
        return caption, caption

    def expected_frames(self, index: int) -> int:
        """Lines of the camera file; `ValueError` if there is none."""
        return len(self._cameras(self.names[index]).timestamps)

    def load(self, index: int) -> Clip:
        """All frames of a clip; `ValueError` if something of it is missing or damaged."""
        name = self.names[index]
        parts, cameras = self._samples[name], self._cameras(name)
        suffix = str(_video_part(parts))
        frames, intrinsics = read_posed_bytes(_read(parts[suffix]), suffix, cameras, self.size, self._mode)
        return posed_clip(frames, intrinsics, cameras, name, self.captions(index)[0])

    def settings(self) -> dict[str, Any]:
        """Kind, list and resizing."""
        return {"kind": "realestate10k", "list_sha256": list_hash(self.names), "resize_mode": self._mode}

    def _cameras(self, name: str) -> CameraFile:
        parts = self._samples[name]
        if ".txt" not in parts:
            raise ValueError(f"clip {name!r} has no camera file (.txt) beside its video")
        return parse_camera_file(_read(parts[".txt"]).decode("utf-8", errors="replace"), f"{name}.txt")


def _list_samples(path: Path) -> dict[str, dict[str, _Place]]:
    """Key -> suffix -> place; a WebDataset's key ends at the first dot of the file's name."""
    samples: dict[str, dict[str, _Place]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isfile():
                    name = PurePosixPath(member.name)
                    stem, _, suffix = name.name.partition(".")
                    key = str(name.with_name(stem))
                    samples.setdefault(key, {})[f".{suffix.lower()}"] = (path, member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"{str(path)!r} is no readable tar ({error}); compressed ones have to be unpacked first") from error
    return samples


def _video_part(parts: dict[str, _Place]) -> str | None:
    return next((suffix for suffix in VIDEO_SUFFIXES if suffix in parts), None)


def _read(place: _Place) -> bytes:
    path, offset, size = place
    with path.open("rb") as file:
        file.seek(offset)
        content = file.read(size)
    if len(content) < size:
        raise ValueError(f"{path.name!r} is cut off: {len(content)} of {size} bytes at {offset}")
    return content
