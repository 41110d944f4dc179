"""What a run leaves at its end: a pipeline folder, with LoRA a folder of its layers, on request both on the hub."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError  # of the hub and of the connection to it
from safetensors import SafetensorError

from jog3r.data.files import replace_folder
from jog3r.pipelines.pipeline_dust3r import Dust3rPipeline
from jog3r.pipelines.pipeline_jog3r import Jog3rPipeline
from jog3r.training.config import TrainConfig
from jog3r.training.run.failures import disk_failure

logger = logging.getLogger(__name__)

PIPELINE, LORA = "pipeline", "lora"
_LORA_CARD = """---
library_name: diffusers
tags: [lora, jog3r]
---
LoRA layers of JOG3R's transformer, and the 3D head that was trained with them.

```python
from jog3r import Jog3rPipeline, Pointmap3DHead

head = Pointmap3DHead.from_pretrained("THIS FOLDER", subfolder="pointmap_head")
pipe = Jog3rPipeline.from_pretrained("BASE FOLDER", pointmap_head=head)
pipe.load_lora_weights("THIS FOLDER")
```
"""
_LORA_CARD_WITHOUT_HEAD = """---
library_name: diffusers
tags: [lora, jog3r]
---
LoRA layers of JOG3R's transformer, trained on generation alone: the base keeps its 3D head, if it has one.

```python
from jog3r import Jog3rPipeline

pipe = Jog3rPipeline.from_pretrained("BASE FOLDER")
pipe.load_lora_weights("THIS FOLDER")
```
"""


def save_results(pipeline: Jog3rPipeline | Dust3rPipeline, config: TrainConfig) -> Path:
    """Write `pipeline/` into the run's folder, and with LoRA `lora/`; returns the folder to hand on.

    `lora/` holds the layers as `load_lora_weights` reads them, and beside them the head where the run has trained it. In
    `pipeline/` the layers are added into the weights; so they are in `pipeline` afterwards.

    Raises:
        TrainingStopped: the disk is full or refuses.
    """
    directory = Path(config.output_dir)
    if config.trainable == "lora" and isinstance(pipeline, Jog3rPipeline):
        _replace(directory / LORA, lambda folder: _save_lora(pipeline, folder, config.reconstruction_batch > 0))
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
    _replace(directory / PIPELINE, pipeline.save_pretrained)
    return directory / (LORA if config.trainable == "lora" else PIPELINE)


def _save_lora(pipeline: Jog3rPipeline, folder: Path, with_head: bool) -> None:
    from peft import get_peft_model_state_dict

    transformer: Any = pipeline.transformer
    settings = transformer.peft_config["default"].to_dict()
    pipeline.save_lora_weights(folder, get_peft_model_state_dict(transformer), transformer_lora_adapter_metadata=settings)
    if with_head:
        pipeline.pointmap_head.save_pretrained(folder / "pointmap_head")
    (folder / "README.md").write_text(_LORA_CARD if with_head else _LORA_CARD_WITHOUT_HEAD, encoding="utf-8")


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


def push_results(folder: Path, config: TrainConfig) -> None:
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
