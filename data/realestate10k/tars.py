"""RealEstate10K clips packed into WebDataset tars: `<clip>.mp4`, `<clip>.txt` (camera file), `<clip>.json` with the caption.

The tars are read in place: their headers are listed once, a clip is then two reads at known places. Local files, in any number.
"""

import tarfile
from collections.abc import Iterator
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from jog3r.data.local_files import is_hidden, visible_files, warn_unread
from jog3r.data.realestate10k.base import RealEstate10KSource, stream_bytes
from jog3r.data.realestate10k.camera_files import CameraFile, parse_camera_file
from jog3r.data.realestate10k.lists import VIDEO_SUFFIXES, read_caption

__all__ = ["RealEstate10KTars", "Sample", "list_tars"]

CAMERAS, CAPTION = ".txt", ".json"
COMPRESSED = (".gz", ".tgz", ".bz2", ".xz", ".zst")
_BLOCK = 512  # bytes, of which tars are made


class _Place(NamedTuple):
    tar: Path
    offset: int
    size: int

    def read(self) -> bytes:
        with self.tar.open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise ValueError(f"{self.tar.name!r} is cut off: {len(content)} of {self.size} bytes at {self.offset}; copy it again")
        return content


class Sample(NamedTuple):
    """Where the parts of a clip are; each None if the clip lacks it."""

    video: _Place | None
    cameras: _Place | None
    caption: _Place | None


