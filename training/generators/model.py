"""The two halves of a training step on a generator of diffusers: L_gen as it was trained, L_rec from a pass that stops early.

Letters: G generation clips, R reconstruction clips, C latent channels, F frames, f latent steps, h w latents, L caption tokens.
"""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from jog3r.models.feature_tap import FeatureTap
from jog3r.pipelines.reconstruction import noise_latents, num_train_timesteps
from jog3r.training.clips.step_batches import StepNoise
from jog3r.training.config import TrainConfig
from jog3r.training.joint_model import autocast, reconstruction_loss
from jog3r.training.losses import generation_loss

__all__ = ["GeneratorModel"]


class GeneratorModel(nn.Module):
    """Transformer and 3D head of a generator's pipeline, with the losses of one step as `forward`.

    Args:
        pipeline: `Jog3rWanPipeline` and the like; it arranges the transformer's arguments. Its other components are not trained.
        empty: the caption under which videos are read, as `pipeline.caption_of_videos()` gives it.
        transformer: the one of the pipeline's that the head reads; None is its only one.
    """

    text_encoder = None  # captions come as embeddings

    def __init__(self, pipeline: Any, empty: dict[str, Tensor], transformer: Any = None):
        super().__init__()
        self.pipeline = pipeline  # no module: its VAE and text encoder stay out of what is wrapped and saved
        self.transformer = pipeline.transformer if transformer is None else transformer
        self.pointmap_head = pipeline.pointmap_head
        self.register_buffer("empty_embeds", empty["prompt_embeds"][0].float(), persistent=False)  # (L, D)
        mask = empty.get("prompt_attention_mask")
        self.register_buffer("empty_mask", None if mask is None else mask[0], persistent=False)  # (L,)

    def forward(self, batch: dict[str, Tensor], draws: StepNoise, config: TrainConfig) -> dict[str, Tensor]:
        """Losses of one step, scalars: "generation" and "reconstruction", each only if its half is there."""
        losses = {}
        with autocast(config, batch["latents"].device):
            if config.generation_batch:
                losses["generation"] = self._generation(batch, draws, config.generation_batch)
            if config.reconstruction_batch:
                losses["reconstruction"] = self._reconstruction(batch, draws, config)
        return losses

    def _generation(self, batch: dict[str, Tensor], draws: StepNoise, count: int) -> Tensor:
        """Mean squared error over the first `count` clips."""
        scheduler, latents = self.pipeline.scheduler, batch["latents"][:count]  # (G, C, f, h, w)
        noise, times = draws.noise[:count], draws.timesteps[:count]
        noisy = noise_latents(scheduler, latents, noise, times)
        inputs = self.pipeline.transformer_inputs(noisy, times.float(), self._captions(batch, draws))
        sample = self.transformer(**inputs, return_dict=False)[0]
        prediction = self.pipeline.prediction(sample, latents)
        return generation_loss(prediction, latents, noise, times.long(), scheduler).mean()

    def _captions(self, batch: dict[str, Tensor], draws: StepNoise) -> dict[str, Tensor]:
        """Captions of the generation half, the empty one where a caption is dropped."""
        count = len(draws.drop_caption)
        dropped = draws.drop_caption[:, None]
        embeds = torch.where(dropped[..., None], self.empty_embeds, batch["caption_embeds"][:count])  # (G, L, D)
        if self.empty_mask is None:
            return {"prompt_embeds": embeds}
        mask = batch["caption_mask"][:count].to(self.empty_mask.dtype)
        return {"prompt_embeds": embeds, "prompt_attention_mask": torch.where(dropped, self.empty_mask, mask)}

    def _reconstruction(self, batch: dict[str, Tensor], draws: StepNoise, config: TrainConfig) -> Tensor:
        """DUSt3R's loss of the other clips; blocks behind the last one that the head reads are not run."""
        scheduler, start = self.pipeline.scheduler, config.generation_batch
        times = draws.timesteps[start:].float()
        noisy = noise_latents(scheduler, batch["latents"][start:], draws.noise[start:], times)
        inputs = self.pipeline.transformer_inputs(noisy, times, self._empty_caption(len(noisy)))
        head = self.pointmap_head
        frozen = not any(parameter.requires_grad for parameter in self.transformer.parameters())
        with torch.no_grad() if frozen else nullcontext(), FeatureTap(self.transformer, head.config.feature_layers, True) as tap:
            self.transformer(**inputs, return_dict=False)
        taps = [tokens.to(head.dtype) for tokens in tap.taps]
        level = times / num_train_timesteps(scheduler) if head.config.noise_embedding else None
        maps = head(taps, config.height, config.width, pairs=draws.pairs, noise_level=level)
        return reconstruction_loss(maps, batch, draws.pairs, config)

    def _empty_caption(self, clips: int) -> dict[str, Tensor]:
        given = {"prompt_embeds": self.empty_embeds.expand(clips, -1, -1)}
        if self.empty_mask is not None:
            given["prompt_attention_mask"] = self.empty_mask.expand(clips, -1)
        return given
