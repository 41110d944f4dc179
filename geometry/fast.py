"""The fast method: per-pair scale, robust focal and robust poses in closed form or few steps, then one joint refinement."""

from dataclasses import dataclass

import torch
from torch import Tensor

from jog3r.geometry.cameras import invert, pixel_grid, transform
from jog3r.geometry.energy import Pairwise
from jog3r.geometry.initialisation import focal_from_pointmap, robust_camera_pose
from jog3r.geometry.robust import weighted_median


@dataclass(frozen=True)
class Samples:
    """The pixels that take part in the solve, float64 (M = 2 P maps: the first maps of all pairs, then the second; N pixels)."""

    points: Tensor  # (M, N, 3) in the camera of `host`
    confidence: Tensor  # (M, N)
    valid: Tensor  # (M, N) bool
    host: Tensor  # (M,) frame whose camera the points are in
    frame: Tensor  # (M,) frame whose pixels they are
    pair: Tensor  # (M,)
    pixels: Tensor  # (N, 2) u, v
    grid: tuple[int, int]  # rows and columns of the sampled grid


@dataclass
class FastState:
    """What the fast method estimates, in the unit of the pair with scale 1."""

    poses: Tensor  # (F, 4, 4) camera-to-world
    intrinsics: Tensor  # (F, 3, 3)
    pair_scale: Tensor  # (P,)
    reached: Tensor  # (F,) bool: connected to frame 1 by valid pixels


def take_samples(data: Pairwise, anchor_valid: Tensor, valid: Tensor, max_pixels: int) -> Samples:
    """Every k-th pixel of every k-th row, k as small as `max_pixels` allows."""
    height, width = data.size
    step = 1
    while -(-height // step) * -(-width // step) > max_pixels:
        step += 1
    start = (step - 1) // 2
    rows, columns = slice(start, None, step), slice(start, None, step)
    grid = pixel_grid(height, width, dtype=torch.float64, device=data.pointmaps.device)[rows, columns]
    points = torch.cat((data.anchor_pointmaps[:, rows, columns], data.pointmaps[:, rows, columns])).flatten(1, 2).double()
    confidence = torch.cat((data.anchor_confidence[:, rows, columns], data.confidence[:, rows, columns])).flatten(1).double()
    mask = torch.cat((anchor_valid[:, rows, columns], valid[:, rows, columns])).flatten(1)
    first, second = data.pairs.T
    return Samples(
        points,
        confidence,
        mask,
        torch.cat((first, first)),
        torch.cat((first, second)),
        torch.arange(len(first), device=first.device).repeat(2),
        grid.flatten(0, 1),
        (grid.shape[0], grid.shape[1]),
    )


def sample_rays(samples: Samples, intrinsics: Tensor) -> Tensor:
    """Rays (M, N, 3) with z = 1 through the sampled pixels, in the camera of each map's frame, for intrinsics (F, 3, 3)."""
    own = intrinsics[samples.frame]  # (M, 3, 3)
    focal = torch.stack((own[:, 0, 0], own[:, 1, 1]), dim=-1)[:, None]
    xy = (samples.pixels - own[:, None, :2, 2]) / focal  # (M, N, 2)
    return torch.cat((xy, torch.ones_like(xy[..., :1])), dim=-1)


def first_focals(samples: Samples, num_frames: int, size: tuple[int, int], shared: bool) -> Tensor:
    """Focals (F,) from the maps that are in their own camera; frames without such a map get the median of the others."""
    half = samples.points.shape[0] // 2
    centred = samples.pixels - samples.pixels.new_tensor([size[1] / 2, size[0] / 2])
    weights = samples.confidence[:half] * samples.valid[:half]
    focal = focal_from_pointmap(samples.points[:half], centred, weights)  # (P,)
    smallest, largest = 0.1 * max(size), 20.0 * max(size)
    strength = torch.where((focal > smallest) & (focal < largest), weights.sum(-1), torch.zeros_like(focal))
    if not bool((strength > 0).any()):
        # Nothing says what the focal is: 55 degrees across the longer side, as an ordinary camera; the fit will tell if it is wrong.
        return focal.new_full((num_frames,), 0.96 * max(size))
    shared_focal = weighted_median(focal, strength)
    focals = shared_focal.expand(num_frames).clone()
    if not shared:
        for frame in samples.frame[:half].unique().tolist():
            mine = samples.frame[:half] == frame
            if bool((strength[mine] > 0).any()):
                focals[frame] = weighted_median(focal[mine], strength[mine])
    return focals


def pair_poses(samples: Samples, rays: Tensor) -> tuple[Tensor, Tensor]:
    """Pose (P, 4, 4) of each pair's second camera in its first, and fit (P,) in radians."""
    half = samples.points.shape[0] // 2
    weights = samples.confidence[half:] * samples.valid[half:]
    return robust_camera_pose(samples.points[half:], rays[half:], weights)


def grow_tree(samples: Samples, relative: Tensor, fit: Tensor, num_frames: int) -> FastState:
    """Poses and pair scales from the first frame outwards, over the best-fitting pairs, level by level."""
    half = samples.points.shape[0] // 2
    pairs = torch.stack((samples.frame[:half], samples.frame[half:]), dim=1)
    local = transform(invert(relative), samples.points[half:])  # second maps in their own camera
    z = torch.cat((samples.points[:half, :, 2], local[..., 2]))  # (M, N)
    weights = torch.where(samples.valid & (z > 0), samples.confidence, torch.zeros_like(z))
    log_depth = z.clamp(min=1e-12).log()
    poses = torch.eye(4).to(relative).repeat(num_frames, 1, 1)
    scale = torch.ones_like(fit)
    placed = torch.zeros_like(fit, dtype=torch.bool)
    reached = torch.zeros(num_frames, dtype=torch.bool, device=fit.device)
    frame_depth, frame_weight = z.new_zeros(num_frames, z.shape[1]), z.new_zeros(num_frames, z.shape[1])
    reached[0] = True
    usable = fit < 1.0
    while True:
        ends = reached[pairs]  # (P, 2)
        edges = (ends.any(1) & ~placed & usable).nonzero()[:, 0]
        if not len(edges):
            return FastState(poses, torch.empty(0), scale, reached)
        for edge in edges[fit[edges].argsort()].tolist():
            i, j = pairs[edge].tolist()
            known, maps = (i, edge) if reached[i] else (j, half + edge)
            both = weights[maps] * frame_weight[known]
            if bool((both > 0).any()):
                scale[edge] = weighted_median(frame_depth[known] - log_depth[maps], both).exp()
            step = relative[edge].clone()
            step[:3, 3] *= scale[edge]
            if not reached[i]:
                poses[i] = poses[j] @ invert(step)
            elif not reached[j]:
                poses[j] = poses[i] @ step
            for frame, source in ((i, edge), (j, half + edge)):
                if not bool((frame_weight[frame] > 0).any()):
                    frame_depth[frame], frame_weight[frame] = log_depth[source] + scale[edge].log(), weights[source]
                reached[frame] = True
            placed[edge] = True
