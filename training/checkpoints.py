"""Checkpoints of a run: written aside, sealed with checksums, then renamed; the newest intact one is resumed."""

import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator

logger = logging.getLogger(__name__)
_PREFIX = "step-"
_SEAL = "checksums.json"


def save_checkpoint(accelerator: Accelerator, directory: Path, step: int, settings: dict[str, Any], keep: int) -> Path:
    """Save everything that `accelerator` was given, as `directory/step-0000123`, and drop all but the newest `keep`.

    A kill at any moment leaves either the whole checkpoint or one that `find_checkpoint` recognises as torn.
    """
    final = directory / f"{_PREFIX}{step:07d}"
    aside = directory / f".{final.name}.partial"
    if accelerator.is_main_process:
        shutil.rmtree(aside, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(aside))
    if accelerator.is_main_process:
        (aside / "run.json").write_text(json.dumps({"step": step, "settings": settings}, indent=1))
        seal = {path.name: _checksum(path) for path in sorted(aside.iterdir())}
        (aside / _SEAL).write_text(json.dumps(seal, indent=1))
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
        for old in sorted(directory.glob(f"{_PREFIX}*"))[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return final


def find_checkpoint(directory: Path) -> Path | None:
    """The newest intact checkpoint of `directory`; a torn one is named in a warning and passed over."""
    for path in sorted(directory.glob(f"{_PREFIX}*"), reverse=True):
        complaint = _complaint(path)
        if complaint is None:
            return path
        logger.warning("checkpoint %s is torn (%s): trying the one before", path, complaint)
    return None


def read_run(path: Path) -> dict[str, Any]:
    """`{"step", "settings"}` of a checkpoint."""
    return json.loads((path / "run.json").read_text())


def _complaint(path: Path) -> str | None:
    """What is wrong with the checkpoint at `path`, None if nothing."""
    seal = path / _SEAL
    if not seal.is_file():
        return f"no {_SEAL}"
    try:
        expected = json.loads(seal.read_text())
    except json.JSONDecodeError as error:
        return f"{_SEAL} is not readable: {error}"
    for name, checksum in expected.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if _checksum(path / name) != checksum:
            return f"{name} has changed"
    return None


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
