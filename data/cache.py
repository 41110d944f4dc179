"""A cache of prepared videos: latents, depth, cameras and caption embeddings in Parquet, readable at random or as a stream.

    manifest.json            what made it: models with hashes of their weights, sizes; every file with its size and SHA-256
    plan.json                the same without the files: what a restart is compared with
    report.json              what was skipped, and why
    clips-00000.parquet ...  a row a frame; a row group is one frame, so that a clip of any stride reads its own frames only
    captions-00000.parquet   a row a distinct caption: its tokens' embeddings, without padding
    parts/*.json             one beside each Parquet file: its index, written when it was complete

Written by `jog3r.training.prepare`. Letters: F frames, H W pixels, h w latents, C channels, L caption tokens, D caption channels.
"""

import json
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jog3r.data.files import file_hash

if TYPE_CHECKING:
    import datasets
    import pyarrow

__all__ = [
    "FORMAT", "Cache", "CachedCaption", "CachedFrames", "caption_rows", "clip_rows", "decode_frame", "part_name", "stream_frames",
    "write_rows",
]  # fmt: skip

FORMAT = 1
MANIFEST, PLAN, REPORT = "manifest.json", "plan.json", "report.json"
_OPEN_FILES = 16  # at once in one reader; their footers stay in memory


@dataclass(frozen=True)
class CachedFrames:
    """Some frames of one video, in the order asked for.

    Attributes:
        latents: (F, C, h, w) float16, as the transformer sees them.
        depth: (F, H, W) float32, 0 where unknown.
        valid: (F, H, W) bool.
        poses: (F, 4, 4) float32 camera-to-world, in the world of the video's first frame.
        intrinsics: (F, 3, 3) float32, pixels.
    """

    latents: np.ndarray
    depth: np.ndarray
    valid: np.ndarray
    poses: np.ndarray
    intrinsics: np.ndarray


@dataclass(frozen=True)
class CachedCaption:
    """One distinct caption: its text, token ids (L,) and embeddings (L, D) float16, L its own number of tokens."""

    text: str
    ids: np.ndarray
    embeddings: np.ndarray


# Writing


def part_name(kind: str, number: int) -> str:
    """Name of shard `number` of "clips" or "captions", without its suffix."""
    return f"{kind}-{number:05d}"


def clip_rows(name: str, frames: CachedFrames, caption_ids: tuple[int, int]) -> "pyarrow.Table":
    """A video as a table, a row a frame. `caption_ids`: of the video played forward and backward."""
    pa = _pyarrow()
    count = len(frames.latents)
    latents = np.ascontiguousarray(frames.latents, dtype="<f2")
    if not np.isfinite(latents).all():
        raise ValueError(f"the latents of {name!r} do not fit into 16 bits (NaN or infinite); run the VAE in float32")
    # What 16 bits cannot hold (beyond 65504, or so near that it becomes 0) is unknown.
    valid = frames.valid & (frames.depth <= np.finfo(np.float16).max)
    depth = np.where(valid, frames.depth, 0).astype("<f2")
    valid &= depth > 0
    depth = np.where(valid, depth, np.float16(0))
    columns = {
        "name": pa.array([name] * count, pa.string()),
        "frame": pa.array(range(count), pa.int32()),
        "latents": pa.array([frame.tobytes() for frame in latents], pa.binary()),
        "depth": pa.array([frame.astype("<f2").tobytes() for frame in depth], pa.binary()),
        "valid": pa.array([np.packbits(frame).tobytes() for frame in valid], pa.binary()),
        "pose": pa.array(frames.poses.astype(np.float32).reshape(count, 16).tolist(), pa.list_(pa.float32(), 16)),
        "intrinsics": pa.array(frames.intrinsics.astype(np.float32).reshape(count, 9).tolist(), pa.list_(pa.float32(), 9)),
        "caption_id": pa.array([caption_ids[0]] * count, pa.int32()),
        "reversed_caption_id": pa.array([caption_ids[1]] * count, pa.int32()),
    }
    return pa.table(columns)


