"""Dense depth of all frames, given cameras and pair scales: closed form per pixel, one frame at a time."""

import torch
from torch import Tensor

from jog3r.geometry.cameras import invert, pixel_rays
from jog3r.geometry.energy import Pairwise

_REWEIGHTINGS = 3


def dense_depth(
    data: Pairwise,
    masks: tuple[Tensor, Tensor],  # anchor_valid, valid: (P, H, W) bool
    poses: Tensor,  # (F, 4, 4)
    intrinsics: Tensor,  # (F, 3, 3)
    pair_scale: Tensor,  # (P,)
) -> tuple[Tensor, Tensor]:
    """Depth (F, H, W), 0 where unknown, and confidence (F, H, W), 0 where depth is; float32.

    A frame seen once takes the point on each pixel's ray nearest to the pair's point. A frame seen in several pairs takes the
    reweighted mean of these points' depths, with weights log(confidence) / distance: the depth that minimises DUSt3R's objective.
    """
    height, width = data.size
    num_frames = poses.shape[0]
    depth = torch.zeros(num_frames, height, width, device=poses.device)
    confidence = torch.zeros_like(depth)
    second = invert(poses)[data.pairs[:, 1]] @ poses[data.pairs[:, 0]]  # (P, 4, 4) host -> own camera
    second = torch.cat((second[:, :3, :3] * pair_scale[:, None, None], second[:, :3, 3:]), dim=2).float()
    rays = pixel_rays(intrinsics[:1].float(), height, width)[0]  # (H, W, 3)
    alike = bool((intrinsics == intrinsics[:1]).all())
    for frame in range(num_frames):
        if not alike:
            rays = pixel_rays(intrinsics[frame].float(), height, width)
        as_first = (data.pairs[:, 0] == frame).nonzero()[:, 0].tolist()
        as_second = (data.pairs[:, 1] == frame).nonzero()[:, 0].tolist()
        parts = [(data.anchor_pointmaps[e] * pair_scale[e].float(), data.anchor_confidence[e], masks[0][e]) for e in as_first]
        for e in as_second:
            points = torch.addmm(second[e, :, 3], data.pointmaps[e].flatten(0, 1), second[e, :, :3].T)
            parts.append((points.unflatten(0, (height, width)), data.confidence[e], masks[1][e]))
        if parts:
            depth[frame], confidence[frame] = _fuse(parts, rays)
    return depth, confidence


def _fuse(parts: list[tuple[Tensor, Tensor, Tensor]], rays: Tensor) -> tuple[Tensor, Tensor]:
    """Depth and confidence (H, W) from maps of one frame: points in its camera, confidence, valid."""
    ray_square = rays.square().sum(-1)
    along, across, weights, best = [], [], [], torch.zeros_like(ray_square)
    for points, confidence, valid in parts:
        depth = (points * rays).sum(-1) / ray_square
        valid = valid & (depth > 0)
        along.append(depth)
        if len(parts) > 1:
            across.append(points.square().sum(-1) - depth.square() * ray_square)
        # Confidence 1 weighs nothing in the objective, yet where it is all there is it must give a depth.
        weights.append(torch.where(valid, confidence.log().clamp(min=1e-6), 0.0))
        best = torch.where(valid, torch.maximum(best, confidence), best)
    if len(parts) == 1:
        return torch.where(best > 0, along[0], 0.0), best
    depths, offsets, weight = torch.stack(along), torch.stack(across), torch.stack(weights)  # (m, H, W)
    estimate = (weight * depths).sum(0) / weight.sum(0).clamp(min=1e-30)
    for _ in range(_REWEIGHTINGS):
        distance = (((depths - estimate).square() * ray_square + offsets).clamp(min=0)).sqrt()
        closer = weight / torch.maximum(distance, 1e-6 * estimate + 1e-30)
        estimate = (closer * depths).sum(0) / closer.sum(0).clamp(min=1e-30)
    return torch.where(best > 0, estimate, 0.0), best


def frame_confidence(data: Pairwise, masks: tuple[Tensor, Tensor], num_frames: int) -> Tensor:
    """The highest confidence (F, H, W) that any pair gives to a pixel; 0 where none is valid."""
    confidence = data.confidence.new_zeros(num_frames, *data.size)
    for values, mask, frames in (
        (data.anchor_confidence, masks[0], data.pairs[:, 0]),
        (data.confidence, masks[1], data.pairs[:, 1]),
    ):
        values = torch.where(mask, values, 0.0)
        for entry, frame in enumerate(frames.tolist()):
            confidence[frame] = torch.maximum(confidence[frame], values[entry])
    return confidence
