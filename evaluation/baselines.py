"""What a method must beat: predictions that never look at the video, and pairings that do not belong together."""

import numpy as np

FORWARD_STEP = 1.0  # any positive number: only the direction is scored


def constant_poses(num_frames: int) -> np.ndarray:
    """(F,4,4) identities: the camera never moves. Its translation has no direction (NaN, counted as 90 degrees)."""
    _check(num_frames)
    return np.tile(np.eye(4), (num_frames, 1, 1))


def forward_poses(num_frames: int) -> np.ndarray:
    """(F,4,4) camera-to-world poses of a camera that never turns and moves straight ahead (+z) in equal steps."""
    poses = constant_poses(num_frames)
    poses[:, 2, 3] = FORWARD_STEP * np.arange(num_frames)
    return poses


def shuffled_pairs(count: int, seed: int = 0) -> np.ndarray:
    """Permutation (count,) without a fixed point: item k is compared with a strange item, never with its own.

    Raises:
        ValueError: fewer than two items, which cannot be paired with strangers.
    """
    if count < 2:
        raise ValueError(f"a shuffled-pairs baseline needs at least 2 clips, got {count}")
    order = np.random.default_rng(seed).permutation(count)
    partner = np.empty(count, dtype=int)
    partner[order] = np.roll(order, 1)  # one cycle through all items: no item meets itself
    return partner


def _check(num_frames: int) -> None:
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}")
