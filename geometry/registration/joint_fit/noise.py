"""The noise of pointmaps, learnt from the residuals: what a confidence is worth, and how far errors reach across the image.

Two facts decide how accurate poses become. First, confidences rank pixels but do not say how large the errors are, and may be
wrong: the exponent in error ~ confidence^b is fitted. Second, a pointmap's errors are smooth over the image, so that 4,096 pixels
carry the information of a few dozen. The smooth part is modelled as a random field on a coarse grid of Gaussian bumps, which is
integrated out (a random-effects model, equal to generalised least squares): poses then follow from what varies faster than the
errors do, e.g. from depth edges.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jog3r.geometry.registration.joint_fit.distances import box_sum
from jog3r.geometry.robust import masked_median, weighted_median

_CUT = 3.5  # standard deviations (of a 2D residual, per component) from which a pixel counts as an outlier
_MAX_BUMPS = 196  # size of the coarse grid, the cost of the field per map is its cube
_MEDIAN = 2 * math.log(2)  # of a chi-squared variable with two degrees of freedom
_MIN_SHARE = 0.03  # a smaller smooth share is not told from none
_SPACING, _MARGIN = 1.6, 1.4  # of the bumps, and how far they reach beyond the map, in their standard deviations
# Squared relative error that every point is taken to have, whatever the residuals say: about a tenth of a pixel. Points that were
# made from depth and cameras lie exactly on their rays; a noise model that believed it would call whatever a step leaves across
# the rays an outlier, and what a slight zoom does a moving object.
_LEAST = 0.0015**2


@dataclass(frozen=True)
class NoiseModel:
    """Noise of M sampled maps on a grid of h x w = N pixels; the fields before `smooth_std` hold for all maps alike."""

    exponents: Tensor  # (3,) of log variance in smoothed log confidence, its local deviation, and log distance
    share: float  # of the variance that is smooth over the image, in [0, 0.9]
    length: float  # standard deviation of the bumps, in grid pixels
    bumps: tuple[Tensor, Tensor]  # (h, Ky), (w, Kx): the field is bumps[0] @ coefficients @ bumps[1].T, variance 1
    smooth_std: Tensor  # (M, N) standard deviation per component, the part that the smoothed confidence explains
    weight: Tensor  # (M, N) (smooth_std / std)^2: how much better than that a pixel is; 0 where invalid
    level: Tensor  # (M,) typical standard deviation relative to the distance; inf where nothing is valid

    def unseen(self) -> Tensor:
        """Share (M, 1) of the variance that is assumed, not seen: 1 for exact maps, next to nothing for noisy ones."""
        return _LEAST / self.level.square()[:, None]

    def pixels_per_datum(self, count: int) -> float:
        """How many pixels say as much as one with independent errors would, out of `count` spread evenly over the grid."""
        together = 4 * math.pi * self.length**2 * count / self.smooth_std.shape[1]
        return 1 - self.share + self.share * min(together, count / 2)


def flat_top_weight(squared: Tensor) -> Tensor:
    """Robust weights of squared standardised residuals: 1 for ordinary ones, soon 0 beyond 3.5 standard deviations."""
    return 1 / (1 + (squared.clamp(max=1e4) / _CUT**2).square().square())


def robust_weights(standard: Tensor, noise: NoiseModel, grid: tuple[int, int]) -> Tensor:
    """Robust weights (M, N) of standardised residuals (M, 2, N).

    A pixel may be an outlier by itself, or with its neighbours: what moves together deviates too little to be seen by itself,
    but its local mean stands out from the local means elsewhere.
    """
    single = flat_top_weight(standard.square().sum(1) * noise.weight)
    mask = single * (noise.weight > 0)
    radius = max(2, round(noise.length))
    if 4 * radius > min(grid):
        return single
    local = _masked_means(standard.transpose(0, 1), mask, grid, radius).square().sum(0)  # (M, N)
    thin = slice(None, None, 1 + 2 * (local.shape[1] // 512))
    typical = weighted_median(local[:, thin].flatten(), mask[:, thin].flatten()) / _MEDIAN
    return single * flat_top_weight(local / (typical + noise.unseen() / (2 * radius + 1) ** 2).clamp(min=1e-12))


def estimate_noise(
    residual: Tensor,  # (M, 2, N)
    along: Tensor,  # (M, N)
    confidence: Tensor,  # (M, N)
    grid: tuple[int, int],
    correlated: bool = True,
    like: NoiseModel | None = None,
    trusted: Tensor | None = None,  # (M, N) bool
) -> NoiseModel:
    """Fit the noise model to residuals of a nearly right state.

    Args:
        residual: offsets of points across their rays.
        along: the points' distances along their rays, 0 for invalid pixels. Relative errors are more alike than absolute ones; of
            all measures of distance only this one is independent of the residual, so that weights made of it do not
            bend the poses.
        confidence: > 0.
        grid: h, w with h * w = N.
        correlated: False takes errors of different pixels as independent.
        like: a model of other maps, whose exponents and correlation are taken over; only the levels are fitted.
        trusted: pixels to learn from, by default all valid ones.
    """
    valid = along > 0
    size = torch.where(valid, along, 1.0)
    relative = residual.square().sum(1) / size.square() + _MEDIAN * _LEAST  # (M, N)
    thin = slice(None, None, 1 + 2 * (size.shape[1] // 1024))
    inlier = valid if trusted is None else valid & trusted
    typical = masked_median(relative[:, thin], inlier[:, thin]).clamp(min=_MEDIAN * _LEAST)[:, None]
    ordinary = relative < 16 * typical
    features = _features(size, confidence, (valid & ordinary).to(relative), grid)
    inlier = inlier & ordinary
    if like is None:
        target = (relative / typical).clamp(min=1e-8).log()
        exponents = _regress(features[..., thin], target[:, thin], inlier[:, thin].to(relative))
    else:
        exponents = like.exponents.to(relative)
    log_smooth = (exponents[0] * features[0] + exponents[2] * features[2]).clamp(-9, 9)
    log_local = (exponents[1] * features[1]).clamp(-6, 6)
    spread = relative[:, thin] / (log_smooth + log_local)[:, thin].exp()
    level = masked_median(spread, inlier[:, thin]) / _MEDIAN
    known = inlier.any(1)
    level = torch.where(known, level, 1.0)
    smooth_std = (0.5 * log_smooth).exp() * level[:, None].sqrt() * size
    weight = torch.where(valid, (-log_local).exp(), 0.0)
    exact = float((_LEAST / level)[known].mean()) if bool(known.any()) else 0.0
    level = torch.where(known, level.sqrt(), torch.inf)
    if like is not None:
        return NoiseModel(exponents, like.share, like.length, like.bumps, smooth_std, weight, level)
    share, length = 0.0, 1.0
    if correlated:
        standard = residual / smooth_std[:, None]
        inlier = inlier & (standard.square().sum(1) * weight < _CUT**2)
        share, length = _correlation(standard, inlier.to(relative), grid, exact)
    bumps = coarse_grid(grid, length)
    return NoiseModel(exponents, share, length, (bumps[0].to(relative), bumps[1].to(relative)), smooth_std, weight, level)


def _features(size: Tensor, confidence: Tensor, mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Smoothed log confidence, deviation from it and log size, (3, M, N), each without its mean per map."""
    log_confidence = confidence.clamp(min=1e-12).log()
    smoothed = _masked_means(log_confidence[None], mask, grid, max(1, round(0.035 * grid[1])))[0]
    features = torch.stack((smoothed, log_confidence - smoothed, size.log()))
    mean = (features * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
    return features - mean


def field_factor(omega: Tensor, noise: NoiseModel) -> Tensor | None:
    """What it takes to integrate the smooth field out under weights (M, N): a Cholesky factor (M, K, K); None without a field."""
    if noise.share == 0:
        return None
    vertical, horizontal = noise.bumps
    ky, kx = vertical.shape[1], horizontal.shape[1]
    square_x = (horizontal[:, :, None] * horizontal[:, None]).flatten(1)  # (w, Kx * Kx)
    square_y = (vertical[:, :, None] * vertical[:, None]).flatten(1)  # (h, Ky * Ky)
    gram = square_y.T @ (omega.unflatten(1, (len(vertical), len(horizontal))) @ square_x)  # (M, Ky * Ky, Kx * Kx)
    gram = gram.unflatten(1, (ky, ky)).unflatten(3, (kx, kx)).permute(0, 1, 3, 2, 4).reshape(len(omega), ky * kx, ky * kx)
    gram.diagonal(dim1=1, dim2=2).add_((1 - noise.share) / noise.share)
    factor, failed = torch.linalg.cholesky_ex(gram)
    if bool(failed.any()):  # only weights beyond float32 do that; such maps keep their plain sums
        factor = torch.where((failed > 0)[:, None, None], torch.full_like(factor[:, 0], torch.inf).diag_embed(), factor)
    return factor


def normal_equations(columns: Tensor, omega: Tensor, noise: NoiseModel, factor: Tensor | None) -> Tensor:
    """Sums of products of columns under the noise model: columns^T Omega^-1 columns, the smooth field integrated out.

    Args:
        columns: (M, C, 2, N) Jacobian columns and residual, divided by `noise.smooth_std`.
        omega: (M, N) `noise.weight` times robust weights.
        noise: the model.
        factor: `field_factor` of these weights.

    Returns:
        (M, C, C).
    """
    count = columns.shape[1]
    weighted = columns * omega[:, None, None]
    total = weighted.flatten(2) @ columns.flatten(2).transpose(1, 2)  # (M, C, C)
    if factor is None:
        return total
    vertical, horizontal = noise.bumps
    cross = vertical.T @ (weighted.unflatten(3, (len(vertical), len(horizontal))) @ horizontal)  # (M, C, 2, Ky, Kx)
    cross = cross.flatten(3).permute(0, 3, 1, 2).flatten(2)  # (M, K, C * 2)
    cross = torch.where(factor[:, :1, :1].isinf(), 0.0, cross)
    solved = torch.linalg.solve_triangular(factor, cross, upper=False).unflatten(2, (count, 2))
    solved = solved.permute(0, 2, 1, 3).flatten(2)  # (M, C, K * 2)
    return (total - solved @ solved.transpose(1, 2)) / (1 - noise.share)


def _masked_means(values: Tensor, mask: Tensor, grid: tuple[int, int], radius: int) -> Tensor:
    """Means (C, M, N) of values (C, M, N) over the square of 2 radius + 1 grid pixels, of the pixels in the mask (M, N) alone."""
    sums = box_sum(torch.cat((values * mask, mask[None])), grid, radius)
    return sums[:-1] / sums[-1].clamp(min=0.5)


def _regress(features: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Ridge regression (3,) of the target (M, N) on features (3, M, N), both without their mean per map."""
    target = target - (target * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
    rows = (features * mask).flatten(1)  # (3, M * N)
    normal = rows @ rows.T + 1e-3 * mask.sum().clamp(min=1) * torch.eye(3).to(rows)
    return torch.linalg.solve(normal, rows @ target.flatten()).clamp(-4, 4)


def _correlation(standard: Tensor, mask: Tensor, grid: tuple[int, int], white: float) -> tuple[float, float]:
    """Smooth share and bump length (grid pixels) of residuals (M, 2, N), from their autocorrelation along rows and columns.

    `white` is a further variance that the residuals do not show and whose errors are independent of each other.
    """
    field = (standard * mask[:, None]).unflatten(2, grid)  # (M, 2, h, w)
    area = mask.unflatten(1, grid)[:, None]
    variance = float(field.square().sum() / (2 * area.sum().clamp(min=1))) + white
    reach = max(grid)
    lags = sorted({max(1, round(0.012 * reach * 1.45**k)) for k in range(10)})
    distances, values, counts = [], [], []
    for axis in (2, 3):
        length = field.shape[axis]
        for lag in (lag for lag in lags if lag <= 0.4 * length):
            rest = length - lag
            count = float((area.narrow(axis, 0, rest) * area.narrow(axis, lag, rest)).sum())
            if count > 50:
                product = float((field.narrow(axis, 0, rest) * field.narrow(axis, lag, rest)).sum()) / (2 * count)
                distances.append(float(lag))
                values.append(product / max(variance, 1e-30))
                counts.append(count)
    if len(distances) < 4:
        return 0.0, 1.0
    d, v, c = (torch.tensor(x, dtype=torch.float64) for x in (distances, values, counts))
    lengths = reach * torch.logspace(math.log10(0.02), math.log10(0.3), 16, dtype=torch.float64)
    shapes = torch.exp(-((d / (2 * lengths[:, None])) ** 2))  # (16, lags)
    shares = (shapes @ (c * v)) / (shapes.square() @ c)
    best = (c * (v - shares[:, None] * shapes).square()).sum(1).argmin()
    share = min(float(shares[best]), 0.9)
    return (share if share > _MIN_SHARE else 0.0), float(lengths[best])


def coarse_grid(grid: tuple[int, int], length: float) -> tuple[Tensor, Tensor]:
    """Gaussian bumps (h, Ky), (w, Kx) on a coarse grid, whose random sum has variance 1 on average."""
    while True:
        counts = [max(3, round((n - 1 + 2 * _MARGIN * length) / (_SPACING * length)) + 1) for n in grid]
        if counts[0] * counts[1] <= _MAX_BUMPS:
            break
        length *= 1.1
    result = []
    for n, count in zip(grid, counts, strict=True):
        centres = torch.linspace(-_MARGIN * length, n - 1 + _MARGIN * length, count, dtype=torch.float64)
        bump = torch.exp(-0.5 * ((torch.arange(n, dtype=torch.float64)[:, None] - centres) / length) ** 2)
        bump = torch.where(bump > 1e-4, bump, 0.0)  # squares of what is less would be denormal numbers, which are slow
        result.append(bump / bump.square().sum(1).mean().sqrt())
    return result[0], result[1]
