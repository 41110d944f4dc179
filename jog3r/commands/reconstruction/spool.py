"""Frames and maps of a video of any length in files of the result folder, while it is made: memory does not grow with length."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from jog3r.commands.output_folder import UsageError

__all__ = ["Spool", "Tee"]


class Spool:
    """Frames and maps in files: a `FrameStore` whose memory does not grow."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, BinaryIO] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}

    def __enter__(self) -> "Spool":
        self.folder.mkdir()
        for name in ("frames", "depth", "confidence"):
            self.files[name] = (self.folder / name).open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for file in self.files.values():
                with suppress(OSError):  # a full disk: what the file still held back cannot be written either
                    file.close()
        finally:
            shutil.rmtree(self.folder)

    def check_room(self, frame: np.ndarray, count: int) -> None:
        """Refuse `count` frames such as this one if the disk has no room for them.

        Raises:
            UsageError: see above.
        """
        free = shutil.disk_usage(self.folder).free
        if (needed := count * frame.nbytes) > free:
            raise self._full(f"{count} frames take {needed / 1e9:.1f} GB while they are worked on, {free / 1e9:.1f} GB are free")

    def clear(self, name: str) -> None:
        """Forget the frames, or maps."""
        self.files[name].seek(0)
        self.files[name].truncate()

    def _full(self, reason: str) -> UsageError:
        return UsageError(f"{reason}: take fewer frames (--frames, --stride), or name an --out on a larger disk")

    def _append(self, name: str, array: np.ndarray) -> None:
        self.shapes[name] = array.shape
        try:
            self.files[name].write(np.ascontiguousarray(array).tobytes())
        except OSError as error:
            raise self._full(f"the frames of the video cannot be written to {str(self.folder.parent)!r} ({error})") from error

    def add_frame(self, frame: np.ndarray) -> None:
        """Keep a frame (H, W, 3) uint8."""
        self._append("frames", frame)

    def write(self, index: int, depth: Tensor, confidence: Tensor) -> None:  # noqa: ARG002  # they come in order
        """Keep the maps (H, W) of the next frame."""
        self._append("depth", depth.float().numpy())
        self._append("confidence", confidence.float().numpy())

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Depth and confidence (H, W) of a frame, float32."""
        depth, confidence = (np.array(self._mapped(name, np.float32)[index]) for name in ("depth", "confidence"))
        return torch.from_numpy(depth), torch.from_numpy(confidence)

    def frames(self) -> np.ndarray:
        """All frames (F, H, W, 3), still on disk."""
        return self._mapped("frames", np.uint8)

    def _mapped(self, name: str, dtype: type) -> np.ndarray:
        self.files[name].flush()
        return np.memmap(self.folder / name, dtype=dtype, mode="r+").reshape(-1, *self.shapes[name])


class Tee:
    """Hands frames on, keeps a copy of each in the spool, and their `times` in seconds."""

    def __init__(self, frames: Any, spool: Spool) -> None:
        self.frames, self.spool = frames, spool
        self.times: list[float] = []

    def __iter__(self) -> Iterator[np.ndarray]:
        self.times.clear()
        for time, frame in self.frames.timed():
            self.times.append(time)
            self.spool.add_frame(frame)
            yield frame

    def __length_hint__(self) -> int:
        return self.frames.__length_hint__()
