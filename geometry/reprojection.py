"""Seeing all frames of a clip from its first: for each pixel of frame 1, what the other frames show at the same 3D point.

Letters: F frames, C channels, H W pixels.
"""

import torch
import torch.nn.functional as functional
from torch import Tensor

from jog3r.geometry.cameras import check_tensors, invert, project, transform, unproject

__all__ = ["OCCLUSION_TOLERANCE", "inside_image", "seen_from_first"]

OCCLUSION_TOLERANCE = 0.05  # share of the depth by which a point may lie behind a frame's surface and still be seen there


def seen_from_first(
    values: Tensor,  # (F, C, H, W)
    depth: Tensor,  # (F, H, W)
    poses: Tensor,  # (F, 4, 4)
    intrinsics: Tensor,  # (F, 3, 3)
    valid: Tensor | None = None,  # (F, H, W)
    occlusion_tolerance: float = OCCLUSION_TOLERANCE,
) -> tuple[Tensor, Tensor]:
    """Carry frames 2..F to the pixels of frame 1.

    Args:
        values: what the frames show, such as colours.
        depth: z of every pixel in its own camera.
        poses: camera-to-world.
        intrinsics: in pixels.
        valid: bool, where the depth is known; None: everywhere.
        occlusion_tolerance: share of the depth by which a point may lie behind what frame f shows and still count as seen.

    Returns:
        Values (F-1, C, H, W), bilinear at the place in frame f where the point of frame 1's pixel lies; and (F-1, H, W) bool,
        False where that place is outside frame f, hidden there, behind its camera, or without known depth.
    """
    check_tensors(values=values, depth=depth, poses=poses, intrinsics=intrinsics, valid=depth if valid is None else valid)
    count, channels, (height, width) = len(values), values.shape[1], values.shape[-2:]
    known = torch.ones_like(depth, dtype=torch.bool) if valid is None else valid
    world = transform(poses[0], unproject(depth[0], intrinsics[0]))  # (H, W, 3)
    points = transform(invert(poses[1:]), world.expand(count - 1, -1, -1, -1))  # (F-1, H, W, 3)
    pixels = project(points, intrinsics[1:])  # (F-1, H, W, 2)
    found = _sample(torch.cat((values[1:], depth[1:, None], known[1:, None].to(values.dtype)), dim=1), pixels)  # (F-1, C+2, H, W)
    in_front = points[..., 2] > 0
    unhidden = points[..., 2] <= found[:, channels] * (1 + occlusion_tolerance)
    seen = in_front & unhidden & (found[:, channels + 1] > 0.999) & known[0] & inside_image(pixels, height, width)
    return found[:, :channels].to(values.dtype), seen


def inside_image(pixels: Tensor, height: int, width: int) -> Tensor:
    """Whether pixels (..., 2), centres at integers, lie between the first and the last pixel centres; (...) bool."""
    check_tensors(pixels=pixels)
    x, y = pixels.unbind(-1)
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def _sample(maps: Tensor, pixels: Tensor) -> Tensor:
    """Bilinear samples (F, C, H, W), at least float32, of maps at pixels (F, H, W, 2), centres at integers; borders repeat."""
    height, width = maps.shape[-2:]
    # Half precision would blur the masks among the maps.
    work = maps if maps.dtype == torch.float64 else maps.float()
    grid = pixels.to(work) / torch.tensor([max(width - 1, 1), max(height - 1, 1)], device=maps.device) * 2 - 1
    return functional.grid_sample(work, grid, mode="bilinear", padding_mode="border", align_corners=True)
