"""Windows of the videos of a source: which frames are evaluated, by one rule or by a fixed list.

The rule: F frames, `stride` apart, from the first frame on; the stride is given, or the longest of training's (1, 2, 4, 8) that
fits. "first" takes one window a video, "all" as many as fit without overlap. Letters: F frames, H W pixels.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jog3r.data import Clip
from jog3r.data.frame_choice import STRIDES, FrameSelection, take_frames
from jog3r.data.source import ClipSource
from jog3r.evaluation.clips.clip_sets import ClipSet, UnreadableClip, WrongClip

__all__ = ["Entry", "WindowRule", "WindowedClips", "cut_windows", "entry_of", "find_entries", "places_of"]

logger = logging.getLogger(__name__)
_NEXT_WINDOW = 1_000_000  # added to the key for each window of a video after its first


@dataclass(frozen=True)
class WindowRule:
    """Which frames of a video are evaluated.

    Attributes:
        num_frames: F.
        stride: frames apart; None: the longest of training's that fits.
        windows: "first" or "all" that fit without overlap.
    """

    num_frames: int
    stride: int | None = None
    windows: str = "first"

    def describe(self) -> dict[str, Any]:
        """For settings."""
        longest = f"the longest of {', '.join(map(str, STRIDES))} that fits"
        return {"frames": self.num_frames, "stride": longest if self.stride is None else self.stride, "windows": self.windows}


@dataclass(frozen=True)
class Entry:
    """A clip to evaluate: frames of a video, and what they must be if a list says so.

    Attributes:
        name: of the video.
        frames: (F,) their numbers, `stride` apart.
        poses_sha256: of the float32 camera-to-world poses (F,4,4) of the clip; None: not stated.
        pixels_sha256: of the frames as decoded and resized; None: not stated.
        caption: None: not stated.
    """

    name: str
    frames: tuple[int, ...]
    poses_sha256: str | None = None
    pixels_sha256: str | None = None
    caption: str | None = None

    @property
    def selection(self) -> FrameSelection:
        """As `take_frames` wants it."""
        stride = self.frames[1] - self.frames[0] if len(self.frames) > 1 else 1
        return FrameSelection(self.frames[0], stride, len(self.frames), False)

    @property
    def clip_name(self) -> str:
        """Tells windows of one video apart."""
        return self.name if self.frames[0] == 0 else f"{self.name}@{self.frames[0]}"


def cut_windows(num_available: int, rule: WindowRule, name: str) -> Iterator[tuple[int, ...]]:
    """Frame numbers of the windows of a video of `num_available` frames.

    Raises:
        ValueError: not even one fits; `name` is that of the video.
    """
    strides = STRIDES if rule.stride is None else (rule.stride,)
    fitting = [one for one in strides if (rule.num_frames - 1) * one < num_available]
    if not fitting:
        raise ValueError(
            f"{name!r} has {num_available} frames, a window of num_frames={rule.num_frames} at stride {min(strides)} takes "
            f"{(rule.num_frames - 1) * min(strides) + 1}: set num_frames or stride"
        )
    span = (rule.num_frames - 1) * max(fitting) + 1
    starts = range(0, num_available - span + 1, span)
    for start in starts if rule.windows == "all" else starts[:1]:
        yield tuple(range(start, start + span, max(fitting)))


def find_entries(
    source: ClipSource, rule: WindowRule, count: int | None, names: Sequence[str] | None = None
) -> tuple[dict[int, Entry], list[str]]:
    """The windows of the first `count` videos (None: all) by the rule, by key; and a line for each video without any.

    Args:
        source: the videos.
        rule: which frames.
        count: of videos.
        names: only these, in this order.
    """
    places = places_of(source.names)
    listed = list(source.names if names is None else names)[:count]
    entries, left_out = {}, []
    for number, name in enumerate(listed):
        try:
            if name not in places:
                raise ValueError(f"{name!r} is not in the source")
            for window, frames in enumerate(cut_windows(_num_frames(source, places[name]), rule, name)):
                entries[number + window * _NEXT_WINDOW] = Entry(name, frames)
        except (ValueError, FileNotFoundError) as error:
            logger.warning("left out: %s", error)
            left_out.append(f"{name}: {error}")
    if not entries:
        raise ValueError(f"none of {len(listed)} videos can be evaluated; the first: {(left_out or ['the source is empty'])[0]}")
    return dict(sorted(entries.items(), key=lambda item: (item[0] % _NEXT_WINDOW, item[0]))), left_out


def places_of(names: Sequence[str]) -> dict[str, int]:
    """Index of each name; a folder's name in a path names it, too, where no other path has it ("1K/NAME/nerfstudio")."""
    places = {name: index for index, name in enumerate(names)}
    parts: dict[str, set[int]] = {}
    for index, name in enumerate(names):
        for part in name.split("/"):
            parts.setdefault(part, set()).add(index)
    return {part: next(iter(found)) for part, found in parts.items() if len(found) == 1} | places


