"""Small files and folders of the user's: which of them count, in which order, and their text."""

import json
import logging
import os
import re
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

__all__ = ["is_hidden", "is_there", "natural_key", "read_json", "read_text", "visible_files", "warn_unread"]

logger = logging.getLogger(__name__)


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sort key by which frame_2 comes before frame_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name.lower())]


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name belongs to a system rather than to the user: .DS_Store, ._clip.mp4, __MACOSX."""
    return name.startswith(".") or name == "__MACOSX"


def is_there(path: Path) -> bool:
    """Whether this entry of a folder is a file, not a folder.

    Raises:
        ValueError: a link to a file that is not there, as data sets have whose files were not fetched.
    """
    if path.is_symlink() and not path.exists():
        raise ValueError(f"{str(path)!r} is a link to {os.readlink(path)!r}, which is not there; fetch it, or remove the link")
    return path.is_file()


def visible_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """The files of a folder whose suffix, in small letters, is one of `suffixes`, in natural order; hidden ones left out.

    Raises:
        ValueError: one of them is a link to a file that is not there.
    """
    found = [path for path in folder.iterdir() if path.suffix.lower() in suffixes and not is_hidden(path.name)]
    return sorted(filter(is_there, found), key=lambda path: (natural_key(path.name), path.name))


def read_text(path: str | PathLike[str]) -> str:
    """A UTF-8 text, without the byte-order mark that some editors put first.

    Raises:
        ValueError: no such file, or of another encoding.
    """
    path = Path(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{str(path)!r} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is no UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error


def read_json(path: str | PathLike[str]) -> Any:
    """What a json file holds.

    Raises:
        ValueError: no such file, or no json.
    """
    path = Path(path)
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as json ({error})") from error


def warn_unread(what: str, names: Sequence[str]) -> None:
    """Say in the log what of the user's is not read, so that nothing is left out without a word.

    Args:
        what: what they are and why, in words that follow a number.
        names: of what is not read; the first five are shown.
    """
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    logger.warning("%d %s; not read: %s", len(names), what, shown)
