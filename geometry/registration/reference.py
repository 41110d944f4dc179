"""The slow reference: DUSt3R's global alignment, plus the two temporal terms of JOG3R.

A depth per pixel, a focal and a pose per frame and a similarity per pair are all moved together by Adam for 300 steps. It is kept
as the oracle against which the fast method is measured, and as what the paper (arXiv 2501.01409) does at inference.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from jog3r.geometry.cameras import intrinsics_from_focal, invert, pixel_grid, pixel_rays, pose_from, transform, umeyama_sim3
from jog3r.geometry.registration.energy import BASE_SCALE, FOCAL_UNIT, AlignmentParameters, Pairwise, objective, pose_parameters
from jog3r.geometry.registration.joint_fit.initialisation import focal_from_pointmap, robust_camera_pose
from jog3r.geometry.registration.joint_fit.pair_terms import local_points
from jog3r.geometry.robust import weighted_median

_LEARNING_RATE, _LAST_LEARNING_RATE = 0.01, 1e-6
_ADAM_BETAS = (0.9, 0.9)
_PNP_FOCALS, _PNP_PIXELS, _PNP_INLIER_PX, _PNP_LEAST = 21, 512, 5.0, 50
_MIN_CONFIDENCE = 3.0  # DUSt3R's threshold for pixels that take part in PnP


@dataclass(frozen=True)
class ReferenceOptions:
    """What the reference may and may not move, and the weights of the temporal terms."""

    iterations: int = 300
    shared_focal: bool = False
    focal_px: Tensor | None = None  # (F,): fixed focals
    known_poses: Tensor | None = None  # (F, 4, 4): fixed poses
    focal_smoothness: float = 0.0  # weight of sum |l_f - l_(f+1)|^2, pixels
    translation_smoothness: float = 0.0  # weight of sum |t_f - t_(f+1)|^2 + |v_f - v_(f+1)|^2, in the objective's unit


def reference_alignment(data: Pairwise, num_frames: int, options: ReferenceOptions) -> tuple[AlignmentParameters, list[float]]:
    """Run the reference.

    Args:
        data: pairwise pointmaps without NaN or inf, all frames connected to frame 0.
        num_frames: F.
        options: see there.

    Returns:
        The final parameters (no gradient) and the energy before each step.
    """
    parameters = initial_parameters(data, num_frames, options)
    fixed: set[int] = set()
    if options.known_poses is not None:
        fixed.add(id(parameters.im_poses))
    if options.focal_px is not None:
        fixed.add(id(parameters.im_focals))
    free = [tensor.requires_grad_() for tensor in parameters.tensors() if id(tensor) not in fixed]
    moments = [(torch.zeros_like(tensor), torch.zeros_like(tensor)) for tensor in free]
    history: list[float] = []
    with torch.enable_grad():
        for step in range(options.iterations):
            cosine = (1 + math.cos(math.pi * step / options.iterations)) / 2
            rate = _LAST_LEARNING_RATE + (_LEARNING_RATE - _LAST_LEARNING_RATE) * cosine
            energy = objective(data, parameters)
            gradients = torch.autograd.grad(energy + temporal_terms(parameters, options), free)
            history.append(energy.item())
            _adam_step(free, gradients, moments, step + 1, rate)
    for tensor in parameters.tensors():
        tensor.requires_grad_(False)
    return parameters, history


@torch.no_grad()
def _adam_step(
    parameters: list[Tensor], gradients: tuple[Tensor, ...], moments: list[tuple[Tensor, Tensor]], step: int, rate: float
) -> None:
    """One step of Adam in place. Written out, since `torch.optim` takes seconds to import."""
    beta1, beta2 = _ADAM_BETAS
    for parameter, gradient, (first, second) in zip(parameters, gradients, moments, strict=True):
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        scale = (second / (1 - beta2**step)).sqrt_().add_(1e-8)
        parameter.addcdiv_(first, scale, value=-rate / (1 - beta1**step))


def temporal_terms(parameters: AlignmentParameters, options: ReferenceOptions) -> Tensor:
    """Weighted L_fl + L_transl of the paper, a scalar; the frames are in temporal order."""
    total = parameters.im_poses.new_zeros(())
    if options.focal_smoothness > 0:
        total = total + options.focal_smoothness * (parameters.focals().diff() ** 2).sum()
    if options.translation_smoothness > 0:
        velocity = parameters.cam_to_world()[:, :3, 3].diff(dim=0)  # (F - 1, 3)
        total = total + options.translation_smoothness * ((velocity**2).sum() + (velocity.diff(dim=0) ** 2).sum())
    return total


def initial_parameters(data: Pairwise, num_frames: int, options: ReferenceOptions) -> AlignmentParameters:
    """First state: a tree of the most confident pairs puts all points into one world, then PnP per frame."""
    height, width = data.size
    if not bool((data.confidence > 1).any() and (data.anchor_confidence > 1).any()):
        raise ValueError("method='reference' weighs pixels by log(confidence) and needs confidences above 1; add 1 to yours")
    world, focals, pair_to_world, scales = _grow_tree(data, num_frames)
    if options.focal_px is not None:
        focals = options.focal_px.to(world)
    poses_cam_to_world, focals = _frame_poses(data, world, focals, options)
    if options.known_poses is None:
        unit = BASE_SCALE / scales.log().mean().exp()
    else:
        known = options.known_poses.to(world)
        unit, rotation, translation = umeyama_sim3(_centres_and_axes(poses_cam_to_world)[None], _centres_and_axes(known)[None])
        to_known = pose_from(rotation[0] * unit[0], translation[0])
        world, pair_to_world = transform(to_known, world), to_known @ pair_to_world
        scales, poses_cam_to_world, unit = scales * unit[0], known, torch.ones_like(unit[0])
    world, scales = world * unit, scales * unit
    poses_cam_to_world = poses_cam_to_world.clone()
    poses_cam_to_world[:, :3, 3] *= unit
    depth = transform(invert(poses_cam_to_world), world)[..., 2].flatten(1)  # (F, H * W)
    log_depth = torch.where(depth > 0, depth.clamp(min=1e-12).log(), torch.zeros_like(depth))
    rotation = pair_to_world[:, :3, :3] / (pair_to_world[:, :1, :3].norm(dim=-1, keepdim=True))
    # The stored translation is multiplied by the pair's scale on use.
    rigid = pose_from(rotation, pair_to_world[:, :3, 3] * unit / scales[:, None])
    pair_parameters = torch.cat((pose_parameters(rigid), scales.log()[:, None]), dim=1)
    if options.shared_focal:
        focals = focals.log().mean().exp()[None]
    return AlignmentParameters(
        pose_parameters(poses_cam_to_world),
        FOCAL_UNIT * focals.log()[:, None],
        log_depth,
        pair_parameters,
        free_scale=options.known_poses is None,
    )


def _centres_and_axes(poses: Tensor) -> Tensor:
    """Points (4 F, 3) that show how a set of poses lies in the world: those of cameras in a row would leave a turn open."""
    centres = poses[:, None, :3, 3]  # (F, 1, 3)
    spread = (centres - centres.mean(0)).norm(dim=-1).mean()
    return torch.cat((centres, centres + spread * poses[:, :3, :3].mT), dim=1).flatten(0, 1)


def _grow_tree(data: Pairwise, num_frames: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """World points (F, H, W, 3), focals (F,) or 0, and pair similarities (P, 4, 4) with scales (P,)."""
    pairs = data.pairs.tolist()
    quality = data.anchor_confidence.flatten(1).mean(1) * data.confidence.flatten(1).mean(1)
    order = quality.argsort(descending=True).tolist()
    world = data.pointmaps.new_zeros(num_frames, *data.size, 3)
    first = order[0]
    i, j = pairs[first]
    world[i], world[j] = data.anchor_pointmaps[first], data.pointmaps[first]
    known, remaining = {i, j}, order[1:]
    while len(known) < num_frames:
        edge = next((e for e in remaining if (pairs[e][0] in known) != (pairs[e][1] in known)), None)
        if edge is None:
            raise ValueError(f"method='reference' needs a connected pair graph; {num_frames - len(known)} frames have no path")
        i, j = pairs[edge]
        anchors, points = (data.anchor_pointmaps, data.anchor_confidence), (data.pointmaps, data.confidence)
        seen, (maps, confidence), new, (new_maps, _) = (i, anchors, j, points) if i in known else (j, points, i, anchors)
        world[new] = transform(_similarity(maps[edge], world[seen], confidence[edge])[0], new_maps[edge])
        known.add(new)
        remaining.remove(edge)
    focals = data.pointmaps.new_zeros(num_frames)
    centred = pixel_grid(*data.size).flatten(0, 1).to(world) - torch.tensor([data.size[1] / 2, data.size[0] / 2]).to(world)
    best_first = focal_from_pointmap(
        data.anchor_pointmaps.flatten(1, 2).transpose(1, 2), centred.T, _counted(data.anchor_confidence)
    )
    for edge in reversed(order):
        focals[pairs[edge][0]] = best_first[edge]
    fits = [_similarity(data.anchor_pointmaps[e], world[pairs[e][0]], data.anchor_confidence[e]) for e in range(len(pairs))]
    return world, focals, torch.stack([fit[0] for fit in fits]), torch.stack([fit[1] for fit in fits])


def _counted(confidence: Tensor) -> Tensor:
    """Weights (P, N) of pixels: 1, or 0 for those that the objective does not count (invalid ones have confidence 1)."""
    return (confidence > 1).to(confidence).flatten(1)


def _similarity(source: Tensor, target: Tensor, confidence: Tensor) -> tuple[Tensor, Tensor]:
    """Similarity (4, 4) and its scale from source (H, W, 3) to target, weighted by confidence."""
    weights = confidence.flatten() * _counted(confidence[None])[0]
    scale, rotation, translation = umeyama_sim3(source.flatten(0, 1), target.flatten(0, 1), weights)
    return pose_from(scale * rotation, translation), scale


def _frame_poses(data: Pairwise, world: Tensor, focals: Tensor, options: ReferenceOptions) -> tuple[Tensor, Tensor]:
    """Poses (F, 4, 4) and focals (F,) by PnP; frames that are never first in a pair try a ladder of focals."""
    height, width = data.size
    num_frames = world.shape[0]
    confidence = world.new_zeros(num_frames, height, width)
    for maps, frames in ((data.anchor_confidence, data.pairs[:, 0]), (data.confidence, data.pairs[:, 1])):
        for entry, frame in enumerate(frames.tolist()):
            confidence[frame] = torch.maximum(confidence[frame], maps[entry])
    weights = (confidence > _MIN_CONFIDENCE).to(world).flatten(1)
    # A frame whose confidences are all low still gets a pose, from all its pixels.
    weights = torch.where((weights.sum(1) < _PNP_LEAST)[:, None], (confidence > 1).to(world).flatten(1), weights)
    chosen = spread_pixels(height, width, _PNP_PIXELS).to(world.device)
    points, weights = world.flatten(1, 2).transpose(1, 2)[..., chosen], weights[:, chosen]

    def poses_at(focal: Tensor) -> tuple[Tensor, Tensor]:
        rays = pixel_rays(intrinsics_from_focal(focal, height, width), height, width).flatten(1, 2).transpose(1, 2)[..., chosen]
        poses, _ = robust_camera_pose(points, rays, weights)
        poses = poses.to(points)
        return poses, _inlier_score(points, rays, weights, poses, focal)

    if options.shared_focal and options.focal_px is None:
        focals = weighted_median(focals, (focals > 0).to(focals)).expand(num_frames)
    if bool((focals <= 0).all()):
        focals = torch.full_like(focals, 0.96 * max(height, width))
    return _best_focal(poses_at, focals, max(height, width))


def spread_pixels(height: int, width: int, count: int) -> Tensor:
    """Numbers (about `count`,) of pixels on a grid over the whole picture; every n-th of all could lie in one column."""
    step = max(1, math.isqrt(height * width // count))
    return torch.arange(height * width).unflatten(0, (height, width))[::step, ::step].flatten()


def _best_focal(poses_at: Callable[[Tensor], tuple[Tensor, Tensor]], focals: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Poses and focals; where the focal is 0 the one of a geometric ladder with the best inliers."""
    unknown = focals <= 0
    if not unknown.any():
        return poses_at(focals)[0], focals
    ladder = torch.logspace(math.log10(size / 2), math.log10(size * 3), _PNP_FOCALS).to(focals)
    best_focals = torch.where(unknown, ladder[0], focals)
    best_poses, best_score = poses_at(best_focals)
    for rung in ladder[1:]:
        candidate = torch.where(unknown, rung, focals)
        poses, score = poses_at(candidate)
        better = score > best_score
        best_poses = torch.where(better[:, None, None], poses, best_poses)
        best_focals = torch.where(better, candidate, best_focals)
        best_score = torch.where(better, score, best_score)
    return best_poses, best_focals


def _inlier_score(points: Tensor, rays: Tensor, weights: Tensor, poses: Tensor, focal: Tensor) -> Tensor:
    """Score (F,) of the points (F, 3, N): each counts 1 - (offset / 5 px)^2, or 0 from 5 px on or behind the camera."""
    local = local_points(points, invert(poses))
    offset_px = (local[:, :2] / local[:, 2:].clamp(min=1e-9) - rays[:, :2]).square().sum(1).sqrt() * focal[:, None]
    score = (1 - (offset_px / _PNP_INLIER_PX) ** 2).clamp(min=0) * (local[:, 2] > 0)
    return (weights * score).sum(1)
