"""The two halves of a training step in one module: L_gen + lambda L_rec on one merged batch (paper section 3.3).

Letters: G generation clips, R reconstruction clips, B = G + R, F frames, P pairs, L caption tokens.
"""

from typing import Any

import torch
from torch import nn

from jog3r.geometry.pointmaps import pointmaps_in_first_camera
from jog3r.geometry.registration.threads import full_precision
from jog3r.pipelines.reconstruction import noise_latents
from jog3r.training.clips.step_batches import StepNoise
from jog3r.training.config import TrainConfig
from jog3r.training.losses import generation_loss, pointmap_loss


class JointModel(nn.Module):
    """Transformer, 3D head and text encoder, with the losses of one step as `forward`.

    One module, so that one wrapper of accelerate (DDP, FSDP) sees everything that is trained. Without a text encoder captions
    come as embeddings.
    """

    def __init__(self, transformer: Any, pointmap_head: Any, text_encoder: nn.Module | None, scheduler: Any):
        super().__init__()
        self.transformer = transformer
        self.pointmap_head = pointmap_head
        self.text_encoder = text_encoder
        self.scheduler = scheduler

    def forward(self, batch: dict[str, torch.Tensor], draws: StepNoise, config: TrainConfig) -> dict[str, torch.Tensor]:
        """Losses of one step, scalars: "generation" and "reconstruction", each only if its half is there."""
        with autocast(config, batch["latents"].device):
            return self._losses(batch, draws, config)

    def _losses(self, batch: dict[str, torch.Tensor], draws: StepNoise, config: TrainConfig) -> dict[str, torch.Tensor]:
        latents = batch["latents"]  # (B, C, F, h, w)
        captions, mask = self._captions(batch, draws)
        noisy = noise_latents(self.scheduler, latents, draws.noise, draws.timesteps)
        output = self.transformer(
            noisy,
            draws.timesteps,
            captions,
            mask,
            return_features=config.reconstruction_batch > 0,
            features_only=config.generation_batch == 0,
            num_features_only=config.reconstruction_batch,
        )
        losses = {}
        if config.generation_batch:
            count = config.generation_batch
            losses["generation"] = generation_loss(
                output.sample,
                latents[:count],
                draws.noise[:count],
                draws.timesteps[:count],
                self.scheduler,
                config.variational_bound,
            ).mean()
        if config.reconstruction_batch:
            features = output.features[config.generation_batch :]
            maps = self.pointmap_head(features, config.height, config.width, pairs=draws.pairs)
            losses["reconstruction"] = reconstruction_loss(maps, batch, draws.pairs, config)
        return losses

    def _captions(self, batch: dict[str, torch.Tensor], draws: StepNoise) -> tuple[torch.Tensor, torch.Tensor]:
        """Captions (B, L, D) and their mask (B, L): the empty caption for reconstruction, and where a caption is dropped."""
        empty = self.transformer.null_caption  # (L, D)
        positions = torch.arange(empty.shape[0], device=empty.device)
        mask = positions[None] < draws.null_length[:, None]  # (R, L)
        captions = empty.expand(mask.shape[0], -1, -1)  # (R, L, D)
        num_generation = draws.drop_caption.shape[0]
        if num_generation == 0:
            return captions, mask
        text_mask = batch["caption_mask"][:num_generation].bool()
        text = self._embed(batch, num_generation, text_mask)  # (G, L, D)
        text = torch.where(draws.drop_caption[:, None, None], empty.to(text.dtype), text)
        return torch.cat([text, captions.to(text.dtype)]), torch.cat([text_mask, mask])

    def _embed(self, batch: dict[str, torch.Tensor], count: int, mask: torch.Tensor) -> torch.Tensor:
        """Caption embeddings (count, L, D): the cache's, where there is no text encoder."""
        if self.text_encoder is None:
            return batch["caption_embeds"][:count]
        return self.text_encoder(input_ids=batch["caption_ids"][:count], attention_mask=mask).last_hidden_state


class ImageModel(nn.Module):
    """The DUSt3R baseline in place of transformer and head: the same data, pairs and loss, frames instead of latents."""

    def __init__(self, baseline: nn.Module):
        super().__init__()
        self.baseline = baseline

    def forward(self, batch: dict[str, torch.Tensor], draws: StepNoise, config: TrainConfig) -> dict[str, torch.Tensor]:
        """Losses of one step: "reconstruction", a scalar."""
        with autocast(config, batch["frames"].device):
            output = self.baseline(batch["frames"], draws.pairs)
        return {"reconstruction": reconstruction_loss(output, batch, draws.pairs, config)}


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """The run's precision, entered by the model itself: whoever calls it, wrapped by accelerate or not, computes the same."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.mixed_precision == "bf16")


def reconstruction_loss(output: Any, batch: dict[str, torch.Tensor], pairs: torch.Tensor, config: TrainConfig) -> torch.Tensor:
    """DUSt3R's loss, a scalar, over all pairs of the reconstruction clips: those behind the first `config.generation_batch`.

    Divided by `batch["valid_pixels"]` (2,) where it is given: the mean over all processes and micro-steps of the step.
    """
    start = config.generation_batch
    # In float32 whatever the model computes in: bf16 would move the true points by centimetres.
    with full_precision(output.pointmaps.device):
        depth, intrinsics, poses, valid = (batch[name][start:] for name in ("depth", "intrinsics", "poses", "valid"))
        truth = pointmaps_in_first_camera(depth, intrinsics, poses)  # (R, F, H, W, 3)
        return pointmap_loss(
            output.anchor_pointmaps.float().flatten(0, 1),  # (R*P, H, W, 3)
            output.anchor_confidence.float().flatten(0, 1),
            output.pointmaps.float().flatten(0, 1),
            output.confidence.float().flatten(0, 1),
            truth[:, pairs[:, 0]].flatten(0, 1),
            truth[:, pairs[:, 1]].flatten(0, 1),
            valid[:, pairs[:, 0]].flatten(0, 1),
            valid[:, pairs[:, 1]].flatten(0, 1),
            alpha=config.confidence_alpha,
            valid_pixels=batch.get("valid_pixels"),
        )
