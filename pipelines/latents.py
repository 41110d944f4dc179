"""Frames to normalised latents, through an image VAE chunk by chunk or one that compresses time clip by clip; and images back.

Letters: B clips, F frames, f latent steps in time, C latent channels, H W pixels, h w latents.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor

ImageVae: TypeAlias = AutoencoderKL | AutoencoderTiny
# What goes through the VAE at once, unless told otherwise: this bounds its memory whatever the clip's length and size.
MAX_CHUNK_FRAMES = 16
MAX_CHUNK_PIXELS = 16 * 256 * 256

FLOAT32_VAES = ("AutoencoderKLWan",)  # stay in float32 beside parts in half precision, as their makers advise


@contextmanager
def in_tiles(vae: Any) -> Iterator[None]:
    """Let a VAE that compresses time decode in tiles: a whole clip at once may take more memory than all of a training step."""
    switch = not _is_of_images(vae) and not vae.use_tiling
    if switch:
        vae.enable_tiling()
    try:
        yield
    finally:
        if switch:
            vae.disable_tiling()


def vae_scale_factor(vae: ImageVae) -> int:
    """Pixels per latent, in each direction."""
    config: Any = vae.config
    channels = config.encoder_block_out_channels if isinstance(vae, AutoencoderTiny) else config.block_out_channels
    return 2 ** (len(channels) - 1)


def normalise_latents(vae: Any, latents: Tensor) -> Tensor:
    """The VAE's own latents (B, C, F, h, w) to those the transformer sees: zero mean and unit spread, roughly."""
    shift, scale = _shift_and_scale(vae, latents)
    return (latents - shift) * scale


def denormalise_latents(vae: Any, latents: Tensor) -> Tensor:
    """Inverse of `normalise_latents`."""
    shift, scale = _shift_and_scale(vae, latents)
    return latents / scale + shift


def _shift_and_scale(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Per channel where the VAE's config has statistics, else its two numbers; (1, C or 1, 1, 1, 1) each."""
    config: Any = vae.config
    mean, std = config.get("latents_mean"), config.get("latents_std")
    factor = 1.0
    if mean is None or std is None:  # LTX-Video has them among its weights, beside the factor
        buffers = dict(unwrap_module(vae).named_buffers(recurse=False))
        mean, std = buffers.get("latents_mean"), buffers.get("latents_std")
        factor = config.get("scaling_factor", factor)
    if mean is not None and std is not None:
        shift = torch.as_tensor(mean, dtype=like.dtype, device=like.device)
        scale = factor / torch.as_tensor(std, dtype=like.dtype, device=like.device)
    else:
        shift = torch.full((1,), config.get("shift_factor") or 0.0, dtype=like.dtype, device=like.device)
        scale = torch.full((1,), config.scaling_factor, dtype=like.dtype, device=like.device)
    return shift.view(1, -1, 1, 1, 1), scale.view(1, -1, 1, 1, 1)


def encode_frames(vae: Any, frames: Tensor, chunk_size: int | None = None) -> Tensor:
    """Frames to normalised latents; deterministic (the mode of the posterior).

    Args:
        vae: AutoencoderKL or AutoencoderTiny; or one of videos, such as AutoencoderKLWan, which takes a clip whole.
        frames (B, F, 3, H, W): RGB in -1..1, H and W multiples of the VAE's scale factor.
        chunk_size: frames of an image VAE at once; None: by their size, see `default_chunk_size`.

    Returns:
        (B, C, f, h, w) float32; f = F for images.
    """
    if not _is_of_images(vae):
        clips = frames.transpose(1, 2).to(vae.dtype).split(1)  # B of (1, 3, F, H, W)
        return normalise_latents(vae, torch.cat([vae.encode(clip).latent_dist.mode() for clip in clips]).float())
    images = _channels_last(frames.flatten(0, 1).to(vae.dtype))  # (B*F, 3, H, W)
    chunk_size = int(chunk_size or default_chunk_size(*images.shape[-2:]))
    chunks = [_encode_chunk(vae, chunk) for chunk in images.split(chunk_size)]
    latents = torch.cat(chunks).float().unflatten(0, frames.shape[:2]).transpose(1, 2)  # (B, C, F, h, w)
    return normalise_latents(vae, latents)


def _is_of_images(vae: Any) -> bool:
    return isinstance(unwrap_module(vae), ImageVae)


def default_chunk_size(height: int, width: int) -> int:
    """Frames of so many pixels that go through the VAE at once."""
    return max(1, min(MAX_CHUNK_FRAMES, MAX_CHUNK_PIXELS // (height * width)))


def _channels_last(images: Tensor) -> Tensor:
    """The images (B, C, H, W) in the layout that convolutions keep from layer to layer, which is faster on a CPU."""
    return images.contiguous(memory_format=torch.channels_last)


def _encode_chunk(vae: ImageVae, images: Tensor) -> Tensor:
    encoded: Any = vae.encode(images)
    return encoded.latents if isinstance(unwrap_module(vae), AutoencoderTiny) else encoded.latent_dist.mode()


def decode_frames(vae: Any, latents: Tensor, chunk_size: int | None = None) -> Tensor:
    """Normalised latents (B, C, f, h, w) to frames (B, 3, F, H, W) float32, RGB around -1..1 (not clipped).

    The VAE is one of those of `encode_frames`, and so is `chunk_size`.
    """
    if not _is_of_images(vae):
        clips = denormalise_latents(vae, latents.float()).to(vae.dtype).split(1)
        # decoders of LTX-Video 0.9.1 and later take a time step; 0 is no noise
        step = (clips[0].new_zeros(1),) if vae.config.get("timestep_conditioning") else ()
        return torch.cat([vae.decode(clip, *step, return_dict=False)[0] for clip in clips]).float()
    images = denormalise_latents(vae, latents.float()).transpose(1, 2).flatten(0, 1)  # (B*F, C, h, w)
    images = _channels_last(images.to(vae.dtype))
    factor = vae_scale_factor(vae)
    chunk_size = int(chunk_size or default_chunk_size(*(factor * side for side in images.shape[-2:])))
    chunks: list[Tensor] = [vae.decode(chunk, return_dict=False)[0] for chunk in images.split(chunk_size)]
    return torch.cat(chunks).float().unflatten(0, (latents.shape[0], -1)).transpose(1, 2)  # (B, 3, F, H, W)
