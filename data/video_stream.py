"""The one frame stream behind every entrance: frames of a recording of any length, one at a time, with their times."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jog3r.data.recordings.animated_picture import AnimatedPicture
from jog3r.data.recordings.picture_folder import PictureFolder
from jog3r.data.recordings.resizing import check_size, fit_frame
from jog3r.data.recordings.shots import DEFAULT_LIMITS, Recording, VideoLimits
from jog3r.data.recordings.video_file import VideoFile

__all__ = ["EndsEarly", "FrameStream", "stream_video"]

_NO_END = 2**62


class EndsEarly(ValueError):
    """Frames were asked for by their numbers that the recording does not have; `count` is how many it has."""

    def __init__(self, path: Path, count: int, asked: int) -> None:
        super().__init__(f"{str(path)!r} has {count} frames; there is no frame {asked} (counted from 0)")
        self.count = count


@dataclass(frozen=True)
class Resizing:
    """Size (height, width) that frames are brought to, None for their own; and "stretch" or "crop"."""

    size: tuple[int, int] | None = None
    mode: str = "stretch"

    def __post_init__(self) -> None:
        """Refuse sizes and modes that do not exist."""
        height, width = self.size or (1, 1)
        check_size(height, width, self.mode)


class FrameStream:
    """Selected frames of a video file, an animated picture or a folder of pictures; may be iterated again.

    Frames are shown as players show them: turned and mirrored by their display matrix or EXIF orientation, with square pixels.

    Attributes:
        path: file or folder.
        fps: frames per second after the stride, the mean where the rate varies.
        expected_frames: how many frames of the selection to expect; 0 if unknown.
        counted: `expected_frames` is a count that the file states, not an estimate from its duration.
    """

    def __init__(
        self, path: str | os.PathLike[str], selection: range | Sequence[int], resizing: Resizing, limits: VideoLimits
    ) -> None:
        self.path, self._selection, self._resizing = Path(path), selection, resizing
        self._recording = _recording(self.path, limits)
        self.fps = self._recording.fps
        self.counted, self.expected_frames = self._recording.counted, len(selection) if not isinstance(selection, range) else 0
        if isinstance(selection, range):
            self.fps /= selection.step
            self.expected_frames = len(
                range(selection.start, min(self._recording.expected_frames, selection.stop), selection.step)
            )

    @property
    def names(self) -> list[str] | None:
        """Of the chosen pictures of a folder; None of a video."""
        if not isinstance(self._recording, PictureFolder):
            return None
        names, chosen = self._recording.names, self._selection
        return names[chosen.start : chosen.stop : chosen.step] if isinstance(chosen, range) else [names[k] for k in chosen]

    def __length_hint__(self) -> int:
        """`expected_frames`."""
        return self.expected_frames

    def __iter__(self) -> Iterator[np.ndarray]:
        """The frames in order, each (H, W, 3) uint8 RGB; errors as `timed`."""
        return (frame for _, frame in self.timed())

    def timed(self) -> Iterator[tuple[float, np.ndarray]]:
        """Time in seconds (the file's own clock; of a folder: place / `FOLDER_FPS`) and frame (H, W, 3) uint8 RGB, in order.

        Raises:
            ValueError: the file is damaged or cut off, a picture cannot be read, or the frames differ in size and no size was
                asked for.
        """
        selection, shape, number = self._selection, None, -1
        wanted = selection if isinstance(selection, range) else frozenset(selection)
        last = selection.stop - 1 if isinstance(selection, range) else max(selection)
        for number, shot in enumerate(self._recording.shots()):
            if number in wanted:
                frame = fit_frame(shot.picture(), shot.aspect, self._resizing.size, self._resizing.mode)
                if shape not in (None, frame.shape):
                    raise ValueError(
                        f"the frames of {str(self.path)!r} differ in size: {shot.name} is {frame.shape[1]} x {frame.shape[0]}, "
                        f"those before are {shape[1]} x {shape[0]}; bring them to one size (size=(height, width) in Python)"
                    )
                shape = frame.shape
                yield shot.time, frame
            if number >= last:
                return
        if not isinstance(selection, range):
            raise EndsEarly(self.path, number + 1, last)


def _recording(path: Path, limits: VideoLimits) -> Recording:
    try:
        if not path.exists():
            if re.match(r"[a-z]+:/", str(path)):
                raise ValueError(f"{str(path)!r} is an address; download the video first, and give its path")
            raise ValueError(f"{str(path)!r} does not exist; give the path of a video file or of a folder of images")
        if path.is_dir():
            return PictureFolder(path, limits)
        return AnimatedPicture(path, limits) if AnimatedPicture.knows(path) else VideoFile(path, limits)
    except OSError as error:  # a name that is too long, no permission
        raise ValueError(f"{str(error.filename or path)!r} cannot be read: {error.strerror}") from error


def stream_video(
    path: str | os.PathLike[str],
    *,
    stride: int = 1,
    start: int = 0,
    stop: int | None = None,
    size: tuple[int, int] | None = None,
    resize_mode: str = "stretch",
    limits: VideoLimits = DEFAULT_LIMITS,
) -> FrameStream:
    """Frames `start:stop:stride` of a video file or of a folder of images; see `read_video` for the arguments.

    Raises:
        ValueError: the file is missing, empty or no video, a limit is passed, or an argument is out of range; while iterating
            also what is found only then.
    """
    if stride < 1:
        raise ValueError(f"stride must be at least 1, got {stride}")
    if start < 0 or (stop is not None and stop <= start):
        raise ValueError(f"need 0 <= start < stop, got start={start}, stop={stop}")
    return FrameStream(path, range(start, _NO_END if stop is None else stop, stride), Resizing(size, resize_mode), limits)
