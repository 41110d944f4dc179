"""Temporal terms of the fast method: the paper's, with given weights, and a motion prior that finds its own weight.

A video camera moves smoothly, but how smoothly differs from clip to clip: a fixed weight either does nothing or bends the path.
The motion prior says that accelerations (second differences of position and of rotation) are normal with unknown variances,
which are estimated by maximum likelihood (empirical Bayes, EM). A jerky camera gets large variances and is left alone.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from jog3r.geometry.cameras import so3_log
from jog3r.geometry.registration.joint_fit.normal_equations import Layout, System
from jog3r.geometry.registration.joint_fit.tree import State

_EM_STEPS, _EM_STEPS_AGAIN = 12, 4  # most, from nothing and from the estimate at the state before
_STRETCH = 30  # accelerations that are looked at together, about
_EM_STILL = 0.01  # a change of both log variances below this ends it
_LEAST = 1e-14  # variances stay within this and its inverse
_EM_STRIDE = 1.7  # of the steps in log variance; the fixed point is the same


@dataclass(frozen=True)
class TemporalWeights:
    """Weights of the paper's terms, added to minus twice the log-likelihood; focals in pixels."""

    focal: float = 0.0  # of sum |l_f - l_(f+1)|^2
    translation: float = 0.0  # of sum |t_f - t_(f+1)|^2 + |v_f - v_(f+1)|^2

    def in_unit(self, length: float) -> "TemporalWeights":
        """The same terms for positions in another unit, of which one of these here has `length`."""
        return TemporalWeights(self.focal, self.translation / length**2)


@dataclass(frozen=True)
class MotionPrior:
    """Variance of a camera's acceleration per squared frame interval; isotropic in each of rotation and translation."""

    rotation: float  # rad^2
    translation: float  # squared world unit

    def precision(self) -> Tensor:
        """Inverse variances (6,) of an acceleration, rotation first."""
        return torch.tensor([1 / self.rotation] * 3 + [1 / self.translation] * 3, dtype=torch.float64)


def differences(num_frames: int, order: int) -> Tensor:
    """Operator (F - order, F): differences of the given order."""
    rows = torch.eye(num_frames, dtype=torch.float64)
    for _ in range(order):
        rows = rows.diff(dim=0)
    return rows


def accelerations(poses: Tensor) -> Tensor:
    """Accelerations ((F - 2) * 6,) of poses (F, 4, 4), rotation vector in world axes and translation, per frame interval."""
    turn = so3_log(poses[1:, :3, :3] @ poses[:-1, :3, :3].transpose(1, 2))  # (F - 1, 3)
    step = poses[:, :3, 3].diff(dim=0)
    return torch.cat((turn, step), dim=1).diff(dim=0).flatten()


def motion_pull(
    system: System, layout: Layout, free: Tensor, state: State, prior: MotionPrior | None
) -> tuple[MotionPrior, tuple[Tensor, Tensor, float]]:
    """The motion prior at its estimated strength, as additions to the normal equations, the gradient and the objective.

    Args:
        system: normal equations of the data.
        layout: of the unknowns.
        free: mask of those that may move.
        state: where the system was assembled.
        prior: the previous estimate, if any.
    """
    # An acceleration that touches a frame without a pose says nothing.
    known = state.reached[:-2] & state.reached[1:-1] & state.reached[2:]
    rows = differences(layout.num_frames, 2).to(system.normal)[known]  # (m, F)
    current = accelerations(state.poses).unflatten(0, (-1, 6))[known]  # (m, 6)
    normal, gradient = torch.zeros_like(system.normal), torch.zeros_like(system.gradient)
    if not len(current):
        return prior or MotionPrior(1.0, 1.0), (normal, gradient, 0.0)
    is_pose = torch.arange(layout.size, device=free.device) < layout.scales
    poses, rest = (free & is_pose).nonzero()[:, 0], (free & ~is_pose).nonzero()[:, 0]
    damped = system.normal + torch.diag(1e-9 * system.normal.diagonal() + 1e-9)
    cross = damped[poses[:, None], rest]
    solved = torch.linalg.solve_ex(damped[rest[:, None], rest], torch.cat((cross.T, system.gradient[rest][:, None]), 1))[0]
    marginal = damped[poses[:, None], poses] - cross @ solved[:, :-1]
    slope = system.gradient[poses] - cross @ solved[:, -1]
    operator = torch.kron(rows, torch.eye(6).to(rows))[:, poses]  # all pose unknowns come first
    prior = estimate_prior(marginal, slope, operator, current.flatten(), prior)
    precision = prior.precision().to(rows)
    normal[: layout.scales, : layout.scales] = torch.kron(rows.T @ rows, precision.diag())
    gradient[: layout.scales] = (rows.T @ (current * precision)).flatten()
    return prior, (normal, gradient, float((current.square() * precision).sum()))


def motion_value(state: State, prior: MotionPrior) -> float:
    """Minus twice the log-density of the motion under a prior, up to a constant: the objective of `motion_pull`."""
    known = state.reached[:-2] & state.reached[1:-1] & state.reached[2:]
    current = accelerations(state.poses).unflatten(0, (-1, 6))[known]
    return float((current.square() * prior.precision().to(current)).sum())


