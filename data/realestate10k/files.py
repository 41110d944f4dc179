"""RealEstate10K as files: official camera files, and frames of the user's.

The data set holds cameras only (CC BY 4.0, Google); the videos belong to their owners, are not redistributed, and have to be
supplied by the user.
"""

from collections.abc import Iterator
from os import PathLike
from pathlib import Path

import numpy as np

from jog3r.data.local_files import is_hidden, visible_files, warn_unread
from jog3r.data.realestate10k.base import RealEstate10KSource
from jog3r.data.realestate10k.camera_files import CameraFile, read_camera_file
from jog3r.data.realestate10k.lists import VIDEO_SUFFIXES, Re10kEntry, read_split
from jog3r.data.recordings.pictures import IMAGE_SUFFIXES, picture_files
from jog3r.data.source import read_image
from jog3r.data.video_stream import stream_video

__all__ = ["RealEstate10K"]


class RealEstate10K(RealEstate10KSource):
    """RealEstate10K as a source of posed videos; depth is unknown.

    Images are read as they are stored, without turning them as EXIF says: their cameras were found so.

    Args:
        cameras: folder of official camera files, `<name>.txt`.
        frames: folder that holds for each name a video of exactly the frames of its camera file, or a folder of images: named by
            their times in microseconds as in the file (more of them may be there), or as many as the file has lines.
        size: (H, W) to resize to; None leaves the frames as they are.
        captions: see `read_captions`; None if the split list has them.
        split: see `read_split`; None takes all camera files in the order of their names.
        resize_mode: "stretch" (the paper's squares) or "crop".
        default_caption: of clips that have none; None refuses them.
        frame_step: take every n-th frame, from the first.

    Raises:
        ValueError: a list or folder that is missing, or empty.
    """

    def __init__(
        self,
        cameras: str | PathLike[str],
        frames: str | PathLike[str],
        size: tuple[int, int] | None,
        captions: str | PathLike[str] | None = None,
        split: str | PathLike[str] | None = None,
        resize_mode: str = "stretch",
        default_caption: str | None = None,
        frame_step: int = 1,
    ):
        super().__init__(size, captions, resize_mode, default_caption, frame_step)
        cameras, frames = Path(cameras), Path(frames)
        for folder in (cameras, frames):
            if not folder.is_dir():
                raise ValueError(f"{str(folder)!r} is no folder")
        if split is None:
            self._entries = [Re10kEntry(path.stem, path) for path in sorted(visible_files(cameras, (".txt",)))]
        else:
            self._entries = read_split(split, frames, cameras)
        if not self._entries:
            raise ValueError(f"{str(cameras)!r} holds no camera files (*.txt)")
        if split is None:
            names = {entry.name for entry in self._entries}
            found = [path for path in frames.iterdir() if not is_hidden(path.name)]
            spare = [path.name for path in found if path.suffix.lower() in VIDEO_SUFFIXES and path.stem not in names]
            folders = [path for path in found if path.name not in names and path.is_dir()]
            spare += [path.name for path in folders if visible_files(path, IMAGE_SUFFIXES)]
            if spare:
                warn_unread("videos or folders of images have no camera file", sorted(spare))
        self._frames = frames
        self.names = [entry.name for entry in self._entries]

    def _own_caption(self, index: int) -> str | None:
        return self._entries[index].caption

    def _cameras(self, index: int) -> CameraFile:
        entry = self._entries[index]
        self._find(entry)
        return read_camera_file(entry.cameras)

    def _read(self, index: int) -> tuple[CameraFile, Iterator[np.ndarray | None]]:
        cameras, path = self._cameras(index), self._find(self._entries[index])
        if path.is_dir():
            return cameras, self._every(_images(path, cameras), read_image)
        return cameras, iter(stream_video(path))

    def _find(self, entry: Re10kEntry) -> Path:
        if entry.frames is not None:
            candidates = [entry.frames]
        else:
            candidates = [self._frames / entry.name, *(self._frames / f"{entry.name}{suffix}" for suffix in VIDEO_SUFFIXES)]
        for path in candidates:
            if path.exists():
                return path
        raise ValueError(f"the frames of clip {entry.name!r} are missing: no folder {entry.name!r} and no video of that name")


def _images(folder: Path, cameras: CameraFile) -> list[Path]:
    """The images of a clip, in order."""
    found = picture_files(folder)
    numbered = [path for path in found if path.stem.isdecimal()]
    by_time = {int(path.stem): path for path in numbered}
    times = cameras.timestamps.tolist()
    # Numbered or named otherwise: one image a line, in order. One number may be a time by chance, as 0 of the first image is.
    if len(by_time.keys() & {*times}) < min(2, len(times)):
        return found
    if len(by_time) < len(numbered):
        twice = next(path for path in numbered if by_time[int(path.stem)] != path)
        raise ValueError(f"{str(folder)!r} holds two images of the time {int(twice.stem)} us, one of them {twice.name!r}")
    missing = [time for time in times if time not in by_time]
    if missing:
        raise ValueError(f"{str(folder)!r} lacks {len(missing)} of {len(times)} frames, the first at {missing[0]} us")
    return [by_time[time] for time in times]
