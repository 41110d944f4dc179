"""What the stages of `make tiny` share: a folder for what a kill must not lose, and a loop that goes on from there."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from jog3r.data.files import write_aside
from jog3r.training.folder_lock import FolderLock

__all__ = ["KeptLoop", "minimise", "stage_folder"]

logger = logging.getLogger(__name__)
_KEPT = "loop.pt"


@contextmanager
def stage_folder(output_dir: str | Path) -> Iterator[Path]:
    """The folder beside `output_dir` for what a stage keeps until it is through; one process at a time.

    Raises:
        ValueError: another process is at this stage.
    """
    output = Path(output_dir).absolute()
    folder = output.with_name(f"{output.name}.unfinished")
    with FolderLock(folder):
        yield folder
        (folder / _KEPT).unlink(missing_ok=True)
    if folder.is_dir():
        folder.rmdir()


@dataclass
class KeptLoop:
    """The state of a loop on the disk, for exact resume.

    Attributes:
        folder: of the stage.
        options: of the stage; a loop that was begun with others is refused.
        modules: trained ones by name.
        generator: that the loop draws from, if it does.
        every: steps between two writings.
    """

    folder: Path
    options: dict[str, Any]
    modules: dict[str, nn.Module]
    generator: torch.Generator | None = None
    every: int = 100

    def save(self, step: int, optimizer: torch.optim.Optimizer, schedule: Any) -> None:
        """Write the state after `step` steps."""
        state = {
            "step": step,
            "options": repr(self.options),
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "generator": None if self.generator is None else self.generator.get_state(),
        }
        write_aside(self.folder / _KEPT, lambda aside: torch.save(state, aside))

    def load(self, optimizer: torch.optim.Optimizer, schedule: Any) -> int:
        """Put what was written back; how many steps were done.

        Raises:
            ValueError: it was begun with other options.
        """
        path = self.folder / _KEPT
        if not path.is_file():
            return 0
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["options"] != repr(self.options):
            raise ValueError(f"{str(path)!r} was begun with other options ({state['options']}): delete it, or set them again")
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        if self.generator is not None:
            self.generator.set_state(state["generator"])
        logger.info("going on after step %d of %s", state["step"], path)
        return int(state["step"])


def minimise(
    loss_of_step: Callable[[int], tuple[torch.Tensor, dict[str, str]]],
    optimizer: torch.optim.Optimizer,
    rate_of_step: Callable[[int], float],
    num_steps: int,
    name: str,
    kept: KeptLoop,
) -> None:
    """Take `num_steps` steps, those that `kept` holds included; the weights are changed in place.

    Args:
        loss_of_step: of a step's number, the loss (a scalar) and what else the progress bar shows beside it.
        optimizer: over all that is trained; gradients are clipped to norm 1.
        rate_of_step: factor on the optimizer's learning rates.
        num_steps: length of the run.
        name: of the progress bar.
        kept: where the state goes every now and then.

    Raises:
        RuntimeError: the loss is not finite.
        ValueError: what `kept` holds was begun with other options.
    """
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate_of_step)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    start = kept.load(optimizer, schedule)
    with tqdm(range(start, num_steps), initial=start, total=num_steps, desc=name, unit="step") as bar:
        for step in bar:
            loss, shown = loss_of_step(step)
            if not torch.isfinite(loss):
                rate = optimizer.param_groups[0]["initial_lr"]
                raise RuntimeError(f"the loss became {loss.item()} at step {step}: lower learning_rate={rate}")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            if step % 20 == 0:
                bar.set_postfix(loss=f"{loss.item():.4f}", **shown)
            if (step + 1) % kept.every == 0 or step + 1 == num_steps:
                kept.save(step + 1, optimizer, schedule)
