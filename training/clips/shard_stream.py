"""Training clips out of the shards of a cache that lies anywhere, each shard read from its front to its end once an epoch."""

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Self, TypeVar

import torch

from jog3r.data.cache import Cache, CachedFrames, ShardRows, stream_frames
from jog3r.data.cache.places import connection_errors
from jog3r.data.cache.reader import COLUMNS
from jog3r.data.errors import first_line
from jog3r.data.source import list_hash
from jog3r.training.clips.cached_stream import CachedStream
from jog3r.training.clips.shard_deal import Readers, ShardDeal

__all__ = ["ShardStream"]

logger = logging.getLogger(__name__)
Read = TypeVar("Read")
_LONGEST_PAUSE = 60.0  # seconds between two tries


class ShardStream(CachedStream):
    """`CachedStream` in the order of the shards, by `datasets`: no shuffle buffer, whose content no checkpoint could hold.

    Which clip stands at a position depends on the shards, the seed and the readers alone, and stride, start and direction of
    its frames are drawn as those of `CachedStream`: nothing else is needed to go on after a kill. Positions are meant to be
    read in the order of `Readers`; another order gives the same clips and takes longer. Held-out clips are picked.

    Args:
        cache: the shards, see `jog3r.data.cache.open_place`.
        readers: who takes which position.
        open_shards: of a reader at once.
        retries: after a lost connection, before giving up: 1, 2, 4, ... seconds apart.
        options: of `CachedStream`, by name.

    Raises:
        ValueError: as `CachedStream`.
    """

    def __init__(self, cache: Cache, readers: Readers, open_shards: int, retries: int, **options: Any):
        super().__init__(cache, **options)
        self.readers, self.retries, self._open_shards = readers, retries, open_shards
        self._shards = stream_frames(cache, COLUMNS).with_format("arrow")  # opens nothing that forked workers would share
        self._deal()

    def _deal(self) -> None:
        """Deal out the shards of the videos that there are."""
        # shards and their videos in the order of the files; those without a video that is long enough are none
        counts = list(Counter(self.cache.part(video) for video in self.videos).values())
        self._firsts = [sum(counts[:shard]) for shard in range(len(counts))]
        self.deal: ShardDeal | None = ShardDeal(counts, self.readers.paces, self._open_shards, self.seed)
        self._lanes: dict[int, ShardRows] = {}  # the shard that is open in each: as many as open_shards

    def video_at(self, position: int) -> int:
        """Number in the cache of the video at `position`."""
        if self.deal is None:
            return super().video_at(position)
        shard, place = self.deal.at(*self.readers.locate(position))
        return self.videos[self._firsts[shard] + place]

    def hold_out(self, names: set[str]) -> Self:
        """As `CachedStream`, in whose order the held-out videos are read."""
        held = super().hold_out(names)
        held.deal = None
        self._deal()
        return held

    def describe(self) -> dict[str, Any]:
        """What decides which clip stands where; a run goes on with the same alone."""
        order = {
            "processes": self.readers.share.num_processes,
            "workers (num_workers, at least 1)": self.readers.workers,
            "micro_steps": self.readers.share.micro_steps,
            "open_shards": 0 if self.deal is None else self.deal.open_shards,
            "shards_sha256": list_hash([f"{self.cache.part(video)} {self.cache.name(video)}" for video in self.videos]),
        }
        return {**super().describe(), "kind": "stream", **order}

    def _frames(self, position: int, video: int, numbers: list[int]) -> CachedFrames:
        if self.deal is None:
            return super()._frames(position, video, numbers)
        part, lane = self.cache.part(video), self.readers.locate(position)[1] % self.deal.open_shards
        if lane not in self._lanes or self._lanes[lane].part != part:
            self._lanes[lane] = ShardRows(self.cache, part, self._shards)  # the shard before it is through
        return self.cache.frames(video, numbers, self._lanes[lane].take)

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        """As `CachedStream`; a lost connection is waited for.

        Raises:
            ValueError: a shard is damaged.
            ConnectionError: still lost after all tries.
        """
        return self._patiently(super().__getitem__, position)

    def caption_text(self, position: int) -> str:
        """As `CachedStream`, and as patient."""
        return self._patiently(super().caption_text, position)

    def _patiently(self, read: Callable[[int], Read], position: int) -> Read:
        for attempt in range(self.retries + 1):
            try:
                return read(position)
            except connection_errors() as error:
                self.cache.close()
                text = f"{self.cache.part(self.video_at(position))} of {self.cache.directory!r}: {first_line(error)}"
                if attempt == self.retries:
                    raise ConnectionError(f"{text} (after {self.retries} retries, stream_retries)") from error
                pause = min(_LONGEST_PAUSE, 2.0**attempt)
                logger.warning("%s; trying again in %g s", text, pause)
                time.sleep(pause)
        raise AssertionError  # the last try returns or raises
