"""A network's file, and that it is the one that was meant."""

from pathlib import Path

from jog3r.data.files import file_hash

__all__ = ["pinned_hash"]


def pinned_hash(path: str | Path, sha256: str | None, wanted: str) -> str:
    """SHA-256 of a network's file.

    Args:
        path: the file.
        sha256: what it must be; None: anything.
        wanted: what to give instead, in the error for a file that is not there.

    Raises:
        ValueError: no such file, or another hash.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"{file} is no file; give {wanted}")
    digest = file_hash(file)
    if sha256 is not None and digest != sha256.lower():
        raise ValueError(f"{file.name} has SHA-256 {digest}, expected {sha256}: not the network that was pinned")
    return digest
