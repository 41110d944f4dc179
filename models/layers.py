"""Building blocks of both networks: attention, rotary and sine-cosine positions, modulation.

Letters: B batch, F frames, h w latent grid, N tokens of a frame (h/p * w/p), L sequence length, D width, H heads.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import nn

MAX_TABLE_LENGTH = 256  # positions that are kept: tokens of a side, frames
QK_NORMS = {None: None, "rms_norm": nn.RMSNorm, "layer_norm": nn.LayerNorm}


def sincos_embedding(positions: torch.Tensor, dim: int) -> torch.Tensor:
    """Sine-cosine embedding of 1D `positions` (L,), any real numbers -> (L, dim), laid out [sin | cos], in float64 on the CPU.

    On the CPU, as not every device knows float64 (mps), and so that all give the same.
    """
    if dim % 2:
        raise ValueError(f"a sine-cosine embedding needs an even number of channels, got {dim}")
    frequencies = 10000.0 ** -(torch.arange(dim // 2, dtype=torch.float64, device="cpu") / (dim / 2))
    angles = positions.to("cpu", torch.float64)[:, None] * frequencies[None]  # (L, dim/2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class ConstantTable(nn.Module):
    """Numbers that are computed once, on the CPU, and move with the model, always in float32.

    Deliberately neither a buffer nor filled on first use: `.to(torch.bfloat16)` would round a buffer and DDP send it around at
    every step, and torch.compile would compile anew whenever the set of stored tensors changes.
    """

    def __init__(self, values: torch.Tensor):
        super().__init__()
        self.values = values.float()

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "ConstantTable":
        super()._apply(fn, recurse)
        device = fn(torch.empty(0, device=self.values.device)).device
        if device.type != "meta":  # from there values do not come back
            self.values = self.values.to(device)
        return self


class PositionTable(ConstantTable):
    """Sine-cosine embedding of the positions 0, 1, 2, ... divided by `scale`."""

    def __init__(self, dim: int, scale: float):
        super().__init__(sincos_embedding(torch.arange(MAX_TABLE_LENGTH, device="cpu") / scale, dim))
        self.dim, self.scale = dim, scale

    def forward(self, length: int, device: torch.device) -> torch.Tensor:
        """-> (length, dim), float32; beyond the table's end computed on the spot."""
        if length > MAX_TABLE_LENGTH:
            return sincos_embedding(torch.arange(length, device="cpu") / self.scale, self.dim).float().to(device)
        return self.values[:length].to(device)


def grid_positions(table: PositionTable, rows: int, columns: int, device: torch.device) -> torch.Tensor:
    """Positions of a grid of tokens -> (rows*columns, 2 * the table's dim), row-major.

    The first half of the channels encodes x, the second y, as in OpenSora 1.0.
    """
    x, y = table(columns, device), table(rows, device)
    return torch.cat([x[None].expand(rows, -1, -1), y[:, None].expand(-1, columns, -1)], dim=-1).flatten(0, 1)


