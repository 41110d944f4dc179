"""Clip lists: files that fix which clips an evaluation is over, so that two people evaluate the same ones.

    {"format": 1, "rule": "how they were drawn", "source": {...}, "frames": 16, "size": [H, W], "resize_mode": "crop",
     "clips": [{"name": "...", "frames": [0, 8, ...], "stride": 8, "poses_sha256": "...", "pixels_sha256": "...",
                "caption": "..."}]}

Only `format` and each clip's `name` must be there. Without `frames` they are chosen by the options; poses must have their hash,
pixels (at the list's size and mode) may differ, which is counted: decoders differ.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jog3r.data.files import file_hash
from jog3r.evaluation.clips.windows import Entry
from jog3r.evaluation.predictions import write_text

__all__ = ["FORMAT", "ClipList", "packaged_lists", "write_clip_list"]

FORMAT = 1
_LISTS = Path(__file__).parents[1] / "lists"


def packaged_lists() -> list[str]:
    """Names of the lists that come with the package."""
    return sorted(path.stem for path in _LISTS.glob("*.json"))


class ClipList:
    """A list, read and checked.

    Args:
        place: a file, or the name of one that comes with the package.

    Raises:
        ValueError: no such file, or not of this format.
    """

    def __init__(self, place: str) -> None:
        path = _LISTS / f"{place}.json" if place in packaged_lists() else Path(place)
        if not path.is_file():
            raise ValueError(f"clip list {place!r} is no file, nor one of {', '.join(packaged_lists())}")
        try:
            self.document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            kind = self.document.get("format")
            entries = [_entry(clip) for clip in self.document["clips"]]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{str(path)!r} is no clip list ({error!r}); `jog3r evaluate list` writes one") from error
        if kind != FORMAT or not entries:
            raise ValueError(
                f"{str(path)!r} has format {kind!r} and {len(entries)} clips; this reads format {FORMAT} with at least one"
            )
        self.sha256 = file_hash(path)
        self.names = [name for name, _ in entries]
        self.entries = [entry for _, entry in entries if entry is not None]
        if self.entries and len(self.entries) != len(entries):
            raise ValueError(
                f"{str(path)!r} states the frames of {len(self.entries)} of {len(entries)} clips: of all, or of none"
            )

    def fixes_pixels(self, size: tuple[int, int] | None, resize_mode: str) -> bool:
        """Whether the pixel hashes are of frames of this size and mode."""
        stated = self.document.get("size")
        return (None if stated is None else tuple(stated)) == size and self.document.get("resize_mode") == resize_mode


def _entry(clip: dict[str, Any]) -> tuple[str, Entry | None]:
    """Name, and the window if it is stated."""
    name, frames = clip["name"], clip.get("frames")
    if frames is None:
        return str(name), None
    stride = {b - a for a, b in zip(frames, frames[1:], strict=False)}
    if len(frames) < 2 or frames[0] < 0 or len(stride) != 1 or min(stride) < 1:
        raise ValueError(f"frames of {name!r} must be at least two at one stride, got {frames}")
    hashes = (clip.get("poses_sha256"), clip.get("pixels_sha256"))
    return str(name), Entry(str(name), tuple(int(frame) for frame in frames), *hashes, clip.get("caption"))


def write_clip_list(path: str | Path, entries: Sequence[Entry], document: dict[str, Any]) -> None:
    """Write a list; `document` has what stands beside the clips."""
    clips = [
        {
            "name": entry.name,
            "frames": list(entry.frames),
            "stride": entry.selection.stride,
            "poses_sha256": entry.poses_sha256,
            "pixels_sha256": entry.pixels_sha256,
            **({} if entry.caption is None else {"caption": entry.caption}),
        }
        for entry in entries
    ]
    head = json.dumps({"format": FORMAT, **document}, indent=1, ensure_ascii=False).removesuffix("\n}")
    lines = ",\n".join(f"  {json.dumps(clip, ensure_ascii=False)}" for clip in clips)
    write_text(path, f'{head},\n "clips": [\n{lines}\n ]\n}}\n')
