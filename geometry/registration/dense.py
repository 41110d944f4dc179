"""Depth of all pixels, given cameras and pair scales: closed form per pixel, some frames at a time."""

from dataclasses import dataclass

import torch
from torch import Tensor

from jog3r.geometry.cameras import invert, pixel_rays
from jog3r.geometry.registration.energy import BASE_SCALE, Pairwise

_REWEIGHTINGS = 3
_FAR = 1e15


@dataclass(frozen=True)
class Dense:
    """Depth of F frames, and how well it explains the pairs; float32."""

    depth: Tensor  # (F, H, W), 0 where unknown
    confidence: Tensor  # (F, H, W) the highest of any pair, 0 where depth is
    pointmaps: Tensor  # (F, H, W, 3) in the world; the camera's centre where depth is 0
    energy: float  # DUSt3R's objective at this state with every pair in the camera of its first frame, at its own scale


def dense_depth(
    data: Pairwise,
    masks: tuple[Tensor, Tensor],  # anchor_valid, valid: (P, H, W) bool
    poses: Tensor,  # (F, 4, 4)
    intrinsics: Tensor,  # (F, 3, 3)
    pair_scale: Tensor,  # (P,)
    chunk_maps: int = 32,
) -> Dense:
    """The depths that minimise DUSt3R's objective for given cameras.

    A frame seen once takes the point on each pixel's ray nearest to the pair's point. A frame seen in several pairs takes the
    reweighted mean of these points' depths, with weights log(confidence) / distance.

    Args:
        data: the pairwise pointmaps.
        masks: which of their pixels are valid.
        poses: camera-to-world.
        intrinsics: in pixels of the maps.
        pair_scale: by which a pair's points are multiplied to have the world's unit of length.
        chunk_maps: maps worked on at a time, unless one frame alone has more.
    """
    height, width = data.size
    num_frames, count = poses.shape[0], len(data.pairs)
    depth = torch.zeros(num_frames, height * width, dtype=torch.float32, device=poses.device)
    confidence, world = torch.zeros_like(depth), depth.new_zeros(num_frames, height * width, 3)
    second = invert(poses)[data.pairs[:, 1]] @ poses[data.pairs[:, 0]]  # (P, 4, 4) host -> own camera
    first = torch.eye(4, dtype=poses.dtype, device=poses.device).expand_as(second)
    to_own = torch.cat((first, second))  # (2 P, 4, 4)
    scaled = (to_own[:, :3, :3] * pair_scale.repeat(2)[:, None, None]).float()
    offset, poses = to_own[:, :3, 3:].float(), poses.float()
    alike = bool((intrinsics == intrinsics[:1]).all())
    rays = pixel_rays(intrinsics[:1] if alike else intrinsics, height, width).float().flatten(1, 2).transpose(1, 2).contiguous()
    rays = rays.expand(num_frames, -1, -1)  # (F, 3, N)
    total = depth.new_zeros((), dtype=torch.float64)
    for frames, maps in _groups(data.pairs, num_frames, chunk_maps):
        shape = (len(frames), len(maps) // len(frames))  # g, m
        points = torch.stack([(data.anchor_pointmaps, data.pointmaps)[e >= count][e % count] for e in maps]).flatten(1, 2)
        weights = torch.stack([(data.anchor_confidence, data.confidence)[e >= count][e % count] for e in maps]).flatten(1)
        valid = torch.stack([masks[e >= count][e % count] for e in maps]).flatten(1)
        points = torch.baddbmm(offset[maps], scaled[maps], points.transpose(1, 2))  # (g * m, 3, N) in their own cameras
        points.clamp_(-_FAR, _FAR)  # nonsense, whose squares must yet stay numbers
        own_rays, weights = rays[frames], weights.unflatten(0, shape)
        found, best, distance = _fuse(points.unflatten(0, shape), weights, valid.unflatten(0, shape), own_rays)
        depth[frames], confidence[frames] = found, best
        total += (weights.clamp(min=1).log() * distance).sum()
        local = found[:, None] * own_rays  # (g, 3, N)
        world[frames] = torch.baddbmm(poses[frames, :3, 3:], poses[frames, :3, :3], local).transpose(1, 2)
    unit = BASE_SCALE / pair_scale.log().mean().exp()
    return Dense(
        depth.unflatten(1, data.size),
        confidence.unflatten(1, data.size),
        world.unflatten(1, data.size),
        float(total * unit / data.confidence.numel()),
    )


def _groups(pairs: Tensor, num_frames: int, chunk_maps: int) -> list[tuple[list[int], list[int]]]:
    """Frames that equally many maps show, and these maps (0..P-1 the first, P..2P-1 the second ones), frame by frame."""
    maps_of: dict[int, list[int]] = {frame: [] for frame in range(num_frames)}
    for entry, frame in enumerate(pairs.T.flatten().tolist()):
        maps_of[frame].append(entry)
    by_count: dict[int, list[int]] = {}
    for frame, maps in maps_of.items():
        by_count.setdefault(len(maps), []).append(frame)
    by_count.pop(0, None)
    groups = []
    for count, frames in by_count.items():
        size = max(1, chunk_maps // count)
        for start in range(0, len(frames), size):
            chosen = frames[start : start + size]
            groups.append((chosen, [entry for frame in chosen for entry in maps_of[frame]]))
    return groups


def _fuse(
    points: Tensor,  # (g, m, 3, N) in the cameras of g frames, m maps of each; overwritten
    confidence: Tensor,  # (g, m, N)
    valid: Tensor,  # (g, m, N) bool
    rays: Tensor,  # (g, 3, N)
) -> tuple[Tensor, Tensor, Tensor]:
    """Depth and highest confidence (g, N) of each frame, 0 where no map is valid, and the distances (g, m, N) that are left."""
    square = rays.square().sum(1)[:, None]  # (g, 1, N)
    depths = (points * rays[:, None]).sum(2) / square  # (g, m, N)
    valid = valid & (depths > 0)
    best = torch.where(valid, confidence, 0.0).amax(1)
    estimate = depths[:, 0]
    if points.shape[1] > 1:
        # Confidence 1 weighs nothing in the objective, yet where it is all there is it must give a depth.
        weights = torch.where(valid, confidence.log().clamp(min=1e-6), 0.0)
        across = points.square().sum(2) - depths.square() * square
        estimate = (weights * depths).sum(1) / weights.sum(1).clamp(min=1e-30)
        for _ in range(_REWEIGHTINGS):
            distance = ((depths - estimate[:, None]).square() * square + across).clamp(min=0).sqrt()
            closer = weights / torch.maximum(distance, 1e-6 * estimate[:, None] + 1e-30)
            estimate = (closer * depths).sum(1) / closer.sum(1).clamp(min=1e-30)
    estimate = torch.where(best > 0, estimate, 0.0)
    left = points.addcmul_(estimate[:, None, None], rays[:, None], value=-1).square_().sum(2).sqrt_()
    return estimate, best, left


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
