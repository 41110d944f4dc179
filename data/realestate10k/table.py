"""RealEstate10K clips as rows of a table: Parquet or WebDataset shards of a folder, or a repository of the hub, streamed.

A row has a name (`name`, in a WebDataset `__key__`), a video (`video` or `mp4`, the bytes of the file), a camera file (`cameras`
or `txt`) and, if it can, a caption (`caption`, or `json` with a caption in it).
"""

import threading
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import numpy as np

from jog3r.data.errors import first_line
from jog3r.data.realestate10k.base import RealEstate10KSource, stream_bytes
from jog3r.data.realestate10k.camera_files import CameraFile, parse_camera_file
from jog3r.data.realestate10k.lists import read_caption
from jog3r.data.realestate10k.table_rows import COLUMNS, TableRows, local_rows, stream_rows, table_errors

if TYPE_CHECKING:
    import datasets

__all__ = ["RealEstate10KTable", "open_table"]

_AHEAD = 16  # rows passed over that are kept: several threads may ask for neighbours in any order


def open_table(place: str, split: str = "train", revision: str | None = None) -> Union[TableRows, "datasets.IterableDataset"]:
    """A table as undecoded rows, for `RealEstate10KTable`.

    Args:
        place: folder of `*.parquet` or `*.tar`, one such file, or a data set repository of the hub, "owner/name".
        split: of a repository.
        revision: of a repository.

    Raises:
        ValueError: a folder without such files, a file that is damaged, or a repository that cannot be read.
        ImportError: without the library `datasets` (repositories) or `pyarrow` (Parquet).
    """
    if Path(place).exists():
        return local_rows(Path(place))
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ImportError("tables need the library `datasets`: pip install '.[train]' in the checkout of jog3r") from error
    try:
        return load_dataset(place, split=split, revision=revision, streaming=True).decode(False)
    except table_errors() as error:
        reason = first_line(error)
        raise ValueError(f"{place!r} is neither a folder nor a data set that can be read from the hub: {reason}") from error


class RealEstate10KTable(RealEstate10KSource):
    """A table as a source of posed videos; depth is unknown.

    Names and captions are listed in a first pass; of local files that reads these alone.

    Args:
        rows: of `open_table`, or any stream of undecoded rows of `datasets`; their order is the clips' order.
        size: (H, W) to resize to; None leaves the frames as they are.
        captions: json of captions by clip, for rows without one; see `read_captions`.
        resize_mode: "stretch" or "crop".
        default_caption: of clips that have none; None refuses them.
        frame_step: take every n-th frame, from the first.

    Raises:
        ValueError: no rows, rows that cannot be read, columns that are missing, or a name that stands there twice.
    """

    def __init__(
        self,
        rows: Union[TableRows, "datasets.IterableDataset"],
        size: tuple[int, int] | None,
        captions: str | PathLike[str] | None = None,
        resize_mode: str = "stretch",
        default_caption: str | None = None,
        frame_step: int = 1,
    ):
        super().__init__(size, captions, resize_mode, default_caption, frame_step)
        self._rows = rows if isinstance(rows, TableRows) else stream_rows(rows)
        self._columns = _find_columns(self._rows.columns)
        wanted = [self._columns[part] for part in ("name", "caption") if part in self._columns]
        self._texts: dict[str, Any] = {}
        for number, row in enumerate(self._rows.read(wanted, 0)):
            name = _text(row[self._columns["name"]])
            if not name:
                raise ValueError(f"row {number} of the table has no name")
            if name in self._texts:
                raise ValueError(f"the table names {name!r} twice")
            self._texts[name] = row[self._columns["caption"]] if "caption" in self._columns else None
        if not self._texts:
            raise ValueError("the table has no rows")
        self.names: Sequence[str] = list(self._texts)
        self._lock = threading.Lock()
        self._stream: Iterator[dict[str, Any]] = iter(())
        self._next = len(self.names)
        self._passed: dict[int, dict[str, Any]] = {}

    def _own_caption(self, index: int) -> str | None:
        value = self._texts[self.names[index]]
        if self._columns.get("caption") == "json":
            value = value.encode() if isinstance(value, str) else value
        elif isinstance(value, bytes):
            value = _text(value)
        return read_caption(value, self.names[index])

    def _read(self, index: int) -> tuple[CameraFile, Iterator[np.ndarray | None]]:
        name, row = self.names[index], self._row(index)
        cameras = _content(row[self._columns["cameras"]], "cameras", name, self._rows.local)
        video = _content(row[self._columns["video"]], "video", name, self._rows.local)
        if isinstance(video, str):
            raise ValueError(f"the video of clip {name!r} is a text ({video[:40]!r}); the table must hold the bytes of the file")
        return parse_camera_file(_text(cameras), name), stream_bytes(video, name)

    def _row(self, index: int) -> dict[str, Any]:
        """The row of a clip; quick in the order of the rows."""
        with self._lock:
            if index in self._passed:
                return self._passed.pop(index)
            # what a hub streams has no places: to begin anew behind some rows reads all of them again
            if index < self._next or (self._rows.local and index >= self._next + _AHEAD):
                self._stream, self._next, self._passed = self._rows.read(list(self._columns.values()), index), index, {}
            try:
                while self._next < index:
                    self._passed[self._next] = next(self._stream)
                    self._next += 1
                    if len(self._passed) > _AHEAD:
                        self._passed.pop(min(self._passed))
                row = next(self._stream)
            except (ValueError, StopIteration) as error:
                self._next = len(self.names)  # the stream is over: the next clip begins another
                if isinstance(error, ValueError):
                    raise
                raise ValueError("the table has fewer rows than when it was listed; start again") from error
            self._next += 1
            return row


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)


def _content(value: Any, what: str, name: str, local: bool) -> str | bytes:
    """What a cell holds: a text, bytes, or a file as `datasets` stores it (`Video()`: {"bytes", "path"}, one of the two None)."""
    if isinstance(value, dict) and "bytes" in value:
        content, path = value["bytes"], value.get("path")
        if content is None and path:
            if not local or not Path(path).is_file():
                raise ValueError(
                    f"the {what} of clip {name!r} is only a path ({path!r}); the table must hold the bytes of the file"
                )
            content = Path(path).read_bytes()
        value = content
    if value is None or (isinstance(value, (str, bytes)) and not value):
        raise ValueError(f"clip {name!r} has no {what}")
    if not isinstance(value, (str, bytes)):
        raise ValueError(f"the {what} of clip {name!r} must be a file's content, got a {type(value).__name__}")
    return value


def _find_columns(names: Sequence[str]) -> dict[str, str]:
    """Which column is what."""
    found = {part: next((name for name in options if name in names), None) for part, options in COLUMNS.items()}
    missing = [f"{part} ({' or '.join(COLUMNS[part])})" for part in ("name", "video", "cameras") if found[part] is None]
    if missing:
        raise ValueError(f"the table has no column for {', '.join(missing)}; it has {', '.join(names) or 'no rows'}")
    return {part: name for part, name in found.items() if name is not None}
