"""Writing results: aside first, renamed when complete, never over an existing file unasked."""

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = ["Content", "bytes_of", "check_free_file", "write_file", "write_files"]

Content = bytes | Callable[[], bytes]  # of a file, or a call that makes it when it is written


def bytes_of(content: Content) -> bytes:
    """The bytes of a file."""
    return content() if callable(content) else content


def write_file(path: str | Path, content: bytes, *, overwrite: bool = False) -> Path:
    """Write one file so that `path` holds either all of `content` or what it held before.

    Args:
        path: Where the file goes; missing parent folders are made.
        content: What it will hold.
        overwrite: Replace an existing file instead of refusing.

    Returns:
        The path written.

    Raises:
        ValueError: `path` exists and `overwrite` is False, or it is a folder.
    """
    path = Path(path)
    _refuse_existing([path], overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, content)
    return path


def check_free_file(path: str | Path, *, overwrite: bool = False) -> None:
    """Refuse before the work what `write_file` would refuse after it."""
    _refuse_existing([Path(path)], overwrite)


def write_files(directory: str | Path, contents: Mapping[str, Content], *, overwrite: bool = False) -> list[Path]:
    """Write several files below `directory`; all names are checked before the first is written.

    Args:
        directory: The folder; made if missing.
        contents: Relative file name (with `/`) to content; calls are made one by one.
        overwrite: Replace existing files instead of refusing.

    Returns:
        The paths written, in the order of `contents`.

    Raises:
        ValueError: A file exists and `overwrite` is False (then nothing is written), or a name leads out of `directory`.
    """
    directory = Path(directory)
    for name in contents:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"file name {name!r} leads out of the folder {str(directory)!r}; use plain relative names")
    paths = [directory / name for name in contents]
    _refuse_existing(paths, overwrite)
    for path, content in zip(paths, contents.values(), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, bytes_of(content))
    return paths


def _refuse_existing(paths: list[Path], overwrite: bool) -> None:
    for path in paths:
        if path.is_dir():
            raise ValueError(f"{str(path)!r} is a folder, a file of that name is to be written; choose another place")
        if path.exists() and not overwrite:
            raise ValueError(f"{str(path)!r} exists already; pass overwrite=True or choose another folder")


def _replace(path: Path, content: bytes) -> None:
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
