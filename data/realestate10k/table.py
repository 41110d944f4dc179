"""RealEstate10K clips as rows of a table: Parquet or WebDataset shards, in a folder or in a repository of the hub, streamed.

A row has a name (`name`, in a WebDataset `__key__`), a video (`video` or `mp4`, the bytes of the file), a camera file (`cameras`
or `txt`) and, if it can, a caption (`caption`, or `json` with a caption in it).
"""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jog3r.data.clip import Clip
from jog3r.data.realestate10k.files import parse_camera_file, posed_clip, read_caption, read_captions, read_posed_bytes
from jog3r.data.source import check_resize_mode, list_hash

if TYPE_CHECKING:
    import datasets

__all__ = ["RealEstate10KTable", "open_table"]

_COLUMNS = {"name": ("name", "__key__"), "video": ("video", "mp4"), "cameras": ("cameras", "txt"), "caption": ("caption", "json")}
_AHEAD = 16  # rows passed over that are kept: several threads may ask for neighbours in any order


def open_table(place: str, split: str = "train", revision: str | None = None) -> "datasets.IterableDataset":
    """A table as a stream of undecoded rows.

    Args:
        place: folder of `*.parquet` or `*.tar`, or a data set repository of the hub, "owner/name".
        split: of a repository.
        revision: of a repository.

    Raises:
        ValueError: a folder without such files, or a repository that cannot be read.
        ImportError: without the library `datasets`.
    """
    try:
        from datasets import load_dataset
        from datasets.exceptions import DatasetNotFoundError
    except ImportError as error:
        raise ImportError("tables need the library `datasets`: pip install '.[train]' in the checkout of jog3r") from error
    if Path(place).is_dir():
        kinds = {"parquet": "*.parquet", "webdataset": "*.tar"}
        files = {kind: sorted(str(path) for path in Path(place).glob(pattern)) for kind, pattern in kinds.items()}
        kind = next((kind for kind, found in files.items() if found), None)
        if kind is None:
            raise ValueError(f"{place!r} holds neither *.parquet nor *.tar")
        return load_dataset(kind, data_files=files[kind], split="train", streaming=True).decode(False)
    try:
        return load_dataset(place, split=split, revision=revision, streaming=True).decode(False)
    except (DatasetNotFoundError, ValueError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{place!r} is neither a folder nor a data set that can be read from the hub: {reason}") from error


class RealEstate10KTable:
    """A streamed table as a source of posed videos; depth is unknown.

    Names and captions are listed in a first pass; of Parquet that reads these columns only, of tars everything.

    Args:
        rows: see `open_table`; their order is the clips' order.
        size: (H, W) to resize to.
        captions: json of captions by clip, for rows without one; see `read_captions`.
        resize_mode: "stretch" or "crop".
        default_caption: of clips that have none; None refuses them.

    Raises:
        ValueError: no rows, columns that are missing, or a name that stands there twice.
    """

    def __init__(
        self,
        rows: "datasets.IterableDataset",
        size: tuple[int, int],
        captions: Path | None = None,
        resize_mode: str = "stretch",
        default_caption: str | None = None,
    ):
        check_resize_mode(resize_mode)
        self._rows, self._mode, self._default = rows, resize_mode, default_caption
        self._columns = _find_columns(rows)
        listed = {} if captions is None else read_captions(captions)
        wanted = [self._columns[part] for part in ("name", "caption") if part in self._columns]
        texts: dict[str, str | None] = {}
        self._damaged: dict[str, str] = {}
        for row in rows.select_columns(wanted):
            name = str(row[self._columns["name"]])
            if name in texts:
                raise ValueError(f"the table names {name!r} twice")
            own = None
            try:
                own = read_caption(row[self._columns["caption"]], name) if "caption" in self._columns else None
            except ValueError as error:  # of one clip, which is refused when it is its turn
                self._damaged[name] = str(error)
            texts[name] = own if own is not None else listed.get(name, listed.get(name.rpartition("/")[2], default_caption))
        self.names: Sequence[str] = list(texts)
        self._texts = list(texts.values())
        self.size = size
        self._lock = threading.Lock()
        self._stream: Iterator[dict[str, Any]] = iter(())
        self._next = len(self.names)
        self._passed: dict[int, dict[str, Any]] = {}

    def captions(self, index: int) -> tuple[str, str]:
        """The clip's caption, the same for both directions."""
        name, caption = self.names[index], self._texts[index]
        if name in self._damaged:
            raise ValueError(self._damaged[name])
        if caption is None:
            raise ValueError(f"no caption for clip {name!r}")
        return caption, caption

    def expected_frames(self, index: int) -> None:  # noqa: ARG002  # the same of all
        """Not known before the row, video included, has been read."""

    def load(self, index: int) -> Clip:
        """All frames of a clip; `ValueError` if something of it is missing or damaged. Quick in the order of the rows."""
        name, row = self.names[index], self._row(index)
        video, cameras = row[self._columns["video"]], row[self._columns["cameras"]]
        content = video["bytes"] if isinstance(video, dict) else video
        if not content or not cameras:
            raise ValueError(f"clip {name!r} has no {'cameras' if content else 'video'}")
        text = cameras.decode("utf-8", errors="replace") if isinstance(cameras, bytes) else str(cameras)
        parsed = parse_camera_file(text, name)
        frames, intrinsics = read_posed_bytes(content, ".mp4", parsed, self.size, self._mode)
        return posed_clip(frames, intrinsics, parsed, name, self.captions(index)[0])

    def settings(self) -> dict[str, Any]:
        """Kind, list and resizing."""
        return {"kind": "realestate10k", "list_sha256": list_hash(self.names), "resize_mode": self._mode}

    def _row(self, index: int) -> dict[str, Any]:
        with self._lock:
            if index in self._passed:
                return self._passed.pop(index)
            if not self._next <= index < self._next + _AHEAD:
                self._stream, self._next, self._passed = iter(self._rows.skip(index)), index, {}
            while self._next < index:
                self._passed[self._next] = next(self._stream)
                self._next += 1
            while len(self._passed) > _AHEAD:
                self._passed.pop(min(self._passed))
            self._next += 1
            return next(self._stream)


def _find_columns(rows: "datasets.IterableDataset") -> dict[str, str]:
    """Which column is what; streams of tars know their columns by the first row alone."""
    names = rows.column_names or list(next(iter(rows), {}))
    found = {part: next((name for name in options if name in names), None) for part, options in _COLUMNS.items()}
    missing = [f"{part} ({' or '.join(_COLUMNS[part])})" for part in ("name", "video", "cameras") if found[part] is None]
    if missing:
        raise ValueError(f"the table has no column for {', '.join(missing)}; it has {', '.join(names) or 'no rows'}")
    return {part: name for part, name in found.items() if name is not None}
