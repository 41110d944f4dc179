"""Errors of points along their rays, which a camera nearby cannot see, yet which bend its pose (errors in variables).

What tells a sideways step from a turn is how the points' shifts depend on their distances. Noisy distances blur that: the step
is taken for a turn, and gross errors pull it towards zero. Both are repaired by the neighbours, since a map's log distances vary
little within a few pixels, except at depth edges, where the local spread says so.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from jog3r.geometry.robust import masked_median

_RADIUS = 2  # grid pixels
_SIGMAS = 4.0
_ROUNDS = 3
_ALIKE = (3.0, 1.5)  # pixel-noise standard deviations within which neighbours lie on one surface, first and second round
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


def calm_factors(along: Tensor, keep: Tensor, grid: tuple[int, int]) -> Tensor:
    """Factors (M, N) that turn distances into the mean log distance of like neighbours, the pixel left out (a bilateral filter).

    Such calm distances serve to form derivatives and weights. Their errors are small, and independent of the error of the pixel's
    own residual, which makes the derivatives instruments in the statistical sense: no error in variables is left. Neighbours are
    alike within a few standard deviations of the map's own pixel noise, so that depth edges stay.

    Args:
        along: (M, N) distances of points along the rays of the camera whose pose they determine, > 0 where kept.
        keep: (M, N) bool, the pixels that count; the others get the factor 1, as do pixels without like neighbours.
        grid: h, w with h * w = N.
    """
    if min(grid) < 2 * _RADIUS + 1:
        return torch.ones_like(along)
    raw = torch.where(keep, along.clamp(min=1e-15).log(), 0.0)  # (M, N)
    precision = 1 / pixel_noise(raw, keep, grid).clamp(min=1e-7)[:, None, None]  # (M, 1, 1)
    raw, keep_map = raw.unflatten(1, grid), keep.unflatten(1, grid)
    one, far = raw.new_ones(()), raw.new_full((), 1e18)  # a value so far off is like none
    guide = raw
    for alike, own_weight in zip(_ALIKE, (1.0, 0.0), strict=True):
        scaled = torch.where(keep_map, guide * (precision / alike), far)
        total, weighted = torch.full_like(raw, own_weight), own_weight * raw
        for here, there in _neighbours(grid):
            square = (scaled[here] - scaled[there]).square_()
            weight = torch.addcmul(one, square, square).reciprocal_()
            total[here] += weight
            total[there] += weight
            weighted[here].addcmul_(weight, raw[there])
            weighted[there].addcmul_(weight, raw[here])
        guide = torch.where(total > 0.5, weighted / total.clamp(min=0.5), raw)
    return torch.where(keep, (guide - raw).flatten(1).exp(), 1.0)


def _neighbours(grid: tuple[int, int]) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Pairs of views of maps (M, h, w): each pixel, and the one at an offset within the radius; each pair of pixels once."""
    height, width = grid
    for row in range(_RADIUS + 1):
        for column in range(-_RADIUS if row else 1, _RADIUS + 1):
            left, right = max(-column, 0), max(column, 0)
            here = (slice(None), slice(0, height - row), slice(left, width - right))
            there = (slice(None), slice(row, height), slice(right, width - left))
            yield here, there


def pixel_noise(values: Tensor, keep: Tensor, grid: tuple[int, int]) -> Tensor:
    """Standard deviation (..., M) of the part of values (..., M, N) that differs between neighbours; 0 where too few pixels tell.

    From differences of differences, which are blind to slopes along rows or columns, of about 1,000 pixels.

    Args:
        values: (..., M, N).
        keep: (M, N) bool.
        grid: h, w with h * w = N.
    """
    if min(grid) < 2:
        return torch.zeros_like(values[..., 0])
    thin = slice(None, None, 1 + 2 * (values.shape[-1] // 1024))
    gap = values.unflatten(-1, grid).diff(dim=-1).diff(dim=-2).flatten(-2)[..., thin].abs()
    whole = keep.unflatten(1, grid)
    whole = whole[:, 1:, 1:] & whole[:, :-1, 1:] & whole[:, 1:, :-1] & whole[:, :-1, :-1]
    whole = whole.flatten(1)[:, thin].expand_as(gap)
    noise = masked_median(gap, whole) / (0.6745 * 2)
    return torch.where(whole.sum(-1) > 50, noise, torch.zeros_like(noise))


def box_sum(fields: Tensor, grid: tuple[int, int], radius: int) -> Tensor:
    """Sums (..., N) over the square of 2 radius + 1 grid pixels around each pixel."""
    if radius <= 2 and min(grid) > radius:  # shifted copies are faster than products with bands of ones
        total = fields.unflatten(-1, grid)
        for axis, length in ((-1, grid[1]), (-2, grid[0])):
            source, total = total, total.clone()
            for shift in range(1, radius + 1):
                rest = length - shift
                total.narrow(axis, 0, rest).add_(source.narrow(axis, shift, rest))
                total.narrow(axis, shift, rest).add_(source.narrow(axis, 0, rest))
        return total.flatten(-2)
    bands = []
    for n in grid:
        index = torch.arange(n, device=fields.device)
        bands.append(((index[:, None] - index).abs() <= radius).to(fields))
    return (bands[0] @ (fields.unflatten(-1, grid) @ bands[1])).flatten(-2)
