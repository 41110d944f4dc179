"""Checkpoints of a run: written aside, sealed with checksums, then renamed; the newest intact one is resumed.

    step-0000200/trained.safetensors  what is trained, by name; the rest of the model is in the folder that the run started from
    step-0000200/average.safetensors  the averaged weights
    step-0000200/progress.pt          optimizers, and how many steps the average has seen
    step-0000200/run.json             step, clips a step, options
    step-0000200/checksums.json       SHA-256 of each

Everything is whole, whatever it was sharded over: 1 process, N processes and FSDP read each other's checkpoints.
"""

import json
import logging
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from jog3r.data.files import file_hash, replace_folder
from jog3r.training.run.failures import disk_failure

if TYPE_CHECKING:
    from diffusers.training_utils import EMAModel

logger = logging.getLogger(__name__)
_PREFIX = "step-"
_NAME = re.compile(rf"{_PREFIX}\d{{7,}}")  # what is called otherwise, such as a copy step-best, is the user's
_SEAL = "checksums.json"
_OPTIONS = ("initial_lr", "weight_decay")  # options always taken from this run, never from the checkpoint


@dataclass
class TrainingState:
    """Everything that changes while training.

    Attributes:
        trained: parameters by name; sharded ones as DTensors.
        average: their moving average, in the same order.
        optimizers: as `accelerator.prepare` returned them.
        schedules: of their learning rates; functions of the step, so that no checkpoint holds them.
    """

    trained: list[tuple[str, nn.Parameter]]
    average: "EMAModel"
    optimizers: list[Any]
    schedules: list[Any]

    def averaged_weights(self, keep: bool = True) -> dict[str, Any]:
        """The averaged weights by name, whole, on the CPU; every process must call this, also with `keep=False`: gathering needs
        all.
        """
        return {name: _whole(value, keep) for (name, _), value in zip(self.trained, self.average.shadow_params, strict=True)}


