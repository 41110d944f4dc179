"""Joint second-order refinement of poses, focal lengths and pair scales, with the pixels' depths eliminated.

Gauss-Newton on the terms of `pair_terms` under the noise model of `noise` and robust weights. Each pair is first summed up by a
small matrix, so that the joint system has about 7 unknowns per frame however many pixels there are.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from jog3r.geometry.cameras import invert, so3_exp
from jog3r.geometry.fast import FastState, Samples, sample_rays
from jog3r.geometry.initialisation import tangent_basis
from jog3r.geometry.noise import NoiseModel, estimate_noise, flat_top_weight, normal_equations
from jog3r.geometry.pair_terms import across_ray, along_ray, log_depth_columns, pose_chain
from jog3r.geometry.smoothness import MotionPrior, accelerations, estimate_prior, second_difference


@dataclass(frozen=True)
class RefineOptions:
    """What may move, and the temporal terms."""

    iterations: int = 8
    fixed_poses: bool = False
    fixed_focal: bool = False
    shared_focal: bool = True
    motion_prior: bool = True
    correlated_noise: bool = True
    chunk_pairs: int = 64


@dataclass
class System:
    """Normal equations over all unknowns: 6 per frame (rotation, translation in world axes), P log scales, log focals."""

    normal: Tensor
    gradient: Tensor
    num_frames: int
    num_pairs: int

    @property
    def poses(self) -> int:
        """Number of pose unknowns, which come first."""
        return 6 * self.num_frames


@dataclass
class Refined:
    """A refined state and what is known about it."""

    state: FastState
    covariance: Tensor  # (F, 6, 6) rotation vector and translation in world axes, world unit
    noise_level: Tensor  # (P,) median relative error of the second maps
    converged: bool
    iterations: int
    prior: MotionPrior | None = None
    extra: dict[str, object] = field(default_factory=dict)


def refine(samples: Samples, state: FastState, options: RefineOptions) -> Refined:
    """Refine a first state."""
    count = samples.points.shape[0] // 2
    num_frames = state.poses.shape[0]
    poses, scale, intrinsics = state.poses.clone(), state.pair_scale.clone(), state.intrinsics.clone()
    free = _free_unknowns(samples, state, options)
    noise: tuple[NoiseModel, NoiseModel] | None = None
    prior: MotionPrior | None = None
    converged, iteration = False, 0
    covariance = torch.zeros(len(free), len(free)).to(poses)
    for iteration in range(1, options.iterations + 1):
        if iteration <= 2:
            noise = _fit_noise(samples, poses, scale, intrinsics, options)
        system = _assemble(samples, poses, scale, intrinsics, noise, options)
        normal, gradient = system.normal, system.gradient
        pull = torch.zeros_like(normal), torch.zeros_like(gradient)
        if options.motion_prior and not options.fixed_poses and num_frames > 3:
            prior, pull = _motion_pull(system, free, poses, prior)
        step, covariance = _solve(normal + pull[0], gradient + pull[1], free)
        poses, scale, intrinsics = _apply(poses, scale, intrinsics, step, options)
        length = (step * step * (normal + pull[0]).diagonal()).max().sqrt()
        if float(length) < 1e-2:
            converged = True
            break
    blocks = covariance[: 6 * num_frames, : 6 * num_frames].unflatten(1, (num_frames, 6)).unflatten(0, (num_frames, 6))
    blocks = blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    level = torch.zeros(count).to(poses)
    refined = FastState(poses, intrinsics, scale, state.reached)
    return Refined(refined, blocks, level, converged, iteration, prior, {"noise": noise})


def _free_unknowns(samples: Samples, state: FastState, options: RefineOptions) -> Tensor:
    """Mask over all unknowns."""
    num_frames, count = state.poses.shape[0], samples.points.shape[0] // 2
    pose_free = state.reached[:, None].expand(-1, 6).clone()
    pose_free[0] = False
    if options.fixed_poses:
        pose_free[:] = False
    pairs = torch.stack((samples.frame[:count], samples.frame[count:]), 1)
    scale_free = state.reached[pairs].all(1)
    focals = 1 if options.shared_focal else num_frames
    focal_free = torch.full((focals,), not options.fixed_focal, device=pose_free.device)
    return torch.cat((pose_free.flatten(), scale_free, focal_free))


def _relative(samples: Samples, poses: Tensor, scale: Tensor) -> Tensor:
    """Host camera -> own camera (P, 4, 4) of the second maps, in pair units."""
    count = samples.points.shape[0] // 2
    relative = invert(poses)[samples.frame[count:]] @ poses[samples.host[count:]]
    relative = relative.clone()
    relative[:, :3, 3] /= scale[:, None]
    return relative


def _fit_noise(
    samples: Samples, poses: Tensor, scale: Tensor, intrinsics: Tensor, options: RefineOptions
) -> tuple[NoiseModel, NoiseModel]:
    count = samples.points.shape[0] // 2
    rays = sample_rays(samples, intrinsics)
    basis = tangent_basis(rays)
    models = []
    for half, relative in ((slice(0, count), None), (slice(count, None), _relative(samples, poses, scale))):
        points = samples.points[half]
        columns, _, in_front = across_ray(points, relative, rays[half], basis[half])
        model = estimate_noise(columns[:, 7], points.norm(dim=-1), samples.confidence[half], samples.valid[half] & in_front, samples.grid)
        models.append(model)
    return models[0], models[1]


def _assemble(
    samples: Samples, poses: Tensor, scale: Tensor, intrinsics: Tensor, noise: tuple[NoiseModel, NoiseModel], options: RefineOptions
) -> System:
    count, num_frames = samples.points.shape[0] // 2, poses.shape[0]
    focals = 1 if options.shared_focal else num_frames
    size = 6 * num_frames + count + focals
    normal = torch.zeros(size, size).to(poses)
    gradient = torch.zeros(size).to(poses)
    rays = sample_rays(samples, intrinsics)
    basis = tangent_basis(rays)
    relative = _relative(samples, poses, scale)
    first, second = slice(0, count), slice(count, None)
    focal_index = 6 * num_frames + count + (samples.frame if not options.shared_focal else torch.zeros_like(samples.frame))
    # 1. across the rays, first maps: they only know the focal
    columns, local_first, front_first = across_ray(samples.points[first], None, rays[first], basis[first])
    small, omega_first = _summed(columns[:, 6:], noise[0], samples.valid[first] & front_first)
    _scatter(normal, gradient, small, focal_index[first][:, None])
    # 2. across the rays, second maps
    columns, local_second, front_second = across_ray(samples.points[second], relative, rays[second], basis[second])
    small, omega_second = _summed(columns, noise[1], samples.valid[second] & front_second)
    chain = pose_chain(poses, samples.host[second], samples.frame[second], relative, scale)  # (P, 6, 13)
    lift = torch.zeros(count, COLUMN_COUNT, 15).to(poses)
    lift[:, :6, :13], lift[:, 6, 13], lift[:, 7, 14] = chain, 1, 1
    six = torch.arange(6, device=poses.device)
    host, frame = samples.host[second], samples.frame[second]
    pair_index = 6 * num_frames + torch.arange(count, device=poses.device)
    index = torch.cat((6 * host[:, None] + six, 6 * frame[:, None] + six, pair_index[:, None], focal_index[second][:, None]), 1)
    _scatter(normal, gradient, lift.transpose(1, 2) @ small @ lift, index)
    # 3. along the rays: maps of one frame agree on its depth
    if not options.fixed_poses:
        # Nothing says how large the world is; without a hold, the temporal terms would shrink it.
        normal[pair_index[:, None], pair_index] += normal.diagonal()[pair_index].sum() + 1e4
    _depth_agreement(normal, gradient, samples, (local_first, local_second), (omega_first, omega_second), noise, chain, index, scale)
    return System(normal, gradient, num_frames, count)


COLUMN_COUNT = 8


def _summed(columns: Tensor, noise: NoiseModel, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Normal equations (M, C, C) of columns whose last one is the residual, and the pixels' weights (M, N)."""
    standard = columns / noise.smooth_std[:, None, None]
    squared = standard[:, -1].square().sum(1) * noise.weight
    omega = noise.weight * flat_top_weight(squared) * valid
    return normal_equations(standard, omega, noise), omega


