"""Joint second-order refinement of poses, focal lengths and pair scales, with the pixels' depths eliminated.

Gauss-Newton on the normal equations of the data (under the noise model, with robust weights) plus the temporal terms. Every step
lowers the objective with the weights as they are, else it is damped (Levenberg-Marquardt) until it does.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from jog3r.geometry.cameras import so3_exp
from jog3r.geometry.registration.joint_fit.normal_equations import Assembler, Layout, System, relative_poses_of_pairs
from jog3r.geometry.registration.joint_fit.pair_terms import distance_along, local_points
from jog3r.geometry.registration.joint_fit.samples import Samples, sample_rays
from jog3r.geometry.registration.joint_fit.smoothness import (
    MotionPrior,
    TemporalWeights,
    motion_pull,
    motion_value,
    paper_pull,
    paper_value,
)
from jog3r.geometry.registration.joint_fit.tree import State
from jog3r.geometry.robust import masked_median

# A step shorter than this share of each unknown's standard deviation ends the iteration; the next would be a tenth as long.
_ENOUGH = 0.3
_TRIES = 8  # of one step, each shorter than the one before
_FIRST_DAMPING, _MORE_DAMPING = 1e-3, 10.0  # relative to the diagonal of the normal equations
_ROUNDING = (1e-6, 1e-3)  # of the objective, relative and absolute: chi-squared units, of which 1 is one standard deviation
_FEW_PIXELS = 400  # of a map, to tell how well it fits
_WORSE, _WORSE_RAD = 1.5, 3e-4  # a fit is worse than the start's if its typical offset is this many times as large, plus that


@dataclass(frozen=True)
class RefineOptions:
    """What may move, and the temporal terms."""

    iterations: int = 10
    fixed_poses: bool = False
    fixed_focal: bool = False
    shared_focal: bool = True
    motion_prior: bool = True
    temporal: TemporalWeights = TemporalWeights()  # for positions in the state's unit
    chunk_pairs: int = 32


@dataclass
class Refined:
    """A refined state and what is known about it."""

    state: State
    covariance: Tensor  # (F, 6, 6) rotation vector and translation in world axes, world unit; 0 for what is fixed
    inliers: Tensor  # (P,) share of the second map's valid pixels that fit
    worse: Tensor  # (P,) bool: second maps that fit clearly worse than at the start
    noise_level: Tensor  # (P,) standard deviation of the second map's points relative to their distance
    converged: bool
    iterations: int
    prior: MotionPrior | None
    assembler: Assembler


def refine(samples: Samples, state: State, options: RefineOptions) -> Refined:
    """Refine a first state.

    Args:
        samples: the data.
        state: near enough to the optimum for Gauss-Newton: a robust start.
        options: see there.
    """
    layout = Layout(state.poses.shape[0], samples.num_pairs, options.shared_focal)
    # The first step only needs to come near.
    assembler = Assembler(samples.coarse()[0], layout, options.chunk_pairs)
    free = _free_unknowns(samples, state, layout, options)
    prior: MotionPrior | None = None
    converged, iteration, damping = False, 0, 0.0
    covariance = torch.full((layout.size,), torch.inf, dtype=torch.float64, device=free.device).diag_embed()
    start, offset_before = state, _typical_offset(samples, state)
    for iteration in range(1, options.iterations + 1):
        if iteration == 2 and assembler.samples.grid != samples.grid:
            assembler = Assembler(samples, layout, options.chunk_pairs)
        system = assembler.assemble(state, learn=iteration <= 2)
        if not options.fixed_poses:
            _hold_scale(system, layout)
        if options.motion_prior and not options.fixed_poses and layout.num_frames > 3:
            prior, pull = motion_pull(system, layout, free, state, prior)
            system.pull(*pull)
        system.pull(*paper_pull(state, layout, options.temporal), paper_value(state, layout, options.temporal))
        taken = _lowering_step(system, free, state, layout, _objective(assembler, layout, options.temporal, prior), damping)
        if taken is None:
            break  # the data define no step; what was reached so far stays, and its fit says what it is worth
        converged = iteration > 2 and bool((taken.step.square() <= _ENOUGH**2 * taken.covariance.diagonal() + 1e-16).all())
        stuck = taken.state is state and iteration > 1
        state, covariance, damping = taken.state, taken.covariance, taken.damping
        if converged or stuck:
            break
    worse = _typical_offset(samples, state) > _WORSE * offset_before + _WORSE_RAD
    asked_for = max(options.temporal.focal, options.temporal.translation) > 0
    if not asked_for and float(worse.double().mean()) > 0.5:
        state, converged = start, False
    frames = torch.arange(layout.num_frames, device=free.device)
    blocks = covariance[: layout.scales, : layout.scales].unflatten(0, (-1, 6)).unflatten(2, (-1, 6))[frames, :, frames]
    level = torch.cat([assembler.noise[1, chunk.start].level for chunk in assembler.chunks()])
    return Refined(state, blocks, system.fit, worse, level, converged, iteration, prior, assembler)


def _objective(
    assembler: Assembler, layout: Layout, weights: TemporalWeights, prior: MotionPrior | None
) -> Callable[[State], float]:
    """What the steps from the last assembled state lower."""

    def value(state: State) -> float:
        motion = 0.0 if prior is None else motion_value(state, prior)
        return assembler.value(state) + motion + paper_value(state, layout, weights)

    return value


@dataclass(frozen=True)
class _Taken:
    """A step, the state behind it, the covariance at its beginning and the damping to begin the next one with."""

    state: State
    covariance: Tensor  # (n, n)
    step: Tensor  # (n,)
    damping: float


def _lowering_step(
    system: System, free: Tensor, state: State, layout: Layout, objective: Callable[[State], float], damping: float
) -> _Taken | None:
    """A step that lowers the objective; where none does, the state as it is and the step that was not taken.

    None if the normal equations say nothing.
    """
    limit = float(system.value) * (1 + _ROUNDING[0]) + _ROUNDING[1]
    full, covariance = _solve(system, free, 0.0)
    if not bool(torch.isfinite(covariance).all()):
        return None
    for _ in range(_TRIES):
        step = full if damping == 0 else _solve(system, free, damping)[0]
        moved = _apply(state, step, layout)
        if moved.is_finite() and objective(moved) <= limit:
            return _Taken(moved, covariance, step, damping / _MORE_DAMPING if damping > _FIRST_DAMPING else 0.0)
        damping = max(_MORE_DAMPING * damping, _FIRST_DAMPING)
    return _Taken(state, covariance, full, damping)


def _typical_offset(samples: Samples, state: State) -> Tensor:
    """Median angle (P,), radians, between the points of the second maps and their rays; 0 where no pixel is valid."""
    samples, second = samples.thinned(_FEW_PIXELS), slice(samples.num_pairs, None)
    local = local_points(samples.points[second], relative_poses_of_pairs(samples, state))
    rays = sample_rays(samples, state.intrinsics, samples.frame[second])
    along = distance_along(local, rays)
    across = (local - along[:, None] * rays).square().sum(1)
    angle = torch.atan2(across.sqrt(), along * rays.square().sum(1).sqrt())
    return masked_median(angle, samples.valid[second])


def _free_unknowns(samples: Samples, state: State, layout: Layout, options: RefineOptions) -> Tensor:
    """Mask (n,) over all unknowns."""
    pose_free = state.reached[:, None].repeat(1, 6)
    pose_free[0] = False
    if options.fixed_poses:
        pose_free[:] = False
    scale_free = state.reached[samples.pairs].all(1)
    focals = layout.size - layout.focals
    focal_free = torch.full((focals,), not options.fixed_focal, device=pose_free.device)
    if not options.shared_focal:
        focal_free &= state.reached
    return torch.cat((pose_free.flatten(), scale_free, focal_free))


def _hold_scale(system: System, layout: Layout) -> None:
    """Nothing says how large the world is; without a hold on the mean log scale, the temporal terms would shrink it."""
    scales = slice(layout.scales, layout.focals)
    system.normal[scales, scales] += system.normal.diagonal()[scales].mean() + 1.0


def _solve(system: System, free: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Step (n,) and covariance (n, n), zero for what is fixed."""
    index = free.nonzero()[:, 0]
    step, covariance = torch.zeros_like(system.gradient), torch.zeros_like(system.normal)
    if len(index):
        core = system.normal[index[:, None], index]
        # Unit diagonal: angles, lengths and log scales differ by magnitudes; a trace of damping holds what nothing else does.
        width = core.diagonal().clamp(min=1e-300).rsqrt()
        identity = torch.eye(len(index), dtype=core.dtype, device=core.device)
        core = core * width[:, None] * width + (1e-10 + damping) * identity
        inverse = torch.linalg.inv_ex(core)[0] * width[:, None] * width
        step[index] = -inverse @ system.gradient[index]
        covariance[index[:, None], index] = inverse
    return step, covariance


def _apply(state: State, step: Tensor, layout: Layout) -> State:
    """The state after a step, whose length per unknown is limited to what a start can be wrong by."""
    moves = step[: layout.scales].unflatten(0, (-1, 6))
    poses, intrinsics = state.poses.clone(), state.intrinsics.clone()
    turn = moves[:, :3] / (moves[:, :3].norm(dim=1, keepdim=True) / 0.5).clamp(min=1)
    poses[:, :3, :3] = so3_exp(turn) @ poses[:, :3, :3]
    poses[:, :3, 3] += moves[:, 3:]
    scale = state.pair_scale * step[layout.scales : layout.focals].clamp(-1, 1).exp()
    focal = step[layout.focals :].clamp(-0.3, 0.3).exp()
    intrinsics[:, 0, 0] *= focal
    intrinsics[:, 1, 1] *= focal
    return State(poses, intrinsics, scale, state.reached)