class TimestepProjection(ConstantTable):
    """Cosines, then sines of the time step; 256 channels in OpenSora.

    diffusers' `Timesteps` takes the exponential in float32, whose last digit depends on the processor: at step 999 that moves
    the transformer's output by up to 2e-5. Here every machine computes the same.
    """

    def __init__(self, channels: int = 256):
        # "cpu" is said because models are also built on the meta device, where only weights get filled later
        exponents = -math.log(10000) * torch.arange(channels // 2, dtype=torch.float32, device="cpu") / (channels // 2)
        frequencies = exponents.double().exp().float()
        if channels == 256:
            # MKL's baseline exponential (MKL_CBWR=COMPATIBLE) is not correctly rounded at two of the 128. OpenSora's own code
            # gives these numbers there, so we give them everywhere.
            above = torch.nextafter(frequencies, torch.ones_like(frequencies))
            frequencies = torch.cat([frequencies[:12], above[12:13], frequencies[13:106], above[106:107], frequencies[107:]])
        super().__init__(frequencies)

    def forward(self, timestep: torch.Tensor) -> torch.Tensor:
        """(B,) -> (B, channels), float32."""
        angles = timestep[:, None].float() * self.values.to(timestep.device)  # (B, channels/2)
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


def rotary_2d(height: int, width: int, head_dim: int, base: float, device: torch.device | None = None) -> torch.Tensor:
    """Rotation angles of 2D rotary positions (RoPE, arXiv 2104.09864; in 2D as CroCo v2 uses it).

    The first half of a head's channels turns with y, the second with x, each "half-split" (channel i pairs with i + quarter).

    Returns:
        cosines and sines, stacked: (2, height*width, head_dim), float32.
    """
    if head_dim % 4:
        raise ValueError(f"2D rotary positions need head channels divisible by 4, got {head_dim}")
    quarter = head_dim // 4
    frequencies = base ** -(torch.arange(quarter, dtype=torch.float32, device=device) * 2 / (head_dim // 2))  # (quarter,)
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float32, device=device),
        torch.arange(width, dtype=torch.float32, device=device),
        indexing="ij",
    )
    along_y = y.flatten()[:, None] * frequencies  # (N, quarter)
    along_x = x.flatten()[:, None] * frequencies
    angles = torch.cat([along_y, along_y, along_x, along_x], dim=-1)  # (N, head_dim)
    return torch.stack([angles.cos(), angles.sin()])


def apply_rotary(states: torch.Tensor, rotary: torch.Tensor) -> torch.Tensor:
    """Turn `states` (B, L, H, head_dim) by `rotary` (2, L, head_dim); computed in float32, returned in the dtype given."""
    cos, sin = rotary[:, None, :, None]  # (1, L, 1, head_dim)
    first_y, second_y, first_x, second_x = states.float().chunk(4, dim=-1)
    turned = torch.cat([-second_y, first_y, -second_x, first_x], dim=-1)
    return (states.float() * cos + turned * sin).to(states.dtype)


def modulate(hidden_states: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Scale and shift of adaLN (DiT, arXiv 2212.09748)."""
    return torch.addcmul(shift, hidden_states, 1 + scale)


def fuse_features(taps: list[torch.Tensor], weights: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    """Outputs (B, F, N, D) of K tapped blocks -> features (B, F, N, D).

    Each is normalised, then they are summed with shares softmax(`weights` (K,)), as ELMo does (arXiv 1802.05365).
    """
    device = taps[-1].device  # parts may lie on several (device_map)
    shares = weights.softmax(0).to(device)  # (K,)
    normalised = [F.layer_norm(tap.to(device), tap.shape[-1:], eps=eps) for tap in taps]
    return sum(share * tap for share, tap in zip(shares, normalised, strict=True))  # type: ignore[return-value]  # never the 0 of nothing


class AttentionProcessor:
    """Self- or cross-attention through diffusers' dispatcher, so that `set_attention_backend` reaches every layer."""

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: "Attention",
        hidden_states: torch.Tensor,  # (B, L, D)
        key_value: tuple[torch.Tensor, torch.Tensor] | None = None,  # (B, S, H, head_dim) each, from `attn.project_key_value`
        attention_mask: torch.Tensor | None = None,  # (B, S) bool, True = attend
        rotary: torch.Tensor | None = None,  # (2, L, head_dim)
    ) -> torch.Tensor:
        """Attend from `hidden_states` to itself, or to `key_value` when given."""
        query = attn.to_q(hidden_states).unflatten(-1, (attn.heads, -1))  # (B, L, H, head_dim)
        dtype = query.dtype  # the projections' own; their weights may be stored in another
        if attn.norm_q is not None:
            query = attn.norm_q(query)
        if rotary is not None:
            query = apply_rotary(query, rotary)
        key, value = attn.project_key_value(hidden_states, rotary) if key_value is None else key_value
        if key.dtype != query.dtype:  # under autocast the rotated query and a cached key may differ
            query, value = query.to(key.dtype), value.to(key.dtype)
        hidden_states = dispatch_attention_fn(
            query,
            key,
            value,
            attn_mask=None if attention_mask is None else attention_mask[:, None, None],  # not every backend takes (B, S)
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )
        return attn.to_out(hidden_states.flatten(-2, -1).to(dtype))


class Attention(nn.Module, AttentionModuleMixin):
    """Multi-head attention with separate projections (so that LoRA and converters can name them).

    Args:
        dim: width of queries and of the output.
        heads: number of heads; `dim` must be divisible by it.
        context_dim: width of keys and values before projection; `dim` when None.
        qk_norm: None, "rms_norm" or "layer_norm" (per head, on queries and keys); the latter is fused on a CPU.
        is_cross_attention: keys and values come from elsewhere, as step caches (pyramid attention broadcast) ask.
    """

    _default_processor_cls = AttentionProcessor
    _available_processors = [AttentionProcessor]
    _supports_qkv_fusion = False  # keys and values may come from a cache, queries never do

    def __init__(
        self,
        dim: int,
        heads: int,
        context_dim: int | None = None,
        qk_norm: str | None = None,
        is_cross_attention: bool = False,
    ):
        super().__init__()
        if dim % heads:
            raise ValueError(f"width {dim} is not divisible by {heads} heads")
        if qk_norm not in QK_NORMS:
            raise ValueError(f"qk_norm must be one of {tuple(QK_NORMS)}, got {qk_norm!r}")
        context_dim = dim if context_dim is None else context_dim
        self.heads = heads
        self.is_cross_attention = is_cross_attention
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(context_dim, dim)
        self.to_v = nn.Linear(context_dim, dim)
        self.to_out = nn.Linear(dim, dim)
        norm = QK_NORMS[qk_norm]
        self.norm_q = norm(dim // heads, eps=1e-6) if norm else None
        self.norm_k = norm(dim // heads, eps=1e-6) if norm else None
        self.set_processor(AttentionProcessor())

    def project_key_value(self, context: torch.Tensor, rotary: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (B, S, H, head_dim) of `context` (B, S, context_dim), ready for attention."""
        key = self.to_k(context).unflatten(-1, (self.heads, -1))  # (B, S, H, head_dim)
        value = self.to_v(context).unflatten(-1, (self.heads, -1))
        if self.norm_k is not None:
            key = self.norm_k(key)
        if rotary is not None:
            key = apply_rotary(key, rotary)
        return key, value

    def forward(
        self,
        hidden_states: torch.Tensor,
        key_value: tuple[torch.Tensor, torch.Tensor] | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See `AttentionProcessor`."""
        return self.processor(self, hidden_states, key_value, attention_mask, rotary)


class FeedForward(nn.Module):
    """Two linear layers with a GELU between; `approximate` is "tanh" (OpenSora) or "none" (DUSt3R)."""

    def __init__(self, dim: int, hidden_dim: int, approximate: str):
        super().__init__()
        self.linear_1 = nn.Linear(dim, hidden_dim)
        self.linear_2 = nn.Linear(hidden_dim, dim)
        self.approximate = approximate

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(..., dim) -> (..., dim)."""
        return self.linear_2(F.gelu(self.linear_1(hidden_states), approximate=self.approximate))


class SelfAttentionBlock(nn.Module):
    """Self-attention with rotary positions, MLP; pre-norm, as in DUSt3R's image encoder."""

    def __init__(self, dim: int, num_attention_heads: int, mlp_ratio: float, norm_eps: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.self_attn = Attention(dim, num_attention_heads)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = FeedForward(dim, int(dim * mlp_ratio), approximate="none")

    def forward(self, hidden_states: torch.Tensor, rotary: torch.Tensor) -> torch.Tensor:
        """(B, L, D) -> (B, L, D)."""
        hidden_states = hidden_states + self.self_attn(self.norm1(hidden_states), rotary=rotary)
        return hidden_states + self.mlp(self.norm2(hidden_states))
