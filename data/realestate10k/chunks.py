"""RealEstate10K as preprocessed for pixelSplat and its successors: `*.torch` chunks of JPEG frames with their cameras.

A chunk is a list of clips: {"key", "url", "timestamps" (F,), "cameras" (F, 18), "images": F tensors of JPEG bytes}, the cameras
being the numbers of the official files behind the time. `index.json` beside the chunks maps keys to chunks.
"""

import io
import pickle
import struct
import threading
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jog3r.data.errors import first_line
from jog3r.data.local_files import read_json, visible_files, warn_unread
from jog3r.data.realestate10k.base import RealEstate10KSource
from jog3r.data.realestate10k.camera_files import CameraFile, check_cameras
from jog3r.data.recordings.pictures import rgb_array

__all__ = ["RealEstate10KChunks"]

# All that torch.load raises for files of other kinds, random bytes and flipped bits.
_UNREADABLE = (
    AssertionError, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError, pickle.UnpicklingError, struct.error,
)  # fmt: skip


class RealEstate10KChunks(RealEstate10KSource):
    """A folder of chunks as a source of posed videos; depth is unknown.

    Args:
        folder: with `index.json` and the chunks that it names. The clips are in the order of the chunks, then of the index.
        size: (H, W) to resize to; None leaves the frames as they are.
        captions: json of captions by clip, see `read_captions`; chunks have none.
        resize_mode: "stretch" or "crop".
        default_caption: of clips that have none; None refuses them.
        frame_step: take every n-th frame, from the first.

    Raises:
        ValueError: no index, or one of another layout.
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        size: tuple[int, int] | None,
        captions: str | PathLike[str] | None = None,
        resize_mode: str = "stretch",
        default_caption: str | None = None,
        frame_step: int = 1,
    ):
        super().__init__(size, captions, resize_mode, default_caption, frame_step)
        folder = Path(folder)
        path = folder / "index.json"
        index = read_json(path)
        if not isinstance(index, dict) or not index or not all(isinstance(name, str) for name in index.values()):
            raise ValueError(f"{str(path)!r} must map clip names to chunk files")
        unlisted = [file.name for file in visible_files(folder, (".torch",)) if file.name not in index.values()]
        if unlisted:
            warn_unread("chunks are not named by index.json", unlisted)
        self._folder, self._chunks = folder, index
        # Neighbours share a chunk, which is opened once.
        self.names = sorted(index, key=lambda key: index[key])
        self._lock = threading.Lock()
        self._open: tuple[str, dict[str, dict[str, Any]]] = ("", {})

    def _cameras(self, index: int) -> None:
        file = self._chunks[self.names[index]]
        if not (self._folder / file).is_file():
            raise ValueError(f"chunk {file!r} is missing")

    def _read(self, index: int) -> tuple[CameraFile, Iterator[np.ndarray | None]]:
        name = self.names[index]
        clip = self._clip(name)
        try:
            times, numbers = (np.asarray(clip[part], dtype=np.float64) for part in ("timestamps", "cameras"))
            cameras = check_cameras(str(clip["url"]), np.concatenate([times[:, None], numbers], 1), name)
            images = list(clip["images"])
        except (LookupError, TypeError) as error:
            raise self._damaged(name, error) from error
        return cameras, self._every(images, lambda image: self._decode(name, image))

    def _decode(self, name: str, image: Any) -> np.ndarray:
        try:
            return rgb_array(Image.open(io.BytesIO(bytes(image.numpy()))), upright=False)
        except (AttributeError, TypeError, OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise self._damaged(name, error) from error

    def _damaged(self, name: str, error: Exception) -> ValueError:
        return ValueError(f"clip {name!r} in {self._chunks[name]!r} is damaged or of another layout ({error!r})")

    def _clip(self, name: str) -> dict[str, Any]:
        import torch

        file = self._chunks[name]
        with self._lock:
            if self._open[0] != file:
                try:
                    clips = torch.load(self._folder / file, map_location="cpu", weights_only=True)
                    self._open = (file, {clip["key"]: clip for clip in clips})
                    unlisted = [key for key in self._open[1] if self._chunks.get(key) != file]
                except _UNREADABLE as error:
                    raise ValueError(f"chunk {file!r} is missing, damaged or of another layout ({first_line(error)})") from error
                if unlisted:
                    warn_unread(f"clips of {file} are not named by index.json", unlisted)
            clips_by_name = self._open[1]
        if name not in clips_by_name:
            raise ValueError(f"chunk {file!r} does not hold clip {name!r}, which the index puts there")
        return clips_by_name[name]
