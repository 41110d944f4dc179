"""What every kind of recording gives: shots, which are frames that wait to be made into pictures."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

__all__ = ["DEFAULT_LIMITS", "Recording", "Shot", "VideoLimits"]


@dataclass(frozen=True)
class VideoLimits:
    """What is refused as early as possible, so that a hostile or mistaken file costs nothing.

    Attributes:
        max_seconds: Longest duration of a file, as its container states it and as the times of its frames say.
        max_side: Largest width or height in pixels.
    """

    max_seconds: float = 3600.0
    max_side: int = 4096

    def check_seconds(self, path: Path, seconds: float) -> None:
        """Refuse a recording that lasts too long, with `ValueError`."""
        if seconds > self.max_seconds:
            raise ValueError(
                f"{str(path)!r} is {seconds:.0f} s long, more than {self.max_seconds:.0f} s; cut it first or raise "
                "VideoLimits.max_seconds"
            )

    def check_side(self, path: Path, width: int, height: int) -> None:
        """Refuse pictures that are too large, with `ValueError`."""
        if max(width, height) > self.max_side:
            raise ValueError(
                f"{str(path)!r} is {width} x {height} pixels, more than the {self.max_side} allowed a side; "
                "scale it down first or raise VideoLimits.max_side"
            )


DEFAULT_LIMITS = VideoLimits()


class Shot(NamedTuple):
    """One frame of a recording.

    Attributes:
        time: in seconds, on the recording's own clock.
        picture: makes (H, W, 3) uint8 RGB, upright; called for selected frames alone.
        aspect: width of a pixel over its height, upright.
        name: for messages.
    """

    time: float
    picture: Callable[[], np.ndarray]
    aspect: float
    name: str


class Recording(Protocol):
    """A recording that was found readable; `shots` may be called again and again.

    Attributes:
        path: file or folder.
        fps: frames per second, the mean where the rate varies.
        expected_frames: how many frames are stated, or follow from a stated duration; 0 if neither is.
        counted: `expected_frames` is a count, not an estimate.
    """

    path: Path
    fps: float
    expected_frames: int
    counted: bool

    def shots(self) -> Iterator[Shot]:
        """All frames in order of display; `ValueError` naming the file where it is damaged or cut off."""
