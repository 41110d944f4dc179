"""A complete random pipeline of real components, tiny enough to be built in a second."""

import copy
import functools
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from jog3r.models.pointmap_head import Pointmap3DHead
from jog3r.models.transformer_jog3r import Jog3rTransformer3DModel
from jog3r.pipelines.pipeline_jog3r import Jog3rPipeline

PROMPT = "a room with blue walls"
WORDS = (
    "<pad>",
    "</s>",
    "<unk>",
    "a",
    "the",
    "room",
    "with",
    "blue",
    "red",
    "walls",
    "floor",
    "chair",
    "camera",
    "moves",
    "forward",
)
MAX_LENGTH = 8


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=MAX_LENGTH
    )


def tiny_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        latents_mean=[0.1, -0.1, 0.2, 0.0],
        latents_std=[1.5, 0.5, 1.0, 2.0],
    ).eval()


def tiny_transformer(out_channels: int = 8, **config: object) -> Jog3rTransformer3DModel:
    arguments = dict(
        in_channels=4,
        out_channels=out_channels,
        num_layers=3,
        num_attention_heads=2,
        attention_head_dim=8,
        patch_size=2,
        sample_size=4,
        num_frames=4,
        caption_channels=16,
        max_caption_length=MAX_LENGTH,
        feature_layer=2,
    )
    model = Jog3rTransformer3DModel(**{**arguments, **config}).eval()
    with torch.no_grad():  # the projections that start at zero would hide captions, time and the output
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def tiny_head(**config: object) -> Pointmap3DHead:
    arguments = dict(feature_dim=16, hidden_dim=16, num_layers=1, num_attention_heads=2, patch_size=8)
    return Pointmap3DHead(**{**arguments, **config}).eval()


def tiny_text_encoder() -> T5EncoderModel:
    config = T5Config(vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return T5EncoderModel(config).eval()


@functools.cache
def _parts(out_channels: int) -> dict[str, Any]:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return dict(
            vae=tiny_vae(),
            text_encoder=tiny_text_encoder(),
            tokenizer=tiny_tokenizer(),
            transformer=tiny_transformer(out_channels),
            pointmap_head=tiny_head(),
            scheduler=DDPMScheduler(
                beta_start=1e-4,
                beta_end=0.02,
                beta_schedule="linear",
                variance_type="learned_range" if out_channels == 8 else "fixed_small",
                clip_sample=False,
                timestep_spacing="linspace",
            ),
        )


def tiny_pipeline(out_channels: int = 8, **components: object) -> Jog3rPipeline:
    """16x16 pixels, 4 frames, tokens of 8 pixels; copies of the same weights at every call, faster than to build them."""
    parts = {name: copy.deepcopy(part) for name, part in _parts(out_channels).items() if name not in components}
    pipe = Jog3rPipeline(**parts, **components)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def save_clip(folder: Path) -> Path:
    """A CLIP of random weights and 54 words in its own format: configuration, tokenizer, preprocessor, safetensors."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    torch.manual_seed(2)
    tower = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, projection_dim=8)
    words = [*"abcdefghijklmnopqrstuvwxyz", *(f"{letter}</w>" for letter in "abcdefghijklmnopqrstuvwxyz")]
    vocabulary = {word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    ends = dict(bos_token_id=len(words), eos_token_id=len(words) + 1, pad_token_id=len(words) + 1)
    text = dict(**tower, **ends, vocab_size=len(vocabulary), max_position_embeddings=12)
    config = CLIPConfig(text_config=text, vision_config={**tower, "image_size": 16, "patch_size": 8}, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    settings = {"crop_size": {"height": 16, "width": 16}, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder
