"""Animated pictures (GIF, PNG, WebP, AVIF) as recordings, read by PIL: FFmpeg lacks WebP and AVIF's transparency."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from jog3r.data.recordings.pictures import ANIMATED, UNREADABLE, open_picture, rgb_array
from jog3r.data.recordings.shots import Shot, VideoLimits

__all__ = ["AnimatedPicture"]

# Browsers show a frame that states 10 ms or less for as long as the second.
_SHORTEST_SECONDS, _USUAL_SECONDS = 0.0105, 0.1


class AnimatedPicture:
    """A recording in an animated picture; a still one has one frame.

    Raises:
        ValueError: damaged or cut off, or a limit is passed.
    """

    def __init__(self, path: Path, limits: VideoLimits) -> None:
        self.path, self._limits, self.counted = path, limits, True
        self.expected_frames, seconds = 0, 0.0
        for _, duration in self._images():
            self.expected_frames, seconds = self.expected_frames + 1, seconds + duration
            limits.check_seconds(path, seconds)
        self.fps = self.expected_frames / seconds

    @staticmethod
    def knows(path: Path) -> bool:
        """Whether the content is of such a kind; a still picture counts."""
        try:
            with open_picture(path, ANIMATED):
                return True
        except UnidentifiedImageError:
            return False
        except PermissionError:
            raise
        except UNREADABLE:
            return True  # the constructor says what is wrong

    def shots(self) -> Iterator[Shot]:
        """See `Recording`."""
        time = 0.0
        for number, (image, duration) in enumerate(self._images()):
            yield Shot(time, partial(self._picture, image), 1.0, f"frame {number}")
            time += duration

    def _images(self) -> Iterator[tuple[Image.Image, float]]:
        """Each frame in its turn, and how long it is shown in seconds."""
        with self._guarded(partial(open_picture, self.path, ANIMATED)) as image:
            self._limits.check_side(self.path, *image.size)
            if image.format == "GIF":
                self._check_trailer()
            hidden = int(getattr(image, "default_image", False))  # of a PNG, for programs that show no animation
            for number in range(hidden, self._guarded(lambda: getattr(image, "n_frames", 1))):
                self._guarded(partial(image.seek, number))
                self._guarded(image.load)  # WebP and AVIF know the duration of a frame only then
                yield image, _seconds(image)

    def _picture(self, image: Image.Image) -> np.ndarray:
        return self._guarded(partial(rgb_array, image))

    def _guarded(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except UNREADABLE as error:
            raise ValueError(f"{str(self.path)!r} is damaged or cut off ({error}); copy or export it again") from error

    def _check_trailer(self) -> None:
        """A GIF that is cut off between two frames looks complete, but for its last byte."""
        if not self.path.read_bytes().rstrip(b"\0").endswith(b";"):
            raise ValueError(f"{str(self.path)!r} is cut off: a GIF ends with ';'; copy or export it again")


def _seconds(image: Image.Image) -> float:
    seconds = float(image.info.get("duration", 0)) / 1000
    return seconds if seconds >= _SHORTEST_SECONDS else _USUAL_SECONDS
