"""Weight names of OpenSora 1.0 and DUSt3R beside ours, and where each of our weights lies in their files."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

QKV = ("to_q", "to_k", "to_v")


@dataclass(frozen=True)
class Source:
    """Where one of our weights lies: part `part` of `parts` along the rows of the original weight `name`.

    OpenSora embeds patches of one frame by a 3D convolution, (D, C, 1, p, p) where ours is (D, C, p, p).
    """

    name: str
    part: int = 0
    parts: int = 1

    def original_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape that the original weight must have for ours to have `shape`."""
        if self.name == "x_embedder.proj.weight":
            shape = (*shape[:2], 1, *shape[2:])
        return (shape[0] * self.parts, *shape[1:])

    def read(self, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        """The weight, of the shape checked before, as a view of the original."""
        tensor = tensors[self.name]
        rows = tensor.shape[0] // self.parts
        tensor = tensor[self.part * rows : (self.part + 1) * rows]
        return tensor.squeeze(2) if self.name == "x_embedder.proj.weight" else tensor


@dataclass(frozen=True)
class Naming:
    """How original names become ours.

    Args:
        outside: module or parameter -> ours.
        block_lists: list of blocks -> ours.
        inside: module or parameter inside a block -> ours, or several where the original packs them row after row.
        ignored: regular expression of the weights that are not ours -> why.
    """

    outside: dict[str, str]
    block_lists: dict[str, str]
    inside: dict[str, str | tuple[str, ...]]
    ignored: dict[str, str]

    def plan(self, names: Iterable[str]) -> tuple[dict[str, Source], dict[str, str], list[str]]:
        """Sort original names into (ours -> where it lies, ignored -> why, unknown)."""
        sources: dict[str, Source] = {}
        ignored: dict[str, str] = {}
        unknown: list[str] = []
        for name in names:
            reason = next((why for pattern, why in self.ignored.items() if re.fullmatch(pattern, name)), None)
            ours = self._translate(name)
            if reason is not None:
                ignored[name] = reason
            elif ours:
                sources.update({our_name: Source(name, part, len(ours)) for part, our_name in enumerate(ours)})
            else:
                unknown.append(name)
        return sources, ignored, unknown

    def _translate(self, name: str) -> tuple[str, ...]:
        prefix, rest = "", name
        table: Mapping[str, str | tuple[str, ...]] = self.outside
        block = re.fullmatch(r"(\w+)\.(0|[1-9]\d{0,3})\.(.+)", name)
        if block and block[1] in self.block_lists:
            prefix, rest, table = f"{self.block_lists[block[1]]}.{block[2]}.", block[3], self.inside
        if rest in table:
            ours, leaf = table[rest], ""
        else:
            module, _, leaf = rest.rpartition(".")
            ours, leaf = table.get(module, ()), f".{leaf}"
            if leaf not in (".weight", ".bias"):
                return ()
        names = (ours,) if isinstance(ours, str) else ours
        return tuple(f"{prefix}{our_name}{leaf}" for our_name in names)


OPENSORA = Naming(
    outside={
        "x_embedder.proj": "patch_embed",
        "t_embedder.mlp.0": "timestep_embedder.linear_1",
        "t_embedder.mlp.2": "timestep_embedder.linear_2",
        "t_block.1": "timestep_modulation.1",
        "y_embedder.y_embedding": "null_caption",
        "y_embedder.y_proj.fc1": "caption_projection.linear_1",
        "y_embedder.y_proj.fc2": "caption_projection.linear_2",
        "final_layer.linear": "proj_out",
        "final_layer.scale_shift_table": "scale_shift_table",
    },
    block_lists={"blocks": "transformer_blocks"},
    inside={
        "scale_shift_table": "scale_shift_table",
        "attn.qkv": tuple(f"spatial_attn.{name}" for name in QKV),
        "attn.proj": "spatial_attn.to_out",
        "attn_temp.qkv": tuple(f"temporal_attn.{name}" for name in QKV),
        "attn_temp.proj": "temporal_attn.to_out",
        "cross_attn.q_linear": "cross_attn.to_q",
        "cross_attn.kv_linear": ("cross_attn.to_k", "cross_attn.to_v"),
        "cross_attn.proj": "cross_attn.to_out",
        "mlp.fc1": "mlp.linear_1",
        "mlp.fc2": "mlp.linear_2",
    },
    ignored={"pos_embed|pos_embed_temporal": "position buffer; computed from space_scale and time_scale"},
)

_DUST3R_BLOCK: dict[str, str | tuple[str, ...]] = {
    "norm1": "norm1",
    "attn.qkv": tuple(f"self_attn.{name}" for name in QKV),
    "attn.proj": "self_attn.to_out",
    "norm_y": "norm_context",
    "norm2": "norm2",
    "cross_attn.projq": "cross_attn.to_q",
    "cross_attn.projk": "cross_attn.to_k",
    "cross_attn.projv": "cross_attn.to_v",
    "cross_attn.proj": "cross_attn.to_out",
    "norm3": "norm3",
    "mlp.fc1": "mlp.linear_1",
    "mlp.fc2": "mlp.linear_2",
}
_DUST3R_HEAD = {
    "decoder_embed": "proj_in",
    "dec_norm": "norm_out",
    "downstream_head1.proj": "proj_points_anchor",
    "downstream_head2.proj": "proj_points_other",
}
_MASK_TOKEN = {"mask_token": "left from pre-training, used by nothing"}

DUST3R_HEAD = Naming(
    outside=_DUST3R_HEAD,
    block_lists={"dec_blocks": "anchor_blocks", "dec_blocks2": "other_blocks"},
    inside=_DUST3R_BLOCK,
    ignored={r"(patch_embed|enc_blocks|enc_norm)\..+": "image encoder, not part of the head", **_MASK_TOKEN},
)

DUST3R = Naming(
    outside={
        "patch_embed.proj": "patch_embed",
        "enc_norm": "encoder_norm",
        **{name: f"head.{ours}" for name, ours in _DUST3R_HEAD.items()},
    },
    block_lists={"enc_blocks": "encoder_blocks", "dec_blocks": "head.anchor_blocks", "dec_blocks2": "head.other_blocks"},
    inside=_DUST3R_BLOCK,
    ignored=_MASK_TOKEN,
)
