"""Ends of a run that its user has to hear of in one line, and what is written for looking into them."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from jog3r.data.errors import first_line
from jog3r.training.clips.step_batches import StepNoise

__all__ = ["OUT_OF_MEMORY", "TrainingStopped", "disk_failure", "dump_batches", "loader_failure"]

OUT_OF_MEMORY = (
    "out of memory: set gradient_checkpointing=true, optimizer=adamw8bit, a smaller generation_batch or reconstruction_batch "
    "(and more gradient_accumulation_steps), or, if it came with the samples, sample_every=0; "
    "`python -m jog3r.training.memory` with the same options says what a step takes"
)


class TrainingStopped(RuntimeError):
    """The run cannot go on; the message says why and what to do. Exit code 1."""


def dump_batches(path: Path, micro_batches: list[tuple[dict[str, torch.Tensor], StepNoise]], facts: dict[str, Any]) -> None:
    """Write clips and what was drawn for them to one safetensors file, as `0.batch.latents`, `0.draws.noise`, `1.batch...`.

    `facts` become the file's metadata, as json.
    """
    tensors: dict[str, torch.Tensor] = {}
    for number, (batch, draws) in enumerate(micro_batches):
        tensors |= {f"{number}.batch.{name}": value for name, value in batch.items()}
        tensors |= {f"{number}.draws.{name}": value for name, value in vars(draws).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {name: json.dumps(value) for name, value in facts.items()}
    save_file({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, path, metadata)


def disk_failure(what: str, directory: Path, error: Exception) -> TrainingStopped:
    """What to say when `error` came of writing `what` to the run's `directory`, which is not touched."""
    text = first_line(error)
    free = shutil.disk_usage(directory).free >> 20
    return TrainingStopped(
        f"{what} cannot be written to {str(directory)!r}: {text} ({free} MiB were free); make room, then the same command goes "
        "on from the newest checkpoint there"
    )


def loader_failure(error: Exception, step: int, timeout_seconds: float) -> TrainingStopped:
    """What to say when a `DataLoader` raised `error` while step `step` waited for its clips."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = lines[-1] if lines[0].startswith("Caught ") else lines[0]  # a worker's error comes with its whole traceback
    if "timed out" in text:
        text = (
            f"the data loader gave nothing for {timeout_seconds:g} s (loader_timeout): a disk or network that hangs, or too few "
            "workers"
        )
    return TrainingStopped(f"no data for step {step}: {text}; the same command goes on from the newest checkpoint")
