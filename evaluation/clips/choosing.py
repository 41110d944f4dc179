"""From the options of an evaluation to its clips."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from jog3r.data.source import ClipSource
from jog3r.data.source_options import build_source
from jog3r.evaluation.clips.clip_list import ClipList, write_clip_list
from jog3r.evaluation.clips.clip_sets import ClipSet, ProceduralClips, UnreadableClip
from jog3r.evaluation.clips.windows import WindowedClips, WindowRule, entry_of, find_entries, places_of
from jog3r.evaluation.options import EvaluationOptions

__all__ = ["choose_clips", "write_list"]

logger = logging.getLogger(__name__)


def choose_clips(options: EvaluationOptions, num_frames: int, size: tuple[int, int] | None, generate: bool = False) -> ClipSet:
    """The clips that the options name.

    Args:
        options: of the evaluation.
        num_frames: of a clip.
        size: (H, W); None: that of the videos.
        generate: captions are needed, and as many clips as `videos` says.

    Raises:
        ValueError: options or a clip list that do not fit the source, or no video that can be evaluated.
    """
    count = options.count(generate)
    if options.source == "procedural":
        height, width = size or (64, 64)
        scenes = (options.procedural_split, options.first_clip, count or 1)
        return ProceduralClips(*scenes, num_frames, height, width, options.procedural_style)
    source = _source(options, size, num_frames, generate)
    rule = WindowRule(num_frames, options.stride, options.windows)
    settings: dict[str, Any] = {**_source_settings(source), "size": "the videos'" if size is None else list(size)}
    if options.clip_list is None:
        entries, left_out = find_entries(source, rule, count)
        return WindowedClips(source, entries, left_out, settings | rule.describe())
    listed = ClipList(options.clip_list)
    settings |= {"clip_list": Path(options.clip_list).stem, "clip_list_sha256": listed.sha256}
    if not listed.entries:
        entries, left_out = find_entries(source, rule, count, listed.names)
        return WindowedClips(source, entries, left_out, settings | rule.describe())
    if options.stride is not None or options.windows != "first":
        raise ValueError(f"clip list {options.clip_list!r} states the frames: leave out stride and windows")
    stated = {len(entry.frames) for entry in listed.entries}
    if stated != {num_frames}:
        raise ValueError(
            f"clip list {options.clip_list!r} has clips of {sorted(stated)} frames, the evaluation takes {num_frames}: "
            "set num_frames"
        )
    known = places_of(source.names)
    chosen = dict(enumerate(listed.entries[:count]))
    left_out = [f"{entry.name!r} is not in the source" for entry in chosen.values() if entry.name not in known]
    found = {key: entry for key, entry in chosen.items() if entry.name in known}
    if not found:
        raise ValueError(f"the source has none of the {len(chosen)} clips of the list; its first name is {source.names[0]!r}")
    frames = {"frames": num_frames, "windows": "of the list"}
    return WindowedClips(source, found, left_out, settings | frames, listed.fixes_pixels(size, options.resize_mode))


def write_list(options: EvaluationOptions, num_frames: int, size: tuple[int, int] | None) -> str:
    """Write the clip list of the options to the file `out`; returns a line that says what is in it.

    Raises:
        FileExistsError: the file is there.
        ValueError: as of `choose_clips`.
    """
    path = Path(options.out)
    if path.exists():
        raise FileExistsError(f"{options.out} exists; give another file, or delete it")
    clips = choose_clips(options, num_frames, size)
    if not isinstance(clips, WindowedClips):
        raise ValueError("procedural clips need no list")
    entries, left_out = [], list(clips.left_out)
    for k, entry in enumerate(clips.entries):
        try:
            entries.append(entry_of(entry, clips[k]))
        except UnreadableClip as error:
            logger.warning("left out: %s", error)
            left_out.append(f"{entry.clip_name}: {error}")
    if not entries:
        raise ValueError(f"none of {len(clips)} clips can be read; the first: {left_out[0]}")
    settings = clips.describe()
    document = {
        "rule": f"{options.windows} window of the first {len(clips.videos)} videos of the source in its order",
        "source": {name: value for name, value in settings.items() if name not in ("size", "resize_mode")},
        "size": None if size is None else list(size),
        "resize_mode": options.resize_mode,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_clip_list(path, entries, document)
    return f"{options.out}: {len(entries)} clips of {len(clips.videos)} videos; left out: {len(left_out)}"


def _source(options: EvaluationOptions, size: tuple[int, int] | None, num_frames: int, generate: bool) -> ClipSource:
    """The source; what reads no captions does not ask for any."""
    wanted = generate or options.captions is not None or options.default_caption is not None
    return build_source(options if wanted else replace(options, default_caption=""), size, 1, num_frames)


def _source_settings(source: ClipSource) -> dict[str, Any]:
    settings = source.settings()
    return {"source": settings.pop("kind"), **settings}
