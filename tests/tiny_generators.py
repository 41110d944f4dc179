"""Tiny random components of diffusers' own classes: the transformers, VAEs and text encoders of today's video generators."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    LatteTransformer3DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from tiny_components import WORDS, seeded, tiny_text_encoder, tiny_tokenizer, tiny_transformer
from transformers import UMT5Config, UMT5EncoderModel

from jog3r import Jog3rCogVideoXPipeline, Jog3rLTXPipeline, Jog3rWanPipeline

TEXT = 16  # channels of the text encoders


def tiny_wan_transformer(**config: Any) -> WanTransformer3DModel:
    sizes = dict(patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16)
    sizes |= dict(text_dim=TEXT, freq_dim=256, ffn_dim=32, num_layers=4, rope_max_seq_len=32)
    return WanTransformer3DModel(**sizes | config).eval()


def tiny_cogvideox_transformer(**config: Any) -> CogVideoXTransformer3DModel:
    sizes = dict(num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=8, num_layers=3)
    sizes |= dict(text_embed_dim=TEXT, sample_width=4, sample_height=4, sample_frames=9, patch_size=2, max_text_seq_length=8)
    return CogVideoXTransformer3DModel(
        **sizes | dict(temporal_compression_ratio=4, use_rotary_positional_embeddings=True) | config
    ).eval()


def tiny_cogvideox_1_5_transformer(**config: Any) -> CogVideoXTransformer3DModel:
    return tiny_cogvideox_transformer(**dict(patch_size_t=2, patch_bias=False, sample_frames=17) | config)


def tiny_ltx_transformer(**config: Any) -> LTXVideoTransformer3DModel:
    sizes = dict(in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16, num_layers=3)
    return LTXVideoTransformer3DModel(**sizes | dict(caption_channels=TEXT) | config).eval()


def tiny_latte_transformer(**config: Any) -> LatteTransformer3DModel:
    sizes = dict(num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=3, cross_attention_dim=16)
    sizes |= dict(sample_size=4, patch_size=2, norm_type="ada_norm_single", caption_channels=TEXT, video_length=3)
    return LatteTransformer3DModel(**sizes | config).eval()


def tiny_wan_vae(**config: Any) -> AutoencoderKLWan:
    sizes = dict(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True])
    return AutoencoderKLWan(**sizes | config).eval()


def tiny_cogvideox_vae(**config: Any) -> AutoencoderKLCogVideoX:
    blocks = dict(down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4)
    sizes = dict(in_channels=3, out_channels=3, block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1)
    return AutoencoderKLCogVideoX(**blocks | sizes | dict(norm_num_groups=2, temporal_compression_ratio=4) | config).eval()


def tiny_ltx_vae(**config: Any) -> AutoencoderKLLTXVideo:
    sizes = dict(latent_channels=8, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8))
    sizes |= dict(layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1, 1))
    return AutoencoderKLLTXVideo(**sizes | dict(encoder_causal=True, decoder_causal=False) | config).eval()


def tiny_umt5() -> UMT5EncoderModel:
    return UMT5EncoderModel(UMT5Config(vocab_size=len(WORDS), d_model=TEXT, d_kv=8, d_ff=16, num_layers=1, num_heads=2)).eval()


# one clip, two captions: what each transformer is called with, and the shape of its features
_TEXTS = torch.randn(2, 8, TEXT, generator=seeded(1))


def transformer_call(model: Any) -> dict[str, torch.Tensor]:
    """Arguments of a call on two clips of three latent steps of 4 x 4 (LTX: 2 x 3; CogVideoX 1.5: four steps)."""
    name, steps = type(model).__name__, torch.tensor([500, 20])
    call: dict[str, Any] = {"timestep": steps, "encoder_hidden_states": _TEXTS}
    channels = model.config.in_channels
    if name.startswith("LTX"):
        call |= dict(hidden_states=torch.randn(2, 18, channels, generator=seeded()), num_frames=3, height=2, width=3)
        return call | dict(encoder_attention_mask=torch.ones(2, 8))
    if name.startswith("CogVideoX"):
        frames = 4 if model.config.patch_size_t else 3
        angles = torch.randn(3 if frames == 3 else 2, 4, model.config.attention_head_dim, generator=seeded(2)).flatten(0, 1)
        rotary = (angles.cos(), angles.sin()) if model.config.use_rotary_positional_embeddings else None
        return call | dict(hidden_states=torch.randn(2, frames, channels, 4, 4, generator=seeded()), image_rotary_emb=rotary)
    return call | dict(hidden_states=torch.randn(2, channels, 3, 4, 4, generator=seeded()))


TRANSFORMERS = {
    "wan": tiny_wan_transformer,
    "cogvideox": tiny_cogvideox_transformer,
    "cogvideox 1.5": tiny_cogvideox_1_5_transformer,
    "ltx": tiny_ltx_transformer,
    "latte": tiny_latte_transformer,
    "jog3r": tiny_transformer,
}
FEATURE_SHAPES = {
    "wan": (2, 3, 4, 24),
    "cogvideox": (2, 3, 4, 32),
    "cogvideox 1.5": (2, 2, 4, 32),
    "ltx": (2, 3, 6, 16),
    "latte": (2, 3, 4, 16),
    "jog3r": (2, 3, 4, 16),
}


def tiny_parent(name: str) -> Any:
    """A pipeline of diffusers, "wan", "cogvideox", "cogvideox 1.5" or "ltx"; the same weights at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        if name == "wan":
            scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
            parts: dict[str, Any] = dict(transformer=tiny_wan_transformer(), vae=tiny_wan_vae(), text_encoder=tiny_umt5())
            pipe = WanPipeline(**parts, tokenizer=tiny_tokenizer(), scheduler=scheduler)
        elif name.startswith("cogvideox"):
            settings = dict(prediction_type="v_prediction", rescale_betas_zero_snr=True, snr_shift_scale=3.0, clip_sample=False)
            scheduler = CogVideoXDDIMScheduler(**settings, timestep_spacing="trailing", beta_schedule="scaled_linear")
            parts = dict(transformer=TRANSFORMERS[name](), vae=tiny_cogvideox_vae(), text_encoder=tiny_text_encoder())
            pipe = CogVideoXPipeline(**parts, tokenizer=tiny_tokenizer(), scheduler=scheduler)
        else:
            parts = dict(transformer=tiny_ltx_transformer(), vae=tiny_ltx_vae(), text_encoder=tiny_text_encoder())
            pipe = LTXPipeline(**parts, tokenizer=tiny_tokenizer(), scheduler=FlowMatchEulerDiscreteScheduler())
        with torch.no_grad():  # the statistics of real ones are neither 0 nor 1
            if name == "ltx":
                pipe.vae.latents_mean.normal_()
                pipe.vae.latents_std.uniform_(0.5, 2)
    pipe.set_progress_bar_config(disable=True)
    return pipe


OURS = {
    "wan": Jog3rWanPipeline,
    "cogvideox": Jog3rCogVideoXPipeline,
    "cogvideox 1.5": Jog3rCogVideoXPipeline,
    "ltx": Jog3rLTXPipeline,
}


def tiny_generator(name: str, **head: Any) -> Any:
    """Our pipeline of the same components, with a random head that says it was trained."""
    pipe = OURS[name](**tiny_parent(name).components)
    with torch.random.fork_rng():
        torch.manual_seed(6)
        sizes = dict(hidden_dim=16, num_layers=1, num_attention_heads=2, trained=True)
        pipe.pointmap_head = pipe.new_head(**sizes | head).eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe


# what a tiny pipeline is called with: the least number of frames that it takes, of 16 x 16 pixels (LTX: 32 x 64)
CALLS: dict[str, dict[str, Any]] = {
    "wan": dict(num_frames=5, height=16, width=16, max_sequence_length=8),
    "cogvideox": dict(num_frames=9, height=16, width=16, max_sequence_length=8),
    "cogvideox 1.5": dict(num_frames=9, height=16, width=16, max_sequence_length=8),
    "ltx": dict(num_frames=9, height=32, width=64, max_sequence_length=8),
}
