"""CogVideoX and CogVideoX 1.5 with cameras. Letters: B clips, C latent channels, f latent steps in time, h w latents."""

import math
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from torch import Tensor
from transformers import T5EncoderModel, T5Tokenizer

from jog3r.models.pointmap_head import Pointmap3DHead
from jog3r.models.registry import register_pipeline
from jog3r.pipelines.generators.mixin import GeneratorMixin, call_with_geometry

_DECODED_TOGETHER = 2  # latent steps; of an even number of them the VAE makes four frames of the first, too


class Jog3rCogVideoXPipeline(GeneratorMixin, CogVideoXPipeline):
    """`CogVideoXPipeline` with one more component, `pointmap_head`: text to video, with cameras, and video to cameras.

    Args:
        tokenizer, text_encoder, vae, transformer, scheduler: as `CogVideoXPipeline`.
        pointmap_head: from features of the transformer to pointmaps; None: it makes videos, and no cameras.
    """

    model_cpu_offload_seq = f"{CogVideoXPipeline.model_cpu_offload_seq}->pointmap_head"
    _optional_components = [*CogVideoXPipeline._optional_components, "pointmap_head"]
    _guidance_in_batch = True

    def __init__(
        self,
        tokenizer: T5Tokenizer,
        text_encoder: T5EncoderModel,
        vae: AutoencoderKLCogVideoX,
        transformer: CogVideoXTransformer3DModel,
        scheduler: CogVideoXDDIMScheduler | CogVideoXDPMScheduler,
        pointmap_head: Pointmap3DHead | None = None,
    ):
        super().__init__(tokenizer, text_encoder, vae, transformer, scheduler)
        self.register_modules(pointmap_head=pointmap_head)

    __call__ = call_with_geometry(CogVideoXPipeline)

    @property
    def _compression(self) -> tuple[int, int]:
        return self.vae_scale_factor_temporal, self.vae_scale_factor_spatial

    @property
    def fps(self) -> float:
        """Frames per second of the videos that the model was trained on; CogVideoX 1.5, which joins latent steps, saw 16."""
        return 8.0 if self.transformer.config.patch_size_t is None else 16.0

    @property
    def frame_multiple(self) -> int:
        """Numbers of frames are 1 more than a multiple of this."""
        return math.lcm(self.frames_per_step, _DECODED_TOGETHER * self._compression[0])

    def output_size(self, num_frames: int | None, height: int | None, width: int | None) -> tuple[int, int, int]:
        """Frames, height and width to generate: what is given, else what the transformer was made for."""
        config, factor = self.transformer.config, self.vae_scale_factor_spatial
        return (
            config.sample_frames if num_frames is None else num_frames,
            config.sample_height * factor if height is None else height,
            config.sample_width * factor if width is None else width,
        )

    def _latents_shape(self, num_frames: int, height: int, width: int) -> tuple[int, ...]:
        channels, steps, rows, columns = super()._latents_shape(num_frames, height, width)
        return steps + -steps % (self.transformer.config.patch_size_t or 1), channels, rows, columns

    def transformer_inputs(self, latents: Tensor, t: Tensor, given: dict[str, Any]) -> dict[str, Any]:
        """Noisy latents (B, C, f, h, w) at the time steps (B,) as the transformer's arguments; see `GeneratorMixin`."""
        model = self.transformer
        texts, _ = self._caption(given, latents)
        latents = latents.transpose(1, 2).to(model.dtype)  # (B, f, C, h, w)
        together = model.config.patch_size_t or 1
        if missing := -latents.shape[1] % together:  # the first token is frame 0, as where the pipeline generates
            latents = torch.cat([latents[:, :missing], latents], dim=1)
        height, width = (side * self.vae_scale_factor_spatial for side in latents.shape[-2:])
        rotary = None
        if model.config.use_rotary_positional_embeddings:
            rotary = self._prepare_rotary_positional_embeddings(height, width, latents.shape[1], latents.device)
        return {
            "hidden_states": latents,
            "timestep": t.round().long(),
            "encoder_hidden_states": texts.to(latents.device, model.dtype).expand(len(latents), -1, -1),
            "image_rotary_emb": rotary,
            "attention_kwargs": given.get("attention_kwargs"),
        }

    def prediction(self, sample: Tensor, latents: Tensor) -> Tensor:
        """The transformer's (B, f, C, h, w) as (B, C, f, h, w), without what `transformer_inputs` put in front."""
        return sample[:, -latents.shape[2] :].transpose(1, 2)


register_pipeline(Jog3rCogVideoXPipeline)
