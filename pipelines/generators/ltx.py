"""LTX-Video with cameras. Letters: B clips, C latent channels, f latent steps in time, h w latents."""

from typing import Any

from diffusers import AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler, LTXPipeline, LTXVideoTransformer3DModel
from torch import Tensor
from transformers import T5EncoderModel, T5TokenizerFast

from jog3r.models.pointmap_head import Pointmap3DHead
from jog3r.models.registry import register_pipeline
from jog3r.pipelines.generators.mixin import GeneratorMixin, call_with_geometry


class Jog3rLTXPipeline(GeneratorMixin, LTXPipeline):
    """`LTXPipeline` with one more component, `pointmap_head`: text to video, with cameras, and video to cameras.

    Args:
        scheduler, vae, text_encoder, tokenizer, transformer: as `LTXPipeline`.
        pointmap_head: from features of the transformer to pointmaps; None: it makes videos, and no cameras.
    """

    model_cpu_offload_seq = f"{LTXPipeline.model_cpu_offload_seq}->pointmap_head"
    _optional_components = [*LTXPipeline._optional_components, "pointmap_head"]
    _guidance_in_batch = True

    def __init__(
        self,
        scheduler: FlowMatchEulerDiscreteScheduler,
        vae: AutoencoderKLLTXVideo,
        text_encoder: T5EncoderModel,
        tokenizer: T5TokenizerFast,
        transformer: LTXVideoTransformer3DModel,
        pointmap_head: Pointmap3DHead | None = None,
    ):
        super().__init__(scheduler, vae, text_encoder, tokenizer, transformer)
        self.register_modules(pointmap_head=pointmap_head)

    __call__ = call_with_geometry(LTXPipeline)
    fps = 25.0

    @property
    def _compression(self) -> tuple[int, int]:
        return self.vae_temporal_compression_ratio, self.vae_spatial_compression_ratio

    def _latents_shape(self, num_frames: int, height: int, width: int) -> tuple[int, ...]:
        *_, steps, rows, columns = super()._latents_shape(num_frames, height, width)
        together = self.transformer_temporal_patch_size * self.transformer_spatial_patch_size**2  # latents of a token
        return steps * rows * columns // together, self.transformer.config.in_channels

    def transformer_inputs(self, latents: Tensor, t: Tensor, given: dict[str, Any]) -> dict[str, Any]:
        """Noisy latents (B, C, f, h, w) at the time steps (B,) as the transformer's arguments; see `GeneratorMixin`."""
        model, (per_step, pixels) = self.transformer, self._compression
        texts, mask, *_ = self._caption(given, latents, prompt_attention_mask=given.get("prompt_attention_mask"))
        steps, height, width = latents.shape[-3:]
        packed = self._pack_latents(latents, self.transformer_spatial_patch_size, self.transformer_temporal_patch_size)
        return {
            "hidden_states": packed.to(model.dtype),
            "timestep": t,
            "encoder_hidden_states": texts.to(latents.device, model.dtype).expand(len(latents), -1, -1),
            "encoder_attention_mask": mask.to(latents.device).expand(len(latents), -1),
            "num_frames": steps,
            "height": height,
            "width": width,
            "rope_interpolation_scale": (per_step / given.get("frame_rate", 25), pixels, pixels),
            "attention_kwargs": given.get("attention_kwargs"),
        }

    def prediction(self, sample: Tensor, latents: Tensor) -> Tensor:
        """The transformer's packed tokens as (B, C, f, h, w)."""
        return self._unpack_latents(
            sample, *latents.shape[-3:], self.transformer_spatial_patch_size, self.transformer_temporal_patch_size
        )


register_pipeline(Jog3rLTXPipeline)
