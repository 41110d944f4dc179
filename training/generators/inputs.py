"""What each kind of model is trained on beside its clips: length of captions, time steps, and frames that become latents here."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jog3r.models.feature_tap import layout_of
from jog3r.pipelines.latents import encode_frames
from jog3r.training.clips.step_batches import Times
from jog3r.training.config import TrainConfig
from jog3r.training.generators.captions import caption_length
from jog3r.training.generators.options import GENERATORS
from jog3r.training.generators.time_steps import time_steps

__all__ = ["Inputs", "describe_inputs"]


@dataclass(frozen=True)
class Inputs:
    """Of one run.

    Attributes:
        caption_length: tokens that captions are padded to.
        times: the scheduler's number of time steps, or how else they are drawn.
        vae: of a generator that compresses time: it reads frames beside the training, where the stream gives no latents.
    """

    caption_length: int
    times: int | Times
    vae: Any = None

    def encode(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch, on its device, with latents (B, C, f, h, w) for its frames (B, F, 3, H, W)."""
        if self.vae is None or "frames" not in batch:
            return batch
        batch = dict(batch)
        frames, ready = batch.pop("frames"), batch.pop("has_latents", None)
        with torch.no_grad():
            latents = encode_frames(self.vae.to(frames.device), frames)
        if ready is None:
            return batch | {"latents": latents}
        together = latents.new_empty(len(ready), *latents.shape[1:])
        together[ready], together[~ready] = batch["latents"], latents
        return batch | {"latents": together}


def describe_inputs(pipeline: Any, config: TrainConfig) -> Inputs:
    """The inputs of what `config` trains, a pipeline that `build_model` has prepared."""
    if config.model in GENERATORS:
        (per_step, pixels), patch = pipeline._compression, layout_of(pipeline.transformer).patch(pipeline.transformer.config)
        steps = -(-(1 + (config.num_frames - 1) // per_step) // patch[0])
        tokens = steps * (config.height // (pixels * patch[1])) * (config.width // (pixels * patch[1]))
        return Inputs(caption_length(pipeline), time_steps(pipeline.scheduler, config, tokens), pipeline.vae)
    if config.model == "dust3r":
        return Inputs(1, 1)
    return Inputs(pipeline.transformer.config.max_caption_length, pipeline.scheduler.config.num_train_timesteps)
