"""Distances between sets of clips with intervals: Fréchet (FID, FVD) and kernel (KID), clips drawn whole.

A Fréchet distance is biased upwards at small N, and a clip drawn twice makes that worse: a bootstrap interval holds neither the
value nor the truth. The intervals here say how far the distance scatters **at this N**: value -/+ 1.96 standard deviations, found
from random halves of the clips (delete-half jackknife); the floor's from random splits.

Letters: N, M clips, K frames of a clip with a vector each, D features.
"""

from collections.abc import Callable

import numpy as np

from jog3r.evaluation.statistics.intervals import Figure
from jog3r.evaluation.video_metrics import frechet_distance, polynomial_mmd, real_floor, spread_at_this_size

Distance = Callable[[np.ndarray, np.ndarray], float]

NUM_HALVES, NUM_SPLITS = 50, 20
_FEW_HALVES, _LARGE = 12, 600  # draws of a Fréchet distance that takes seconds each, and from how many samples on it does
_Z = 1.96


def pooled(features: np.ndarray) -> np.ndarray:
    """Samples (N*K,D) of features (N,D) or (N,K,D)."""
    return features.reshape(-1, features.shape[-1])


def frechet_figure(generated: np.ndarray, real: np.ndarray, seed: int = 0) -> Figure:
    """Fréchet distance of all frames of both sets; interval from halves, NaN below four clips."""
    return _figure(frechet_distance, generated, real, seed)


def kernel_figure(generated: np.ndarray, real: np.ndarray, seed: int = 0) -> Figure:
    """KID of all frames of both sets; interval from halves, NaN below four clips."""
    return _figure(polynomial_mmd, generated, real, seed)


def distance_difference(distance: Distance, first: np.ndarray, second: np.ndarray, real: np.ndarray, seed: int = 0) -> Figure:
    """Distance of `first` to `real` minus that of `second`, whose clips correspond; the same halves of all three."""
    n = min(len(first), len(real))
    value = distance(pooled(first), pooled(real)) - distance(pooled(second), pooled(real))
    if n < 4:
        return Figure(value, np.nan, np.nan, n)
    generator = np.random.default_rng(seed)
    draws = []
    for _ in range(_num_halves(first)):
        mine, theirs = _half(len(first), generator), _half(len(real), generator)
        true = pooled(real[theirs])
        draws.append(distance(pooled(first[mine]), true) - distance(pooled(second[mine]), true))
    return _around(value, float(np.std(draws, ddof=1)), n)


def floor_figure(distance: Distance, real: np.ndarray, seed: int = 0) -> Figure:
    """What the distance gives between two disjoint halves of the real clips: no generator scores below it at that N."""
    splits = NUM_SPLITS if len(pooled(real)) <= _LARGE else _FEW_HALVES
    found = real_floor(_of_numbers(distance, real, real), _numbers(real), num_splits=splits, seed=seed)
    return _around(found.value, found.std, found.num_samples)


def _figure(distance: Distance, generated: np.ndarray, real: np.ndarray, seed: int) -> Figure:
    n = min(len(generated), len(real))
    if n < 4:
        return Figure(distance(pooled(generated), pooled(real)), np.nan, np.nan, n)
    found = spread_at_this_size(
        _of_numbers(distance, generated, real),
        _numbers(generated),
        _numbers(real),
        num_resamples=_num_halves(generated),
        seed=seed,
    )
    return _around(found.value, found.std, n)


def _numbers(features: np.ndarray) -> np.ndarray:
    """(N,1) numbers of the clips: what is drawn from, so that clips are drawn whole."""
    return np.arange(len(features))[:, None]


def _of_numbers(distance: Distance, first: np.ndarray, second: np.ndarray) -> Distance:
    """The distance of two sets of clips given by their numbers (N,1)."""
    return lambda a, b: distance(pooled(first[a[:, 0].astype(int)]), pooled(second[b[:, 0].astype(int)]))


def _num_halves(features: np.ndarray) -> int:
    return NUM_HALVES if min(pooled(features).shape) <= _LARGE else _FEW_HALVES


def _half(count: int, generator: np.random.Generator) -> np.ndarray:
    return generator.choice(count, count // 2, replace=False)


def _around(value: float, std: float, n: int) -> Figure:
    return Figure(value, value - _Z * std, value + _Z * std, n)
