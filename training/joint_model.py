"""The two halves of a training step in one module: L_gen + lambda L_rec on one merged batch (paper section 3.3).

Letters: G generation clips, R reconstruction clips, B = G + R, F frames, P pairs, L caption tokens.
"""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn

from jog3r.geometry.pointmaps import pointmaps_in_first_camera
from jog3r.training.config import TrainConfig
from jog3r.training.losses import add_training_noise, generation_loss, pointmap_loss


@dataclass
class StepNoise:
    """Everything random in one step, drawn from a generator that depends on (seed, step, process) alone.

    Resuming a run therefore needs no random state: step k draws the same numbers whenever it is run.
    """

    noise: torch.Tensor  # (B, C, F, h, w)
    timesteps: torch.Tensor  # (B,)
    drop_caption: torch.Tensor  # (G,) bool
    null_length: torch.Tensor  # (R,) tokens of the empty caption that the reconstruction half sees
    pairs: torch.Tensor  # (P, 2)

    def to(self, device: torch.device) -> "StepNoise":
        """The same draws on `device`; they are drawn on the CPU, so that they do not depend on the device."""
        return StepNoise(**{entry.name: getattr(self, entry.name).to(device) for entry in fields(self)})


def draw_step_noise(
    config: TrainConfig, step: int, process: int, latents: torch.Tensor, caption_length: int, num_train_timesteps: int
) -> StepNoise:
    """Draw the noise of one step for latents (B, C, F, h, w) whose first `config.generation_batch` clips are generation's."""
    generator = torch.Generator().manual_seed((config.seed * 1_000_003 + step) * 1_009 + process)
    num_generation = config.generation_batch
    num_reconstruction = latents.shape[0] - num_generation
    noise = torch.randn(latents.shape, generator=generator)
    timesteps = torch.cat(
        [
            torch.randint(num_train_timesteps, (num_generation,), generator=generator),
            torch.randint(config.max_reconstruction_timestep + 1, (num_reconstruction,), generator=generator),
        ]
    )
    drop_caption = torch.rand(num_generation, generator=generator) < config.caption_dropout
    # In sampling the unconditional half of guidance sees as many null tokens as the caption has, in V2C it sees all.
    null_length = torch.randint(caption_length // 4, 2 * caption_length, (num_reconstruction,), generator=generator)
    others = torch.randperm(max(1, config.num_frames - 1), generator=generator)[: config.pairs_per_clip].sort().values + 1
    pairs = torch.stack([torch.zeros_like(others), others], dim=-1)
    return StepNoise(noise, timesteps, drop_caption, null_length.clamp(max=caption_length), pairs)


class JointModel(nn.Module):
    """Transformer, 3D head and (while it is trained, too) text encoder, with the losses of one step as `forward`.

    One module, so that one wrapper of accelerate (DDP, FSDP) sees everything that is trained.
    """

    def __init__(self, transformer: nn.Module, pointmap_head: nn.Module, text_encoder: nn.Module, scheduler: Any):
        super().__init__()
        self.transformer = transformer
        self.pointmap_head = pointmap_head
        self.text_encoder = text_encoder
        self.scheduler = scheduler

    def forward(self, batch: dict[str, torch.Tensor], draws: StepNoise, config: TrainConfig) -> dict[str, torch.Tensor]:
        """Losses of one step, scalars: "generation" and "reconstruction", each only if its half is there."""
        latents = batch["latents"]  # (B, C, F, h, w)
        captions, mask = self._captions(batch, draws)
        noisy = add_training_noise(latents, draws.noise, draws.timesteps, self.scheduler)
        output = self.transformer(
            noisy,
            draws.timesteps,
            captions,
            mask,
            return_features=config.reconstruction_batch > 0,
            features_only=config.generation_batch == 0,
            num_features_only=latents.shape[0] - config.generation_batch if config.generation_batch else 0,
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
        """Captions (B, L, D) and mask (B, L): text for the generation half, the empty caption for the other."""
        null = self.transformer.null_caption[None]  # (1, L, D)
        num_generation, num_reconstruction = draws.drop_caption.shape[0], draws.null_length.shape[0]
        parts, masks = [], []
        if num_generation:
            mask = batch["caption_mask"][:num_generation]
            text = self._embed(batch, num_generation, mask)
            parts.append(torch.where(draws.drop_caption[:, None, None], null.to(text.dtype), text))
            masks.append(mask.bool())
        if num_reconstruction:
            parts.append(null.expand(num_reconstruction, -1, -1))
            masks.append(torch.arange(null.shape[1], device=null.device)[None] < draws.null_length[:, None])
        return torch.cat(parts), torch.cat(masks)

    def _embed(self, batch: dict[str, torch.Tensor], count: int, mask: torch.Tensor) -> torch.Tensor:
        """Caption embeddings (count, L, D): the cache's, where the text encoder is frozen and there is a cache."""
        trained = any(parameter.requires_grad for parameter in self.text_encoder.parameters())
        if "caption_embeds" in batch and not trained:
            return batch["caption_embeds"][:count]
        return self.text_encoder(input_ids=batch["caption_ids"][:count], attention_mask=mask).last_hidden_state


class ImageModel(nn.Module):
    """The DUSt3R baseline in place of transformer and head: the same data, pairs and loss, frames instead of latents."""

    def __init__(self, baseline: nn.Module):
        super().__init__()
        self.baseline = baseline

    def forward(self, batch: dict[str, torch.Tensor], draws: StepNoise, config: TrainConfig) -> dict[str, torch.Tensor]:
        """Losses of one step: "reconstruction", a scalar."""
        return {"reconstruction": reconstruction_loss(self.baseline(batch["frames"], draws.pairs), batch, draws.pairs, config)}


def reconstruction_loss(output: Any, batch: dict[str, torch.Tensor], pairs: torch.Tensor, config: TrainConfig) -> torch.Tensor:
    """DUSt3R's loss, a scalar, over all pairs of the reconstruction clips: those behind the first `config.generation_batch`."""
    start = config.generation_batch
    truth = pointmaps_in_first_camera(batch["depth"], batch["intrinsics"], batch["poses"])[start:]  # (R, F, H, W, 3)
    valid = batch["valid"][start:]
    return pointmap_loss(
        output.anchor_pointmaps.flatten(0, 1),  # (R*P, H, W, 3)
        output.anchor_confidence.flatten(0, 1),
        output.pointmaps.flatten(0, 1),
        output.confidence.flatten(0, 1),
        truth[:, pairs[:, 0]].flatten(0, 1),
        truth[:, pairs[:, 1]].flatten(0, 1),
        valid[:, pairs[:, 0]].flatten(0, 1),
        valid[:, pairs[:, 1]].flatten(0, 1),
        alpha=config.confidence_alpha,
    )


def select_trainable(joint: JointModel | ImageModel, config: TrainConfig) -> list[tuple[str, nn.Parameter]]:
    """Freeze what the configuration freezes; return the trained parameters by name.

    `temporal` is the paper's choice: the temporal attention of all blocks but the first `frozen_blocks`, and the head.
    """
    if isinstance(joint, ImageModel):
        return list(joint.named_parameters())
    joint.requires_grad_(False)
    joint.text_encoder.requires_grad_(config.train_text_encoder)
    joint.pointmap_head.requires_grad_(config.reconstruction_batch > 0)
    if config.trainable == "all":
        joint.transformer.requires_grad_(True)
        if not config.generation_batch:  # blocks behind the tap get no gradient: leave them out of the optimizer
            for block in joint.transformer.transformer_blocks[joint.transformer.config.feature_layer :]:
                block.requires_grad_(False)
            joint.transformer.proj_out.requires_grad_(False)
            joint.transformer.scale_shift_table.requires_grad_(False)
    elif config.trainable == "temporal":
        for block in joint.transformer.transformer_blocks[config.frozen_blocks :]:
            block.temporal_attn.requires_grad_(True)
    return [(name, parameter) for name, parameter in joint.named_parameters() if parameter.requires_grad]
