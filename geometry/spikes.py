"""Pixels whose distance alone is wrong: seen along the ray they fit perfectly, yet they pull camera motions towards zero.

They are found by their neighbours: a map's log distances vary little within a few pixels, and where they do vary (depth edges)
the local spread says so.
"""

import torch
from torch import Tensor

_RADIUS = 2  # grid pixels
_SIGMAS = 4.0
_ROUNDS = 3
_LEAST_SPREAD = 0.01  # of log distance; a smaller local spread does not make its neighbours outliers


def without_spikes(points: Tensor, valid: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mask (M, N) of the valid pixels whose distance agrees with their neighbourhood's.

    Args:
        points: (M, 3, N) in the camera of their host.
        valid: (M, N) bool.
        grid: h, w with h * w = N; maps narrower than the neighbourhood are returned as they are.
    """
    if min(grid) < 2 * _RADIUS + 1:
        return valid
    log_size = torch.where(valid, points.square().sum(1).clamp(min=1e-30).log() / 2, 0.0)
    mask = valid.to(points)
    keep = mask
    for _ in range(_ROUNDS):
        count = box_sum(keep, grid, _RADIUS) - keep
        mean = (box_sum(log_size * keep, grid, _RADIUS) - log_size * keep) / count.clamp(min=1)
        gap = (log_size - mean).square()
        # The spread without the pixel itself, so that a spike does not excuse itself.
        spread = (box_sum(gap * keep, grid, _RADIUS) - gap * keep) / count.clamp(min=1)
        keep = mask * (gap < _SIGMAS**2 * spread.clamp(min=_LEAST_SPREAD**2)) * (count > 3)
    return keep > 0


def box_sum(fields: Tensor, grid: tuple[int, int], radius: int) -> Tensor:
    """Sums (..., N) over the square of 2 radius + 1 grid pixels around each pixel."""
    bands = []
    for n in grid:
        index = torch.arange(n, device=fields.device)
        bands.append(((index[:, None] - index).abs() <= radius).to(fields))
    return (bands[0] @ (fields.unflatten(-1, grid) @ bands[1])).flatten(-2)
