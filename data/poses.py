"""Camera-to-world poses (F, 4, 4) as arrays, moved to the first camera's world."""

import numpy as np

__all__ = ["rebase_poses"]


def rebase_poses(poses: np.ndarray) -> np.ndarray:
    """Camera-to-world poses (F, 4, 4) of any world, moved to the first camera's: float32, the first exactly the identity."""
    poses = np.asarray(poses, dtype=np.float64)
    rotation, centre = poses[0, :3, :3], poses[0, :3, 3]
    world_to_first = np.eye(4)
    world_to_first[:3, :3], world_to_first[:3, 3] = rotation.T, -rotation.T @ centre
    based = (world_to_first @ poses).astype(np.float32)
    based[0] = np.eye(4, dtype=np.float32)
    return based
