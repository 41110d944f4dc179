"""What the model card of a run says of its training: recipe, steps, data, versions; no place of this machine."""

import dataclasses
import subprocess
from pathlib import Path
from typing import Any

import torch

from jog3r import __version__
from jog3r.training.clips.data_place import HALVES, name_of
from jog3r.training.config import TrainConfig
from jog3r.training.run.step_log import read_steps

__all__ = ["PLACES", "named_places", "source_version", "training_section"]

ROOT = Path(__file__).resolve().parents[2]
PLACES = (
    "init_from",
    "head_from",
    "output_dir",
    "cache_dir",
    "dataset",
    "frames",
    "cameras",
    "captions",
    "split",
    "depth",
)  # options that are, or may be, folders
_OR_OF_THE_HUB = ("dataset", "frames", "depth", "init_from", "head_from")
_NOT_TOLD = (*PLACES, "num_threads", "num_workers", "loader_timeout", "hub_model_id", "push_to_hub", "hub_private")
_LAST = 100  # steps whose mean loss is told


def named_places(config: TrainConfig) -> dict[str, Any]:
    """The options, with folders by their own names: the rest of a path says nothing elsewhere. A data set of the hub is whole."""
    values = dataclasses.asdict(config)
    for half in HALVES:
        if values[f"{half}_data"] is not None:
            values[f"{half}_data"] = ", ".join(f"{entry.weight} {entry.place.label()}" for entry in config.places(half))
    folders = {name: values[name] for name in PLACES if values[name] is not None}
    named = {name: name_of(place) if name in _OR_OF_THE_HUB else Path(place).name for name, place in folders.items()}
    return values | named


def source_version() -> str:
    """The version of jog3r, with its commit in a checkout, and with a mark where files of it were changed since."""
    if not (ROOT / ".git").exists():
        return f"jog3r {__version__}"
    git = ["git", "-C", str(ROOT)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or a checkout that git does not take for one
        return f"jog3r {__version__}, commit unknown"
    return f"jog3r {__version__}, git commit {commit}{', with local changes' if changed else ''}"


def training_section(config: TrainConfig, recipe: str | None, progress: dict[str, Any], steps: Path) -> str:
    """Markdown for the model card.

    Args:
        config: of the run.
        recipe: path of its yaml file; None if there was none.
        progress: what its checkpoints say: "step", "clips_per_step", "data".
        steps: its `steps.jsonl`.
    """
    values = named_places(config)
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    changed = {name: value for name, value in values.items() if name not in _NOT_TOLD and value != defaults[name]}
    generation, reconstruction = progress["clips_per_step"]
    common = {} if progress["data"].get("kind") == "mixture" else {"data": values["data"]}
    data = {**common, **progress["data"]} | {name: values[name] for name in ("cache_dir", "dataset") if values[name] is not None}
    rows = {
        "recipe": "none, options alone" if recipe is None else Path(recipe).name,
        "options that are not the defaults": _listed(changed),
        "started from": values["init_from"],
        "steps": f"{progress['step']}, of {generation} generation + {reconstruction} reconstruction clips",
        "clips": f"{config.num_frames} frames of {config.height} x {config.width} pixels",
        "data": _listed(data),
        f"mean of the last {_LAST} steps": _listed(_last_losses(steps)),
        "made with": f"{source_version()}; torch {torch.__version__}",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows.items())])


def _last_losses(steps: Path) -> dict[str, str]:
    entries = [entry["losses"] for entry in read_steps(steps)[-_LAST:]] if steps.is_file() else []
    return {name: f"{sum(losses[name] for losses in entries) / len(entries):.4g}" for name in (entries[-1] if entries else ())}


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items()).replace("|", "\\|") or "none"
