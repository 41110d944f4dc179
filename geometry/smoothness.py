"""Temporal terms of the fast method: the paper's, with given weights, and a motion prior that finds its own weight.

A video camera moves smoothly, but how smoothly differs from clip to clip: a fixed weight either does nothing or bends the path. The
motion prior says that accelerations (second differences of position and of rotation) are normal with unknown variances, which are
estimated by maximum likelihood (empirical Bayes, EM). A jerky camera gets large variances and is left alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from jog3r.geometry.cameras import so3_log

_EM_STEPS = 30


@dataclass
class MotionPrior:
    """Variance of a camera's acceleration per squared frame interval; isotropic in each of rotation and translation."""

    rotation: float  # rad^2
    translation: float  # squared world unit

    def precision(self, count: int) -> Tensor:
        """Inverse variances (count * 6,) of `count` accelerations (rotation first)."""
        return torch.tensor([1 / self.rotation] * 3 + [1 / self.translation] * 3, dtype=torch.float64).repeat(count)


def second_difference(num_frames: int) -> Tensor:
    """Operator ((F - 2) * 6, F * 6) from pose steps in world axes (rotation vector, translation) to accelerations."""
    rows = torch.zeros(num_frames - 2, num_frames, dtype=torch.float64)
    for row in range(num_frames - 2):
        rows[row, row : row + 3] = torch.tensor([1.0, -2.0, 1.0], dtype=torch.float64)
    return torch.kron(rows, torch.eye(6, dtype=torch.float64))


def accelerations(poses: Tensor) -> Tensor:
    """Accelerations ((F - 2) * 6,) of poses (F, 4, 4), rotation vector in world axes and translation, per frame interval."""
    turn = so3_log(poses[1:, :3, :3] @ poses[:-1, :3, :3].transpose(1, 2))  # (F - 1, 3)
    step = poses[:, :3, 3].diff(dim=0)
    return torch.cat((turn, step), dim=1).diff(dim=0).flatten()


def estimate_prior(normal: Tensor, gradient: Tensor, operator: Tensor, current: Tensor, start: MotionPrior | None) -> MotionPrior:
    """Maximum-likelihood variances of the accelerations.

    Args:
        normal: (n, n) normal equations of the free poses' steps by the data alone; positive definite.
        gradient: (n,).
        operator: (m * 6, n) from these steps to accelerations.
        current: (m * 6,) accelerations before the step.
        start: a first guess; by default what the accelerations of the data alone say.
    """
    count = operator.shape[0] // 6
    if start is None:
        raw = (current - operator @ torch.linalg.solve(normal, gradient)).unflatten(0, (count, 6)).square().mean(0)
        start = MotionPrior(_floored(raw[:3].mean()), _floored(raw[3:].mean()))
    prior = start
    for _ in range(_EM_STEPS):
        precision = prior.precision(count).to(normal)
        factor = torch.linalg.cholesky(normal + operator.T @ (precision[:, None] * operator))
        step = -torch.cholesky_solve((gradient + operator.T @ (precision * current))[:, None], factor)[:, 0]
        spread = torch.linalg.solve_triangular(factor, operator.T, upper=False).square().sum(0)
        expected = ((current + operator @ step).square() + spread).unflatten(0, (count, 6)).mean(0)
        prior = MotionPrior(_floored(expected[:3].mean()), _floored(expected[3:].mean()))
    return prior


def _floored(value: Tensor) -> float:
    return max(float(value), 1e-16)
