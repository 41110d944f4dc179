"""Writing files and folders so that each is whole whenever it exists: aside first, brought to the disk, then renamed."""

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

NPZ_FAULTS = (OSError, ValueError, EOFError, BadZipFile, zlib.error)
"""What numpy raises over an npz that is cut off or damaged."""

__all__ = [
    *("NPZ_FAULTS", "aside_of", "file_hash", "replace_folder", "sync"),
    *("write_aside", "write_json", "write_npz", "write_text"),
]


def aside_of(path: Path, tag: str = "") -> Path:
    """Where `path` is written before it is renamed; `tag` keeps apart processes that may write the same file."""
    return path.with_name(f".{path.name}.partial{tag}")


def write_aside(path: str | Path, write: Callable[[Path], object], tag: str = "") -> None:
    """Let `write` fill a file aside, bring it to the disk, then rename it; an error leaves what was there before."""
    path = Path(path)
    aside = aside_of(path, tag)
    try:
        write(aside)
        sync(aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: str | Path, text: str, tag: str = "") -> None:
    """`text`, aside and renamed."""
    write_aside(path, lambda aside: aside.write_text(text, encoding="utf-8"), tag)


def write_json(path: str | Path, content: Any, tag: str = "") -> None:
    """`content` as json, aside and renamed."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n", tag)


def write_npz(path: str | Path, arrays: Mapping[str, Any], tag: str = "") -> None:
    """Arrays by name, compressed; aside and renamed."""

    def write(aside: Path) -> None:
        with aside.open("wb") as file:  # given a name, numpy would add .npz to it
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # numpy types every name as allow_pickle

    write_aside(path, write, tag)


def replace_folder(folder: str | Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a folder aside, bring all of it to the disk, then put it in the place of `folder`.

    An error leaves the folder that was there. A kill between the two renames that replace one leaves it beside its place; the
    next call puts it back first, so `write` may read it.
    """
    folder = Path(folder)
    aside, before = aside_of(folder), folder.with_name(f".{folder.name}.before")
    if before.exists() and not folder.exists():
        before.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(before, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        write(aside)
        for path in sorted(aside.rglob("*"), key=Path.is_dir):  # files, then the folders that name them
            sync(path)
        sync(aside)
        if folder.exists():
            folder.rename(before)
        aside.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(before, ignore_errors=True)


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
