"""Clips of several places: which place each sample comes from, and the stream of a run whose halves read places of their own."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

__all__ = ["HalfOfStep", "MixedStream", "Schedule"]

LONGEST_PERIOD = 10_000  # samples


class Schedule:
    """Which place a sample comes from, and as the how-manieth of that place: a pure function of (seed, number of the sample).

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
        parts = max(1, 2 * len(weights) - 2)
        for sample in range(1, self.period + 1):
            # those far enough behind their share may come, first whose count would fall too far behind soonest
            behind = [one for one in order if (sample * self.shares[one] - self.period * counts[one]) * parts >= self.period]
            place = min(behind, key=lambda one: ((counts[one] + 1) * parts - 1) / self.shares[one])
            self._places.append(place)
            self._numbers.append(counts[place])
            counts[place] += 1

    def locate(self, sample: int) -> tuple[int, int]:
        """(place, clip of that place, from 0) of a sample."""
        periods, rest = divmod(sample, self.period)
        place = self._places[rest]
        return place, periods * self.shares[place] + self._numbers[rest]


@dataclass
class HalfOfStep:
    """What one half of a step reads.

    Attributes:
        clips: of the global batch of a step.
        names: of the places, each another one.
        weights: of the places.
        streams: of the places; clip k of a place is item k of its stream.
        seed: of the schedule.
        schedule: made of weights and seed.
    """

    clips: int
    names: list[str]
    weights: list[Fraction]
    streams: list[Any]
    seed: int
    schedule: Schedule = field(init=False)

    def __post_init__(self) -> None:
        self.schedule = Schedule(self.weights, self.seed)


class MixedStream(Dataset):
    """Clips of a run whose halves read places of their own; item k is a pure function of the seeds and k.

    Args:
        halves: "generation" and "reconstruction", in the order in which they stand in a step.
        length: positions in the stream.
        without: keys that items of some places have and those of others lack, left out.
    """

    def __init__(self, halves: dict[str, HalfOfStep], length: int, without: Sequence[str] = ()):
        self.halves, self.length, self.without = halves, length, without

    def __len__(self) -> int:
        return self.length

    def locate(self, position: int) -> tuple[str, int, int]:
        """(half, number of its place, clip of that place) at `position`."""
        step, slot = divmod(position, sum(half.clips for half in self.halves.values()))
        for name, half in self.halves.items():
            if slot < half.clips:
                return name, *half.schedule.locate(step * half.clips + slot)
            slot -= half.clips
        raise AssertionError  # slots are fewer than the clips of a step

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        """The item of the place's stream; those of the reconstruction half have no caption."""
        name, place, clip = self.locate(position)
        item = self.halves[name].streams[place][clip]
        return {key: value for key, value in item.items() if key not in self.without}

    def describe(self) -> dict[str, Any]:
        """What decides which clip stands where; a run goes on with the same alone."""
        found: dict[str, Any] = {"kind": "mixture"}
        for name, half in self.halves.items():
            for number, (weight, stream) in enumerate(zip(half.weights, half.streams, strict=True), 1):
                described = {"weight": str(weight), **stream.describe()}
                found |= {f"{name} {number} {key}": value for key, value in described.items()}
        return found

    def sample_name(self, position: int) -> str:
        """The clip at `position` behind the name of its place, for people and logs."""
        name, place, clip = self.locate(position)
        half = self.halves[name]
        return f"{half.names[place]}: {half.streams[place].sample_name(clip)}"

    def mixture(self, positions: Sequence[int]) -> dict[str, Any]:
        """For the log: of each half's places the weight, and how many clips of those at `positions` are theirs."""
        counts = Counter(self.locate(position)[:2] for position in positions)
        return {
            name: {
                label: {"weight": float(weight), "clips": counts[name, place]}
                for place, (label, weight) in enumerate(zip(half.names, half.weights, strict=True))
            }
            for name, half in self.halves.items()
        }
