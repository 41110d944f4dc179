"""Objects that move by themselves: regions of a map that agree with each other and not with the camera's motion.

Pixel by pixel such a region passes for noise: its points are off by two standard deviations or so. What gives it away is that
its neighbours are off the same way. Local means of the residuals are therefore sorted into two kinds, small and large ones, each
with an exponential distribution of squares (a mixture, fitted by EM); without movers the two kinds coincide. The camera's pose is
then found again without the large ones, and so on until the regions stay.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jog3r.geometry.registration.joint_fit.distances import box_sum
from jog3r.geometry.registration.joint_fit.initialisation import pose_step
from jog3r.geometry.registration.joint_fit.noise import NoiseModel, estimate_noise, flat_top_weight
from jog3r.geometry.registration.joint_fit.pair_terms import Rays, local_points

_RADIUS = 0.08  # of the local means, as a share of the longer side
_ROUNDS, _LEARNING_ROUNDS = 10, 2
_CUT = 3.5  # standard deviations to which residuals are cut
_EM_STEPS = 10
_APART = 4.0  # the two kinds' mean squares differ at least by this factor; without movers they rarely reach 3
_LEAST_SHARE = 0.03  # of the pixels, below which there is nothing worth a second look
_MOST = 0.5  # of one map; if more of it disagrees, it is the pose that is wrong
_SETTLED = 0.003  # share of the pixels that change sides, below which the search ends


@dataclass(frozen=True)
class Maps:
    """Second maps of P pairs on a grid of h x w = N pixels."""

    points: Tensor  # (P, 3, N)
    valid: Tensor  # (P, N) bool
    confidence: Tensor  # (P, N)
    rays: Rays  # of their own cameras
    grid: tuple[int, int]


def find_movers(maps: Maps, relative: Tensor) -> tuple[Tensor | None, Tensor]:
    """Which pixels move by themselves, and the poses without them.

    Args:
        maps: second maps.
        relative: (P, 4, 4) host camera -> own camera in the unit of the points, a first guess.

    Returns:
        Mask (P, N), or None if there are too few to matter, and poses (P, 4, 4).
    """
    if min(maps.grid) < 4 * _radius(maps.grid):
        return None, relative
    moving: Tensor | None = None
    noise: NoiseModel | None = None
    pose, cut = relative, math.inf
    for step in range(_ROUNDS):
        columns, along = _columns(maps, pose)
        # The threshold is learnt in the first rounds only: later ones see less noise and would mark ever more pixels.
        learn = step < _LEARNING_ROUNDS
        if noise is None or learn:
            trusted = None if moving is None else ~moving
            noise = estimate_noise(columns[:, -1], along, maps.confidence, maps.grid, correlated=False, trusted=trusted)
        weights, squares = _weights_and_squares(columns[:, -1], along > 0, noise, maps.grid)
        found = cut_between_kinds(squares, maps.valid) if learn else cut
        if found is None:
            break
        cut = found
        now = (squares > cut) & maps.valid
        now &= (now.sum(1) <= _MOST * maps.valid.sum(1))[:, None]
        settled = moving is not None and float((now != moving).float().mean()) < _SETTLED
        moving = now
        if settled:
            break
        pose, _ = pose_step(columns, weights * ~moving, pose)
    return moving, pose


def _radius(grid: tuple[int, int]) -> int:
    return max(2, round(_RADIUS * max(grid)))


def _columns(maps: Maps, pose: Tensor) -> tuple[Tensor, Tensor]:
    """Columns (P, 8, 2, N) of `Rays.columns` at poses (P, 4, 4), and distances along the rays (P, N), 0 where invalid."""
    local = local_points(maps.points, pose)
    along = torch.where(maps.valid, maps.rays.distances(local), 0.0).clamp(min=0)
    return maps.rays.columns(local, along, pose=True), along


def _weights_and_squares(residual: Tensor, valid: Tensor, noise: NoiseModel, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Weights (P, N) of pixels by themselves, and squares (P, N) per component of the local means of standardised residuals."""
    standard = residual / noise.smooth_std[:, None]  # (P, 2, N)
    square, usable = standard.square().sum(1), valid.to(standard)  # (P, N)
    # Cut rather than left out: a region whose pixels are all outliers must show, single wild ones must not.
    clipped = standard * (usable * (_CUT * square.clamp(min=1e-18).rsqrt()).clamp(max=1))[:, None]
    radius = _radius(grid)
    means = box_sum(clipped, grid, radius) / box_sum(usable, grid, radius).clamp(min=0.5)[:, None]
    squares = means.square().sum(1) / 2 + noise.unseen() / (2 * radius + 1) ** 2
    return flat_top_weight(square) * usable / noise.smooth_std.square(), squares


def cut_between_kinds(squares: Tensor, usable: Tensor) -> float | None:
    """Above which of the squares (P, N) the larger of two kinds is likelier; None if there are not two kinds."""
    thin = slice(None, None, 1 + 2 * (squares.shape[1] // 512))
    values = squares[:, thin][usable[:, thin]]
    if len(values) < 100:
        return None
    small = float(values.kthvalue(max(1, 3 * len(values) // 10)).values) / 0.357  # 30 % of an exponential lie below 0.357 means
    large, share = 6 * small, 0.1
    for _ in range(_EM_STEPS):
        if not (0 < small < large < math.inf and 1e-4 < share < 1):
            return None
        log_odds = math.log(share / (1 - share) * small / large) + values * (1 / small - 1 / large)
        member = log_odds.sigmoid()
        total = float(member.sum())
        share = total / len(values)
        large = float((member * values).sum()) / max(total, 1e-9)
        small = float(((1 - member) * values).sum()) / max(len(values) - total, 1e-9)
    if not (large > _APART * small > 0 and _LEAST_SHARE < share < 1):
        return None
    return (math.log((1 - share) / share) + math.log(large / small)) / (1 / small - 1 / large)
