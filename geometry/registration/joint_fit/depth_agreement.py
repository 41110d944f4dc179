"""Maps of one frame agree on its depth: the terms along the rays, which tell the scales of the pairs.

The errors of a map across its rays say at least how large those along them are, but the latter can be far larger: points made
from a depth map and cameras lie exactly on their rays, however wrong the depth is. How much larger is learnt from the maps of one
frame, which differ by nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jog3r.geometry.registration.joint_fit.noise import flat_top_weight
from jog3r.geometry.registration.joint_fit.pair_terms import along_ray, log_depth_columns
from jog3r.geometry.robust import masked_median

_LEAST_DEPTH = 0.1  # of a point's distance from its host: nearer to a camera's plane, log depth says nothing
_NEIGHBOURS = 4  # maps on either side, in the order of the pairs, with which a map's depths are compared
_MEDIAN = 0.4549  # of a chi-squared variable with one degree of freedom


@dataclass(frozen=True)
class MapDepth:
    """What one map says about its frame's depth at N pixels."""

    log_depth: Tensor  # (N,) in the unit of its pair
    precision: Tensor  # (N,) inverse variances if errors along the rays were as large as those across; 0 where it says nothing
    derivatives: Tensor  # (c, N) of the log depth by the map's relative pose (second maps only) and log scale
    pixels_per_datum: float


def map_depths(local: Tensor, size: Tensor, precision: Tensor, pixels_per_datum: float, second: bool) -> list[MapDepth]:
    """Depths of maps.

    Args:
        local: points (m, 3, N) in the cameras of their own frames.
        size: (m, N) distances from the host.
        precision: (m, N) inverse variances of the points relative to their size.
        pixels_per_datum: how many pixels say as much as one with independent errors.
        second: whether these are second maps; the camera of first maps is the pair's own, only the scale moves their depths.
    """
    precision = precision * (local[:, 2] > _LEAST_DEPTH * size)  # near the camera's plane the logarithm explodes
    log_depth, derivatives = log_depth_columns(local)
    if not second:
        derivatives = derivatives[:, 6:]
    return [MapDepth(*values, pixels_per_datum) for values in zip(log_depth, precision, derivatives, strict=True)]


def excess_variance(log_depth: Tensor, precision: Tensor) -> Tensor:
    """By what factor (m,), at least 1, errors of m maps of one frame along the rays exceed what the precisions say.

    Per map the median over a few other maps of the robust variance of their differences, so that one noisy map among exact ones
    is told from them. A map that differs from all others shares their noise, which is the safe side.

    Args:
        log_depth: (m, N) in the unit of the world.
        precision: (m, N), 0 where a map says nothing.
    """
    thin = slice(None, None, 1 + 2 * (log_depth.shape[1] // 512))
    log_depth, precision, count = log_depth[:, thin], precision[:, thin], len(log_depth)
    usable = precision > 0
    variance = 1 / precision.clamp(min=1e-30)
    found = []
    for offset in range(1, min(_NEIGHBOURS, count - 1) + 1):
        square = (log_depth - log_depth.roll(offset, 0)).square() / (variance + variance.roll(offset, 0))
        both = usable & usable.roll(offset, 0)
        ratio = torch.where(both.any(1), masked_median(square, both) / _MEDIAN, torch.nan)
        found += [ratio, ratio.roll(-offset, 0)]
    return torch.stack(found).nanmedian(0).values.nan_to_num(nan=1.0).clamp(min=1.0)


@dataclass(frozen=True)
class Agreement:
    """Normal equations of one frame's depth, and its weights, which stay while steps are tried."""

    entries: Sequence[int]
    weights: Tensor  # (m, N)
    normal: Tensor  # (c, c) by the maps' columns, in the order of `owner`
    gradient: Tensor  # (c,)
    value: Tensor  # scalar: the weighted squares

    @classmethod
    def of(cls, entries: Sequence[int], maps: Sequence[MapDepth], log_scale: Tensor, excess: Tensor) -> "Agreement":
        """The maps' terms.

        Args:
            entries: which maps these are, among all M.
            maps: their depths.
            log_scale: (m,) from their units to the world's.
            excess: (m,) of `excess_variance`.
        """
        depth = in_world(maps, log_scale)
        raw = torch.stack([item.precision for item in maps]) / excess[:, None]
        weights = raw / raw.new_tensor([item.pixels_per_datum for item in maps])[:, None]
        middle = torch.where(weights > 0, depth, torch.nan).nanmedian(0).values.nan_to_num()
        weights = weights * flat_top_weight((depth - middle).square() * weights * 4)
        owner = torch.tensor([k for k, item in enumerate(maps) for _ in item.derivatives], device=depth.device)
        normal, gradient = along_ray(depth, weights, torch.cat([item.derivatives for item in maps]), owner)
        return cls(entries, weights, normal, gradient, disagreement(depth, weights))


def in_world(maps: Sequence[MapDepth], log_scale: Tensor) -> Tensor:
    """Log depths (m, N) in the unit of the world."""
    depth = torch.stack([item.log_depth for item in maps])
    return (depth + log_scale[:, None].to(depth)).float()


def disagreement(log_depth: Tensor, weights: Tensor) -> Tensor:
    """Sum of the weighted squared differences of log depths (m, N) from their weighted means, float64."""
    mean = (weights * log_depth).sum(0) / weights.sum(0).clamp(min=1e-30)
    return (weights * (log_depth - mean).square()).sum(dtype=torch.float64)
