"""A generator's training module and inputs of the right shapes without a weight, for counting memory and operations."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jog3r.models.pointmap_head import Pointmap3DHead
from jog3r.training.config import TrainConfig
from jog3r.training.generators.build import load_types, prepare_generator
from jog3r.training.generators.captions import caption_length
from jog3r.training.generators.model import GeneratorModel
from jog3r.training.generators.without_weights import pipeline_without_weights

__all__ = ["generator_inputs", "generator_without_weights"]


def generator_without_weights(config: TrainConfig) -> GeneratorModel:
    """The module that `config` trains, but for LoRA layers; to be called on the meta device.

    Sizes are those of the folder `init_from`, the published ones where it does not exist. A head that `head_from` names counts as
    a fresh one.
    """
    folder = Path(config.init_from)
    pipeline = pipeline_without_weights(str(config.model), config.init_from if folder.is_dir() else None)
    pipeline.register_modules(vae=None)
    if (folder / "pointmap_head").is_dir():
        saved = json.loads((folder / "pointmap_head" / "config.json").read_text(encoding="utf-8"))
        pipeline.pointmap_head = Pointmap3DHead(**{name: value for name, value in saved.items() if not name.startswith("_")})
    prepare_generator(pipeline, dataclasses.replace(config, head_from=None))
    kept = pipeline.transformer._keep_in_fp32_modules or ()
    for name, parameter in pipeline.transformer.named_parameters():
        if not any(part in name.split(".") for part in kept):
            parameter.data = parameter.data.to(load_types(config)["transformer"])
    settings = pipeline.transformer.config
    width = next(settings[name] for name in ("text_dim", "text_embed_dim", "caption_channels") if name in settings)
    empty = {"prompt_embeds": torch.empty(1, caption_length(pipeline), width)}
    if config.model == "ltx":
        empty["prompt_attention_mask"] = torch.empty(1, caption_length(pipeline), dtype=torch.bool)
    return GeneratorModel(pipeline, empty)


def generator_inputs(joint: GeneratorModel, config: TrainConfig) -> tuple[Tensor, Tensor]:
    """Latents (B, C, f, h, w) of a batch, and caption embeddings (B, L, D)."""
    clips, pipeline = config.generation_batch + config.reconstruction_batch, joint.pipeline
    per_step, pixels = pipeline._compression
    steps = 1 + (config.num_frames - 1) // per_step
    channels: Any = pipeline.transformer.config.in_channels
    latents = torch.zeros(clips, channels, steps, config.height // pixels, config.width // pixels)
    return latents, torch.zeros(clips, *joint.empty_embeds.shape)
