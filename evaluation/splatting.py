"""Soft point splatting on tensors: points become discs that are sorted by depth and composited front to back.

The rules are those of PyTorch3D's point rasteriser with alpha compositing, which MEt3R uses (arXiv 2501.06336); the code is ours.
Letters: N points, C channels, H W pixels, K points kept a pixel, M point-pixel hits.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Splat:
    """A rendered picture.

    Attributes:
        values (H,W,C): composited values; 0 where no point falls.
        hit (H,W) bool: a point falls there.
        coverage (H,W): share of light stopped by the points, 0 to 1.
        depth (H,W): depth of the nearest point; infinity where there is none.
    """

    values: Tensor
    hit: Tensor
    coverage: Tensor
    depth: Tensor


def splat_points(
    pixels: Tensor,
    depth: Tensor,
    values: Tensor,
    height: int,
    width: int,
    radius_px: float,
    points_per_pixel: int = 10,
) -> Splat:
    """Composite discs of `radius_px` around `pixels`.

    A disc's opacity at distance d is 1 - d^2 / radius^2; the nearest `points_per_pixel` discs count, in order of depth, then of
    index. Points behind the camera (depth < 0) are left out.

    Args:
        pixels (N,2): x, y; pixel centres at integers.
        depth (N,): distance along the optical axis.
        values (N,C): what the points carry.

    Raises:
        ValueError: a radius that is not positive, shapes that do not fit.
    """
    if radius_px <= 0 or points_per_pixel < 1:
        raise ValueError(f"need radius_px > 0 and points_per_pixel >= 1, got {radius_px} and {points_per_pixel}")
    if pixels.shape != (len(depth), 2) or len(values) != len(depth):
        raise ValueError(f"pixels, depth and values must agree, got {tuple(pixels.shape)}, {len(depth)} and {len(values)}")
    point, pixel, opacity = _hits(pixels, depth, height, width, radius_px)  # (M,) each, by point
    # Two stable sorts: the final order is by pixel, then depth, then point.
    by_depth = torch.argsort(depth[point], stable=True)
    order = by_depth[torch.argsort(pixel[by_depth], stable=True)]
    point, pixel, opacity = point[order], pixel[order], opacity[order]
    rank = torch.arange(len(pixel), device=pixel.device) - torch.searchsorted(pixel, pixel)
    kept = rank < points_per_pixel
    point, pixel, opacity, rank = point[kept], pixel[kept], opacity[kept], rank[kept]

    stack = opacity.new_zeros(height * width, points_per_pixel)
    stack[pixel, rank] = opacity
    light = torch.cumprod(1 - stack, dim=1)  # what is left behind each disc
    before = torch.cat((torch.ones_like(light[:, :1]), light[:, :-1]), dim=1)
    weight = (stack * before)[pixel, rank]
    picture = values.new_zeros(height * width, values.shape[1])
    picture.index_add_(0, pixel, weight[:, None].to(values.dtype) * values[point])
    nearest = depth.new_full((height * width,), torch.inf)
    nearest[pixel[rank == 0]] = depth[point[rank == 0]]
    hit = torch.isfinite(nearest)
    return Splat(
        picture.unflatten(0, (height, width)),
        hit.unflatten(0, (height, width)),
        (1 - light[:, -1]).unflatten(0, (height, width)),
        nearest.unflatten(0, (height, width)),
    )


def _hits(pixels: Tensor, depth: Tensor, height: int, width: int, radius_px: float) -> tuple[Tensor, Tensor, Tensor]:
    """Point number, pixel number and opacity (M,) of every pixel centre inside a disc, in the order of the points."""
    reach = int(radius_px) + 1
    steps = torch.arange(-reach, reach + 1, device=pixels.device)
    offsets = torch.cartesian_prod(steps, steps).to(pixels.dtype)  # (window, 2)
    centre = pixels.round()[:, None] + offsets  # (N, window, 2)
    opacity = 1 - ((centre - pixels[:, None]) ** 2).sum(-1) / radius_px**2  # (N, window)
    x, y = centre.unbind(-1)
    inside = (opacity > 0) & (x >= 0) & (x < width) & (y >= 0) & (y < height) & (depth >= 0)[:, None]
    point, place = inside.nonzero(as_tuple=True)
    return point, (y[point, place] * width + x[point, place]).long(), opacity[point, place]
