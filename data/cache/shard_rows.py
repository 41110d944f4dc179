"""The shards of a cache as streams of `datasets`, each read from its front to its end."""

import os
from collections.abc import Generator, Sequence
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any
from weakref import finalize

import numpy as np

from jog3r.data.cache.places import Place, connection_errors
from jog3r.data.cache.reader import Cache
from jog3r.data.cache.rows import FRAMES_PER_GROUP, clip_schema
from jog3r.data.errors import first_line

if TYPE_CHECKING:
    import datasets

__all__ = ["ShardRows", "stream_frames"]


def stream_frames(place: str | PathLike[str] | Place | Cache, columns: Sequence[str] | None = None) -> "datasets.IterableDataset":
    """All rows of the clips files as a stream of `datasets`, undecoded (see `decode_frame`); no file is opened yet.

    Args:
        place: as of `Cache`, or the cache.
        columns: to be read; None is all.

    Raises:
        ImportError: without the library `datasets`.
        ValueError: as `Cache`.
    """
    try:
        from datasets import Features, load_dataset
        from datasets.data_files import DataFilesList
    except ImportError as error:
        raise ImportError(
            "streams of shards need the library `datasets`: pip install '.[train]' in the checkout of jog3r"
        ) from error
    from pyarrow.dataset import ParquetFragmentScanOptions

    class Columns(Features):
        arrow_schema = cached_property(lambda self: Features.arrow_schema.fget(self))  # else made anew for every few rows

    cache = place if isinstance(place, Cache) else Cache(place)
    files = [cache.place.url(f"{part}.parquet") for part in sorted(cache.manifest["clips"])]
    features = Columns.from_arrow_schema(clip_schema().empty_table().select(columns or clip_schema().names).schema)
    return load_dataset(
        "parquet",
        data_files={"train": DataFilesList(files, [])},  # neither patterns, nor worth a question for each
        features=features,
        columns=list(features),
        split="train",
        streaming=True,
        fragment_scan_options=ParquetFragmentScanOptions(pre_buffer=False),  # else all that was read of a shard is kept
    )


class ShardRows:
    """Rows of one shard, asked for onward; one that lies before those asked for last is found from the front again.

    To skip rows is to read over them, as `IterableDataset.skip` and its saved states do: at most the shard.

    Args:
        cache: of the shard.
        part: its name.
        shards: `stream_frames` of the cache, in the format "arrow": nothing is decoded in vain.
    """

    def __init__(self, cache: Cache, part: str, shards: "datasets.IterableDataset"):
        self.part, self._place = part, cache.place
        self._name, self._bytes = f"{part}.parquet", cache.manifest["files"][f"{part}.parquet"]["bytes"]
        parts = sorted(cache.manifest["clips"])
        self._stream = shards.shard(len(parts), parts.index(part))
        self._batches: Generator[Any] | None = None
        self._closing: finalize | None = None
        self._of_parent: Any = None
        self._first, self._batch = 0, clip_schema().empty_table()
        self._process = os.getpid()

    def take(self, numbers: np.ndarray) -> list[dict[str, Any]]:
        """Rows `numbers` (ascending, from 0).

        Raises:
            ValueError: the shard is missing, has another size than the manifest says, or is damaged.
            OSError, or another of `connection_errors`: the connection is lost; the next call opens the shard anew.
        """
        import pyarrow

        try:
            return self._take(numbers)
        except pyarrow.ArrowInvalid as error:
            raise ValueError(f"{self._place.what(self._name)} is damaged: {first_line(error)}") from error
        except connection_errors():
            self._batches = None
            raise

    def _take(self, numbers: np.ndarray) -> list[dict[str, Any]]:
        if self._process != os.getpid():  # a stream that a parent opened waits for ever for threads that are not here
            self._of_parent = self._closing.detach() if self._closing else None  # kept, as to drop it would close it
            self._process, self._batches, self._closing = os.getpid(), None, None
        if self._batches is None or numbers[0] < self._first:
            self._batches = self._open()
        rows: list[dict[str, Any]] = []
        while True:
            here = numbers[len(rows) :] - self._first
            if here[0] < len(self._batch):
                here = here[here < len(self._batch)]
                dense = here[-1] - here[0] == len(here) - 1  # a slice copies nothing
                rows += (self._batch.slice(here[0], len(here)) if dense else self._batch.take(here)).to_pylist()
            if len(rows) == len(numbers):
                return rows
            self._first += len(self._batch)
            batch = next(self._batches, None)
            if batch is None:
                raise ValueError(f"{self._place.what(self._name)} is damaged: {self._first} rows, the manifest names more")
            self._batch = batch

    def _open(self) -> Generator[Any]:
        if self._closing:
            self._closing()  # what was open before
        self._place.check_size(self._name, self._bytes)  # hours may lie between the start and this
        self._first = 0  # row at which the batch begins
        self._batch = clip_schema().empty_table()
        # not `iter(stream)`: it deals out files among the workers of a loader, and this one is the worker's already
        batches = self._stream.iter(FRAMES_PER_GROUP)  # tables of so many rows
        self._closing = finalize(self, batches.close)  # before Python takes its modules apart
        return batches
