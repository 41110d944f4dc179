"""Which shard is read when, and by whom: computed from the numbers of videos alone, so that a stream resumes by a number.

Every reader (a worker of a process) has some shards open and takes one video of each in turn. Where a shard ends, the next one of
the common order takes its place: all shards, shuffled anew each epoch, those of an epoch before those of the next. So each shard
is read once an epoch, from its front to its end, by one reader, whatever the numbers of shards and readers are.
"""

import heapq
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from jog3r.data.frame_choice import shuffled_index
from jog3r.training.clips.step_batches import BatchShare

__all__ = ["Readers", "ShardDeal"]


@dataclass(frozen=True)
class Readers:
    """Who reads a position of the stream, and as his how-manieth clip.

    Attributes:
        share: of this process; all have the same numbers.
        workers: of each process, at least 1; worker w makes the micro-batches w, w + workers, ... of its process.
    """

    share: BatchShare
    workers: int

    @property
    def count(self) -> int:
        """Of all processes."""
        return self.share.num_processes * self.workers

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


class ShardDeal:
    """The shards that each reader has open, and when.

    Args:
        counts: videos of each shard, at least 1.
        readers: how many.
        open_shards: of each reader at once; fewer where there are not as many shards.
        seed: of the shards' order.
    """

    def __init__(self, counts: Sequence[int], readers: int, open_shards: int, seed: int):
        self.counts, self.seed = counts, seed
        self.open_shards = max(1, min(open_shards, len(counts) // readers))
        self._readers = readers
        lanes = readers * self.open_shards  # lane k * readers + r: the k-th open shard of reader r
        self._starts: list[list[int]] = [[] for _ in range(lanes)]  # turns at which its shards begin
        self._shards: list[list[int]] = [[] for _ in range(lanes)]
        self._free = [(0, lane) for lane in range(lanes)]  # a heap: when each lane needs its next shard
        self._dealt = 0

    def at(self, reader: int, number: int) -> tuple[int, int]:
        """(shard, place of the video among those of the shard) of clip `number` of a reader."""
        turn, place = divmod(number, self.open_shards)
        while self._free[0][0] <= turn:  # the lane that is free first gets the next shard
            self._deal()
        lane = place * self._readers + reader
        found = bisect_right(self._starts[lane], turn) - 1
        return self._shards[lane][found], turn - self._starts[lane][found]

    def _deal(self) -> None:
        turn, lane = self._free[0]
        shard = shuffled_index(self._dealt, len(self.counts), self.seed)
        self._dealt += 1
        self._starts[lane].append(turn)
        self._shards[lane].append(shard)
        heapq.heapreplace(self._free, (turn + self.counts[shard], lane))
