"""Predictions on disk: exported once, scored many times, resumed where a run stopped, refused when what made them changed.

A folder holds `config.json` (everything that decides the predictions) and one `.npz` a clip, written aside, then renamed. A run
that is killed leaves whole files only; the next one makes what is missing. Nothing is written before the first prediction is
there: options that cannot work leave an empty folder.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jog3r.data.files import NPZ_FAULTS, write_aside

CONFIG_NAME = "config.json"
_PROVENANCE = {"architectures", "dtype", "torch_dtype", "transformers_version", "trained"}  # of a component's config
TEXT_PARTS = ("text_encoder", "tokenizer")  # of a pipeline


class DamagedPrediction(ValueError):
    """A file of predictions that cannot be read: no fault of the clip's."""


class Predictions:
    """The predictions of one task.

    Args:
        folder: made if it does not exist.
        config: what decides the predictions (model, seed, clips, call); JSON values. Not the number of clips: more can be added.

    Raises:
        ValueError: the folder holds predictions of another config, named key by key; files that are not predictions; or a config
            that cannot be read.
        NotADirectoryError: the path is a file.
    """

    def __init__(self, folder: str | Path, config: Mapping[str, Any]) -> None:
        """Make the folder, or check that it fits."""
        self.folder = Path(folder)
        self.config = json.loads(json.dumps(config))  # as it will be read back: tuples become lists
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"{self.folder} is a file; give a folder for the predictions")
        stored = self.folder / CONFIG_NAME
        if stored.exists():
            self._refuse_change(_read_config(stored))
            return
        # hidden files are those that a killed run left half-written, or that another process is writing
        if self.folder.exists() and any(not path.name.startswith(".") for path in self.folder.iterdir()):
            if stored.exists():  # by now: another process wrote it
                self._refuse_change(_read_config(stored))
                return
            raise ValueError(
                f"{self.folder} is not empty and holds no {CONFIG_NAME}: not a folder of predictions; give another one"
            )
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, key: str) -> Path:
        """File of the prediction `key`."""
        return self.folder / f"{key}.npz"

    def missing(self, keys: Sequence[str]) -> list[str]:
        """Those that are not there yet."""
        return [key for key in keys if not self.path(key).exists()]

    def save(self, key: str, arrays: Mapping[str, Any]) -> None:
        """Write one clip's arrays; a failed clip has `error` (str) and no poses."""
        self.keep_config()
        values = {name: np.asarray(value) for name, value in arrays.items()}

        def write(aside: Path) -> None:
            with aside.open("wb") as file:
                np.savez_compressed(file, **values)  # type: ignore[arg-type]  # numpy types every name as allow_pickle

        write_aside(self.path(key), write, f"-{os.getpid()}")

    def keep_config(self) -> None:
        """Write what decides the predictions, if it is not there yet."""
        if not (self.folder / CONFIG_NAME).exists():
            write_text(self.folder / CONFIG_NAME, json.dumps(self.config, indent=2, sort_keys=True) + "\n")

    def load(self, key: str, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """One clip's arrays, or those of them that `names` lists.

        Raises:
            FileNotFoundError: not exported yet.
            DamagedPrediction: the file cannot be read.
        """
        try:
            with np.load(self.path(key), allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files if names is None or name in names}
        except FileNotFoundError:
            raise
        except NPZ_FAULTS as error:
            raise DamagedPrediction(
                f"{self.path(key)} cannot be read ({error}): delete it and start again, which makes it anew"
            ) from error

    def stored(self, keys: Sequence[str]) -> "StoredPredictions":
        """These predictions, read when asked for."""
        return StoredPredictions(self, keys)

    def _refuse_change(self, stored: Mapping[str, Any]) -> None:
        changed = [key for key in sorted({*stored, *self.config}) if stored.get(key) != self.config.get(key)]
        if changed:
            lines = "; ".join(f"{key}: {stored.get(key)!r} -> {self.config.get(key)!r}" for key in changed)
            raise ValueError(
                f"the predictions in {self.folder} were made with another configuration ({lines}); "
                "give a new output folder, or delete this one to make them anew"
            )


class StoredPredictions(Sequence[dict[str, np.ndarray]]):
    """Predictions of a folder; one is held at a time."""

    def __init__(self, store: Predictions, keys: Sequence[str]) -> None:
        """`Predictions.stored` makes it."""
        self._store, self.keys = store, keys

    def __len__(self) -> int:
        """How many."""
        return len(self.keys)

    def __getitem__(self, index: Any) -> Any:
        """The arrays of one; no slices."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._store.load(self.keys[index])

    def text(self, index: int, name: str) -> str | None:
        """A text that stands in a prediction, without reading the rest; None: it has none."""
        found = self._store.load(self.keys[index], [name])
        return str(found[name]) if name in found else None


def item_key(key: int, repeat: int = 0) -> str:
    """Name of a prediction's file, without its ending: of clip `key`, whose video number `repeat` it is."""
    return f"{key:06d}" if repeat == 0 else f"{key:06d}-seed{repeat}"


def pipeline_hash(pipeline: Any, without: Sequence[str] = ()) -> str:
    """Hash (16 hex digits) of all weights and settings of a diffusers pipeline's components, but of those named `without`."""
    digest = hashlib.sha256()
    for name, component in sorted(pipeline.components.items()):
        if name in without:
            continue
        digest.update(f"{name} {type(component).__name__}".encode())
        config = getattr(component, "config", None)
        if config is not None:
            settings = config.to_dict() if hasattr(config, "to_dict") else dict(config)
            # Where a component came from, and with which library version, does not decide what it does.
            settings = {key: value for key, value in settings.items() if not key.startswith("_") and key not in _PROVENANCE}
            digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
        if isinstance(component, torch.nn.Module):
            for key, tensor in _sorted_state(component):
                digest.update(key.encode())
                digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        elif hasattr(component, "get_vocab"):
            digest.update(json.dumps(component.get_vocab(), sort_keys=True).encode())
    return digest.hexdigest()[:16]


def write_text(path: str | Path, text: str) -> None:
    """Write a text file aside, then rename it."""
    write_aside(path, lambda aside: aside.write_text(text, encoding="utf-8"), f"-{os.getpid()}")


def _read_config(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}")
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read ({error}), so what made the predictions beside it is not known: "
            "give a new output folder, or delete this one to make them anew"
        ) from error
    return found


def _sorted_state(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from sorted(module.state_dict().items())