def caption_rows(first_id: int, captions: Sequence[CachedCaption]) -> "pyarrow.Table":
    """Captions numbered from `first_id` as a table."""
    pa = _pyarrow()
    for caption in captions:
        if not np.isfinite(caption.embeddings).all():
            raise ValueError(f"the embeddings of {caption.text!r} do not fit into 16 bits; run the text encoder in float32")
    return pa.table(
        {
            "caption_id": pa.array(range(first_id, first_id + len(captions)), pa.int32()),
            "text": pa.array([caption.text for caption in captions], pa.string()),
            "ids": pa.array([caption.ids.tolist() for caption in captions], pa.list_(pa.int32())),
            "embeddings": pa.array(
                [np.ascontiguousarray(caption.embeddings, dtype="<f2").tobytes() for caption in captions], pa.binary()
            ),
        }
    )


class write_rows:  # noqa: N801  # used as a function, as `open` is
    """Context in which tables are appended to one Parquet file, a row group a row; the same tables give the same bytes."""

    def __init__(self, path: str | PathLike[str]):
        self._path = Path(path)
        self._writer: Any = None

    def __enter__(self) -> "write_rows":
        return self

    def append(self, table: "pyarrow.Table") -> None:
        """Write the rows of `table`."""
        import pyarrow.parquet as pq

        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self._path,
                table.schema,
                use_dictionary=False,
                write_statistics=False,  # nobody filters by value, and they would double the footer
                compression={name: "zstd" if name in ("depth", "valid") else "none" for name in table.schema.names},
            )
        self._writer.write_table(table, row_group_size=1)

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError(
            "caches of prepared videos need the library `pyarrow`: pip install '.[train]' in the checkout of jog3r"
        ) from error
    return pyarrow


# Reading


