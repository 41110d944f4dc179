"""From a long posed video to a training clip: which frames, in which direction, at which size.

Everything is a pure function of (seed, position), so that a stream is resumed by a number. Letters: F frames, H W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from jog3r.data.clip import Clip, reverse
from jog3r.data.video import resize_frames

__all__ = [
    "STRIDES",
    "FrameSelection",
    "rebase_poses",
    "resize_clip",
    "sample_clip",
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


def sample_clip(video: Clip, num_frames: int, seed: int, position: int, strides: Sequence[int] = STRIDES) -> Clip:
    """The training clip of `position`: `select_frames`, then `take_frames`."""
    return take_frames(video, select_frames(video.num_frames, num_frames, seed, position, strides))


def take_frames(video: Clip, selection: FrameSelection) -> Clip:
    """The selected frames as a clip whose world is its own first camera; a procedural caption follows the direction."""
    forward = np.sort(selection.indices)
    if forward[0] < 0 or forward[-1] >= video.num_frames:
        raise ValueError(f"frames {forward[0]}..{forward[-1]} lie outside a video of {video.num_frames} frames")
    taken = {name: getattr(video, name)[forward] for name in ("frames", "depth", "valid", "intrinsics")}
    clip = replace(video, **taken, poses=rebase_poses(video.poses[forward]))
    return reverse(clip) if selection.reversed else clip


def rebase_poses(poses: np.ndarray) -> np.ndarray:
    """Camera-to-world poses (F, 4, 4) of any world, moved to the first camera's: float32, the first exactly the identity."""
    poses = np.asarray(poses, dtype=np.float64)
    rotation, centre = poses[0, :3, :3], poses[0, :3, 3]
    world_to_first = np.eye(4)
    world_to_first[:3, :3], world_to_first[:3, 3] = rotation.T, -rotation.T @ centre
    based = (world_to_first @ poses).astype(np.float32)
    based[0] = np.eye(4, dtype=np.float32)
    return based


def resize_clip(clip: Clip, height: int, width: int, mode: str = "crop") -> Clip:
    """The clip at another size, intrinsics in step; depth is taken at the nearest pixel, as averages across edges lie in mid-air.

    Args:
        clip: of any size.
        height, width: new H and W in pixels.
        mode: "crop" (centre of the new aspect, pixels keep their shape) or "stretch".
    """
    frames, transform = resize_frames(clip.frames, height, width, mode)
    columns = (np.arange(width) - transform[0, 2]) / transform[0, 0]
    rows = (np.arange(height) - transform[1, 2]) / transform[1, 1]
    rows = np.clip(np.rint(rows), 0, clip.size[0] - 1).astype(np.int64)
    columns = np.clip(np.rint(columns), 0, clip.size[1] - 1).astype(np.int64)
    depth, valid = (np.ascontiguousarray(maps[:, rows[:, None], columns]) for maps in (clip.depth, clip.valid))
    intrinsics = (transform @ clip.intrinsics.astype(np.float64)).astype(np.float32)
    return replace(clip, frames=frames, depth=depth, valid=valid, intrinsics=intrinsics)
