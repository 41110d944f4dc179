"""Names and shapes of original OpenSora 1.0 and DUSt3R checkpoints, written down independently of the converter."""

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch

DUST3R_ARGUMENTS = (
    "AsymmetricCroCo3DStereo(pos_embed='RoPE100', patch_embed_cls='ManyAR_PatchEmbed', img_size=(512, 512), head_type='linear', "
    "output_mode='pts3d', depth_mode=('exp', -inf, inf), conf_mode=('exp', 1, inf), enc_embed_dim={enc}, enc_depth={enc_depth}, "
    "enc_num_heads={enc_heads}, dec_embed_dim={dec}, dec_depth={dec_depth}, dec_num_heads={dec_heads})"
)


def linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def opensora_shapes(
    depth: int = 2, width: int = 32, captions: int = 24, length: int = 6, tokens: int = 16, frames: int = 4
) -> dict[str, tuple[int, ...]]:
    """Every key of a `.pth` of OpenSora 1.0's STDiT with 4 latent channels, learned variance and patches (1, 2, 2)."""
    shapes: dict[str, tuple[int, ...]] = {"pos_embed": (1, tokens, width), "pos_embed_temporal": (1, frames, width)}
    shapes |= {"x_embedder.proj.weight": (width, 4, 1, 2, 2), "x_embedder.proj.bias": (width,)}
    shapes |= linear("t_embedder.mlp.0", width, 256) | linear("t_embedder.mlp.2", width, width)
    shapes |= linear("t_block.1", 6 * width, width)
    shapes |= {"y_embedder.y_embedding": (length, captions)}
    shapes |= linear("y_embedder.y_proj.fc1", width, captions) | linear("y_embedder.y_proj.fc2", width, width)
    for block in (f"blocks.{index}" for index in range(depth)):
        shapes[f"{block}.scale_shift_table"] = (6, width)
        for attention in ("attn", "attn_temp"):
            shapes |= linear(f"{block}.{attention}.qkv", 3 * width, width) | linear(f"{block}.{attention}.proj", width, width)
        shapes |= linear(f"{block}.cross_attn.q_linear", width, width) | linear(f"{block}.cross_attn.proj", width, width)
        shapes |= linear(f"{block}.cross_attn.kv_linear", 2 * width, width)
        shapes |= linear(f"{block}.mlp.fc1", 4 * width, width) | linear(f"{block}.mlp.fc2", width, 4 * width)
    shapes["final_layer.scale_shift_table"] = (2, width)
    return shapes | linear("final_layer.linear", 2 * 2 * 8, width)


def dust3r_shapes(
    enc: int = 32, enc_depth: int = 2, dec: int = 24, dec_depth: int = 3, patch: int = 4
) -> dict[str, tuple[int, ...]]:
    """Every key of the "model" of a DUSt3R `.pth` with a linear head."""
    shapes: dict[str, tuple[int, ...]] = {"mask_token": (1, 1, dec)}
    shapes |= {"patch_embed.proj.weight": (enc, 3, patch, patch), "patch_embed.proj.bias": (enc,)}
    shapes |= norm("enc_norm", enc) | norm("dec_norm", dec) | linear("decoder_embed", dec, enc)
    for block in (f"enc_blocks.{index}" for index in range(enc_depth)):
        shapes |= _self_attention_and_mlp(block, enc) | norm(f"{block}.norm2", enc)
    for block in (f"{blocks}.{index}" for blocks in ("dec_blocks", "dec_blocks2") for index in range(dec_depth)):
        shapes |= _self_attention_and_mlp(block, dec)
        for name in ("projq", "projk", "projv", "proj"):
            shapes |= linear(f"{block}.cross_attn.{name}", dec, dec)
        shapes |= norm(f"{block}.norm2", dec) | norm(f"{block}.norm3", dec) | norm(f"{block}.norm_y", dec)
    for head in ("downstream_head1", "downstream_head2"):
        shapes |= linear(f"{head}.proj", 4 * patch * patch, dec)
    return shapes


def _self_attention_and_mlp(block: str, width: int) -> dict[str, tuple[int, ...]]:
    shapes = norm(f"{block}.norm1", width) | linear(f"{block}.attn.qkv", 3 * width, width)
    shapes |= linear(f"{block}.attn.proj", width, width)
    return shapes | linear(f"{block}.mlp.fc1", 4 * width, width) | linear(f"{block}.mlp.fc2", width, 4 * width)


def random_weights(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def original_weights(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict that a reference item holds under `sd.`."""
    return {name.removeprefix("sd."): tensor.clone() for name, tensor in tensors.items() if name.startswith("sd.")}


def save_dust3r(path: Path, weights: Mapping[str, torch.Tensor], arguments: str) -> Path:
    """The layout of DUSt3R's published files."""
    torch.save({"args": argparse.Namespace(model=arguments, epochs=90), "model": dict(weights)}, path)
    return path


def dust3r_arguments(
    enc: int = 32, enc_depth: int = 2, enc_heads: int = 4, dec: int = 24, dec_depth: int = 3, dec_heads: int = 3
) -> str:
    return DUST3R_ARGUMENTS.format(
        enc=enc, enc_depth=enc_depth, enc_heads=enc_heads, dec=dec, dec_depth=dec_depth, dec_heads=dec_heads
    )
