"""Training runs of a few seconds as processes of their own: to be killed, starved of disk space, spread over several processes.

The processes come from multiprocessing's fork server, which has imported everything already: a run starts in a second.
"""

import multiprocessing
import os
import re
import signal
import socket
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

__all__ = ["TINY", "TrainingProcesses", "errors_of", "float32_layer_norm", "losses_of", "wait_until", "weights_of"]

# Options of a run whose step takes a tenth of a second.
TINY: dict[str, Any] = {
    "num_frames": 3, "height": 16, "width": 16, "generation_batch": 2, "reconstruction_batch": 2, "pairs_per_clip": 2,
    "num_steps": 6, "warmup_steps": 2, "checkpoint_every": 2, "sample_every": 1000, "num_threads": 1, "num_workers": 0,
    "tracker": "none", "ema_decay": 0.9, "frozen_blocks": 0,
}  # fmt: skip
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([
    "jog3r.training.train_joint", "jog3r.evaluation.evaluate", "diffusers.pipelines", "peft", "jog3r.pipelines.pipeline_jog3r",
])  # fmt: skip


class TrainingProcesses:
    """One run of `train_joint.py`, in one process or several that speak gloo, in a process group each.

    Args:
        init: pipeline folder to start from.
        output: folder of the run; what it prints goes to `output.log` beside it.
        processes: how many, as `accelerate launch --cpu --num_processes` starts them.
        sharded: over the processes, by FSDP2.
        file_limit: bytes that a file may have at most: the nearest thing to a full disk that needs no rights.
        options: of the run, besides `TINY`; None leaves one of those out.
    """

    def __init__(
        self,
        init: Path,
        output: Path,
        processes: int = 1,
        sharded: bool = False,
        file_limit: int | None = None,
        **options: Any,
    ):
        values = {**TINY, **options, "init_from": init, "output_dir": output}
        words = [word for name, value in values.items() if value is not None for word in (f"--{name}", str(value))]
        self.log = output.with_suffix(".log")
        environments = [_environment(rank, processes) for rank in range(processes)]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        self.processes: list[BaseProcess] = []
        for environment in environments:
            arguments = (words, {**environment, "MASTER_PORT": port}, self.log, sharded, file_limit)
            process = CONTEXT.Process(target=_run, args=arguments)
            process.start()
            self.processes.append(process)

    @property
    def running(self) -> bool:
        """Whether the first process has not ended."""
        return self.processes[0].is_alive()

    def wait(self, seconds: float = 1800.0) -> int:
        """Exit code of the first process; the others have ended, too."""
        deadline = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                self.signal(signal.SIGKILL)
                raise TimeoutError(f"the run did not end within {seconds:.0f} s: {self.text()[-2000:]}")
        return int(self.processes[0].exitcode or 0)

    def signal(self, number: int) -> None:
        """Send a signal to every process and to the workers of its data loader."""
        for process in self.processes:
            if process.is_alive() and process.pid is not None:
                try:
                    os.killpg(process.pid, number)
                except ProcessLookupError:  # not yet a group of its own
                    os.kill(process.pid, number)

    def text(self) -> str:
        """What was printed since the output folder was first used."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.is_file() else ""


def _environment(rank: int, processes: int) -> dict[str, str]:
    common = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    if processes == 1:
        return common
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    return {**common, "MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in place.items()}}


def _run(words: list[str], environment: dict[str, str], log: Path, sharded: bool, file_limit: int | None) -> None:
    os.setsid()
    os.environ.update(environment)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if file_limit is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    if sharded:
        _shard_on_cpu(dict(zip(words[::2], words[1::2], strict=True)).get("--mixed_precision", "no"))
    from jog3r.training.train_joint import main

    sys.exit(main(words))


def _shard_on_cpu(precision: str) -> None:
    """Let accelerate take its FSDP2 road: it offers that on GPUs alone, though torch's `fully_shard` works with gloo, too."""
    from accelerate import Accelerator, FullyShardedDataParallelPlugin
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False, reshard_after_forward=True
    )
    Accelerator(cpu=True, mixed_precision=precision, fsdp_plugin=plugin)  # starts gloo; all of a process share the state
    AcceleratorState._shared_state |= {"distributed_type": DistributedType.FSDP, "fsdp_plugin": plugin}
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    if precision != "no":
        plugin.set_mixed_precision(precision)  # as accelerate does on GPUs
        torch.nn.functional.layer_norm = float32_layer_norm


def float32_layer_norm(
    states: torch.Tensor, shape: Any, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None, eps: float = 1e-5
) -> torch.Tensor:
    """What autocast makes of a layer norm on a GPU. On a CPU it leaves them alone, and weights in bf16 refuse float32 states."""
    return torch.layer_norm(
        states.float(), shape, None if weight is None else weight.float(), None if bias is None else bias.float(), eps
    )


def wait_until(condition: Any, run: TrainingProcesses, seconds: float = 1800.0) -> None:
    """Return as soon as `condition()` holds or the run is over."""
    deadline = time.monotonic() + seconds
    while not condition() and run.running:
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing happened within {seconds:.0f} s: {run.text()[-2000:]}")
        time.sleep(0.005)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of a pipeline folder, by component and name."""
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{path.parent.name}/{name}": value for path in files for name, value in load_file(path).items()}


def losses_of(steps: list[dict[str, Any]], name: str = "loss") -> torch.Tensor:
    """(steps,) float64 of a run's `read_steps`."""
    return torch.tensor([entry["losses"][name] for entry in steps], dtype=torch.float64)


def errors_of(text: str) -> list[str]:
    """The lines that say why a run ended."""
    return re.findall(r"error: .*", text)
