"""The 3D head of JOG3R: DUSt3R's coupled decoders on tapped video features (arXiv 2501.01409, section 3.2; 2312.14132).

Letters: B clips, F frames, f steps of the features in time, P pairs, N tokens a frame, C feature channels, D decoder width, H W
pixels, s patch size, K tapped blocks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention import AttentionMixin
from diffusers.models.embeddings import TimestepEmbedding
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from torch import nn

from jog3r.models.feature_tap import check_layers
from jog3r.models.layers import (
    Attention,
    FeedForward,
    PositionTable,
    SelfAttentionBlock,
    TimestepProjection,
    fuse_features,
    rotary_2d,
)
from jog3r.models.saving import ModelSavingMixin

ATTENTIONS = ("pairwise", "global")
MAX_TOKENS = 2**14  # tokens of up to 16 pixels that are decoded at once where no gradients are kept: 64 frames of 256 x 256
_NOISE_CHANNELS = 256  # of the sine-cosine embedding of the noise level, which counts thousandths as the transformers do


@dataclass
class Pointmap3DHeadOutput(BaseOutput):
    """Pointmaps of all pairs (anchor, other), in the anchor's camera, float32, up to one unknown scale per pair.

    Args:
        anchor_pointmaps (B, P, H, W, 3): points of the anchor frame.
        anchor_confidence (B, P, H, W): their confidence, above 1.
        pointmaps (B, P, H, W, 3): points of the other frame, in the anchor's camera.
        confidence (B, P, H, W): their confidence, above 1.
        pairs (P, 2): frame numbers (anchor, other).
    """

    anchor_pointmaps: torch.Tensor
    anchor_confidence: torch.Tensor | None = None
    pointmaps: torch.Tensor | None = None
    confidence: torch.Tensor | None = None
    pairs: torch.Tensor | None = None


class PairwiseDecoderBlock(nn.Module):
    """Self-attention, cross-attention to the other view, MLP; pre-norm, rotary positions in both attentions."""

    def __init__(self, dim: int, num_attention_heads: int, mlp_ratio: float, norm_eps: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.self_attn = Attention(dim, num_attention_heads)
        self.norm_context = nn.LayerNorm(dim, eps=norm_eps)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.cross_attn = Attention(dim, num_attention_heads, is_cross_attention=True)
        self.norm3 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = FeedForward(dim, int(dim * mlp_ratio), approximate="none")

    def forward(self, hidden_states: torch.Tensor, context: torch.Tensor, rotary: torch.Tensor) -> torch.Tensor:
        """Tokens of one view (B, N, D) and of the other (B, N, D) -> (B, N, D)."""
        hidden_states = hidden_states + self.self_attn(self.norm1(hidden_states), rotary=rotary)
        key_value = self.cross_attn.project_key_value(self.norm_context(context), rotary)
        hidden_states = hidden_states + self.cross_attn(self.norm2(hidden_states), key_value, rotary=rotary)
        return hidden_states + self.mlp(self.norm3(hidden_states))


class Pointmap3DHead(ModelSavingMixin, ModelMixin, ConfigMixin, AttentionMixin, PeftAdapterMixin):
    """From the tapped features of a video to pointmaps with confidence, pair by pair or for all frames at once.

    Args:
        feature_dim: channels of the features.
        hidden_dim, num_layers, num_attention_heads: of each decoder.
        patch_size: side of the pixel square that one token predicts.
        attention: "pairwise" (two coupled decoders, frame by frame with an anchor: DUSt3R) or "global" (one decoder with full
            attention over all frames; frame 1 is the anchor of every pair).
        mlp_ratio: width of the MLP's hidden layer over the decoder's.
        rotary_base: longest wavelength of the rotary positions (DUSt3R: 100).
        norm_eps: of the layer norms.
        feature_norm: normalise the features first; video features are a raw residual stream. False for DUSt3R's decoders.
        frames_per_step: frames that one step of the features stands for, where the VAE compresses time (Wan and CogVideoX: 4,
            LTX-Video: 8). The first step is frame 0 alone, so f steps are 1 + (f - 1) * frames_per_step frames; every frame of a
            later step gets its tokens from a projection of its own.
        noise_embedding: add an embedding of the noise level at which the features were read.
        feature_layers: blocks of the video transformer, counted from 1, whose tokens this head reads; several are fused here with
            learned weights. None: whoever calls it knows.
        noise_range: lowest and highest noise level, as shares of the training schedule, at which it was trained to read; None:
            the pipeline's.
        generator: class of the video transformer whose features it was trained on, such as "WanTransformer3DModel"; None: not
            told.
        trained: False marks a head, or an input layer in front of trained decoders, that is as it was initialised: the pipeline
            then warns of its geometry. Training sets it to True.
        weights_license: of weights that came from elsewhere, as the hub calls it; the card states it.
    """

    about = "The 3D head: from features of the video transformer to pointmaps of pairs of frames, with confidence."
    _supports_gradient_checkpointing = True
    _no_split_modules = ["PairwiseDecoderBlock", "SelfAttentionBlock"]
    _repeated_blocks = ["PairwiseDecoderBlock", "SelfAttentionBlock"]
    _skip_layerwise_casting_patterns = ["norm", "proj_points", "feature_weights"]
    # half the error of the points of a model in bfloat16
    _keep_in_fp32_modules = ["norm_out", "proj_points_anchor", "proj_points_other"]

    @register_to_config
    def __init__(
        self,
        feature_dim: int = 1152,
        hidden_dim: int = 768,
        num_layers: int = 6,
        num_attention_heads: int = 12,
        patch_size: int = 16,
        attention: str = "pairwise",
        mlp_ratio: float = 4.0,
        rotary_base: float = 100.0,
        norm_eps: float = 1e-6,
        feature_norm: bool = True,
        trained: bool = True,  # noqa: ARG002  # in the config alone; folders saved before there was a mark are of trained heads
        weights_license: str | None = None,  # noqa: ARG002  # in the config alone
        frames_per_step: int = 1,
        noise_embedding: bool = False,
        feature_layers: list[int] | None = None,
        noise_range: tuple[float, float] | None = None,
        generator: str | None = None,  # noqa: ARG002  # in the config alone
    ):
        super().__init__()
        _check_reading(frames_per_step, feature_layers, noise_range)
        if attention not in ATTENTIONS:
            raise ValueError(f"attention must be one of {ATTENTIONS}, got {attention!r}")
        if hidden_dim % num_attention_heads or hidden_dim // num_attention_heads % 4:
            raise ValueError(
                f"{hidden_dim=} over {num_attention_heads} heads leaves channels not divisible by 4 (rotary positions)"
            )
        block = (hidden_dim, num_attention_heads, mlp_ratio, norm_eps)
        outputs = patch_size**2 * 4  # x, y, z, confidence

        # 1. input
        self.norm_features = nn.LayerNorm(feature_dim, eps=norm_eps) if feature_norm else nn.Identity()
        self.proj_in = nn.Linear(feature_dim, hidden_dim)
        # 2. decoder(s)
        if attention == "pairwise":
            self.anchor_blocks = nn.ModuleList([PairwiseDecoderBlock(*block) for _ in range(num_layers)])
            self.other_blocks = nn.ModuleList([PairwiseDecoderBlock(*block) for _ in range(num_layers)])
        else:
            self.frame_positions = PositionTable(hidden_dim, scale=1.0)
            # the paper's variant with one decoder: full self-attention over the tokens of all frames
            self.decoder_blocks = nn.ModuleList([SelfAttentionBlock(*block) for _ in range(num_layers)])
        # 3. output
        self.norm_out = nn.LayerNorm(hidden_dim, eps=norm_eps)
        self.proj_points_anchor = nn.Linear(hidden_dim, outputs)
        self.proj_points_other = nn.Linear(hidden_dim, outputs)
        # 4. other generators; behind all else, so that the weights above are drawn as ever
        self.proj_frames = nn.Linear(feature_dim, frames_per_step * hidden_dim) if frames_per_step > 1 else None
        self.noise_proj = TimestepProjection(_NOISE_CHANNELS) if noise_embedding else None
        self.noise_embedder = TimestepEmbedding(_NOISE_CHANNELS, hidden_dim) if noise_embedding else None
        if self.noise_embedder is not None:  # at first as if there were none
            nn.init.zeros_(self.noise_embedder.linear_2.weight)
            nn.init.zeros_(self.noise_embedder.linear_2.bias)
        num_taps = len(feature_layers or [0])
        self.feature_weights = nn.Parameter(torch.zeros(num_taps)) if num_taps > 1 else None  # softmax: equal shares

        self.gradient_checkpointing = False

    @classmethod
    def from_single_file(cls, path: str, **config: Any) -> "Pointmap3DHead":
        """Read decoder and linear head out of a DUSt3R checkpoint; see `jog3r.models.conversion.convert.inspect_dust3r_head`."""
        from jog3r.models.conversion.convert import inspect_dust3r_head

        model: Any = inspect_dust3r_head(cls, path, **config).load()
        return model

    def forward(
        self,
        features: torch.Tensor | Sequence[torch.Tensor],  # (B, f, N, C), or K of them
        height: int,
        width: int,
        pairs: torch.Tensor | None = None,  # (P, 2)
        return_dict: bool = True,
        noise_level: torch.Tensor | float | None = None,  # (B,)
    ) -> Pointmap3DHeadOutput | tuple:
        """Predict the pointmaps of all pairs.

        Args:
            features (B, f, N, C): tapped features, N = height/s * width/s, or a list of the tokens of each of `feature_layers`;
                f = F where `frames_per_step` is 1.
            height, width: of the pointmaps in pixels, multiples of `patch_size`.
            pairs (P, 2): frame numbers (anchor, other); None = (0, f) for f = 1..F-1. "global" takes anchor 0 only.
            return_dict: False gives a tuple in the order of `Pointmap3DHeadOutput`.
            noise_level (B,) or one number: share 0..1 of the training schedule, for a head with `noise_embedding`.

        Raises:
            ValueError: shapes, pairs or a noise level that do not fit.
        """
        features = self._fuse(features)
        grid = self._check_inputs(features, height, width)
        num_frames = 1 + (features.shape[1] - 1) * self.config.frames_per_step
        pairs = self._check_pairs(pairs, num_frames, features.device)
        head_dim = self.config.hidden_dim // self.config.num_attention_heads
        rotary = rotary_2d(*grid, head_dim, self.config.rotary_base, features.device)  # (2, N, head_dim)
        tokens = self._project_in(self.norm_features(features))  # (B, F, N, D)
        if (noise := self._embed_noise(noise_level, tokens)) is not None:
            tokens = tokens + noise
        if self.config.attention == "pairwise":

            def decode(chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                return self._decode_pairs(tokens, chosen, rotary)
        else:
            states = self._decode_together(tokens, rotary)  # (B, F, N, D)

            def decode(chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                return states[:, :1], states[:, chosen[:, 1]]

        maps = self._predict_maps(decode, pairs, tokens, grid)
        output = Pointmap3DHeadOutput(*maps, pairs)
        return output if return_dict else output.to_tuple()

    def _project_in(self, features: torch.Tensor) -> torch.Tensor:
        """Normalised features (B, f, N, C) -> tokens (B, F, N, D) of every frame."""
        if self.proj_frames is None:
            return self.proj_in(features)
        later = self.proj_frames(features[:, 1:])  # (B, f-1, N, k*D)
        later = later.unflatten(-1, (self.config.frames_per_step, -1)).transpose(2, 3).flatten(1, 2)  # (B, F-1, N, D)
        return torch.cat([self.proj_in(features[:, :1]), later], dim=1)

    def _embed_noise(self, noise_level: torch.Tensor | float | None, tokens: torch.Tensor) -> torch.Tensor | None:
        """(B, 1, 1, D), or None without `noise_embedding`."""
        if self.noise_embedder is None or self.noise_proj is None:
            if noise_level is not None:
                raise ValueError(f"this head has no noise_embedding, but got noise_level={noise_level}")
            return None
        if noise_level is None:
            raise ValueError("this head has a noise_embedding: pass noise_level, the share 0..1 of the training schedule")
        levels = torch.as_tensor(noise_level, dtype=torch.float32, device=tokens.device).expand(tokens.shape[0])
        return self.noise_embedder(self.noise_proj(1000 * levels).to(tokens.dtype))[:, None, None]

    def _predict_maps(
        self,
        decode: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
        pairs: torch.Tensor,
        tokens: torch.Tensor,
        grid: tuple[int, int],
    ) -> list[torch.Tensor]:
        """Maps of all pairs in the order of `Pointmap3DHeadOutput`; without gradients in chunks that bound the memory."""
        size = max(1, self.config.patch_size // 16) ** 2  # larger tokens give larger maps
        at_once = max(1, MAX_TOKENS // (tokens.shape[0] * tokens.shape[2] * size))
        if torch.is_grad_enabled() or len(pairs) <= at_once:
            return self._project_pairs(*decode(pairs), grid)
        results: list[torch.Tensor] = []
        for start in range(0, len(pairs), at_once):
            chosen = pairs[start : start + at_once]
            maps = self._project_pairs(*decode(chosen), grid)
            results = results or [part.new_empty(part.shape[0], len(pairs), *part.shape[2:]) for part in maps]
            for result, part in zip(results, maps, strict=True):
                result[:, start : start + len(chosen)] = part
        return results

    def _project_pairs(self, anchor: torch.Tensor, other: torch.Tensor, grid: tuple[int, int]) -> list[torch.Tensor]:
        """Tokens (B, P, N, D) of both views -> the four maps of `Pointmap3DHeadOutput`."""
        anchor_pointmaps, anchor_confidence = self._project_points(self.proj_points_anchor, anchor, grid)
        pointmaps, confidence = self._project_points(self.proj_points_other, other, grid)
        if self.config.attention == "global":  # one prediction of frame 1, shown once per pair
            anchor_pointmaps = anchor_pointmaps.expand_as(pointmaps)
            anchor_confidence = anchor_confidence.expand_as(confidence)
        return [anchor_pointmaps, anchor_confidence, pointmaps, confidence]

    def _fuse(self, features: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
        """One tensor, or those of the K tapped blocks, to (B, f, N, C)."""
        if isinstance(features, torch.Tensor):
            features = [features]
        num_taps = 1 if self.feature_weights is None else len(self.feature_weights)
        if len(features) != num_taps:
            raise ValueError(f"this head reads {num_taps} blocks (feature_layers), got features of {len(features)}")
        return features[0] if self.feature_weights is None else fuse_features(list(features), self.feature_weights)

    def _decode_pairs(self, tokens: torch.Tensor, pairs: torch.Tensor, rotary: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Two coupled decoders: each layer of one reads the previous layer of the other."""
        batch_size, num_pairs = tokens.shape[0], pairs.shape[0]
        anchor = tokens[:, pairs[:, 0]].flatten(0, 1)  # (B*P, N, D)
        other = tokens[:, pairs[:, 1]].flatten(0, 1)
        for anchor_block, other_block in zip(self.anchor_blocks, self.other_blocks, strict=True):
            anchor, other = (
                self._run_block(anchor_block, anchor, other, rotary),
                self._run_block(other_block, other, anchor, rotary),
            )
        return anchor.unflatten(0, (batch_size, num_pairs)), other.unflatten(0, (batch_size, num_pairs))

    def _decode_together(self, tokens: torch.Tensor, rotary: torch.Tensor) -> torch.Tensor:
        """One decoder over all frames, whose tokens are told their frame's number: without, it hardly learns the motion."""
        num_frames = tokens.shape[1]
        numbers = self.frame_positions(num_frames, tokens.device).to(tokens.dtype)  # (F, D)
        states = (tokens + numbers[:, None]).flatten(1, 2)  # (B, F*N, D)
        rotary = rotary.repeat(1, num_frames, 1)  # (2, F*N, head_dim)
        for block in self.decoder_blocks:
            states = self._run_block(block, states, rotary)
        return states.unflatten(1, (num_frames, -1))  # (B, F, N, D)

    def _project_points(
        self, projection: nn.Linear, tokens: torch.Tensor, grid: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (B, P, N, D) -> points (B, P, H, W, 3) along exp depth, confidence (B, P, H, W) = 1 + exp; float32."""
        size = self.config.patch_size
        tokens = self.norm_out(tokens.to(self.norm_out.weight.dtype))
        raw = projection(tokens.to(projection.weight.dtype)).float()  # (B, P, N, 4*s*s)
        raw = raw.unflatten(-1, (4, size, size)).unflatten(2, grid)  # (B, P, H/s, W/s, 4, s, s)
        raw = raw.permute(0, 1, 2, 5, 3, 6, 4).flatten(4, 5).flatten(2, 3)  # (B, P, H, W, 4)
        direction, confidence = raw[..., :3], raw[..., 3]
        norm = direction.norm(dim=-1, keepdim=True)
        return direction / norm.clamp(min=1e-8) * norm.expm1(), 1 + confidence.exp()

    def _run_block(self, block: nn.Module, *arguments: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(block, *arguments)
        return block(*arguments)

    def _check_inputs(self, features: torch.Tensor, height: int, width: int) -> tuple[int, int]:
        size = self.config.patch_size
        if features.ndim != 4 or features.shape[-1] != self.config.feature_dim:
            letter = "F" if self.config.frames_per_step == 1 else "f"
            raise ValueError(f"features must be (B, {letter}, N, {self.config.feature_dim}), got {tuple(features.shape)}")
        if height % size or width % size:
            raise ValueError(f"height and width must be multiples of patch_size={size}, got {height}x{width}")
        grid = (height // size, width // size)
        if features.shape[2] != grid[0] * grid[1]:
            raise ValueError(
                f"{height}x{width} pixels are {grid[0]}x{grid[1]} tokens of {size} pixels, got {features.shape[2]} tokens"
            )
        return grid

    def _check_pairs(self, pairs: torch.Tensor | None, num_frames: int, device: torch.device) -> torch.Tensor:
        if pairs is None:
            if num_frames < 2:
                raise ValueError(f"pairs need at least 2 frames, got {num_frames}")
            others = torch.arange(1, num_frames, device=device)
            return torch.stack([torch.zeros_like(others), others], dim=-1)  # (F-1, 2)
        pairs = torch.as_tensor(pairs, device=device)
        if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.shape[0] == 0 or pairs.is_floating_point():
            raise ValueError(f"pairs must be integers of shape (P, 2) with P >= 1, got {pairs.dtype} {tuple(pairs.shape)}")
        if pairs.min() < 0 or pairs.max() >= num_frames:
            raise ValueError(f"pairs name frames {pairs.min().item()}..{pairs.max().item()} of a clip with {num_frames} frames")
        if self.config.attention == "global" and pairs[:, 0].any():
            raise ValueError('attention="global" predicts everything in frame 0\'s camera: all pairs must be (0, f)')
        return pairs


def _check_reading(frames_per_step: int, feature_layers: list[int] | None, noise_range: tuple[float, float] | None) -> None:
    if isinstance(frames_per_step, bool) or not isinstance(frames_per_step, int) or frames_per_step < 1:
        raise ValueError(f"frames_per_step must be a whole number from 1 (Wan: 4, LTX-Video: 8), got {frames_per_step!r}")
    if feature_layers is not None:
        check_layers(feature_layers)
    if noise_range is not None and not (len(noise_range) == 2 and 0 <= noise_range[0] <= noise_range[1] <= 1):
        raise ValueError(f"noise_range must be two shares of the schedule, 0 <= low <= high <= 1, got {noise_range}")
