"""Joint second-order refinement of poses, focal lengths and pair scales, with the pixels' depths eliminated.

Gauss-Newton on the normal equations of the data (under the noise model, with robust weights) plus the temporal terms. Every step
lowers the objective with the weights as they are, else it is damped (Levenberg-Marquardt) until it does.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from jog3r.geometry.cameras import so3_exp
from jog3r.geometry.registration.joint_fit.normal_equations import Assembler, Layout, System, relative_poses_of_pairs
from jog3r.geometry.registration.joint_fit.pair_terms import local_points
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
_ROUNDING = 3e-6  # of the objective per residual, each of which adds about 1
_FEW_PIXELS = 400  # of a map, to tell how well it fits
# A fit is worse than the start's if its typical offset (radians) is this many times as large, plus that; if the second holds for
# most maps, the start is the better result. Smooth errors, such as those of a wrong lens, may be weighed down for good reasons.
_WORSE, _FAR_WORSE = (1.5, 3e-4), (4.0, 1e-2)


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
        step, inverse = _solve(system, free, 0.0)
        if not bool(torch.isfinite(inverse).all()):
            break  # the data define no step; what was reached so far stays, and its fit says what it is worth
        covariance, before = inverse, state
        limit = float(system.value) + _ROUNDING * float(assembler.samples.valid.sum())
        if bool((step.square() <= _ENOUGH**2 * covariance.diagonal() + 1e-16).all()):
            limit, damping, converged = math.inf, 0.0, iteration > 2  # what it gains is less than the rounding
        objective = _objective(assembler, layout, options.temporal, prior)
        state, damping = _lowering_step(system, free, state, layout, objective, limit, damping)
        if converged or (state is before and iteration > 1):
            break
    offset = _typical_offset(samples, state)
    worse, far_worse = (offset > factor * offset_before + slack for factor, slack in (_WORSE, _FAR_WORSE))
    asked_for = max(options.temporal.focal, options.temporal.translation) > 0
    if not asked_for and float(far_worse.double().mean()) > 0.5:
        state, converged = start, False
    frames = torch.arange(layout.num_frames, device=free.device)
    blocks = covariance[: layout.scales, : layout.scales].unflatten(0, (-1, 6)).unflatten(2, (-1, 6))[frames, :, frames]
    level = torch.cat([assembler.noise[1, chunk.start].level for chunk in assembler.chunks()])
    return Refined(state, blocks, system.fit, worse, level, converged, iteration)


def _objective(
    assembler: Assembler, layout: Layout, weights: TemporalWeights, prior: MotionPrior | None
) -> Callable[[State], float]:
    """What the steps from the last assembled state lower."""

    def value(state: State) -> float:
        motion = 0.0 if prior is None else motion_value(state, prior)
        return assembler.value(state) + motion + paper_value(state, layout, weights)

    return value


def _lowering_step(
    system: System,
    free: Tensor,
    state: State,
    layout: Layout,
    objective: Callable[[State], float],
    limit: float,
    damping: float,
) -> tuple[State, float]:
    """The state after a step that brings the objective below the limit, or as it is where none does, and the next damping."""
    for _ in range(_TRIES):
        moved = _apply(state, _solve(system, free, damping)[0], layout)
        if moved.is_finite() and (limit == math.inf or objective(moved) <= limit):
            return moved, damping / _MORE_DAMPING if damping > _FIRST_DAMPING else 0.0
        damping = max(_MORE_DAMPING * damping, _FIRST_DAMPING)
    return state, damping


def _typical_offset(samples: Samples, state: State) -> Tensor:
    """Median angle (P,), radians, between the points of the second maps and their rays; 0 where no pixel is valid."""
    samples, second = samples.thinned(_FEW_PIXELS), slice(samples.num_pairs, None)
    local = local_points(samples.points[second], relative_poses_of_pairs(samples, state))
    rays = sample_rays(samples, state.intrinsics, samples.frame[second])
    length = rays.direction.square().sum(1).sqrt()
    angle = torch.atan2(rays.offsets(local).square().sum(1).sqrt(), rays.distances(local) * length)
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
