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
    "CachedCaption",
    "CachedFrames",
    "caption_rows",
    "clip_rows",
    "decode_frame",
    "part_name",
    "require_pyarrow",
    "write_rows",
]


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


def part_name(kind: str, number: int) -> str:
    """Name of shard `number` of "clips" or "captions", without its suffix."""
    return f"{kind}-{number:05d}"


def clip_rows(name: str, frames: CachedFrames, caption_ids: tuple[int, int]) -> "pyarrow.Table":
    """A video as a table, a row a frame. `caption_ids`: of the video played forward and backward."""
    pa = require_pyarrow()
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
