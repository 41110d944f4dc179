"""A network's file, and that it is the one that was meant."""

from collections.abc import Sequence
from pathlib import Path

from jog3r.data.files import file_hash

__all__ = ["WEIGHTS_NAME", "pinned_folder", "pinned_hash"]

WEIGHTS_NAME = "model.safetensors"


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


def pinned_folder(source: str | Path, sha256: str | None, wanted: Sequence[str]) -> tuple[Path, str]:
    """Folder of a network of transformers, and the SHA-256 of its `model.safetensors`.

    Args:
        source: local folder or hub id.
        sha256: what the hash must be; a must for a hub id, so that a number always names its network.
        wanted: names of the files that are fetched from the hub.

    Raises:
        ValueError: no safetensors weights, another hash, a hub id without a hash.
    """
    folder = Path(source)
    if not folder.is_dir():
        if sha256 is None:
            raise ValueError(f"{source} is no local folder: a downloaded network must be pinned, give the SHA-256 of its weights")
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(str(source), allow_patterns=list(wanted)))
    if not (folder / WEIGHTS_NAME).is_file():
        raise ValueError(f"{folder} has no {WEIGHTS_NAME}; other weight formats are not loaded, convert them to safetensors")
    return folder, pinned_hash(folder / WEIGHTS_NAME, sha256, WEIGHTS_NAME)