def _num_frames(source: ClipSource, index: int) -> int:
    """Of a video: by its cameras where they tell, else by loading it."""
    expected = source.expected_frames(index)
    return source.load(index).num_frames if expected is None else expected


class WindowedClips(ClipSet):
    """Windows of videos.

    Args:
        source: the videos.
        entries: by key, windows of one video behind each other.
        left_out: a line for each video that could not be used.
        settings: what decides the entries, for `describe`.
        check_pixels: whether entries' pixel hashes hold at this size and mode.
    """

    def __init__(
        self,
        source: ClipSource,
        entries: dict[int, Entry],
        left_out: Sequence[str],
        settings: dict[str, Any],
        check_pixels: bool = False,
    ) -> None:
        self._source, self._settings, self._check_pixels = source, settings, check_pixels
        self._places = places_of(source.names)
        self.several_windows = settings.get("windows") == "all"
        self.entries = list(entries.values())
        self.keys, self.left_out = list(entries), list(left_out)
        self.names = [entry.clip_name for entry in self.entries]
        self.videos = list(dict.fromkeys(entry.name for entry in self.entries))
        numbers = {name: number for number, name in enumerate(self.videos)}
        self.owners = [numbers[entry.name] for entry in self.entries]
        self.other_pixels: set[str] = set()
        self._latest: tuple[str, Clip] | None = None  # windows of one video follow each other

    def load(self, index: int) -> Clip:
        """The window, its first camera the world.

        Raises:
            UnreadableClip: the video cannot be read.
            WrongClip: its cameras are not those of the list.
        """
        entry = self.entries[index]
        try:
            if self._latest is None or self._latest[0] != entry.name:
                self._latest = (entry.name, self._source.load(self._places[entry.name]))
            clip = take_frames(self._latest[1], entry.selection)
        except (ValueError, OSError) as error:
            raise UnreadableClip(str(error)) from error
        if entry.caption is not None:
            clip = replace(clip, caption=entry.caption)
        self._check(entry, clip)
        return clip

    def caption(self, index: int) -> str:
        """The list's, or the source's.

        Raises:
            ValueError: there is none.
        """
        entry = self.entries[index]
        return self._source.captions(self._places[entry.name])[0] if entry.caption is None else entry.caption

    def describe(self) -> dict[str, Any]:
        """Source, rule and size."""
        return self._settings

    @property
    def frame_step(self) -> int:
        """Of the source: numbers of frames count those that it keeps."""
        return int(self._settings.get("frame_step", 1))  # which 1 is left out of

    def video_frames(self, index: int) -> int:
        """Frames that the source keeps of the video of clip `index`."""
        return _num_frames(self._source, self._places[self.entries[index].name])

    def _check(self, entry: Entry, clip: Clip) -> None:
        if entry.poses_sha256 not in (None, poses_hash(clip)):
            raise WrongClip(
                f"{entry.clip_name!r} has other cameras than the clip list: another version of the data, or other frames"
            )
        if self._check_pixels and entry.pixels_sha256 not in (None, pixels_hash(clip)):
            if not self.other_pixels:
                logger.warning(
                    "%s has other pixels than the clip list: another decoder, or another copy of the video", entry.clip_name
                )
            self.other_pixels.add(entry.clip_name)


def entry_of(entry: Entry, clip: Clip) -> Entry:
    """The entry with the hashes and the caption of its clip."""
    return replace(entry, poses_sha256=poses_hash(clip), pixels_sha256=pixels_hash(clip), caption=clip.caption or None)


def poses_hash(clip: Clip) -> str:
    """SHA-256 of the poses, the same at every size."""
    return hashlib.sha256(np.ascontiguousarray(clip.poses, dtype="<f4").tobytes()).hexdigest()


def pixels_hash(clip: Clip) -> str:
    """SHA-256 of the frames of this size."""
    return hashlib.sha256(np.ascontiguousarray(clip.frames).tobytes()).hexdigest()