def _scatter(normal: Tensor, gradient: Tensor, small: Tensor, index: Tensor) -> None:
    """Add small systems (M, c + 1, c + 1), the last column being the residual, at the unknowns `index` (M, c)."""
    core = small[:, :-1, :-1]
    normal.index_put_((index[:, :, None].expand_as(core), index[:, None].expand_as(core)), core, accumulate=True)
    gradient.index_put_((index,), small[:, :-1, -1], accumulate=True)


def _depth_agreement(
    normal: Tensor,
    gradient: Tensor,
    samples: Samples,
    local: tuple[Tensor, Tensor],
    omega: tuple[Tensor, Tensor],
    noise: tuple[NoiseModel, NoiseModel],
    chain: Tensor,
    index: Tensor,
    scale: Tensor,
) -> None:
    count = samples.points.shape[0] // 2
    area = samples.points.shape[1]
    weights = []
    for half in (0, 1):
        model = noise[half]
        # The smooth part of the noise makes a correlation area count as one pixel.
        inflation = 1 - model.share + model.share * min(4 * torch.pi * model.length**2, area / 2)
        size = samples.points[half * count : (half + 1) * count].norm(dim=-1)
        weights.append(omega[half] * (size / model.smooth_std).square() / inflation)
    depth_second, columns_second = log_depth_columns(local[1])
    log_depth = torch.cat((local[0][:, 2].clamp(min=1e-9).log(), depth_second)) + scale.log().repeat(2)[:, None]
    weight = torch.cat(weights)
    for frame in samples.frame.unique().tolist():
        maps = (samples.frame == frame).nonzero()[:, 0]
        if len(maps) < 2:
            continue
        depth, weight_here = log_depth[maps], weight[maps]
        middle = torch.where(weight_here > 0, depth, torch.full_like(depth, torch.nan)).nanmedian(0).values.nan_to_num()
        weight_here = weight_here * flat_top_weight((depth - middle).square() * weight_here * 4)
        rows, owner, unknowns, lifts = [], [], [], []
        for position, entry in enumerate(maps.tolist()):
            if entry < count:
                rows.append(torch.ones_like(depth[:1]))
                owner += [position]
                unknowns.append(index[entry, 12:13])
                lifts.append(torch.ones(1, 1).to(depth))
            else:
                rows.append(columns_second[entry - count])
                owner += [position] * 6
                unknowns.append(index[entry - count, :13])
                own = chain[entry - count].clone()
                lifts.append(own)
                rows.append(torch.ones_like(depth[:1]))
                owner += [position]
                unknowns.append(index[entry - count, 12:13])
                lifts.append(torch.ones(1, 1).to(depth))
        small, slope = along_ray(depth, weight_here, torch.cat(rows), torch.tensor(owner, device=depth.device))
        lift = torch.block_diag(*lifts)
        unknown = torch.cat(unknowns)
        core = lift.T @ small @ lift
        normal.index_put_((unknown[:, None].expand_as(core), unknown[None].expand_as(core)), core, accumulate=True)
        gradient.index_put_((unknown,), lift.T @ slope, accumulate=True)


