"""Several processes at one evaluation: each makes its share of the predictions, the first scores all of them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

__all__ = ["Processes", "join_processes"]

Item = TypeVar("Item")
_PATIENCE = timedelta(days=7)  # that a process waits for the slowest one


@dataclass(frozen=True)
class Processes:
    """This process among those of one launch.

    Attributes:
        index, count: this one, of how many.
        device: where this one's model runs.
    """

    index: int = 0
    count: int = 1
    device: str = "cpu"
    accelerator: Any = None

    @property
    def first(self) -> bool:
        """Whether this is the one that scores and prints."""
        return self.index == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """What of the work is this process's."""
        return items[self.index :: self.count]

    def place(self, pipeline: Any) -> Any:
        """The pipeline on this one's device, without its progress bar.

        Raises:
            ValueError: the device is not there.
        """
        try:
            placed = pipeline.to(self.device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device {self.device!r} cannot be used: {str(error).splitlines()[0]}") from error
        placed.set_progress_bar_config(disable=True)
        return placed

    def wait(self) -> None:
        """Until all are here."""
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()


def join_processes(device: str) -> Processes:
    """The processes of `accelerate launch`, or this one alone.

    Args:
        device: what `--device` says: "cpu" takes gloo, "cuda" gives each process a GPU of its own.

    Raises:
        ValueError: processes were launched that accelerate does not see as one run, or share one named device.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched == 1:
        return Processes(device=device)
    if ":" in device:
        raise ValueError(
            f"{launched} processes were launched and device is {device!r}: give a kind, such as cuda, not one of them"
        )
    from accelerate import Accelerator, InitProcessGroupKwargs

    accelerator = Accelerator(cpu=device == "cpu", kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)])
    if accelerator.num_processes != launched:
        raise ValueError(
            f"WORLD_SIZE={launched} processes were launched, but accelerate sees {accelerator.num_processes}: without a GPU set "
            "ACCELERATE_USE_CPU=true and launch with training/accelerate/cpu.yaml; unset WORLD_SIZE if it is a leftover"
        )
    return Processes(accelerator.process_index, launched, str(accelerator.device), accelerator)