@dataclass(frozen=True)
class _Stretch:
    """Some frames in a row; n unknowns of their poses in units of their deviations, m accelerations, rotations apart."""

    normal: Tensor  # (n, n) of the data, unit diagonal; the other frames held
    gradient: Tensor  # (n,)
    parts: Tensor  # (2, 3 m, n) from the unknowns to accelerations of rotation and translation
    values: Tensor  # (2, 3 m) accelerations before the step
    squares: Tensor  # (2, n, n) parts^T parts
    pulls: Tensor  # (2, n) parts^T values

    @classmethod
    def cut(cls, normal: Tensor, gradient: Tensor, operator: Tensor, current: Tensor) -> "_Stretch":
        """Of rows (m * 6, .) of the operator from all unknowns and the accelerations (m * 6,)."""
        index = (operator != 0).any(0).nonzero()[:, 0]
        normal, gradient, operator = normal[index[:, None], index], gradient[index], operator[:, index]
        # Unit diagonal, so that angles and lengths weigh alike in the numerics.
        width = normal.diagonal().clamp(min=1e-30).rsqrt()
        normal, gradient, operator = (normal + normal.T) / 2 * width[:, None] * width, gradient * width, operator * width
        parts = operator.unflatten(0, (-1, 2, 3)).transpose(0, 1).flatten(1, 2)
        values = current.unflatten(0, (-1, 2, 3)).transpose(0, 1).flatten(1, 2)
        across = parts.transpose(1, 2)
        return cls(normal, gradient, parts, values, across @ parts, (across @ values[..., None])[..., 0])

    def by_data_alone(self) -> Tensor:
        """Sums (2,) of squared accelerations after the step that the data alone ask for."""
        alone = torch.cholesky_solve(self.gradient[:, None], _safe_cholesky(self.normal))[:, 0]
        return (self.values - self.parts @ alone).square().sum(1)

    def expected(self, variance: list[float]) -> Tensor:
        """Expected sums (2,) of squared accelerations of rotation and translation under their variances."""
        full = self.normal + self.squares[0] / variance[0] + self.squares[1] / variance[1]
        again = full.diagonal().clamp(min=1e-30).rsqrt()
        inverse = torch.cholesky_inverse(_safe_cholesky(full * again[:, None] * again)) * again[:, None] * again
        step = -(inverse @ (self.gradient + self.pulls[0] / variance[0] + self.pulls[1] / variance[1]))
        spread = (self.squares * inverse).sum((1, 2)).clamp(min=0)
        return (self.values + self.parts @ step).square().sum(1) + spread


def estimate_prior(normal: Tensor, gradient: Tensor, operator: Tensor, current: Tensor, start: MotionPrior | None) -> MotionPrior:
    """Maximum-likelihood variances of the accelerations, by EM; long clips stretch by stretch, so that time is linear in frames.

    Args:
        normal: (n, n) normal equations of the free poses' steps by the data alone; positive definite.
        gradient: (n,).
        operator: (m * 6, n) from these steps to accelerations.
        current: (m * 6,) accelerations before the step.
        start: a first guess; by default what the accelerations of the data alone say.
    """
    count = operator.shape[0] // 6
    borders = torch.linspace(0, count, max(1, round(count / _STRETCH)) + 1).round().int().tolist()
    stretches = [
        _Stretch.cut(normal, gradient, operator[6 * first : 6 * last], current[6 * first : 6 * last])
        for first, last in pairwise(borders)
    ]
    steps = _EM_STEPS_AGAIN
    if start is None:
        steps = _EM_STEPS
        raw = torch.stack([stretch.by_data_alone() for stretch in stretches]).sum(0) / (3 * count)
        start = MotionPrior(*(_bounded(value) for value in raw.tolist()))
    variance = [start.rotation, start.translation]
    for _ in range(steps):
        expected = torch.stack([stretch.expected(variance) for stretch in stretches]).sum(0) / (3 * count)
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
    """The paper's L_fl and L_transl as additions to the normal equations and the gradient (exact: both are quadratic).

    The weights are for positions in the state's own unit, see `TemporalWeights.in_unit`.
    """
    options = {"dtype": state.poses.dtype, "device": state.poses.device}
    normal, gradient = torch.zeros(layout.size, layout.size, **options), torch.zeros(layout.size, **options)
    if weights.translation > 0:
        keep = torch.tensor([0.0, 0, 0, 1, 1, 1], **options).repeat(layout.num_frames)
        positions = torch.cat((torch.zeros_like(state.poses[:, :3, 3]), state.poses[:, :3, 3]), 1).flatten()
        for order in range(1, min(3, layout.num_frames)):
            operator = torch.kron(differences(layout.num_frames, order), torch.eye(6).double()).to(keep) * keep
            normal[: layout.scales, : layout.scales] += weights.translation * operator.T @ operator
            gradient[: layout.scales] += weights.translation * operator.T @ (operator @ positions)
    if weights.focal > 0 and not layout.shared_focal:
        focal = state.intrinsics[:, 0, 0]
        operator = torch.eye(layout.num_frames, **options).diff(dim=0) * focal  # by log focal
        normal[layout.focals :, layout.focals :] += weights.focal * operator.T @ operator
        gradient[layout.focals :] += weights.focal * operator.T @ focal.diff()
    return normal, gradient


def paper_value(state: State, layout: Layout, weights: TemporalWeights) -> float:
    """The objective of `paper_pull`."""
    total = 0.0
    if weights.translation > 0:
        velocity = state.poses[:, :3, 3].diff(dim=0)
        total += weights.translation * float(velocity.square().sum() + velocity.diff(dim=0).square().sum())
    if weights.focal > 0 and not layout.shared_focal:
        total += weights.focal * float(state.intrinsics[:, 0, 0].diff().square().sum())
    return total


def _bounded(variance: float) -> float:
    return min(max(variance, _LEAST), 1 / _LEAST) if math.isfinite(variance) else 1.0
