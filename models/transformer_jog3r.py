"""The video transformer of JOG3R: OpenSora 1.0's STDiT with a feature tap (arXiv 2501.01409, section 3.1).

Letters: B clips, F frames, h w latent grid, p patch size, N = h/p * w/p tokens a frame, L caption tokens, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention import AttentionMixin
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.embeddings import PixArtAlphaTextProjection, TimestepEmbedding
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import apply_lora_scale
from torch import nn

from jog3r.models.feature_tap import check_layers
from jog3r.models.layers import (
    Attention,
    FeedForward,
    PositionTable,
    TimestepProjection,
    fuse_features,
    grid_positions,
    modulate,
)
from jog3r.models.saving import ModelSavingMixin


@dataclass
class Jog3rTransformer3DModelOutput(Transformer2DModelOutput):
    """Output of `Jog3rTransformer3DModel`.

    Args:
        sample (B, out_channels, F, h, w): prediction in the first `in_channels` channels, learned variance in the others if
            there are any; None when the call asked for features only.
        features (B, F, N, D): tokens after block `feature_layer`, or the fusion of those after `feature_layers`; None when not
            asked for.
    """

    sample: torch.Tensor | None = None  # type: ignore[assignment]  # None with features_only
    features: torch.Tensor | None = None


class Jog3rTransformerBlock(nn.Module):
    """Spatial self-attention, temporal self-attention, caption cross-attention, MLP, with adaLN-single modulation.

    As in OpenSora 1.0 temporal and cross-attention read the raw residual stream (no norm), and temporal attention shares the
    gate of spatial attention.
    """

    def __init__(self, dim: int, num_attention_heads: int, mlp_ratio: float, qk_norm: str | None, norm_eps: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps, elementwise_affine=False)
        self.spatial_attn = Attention(dim, num_attention_heads, qk_norm=qk_norm)
        self.temporal_attn = Attention(dim, num_attention_heads, qk_norm=qk_norm)
        self.cross_attn = Attention(dim, num_attention_heads, qk_norm=qk_norm, is_cross_attention=True)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps, elementwise_affine=False)
        self.mlp = FeedForward(dim, int(dim * mlp_ratio), approximate="tanh")
        self.scale_shift_table = nn.Parameter(torch.randn(6, dim) / dim**0.5)

    def forward(
        self,
        hidden_states: torch.Tensor,  # (B, F, N, D)
        captions: torch.Tensor,  # (B, L, D)
        caption_mask: torch.Tensor | None,  # (B, L) bool
        modulation: torch.Tensor,  # (B, 6, D)
        temporal_position: torch.Tensor,  # (F, D), zero in all blocks but the first
    ) -> torch.Tensor:
        """(B, F, N, D) -> (B, F, N, D)."""
        batch_size, num_frames, num_tokens, _ = hidden_states.shape
        table = (self.scale_shift_table + modulation)[:, :, None, None]  # (B, 6, 1, 1, D)
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = table.unbind(1)  # (B, 1, 1, D) each

        # 1. spatial: the tokens of one frame see each other
        spatial = modulate(self.norm1(hidden_states), shift_msa, scale_msa).flatten(0, 1)  # (B*F, N, D)
        spatial = self.spatial_attn(spatial).unflatten(0, (batch_size, num_frames))  # (B, F, N, D)
        hidden_states = torch.addcmul(hidden_states, gate_msa, spatial)

        # 2. temporal: one place sees itself in all frames; the position is added to the input, not to the stream
        temporal = (hidden_states + temporal_position[:, None]).transpose(1, 2).flatten(0, 1)  # (B*N, F, D)
        temporal = self.temporal_attn(temporal).unflatten(0, (batch_size, num_tokens)).transpose(1, 2)  # (B, F, N, D)
        hidden_states = torch.addcmul(hidden_states, gate_msa, temporal)

        # 3. caption
        key_value = self.cross_attn.project_key_value(captions)  # (B, L, H, head_dim) each
        cross = self.cross_attn(hidden_states.flatten(1, 2), key_value, caption_mask)  # (B, F*N, D)
        hidden_states = hidden_states + cross.unflatten(1, (num_frames, num_tokens))

        # 4. MLP
        mlp = self.mlp(modulate(self.norm2(hidden_states), shift_mlp, scale_mlp))
        return torch.addcmul(hidden_states, gate_mlp, mlp)


class Jog3rTransformer3DModel(ModelSavingMixin, ModelMixin, ConfigMixin, AttentionMixin, PeftAdapterMixin, CacheMixin):
    """OpenSora 1.0's STDiT as a diffusers model, with the tapped features that JOG3R's 3D head reads.

    The defaults are the paper's full size (STDiT-XL/2). `null_caption`, the unconditional caption of guidance, is a buffer as
    in OpenSora: saved with the weights, never trained.

    Args:
        in_channels: latent channels.
        out_channels: `in_channels`, or twice that for a learned variance.
        num_layers: number of blocks.
        num_attention_heads, attention_head_dim: their product is the width.
        patch_size: side of a token in latent pixels.
        sample_size: usual latent height and width; others work, too.
        num_frames: usual number of frames; others work, too.
        caption_channels, max_caption_length: of the text embeddings.
        space_scale, time_scale: divide the positions (OpenSora: 0.5 at 256 pixels, 1.0 at 512 pixels).
        feature_layer: the features are the output of this block, counted from 1.
        feature_layers: several blocks, the last of them `feature_layer`, whose outputs are fused: each is normalised, then they
            are summed with learned weights that add up to 1 (as ELMo does, arXiv 1802.05365). None = `feature_layer` alone.
        mlp_ratio: width of the MLP's hidden layer over the model's.
        qk_norm: None (OpenSora), "rms_norm" or "layer_norm".
        norm_eps: of the layer norms.
    """

    about = "The video transformer (OpenSora 1.0's STDiT): denoises latents, and hands out features for the 3D head."
    _supports_gradient_checkpointing = True
    _no_split_modules = ["Jog3rTransformerBlock"]
    _repeated_blocks = ["Jog3rTransformerBlock"]
    _skip_layerwise_casting_patterns = ["patch_embed", "norm", "scale_shift_table", "null_caption", "feature_weights"]

    @register_to_config
    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 8,
        num_layers: int = 28,
        num_attention_heads: int = 16,
        attention_head_dim: int = 72,
        patch_size: int = 2,
        sample_size: int = 32,
        num_frames: int = 16,
        caption_channels: int = 4096,
        max_caption_length: int = 120,
        space_scale: float = 0.5,
        time_scale: float = 1.0,
        feature_layer: int = 26,
        mlp_ratio: float = 4.0,
        qk_norm: str | None = None,
        norm_eps: float = 1e-6,
        feature_layers: list[int] | None = None,
    ):
        super().__init__()
        check_layers([feature_layer] if feature_layers is None else feature_layers, num_layers)
        if feature_layers is not None and feature_layers[-1] != feature_layer:
            raise ValueError(f"feature_layer must be the last of feature_layers={list(feature_layers)}, got {feature_layer}")
        if out_channels not in (in_channels, 2 * in_channels):
            raise ValueError(
                f"out_channels must be in_channels={in_channels} or twice that (learned variance), got {out_channels}"
            )
        dim = num_attention_heads * attention_head_dim
        if dim % 4:
            raise ValueError(f"the width {dim} (heads x head_dim) must be divisible by 4 for the position embedding")

        # 1. embeddings
        self.patch_embed = nn.Conv2d(in_channels, dim, kernel_size=patch_size, stride=patch_size)
        self.spatial_positions = PositionTable(dim // 2, space_scale)
        self.temporal_positions = PositionTable(dim, time_scale)
        self.time_proj = TimestepProjection(256)
        self.timestep_embedder = TimestepEmbedding(256, dim)
        self.timestep_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.caption_projection = PixArtAlphaTextProjection(caption_channels, dim)
        self.register_buffer("null_caption", torch.randn(max_caption_length, caption_channels) / caption_channels**0.5)
        # 2. blocks
        self.transformer_blocks = nn.ModuleList(
            [Jog3rTransformerBlock(dim, num_attention_heads, mlp_ratio, qk_norm, norm_eps) for _ in range(num_layers)]
        )
        # 3. output
        num_taps = 1 if feature_layers is None else len(feature_layers)
        self.feature_weights = nn.Parameter(torch.zeros(num_taps)) if num_taps > 1 else None  # softmax: equal shares
        self.norm_out = nn.LayerNorm(dim, eps=norm_eps, elementwise_affine=False)
        self.scale_shift_table = nn.Parameter(torch.randn(2, dim) / dim**0.5)
        self.proj_out = nn.Linear(dim, patch_size**2 * out_channels)

        self.gradient_checkpointing = False
        self._initialize_weights()

    def _initialize_weights(self) -> None:
        """Every block starts as an image block without caption: temporal, caption and output projections are zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embed.weight.view(self.patch_embed.weight.shape[0], -1))
        for linear in (self.timestep_embedder.linear_1, self.timestep_embedder.linear_2, self.timestep_modulation[1]):
            nn.init.normal_(linear.weight, std=0.02)
        for linear in (self.caption_projection.linear_1, self.caption_projection.linear_2):
            nn.init.normal_(linear.weight, std=0.02)
        for block in self.transformer_blocks:
            nn.init.zeros_(block.temporal_attn.to_out.weight)
            nn.init.zeros_(block.cross_attn.to_out.weight)
        nn.init.zeros_(self.proj_out.weight)

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.config.num_attention_heads * self.config.attention_head_dim

    @property
    def feature_layers(self) -> list[int]:
        """The tapped blocks, counted from 1, in order; one or several."""
        return list(self.config.feature_layers or [self.config.feature_layer])

    def set_feature_layers(self, layers: Sequence[int]) -> None:
        """Tap other blocks from now on, in this object and in what it saves; several are fused, at first in equal shares.

        Raises:
            ValueError: for blocks that are not there or not in ascending order.
        """
        layers = [int(layer) for layer in layers]
        check_layers(layers, self.config.num_layers)
        if layers == self.feature_layers:
            return  # keep what the fusion has learned
        several = len(layers) > 1
        self.register_to_config(feature_layer=layers[-1], feature_layers=layers if several else None)
        self.feature_weights = nn.Parameter(self.scale_shift_table.new_zeros(len(layers))) if several else None

    @classmethod
    def from_single_file(cls, path: str, **config: Any) -> "Jog3rTransformer3DModel":
        """Read an original OpenSora 1.0 checkpoint; see `jog3r.models.conversion.convert.inspect_opensora`."""
        from jog3r.models.conversion.convert import inspect_opensora

        model: Any = inspect_opensora(cls, path, **config).load()
        return model

    def enable_cache(self, config: Any) -> None:
        """Switch one of diffusers' step caches on. Cached steps have no true features: do not tap them."""
        from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry

        TransformerBlockRegistry.register(  # here and not at import: registering loads every transformer of diffusers
            Jog3rTransformerBlock, TransformerBlockMetadata(return_hidden_states_index=0)
        )
        super().enable_cache(config)

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: torch.Tensor,  # (B, in_channels, F, h, w)
        timestep: torch.Tensor,  # (B,), 0 .. 999
        encoder_hidden_states: torch.Tensor,  # (B, L, caption_channels)
        encoder_attention_mask: torch.Tensor | None = None,  # (B, L)
        return_features: bool = False,
        features_only: bool = False,
        num_features_only: int = 0,
        attention_kwargs: dict[str, Any] | None = None,  # noqa: ARG002  # read by the decorator (LoRA scale)
        return_dict: bool = True,
    ) -> Jog3rTransformer3DModelOutput | tuple:
        """Predict the noise of a latent video and, on request, hand out the tapped features.

        Args:
            hidden_states (B, in_channels, F, h, w): noisy latents; h and w divisible by `patch_size`.
            timestep (B,): noise level in steps of the training schedule.
            encoder_hidden_states (B, L, caption_channels): caption embeddings.
            encoder_attention_mask (B, L): true or 1 where a caption token counts; None = all do.
            return_features: also return the output of block `feature_layer`.
            features_only: stop after block `feature_layer`; `.sample` is None.
            num_features_only: the last so many clips of the batch stop after block `feature_layer` (joint training: the
                reconstruction half pays nothing for the generation branch); `.sample` then has that many rows fewer.
            attention_kwargs: `{"scale": float}` scales LoRA layers.
            return_dict: False gives the tuple (sample, features) without what is None.

        Raises:
            ValueError: for latents or captions of another shape, or where no clip is left to denoise.
        """
        self._check_inputs(hidden_states, encoder_hidden_states, 0 if features_only else num_features_only)
        batch_size, _, num_frames, height, width = hidden_states.shape
        grid = (height // self.config.patch_size, width // self.config.patch_size)

        # 1. embeddings
        hidden_states = self.patch_embed(hidden_states.transpose(1, 2).flatten(0, 1))  # (B*F, D, h/p, w/p)
        hidden_states = hidden_states.flatten(2).transpose(1, 2).contiguous()  # (B*F, N, D); else all blocks keep odd strides
        hidden_states = hidden_states.unflatten(0, (batch_size, num_frames))  # (B, F, N, D)
        device, dtype = hidden_states.device, hidden_states.dtype
        hidden_states = hidden_states + grid_positions(self.spatial_positions, *grid, device).to(dtype)
        temporal_position = self.temporal_positions(num_frames, device).to(dtype)  # (F, D)
        timestep = timestep.expand(batch_size) if timestep.ndim == 0 else timestep
        embedded_timestep = self.timestep_embedder(self.time_proj(timestep).to(dtype))  # (B, D)
        modulation = self.timestep_modulation(embedded_timestep).unflatten(-1, (6, -1))  # (B, 6, D)
        captions = self.caption_projection(encoder_hidden_states)  # (B, L, D)
        mask = None if encoder_attention_mask is None else encoder_attention_mask.bool()

        # 2. blocks; clips that are here for their features leave behind the last tap
        tapped = self.feature_layers if return_features or features_only else []
        rest = slice(batch_size - num_features_only)
        taps = []
        for number, block in enumerate(self.transformer_blocks, start=1):
            hidden_states = self._run_block(block, hidden_states, captions, mask, modulation, temporal_position)
            if number in tapped:
                taps.append(hidden_states)
            if number == self.config.feature_layer:
                if features_only:
                    break
                hidden_states, captions, modulation = hidden_states[rest], captions[rest], modulation[rest]
                mask = None if mask is None else mask[rest]
            if number == 1:  # as in OpenSora the first block alone gets the position
                temporal_position = torch.zeros_like(temporal_position)
        features = self._fuse(taps) if taps else None

        # 3. output
        sample = None if features_only else self._project_out(hidden_states, embedded_timestep[rest], grid)
        if not return_dict:
            return tuple(value for value in (sample, features) if value is not None)
        return Jog3rTransformer3DModelOutput(sample=sample, features=features)

    def _check_inputs(self, hidden_states: torch.Tensor, captions: torch.Tensor, num_features_only: int) -> None:
        if hidden_states.ndim != 5 or hidden_states.shape[1] != self.config.in_channels:
            raise ValueError(f"latents must be (B, {self.config.in_channels}, F, h, w), got {tuple(hidden_states.shape)}")
        if hidden_states.shape[3] % self.config.patch_size or hidden_states.shape[4] % self.config.patch_size:
            raise ValueError(
                f"latent size {tuple(hidden_states.shape[3:])} must be a multiple of patch_size={self.config.patch_size}"
            )
        if captions.ndim != 3 or captions.shape[-1] != self.config.caption_channels:
            raise ValueError(f"captions must be (B, L, {self.config.caption_channels}), got {tuple(captions.shape)}")
        if captions.shape[0] != hidden_states.shape[0]:
            raise ValueError(f"{hidden_states.shape[0]} clips came with {captions.shape[0]} captions")
        if not 0 <= num_features_only < hidden_states.shape[0]:
            raise ValueError(
                f"num_features_only must lie in 0..{hidden_states.shape[0] - 1}, got {num_features_only}; "
                "features_only=True is for all clips"
            )

    def _fuse(self, taps: list[torch.Tensor]) -> torch.Tensor:
        """Outputs (B, F, N, D) of the tapped blocks -> features (B, F, N, D)."""
        if self.feature_weights is None:
            return taps[0]
        return fuse_features(taps, self.feature_weights, self.config.norm_eps)

    def _run_block(self, block: nn.Module, *arguments: Any) -> torch.Tensor:
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(block, *arguments)
        return block(*arguments)

    def _project_out(self, hidden_states: torch.Tensor, embedded_timestep: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Tokens (B, F, N, D) -> (B, out_channels, F, h, w)."""
        patch = self.config.patch_size
        tokens = self.norm_out(hidden_states)
        table = self.scale_shift_table + embedded_timestep[:, None].to(self.scale_shift_table.device)  # (B, 2, D)
        # parts may lie on several devices (device_map)
        shift, scale = table.to(tokens.device)[:, :, None, None].unbind(1)  # (B, 1, 1, D)
        tokens = self.proj_out(modulate(tokens, shift, scale))  # (B, F, N, p*p*C)
        tokens = tokens.unflatten(-1, (patch, patch, -1)).unflatten(2, grid)  # (B, F, h/p, w/p, p, p, C)
        return tokens.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)  # (B, C, F, h, w)
