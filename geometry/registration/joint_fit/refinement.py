"""Joint second-order refinement of poses, focal lengths and pair scales, with the pixels' depths eliminated.

Gauss-Newton on the normal equations of the data (under the noise model, with robust weights) plus the temporal terms.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from jog3r.geometry.cameras import so3_exp
from jog3r.geometry.registration.joint_fit.normal_equations import Assembler, Layout, System
from jog3r.geometry.registration.joint_fit.samples import Samples
from jog3r.geometry.registration.joint_fit.smoothness import MotionPrior, TemporalWeights, motion_pull, paper_pull
from jog3r.geometry.registration.joint_fit.tree import State

# A step shorter than this share of each unknown's standard deviation ends the iteration; the next would be a tenth as long.
_ENOUGH = 0.3


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
    converged, iteration = False, 0
    covariance = torch.full((layout.size,), torch.inf, dtype=torch.float64, device=free.device).diag_embed()
    for iteration in range(1, options.iterations + 1):
        if iteration == 2 and assembler.samples.grid != samples.grid:
            assembler = Assembler(samples, layout, options.chunk_pairs)
        system = assembler.assemble(state, learn=iteration <= 2)
        if not options.fixed_poses:
            _hold_scale(system, layout)
        normal, gradient = system.normal, system.gradient
        if options.motion_prior and not options.fixed_poses and layout.num_frames > 3:
            prior, pull = motion_pull(system, layout, free, state, prior)
            normal, gradient = normal + pull[0], gradient + pull[1]
        pull = paper_pull(state, layout, options.temporal)
        normal, gradient = normal + pull[0], gradient + pull[1]
        step, inverse = _solve(normal, gradient, free)
        moved = _apply(state, step, layout)
        if not (bool(torch.isfinite(inverse).all()) and moved.is_finite()):
            break  # the data define no step; what was reached so far stays, and its fit says what it is worth
        state, covariance = moved, inverse
        if iteration > 2 and bool((step.square() <= _ENOUGH**2 * covariance.diagonal() + 1e-16).all()):
            converged = True
            break
    frames = torch.arange(layout.num_frames, device=free.device)
    blocks = covariance[: layout.scales, : layout.scales].unflatten(0, (-1, 6)).unflatten(2, (-1, 6))[frames, :, frames]
    level = torch.cat([assembler.noise[1, chunk.start].level for chunk in assembler.chunks()])
    return Refined(state, blocks, system.fit, level, converged, iteration, prior, assembler)


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


def _solve(normal: Tensor, gradient: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """Step (n,) and covariance (n, n), zero for what is fixed."""
    index = free.nonzero()[:, 0]
    step, covariance = torch.zeros_like(gradient), torch.zeros_like(normal)
    if len(index):
        core = normal[index[:, None], index]
        # Unit diagonal: angles, lengths and log scales differ by magnitudes; a trace of damping holds what nothing else does.
        width = core.diagonal().clamp(min=1e-300).rsqrt()
        core = core * width[:, None] * width + 1e-10 * torch.eye(len(index), dtype=core.dtype, device=core.device)
        inverse = torch.linalg.inv_ex(core)[0] * width[:, None] * width
        step[index] = -inverse @ gradient[index]
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
