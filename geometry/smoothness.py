"""Temporal terms of the fast method: the paper's, with given weights, and a motion prior that finds its own weight.

A video camera moves smoothly, but how smoothly differs from clip to clip: a fixed weight either does nothing or bends the path.
The motion prior says that accelerations (second differences of position and of rotation) are normal with unknown variances,
which are estimated by maximum likelihood (empirical Bayes, EM). A jerky camera gets large variances and is left alone.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jog3r.geometry.cameras import so3_log
from jog3r.geometry.normal_equations import Layout, System
from jog3r.geometry.tree import State

_EM_STEPS, _EM_STEPS_AGAIN = 12, 4  # most, from nothing and from the estimate at the state before
_EM_STILL = 0.01  # a change of both log variances below this ends it
_LEAST = 1e-14  # variances stay within this and its inverse
_EM_STRIDE = 1.7  # of the steps in log variance; the fixed point is the same


@dataclass(frozen=True)
class TemporalWeights:
    """Weights of the paper's terms, added to minus twice the log-likelihood; lengths in the result's unit, focals in pixels."""

    focal: float = 0.0  # of sum |l_f - l_(f+1)|^2
    translation: float = 0.0  # of sum |t_f - t_(f+1)|^2 + |v_f - v_(f+1)|^2


@dataclass(frozen=True)
class MotionPrior:
    """Variance of a camera's acceleration per squared frame interval; isotropic in each of rotation and translation."""

    rotation: float  # rad^2
    translation: float  # squared world unit

    def precision(self, count: int) -> Tensor:
        """Inverse variances (count * 6,) of `count` accelerations (rotation first)."""
        return torch.tensor([1 / self.rotation] * 3 + [1 / self.translation] * 3, dtype=torch.float64).repeat(count)


def differences(num_frames: int, order: int) -> Tensor:
    """Operator ((F - order) * 6, F * 6): differences of the given order of pose steps in world axes."""
    rows = torch.eye(num_frames, dtype=torch.float64)
    for _ in range(order):
        rows = rows.diff(dim=0)
    return torch.kron(rows, torch.eye(6, dtype=torch.float64))


def accelerations(poses: Tensor) -> Tensor:
    """Accelerations ((F - 2) * 6,) of poses (F, 4, 4), rotation vector in world axes and translation, per frame interval."""
    turn = so3_log(poses[1:, :3, :3] @ poses[:-1, :3, :3].transpose(1, 2))  # (F - 1, 3)
    step = poses[:, :3, 3].diff(dim=0)
    return torch.cat((turn, step), dim=1).diff(dim=0).flatten()