class Cache:
    """A finished cache, read at random; safe to hand to the workers of a `DataLoader`.

    Args:
        directory: what `jog3r prepare` wrote.

    Raises:
        ValueError: not a cache, one that is not finished, one of another format, or a file that is missing or of another size.
    """

    def __init__(self, directory: str | PathLike[str]):
        _pyarrow()
        self.directory = directory = Path(directory)
        path = directory / MANIFEST
        if not path.is_file():
            state = "was not finished: run `jog3r prepare` again" if (directory / PLAN).is_file() else "is no cache of jog3r"
            raise ValueError(f"{str(directory)!r} {state} (no {MANIFEST})")
        self.manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if self.manifest.get("format") != FORMAT:
            raise ValueError(f"{str(path)!r} has format {self.manifest.get('format')!r}, not {FORMAT}; prepare it again")
        for name, entry in self.manifest["files"].items():
            size = (directory / name).stat().st_size if (directory / name).is_file() else None
            if size != entry["bytes"]:
                raise ValueError(f"{str(directory / name)!r} is missing or damaged: {size} bytes, expected {entry['bytes']}")
        plan = self.manifest["plan"]
        self.height, self.width = plan["height"], plan["width"]
        self.caption_length: int = plan["caption_length"]
        self.caption_channels: int = plan["caption_channels"]
        self._videos = [
            (part, int(first), video)
            for part, content in sorted(self.manifest["clips"].items())
            for first, video in zip(_starts(content), content, strict=True)
        ]
        self._files: OrderedDict[str, Any] = OrderedDict()
        self._process = os.getpid()

    def __len__(self) -> int:
        """Number of videos."""
        return len(self._videos)

    def num_frames(self, index: int) -> int:
        """Frames of video `index`."""
        return int(self._videos[index][2]["num_frames"])

    def name(self, index: int) -> str:
        """Name of video `index` in its source."""
        return str(self._videos[index][2]["name"])

    def caption_ids(self, index: int) -> tuple[int, int]:
        """Captions of video `index` played forward and backward."""
        forward, backward = self._videos[index][2]["caption_ids"]
        return forward, backward

    def frames(self, index: int, numbers: Sequence[int]) -> CachedFrames:
        """Frames `numbers` of video `index`, in that order; only these are read from the disk."""
        part, first, video = self._videos[index]
        if min(numbers) < 0 or max(numbers) >= video["num_frames"]:
            raise ValueError(f"video {video['name']!r} has {video['num_frames']} frames, got {list(numbers)}")
        columns = ["latents", "depth", "valid", "pose", "intrinsics"]
        rows = self._file(part).read_row_groups([first + int(frame) for frame in numbers], columns, use_threads=False).to_pylist()
        decoded = [decode_frame(row, self.manifest["plan"]) for row in rows]
        return CachedFrames(*(np.stack([frame[name] for frame in decoded]) for name in columns))

    def caption(self, caption_id: int) -> CachedCaption:
        """One caption."""
        number, row = divmod(caption_id, self.manifest["plan"]["captions_per_shard"])
        columns = ["text", "ids", "embeddings"]
        [found] = self._file(part_name("captions", number)).read_row_group(row, columns, use_threads=False).to_pylist()
        embeddings = np.frombuffer(found["embeddings"], "<f2").reshape(-1, self.caption_channels)  # (L, D)
        return CachedCaption(found["text"], np.array(found["ids"], np.int64), embeddings)

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
                f"the cache {str(self.directory)!r} was made with another {part}: {self.manifest['models'][part]} "
                f"({made_by['fingerprint'][:12]}), this run has {what} ({fingerprint[:12]}); prepare it anew with this one"
            )

    def verify(self) -> None:
        """Read every file and compare its checksum; `ValueError` names the first that has changed."""
        for name, entry in self.manifest["files"].items():
            if file_hash(self.directory / name) != entry["sha256"]:
                raise ValueError(f"{str(self.directory / name)!r} has changed since it was written; delete it and prepare again")

    def _file(self, part: str) -> Any:
        import pyarrow.parquet as pq

        if self._process != os.getpid():  # a worker must not share file positions with its parent
            self._files, self._process = OrderedDict(), os.getpid()
        if part not in self._files:
            self._files[part] = pq.ParquetFile(self.directory / f"{part}.parquet")
            if len(self._files) > _OPEN_FILES:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(part)
        return self._files[part]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict()}


def _starts(videos: Sequence[dict[str, Any]]) -> np.ndarray:
    counts = [video["num_frames"] for video in videos]
    return np.concatenate([[0], np.cumsum(counts)])[:-1]


def decode_frame(row: dict[str, Any], plan: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of one row: latents (C, h, w), depth (H, W) float32, valid (H, W), pose (4, 4), intrinsics (3, 3).

    Args:
        row: of a clips file, as `datasets` or pyarrow give it.
        plan: `plan.json`, or `manifest.json`'s "plan".
    """
    height, width = plan["height"], plan["width"]
    bits = np.unpackbits(np.frombuffer(row["valid"], np.uint8), count=height * width)
    return {
        "latents": np.frombuffer(row["latents"], "<f2").reshape(plan["latent_shape"]),
        "depth": np.frombuffer(row["depth"], "<f2").reshape(height, width).astype(np.float32),
        "valid": bits.reshape(height, width).astype(bool),
        "pose": np.array(row["pose"], np.float32).reshape(4, 4),
        "intrinsics": np.array(row["intrinsics"], np.float32).reshape(3, 3),
    }


def stream_frames(directory: str | PathLike[str]) -> "datasets.IterableDataset":
    """All rows of the clips files as a stream of `datasets`, undecoded (see `decode_frame`).

    Raises:
        ImportError: without the library `datasets`.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ImportError(
            "stream_frames needs the library `datasets`: pip install '.[train]' in the checkout of jog3r"
        ) from error
    files = [str(path) for path in sorted(Path(directory).glob("clips-*.parquet"))]
    return load_dataset("parquet", data_files=files, split="train", streaming=True)
