"""95 % intervals by resampling clips: what every figure of an evaluation is printed with.

Letters: N clips, R resamples. A clip is drawn with all its pairs and frames: those of one clip are not independent. A statistic
is a function of weights (R,N), how often each clip counts, so that all resamples are computed at once; every figure over N clips
sees the same draws, which makes differences of figures paired.

The interval is the bootstrap's BCa one (Efron 1987: corrected for bias and skewness) with percentiles moved outwards as a t
distribution asks for at small N (Hesterberg 2015). Below about 20 clips it still covers less than it says, and an error that none
of the clips shows (a rare failure) is in no interval.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np

Statistic: TypeAlias = Callable[[np.ndarray], np.ndarray]  # weights (R,N) -> (R,)

RESAMPLES = 2000
LEVEL = 0.95
_MAX_JACKKNIFE = 1000  # clips; the correction for skewness that it gives fades with their number
_NORMAL = NormalDist()


class Figure(float):
    """A number with its interval: behaves as the number; `low`, `high` and `n`, the clips it is over, stand beside it."""

    low: float
    high: float
    n: int

    def __new__(cls, value: float, low: float, high: float, n: int) -> "Figure":
        """`value` in `low`..`high`; NaN where there is none."""
        self = super().__new__(cls, value)
        self.low, self.high, self.n = float(low), float(high), int(n)
        return self

    def __getnewargs__(self) -> tuple[Any, ...]:
        """So that copies keep the interval."""
        return (float(self), self.low, self.high, self.n)

    def to_dict(self) -> dict[str, float | int]:
        """As it stands in results.json."""
        return {"value": float(self), "low": self.low, "high": self.high, "n": self.n}


def figure(statistic: Statistic, n: int) -> Figure:
    """The statistic of all N clips with its interval; of one clip, or where it is never defined, the interval is NaN."""
    value = float(statistic(np.ones((1, n)))[0])
    if n < 2 or not np.isfinite(value):
        return Figure(value, np.nan, np.nan, n)
    draws = statistic(bootstrap_weights(n))
    draws = np.sort(draws[np.isfinite(draws)])
    if len(draws) < RESAMPLES // 2:
        return Figure(value, np.nan, np.nan, n)
    below = (np.searchsorted(draws, value, "left") + np.searchsorted(draws, value, "right")) / 2 / len(draws)
    bias = _NORMAL.inv_cdf(min(max(below, 1 / len(draws)), 1 - 1 / len(draws)))
    low, high = np.quantile(draws, _percentiles(bias, _acceleration(statistic, n), n))
    return Figure(value, low, high, n)


@lru_cache(maxsize=2)
def bootstrap_weights(n: int) -> np.ndarray:
    """(R,N) how often each of N clips is drawn; the same for every call."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)


def ratio(top: np.ndarray, bottom: np.ndarray) -> Statistic:
    """Sum of `top` (N,) over sum of `bottom` (N,): a mean over all pairs, or frames, of the clips."""
    return lambda weights: _quotient(weights @ top, weights @ bottom)


def quotient(above: Statistic, below: Statistic) -> Statistic:
    """One statistic over another, on the same draws."""
    return lambda weights: _quotient(above(weights), below(weights))


def paired_ratios(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]
) -> tuple[Statistic, Statistic, int]:
    """`ratio` of two pairs of sums, each (top (N,), bottom (N,)), over the clips that count in both, and how many these are."""
    both = (first[1] > 0) & (second[1] > 0)
    return ratio(first[0][both], first[1][both]), ratio(second[0][both], second[1][both]), int(both.sum())


def difference(first: Statistic, second: Statistic) -> Statistic:
    """One statistic minus another, on the same draws: paired."""
    return lambda weights: first(weights) - second(weights)


def sums(values: np.ndarray, clips: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Sum (N,) and number (N,) of the finite `values` (M,) of each clip; `clips` (M,) says whose they are."""
    known = np.isfinite(values)
    return np.bincount(clips[known], values[known], n), np.bincount(clips[known], minlength=n).astype(np.float64)


def mean_figure(values: Sequence[float] | np.ndarray, clips: np.ndarray | None = None, n: int | None = None) -> Figure:
    """Mean of `values` (M,), one or several a clip, over the finite ones; `n` of the result counts the clips that have any.

    Args:
        values: (M,).
        clips: (M,) index of each value's clip; None: a clip each.
        n: number of clips; None: as many as values.
    """
    array = np.asarray(values, dtype=np.float64)
    owners = np.arange(len(array)) if clips is None else clips
    top, bottom = sums(array, owners, len(array) if n is None else n)
    return figure_of_ratio(top, bottom)


def figure_of_ratio(top: np.ndarray, bottom: np.ndarray) -> Figure:
    """`ratio` over the clips that have any: a clip with nothing to count is none of N."""
    some = bottom > 0
    if not some.any():
        return Figure(np.nan, np.nan, np.nan, 0)
    return figure(ratio(top[some], bottom[some]), int(some.sum()))


def _quotient(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)


def _acceleration(statistic: Statistic, n: int) -> float:
    """BCa's, from the statistics without one clip each; 0 of very many clips."""
    if n > _MAX_JACKKNIFE:
        return 0.0
    without = statistic(1 - np.eye(n))
    without = without[np.isfinite(without)]
    deviation = without.mean() - without if len(without) else np.zeros(1)
    spread = (deviation**2).sum()
    return float((deviation**3).sum() / (6 * spread**1.5)) if spread > 1e-300 else 0.0


def _percentiles(bias: float, acceleration: float, n: int) -> list[float]:
    """Which percentiles of the draws, 0 to 1, bound the interval."""
    outward = student_quantile(0.5 + LEVEL / 2, n - 1) * (n / (n - 1)) ** 0.5
    found = []
    for z in (-outward, outward):
        stretch = 1 - acceleration * (bias + z)
        found.append(_NORMAL.cdf(bias + (bias + z) / stretch) if stretch > 0 else float(z > 0))
    return found


@lru_cache
def student_quantile(share: float, freedom: int) -> float:
    """Quantile of Student's t distribution: exact for 1 and 2 degrees of freedom, above by Cornish-Fisher (less than 1 % off)."""
    if freedom == 1:
        return float(np.tan(np.pi * (share - 0.5)))
    if freedom == 2:
        return float((2 * share - 1) / np.sqrt(2 * share * (1 - share)))
    z = _NORMAL.inv_cdf(share)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**k for k, term in enumerate(terms, 1))