def motion_pull(
    system: System, layout: Layout, free: Tensor, state: State, prior: MotionPrior | None
) -> tuple[MotionPrior, tuple[Tensor, Tensor]]:
    """The motion prior at its estimated strength, as additions to the normal equations and the gradient.

    Args:
        system: normal equations of the data.
        layout: of the unknowns.
        free: mask of those that may move.
        state: where the system was assembled.
        prior: the previous estimate, if any.
    """
    operator = torch.zeros(6 * (layout.num_frames - 2), layout.size).to(system.normal)
    operator[:, : layout.scales] = differences(layout.num_frames, 2).to(operator)
    current = accelerations(state.poses)
    # An acceleration that touches a frame without a pose says nothing.
    known = (state.reached[:-2] & state.reached[1:-1] & state.reached[2:]).repeat_interleave(6)
    operator, current = operator[known], current[known]
    if not len(current):
        return prior or MotionPrior(1.0, 1.0), (torch.zeros_like(system.normal), torch.zeros_like(system.gradient))
    is_pose = torch.arange(layout.size, device=free.device) < layout.scales
    poses, rest = (free & is_pose).nonzero()[:, 0], (free & ~is_pose).nonzero()[:, 0]
    damped = system.normal + torch.diag(1e-9 * system.normal.diagonal() + 1e-9)
    cross = damped[poses[:, None], rest]
    solved = torch.linalg.solve_ex(damped[rest[:, None], rest], torch.cat((cross.T, system.gradient[rest][:, None]), 1))[0]
    marginal = damped[poses[:, None], poses] - cross @ solved[:, :-1]
    slope = system.gradient[poses] - cross @ solved[:, -1]
    prior = estimate_prior(marginal, slope, operator[:, poses], current, prior)
    precision = prior.precision(len(current) // 6).to(operator)
    return prior, (operator.T @ (precision[:, None] * operator), operator.T @ (precision * current))


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
    # Unit diagonal, so that angles and lengths weigh alike in the numerics.
    width = normal.diagonal().clamp(min=1e-30).rsqrt()
    normal, gradient, operator = (normal + normal.T) / 2 * width[:, None] * width, gradient * width, operator * width
    steps = _EM_STEPS_AGAIN
    if start is None:
        steps = _EM_STEPS
        alone = torch.cholesky_solve(gradient[:, None], _safe_cholesky(normal))[:, 0]
        raw = (current - operator @ alone).unflatten(0, (count, 6)).square().mean(0)
        start = MotionPrior(_bounded(float(raw[:3].mean())), _bounded(float(raw[3:].mean())))
    # Rotations and translations apart: everything below is a sum of the two, each over its variance.
    parts = operator.unflatten(0, (count, 2, 3)).transpose(0, 1).flatten(1, 2)  # (2, count * 3, n)
    values = current.unflatten(0, (count, 2, 3)).transpose(0, 1).flatten(1, 2)  # (2, count * 3)
    squares = parts.transpose(1, 2) @ parts  # (2, n, n)
    pulls = (parts.transpose(1, 2) @ values[..., None])[..., 0]  # (2, n)
    variance = [start.rotation, start.translation]
    for _ in range(steps):
        full = normal + squares[0] / variance[0] + squares[1] / variance[1]
        again = full.diagonal().clamp(min=1e-30).rsqrt()
        inverse = torch.cholesky_inverse(_safe_cholesky(full * again[:, None] * again)) * again[:, None] * again
        step = -(inverse @ (gradient + pulls[0] / variance[0] + pulls[1] / variance[1]))
        spread = (squares * inverse).sum((1, 2)).clamp(min=0)
        expected = ((values + parts @ step).square().sum(1) + spread) / (3 * count)
        ratio = [_bounded(value) / old for value, old in zip(expected.tolist(), variance, strict=True)]
        # EM creeps: a longer step in the logarithm.
        variance = [_bounded(old * change**_EM_STRIDE) for old, change in zip(variance, ratio, strict=True)]
        if max(abs(math.log(change)) for change in ratio) < _EM_STILL:
            break
    return MotionPrior(*variance)


def _safe_cholesky(matrix: Tensor) -> Tensor:
    """Cholesky factor of a matrix with unit diagonal that should be positive definite; as little jitter as makes it so."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if int(failed) == 0:
        return factor
    identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    for jitter in (1e-10, 1e-8, 1e-6, 1e-4, 1e-2):
        factor, failed = torch.linalg.cholesky_ex(matrix + jitter * identity)
        if int(failed) == 0:
            return factor
    return identity


def paper_pull(state: State, layout: Layout, weights: TemporalWeights) -> tuple[Tensor, Tensor]:
    """The paper's L_fl and L_transl as additions to the normal equations and the gradient (exact: both are quadratic)."""
    options = {"dtype": state.poses.dtype, "device": state.poses.device}
    normal, gradient = torch.zeros(layout.size, layout.size, **options), torch.zeros(layout.size, **options)
    if weights.translation > 0:
        keep = torch.tensor([0.0, 0, 0, 1, 1, 1], **options).repeat(layout.num_frames)
        positions = torch.cat((torch.zeros_like(state.poses[:, :3, 3]), state.poses[:, :3, 3]), 1).flatten()
        for order in range(1, min(3, layout.num_frames)):
            operator = differences(layout.num_frames, order).to(keep) * keep
            normal[: layout.scales, : layout.scales] += weights.translation * operator.T @ operator
            gradient[: layout.scales] += weights.translation * operator.T @ (operator @ positions)
    if weights.focal > 0 and not layout.shared_focal:
        focal = state.intrinsics[:, 0, 0]
        operator = torch.eye(layout.num_frames, **options).diff(dim=0) * focal  # by log focal
        normal[layout.focals :, layout.focals :] += weights.focal * operator.T @ operator
        gradient[layout.focals :] += weights.focal * operator.T @ focal.diff()
    return normal, gradient


def _bounded(variance: float) -> float:
    return min(max(variance, _LEAST), 1 / _LEAST) if math.isfinite(variance) else 1.0
