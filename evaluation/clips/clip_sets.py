"""Sets of clips with names, keys and owners: what every task of an evaluation walks through."""

import hashlib
from abc import abstractmethod
from collections.abc import Sequence, Set
from typing import Any

import numpy as np

from jog3r.data import Clip, procedural_clip
from jog3r.data.procedural import procedural_caption, scene_names
from jog3r.data.procedural.scene_grammar import split_size

__all__ = ["ClipSet", "GivenClips", "ProceduralClips", "RemainingClips", "UnreadableClip", "WrongClip", "as_clip_set"]


class ClipSet(Sequence[Clip]):
    """Clips, loaded when asked for.

    `keys` number the clips for good: predictions are stored and seeded by them, so they do not change when clips are added or
    when others are missing. Clips of one video have one owner: intervals draw videos, since windows of one are not independent.
    """

    keys: Sequence[int]
    names: Sequence[str]
    """Of each clip."""
    owners: Sequence[int]
    """Of each clip, place of its video in `videos`."""
    videos: Sequence[str]
    left_out: Sequence[str] = ()
    """A line for each video that could not be used, with the reason."""
    other_pixels: Set[str] = frozenset()
    """Clips loaded so far whose pixels are not those of the list."""
    has_captions = True
    """Whether captions follow from the description."""
    several_windows = False
    """Whether a video may have several clips by the rule, whose keys lie a million apart."""

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.keys)

    def __getitem__(self, index: Any) -> Any:
        """One clip; no slices."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.load(int(index))

    @abstractmethod
    def load(self, index: int) -> Clip:
        """Clip `index`."""

    @abstractmethod
    def caption(self, index: int) -> str:
        """Caption of clip `index`, without loading it where the source can."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What decides the clips, without their number: compared on restart, printed with the results."""


class UnreadableClip(ValueError):
    """A clip that cannot be loaded: no fault of who looks for its cameras."""


class WrongClip(ValueError):
    """A clip that is not the one that a list names: the data are of another version, and nothing is evaluated."""


class RemainingClips(ClipSet):
    """Some of the clips of a set.

    Args:
        clips: the set.
        kept: which of them, in order.
        left_out: a line for each of the others, with the reason.
    """

    def __init__(self, clips: ClipSet, kept: Sequence[int], left_out: Sequence[str]) -> None:
        self._clips, self._kept = clips, kept
        self.keys, self.names = [clips.keys[k] for k in kept], [clips.names[k] for k in kept]
        owners = [clips.owners[k] for k in kept]
        place = {owner: number for number, owner in enumerate(dict.fromkeys(owners))}
        self.owners, self.videos = [place[owner] for owner in owners], [clips.videos[owner] for owner in place]
        self.left_out = [*clips.left_out, *left_out]
        self.has_captions, self.several_windows = clips.has_captions, clips.several_windows

    @property
    def other_pixels(self) -> Set[str]:  # type: ignore[override]  # of the whole set, which goes on noting them
        """As of the set."""
        return self._clips.other_pixels

    def load(self, index: int) -> Clip:
        """Clip `index` of those kept."""
        return self._clips.load(self._kept[index])

    def caption(self, index: int) -> str:
        """Its caption."""
        return self._clips.caption(self._kept[index])

    def describe(self) -> dict[str, Any]:
        """As the set does: what is left out decides no clip."""
        return self._clips.describe()


class ProceduralClips(ClipSet):
    """Clips first, first + 1, ... of a split, drawn when asked for."""

    def __init__(  # noqa: PLR0913  # what a clip is a function of
        self, split: str, first: int, count: int, num_frames: int, height: int, width: int, style: str = "rooms"
    ) -> None:
        """Refuse clips outside the split."""
        size = split_size(split)
        if count < 1 or first < 0 or first + count > size:
            raise ValueError(f"split {split!r} has clips 0..{size - 1}, got {count} clips from {first}")
        self.split, self.first, self.style = split, first, style
        self.size = (num_frames, height, width)
        self.keys = self.owners = range(count)
        self.names = self.videos = scene_names(split, first, count, style)

    def load(self, index: int) -> Clip:
        """Clip `first + index`."""
        num_frames, height, width = self.size
        return procedural_clip(self.first + index, self.split, num_frames, height, width, self.style)

    def caption(self, index: int) -> str:
        """The scene's."""
        return procedural_caption(self.first + index, self.split)

    def describe(self) -> dict[str, Any]:
        """Split, first and size."""
        style = {} if self.style == "rooms" else {"style": self.style}
        return {"source": "procedural", "split": self.split, "first": self.first, "size": list(self.size), **style}


class GivenClips(ClipSet):
    """Clips that a caller has."""

    has_captions = False

    def __init__(self, clips: Sequence[Clip]) -> None:
        """Named by number."""
        self._clips = clips
        self.keys = self.owners = range(len(clips))
        self.names = self.videos = [str(k) for k in range(len(clips))]

    def load(self, index: int) -> Clip:
        """As given."""
        return self._clips[index]

    def caption(self, index: int) -> str:
        """As given."""
        return self._clips[index].caption

    def describe(self) -> dict[str, Any]:
        """A hash of frames and poses."""
        digest = hashlib.sha256()
        for clip in self._clips:
            digest.update(np.ascontiguousarray(clip.frames).tobytes())
            digest.update(np.ascontiguousarray(clip.poses).tobytes())
        return {"source": "given", "sha256": digest.hexdigest()[:16]}


def as_clip_set(clips: Sequence[Clip]) -> ClipSet:
    """A set, or plain clips as one."""
    return clips if isinstance(clips, ClipSet) else GivenClips(clips)
