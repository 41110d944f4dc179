"""Camera-to-world poses (F, 4, 4) as arrays: whether they are poses, and in which world."""

import numpy as np

__all__ = ["pose_fault", "rebase_poses"]

_TOLERANCE = 1e-3  # of R @ R.T from the identity; camera files are written with six digits or more


def pose_fault(poses: np.ndarray) -> tuple[int, str] | None:
    """The first frame whose matrix is not a rotation and a translation, and why; None if all are.

    Args:
        poses: (F, 4, 4), camera-to-world or world-to-camera.
    """
    finite = np.isfinite(poses).all((1, 2))
    rotation = np.where(finite[:, None, None], poses[:, :3, :3], np.eye(3))
    off = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max((1, 2))
    last_row = (poses[:, 3] == [0, 0, 0, 1]).all(1)
    wrong = ~finite | (off > _TOLERANCE) | (np.linalg.det(rotation) < 0) | ~last_row
    if not wrong.any():
        return None
    frame = int(wrong.argmax())
    if not finite[frame]:
        return frame, "it holds NaN or infinity"
    if off[frame] > _TOLERANCE:
        return frame, f"its 3 x 3 part is not a rotation: R @ R.T differs from the identity by {off[frame]:.3g}"
    if not last_row[frame]:
        return frame, f"its last row is {' '.join(f'{value:g}' for value in poses[frame, 3])} instead of 0 0 0 1"
    return (
        frame,
        "it mirrors the scene (determinant -1): one of its axes points the wrong way for this format",
    )


def rebase_poses(poses: np.ndarray) -> np.ndarray:
    """Camera-to-world poses (F, 4, 4) of any world, moved to the first camera's: float32, the first exactly the identity."""
    poses = np.asarray(poses, dtype=np.float64)
    rotation, centre = poses[0, :3, :3], poses[0, :3, 3]
    world_to_first = np.eye(4)
    world_to_first[:3, :3], world_to_first[:3, 3] = rotation.T, -rotation.T @ centre
    based = (world_to_first @ poses).astype(np.float32)
    based[0] = np.eye(4, dtype=np.float32)
    return based
