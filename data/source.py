"""What every source of posed videos looks like, and the one of procedural scenes.

A source is a list of names. Loading a name gives the whole video as a `Clip` (all frames, resized, cameras in step) or raises
`ValueError` saying what is wrong with it; nothing is replaced by blanks. Letters: F frames, H W pixels.
"""

import hashlib
import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from jog3r.data.clip import Clip
from jog3r.data.direction_words import reversed_words
from jog3r.data.procedural import procedural_caption, procedural_clip, scene_names
from jog3r.data.recordings import pictures

__all__ = [
    "ClipSource",
    "ProceduralSource",
    "check_count",
    "check_frame_step",
    "check_resize_mode",
    "list_hash",
    "read_image",
    "step_setting",
]

MAX_FRAMES = 1024  # of one video; a longer one is refused, as all its frames are held at once


class ClipSource(Protocol):
    """A list of posed videos."""

    @property
    def names(self) -> Sequence[str]:
        """One unique name a video; their order is part of the data set."""

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width in pixels of every clip loaded; None: each has its own."""

    def captions(self, index: int) -> tuple[str, str]:
        """Caption of video `index` played forward and backward, found without loading it; `ValueError` if it has none."""

    def expected_frames(self, index: int) -> int | None:
        """Frames of video `index` as its cameras count them, found without decoding it; None if only loading tells.

        `ValueError` if it is missing, as far as that can be seen so.
        """

    def load(self, index: int) -> Clip:
        """All frames of video `index`; `ValueError` if it is missing, short or damaged. Depth is 0 and not valid if unknown."""

    def settings(self) -> dict[str, Any]:
        """What decides the content, without paths: goes into manifests and is compared on restart."""


def list_hash(names: Sequence[str]) -> str:
    """SHA-256 of a list of names in their order, so that two people can tell whether they use the same split."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def check_resize_mode(mode: str) -> None:
    """Refuse with `ValueError` what is neither "stretch" nor "crop", the ways to bring frames to a size."""
    if mode not in ("stretch", "crop"):
        raise ValueError(f"resize_mode must be 'stretch' or 'crop', got {mode!r}")


def check_count(name: str, count: int) -> int:
    """The number of frames of a video.

    Raises:
        ValueError: more than are held at once.
    """
    if count > MAX_FRAMES:
        raise ValueError(f"{name!r} has {count} frames, more than {MAX_FRAMES}; cut it, or thin it with frame_step")
    return count


def check_frame_step(step: int) -> None:
    """Refuse with `ValueError` a `frame_step` (take every n-th frame) that is no whole number of at least 1."""
    if isinstance(step, bool) or not isinstance(step, int) or step < 1:
        raise ValueError(f"frame_step must be a whole number of at least 1, got {step!r}")


def step_setting(step: int) -> dict[str, int]:
    """`frame_step` for `ClipSource.settings`; nothing for 1, so that caches from before the option can be gone on with."""
    return {} if step == 1 else {"frame_step": step}


class ProceduralSource:
    """Scenes drawn in code as a source, with exact depth.

    Args:
        split: "train", "validation" or "test".
        start: first scene.
        count: number of scenes.
        num_frames: F, samples of each path.
        height, width: H and W in pixels.
        style: "rooms" or "varied", see `procedural_clip`.
    """

    def __init__(  # noqa: PLR0913  # what a clip is a function of
        self, split: str, start: int, count: int, num_frames: int, height: int, width: int, style: str = "rooms"
    ):
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        procedural_caption(start, split), procedural_caption(start + count - 1, split)  # refuses what lies outside the split
        self.split, self.start, self.num_frames, self.style = split, start, num_frames, style
        self.names = scene_names(split, start, count, style)
        self._pixels = (height, width)
        self.size: tuple[int, int] | None = self._pixels

    def captions(self, index: int) -> tuple[str, str]:
        """The caption, and that of the path walked backward."""
        caption = procedural_caption(self.start + index, self.split) if self.style == "rooms" else ""
        return caption, reversed_words(caption)

    def expected_frames(self, index: int) -> int:  # noqa: ARG002  # the same of all
        """As many as asked for."""
        return self.num_frames

    def load(self, index: int) -> Clip:
        """Render scene `start + index`."""
        return procedural_clip(self.start + index, self.split, self.num_frames, *self._pixels, self.style)

    def settings(self) -> dict[str, Any]:
        """Kind, list and frames a path."""
        return {"kind": "procedural", "list_sha256": list_hash(self.names), "num_frames": self.num_frames}


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """A picture whose camera is known as (H, W, 3) uint8 RGB, as it is stored: EXIF's orientation is not followed.

    Raises:
        ValueError: see `jog3r.data.recordings.pictures.read_image`.
    """
    return pictures.read_image(path, upright=False)