def save_checkpoint(
    accelerator: Accelerator, state: TrainingState, directory: str | Path, progress: dict[str, Any], keep: int
) -> Path:
    """Save `state` as `directory/step-0000123` and drop all but the newest `keep`; all processes have to call it.

    A kill at any moment leaves either the whole checkpoint or one that `find_checkpoint` recognises as torn.

    Args:
        accelerator: of the run.
        state: what to save.
        directory: of the run.
        progress: json; "step" is how many steps were done.
        keep: how many checkpoints stay.

    Raises:
        TrainingStopped: the disk is full or refuses; the checkpoints from before are untouched.
    """
    directory = Path(directory)
    final = directory / f"{_PREFIX}{progress['step']:07d}"
    weights, content = _gather(accelerator, state)

    def write(aside: Path) -> None:
        aside.mkdir()
        for name, tensors in weights.items():
            save_file(tensors, aside / name)
        torch.save(content, aside / "progress.pt")
        run = json.dumps({**progress, "num_processes": accelerator.num_processes}, indent=1)
        (aside / "run.json").write_text(run, encoding="utf-8")
        seal = {path.name: file_hash(path) for path in sorted(aside.iterdir())}
        (aside / _SEAL).write_text(json.dumps(seal, indent=1), encoding="utf-8")

    if accelerator.is_main_process:
        try:
            replace_folder(final, write)  # on the disk before an old checkpoint goes
            _drop_old(directory, final, keep)
        except (OSError, SafetensorError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
            raise disk_failure(f"the checkpoint after step {progress['step']}", directory, error) from error
    accelerator.wait_for_everyone()
    return final


def load_checkpoint(state: TrainingState, path: str | Path, changed: Sequence[str]) -> None:
    """Put the checkpoint at `path` into `state`; learning rates, weight decay and the average's decay stay those of `state`.

    Args:
        state: what to fill; untouched when anything is refused.
        path: of the checkpoint.
        changed: what `check_same_data` returned, for the message.

    Raises:
        ValueError: it trains other parameters, has other optimizers, or is one of DeepSpeed's, which earlier versions wrote.
    """
    path = Path(path)
    if (path / "deepspeed").is_dir():
        raise ValueError(f"{str(path)!r} holds DeepSpeed's shards, which this version no longer reads: name a new output_dir")
    average = load_file(path / "average.safetensors")
    content = torch.load(path / "progress.pt", map_location="cpu", weights_only=True)
    _check_same_parameters(state, average, path, changed)
    _check_same_optimizers(state, content["optimizers"], path, changed)
    options = [[{name: group[name] for name in _OPTIONS} for group in one.optimizer.param_groups] for one in state.schedules]
    shadows = [
        _placed_like(average[name], shadow) for (name, _), shadow in zip(state.trained, state.average.shadow_params, strict=True)
    ]
    state.average.load_state_dict({**content["average"], "decay": state.average.decay, "shadow_params": shadows})
    weights = load_file(path / "trained.safetensors")
    with torch.no_grad():
        for name, parameter in state.trained:
            parameter.copy_(_placed_like(weights[name], parameter))
    for optimizer, saved in zip(state.optimizers, content["optimizers"], strict=True):
        optimizer.load_state_dict(_placed_optimizer_state(optimizer, saved))
    step = read_run(path)["step"]
    for schedule, groups in zip(state.schedules, options, strict=True):
        _set_options(schedule, groups, step)


def find_checkpoint(directory: str | Path) -> Path | None:
    """The newest intact checkpoint of `directory`; a torn one is named in a warning and passed over."""
    for path in reversed(_checkpoints(Path(directory))):
        complaint = _complaint(path)
        if complaint is None:
            return path
        logger.warning("checkpoint %s is torn (%s): trying the one before", path, complaint)
    return None


def agree_on_checkpoint(directory: Path, accelerator: Accelerator) -> Path | None:
    """`find_checkpoint` of the main process, for all: a shared disk may show a file to one process before another.

    Raises:
        ValueError: there are checkpoints and all are torn.
    """
    found: list[Any] = [None, []]
    if accelerator.is_main_process:
        found = [find_checkpoint(directory), [path.name for path in _checkpoints(directory)]]
    broadcast_object_list(found)
    path, names = found
    if path is None and names:
        raise ValueError(
            f"no checkpoint in {str(directory)!r} is intact ({', '.join(names)}: see above): put a copy of one back, or delete "
            "them to start anew"
        )
    return path


def read_run(path: str | Path) -> dict[str, Any]:
    """What `save_checkpoint` got as `progress`, and "num_processes"."""
    return json.loads((Path(path) / "run.json").read_text(encoding="utf-8"))


def check_same_data(path: Path, saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Refuse to go on where the position in the stream would mean other clips; changed options are named in the log.

    Args:
        path: of the checkpoint.
        saved: its `read_run`.
        now: the same of this run.

    Returns:
        The changed options, such as "num_steps 100 -> 200".

    Raises:
        ValueError: another global batch, other data or another optimizer.
    """
    if "clips_per_step" not in saved:
        raise ValueError(f"{str(path)!r} was written by another version of jog3r: start anew from a pipeline folder")
    if saved["clips_per_step"] != now["clips_per_step"]:
        before, after = (" + ".join(str(count) for count in entry["clips_per_step"]) for entry in (saved, now))
        raise ValueError(
            f"{str(path)!r} was made with {before} clips a step (generation + reconstruction, all processes), this run has "
            f"{after}: choose generation_batch, reconstruction_batch and gradient_accumulation_steps so that clips x micro-steps "
            "x processes is the same, or name a new output_dir"
        )
    if saved["data"] != now["data"]:
        names = [name for name in {**saved["data"], **now["data"]} if saved["data"].get(name) != now["data"].get(name)]
        texts = [f"{name} {saved['data'].get(name)}, now {now['data'].get(name)}" for name in names]
        raise ValueError(f"{str(path)!r} was made with other data: {'; '.join(texts)}: go on with that, or name a new output_dir")
    before, after = saved["settings"], json.loads(json.dumps(now["settings"]))  # json has lists for tuples
    names = [name for name in after if name in before and before[name] != after[name] and name != "output_dir"]
    if "optimizer" in names:
        raise ValueError(
            f"{str(path)!r} was made with optimizer={before['optimizer']}, this run has {after['optimizer']}, which cannot "
            "read its state: go on with the one it was made with, or name a new output_dir"
        )
    changed = [f"{name} {before[name]} -> {after[name]}" for name in names]
    for text in changed:
        logger.info("changed since the checkpoint: %s", text)
    return changed


# Writing


def _gather(accelerator: Accelerator, state: TrainingState) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
    """Weights by file name, and what goes into `progress.pt`; gathering what is sharded takes all processes.

    Only the main one, which writes it, gets copies in its memory; the others have None for each tensor.
    """
    keep = accelerator.is_main_process
    weights = {"average.safetensors": state.averaged_weights(keep)}
    scalars = {name: value for name, value in state.average.state_dict().items() if name != "shadow_params"}
    weights["trained.safetensors"] = {name: _whole(parameter, keep) for name, parameter in state.trained}
    optimizers = [_whole_tree(optimizer.state_dict(), keep) for optimizer in state.optimizers]
    return weights, {"optimizers": optimizers, "average": scalars}


def _drop_old(directory: Path, newest: Path, keep: int) -> None:
    """Delete all but `newest` and the `keep` - 1 before it; those numbered higher were torn, or they would have been resumed."""
    paths = _checkpoints(directory)
    place = paths.index(newest)
    for path in [*paths[: max(0, place + 1 - keep)], *paths[place + 1 :]]:
        shutil.rmtree(path)


def _whole(value: torch.Tensor, keep: bool) -> torch.Tensor | None:
    """A tensor of its full shape on the CPU, whatever it is sharded over; None, after helping to gather it, if not to `keep`."""
    value = value.detach()
    value = value.full_tensor() if isinstance(value, DTensor) else value
    return value.cpu().contiguous() if keep else None


def _whole_tree(value: Any, keep: bool) -> Any:
    """`_whole` of every tensor in nested mappings and lists."""
    if isinstance(value, torch.Tensor):
        return _whole(value, keep)
    if isinstance(value, dict):
        return {name: _whole_tree(item, keep) for name, item in value.items()}
    return [_whole_tree(item, keep) for item in value] if isinstance(value, list) else value


# Reading


def _checkpoints(directory: Path) -> list[Path]:
    """The folders with a checkpoint's name, oldest first."""
    paths = [path for path in directory.glob(f"{_PREFIX}*") if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(paths, key=lambda path: int(path.name.removeprefix(_PREFIX)))


def _check_same_parameters(state: TrainingState, saved: dict[str, torch.Tensor], path: Path, changed: Sequence[str]) -> None:
    shapes = {name: value.shape for (name, _), value in zip(state.trained, state.average.shadow_params, strict=True)}
    strangers = sorted({*shapes} ^ {*saved})
    if strangers:
        text = f"trains other parameters than this run ({len(strangers)} differ, the first is {strangers[0]!r})"
        raise ValueError(f"{str(path)!r} {text}; {_remedy(changed)}")
    others = [name for name, shape in shapes.items() if saved[name].shape != shape]
    if others:
        first = f"{others[0]!r} {tuple(saved[others[0]].shape)}, here {tuple(shapes[others[0]])}"
        text = f"has parameters of other shapes than this run ({len(others)} differ, the first is {first})"
        raise ValueError(f"{str(path)!r} {text}; {_remedy(changed)}")


def _check_same_optimizers(state: TrainingState, saved: list[dict[str, Any]], path: Path, changed: Sequence[str]) -> None:
    sizes, saved_sizes = (
        [[len(group["params"]) for group in groups] for groups in optimizers]
        for optimizers in ([one.param_groups for one in state.optimizers], [one["param_groups"] for one in saved])
    )
    if sizes != saved_sizes:
        text = f"has optimizers of {saved_sizes} parameters a group, this run of {sizes}"
        raise ValueError(f"{str(path)!r} {text}; {_remedy(changed)}")


def _remedy(changed: Sequence[str]) -> str:
    options = ", ".join(changed) or "none"
    return f"go on with the options and the init_from it was made with (options changed: {options}), or name a new output_dir"


def _set_options(schedule: Any, groups: list[dict[str, float]], step: int) -> None:
    """Put this run's options into the groups of a schedule's optimizer, and the schedule behind step `step`."""
    schedule.last_epoch = step
    rates = zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
    for group, options, (rate, factor) in zip(schedule.optimizer.param_groups, groups, rates, strict=True):
        group.update(options, lr=rate * factor(step))


def _placed_like(whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`whole` on the device of `like`, sharded as it is."""
    if isinstance(like, DTensor):
        return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements)
    return whole.to(like.device)


def _placed_optimizer_state(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    """A whole optimizer state with the tensors of sharded parameters sharded likewise."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def placed(value: Any, parameter: torch.Tensor) -> Any:
        sharded = isinstance(parameter, DTensor) and isinstance(value, torch.Tensor) and value.shape == parameter.shape
        return _placed_like(value, parameter) if sharded else value

    entries = {
        number: {name: placed(value, parameters[number]) for name, value in entry.items()}
        for number, entry in saved["state"].items()
    }
    return {**saved, "state": entries}


def _complaint(path: Path) -> str | None:
    """What is wrong with the checkpoint at `path`, None if nothing."""
    seal = path / _SEAL
    if not seal.is_file():
        return f"no {_SEAL}"
    try:
        expected = json.loads(seal.read_text(encoding="utf-8"))
    except ValueError as error:  # no json, or not even UTF-8
        return f"{_SEAL} is not readable: {error}"
    for name, checksum in expected.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if file_hash(path / name) != checksum:
            return f"{name} has changed"
    return None