def _motion_pull(system: System, free: Tensor, poses: Tensor, prior: MotionPrior | None) -> tuple[MotionPrior, tuple[Tensor, Tensor]]:
    """The motion prior at its estimated strength, as additions to the normal equations."""
    size = len(free)
    operator = torch.zeros(6 * (system.num_frames - 2), size).to(poses)
    operator[:, : system.poses] = second_difference(system.num_frames).to(poses)
    current = accelerations(poses)
    pose_free = free.clone()
    pose_free[system.poses :] = False
    rest_free = free.clone()
    rest_free[: system.poses] = False
    damped = _damped(system.normal)
    a, b, c = damped[pose_free][:, pose_free], damped[pose_free][:, rest_free], damped[rest_free][:, rest_free]
    solved = torch.linalg.solve(c, torch.cat((b.T, system.gradient[rest_free][:, None]), 1))
    marginal, slope = a - b @ solved[:, :-1], system.gradient[pose_free] - b @ solved[:, -1]
    prior = estimate_prior(marginal, slope, operator[:, pose_free], current, prior)
    precision = prior.precision(system.num_frames - 2).to(poses)
    return prior, (operator.T @ (precision[:, None] * operator), operator.T @ (precision * current))


def _damped(normal: Tensor) -> Tensor:
    """A trace of damping: it holds what nothing else does, e.g. the common scale."""
    diagonal = normal.diagonal()
    return normal + torch.diag(1e-9 * diagonal + 1e-9 * diagonal.mean().clamp(min=1e-12))


def _solve(normal: Tensor, gradient: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """Step (n,) and covariance (n, n), zero for what is fixed."""
    step, covariance = torch.zeros_like(gradient), torch.zeros_like(normal)
    inverse = torch.linalg.inv(_damped(normal[free][:, free]))
    step[free] = -inverse @ gradient[free]
    index = free.nonzero()[:, 0]
    covariance[index[:, None], index] = inverse
    return step, covariance


def _apply(
    poses: Tensor, scale: Tensor, intrinsics: Tensor, step: Tensor, options: RefineOptions
) -> tuple[Tensor, Tensor, Tensor]:
    num_frames, count = poses.shape[0], scale.shape[0]
    moves = step[: 6 * num_frames].unflatten(0, (num_frames, 6))
    poses = poses.clone()
    poses[:, :3, :3] = so3_exp(moves[:, :3]) @ poses[:, :3, :3]
    poses[:, :3, 3] += moves[:, 3:]
    scale = scale * step[6 * num_frames : 6 * num_frames + count].clamp(-1, 1).exp()
    focal = step[6 * num_frames + count :].clamp(-0.5, 0.5).exp()
    intrinsics = intrinsics.clone()
    intrinsics[:, 0, 0] *= focal
    intrinsics[:, 1, 1] *= focal
    return poses, scale, intrinsics
