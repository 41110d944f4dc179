"""Distances between sets of clips with intervals: Fréchet (FID, FVD) and kernel (KID), clips drawn whole.

A Fréchet distance is biased upwards at small N, and a clip drawn twice makes that worse: a bootstrap interval holds neither the
value nor the truth. The intervals here say how far the distance scatters **at this N**: value -/+ 1.96 standard deviations, found
from random halves of the clips (delete-half jackknife); the floor's from random splits.

Letters: N clips, K vectors of a clip (of its frames, windows or seeds), D features, R vectors in all. Clip k of all sets is the
same one: generated videos are those of the real clips' captions. A vector that is not there is NaN.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from jog3r.evaluation.statistics.intervals import Figure
from jog3r.evaluation.video_metrics import frechet_distance, polynomial_mmd

Vectors: TypeAlias = tuple[np.ndarray, np.ndarray]  # (R,D), and the number of the clip that each is of (R,)
Distance: TypeAlias = Callable[[Vectors, Vectors], float]

NUM_HALVES, NUM_SPLITS = 50, 20
_FEW_HALVES, _LARGE = 12, 600  # draws of a Fréchet distance that takes seconds each, and from how many samples on it does
_Z = 1.96


def frechet(own: Vectors, real: Vectors) -> float:
    """Fréchet distance of all vectors of both sets."""
    return frechet_distance(own[0], real[0])


def kernel(own: Vectors, real: Vectors) -> float:
    """KID of all vectors of both sets; pairs of one clip, which are not independent, do not count."""
    return polynomial_mmd(own[0], real[0], owners_a=own[1], owners_b=real[1])


DISTANCES: dict[str, Distance] = {"Fréchet": frechet, "kernel (KID)": kernel}


def by_video(found: Sequence[np.ndarray | None], videos: Sequence[int], count: int) -> np.ndarray:
    """Vectors (K,D) of clips behind each other by video: (`count`, most clips of a video x K, D).

    Args:
        found: of each clip; None of a failed one. At least one is there.
        videos: whose each clip is.
        count: of videos.
    """
    blank = np.full_like(next(vectors for vectors in found if vectors is not None), np.nan)
    rows: list[list[np.ndarray]] = [[] for _ in range(count)]
    for vectors, video in zip(found, videos, strict=True):
        rows[video].append(blank if vectors is None else vectors)
    most = max(map(len, rows))
    return np.stack([np.concatenate(row + [blank] * (most - len(row))) for row in rows])


def distance_figure(distance: Distance, generated: np.ndarray, real: np.ndarray, seed: int = 0) -> Figure:
    """Distance of all vectors (N,K,D) of both sets; interval from halves, NaN below four clips."""
    return _bounded(distance, _difference([(1, generated, real)], distance, seed))


def distance_difference(
    distance: Distance,
    first: np.ndarray,
    second: np.ndarray,
    real: np.ndarray,
    second_real: np.ndarray | None = None,
    seed: int = 0,
) -> Figure:
    """Distance of `first` to `real` minus that of `second` to `second_real` (None: the same); the same halves of all."""
    return _difference([(1, first, real), (-1, second, real if second_real is None else second_real)], distance, seed)


def floor_figures(distance: Distance, generated: np.ndarray, real: np.ndarray, seed: int = 0) -> tuple[Figure, Figure] | None:
    """What the distance gives at half the size, to the real clips of one half: of generated videos, and of real ones (the floor).

    Both are of the other half's clips, and of as many vectors: the first of each clip that is generated more than once. So a
    generator whose videos are distributed as the real ones has the floor's distance. Means over the same random splits.

    Returns:
        the generated videos' and the floor; None below four clips that both sets have.
    """
    generated = _clipwise(generated)[:, : _clipwise(real).shape[1]]
    numbers = np.flatnonzero(has_any(generated) & has_any(real))
    half = len(numbers) // 2
    if half < 2:
        return None
    generator = np.random.default_rng(seed)
    draws = []
    for _ in range(_num_draws(real, NUM_SPLITS)):
        order = generator.permutation(numbers)
        here, there = order[:half], order[half : 2 * half]
        draws.append([_distance(distance, of, here, real, there) for of in (generated, real)])
    values, spreads = np.mean(draws, axis=0), np.std(draws, axis=0, ddof=1)
    around = (_around(float(value), float(spread), half) for value, spread in zip(values, spreads, strict=True))
    own, floor = (_bounded(distance, figure) for figure in around)
    return own, floor


def _difference(terms: Sequence[tuple[int, np.ndarray, np.ndarray]], distance: Distance, seed: int) -> Figure:
    """Sum of signed distances between two sets each; all sets are halved alike."""
    own_numbers, real_numbers = (
        np.flatnonzero(np.all([has_any(features) for features in sets], axis=0))
        for sets in ([own for _, own, _ in terms], [real for _, _, real in terms])
    )

    def value(mine: np.ndarray, theirs: np.ndarray) -> float:
        return sum(sign * _distance(distance, own, mine, real, theirs) for sign, own, real in terms)

    whole, n = value(own_numbers, real_numbers), min(len(own_numbers), len(real_numbers))
    if n < 4:
        return Figure(whole, np.nan, np.nan, n)
    generator = np.random.default_rng(seed)
    draws = [
        value(*(generator.choice(numbers, len(numbers) // 2, replace=False) for numbers in (own_numbers, real_numbers)))
        for _ in range(_num_draws(terms[0][1], NUM_HALVES))
    ]
    return _around(whole, float(np.std(draws, ddof=1)), n)


def _distance(distance: Distance, own: np.ndarray, mine: np.ndarray, real: np.ndarray, theirs: np.ndarray) -> float:
    return distance(_pooled(own, mine), _pooled(real, theirs))


def _pooled(features: np.ndarray, numbers: np.ndarray) -> Vectors:
    """Vectors (R,D) that the clips `numbers` have, and whose they are (R,)."""
    chosen = _clipwise(features)[numbers]
    there = np.isfinite(chosen).all(-1)  # (n,K)
    return chosen[there], np.repeat(numbers, there.sum(1))


def _clipwise(features: np.ndarray) -> np.ndarray:
    """(N,K,D) of (N,D) or (N,K,D)."""
    return features[:, None] if features.ndim == 2 else features


def has_any(features: np.ndarray) -> np.ndarray:
    """Which clips (N,) have a vector."""
    return np.asarray(np.isfinite(_clipwise(features)).all(-1).any(1))


def _num_draws(features: np.ndarray, usual: int) -> int:
    vectors = features.size // features.shape[-1]
    return usual if min(vectors, features.shape[-1]) <= _LARGE else _FEW_HALVES


def _around(value: float, std: float, n: int) -> Figure:
    return Figure(value, value - _Z * std, value + _Z * std, n)


def _bounded(distance: Distance, figure: Figure) -> Figure:
    """A Fréchet distance is never below 0, and neither is its interval; a kernel distance may be."""
    return Figure(figure, max(figure.low, 0.0), figure.high, figure.n) if distance is frechet and figure.low < 0 else figure
