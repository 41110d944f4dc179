"""Which of several places each clip comes from."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

__all__ = ["Schedule"]

LONGEST_PERIOD = 10_000  # samples


class Schedule:
    """Which place a sample comes from, and how many of that place came before: a pure function of (seed, number of the sample).

    After any number of samples, each place's count is less than one away from its share (Tijdeman, The chairman assignment
    problem, 1980). The schedule repeats after as many samples as the weights' ratio in whole numbers sums up to, 5 : 3 : 2
    after 10; the seed decides between places that are due alike.

    Args:
        weights: of the places, above 0.
        seed: of the order.

    Raises:
        ValueError: the weights' ratio repeats only after more than 10,000 samples.
    """

    def __init__(self, weights: Sequence[Fraction], seed: int):
        self.weights = weights
        whole = [int(weight * math.lcm(*(one.denominator for one in weights))) for weight in weights]
        self.shares = [weight // math.gcd(*whole) for weight in whole]
        self.period = sum(self.shares)
        if self.period > LONGEST_PERIOD:
            raise ValueError(
                f"the weights {', '.join(map(str, weights))} repeat only after {self.period} samples, at most {LONGEST_PERIOD} "
                "are possible: round them"
            )
        order = np.random.default_rng(seed).permutation(len(weights)).tolist()
        self._places, counts = [], [0] * len(weights)
        self._numbers = []  # how many of its place came before
        self._samples: list[list[int]] = [[] for _ in weights]  # of each place
        parts = max(1, 2 * len(weights) - 2)
        for sample in range(1, self.period + 1):
            # those far enough behind their share may come, first whose count would fall too far behind soonest
            behind = [one for one in order if (sample * self.shares[one] - self.period * counts[one]) * parts >= self.period]
            place = min(behind, key=lambda one: ((counts[one] + 1) * parts - 1) / self.shares[one])
            self._places.append(place)
            self._numbers.append(counts[place])
            self._samples[place].append(sample - 1)
            counts[place] += 1

    def locate(self, sample: int) -> tuple[int, int]:
        """(place, clip of that place, from 0) of a sample."""
        periods, rest = divmod(sample, self.period)
        place = self._places[rest]
        return place, periods * self.shares[place] + self._numbers[rest]

    def sample(self, place: int, clip: int) -> int:
        """The sample that is clip `clip` of a place: the inverse of `locate`."""
        periods, rest = divmod(clip, self.shares[place])
        return periods * self.period + self._samples[place][rest]