class RealEstate10KTars(RealEstate10KSource):
    """Tars as a source of posed videos; depth is unknown.

    A clip is what has a video or a camera file; one that lacks the other is refused when it is its turn. What belongs to no clip
    is named in the log; hidden files (`.DS_Store`, `._clip.mp4`) are ignored.

    Args:
        folder: of `*.tar`, or one tar. The clips are in the order of the tars' names, then as they are packed.
        size: (H, W) to resize to; None leaves the frames as they are.
        captions: json of captions by clip, for samples without one; see `read_captions`.
        resize_mode: "stretch" or "crop".
        default_caption: of clips that have none; None refuses them.
        frame_step: take every n-th frame, from the first.

    Raises:
        ValueError: no tars, one that cannot be read, is cut off or compressed, or a name that stands there twice.
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        size: tuple[int, int] | None,
        captions: str | PathLike[str] | None = None,
        resize_mode: str = "stretch",
        default_caption: str | None = None,
        frame_step: int = 1,
    ):
        super().__init__(size, captions, resize_mode, default_caption, frame_step)
        self._samples = list_tars(Path(folder))
        self.names = list(self._samples)

    def _own_caption(self, index: int) -> str | None:
        name = self.names[index]
        place = self._samples[name].caption
        return None if place is None else read_caption(place.read(), name)

    def _cameras(self, index: int) -> CameraFile:
        name = self.names[index]
        sample = self._samples[name]
        if sample.video is None:
            raise ValueError(f"clip {name!r} has no video ({', '.join(VIDEO_SUFFIXES)}) beside its camera file")
        if sample.cameras is None:
            raise ValueError(f"clip {name!r} has no camera file ({CAMERAS}) beside its video")
        return parse_camera_file(sample.cameras.read().decode("utf-8", errors="replace"), f"{name}{CAMERAS}")

    def _read(self, index: int) -> tuple[CameraFile, Iterator[np.ndarray | None]]:
        name = self.names[index]
        cameras, video = self._cameras(index), self._samples[name].video
        return cameras, stream_bytes(b"" if video is None else video.read(), name)


def list_tars(folder: Path) -> dict[str, Sample]:
    """The clips of all tars of a folder, or of one tar, by name, in the order of the tars' names, then as they are packed.

    Raises:
        ValueError: see `RealEstate10KTars`.
    """
    tars = [folder] if folder.is_file() else sorted(visible_files(folder, (".tar",))) if folder.is_dir() else []
    packed = [] if folder.is_file() or not folder.is_dir() else visible_files(folder, COMPRESSED)
    if packed:
        raise ValueError(f"{str(packed[0])!r} is compressed; unpack it to a plain tar (gunzip, unzstd, ...), or move it away")
    if not tars:
        raise ValueError(f"{str(folder)!r} holds no tar files (*.tar)")
    samples: dict[str, Sample] = {}
    for path in tars:
        for name, sample in _list_tar(path).items():
            if name in samples:
                raise ValueError(f"clip {name!r} stands in {str(path)!r} and before; names must be unique")
            samples[name] = sample
    if not samples:
        raise ValueError(f"{str(folder)!r} holds no clips: no file in its tars is a video or a camera file ({CAMERAS})")
    return samples


def _list_tar(path: Path) -> dict[str, Sample]:
    """A clip's name is the whole name of its files in front of their suffix, so that it may hold dots."""
    parts: dict[str, dict[str, _Place]] = {}
    strays = []
    for member in _members(path):
        file = PurePosixPath(member.name)
        suffix = file.suffix.lower()
        if member.isdir() or any(is_hidden(part) and part != ".." for part in file.parts):
            continue
        if not member.isfile() or suffix not in (*VIDEO_SUFFIXES, CAMERAS, CAPTION):
            strays.append(member.name)
            continue
        places = parts.setdefault(str(file.with_suffix("")), {})
        if suffix in places:
            raise ValueError(f"{str(path)!r} holds {member.name!r} twice; names must be unique")
        places[suffix] = _Place(path, member.offset_data, member.size)
    samples = {}
    for name, places in parts.items():
        videos = [suffix for suffix in VIDEO_SUFFIXES if suffix in places]
        if len(videos) > 1:
            raise ValueError(f"{str(path)!r}: clip {name!r} has {len(videos)} videos ({', '.join(videos)}); one is needed")
        whole = bool(videos) and CAMERAS in places
        # Of a.mp4, a.txt and a.caption.txt, the last is a companion; without a clip "a" it is a clip that lacks its video.
        companion = not whole and any(parent in parts for parent in _shorter(name))
        if companion or not (videos or CAMERAS in places):
            strays += [f"{name}{suffix}" for suffix in places]
        else:
            samples[name] = Sample(places[videos[0]] if videos else None, places.get(CAMERAS), places.get(CAPTION))
    if strays:
        warn_unread(f"files of {path.name} belong to no clip", strays)
    return samples


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    """What a tar holds; `ValueError` if it is damaged, or if it may not be all of it."""
    end, last = 0, ""
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.issparse():
                    raise ValueError(f"{str(path)!r}: {member.name!r} is stored as a sparse file; pack it without --sparse")
                last, end = member.name, member.offset_data
                if member.isreg() or member.type not in tarfile.SUPPORTED_TYPES:
                    end += -(-member.size // _BLOCK) * _BLOCK
                yield member
    except (tarfile.TarError, OSError) as error:
        raise ValueError(
            f"{str(path)!r} is no readable tar ({error}); copy it again, or unpack it first if it is compressed"
        ) from error
    _check_end(path, end, last)


def _shorter(name: str) -> list[str]:
    """The name cut before each of its dots."""
    folder, slash, last = name.rpartition("/")
    words = last.split(".")
    return [f"{folder}{slash}{'.'.join(words[:count])}" for count in range(1, len(words))]


def _check_end(path: Path, end: int, last: str) -> None:
    """Behind the last file come zeros, which say that the tar is complete; `tarfile` takes anything else for the end, too."""
    with path.open("rb") as file:
        file.seek(end)
        if len(block := file.read(_BLOCK)) < _BLOCK:
            raise ValueError(
                f"{str(path)!r} is cut off behind {last!r}: the zeros that end a tar are missing, so clips may be; copy it "
                f"again, or if nothing is missing (its writer was not closed) run: truncate -s +{2 * _BLOCK} {path.name}"
            )
        if any(block):
            raise ValueError(f"{str(path)!r} is damaged at byte {end}, behind {last!r}; copy it again")
        while block := file.read(1 << 20):
            if any(block):
                raise ValueError(f"{str(path)!r} goes on behind its end: several tars were joined to one; give each as a file")
