"""Rows of a table wherever it lies, read from any row on; whatever three libraries raise becomes one line that names the file."""

import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jog3r.data.errors import first_line
from jog3r.data.local_files import visible_files
from jog3r.data.realestate10k.tars import Sample, list_tars

if TYPE_CHECKING:
    import datasets

__all__ = ["COLUMNS", "TableRows", "local_rows", "stream_rows", "table_errors"]

COLUMNS = {"name": ("name", "__key__"), "video": ("video", "mp4"), "cameras": ("cameras", "txt"), "caption": ("caption", "json")}
_TAR_COLUMNS = ("__key__", "mp4", "txt", "json")
_BATCH = 8  # rows of Parquet in memory at once; a row holds a video


@dataclass(frozen=True)
class TableRows:
    """A table.

    Attributes:
        columns: names of its columns.
        read: rows with the columns asked for, from a row on; `ValueError` naming the file where it is damaged.
        local: whether the table was written on this machine's disk, so that it may name files beside it.
    """

    columns: Sequence[str]
    read: Callable[[Sequence[str], int], Iterator[dict[str, Any]]]
    local: bool


def table_errors() -> tuple[type[Exception], ...]:
    """What `datasets`, pyarrow and tarfile raise for damaged, foreign or absent data."""
    found: list[type[Exception]] = [ValueError, OSError, LookupError, TypeError, RuntimeError, EOFError, tarfile.TarError]
    try:
        from pyarrow import ArrowException

        found.append(ArrowException)
        from datasets.exceptions import DatasetsError

        found.append(DatasetsError)
    except ImportError:
        pass
    return tuple(found)


def local_rows(place: Path) -> TableRows:
    """The rows of a folder of `*.parquet` or `*.tar`, or of one such file.

    Raises:
        ValueError: neither, both, or a file that cannot be read or has other columns than the first.
        ImportError: Parquet without the library `pyarrow`.
    """
    kinds = {suffix: [place] if place.suffix == suffix else [] for suffix in (".parquet", ".tar")}
    if place.is_dir():
        kinds = {suffix: sorted(visible_files(place, (suffix,))) for suffix in kinds}
    if not any(kinds.values()):
        raise ValueError(f"{str(place)!r} holds neither *.parquet nor *.tar")
    if all(kinds.values()):
        raise ValueError(f"{str(place)!r} holds both *.parquet and *.tar; move one of the two away")
    if kinds[".tar"]:
        samples = list_tars(place)
        return TableRows(_TAR_COLUMNS, partial(_tar_rows, samples), local=True)
    files = kinds[".parquet"]
    columns = [_parquet_columns(file) for file in files]
    known = {name for names in COLUMNS.values() for name in names}
    for file, names in zip(files, columns, strict=True):
        if different := sorted((set(names) ^ set(columns[0])) & known):
            raise ValueError(
                f"{str(file)!r} differs from {files[0].name!r} in its columns {', '.join(different)}; write all alike"
            )
    return TableRows(columns[0], partial(_parquet_rows, files), local=True)


def _tar_rows(samples: dict[str, Sample], columns: Sequence[str], start: int) -> Iterator[dict[str, Any]]:
    for name in list(samples)[start:]:
        places = dict(zip(_TAR_COLUMNS[1:], samples[name], strict=True))
        parts = {column: places[column] for column in columns if column in places}
        yield {"__key__": name, **{column: None if place is None else place.read() for column, place in parts.items()}}


def _parquet_columns(file: Path) -> list[str]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError("Parquet needs the library `pyarrow`: pip install '.[train]' in the checkout of jog3r") from error
    try:
        return list(parquet.read_schema(file).names)
    except table_errors() as error:
        raise ValueError(f"{str(file)!r} is no readable Parquet file ({first_line(error)}); copy it again") from error


def _parquet_rows(files: Sequence[Path], columns: Sequence[str], start: int) -> Iterator[dict[str, Any]]:
    from pyarrow import parquet

    for file in files:
        row = 0  # of this file
        try:
            with parquet.ParquetFile(file) as table:
                for group in range(table.num_row_groups):
                    count = table.metadata.row_group(group).num_rows
                    if start - row < count:  # else all of the group lies before the start
                        for batch in table.iter_batches(_BATCH, row_groups=[group], columns=list(columns), use_threads=False):
                            yield from batch.slice(min(max(0, start - row), batch.num_rows)).to_pylist()
                            row += batch.num_rows
                    else:
                        row += count
        except table_errors() as error:
            raise ValueError(f"{str(file)!r} is damaged behind row {row} ({first_line(error)}); copy it again") from error
        start = max(0, start - row)


def stream_rows(stream: "datasets.IterableDataset") -> TableRows:
    """The rows of a stream of `datasets`.

    Raises:
        ValueError: its first row cannot be read.
    """

    def read(columns: Sequence[str], start: int) -> Iterator[dict[str, Any]]:
        row = start
        try:
            chosen = stream.select_columns(list(columns)) if columns else stream
            for found in chosen.skip(start).iter(1):  # iteration without batches deals files out among the workers of a loader
                yield {name: values[0] for name, values in found.items()}
                row += 1
        except table_errors() as error:
            raise ValueError(
                f"the table cannot be read behind row {row} ({first_line(error)}); download it and name the folder"
            ) from error

    # Streams of tars know their columns by the first row alone.
    names = stream.column_names or list(next(read((), 0), {}))
    return TableRows(names, read, local=False)
