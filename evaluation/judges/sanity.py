"""Videos on which a judge is judged: what it says of real clips, frozen ones, noise, and frames of different clips."""

from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["MIXED", "SANITY_ROWS", "sanity_video"]

MIXED = "shuffled frames of different clips"
SANITY_ROWS = ("real clips", MIXED, "frozen video", "noise")  # a judge must like the first alone


def sanity_video(row: str, number: int, count: int, load: Callable[[int], np.ndarray]) -> np.ndarray:
    """Video `number` of a row, (F,H,W,3) uint8.

    Args:
        row: one of `SANITY_ROWS`.
        number: below `count`.
        count: how many clips there are to draw from.
        load: frames of a clip by its number.
    """
    frames = load(number)
    generator = np.random.default_rng([number, SANITY_ROWS.index(row)])
    if row == "frozen video":
        return np.repeat(frames[:1], len(frames), axis=0)
    if row == "noise":
        return generator.integers(0, 256, frames.shape, dtype=np.uint8)
    if row == MIXED:
        return _mixed(frames, [load(k) for k in range(count) if k != number][: len(frames)], generator)
    return frames


def _mixed(frames: np.ndarray, others: Sequence[np.ndarray], generator: np.random.Generator) -> np.ndarray:
    """Each frame from another clip as far as there are clips, in no order, brought to the first one's size by cropping."""
    height, width = frames.shape[1:3]
    clips = [frames, *(clip for clip in others if clip.shape[1] >= height and clip.shape[2] >= width)]
    chosen = [clips[k % len(clips)] for k in range(len(frames))]
    return np.stack([clip[generator.integers(len(clip)), :height, :width] for clip in chosen])[generator.permutation(len(frames))]
