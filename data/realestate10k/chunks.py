"""RealEstate10K as preprocessed for pixelSplat and its successors: `*.torch` chunks of JPEG frames with their cameras.

A chunk is a list of clips: {"key", "url", "timestamps" (F,), "cameras" (F, 18), "images": F tensors of JPEG bytes}, the cameras
being the numbers of the official files behind the time. `index.json` beside the chunks maps keys to chunks.
"""

import io
import json
import pickle
import struct
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jog3r.data.clip import Clip
from jog3r.data.realestate10k.files import check_cameras, posed_clip, read_captions, resize_posed
from jog3r.data.source import MAX_FRAMES, check_resize_mode, list_hash

__all__ = ["RealEstate10KChunks"]

# All that torch.load raises for files of other kinds, random bytes and flipped bits.
_UNREADABLE = (
    AssertionError, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError, pickle.UnpicklingError, struct.error,
)  # fmt: skip


class RealEstate10KChunks:
    """A folder of chunks as a source of posed videos; depth is unknown.

    Args:
        folder: with `index.json` and the chunks that it names. The clips are in the order of the chunks, then of the index.
        size: (H, W) to resize to.
        captions: json of captions by clip, see `read_captions`; chunks have none.
        resize_mode: "stretch" or "crop".
        default_caption: of clips that have none; None refuses them.

    Raises:
        ValueError: no index, or one of another layout.
    """

    def __init__(
        self,
        folder: Path,
        size: tuple[int, int],
        captions: Path | None = None,
        resize_mode: str = "stretch",
        default_caption: str | None = None,
    ):
        path = folder / "index.json"
        try:
            index = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{str(path)!r} cannot be read as the index of chunks ({error})") from error
        if not isinstance(index, dict) or not index or not all(isinstance(name, str) for name in index.values()):
            raise ValueError(f"{str(path)!r} must map clip names to chunk files")
        check_resize_mode(resize_mode)
        self._folder, self._chunks = folder, index
        # Neighbours share a chunk, which is opened once.
        self.names: Sequence[str] = sorted(index, key=lambda key: index[key])
        self._captions = {} if captions is None else read_captions(captions)
        self._mode, self._default = resize_mode, default_caption
        self.size = size
        self._lock = threading.Lock()
        self._open: tuple[str, dict[str, dict[str, Any]]] = ("", {})

    def captions(self, index: int) -> tuple[str, str]:
        """The clip's caption, the same for both directions."""
        caption = self._captions.get(self.names[index], self._default)
        if caption is None:
            raise ValueError(f"no caption for clip {self.names[index]!r}")
        return caption, caption

    def expected_frames(self, index: int) -> None:
        """Not known before its chunk has been read; `ValueError` if there is none."""
        file = self._chunks[self.names[index]]
        if not (self._folder / file).is_file():
            raise ValueError(f"chunk {file!r} is missing")

    def load(self, index: int) -> Clip:
        """All frames of a clip; `ValueError` if its chunk is missing, damaged, or does not hold it."""
        name = self.names[index]
        clip = self._clip(name)
        try:
            times, numbers = (np.asarray(clip[part], dtype=np.float64) for part in ("timestamps", "cameras"))
            cameras = check_cameras(str(clip["url"]), np.concatenate([times[:, None], numbers], 1), name)
            if len(clip["images"]) > MAX_FRAMES:
                raise ValueError(f"{name!r} has {len(clip['images'])} frames, more than {MAX_FRAMES}")
            frames = np.stack(
                [np.asarray(Image.open(io.BytesIO(bytes(image.numpy()))).convert("RGB")) for image in clip["images"]]
            )
        except (LookupError, AttributeError, TypeError, OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"clip {name!r} in {self._chunks[name]!r} is damaged or of another layout ({error!r})") from error
        if len(frames) != len(times):
            raise ValueError(f"clip {name!r} has {len(frames)} frames for {len(times)} cameras")
        resized, intrinsics = resize_posed(frames, cameras, self.size, self._mode)
        return posed_clip(resized, intrinsics, cameras, name, self.captions(index)[0])

    def settings(self) -> dict[str, Any]:
        """Kind, list and resizing."""
        return {"kind": "realestate10k", "list_sha256": list_hash(self.names), "resize_mode": self._mode}

    def _clip(self, name: str) -> dict[str, Any]:
        import torch

        file = self._chunks[name]
        with self._lock:
            if self._open[0] != file:
                try:
                    clips = torch.load(self._folder / file, map_location="cpu", weights_only=True)
                    self._open = (file, {clip["key"]: clip for clip in clips})
                except _UNREADABLE as error:
                    reason = (str(error).splitlines() or [type(error).__name__])[0]
                    raise ValueError(f"chunk {file!r} is missing, damaged or of another layout ({reason})") from error
            clips_by_name = self._open[1]
        if name not in clips_by_name:
            raise ValueError(f"chunk {file!r} does not hold clip {name!r}, which the index puts there")
        return clips_by_name[name]
