"""The video transformer of JOG3R: OpenSora 1.0's STDiT with a feature tap (arXiv 2501.01409, section 3.1).

Letters: B clips, F frames, h w latent grid, p patch size, N = h/p * w/p tokens a frame, U captions, L caption tokens, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention import AttentionMixin
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.embeddings import PixArtAlphaTextProjection, TimestepEmbedding
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import apply_lora_scale
from torch import nn

from jog3r.models.layers import (
    Attention,
    FeedForward,
    TimestepProjection,
    modulate,
    spatial_position_embedding,
    temporal_position_embedding,
)
from jog3r.models.registry import register_with_diffusers


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


@dataclass
class CaptionSlot:
    """Keys and values that one block makes of the captions: empty until it has run.

    The block itself fills it, as hooks that offload blocks load their weights for the block's own call alone.
    """

    key_value: tuple[torch.Tensor, torch.Tensor] | None = None  # (U, L, H, head_dim) each


@dataclass
class CaptionCache:
    """Keys and values of one caption batch for every block: filled by the first call it is given to, read by the next.

    Captions do not change between denoising steps. Deliberately no mapping: accelerate's offload hooks rebuild mappings.
    """

    slots: list[CaptionSlot] = field(default_factory=list)  # per block


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
        captions: torch.Tensor | None,  # (U, L, D); None: the slot is filled
        caption_mask: torch.Tensor | None,  # (B, L) bool
        modulation: torch.Tensor,  # (B, 6, D)
        temporal_position: torch.Tensor | None = None,  # (F, D), first block only
        caption_index: torch.Tensor | None = None,  # (B,) which of the U captions a clip has; None: U = B, each its own
        caption_slot: CaptionSlot | None = None,  # read, or filled if it is empty
        frames: torch.Tensor | None = None,  # (K,) the frames that leave the block, having seen all; None: all leave
    ) -> torch.Tensor:
        """(B, F, N, D) -> (B, F, N, D), or (B, K, N, D) with `frames`."""
        batch_size, num_frames, num_tokens, _ = hidden_states.shape
        table = (self.scale_shift_table + modulation)[:, :, None, None]  # (B, 6, 1, 1, D)
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = table.unbind(1)  # (B, 1, 1, D) each

        # 1. spatial: the tokens of one frame see each other
        spatial = modulate(self.norm1(hidden_states), shift_msa, scale_msa).flatten(0, 1)  # (B*F, N, D)
        spatial = self.spatial_attn(spatial).unflatten(0, (batch_size, num_frames))  # (B, F, N, D)
        hidden_states = torch.addcmul(hidden_states, gate_msa, spatial)

        # 2. temporal: one place sees itself in all frames; the position is added to the input, not to the stream
        temporal = hidden_states if temporal_position is None else hidden_states + temporal_position[:, None]
        temporal = temporal.transpose(1, 2).flatten(0, 1)  # (B*N, F, D)
        seen = None
        if frames is not None:
            seen = self.temporal_attn.project_key_value(temporal)
            temporal, hidden_states = temporal.index_select(1, frames), hidden_states.index_select(1, frames)
            num_frames = len(frames)
        temporal = self.temporal_attn(temporal, seen)  # (B*N, F, D)
        temporal = temporal.unflatten(0, (batch_size, num_tokens)).transpose(1, 2)  # (B, F, N, D)
        hidden_states = torch.addcmul(hidden_states, gate_msa, temporal)

        # 3. caption; projected once, however many clips share it
        key_value = None if caption_slot is None else caption_slot.key_value
        key, value = self.cross_attn.project_key_value(captions) if key_value is None else key_value
        if caption_slot is not None:
            caption_slot.key_value = (key, value)
        if caption_index is not None:
            key, value = key[caption_index], value[caption_index]  # (B, L, H, head_dim)
        cross = self.cross_attn(hidden_states.flatten(1, 2), (key, value), caption_mask)  # (B, F*N, D)
        hidden_states = hidden_states + cross.unflatten(1, (num_frames, num_tokens))

        # 4. MLP
        mlp = self.mlp(modulate(self.norm2(hidden_states), shift_mlp, scale_mlp))
        return torch.addcmul(hidden_states, gate_mlp, mlp)


@dataclass
class _Conditions:
    """What blocks get beside the tokens, for the whole batch."""

    captions: torch.Tensor | None  # (U, L, D)
    slots: list[CaptionSlot] | None  # per block
    mask: torch.Tensor | None  # (B, L) bool
    modulation: torch.Tensor  # (B, 6, D)
    temporal_position: torch.Tensor  # (F, D)
    caption_index: torch.Tensor | None  # (B,)

    def of(self, block: int, clips: slice) -> tuple[Any, ...]:
        """Arguments of block number `block`, counted from 0, for a part of the clips."""
        captions, index = self.captions, self.caption_index
        return (
            captions[clips] if captions is not None and index is None else captions,
            None if self.mask is None else self.mask[clips],
            self.modulation[clips],
            self.temporal_position if block == 0 else None,
            None if index is None else index[clips],
            None if self.slots is None else self.slots[block],
        )


class Jog3rTransformer3DModel(ModelMixin, ConfigMixin, AttentionMixin, PeftAdapterMixin, CacheMixin):
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
        _check_feature_layers([feature_layer] if feature_layers is None else feature_layers, num_layers)
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
        self._positions: dict[tuple, tuple[torch.Tensor, torch.Tensor]] = {}
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
        _check_feature_layers(layers, self.config.num_layers)
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
        feature_frames: torch.Tensor | None = None,
        caption_cache: CaptionCache | None = None,
        caption_index: torch.Tensor | None = None,
        attention_kwargs: dict[str, Any] | None = None,  # noqa: ARG002  # read by the decorator (LoRA scale)
        return_dict: bool = True,
    ) -> Jog3rTransformer3DModelOutput | tuple:
        """Predict the noise of a latent video and, on request, hand out the tapped features.

        Args:
            hidden_states (B, in_channels, F, h, w): noisy latents; h and w divisible by `patch_size`.
            timestep (B,): noise level in steps of the training schedule.
            encoder_hidden_states (B, L, caption_channels): caption embeddings; (U, L, caption_channels) with `caption_index`.
            encoder_attention_mask (B, L): true or 1 where a caption token counts; None = all do.
            return_features: also return the output of block `feature_layer`.
            features_only: stop after block `feature_layer`; `.sample` is None.
            num_features_only: the last so many clips of the batch stop after block `feature_layer` (joint training: the
                reconstruction half pays nothing for the generation branch); `.sample` then has that many rows fewer.
            feature_frames (K,): frames whose features are wanted, of the clips that are here for their features alone; the last
                tapped block then does for these frames only what follows temporal attention, and `.features` is
                (those clips, K, N, D).
            caption_cache: reuse of the captions' keys and values between calls with the same captions.
            caption_index (B,): which of the U captions each clip has, so that one that many clips share, such as the empty
                caption, is projected once; None: U = B, each clip its own.
            attention_kwargs: `{"scale": float}` scales LoRA layers.
            return_dict: False gives the tuple (sample, features) without what is None.
        """
        num_features_only = hidden_states.shape[0] if features_only else num_features_only
        self._check_inputs(hidden_states, encoder_hidden_states, num_features_only, caption_index)
        if feature_frames is not None and not num_features_only:
            raise ValueError("feature_frames choose among the frames of clips that stop at the tap: set num_features_only")
        batch_size, _, num_frames, height, width = hidden_states.shape
        patch = self.config.patch_size
        grid = (height // patch, width // patch)

        # 1. embeddings
        spatial_position, temporal_position = self._position_embeddings(num_frames, *grid, hidden_states)
        hidden_states = self.patch_embed(hidden_states.transpose(1, 2).flatten(0, 1))  # (B*F, D, h/p, w/p)
        hidden_states = hidden_states.flatten(2).transpose(1, 2).unflatten(0, (batch_size, num_frames))  # (B, F, N, D)
        hidden_states = hidden_states + spatial_position
        timestep = timestep.expand(batch_size) if timestep.ndim == 0 else timestep
        embedded_timestep = self.timestep_embedder(self.time_proj(timestep).to(hidden_states.dtype))  # (B, D)
        modulation = self.timestep_modulation(embedded_timestep).unflatten(-1, (6, -1))  # (B, 6, D)
        last_block = self.config.feature_layer if features_only else self.config.num_layers
        captions, slots = self._captions(encoder_hidden_states, caption_cache, last_block)
        if slots is not None and caption_index is None and 0 < num_features_only < batch_size:
            caption_index = torch.arange(batch_size, device=hidden_states.device)  # a slot has all clips' captions, a call some
        mask = None if encoder_attention_mask is None else encoder_attention_mask.bool()

        # 2. blocks; clips that are here for their features leave behind the last tap
        conditions = _Conditions(captions, slots, mask, modulation, temporal_position, caption_index)
        rest = slice(batch_size - num_features_only)
        tapped = self.feature_layers if return_features or features_only else []
        hidden_states, taps = self._run_blocks(hidden_states, conditions, last_block, tapped, rest, feature_frames)
        features = self._fuse(taps) if taps else None

        # 3. output
        sample = None if features_only else self._project_out(hidden_states, embedded_timestep[rest], grid)
        if not return_dict:
            return tuple(value for value in (sample, features) if value is not None)
        return Jog3rTransformer3DModelOutput(sample=sample, features=features)

    def _check_inputs(
        self, hidden_states: torch.Tensor, captions: torch.Tensor, num_features_only: int, caption_index: torch.Tensor | None
    ) -> None:
        if hidden_states.ndim != 5 or hidden_states.shape[1] != self.config.in_channels:
            raise ValueError(f"latents must be (B, {self.config.in_channels}, F, h, w), got {tuple(hidden_states.shape)}")
        if hidden_states.shape[3] % self.config.patch_size or hidden_states.shape[4] % self.config.patch_size:
            raise ValueError(
                f"latent size {tuple(hidden_states.shape[3:])} must be a multiple of patch_size={self.config.patch_size}"
            )
        if captions.ndim != 3 or captions.shape[-1] != self.config.caption_channels:
            raise ValueError(f"captions must be (B, L, {self.config.caption_channels}), got {tuple(captions.shape)}")
        num_captions = captions.shape[0] if caption_index is None else caption_index.shape[0]
        if num_captions != hidden_states.shape[0]:
            raise ValueError(f"{hidden_states.shape[0]} clips came with {num_captions} captions")
        if not 0 <= num_features_only <= hidden_states.shape[0]:
            raise ValueError(f"num_features_only must lie in 0..{hidden_states.shape[0]}, got {num_features_only}")

    def _position_embeddings(
        self, num_frames: int, rows: int, columns: int, like: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Spatial (N, D) and temporal (F, D) positions; kept for the last size, as sizes rarely change."""
        key = (num_frames, rows, columns, like.device, like.dtype)
        if key not in self._positions:
            spatial = spatial_position_embedding(rows, columns, self.width, self.config.space_scale, like.device)
            temporal = temporal_position_embedding(num_frames, self.width, self.config.time_scale, like.device)
            self._positions = {key: (spatial.to(like.dtype), temporal.to(like.dtype))}
        return self._positions[key]

    def _captions(
        self, captions: torch.Tensor, cache: CaptionCache | None, num_blocks: int
    ) -> tuple[torch.Tensor | None, list[CaptionSlot] | None]:
        """The projected captions (U, L, D), None where no block needs them, and with a cache the slot of each block."""
        if cache is None:
            return self.caption_projection(captions), None
        cache.slots += [CaptionSlot() for _ in range(len(cache.slots), num_blocks)]
        filled = all(slot.key_value is not None for slot in cache.slots[:num_blocks])
        return None if filled else self.caption_projection(captions), cache.slots

    def _run_blocks(
        self,
        hidden_states: torch.Tensor,
        conditions: _Conditions,
        last_block: int,
        tapped: list[int],
        rest: slice,
        feature_frames: torch.Tensor | None,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Tokens (B, F, N, D) -> those of the clips `rest` behind block `last_block`, and the outputs of the blocks `tapped`."""
        clips = slice(hidden_states.shape[0])
        taps: list[torch.Tensor] = []
        for index, block in enumerate(self.transformer_blocks[:last_block]):
            last_tap = index + 1 == self.config.feature_layer
            split = last_tap and feature_frames is not None
            if split:  # the clips that go on pass this block whole, in a call of their own
                alone = slice(rest.stop, clips.stop)
                taps = [tap[alone].index_select(1, feature_frames) for tap in taps]
                arguments = (*conditions.of(index, alone), feature_frames)
                taps.append(self._run_block(block, hidden_states[alone], *arguments))
                hidden_states, clips = hidden_states[rest], rest
            if hidden_states.shape[0]:
                hidden_states = self._run_block(block, hidden_states, *conditions.of(index, clips))
            if index + 1 in tapped and not split:
                taps.append(hidden_states)
            if last_tap:
                hidden_states, clips = hidden_states[rest], rest
        return hidden_states, taps

    def _fuse(self, taps: list[torch.Tensor]) -> torch.Tensor:
        """Outputs (B, F, N, D) of the tapped blocks -> features (B, F, N, D)."""
        if self.feature_weights is None:
            return taps[0]
        device = taps[-1].device  # parts may lie on several (device_map)
        shares = self.feature_weights.softmax(0).to(device)  # (K,)
        normalised = [F.layer_norm(tap.to(device), (self.width,), eps=self.config.norm_eps) for tap in taps]
        return sum(share * tap for share, tap in zip(shares, normalised, strict=True))  # type: ignore[return-value]  # never the 0 of nothing

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


def _check_feature_layers(layers: Sequence[int], num_layers: int) -> None:
    name = "feature_layer" if len(layers) == 1 else "feature_layers"
    got = layers[0] if len(layers) == 1 else list(layers)
    if not layers or any(not 1 <= layer <= num_layers for layer in layers):
        raise ValueError(f"{name} counts blocks from 1 to num_layers={num_layers}, got {got}")
    if list(layers) != sorted(set(layers)):
        raise ValueError(f"feature_layers must ascend without repetition, got {got}")


register_with_diffusers()
