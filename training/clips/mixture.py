"""The stream of a run whose halves read places of their own, each also several with weights."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset

from jog3r.training.clips.schedule import Schedule

__all__ = ["HalfOfStep", "MixedStream"]


@dataclass(frozen=True)
class HalfOfStep:
    """What one half of a step reads.

    Attributes:
        clips: of the global batch of a step.
        names: of the places, each another one.
        schedule: which place each clip comes from.
        streams: of the places; clip k of a place is item k of its stream.
    """

    clips: int
    names: list[str]
    schedule: Schedule
    streams: list[Any]


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
            for number, (weight, stream) in enumerate(zip(half.schedule.weights, half.streams, strict=True), 1):
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
                for place, (label, weight) in enumerate(zip(half.names, half.schedule.weights, strict=True))
            }
            for name, half in self.halves.items()
        }
