"""Distances between sets of features of real and generated videos: Fréchet (FID, FVD) and kernel (KID), with their uncertainty.

Letters: N, M samples, D features. Everything runs in float64. A distance is only as meaningful as what is printed beside it: the
feature network and its resize, the frame count, N and M, the real-against-real floor at the same N, and the spread at that N.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

Features: TypeAlias = np.ndarray | torch.Tensor
_ROWS = 1024  # of a kernel that are in memory at a time
Distance: TypeAlias = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Estimate:
    """A figure with its spread.

    Attributes:
        value: the figure itself (a mean for subsets and floors).
        std: standard deviation over subsets or splits, or standard error; see the function that made it.
        low, high: value -/+ std.
        num_samples: samples of the smaller set used per computation.
        num_repeats: subsets, resamples or splits.
    """

    value: float
    std: float
    low: float
    high: float
    num_samples: int
    num_repeats: int


def frechet_distance(features_a: Features, features_b: Features) -> float:
    """|mean_a - mean_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), S the unbiased covariances: FID or FVD by the features given.

    Exact for any N, M and D, also N < D, where codes that take a matrix square root of a singular product need an epsilon: with
    S_a = A^T A and S_b = B^T B the trace of the root is the sum of the singular values of A B^T (equal to the eigenvalues of the
    symmetric root of S_a^(1/2) S_b S_a^(1/2), without squaring the rounding error). The estimate is biased upwards at small N:
    compare only at equal N, beside `real_floor`.

    Args:
        features_a (N,D), features_b (M,D): numpy or torch, any float type.

    Raises:
        ValueError: fewer than two samples in a set, NaN or infinity, different D.
    """
    a, b = _checked(features_a, features_b, least=2)
    mean_difference = a.mean(axis=0) - b.mean(axis=0)
    root_a, root_b = _covariance_root(a), _covariance_root(b)
    trace_of_root = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    distance = mean_difference @ mean_difference + (root_a**2).sum() + (root_b**2).sum() - 2 * trace_of_root
    return max(float(distance), 0.0)  # equal sets end at -1e-13 or so


def polynomial_mmd(
    features_a: Features,
    features_b: Features,
    degree: int = 3,
    owners_a: np.ndarray | None = None,
    owners_b: np.ndarray | None = None,
) -> float:
    """Unbiased squared MMD with the kernel (x.y / D + 1)^degree, KID's; near 0, or below, for equal distributions at any N.

    Args:
        features_a (N,D), features_b (M,D): numpy or torch, any float type.
        degree: of the kernel.
        owners_a (N,), owners_b (M,): number of the clip that each sample is of. Samples of one clip are not independent, in one
            set or between both (a video and the real clip of its caption): pairs of one owner are left out. None: each sample is
            of its own.

    Raises:
        ValueError: as `frechet_distance`, or all samples are of one owner.
    """
    a, b = _checked(features_a, features_b, least=2)
    if owners_a is None or owners_b is None:
        return _KernelSums.of(a, b, degree).value()
    sums = 0.0
    for x, y, owners, others, factor in (
        (a, a, owners_a, owners_a, 1),
        (b, b, owners_b, owners_b, 1),
        (a, b, owners_a, owners_b, -2),
    ):
        total, count = 0.0, 0
        for start in range(0, len(x), _ROWS):  # frames of many videos: the whole kernel would be gigabytes
            rows = slice(start, start + _ROWS)
            apart = np.asarray(owners[rows])[:, None] != np.asarray(others)[None]
            total, count = total + float(_kernel(x[rows], y, degree)[apart].sum()), count + int(apart.sum())
        if not count:
            raise ValueError("all samples are of one clip: a kernel distance needs at least two")
        sums += factor * total / count
    return sums


def kernel_distance(
    features_a: Features, features_b: Features, subset_size: int = 1000, num_subsets: int = 100, seed: int = 0
) -> Estimate:
    """KID: mean and standard deviation of `polynomial_mmd` over random subsets without replacement; sane at small N.

    Sets are never repeated to reach subset_size. If the smaller set has no more samples than that, subsets would all be nearly
    the same and their spread would say nothing: then the value is that of the whole sets, and `std` its standard error by the
    jackknife (each sample left out in turn; NaN for two samples a set).
    """
    a, b = _checked(features_a, features_b, least=2)
    if subset_size < 2 or num_subsets < 1:
        raise ValueError(f"kernel_distance needs subset_size >= 2 and num_subsets >= 1, got {subset_size} and {num_subsets}")
    size = min(len(a), len(b))
    if size <= subset_size:
        sums = _KernelSums.of(a, b)
        value, std = sums.value(), sums.standard_error()
        return Estimate(value, std, value - std, value + std, size, 1)
    generator = np.random.default_rng(seed)
    draws = [
        polynomial_mmd(
            a[generator.choice(len(a), subset_size, replace=False)], b[generator.choice(len(b), subset_size, replace=False)]
        )
        for _ in range(num_subsets)
    ]
    return _estimate(np.array(draws), subset_size)


def spread_at_this_size(
    distance: Distance, features_a: Features, features_b: Features, num_resamples: int = 200, seed: int = 0
) -> Estimate:
    """The distance of the full sets, and how far it scatters from draw to draw of sets of THIS size.

    `std` is the standard deviation over random halves of both sets without replacement (delete-half jackknife): halves scatter
    twice as much in variance, and being parts of one set they show half of it. It is right within a factor of 1.5 or so, on the
    large side. It is no confidence interval for the distance of the populations: the Fréchet distance is biased upwards at small
    N by far more than it scatters, and where D is not far below N no resampling takes that bias away (a bootstrap interval
    there holds neither the value nor the truth). Compare at equal N, beside `real_floor`.

    Raises:
        ValueError: fewer than two resamples or four samples a set, or as `frechet_distance`.
    """
    a, b = _checked(features_a, features_b, least=4)
    if num_resamples < 2:
        raise ValueError(f"need num_resamples >= 2, got {num_resamples}")
    generator = np.random.default_rng(seed)
    value = distance(a, b)
    draws = np.array([distance(_half(a, generator), _half(b, generator)) for _ in range(num_resamples)])
    std = float(draws.std(ddof=1))
    return Estimate(value, std, value - std, value + std, min(len(a), len(b)), num_resamples)


def real_floor(
    distance: Distance, real_features: Features, num_samples: int | None = None, num_splits: int = 20, seed: int = 0
) -> Estimate:
    """What the distance gives between two disjoint halves of the real set, `num_samples` each: no generator scores below it.

    Compare with a distance computed at the same N. None: half of what there is.

    Raises:
        ValueError: fewer than 2 * num_samples real samples, or as `frechet_distance`.
    """
    real, _ = _checked(real_features, real_features, least=4)
    size = len(real) // 2 if num_samples is None else num_samples
    if size < 2 or 2 * size > len(real) or num_splits < 1:
        raise ValueError(
            f"a floor at N = {size} needs {2 * size} real samples (and N >= 2, num_splits >= 1), got {len(real)} samples"
            f" and {num_splits} splits"
        )
    generator = np.random.default_rng(seed)
    draws = []
    for _ in range(num_splits):
        order = generator.permutation(len(real))
        draws.append(distance(real[order[:size]], real[order[size : 2 * size]]))
    return _estimate(np.array(draws), size)


def _covariance_root(features: np.ndarray) -> np.ndarray:
    """(min(N,D), D) matrix R with R^T R the unbiased covariance; the QR step only makes it smaller."""
    centred = (features - features.mean(axis=0)) / np.sqrt(len(features) - 1)
    return np.asarray(np.linalg.qr(centred, mode="r")) if len(centred) > centred.shape[1] else centred


def _half(features: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return features[generator.choice(len(features), len(features) // 2, replace=False)]


@dataclass(frozen=True)
class _KernelSums:
    """Row sums of the kernel: within a (N,) and b (M,) without the diagonal, and between them (N,) and (M,)."""

    within: tuple[np.ndarray, np.ndarray]
    between: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(cls, a: np.ndarray, b: np.ndarray, degree: int = 3) -> "_KernelSums":
        within = [_kernel(x, x, degree) for x in (a, b)]
        between = _kernel(a, b, degree)
        rows = [kernel.sum(1) - kernel.diagonal() for kernel in within]
        return cls((rows[0], rows[1]), (between.sum(1), between.sum(0)))

    def value(self) -> float:
        """The unbiased squared MMD."""
        (n, m), (a, b) = (len(rows) for rows in self.within), (rows.sum() for rows in self.within)
        return float(a / (n * (n - 1)) + b / (m * (m - 1)) - 2 * self.between[0].sum() / (n * m))

    def standard_error(self) -> float:
        """By the jackknife: each sample of either set is left out in turn."""
        if min(len(rows) for rows in self.within) < 3:
            return float("nan")
        variance = 0.0
        for (own, across), other in zip(zip(self.within, self.between, strict=True), reversed(self.within), strict=True):
            n, m = len(own), len(other)
            # What does not change when a sample of this set goes is left away.
            left = (own.sum() - 2 * own) / ((n - 1) * (n - 2)) - 2 * (across.sum() - across) / ((n - 1) * m)
            variance += (n - 1) * left.var()
        return float(variance**0.5)


def _kernel(x: np.ndarray, y: np.ndarray, degree: int) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** degree


def _estimate(draws: np.ndarray, num_samples: int) -> Estimate:
    mean, std = float(draws.mean()), float(draws.std(ddof=1)) if len(draws) > 1 else 0.0
    return Estimate(mean, std, mean - std, mean + std, num_samples, len(draws))


def _checked(features_a: Features, features_b: Features, least: int) -> tuple[np.ndarray, np.ndarray]:
    arrays = []
    for name, features in (("features_a", features_a), ("features_b", features_b)):
        if isinstance(features, torch.Tensor):
            features = features.detach().cpu().double().numpy()
        array = np.asarray(features, dtype=np.float64)
        if array.ndim != 2:
            raise ValueError(f"{name} must have shape (samples, features), got {array.shape}")
        if len(array) < least:
            raise ValueError(f"{name} has {len(array)} samples; a distance between distributions needs at least {least}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} contains NaN or infinity")
        arrays.append(array)
    if arrays[0].shape[1] != arrays[1].shape[1]:
        raise ValueError(f"the sets have different numbers of features: {arrays[0].shape[1]} and {arrays[1].shape[1]}")
    return arrays[0], arrays[1]
