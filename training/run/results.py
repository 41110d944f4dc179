"""What a run leaves at its end: a pipeline folder, with LoRA a folder of its layers, on request both on the hub."""

import copy
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError  # of the hub and of the connection to it
from safetensors import SafetensorError

from jog3r.data.files import replace_folder
from jog3r.models.saving import NOT_STATED
from jog3r.training.config import TrainConfig
from jog3r.training.run.failures import disk_failure
from jog3r.training.saving import save_without_paths

logger = logging.getLogger(__name__)

PIPELINE, LORA, BEST = "pipeline", "lora", "best"
_LORA_CARD = """---
library_name: diffusers
tags: [lora, jog3r]
---
LoRA layers of the transformer of `{name}`, and the 3D head that was trained with them.

## Training

{training}

## Use

```python
from jog3r import {name}, Pointmap3DHead

head = Pointmap3DHead.from_pretrained("THIS FOLDER", subfolder="pointmap_head")
pipe = {name}.from_pretrained("BASE FOLDER", pointmap_head=head)
pipe.load_lora_weights("THIS FOLDER")
```
"""
_LORA_CARD_WITHOUT_HEAD = """---
library_name: diffusers
tags: [lora, jog3r]
---
LoRA layers of the transformer of `{name}`, trained on generation alone: the base keeps its 3D head, if it has one.

## Training

{training}

## Use

```python
from jog3r import {name}

pipe = {name}.from_pretrained("BASE FOLDER")
pipe.load_lora_weights("THIS FOLDER")
```
"""


def save_results(pipeline: Any, config: TrainConfig, training: str) -> Path:
    """Write `pipeline/` into the run's folder, and with LoRA `lora/`; returns the folder to hand on.

    Their cards say what `training` does. `lora/` holds the layers as `load_lora_weights` reads them, and beside them the head
    where the run has trained it. In `pipeline/` the layers are added into the weights; so they are in `pipeline` afterwards.

    Raises:
        TrainingStopped: the disk is full or refuses.
    """
    directory = Path(config.output_dir)
    if config.trainable == "lora":
        _replace(directory / LORA, lambda folder: _save_lora(pipeline, folder, config.reconstruction_batch > 0, training))
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
    _replace(directory / PIPELINE, lambda folder: _save_pipeline(pipeline, folder, training))
    return directory / (LORA if config.trainable == "lora" else PIPELINE)


def save_best(pipeline: Any, config: TrainConfig, training: str, values: dict[str, float]) -> Path:
    """Write `best/` into the run's folder, a pipeline as `pipeline/` is, in place of what was the best before.

    `pipeline` stays as it is, LoRA layers included. `validation.json` in the folder says what was measured.

    Raises:
        TrainingStopped: the disk is full or refuses.
    """
    folder = Path(config.output_dir) / BEST

    def write(aside: Path) -> None:
        _save_pipeline(pipeline, aside, training)
        (aside / "validation.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

    if config.trainable != "lora":
        _replace(folder, write)
        return folder
    trained = pipeline.transformer
    added = _copy_on_cpu(trained)  # two of them may be more than the device holds
    added.fuse_lora()
    added.unload_lora()
    pipeline.register_modules(transformer=added)
    try:
        _replace(folder, write)
    finally:
        pipeline.register_modules(transformer=trained)
    return folder


def _copy_on_cpu(module: torch.nn.Module) -> Any:
    """A copy; the module itself never moves, which would cut DDP's hooks off."""
    memo: dict[int, Any] = {id(value): value.detach().cpu().clone() for value in module.buffers()}
    for value in module.parameters():
        memo[id(value)] = torch.nn.Parameter(value.detach().cpu().clone(), value.requires_grad)
    return copy.deepcopy(module, memo)


def _save_pipeline(pipeline: Any, folder: Path, training: str) -> None:
    save_without_paths(pipeline, folder)
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    stated = f"{training}\n\nQuality and licence are not stated: please fill in before sharing it."
    text = text.replace(NOT_STATED, stated) if NOT_STATED in text else f"{text}\n## Training\n\n{training}\n"
    card.write_text(text, encoding="utf-8")


def _save_lora(pipeline: Any, folder: Path, with_head: bool, training: str) -> None:
    from peft import get_peft_model_state_dict

    transformer: Any = pipeline.transformer
    settings = transformer.peft_config["default"].to_dict() | {"base_model_name_or_path": None}
    layers = get_peft_model_state_dict(transformer)
    pipeline.save_lora_weights(folder, transformer_lora_layers=layers, transformer_lora_adapter_metadata=settings)
    if with_head:
        save_without_paths(pipeline.pointmap_head, folder / "pointmap_head")
    card = (_LORA_CARD if with_head else _LORA_CARD_WITHOUT_HEAD).format(training=training, name=type(pipeline).__name__)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _replace(folder: Path, write: Callable[[Path], object]) -> None:
    """`replace_folder`, with a disk that is full or refuses named as such."""
    try:
        replace_folder(folder, write)
    except (OSError, SafetensorError) as error:
        raise disk_failure(f"{folder.name}/", folder.parent, error) from error


def open_repository(config: TrainConfig) -> None:
    """Make the hub repository at the start of a run, so that a wrong name or token shows before the hours are spent.

    Raises:
        ValueError: the hub refuses.
    """
    if config.push_to_hub:
        try:
            HfApi().create_repo(str(config.hub_model_id), private=config.hub_private, exist_ok=True)
        except (HTTPError, OSError) as error:
            raise ValueError(f"the hub does not give hub_model_id={config.hub_model_id!r}: {error}") from error


def push_results(folder: str | Path, config: TrainConfig) -> None:
    """Upload what `save_results` returned. Should it fail, the folder is still there: the message says how to go on."""
    if not config.push_to_hub:
        return
    repository = str(config.hub_model_id)
    try:
        HfApi().upload_folder(repo_id=repository, folder_path=folder, commit_message="Trained with jog3r")
    except (HTTPError, OSError) as error:
        logger.error("not uploaded (%s); try `hf upload %s %s`", error, repository, folder)
        return
    logger.info("uploaded %s to %s", folder, repository)
