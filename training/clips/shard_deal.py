"""Which shard is read when, and by whom: computed from the numbers of videos alone, so that a stream resumes by a number.

Every reader (a worker of a process) has some shards open and takes one video of each in turn. Where a shard ends, the next one of
the common order takes its place: all shards, shuffled anew each epoch, those of an epoch before those of the next. So each shard
is read once an epoch, from its front to its end, by one reader, whatever the numbers of shards and readers are.
"""

import heapq
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jog3r.data.frame_choice import shuffled_index
from jog3r.training.clips.schedule import Schedule
from jog3r.training.clips.step_batches import BatchShare

__all__ = ["PlaceReaders", "Readers", "ShardDeal"]


@dataclass
class Readers:
    """Which reader gets a position of the stream, and how many clips it has had before.

    Attributes:
        share: of this process; all have the same numbers.
        workers: of each process, at least 1; worker w makes the micro-batches w, w + workers, ... of its process.
    """

    share: BatchShare
    workers: int

    @property
    def paces(self) -> list[float]:
        """Of the readers of all processes: clips in the same time, 1 for who takes the most."""
        return [1.0] * (self.share.num_processes * self.workers)

    def locate(self, position: int) -> tuple[int, int]:
        """(reader, clip of that reader, from 0) at `position` of the stream: the inverse of `BatchShare.slots`."""
        share = self.share
        step, slot = divmod(position, sum(share.clips_per_step))
        behind_generation = share.clips_per_step[0]
        if slot < behind_generation:
            part, place = divmod(slot, share.generation)
        else:
            part, place = divmod(slot - behind_generation, share.reconstruction)
            place += share.generation
        micro_step, process = divmod(part, share.num_processes)
        turn, worker = divmod(step * share.micro_steps + micro_step, self.workers)
        return process * self.workers + worker, turn * share.clips_per_micro_step + place


class PlaceReaders(Readers):
    """Which reader gets a clip of one place of several, and how many of that place it has had before.

    Args:
        share, workers: of the half of a step that reads the places, as its only clips.
        schedule: which place each sample of the half comes from.
        place: number of this one.
    """

    def __init__(self, share: BatchShare, workers: int, schedule: Schedule, place: int):
        super().__init__(share, workers)
        turn = share.generation * share.num_processes * workers  # samples after which the same reader comes again
        period = math.lcm(turn, schedule.period)
        clips = schedule.shares[place] * (period // schedule.period)  # of this place in a period
        readers = [super(PlaceReaders, self).locate(schedule.sample(place, clip))[0] for clip in range(clips)]
        self._readers = np.array(readers)
        self._totals = np.bincount(self._readers, minlength=share.num_processes * workers)
        self._numbers = np.empty(clips, int)  # how many of the reader's came before in this period
        for reader, total in enumerate(self._totals):
            self._numbers[self._readers == reader] = range(total)

    @property
    def paces(self) -> list[float]:
        """Of the readers of all processes; 0 for one that gets no clip of this place."""
        return (self._totals / self._totals.max()).tolist()

    def locate(self, position: int) -> tuple[int, int]:
        """(reader, clip of that reader, from 0) of clip `position` of the place."""
        periods, clip = divmod(position, len(self._readers))
        reader = int(self._readers[clip])
        return reader, int(periods * self._totals[reader] + self._numbers[clip])


class ShardDeal:
    """The shards that each reader has open, and when.

    Args:
        counts: videos of each shard, at least 1.
        paces: of the readers: how many clips each takes in the same time; one of pace 0 gets no shards.
        open_shards: of each reader at once; fewer where there are not as many shards.
        seed: of the shards' order.
    """

    def __init__(self, counts: Sequence[int], paces: Sequence[float], open_shards: int, seed: int):
        self.counts, self.seed = counts, seed
        reading = [reader for reader, pace in enumerate(paces) if pace]
        self.open_shards = max(1, min(open_shards, len(counts) // len(reading)))
        self._paces = paces
        lanes = len(paces) * self.open_shards  # lane k * readers + r: the k-th open shard of reader r
        self._starts: list[list[int]] = [[] for _ in range(lanes)]  # turns at which its shards begin
        self._shards: list[list[int]] = [[] for _ in range(lanes)]
        # a heap of (time, lane, turn): when each lane needs its next shard, in turns of the fastest reader
        self._free = [(0.0, lane, 0) for lane in range(lanes) if paces[lane % len(paces)]]
        self._dealt = 0

    def at(self, reader: int, number: int) -> tuple[int, int]:
        """(shard, place of the video among those of the shard) of clip `number` of a reader."""
        turn, place = divmod(number, self.open_shards)
        while self._free[0][0] <= turn / self._paces[reader]:  # the lane that is free first gets the next shard
            self._deal()
        lane = place * len(self._paces) + reader
        found = bisect_right(self._starts[lane], turn) - 1
        return self._shards[lane][found], turn - self._starts[lane][found]

    def _deal(self) -> None:
        _, lane, turn = self._free[0]
        shard = shuffled_index(self._dealt, len(self.counts), self.seed)
        self._dealt += 1
        self._starts[lane].append(turn)
        self._shards[lane].append(shard)
        turn += self.counts[shard]
        heapq.heapreplace(self._free, (turn / self._paces[lane % len(self._paces)], lane, turn))
