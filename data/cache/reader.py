"""Reading a finished cache: its manifest, some frames of a video, a caption."""

import json
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from jog3r.data.cache.places import Place, connection_errors, open_parquet, open_place
from jog3r.data.cache.rows import CachedCaption, CachedFrames, decode_frame, part_name, read_caption, require_pyarrow
from jog3r.data.errors import first_line
from jog3r.data.files import file_hash

__all__ = ["COLUMNS", "FORMAT", "FORMATS", "MANIFEST", "PLAN", "REPORT", "Cache"]

FORMATS = (1, 2)  # 1: every row group is one frame, which is all that earlier versions of jog3r read
FORMAT = FORMATS[-1]
COLUMNS = ["latents", "depth", "valid", "pose", "intrinsics"]  # of a frame
MANIFEST, PLAN, REPORT = "manifest.json", "plan.json", "report.json"


class Cache:
    """A finished cache, read at random; safe to hand to the workers of a `DataLoader`.

    Args:
        place: the folder that `jog3r prepare` wrote, or where a copy of it lies (`open_place`).
        open_files: at once; their footers stay in memory.

    Raises:
        ValueError: not a cache, one that is not finished, one of another format, a file that is missing or of another size (where
            it lies elsewhere, that shows when it is opened), or no connection.
    """

    def __init__(self, place: str | PathLike[str] | Place, open_files: int = 64):
        require_pyarrow()
        self.place: Place = open_place(place) if isinstance(place, (str, PathLike)) else place
        self.directory = self.place.address
        self.manifest: dict[str, Any] = self._read_manifest()
        if not self.place.far:
            for name, entry in self.manifest["files"].items():
                self.place.check_size(name, entry["bytes"])
        plan = self.manifest["plan"]
        self.height, self.width = plan["height"], plan["width"]
        self.caption_length: int = plan["caption_length"]
        self.caption_channels: int = plan["caption_channels"]
        self._videos = [
            (part, int(first), video)
            for part, content in sorted(self.manifest["clips"].items())
            for first, video in zip(_starts(content), content, strict=True)
        ]
        self._open_files = open_files
        self._files: OrderedDict[str, tuple[Any, np.ndarray]] = OrderedDict()  # with the first row of each row group, and the end
        self._process = os.getpid()

    def _read_manifest(self) -> dict[str, Any]:
        try:
            content = self.place.read(MANIFEST)
            unfinished = content is None and self.place.read(PLAN) is not None
        except connection_errors() as error:
            raise ValueError(f"{MANIFEST} of {self.directory!r} cannot be read: {first_line(error)}") from error
        if content is None:
            state = "was not finished: run `jog3r prepare` again" if unfinished else "is no cache of jog3r"
            raise ValueError(f"{self.directory!r} {state} (no {MANIFEST})")
        try:
            manifest: dict[str, Any] = json.loads(content)
        except ValueError as error:
            raise ValueError(f"{MANIFEST} of {self.directory!r} is damaged: {error}") from error
        if manifest.get("format") not in FORMATS:
            raise ValueError(
                f"{MANIFEST} of {self.directory!r} has format {manifest.get('format')!r}, this reads {FORMATS}; prepare it again"
            )
        return manifest

    def __len__(self) -> int:
        """Number of videos."""
        return len(self._videos)

    def num_frames(self, index: int) -> int:
        """Frames of video `index`."""
        return int(self._videos[index][2]["num_frames"])

    def name(self, index: int) -> str:
        """Name of video `index` in its source."""
        return str(self._videos[index][2]["name"])

    def part(self, index: int) -> str:
        """Shard in which video `index` lies, such as "clips-00000"."""
        return str(self._videos[index][0])

    def caption_ids(self, index: int) -> tuple[int, int]:
        """Captions of video `index` played forward and backward."""
        forward, backward = self._videos[index][2]["caption_ids"]
        return forward, backward

    def frames(
        self, index: int, numbers: Sequence[int], take: Callable[[np.ndarray], list[dict[str, Any]]] | None = None
    ) -> CachedFrames:
        """Some frames of a video.

        Args:
            index: of the video.
            numbers: of the frames, in the order in which they are wanted.
            take: reads rows of the video's shard, such as `ShardRows.take`; None picks the row groups that hold them.
        """
        part, first, video = self._videos[index]
        if min(numbers) < 0 or max(numbers) >= video["num_frames"]:
            raise ValueError(f"video {video['name']!r} has {video['num_frames']} frames, got {list(numbers)}")
        forward, places = np.unique(np.asarray(numbers), return_inverse=True)  # a stream is read onward, never back
        rows = (take or partial(self._pick, part))(first + forward)
        read = [decode_frame(row, self.manifest["plan"]) for row in rows]
        decoded = [read[place] for place in places]
        stacked = {name: [frame[name] for frame in decoded] for name in COLUMNS}
        latents = stacked.pop("latents")
        joined = np.concatenate(latents) if "windows" in self.manifest["plan"] else np.stack(latents)
        return CachedFrames(joined, *(np.stack(values) for values in stacked.values()))

    def caption(self, caption_id: int) -> CachedCaption:
        """One caption."""
        number, row = divmod(caption_id, self.manifest["plan"]["captions_per_shard"])
        return read_caption(self._file(part_name("captions", number))[0], row, self.caption_channels)

    def check_model(self, part: str, fingerprint: str, what: str) -> None:
        """Refuse a cache made by another model.

        Args:
            part: "vae" or "text_encoder".
            fingerprint: hash of the weights at hand.
            what: how to name them.
        """
        made_by = self.manifest["plan"][part]
        if made_by["fingerprint"] != fingerprint:
            raise ValueError(
                f"the cache {self.directory!r} was made with another {part}: {self.manifest['models'][part]} "
                f"({made_by['fingerprint'][:12]}), this run has {what} ({fingerprint[:12]}); prepare it anew with this one"
            )

    def verify(self) -> None:
        """Read every file, here on the disk, and compare its checksum; `ValueError` names the first that has changed."""
        folder = Path(self.directory)
        for name, entry in self.manifest["files"].items():
            if file_hash(folder / name) != entry["sha256"]:
                raise ValueError(f"{str(folder / name)!r} has changed since it was written; delete it and prepare again")

    def close(self) -> None:
        """Close all files; what is read next is opened anew."""
        while self._files:
            self._files.popitem()[1][0].close(force=True)

    def _pick(self, part: str, numbers: np.ndarray) -> list[dict[str, Any]]:
        """Rows `numbers` (ascending) of a shard."""
        file, starts = self._file(part)
        groups, order = np.unique(np.searchsorted(starts, numbers, side="right") - 1, return_inverse=True)
        table = file.read_row_groups(groups.tolist(), COLUMNS, use_threads=False)
        ends = np.cumsum(np.diff(starts)[groups])  # of the groups in the table
        return table.take(numbers - starts[groups + 1][order] + ends[order]).to_pylist()

    def _file(self, part: str) -> tuple[Any, np.ndarray]:
        if self._process != os.getpid():  # a worker must not share file positions with its parent
            self._files, self._process = OrderedDict(), os.getpid()
        if part not in self._files:
            name = f"{part}.parquet"
            file = open_parquet(self.place, name, self.manifest["files"][name]["bytes"])
            counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            self._files[part] = file, np.cumsum([0, *counts])
            if len(self._files) > self._open_files:
                self._files.popitem(last=False)[1][0].close(force=True)
        self._files.move_to_end(part)
        return self._files[part]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict()}


def _starts(videos: Sequence[dict[str, Any]]) -> np.ndarray:
    counts = [video["num_frames"] for video in videos]
    return np.concatenate([[0], np.cumsum(counts)])[:-1]
