"""From a long posed video to a training clip: which frames, in which direction.

Everything is a pure function of (seed, position), so that a stream is resumed by a number. Letter: F frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from jog3r.data.clip import Clip, reverse
from jog3r.data.poses import rebase_poses

__all__ = [
    "STRIDES",
    "FrameSelection",
    "select_frames",
    "shuffled_index",
    "take_frames",
]

STRIDES = (1, 2, 4, 8)  # the paper's
REVERSE_PROBABILITY = 0.5


@dataclass(frozen=True)
class FrameSelection:
    """Frames `start, start + stride, ...` of a video, `num_frames` of them, backward if `reversed`."""

    start: int
    stride: int
    num_frames: int
    reversed: bool

    @property
    def indices(self) -> np.ndarray:
        """(F,) int64 frame numbers in the order of the clip."""
        forward = self.start + self.stride * np.arange(self.num_frames)
        return forward[::-1].copy() if self.reversed else forward

    def __str__(self) -> str:
        """As names of windows and logs have it."""
        return f"{self.start}+{self.stride}*{self.num_frames}{' reversed' * self.reversed}"


def select_frames(
    num_available: int,
    num_frames: int,
    seed: int,
    position: int,
    strides: Sequence[int] = STRIDES,
    reverse_probability: float = REVERSE_PROBABILITY,
) -> FrameSelection:
    """Draw stride, start and direction: a stride uniformly among those that fit, then a start uniformly.

    Args:
        num_available: frames of the video.
        num_frames: F wanted.
        seed: of the stream, >= 0.
        position: in the stream, >= 0.
        strides: to choose from.
        reverse_probability: chance of playing backward.

    Raises:
        ValueError: the video is too short for the smallest stride, or an argument is out of range.
    """
    if num_frames < 1 or not strides or min(strides) < 1:
        raise ValueError(f"num_frames and strides must be at least 1, got {num_frames} and {tuple(strides)}")
    if not 0 <= reverse_probability <= 1:
        raise ValueError(f"reverse_probability must lie in [0, 1], got {reverse_probability}")
    fitting = [stride for stride in strides if (num_frames - 1) * stride < num_available]
    if not fitting:
        raise ValueError(
            f"a video of {num_available} frames is too short for {num_frames} frames at stride {min(strides)}, "
            f"which takes {(num_frames - 1) * min(strides) + 1}"
        )
    draw = np.random.default_rng([seed, position, 1])
    stride = int(fitting[int(draw.integers(len(fitting)))])
    start = int(draw.integers(num_available - (num_frames - 1) * stride))
    return FrameSelection(start, stride, num_frames, bool(draw.random() < reverse_probability))


def shuffled_index(position: int, count: int, seed: int) -> int:
    """Which of `count` videos stands at `position` of an endless stream that shows each once per epoch, shuffled anew."""
    if count < 1 or position < 0:
        raise ValueError(f"need count >= 1 and position >= 0, got {count} and {position}")
    epoch, place = divmod(position, count)
    return int(_permutation(seed, epoch, count)[place])


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch, 2]).permutation(count)


def take_frames(video: Clip, selection: FrameSelection) -> Clip:
    """The selected frames as a clip whose world is its own first camera; a procedural caption follows the direction."""
    forward = np.sort(selection.indices)
    if forward[0] < 0 or forward[-1] >= video.num_frames:
        raise ValueError(f"frames {forward[0]}..{forward[-1]} lie outside a video of {video.num_frames} frames")
    taken = {name: getattr(video, name)[forward] for name in ("frames", "depth", "valid", "intrinsics")}
    clip = replace(video, **taken, poses=rebase_poses(video.poses[forward]))
    return reverse(clip) if selection.reversed else clip
