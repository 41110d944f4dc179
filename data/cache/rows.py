"""Rows of the cache's Parquet files: what one frame, one caption is, written and read back."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow

__all__ = [
    "FRAMES_PER_GROUP",
    "CachedCaption",
    "CachedFrames",
    "caption_rows",
    "clip_rows",
    "clip_schema",
    "decode_frame",
    "part_name",
    "read_caption",
    "require_pyarrow",
    "write_rows",
]

FRAMES_PER_GROUP = 16  # of one video: fewer cost a stream more, more cost a clip picked out of a long video more


@dataclass(frozen=True)
class CachedFrames:
    """Some frames of one video, in the order asked for.

    Attributes:
        latents: (F, C, h, w) float16, as the transformer sees them; (f, C, h, w) of a window whose f latent steps stand for
            several frames each, but the first, which stands for the first frame.
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


def part_name(kind: str, number: int) -> str:
    """Name of shard `number` of "clips" or "captions", without its suffix."""
    return f"{kind}-{number:05d}"


def clip_schema() -> "pyarrow.Schema":
    """Columns of a clips file."""
    pa = require_pyarrow()
    return pa.schema(
        {
            "name": pa.string(),
            "frame": pa.int32(),
            "latents": pa.binary(),
            "depth": pa.binary(),
            "valid": pa.binary(),
            "pose": pa.list_(pa.float32(), 16),
            "intrinsics": pa.list_(pa.float32(), 9),
            "caption_id": pa.int32(),
            "reversed_caption_id": pa.int32(),
        }
    )


def clip_rows(name: str, frames: CachedFrames, caption_ids: tuple[int, int]) -> "pyarrow.Table":
    """A video as a table, a row a frame. `caption_ids`: of the video played forward and backward.

    A latent step of several frames stands in the row of the first of them, and the others have none.
    """
    pa = require_pyarrow()
    count = len(frames.depth)
    latents = np.ascontiguousarray(frames.latents, dtype="<f2")
    if not np.isfinite(latents).all():
        raise ValueError(f"the latents of {name!r} do not fit into 16 bits (NaN or infinite); run the VAE in float32")
    # What 16 bits cannot hold (beyond 65504, or so near that it becomes 0) is unknown.
    valid = frames.valid & (frames.depth <= np.finfo(np.float16).max)
    depth = np.where(valid, frames.depth, 0).astype("<f2")
    valid &= depth > 0
    depth = np.where(valid, depth, np.float16(0))
    columns = {
        "name": [name] * count,
        "frame": list(range(count)),
        "latents": _one_a_row(latents, count),
        "depth": [frame.astype("<f2").tobytes() for frame in depth],
        "valid": [np.packbits(frame).tobytes() for frame in valid],
        "pose": frames.poses.astype(np.float32).reshape(count, 16).tolist(),
        "intrinsics": frames.intrinsics.astype(np.float32).reshape(count, 9).tolist(),
        "caption_id": [caption_ids[0]] * count,
        "reversed_caption_id": [caption_ids[1]] * count,
    }
    return pa.table(columns, clip_schema())


def _one_a_row(latents: np.ndarray, count: int) -> list[bytes]:
    """Latent steps (f, C, h, w) for `count` rows: step 0 in row 0, the others each in the first row of their frames."""
    rows = [b""] * count
    per_step = 1 if len(latents) == count else (count - 1) // (len(latents) - 1)
    for step, values in enumerate(latents):
        rows[1 + (step - 1) * per_step if step else 0] = values.tobytes()
    return rows


def caption_rows(first_id: int, captions: Sequence[CachedCaption]) -> "pyarrow.Table":
    """Captions numbered from `first_id` as a table."""
    pa = require_pyarrow()
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


def read_caption(file: Any, row: int, channels: int) -> CachedCaption:
    """The caption in a row of an open captions file (`pyarrow.parquet.ParquetFile`); `channels` is D of its embeddings."""
    [found] = file.read_row_group(row, ["text", "ids", "embeddings"], use_threads=False).to_pylist()
    embeddings = np.frombuffer(found["embeddings"], "<f2").reshape(-1, channels)  # (L, D)
    return CachedCaption(found["text"], np.array(found["ids"], np.int64), embeddings)


class write_rows:  # noqa: N801  # used as a function, as `open` is
    """Context in which tables are appended to one Parquet file; the same tables give the same bytes.

    Args:
        path: of the file.
        rows_per_group: at most, of a row group, which never spans two tables.
    """

    def __init__(self, path: str | PathLike[str], rows_per_group: int = 1):
        self._path, self._rows_per_group = Path(path), rows_per_group
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
        self._writer.write_table(table, row_group_size=self._rows_per_group)

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()


def require_pyarrow() -> Any:
    """The module pyarrow; `ImportError` with the remedy where it is not installed."""
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError(
            "caches of prepared videos need the library `pyarrow`: pip install '.[train]' in the checkout of jog3r"
        ) from error
    return pyarrow


def decode_frame(row: dict[str, Any], plan: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of one row: latents (C, h, w), depth (H, W) float32, valid (H, W), pose (4, 4), intrinsics (3, 3).

    Of windows, latents are (0, C, h, w) or (1, C, h, w): the step that begins at this frame, if one does.

    Args:
        row: of a clips file, as `datasets` or pyarrow give it.
        plan: `plan.json`, or `manifest.json`'s "plan".
    """
    height, width = plan["height"], plan["width"]
    latents = np.frombuffer(row["latents"], "<f2")
    bits = np.unpackbits(np.frombuffer(row["valid"], np.uint8), count=height * width)
    return {
        "latents": latents.reshape(-1, *plan["latent_shape"]) if "windows" in plan else latents.reshape(plan["latent_shape"]),
        "depth": np.frombuffer(row["depth"], "<f2").reshape(height, width).astype(np.float32),
        "valid": bits.reshape(height, width).astype(bool),
        "pose": np.array(row["pose"], np.float32).reshape(4, 4),
        "intrinsics": np.array(row["intrinsics"], np.float32).reshape(3, 3),
    }
