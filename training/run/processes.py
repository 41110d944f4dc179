"""How a run is spread over processes: what `accelerate launch` was told, and what several processes have to agree on."""

import logging
import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    InitProcessGroupKwargs,
    ProjectConfiguration,
    broadcast_object_list,
)  # fmt: skip
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy

from jog3r.training.config import TrainConfig
from jog3r.training.folder_lock import FolderLock, check_world
from jog3r.training.run.failures import TrainingStopped
from jog3r.training.run.sample_videos import check_tracker

__all__ = [
    "RunLock",
    "StopSignal",
    "any_process",
    "bf16_slowdown",
    "is_sharded",
    "name_blocks",
    "seed_step",
    "start_accelerator",
]

logger = logging.getLogger(__name__)
_MUCH_SLOWER = 3.0
_PATIENCE = timedelta(hours=1)  # that processes have with each other; one draws samples and writes results while all others wait


class StopSignal:
    """Context that remembers a SIGTERM: the step is finished, a checkpoint saved, and the run ends well."""

    def __init__(self) -> None:
        self.received = False

    def __enter__(self) -> "StopSignal":
        self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: Any) -> None:
        signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)  # None: it was not set from Python

    def _note(self, *_: Any) -> None:
        self.received = True


class RunLock:
    """Context in which no other run gets the folder: the first process holds its lock, and all are refused together."""

    def __init__(self, accelerator: Accelerator, folder: Path):
        self._lock = FolderLock(folder) if accelerator.is_main_process else None

    def __enter__(self) -> "RunLock":
        complaint: list[str | None] = [None]
        if self._lock is not None:
            try:
                self._lock.__enter__()
            except ValueError as error:
                complaint = [str(error)]
        broadcast_object_list(complaint)
        if complaint[0] is not None:
            raise ValueError(complaint[0])
        return self

    def __exit__(self, *error: Any) -> None:
        if self._lock is not None:
            self._lock.__exit__(*error)

    def check(self) -> None:
        """Stop the run if another one has taken its folder, see `FolderLock.check`.

        Raises:
            TrainingStopped: it has.
        """
        if self._lock is not None:
            try:
                self._lock.check()
            except ValueError as error:
                raise TrainingStopped(str(error)) from error


def start_accelerator(config: TrainConfig) -> Accelerator:
    """The `Accelerator` of a run.

    Raises:
        ValueError: an option that the kind of distribution cannot do, or processes that accelerate does not see as one run.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":  # accelerate's own variable for its processes
        raise ValueError(
            "DeepSpeed is not supported: take training/accelerate/fsdp2.yaml, which shards the same, or ddp.yaml while the model "
            "fits on each GPU"
        )
    directory = Path(config.output_dir)
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        log_with=None if config.tracker == "none" else check_tracker(config.tracker),
        project_config=ProjectConfiguration(project_dir=str(directory), logging_dir=str(directory / "logs")),
        # DDP else keeps all gradients twice
        kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE), DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )
    check_world(accelerator.num_processes)
    kind = accelerator.distributed_type
    if kind == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise ValueError("FSDP 1 is not supported: set fsdp_version: 2, as training/accelerate/fsdp2.yaml does")
    if kind == DistributedType.FSDP and config.optimizer == "muon":
        raise ValueError(
            "optimizer=muon needs whole matrices, which FSDP shards over the processes: take optimizer=adamw, or DDP "
            "(training/accelerate/ddp.yaml)"
        )
    if kind == DistributedType.FSDP and config.optimizer == "adamw8bit":
        raise ValueError("optimizer=adamw8bit cannot read the parts that FSDP leaves of a weight: take optimizer=adamw")
    launched = accelerator.gradient_accumulation_steps  # accelerate takes its own number over that of the recipe
    if launched != config.gradient_accumulation_steps:
        raise ValueError(
            f"gradient_accumulation_steps is {config.gradient_accumulation_steps}, but accelerate was launched with {launched}: "
            "leave it out of accelerate's configuration (and ACCELERATE_GRADIENT_ACCUMULATION_STEPS unset), or make them equal"
        )
    if kind == DistributedType.FSDP and config.mixed_precision == "bf16":
        # accelerate's own policy rounds depth, poses and noise to bf16, too, and sums gradients in it
        policy = MixedPrecisionPolicy(torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
        accelerator.state.fsdp_plugin.mixed_precision_policy = policy
    if accelerator.device.type == "cpu" and accelerator.is_main_process:
        _warn_of_slow_bf16(config)
    return accelerator


def bf16_slowdown() -> float:
    """How many times longer this CPU takes for a product of matrices in bf16 than in float32; below 1 with units of its own."""
    best = []
    for dtype in (torch.bfloat16, torch.float32):
        matrix = torch.ones(192, 192, dtype=dtype)
        times = []
        for _ in range(3):
            begin = time.perf_counter()
            matrix @ matrix
            times.append(time.perf_counter() - begin)
        best.append(min(times))
    return best[0] / best[1]


def _warn_of_slow_bf16(config: TrainConfig) -> None:
    users = {"mixed_precision=bf16": config.mixed_precision == "bf16", "optimizer=muon": config.optimizer == "muon"}
    named = [name for name, used in users.items() if used]
    if named and (ratio := bf16_slowdown()) > _MUCH_SLOWER:
        logger.warning(
            "this processor takes %.0f times longer for products of matrices in bf16, which %s needs, than in float32: take "
            "mixed_precision=no and optimizer=adamw here",
            ratio,
            " and ".join(named),
        )


def name_blocks(model: nn.Module) -> None:
    """Tell FSDP, which wraps block by block, the classes of all blocks in `model`: its parts know theirs, the whole does not."""
    known = {name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    model._no_split_modules = sorted(known & {type(module).__name__ for module in model.modules()})  # type: ignore[assignment]  # torch types attributes as modules


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether no process holds the whole of the trained parameters."""
    return accelerator.distributed_type == DistributedType.FSDP


def any_process(accelerator: Accelerator, flag: bool) -> bool:
    """Whether `flag` is set in any process: they have to stop after the same step."""
    if accelerator.num_processes == 1:
        return flag
    return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), "sum") > 0)


def seed_step(seed: int, step: int, process: int) -> None:
    """Make whatever draws from torch's own generators in a step (dropout) a function of (seed, step, process), too."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, process]).generate_state(1)[0]))
