"""Whether 4x4 matrices are poses: what users and files give as cameras is checked here, wherever it comes in."""

import numpy as np

__all__ = ["pose_fault"]

_TOLERANCE = 1e-3  # of R @ R.T from the identity: rotations in half precision pass, scaled or sheared ones do not


def pose_fault(poses: np.ndarray) -> tuple[int, str] | None:
    """The first frame whose matrix is not a rotation and a translation, and why; None if all are.

    Args:
        poses: (F, 4, 4) array, camera-to-world or world-to-camera.

    Returns:
        The frame's number from 0, and a clause such as "its last row is 0 0 0 2 instead of 0 0 0 1".
    """
    finite = np.isfinite(poses).all((1, 2))
    rotation = np.where(finite[:, None, None], poses[:, :3, :3], np.eye(3))
    off = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max((1, 2))
    last_row = (np.abs(poses[:, 3] - [0, 0, 0, 1]) <= _TOLERANCE).all(1)
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
