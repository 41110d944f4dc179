"""Wan 2.1 and 2.2 with cameras. Letters: B clips, C latent channels, f latent steps in time, h w latents."""

from typing import Any

from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from torch import Tensor
from transformers import AutoTokenizer, UMT5EncoderModel

from jog3r.models.pointmap_head import Pointmap3DHead
from jog3r.models.registry import register_pipeline
from jog3r.pipelines.generators.mixin import GeneratorMixin, call_with_geometry


class Jog3rWanPipeline(GeneratorMixin, WanPipeline):
    """`WanPipeline` with one more component, `pointmap_head`: text to video, with cameras, and video to cameras.

    Args:
        tokenizer, text_encoder, vae, scheduler, transformer, transformer_2, boundary_ratio, expand_timesteps: as `WanPipeline`.
        pointmap_head: from features of the transformer to pointmaps; None: it makes videos, and no cameras.
    """

    model_cpu_offload_seq = f"{WanPipeline.model_cpu_offload_seq}->pointmap_head"
    _optional_components = [*WanPipeline._optional_components, "pointmap_head"]

    def __init__(  # noqa: PLR0913  # the parent's, which diffusers reads
        self,
        tokenizer: AutoTokenizer,
        text_encoder: UMT5EncoderModel,
        vae: AutoencoderKLWan,
        scheduler: FlowMatchEulerDiscreteScheduler,
        transformer: WanTransformer3DModel | None = None,
        transformer_2: WanTransformer3DModel | None = None,
        boundary_ratio: float | None = None,
        expand_timesteps: bool = False,
        pointmap_head: Pointmap3DHead | None = None,
    ):
        super().__init__(tokenizer, text_encoder, vae, scheduler, transformer, transformer_2, boundary_ratio, expand_timesteps)
        self.register_modules(pointmap_head=pointmap_head)

    __call__ = call_with_geometry(WanPipeline)

    @property
    def fps(self) -> float:
        """Frames per second of the videos that the model was trained on: 24 of Wan 2.2's small model, else 16."""
        return 24.0 if self.config.expand_timesteps else 16.0

    @property
    def _compression(self) -> tuple[int, int]:
        return self.vae_scale_factor_temporal, self.vae_scale_factor_spatial

    @property
    def main_transformer(self) -> Any:
        """The transformer whose sizes count; Wan 2.2's two have the same."""
        return self.transformer if self.transformer is not None else self.transformer_2

    def _transformer_at(self, timestep: float) -> Any:
        """Wan 2.2's second transformer denoises what lies below its boundary."""
        ratio = self.config.boundary_ratio
        if ratio is None or timestep >= ratio * self.scheduler.config.num_train_timesteps:
            return self.transformer
        return self.transformer_2

    def transformer_inputs(self, latents: Tensor, t: Tensor, given: dict[str, Any]) -> dict[str, Any]:
        """Noisy latents (B, C, f, h, w) at the time steps (B,) as the transformer's arguments; see `GeneratorMixin`."""
        # to read the number on a GPU takes a stop, which only models with two transformers need
        model = self.main_transformer if self.config.boundary_ratio is None else self._transformer_at(float(t[0]))
        texts, _ = self._caption(given, latents)
        if self.config.expand_timesteps:  # Wan 2.2 5B: a time step for every token
            _, p_h, p_w = model.config.patch_size
            tokens = latents.shape[2] * (latents.shape[3] // p_h) * (latents.shape[4] // p_w)
            t = t[:, None].expand(-1, tokens)
        return {
            "hidden_states": latents.to(model.dtype),
            "timestep": t,
            "encoder_hidden_states": texts.to(latents.device, model.dtype).expand(len(latents), -1, -1),
            "attention_kwargs": given.get("attention_kwargs"),
        }


register_pipeline(Jog3rWanPipeline)
