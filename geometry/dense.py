"""Dense depth of all frames, given cameras and pair scales: closed form per pixel, chunked over maps."""

import torch
from torch import Tensor

from jog3r.geometry.cameras import invert, pixel_rays, transform
from jog3r.geometry.energy import Pairwise


def dense_depth(
    data: Pairwise,
    masks: tuple[Tensor, Tensor],  # anchor_valid, valid: (P, H, W) bool
    poses: Tensor,  # (F, 4, 4)
    intrinsics: Tensor,  # (F, 3, 3)
    pair_scale: Tensor,  # (P,)
    iterations: int = 3,
) -> tuple[Tensor, Tensor]:
    """Depth (F, H, W), 0 where unknown, and confidence (F, H, W), 0 where no map is valid; float32.

    A frame seen once takes the point on each pixel's ray nearest to the pair's point. A frame seen in several pairs takes the
    reweighted mean of these points' depths, with weights log(confidence) / distance: the depth that minimises DUSt3R's objective.
    """
    frames = torch.cat((data.pairs[:, 0], data.pairs[:, 1]))
    num_frames, (height, width) = poses.shape[0], data.size
    depth = torch.zeros(num_frames, height, width, device=frames.device)
    confidence = torch.zeros_like(depth)
    rays = pixel_rays(intrinsics.float(), height, width)  # (F, H, W, 3)
    for frame in range(num_frames):
        members = (frames == frame).nonzero()[:, 0].tolist()
        if not members:
            continue
        along, across, weight, best = _observations(data, masks, members, invert(poses), poses, pair_scale, rays[frame])
        total = weight.sum(0)
        estimate = (weight * along).sum(0) / total.clamp(min=1e-30)  # (H, W)
        if len(members) > 1:
            ray_length = rays[frame].norm(dim=-1)
            for _ in range(iterations):
                distance = (((along - estimate) * ray_length) ** 2 + across).sqrt()
                closer = weight / distance.clamp(min=1e-6 * estimate.abs().clamp(min=1e-12))
                estimate = (closer * along).sum(0) / closer.sum(0).clamp(min=1e-30)
        depth[frame] = torch.where((total > 0) & (estimate > 0), estimate, 0.0)
        confidence[frame] = torch.where(depth[frame] > 0, best, 0.0)
    return depth, confidence


def _observations(
    data: Pairwise, masks: tuple[Tensor, Tensor], members: list[int], world_to_cam: Tensor, poses: Tensor, pair_scale: Tensor, rays: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of the maps that show one frame: depth along the ray and squared offset across it (m, H, W), weight, highest confidence."""
    num_pairs = data.pairs.shape[0]
    ray_square = (rays**2).sum(-1)
    along, across, weights, best = [], [], [], torch.zeros_like(rays[..., 0])
    for member in members:
        edge, second = member % num_pairs, member >= num_pairs
        maps = data.pointmaps[edge] if second else data.anchor_pointmaps[edge]
        points = maps * pair_scale[edge].float()
        if second:
            host, own = data.pairs[edge].tolist()
            points = transform((world_to_cam[own] @ poses[host]).float(), points)
        confidence = data.confidence[edge] if second else data.anchor_confidence[edge]
        valid = masks[1][edge] if second else masks[0][edge]
        depth = (points * rays).sum(-1) / ray_square
        valid = valid & (depth > 0)
        along.append(depth)
        across.append(((points - depth[..., None] * rays) ** 2).sum(-1))
        # Confidence 1 weighs nothing in the objective, yet where it is all there is it must give a depth.
        weights.append(torch.where(valid, confidence.log().clamp(min=1e-6), 0.0))
        best = torch.where(valid, torch.maximum(best, confidence), best)
    return torch.stack(along), torch.stack(across), torch.stack(weights), best
