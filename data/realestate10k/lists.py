"""Lists that go with RealEstate10K: which clips belong to a split, and what their captions are."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from jog3r.data.local_files import read_json, read_text

__all__ = ["VIDEO_SUFFIXES", "Re10kEntry", "own_last_parts", "read_caption", "read_captions", "read_split"]

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")


@dataclass(frozen=True)
class Re10kEntry:
    """One clip of a list: its name, camera file, frames (video or folder; None: looked for by name) and caption, if listed."""

    name: str
    cameras: Path
    frames: Path | None = None
    caption: str | None = None


def read_captions(path: str | PathLike[str]) -> dict[str, str]:
    """Captions by clip: CameraCtrl's `{"<id>.mp4": ["caption", ...]}` (the first counts) or `{"<id>": "caption"}`.

    Keys may be paths; the last part of one names its clip, too, where no other path ends so.

    Raises:
        ValueError: no such file, or another layout.
    """
    path = Path(path)
    table = read_json(path)
    if not isinstance(table, dict):
        raise ValueError(f"{str(path)!r} must map clip names to captions, got a {type(table).__name__}")
    captions: dict[str, str] = {}
    for name, value in table.items():
        text = value[0] if isinstance(value, list) and value else value
        if not isinstance(text, str):
            raise ValueError(f"{str(path)!r}: the caption of {name!r} must be a text or a list of texts, got {value!r}")
        captions[_stem(name)] = text
    short = Counter(Path(name).name for name in captions)
    return {Path(name).name: text for name, text in captions.items() if short[Path(name).name] == 1} | captions


def own_last_parts(names: Iterable[str]) -> set[str]:
    """Last parts of names that are paths, of those that one name alone has: what stands under one is that clip's."""
    return {part for part, count in Counter(name.rpartition("/")[2] for name in names).items() if count == 1}


def read_caption(value: Any, name: str) -> str | None:
    """The caption of clip `name` out of a text, a list of texts (the first counts), or json with such a "caption", also as bytes.

    Raises:
        ValueError: bytes that are no json.
    """
    if isinstance(value, bytes):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"the caption of clip {name!r} is no json ({error})") from error
    value = value.get("caption") if isinstance(value, dict) else value
    value = value[0] if isinstance(value, list) and value else value
    return value if isinstance(value, str) else None


def read_split(path: str | PathLike[str], root: str | PathLike[str], cameras: str | PathLike[str]) -> list[Re10kEntry]:
    """Clips of a split list, in its order.

    Args:
        path: a text file of names, a json list of names, or CameraCtrl's annotation list of
            `{"clip_name", "clip_path", "pose_file", "caption"}`.
        root: folder that `clip_path` and `pose_file` are relative to.
        cameras: folder of camera files, for lists without `pose_file`.

    Raises:
        ValueError: no such file, another layout, an empty list or a name that stands there twice.
    """
    path, root, cameras = Path(path), Path(root), Path(cameras)
    if path.suffix == ".json":
        rows = read_json(path)
    elif path.is_file():
        rows = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    else:
        raise ValueError(f"split list {str(path)!r} does not exist")
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"split list {str(path)!r} must be a list of clips with at least one, got {type(rows).__name__}")
    entries = [_entry(row, path, root, cameras) for row in rows]
    names = [entry.name for entry in entries]
    if len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise ValueError(f"split list {str(path)!r} names {twice!r} twice")
    return entries


def _entry(row: Any, path: Path, root: Path, cameras: Path) -> Re10kEntry:
    if isinstance(row, str):
        name = _stem(row)
        return Re10kEntry(name, cameras / f"{name}.txt")
    if not isinstance(row, dict) or not isinstance(row.get("clip_path", row.get("clip_name")), str):
        raise ValueError(f"split list {str(path)!r}: an entry must be a name or have clip_name or clip_path, got {row!r}")
    clip_path, pose_file, caption = row.get("clip_path"), row.get("pose_file"), row.get("caption")
    if isinstance(caption, list) and caption:
        caption = caption[0]
    if caption is not None and not isinstance(caption, str):
        raise ValueError(f"split list {str(path)!r}: the caption of {row!r} is no text")
    name = _stem(str(row["clip_name"] if "clip_name" in row else Path(str(clip_path)).name))
    return Re10kEntry(
        name,
        cameras / f"{name}.txt" if pose_file is None else root / pose_file,
        None if clip_path is None else root / clip_path,
        caption,
    )


def _stem(name: str) -> str:
    suffix = Path(name).suffix.lower()
    return name[: -len(suffix)] if suffix in (*VIDEO_SUFFIXES, ".txt") else name
