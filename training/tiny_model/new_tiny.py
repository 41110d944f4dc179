"""Assemble an untrained tiny pipeline around a trained VAE: the folder that the tiny recipes start from.

python training/tiny_model/new_tiny.py --vae runs/tiny/vae --output_dir runs/tiny/new
"""

import dataclasses
import logging
import sys
from functools import partial
from itertools import islice

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from jog3r.data.files import replace_folder
from jog3r.data.procedural import procedural_captions
from jog3r.models.pointmap_head import Pointmap3DHead
from jog3r.models.transformer_jog3r import Jog3rTransformer3DModel
from jog3r.pipelines.pipeline_jog3r import Jog3rPipeline
from jog3r.training.config import load_config, one_line_errors
from jog3r.training.saving import save_without_paths

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class TinyConfig:
    """Sizes of the tiny model."""

    vae: str
    output_dir: str
    num_layers: int = 8
    feature_layer: int = 6
    num_attention_heads: int = 5
    attention_head_dim: int = 32
    num_frames: int = 16
    caption_channels: int = 96
    max_caption_length: int = 40
    vocabulary: int = 512
    head_dim: int = 160
    head_layers: int = 6
    head_attention_heads: int = 5
    seed: int = 0


def train_tokenizer(config: TinyConfig) -> PreTrainedTokenizerFast:
    """Byte-pair pieces learned from captions of the training split; any other word falls apart into letters."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    tokenizer.decoder = decoders.Metaspace()
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789.,;:'!?-▁")
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary,
        special_tokens=["<pad>", "</s>", "<unk>"],  # the numbers T5 gives them: 0, 1, 2
        initial_alphabet=letters,
        limit_alphabet=100,
        show_progress=False,
    )
    tokenizer.train_from_iterator(islice(procedural_captions("train"), 20000), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=config.max_caption_length,
    )


def build_pipeline(config: TinyConfig) -> Jog3rPipeline:
    """The tiny pipeline with random weights everywhere but in the VAE."""
    vae = AutoencoderKL.from_pretrained(config.vae)
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    width = config.num_attention_heads * config.attention_head_dim
    tokenizer = train_tokenizer(config)
    text_encoder = T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=config.caption_channels,
            d_kv=24,
            d_ff=2 * config.caption_channels,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            use_cache=False,
        )
    )
    transformer = Jog3rTransformer3DModel(
        in_channels=vae.config.latent_channels,
        out_channels=vae.config.latent_channels,
        num_layers=config.num_layers,
        num_attention_heads=config.num_attention_heads,
        attention_head_dim=config.attention_head_dim,
        sample_size=vae.config.sample_size // factor,
        num_frames=config.num_frames,
        caption_channels=config.caption_channels,
        max_caption_length=config.max_caption_length,
        space_scale=0.25,  # 8 positions a side, spread like the 32 of the full size at 1.0
        time_scale=0.25,
        feature_layer=config.feature_layer,
        qk_norm="layer_norm",
    )
    head = Pointmap3DHead(
        feature_dim=width,
        hidden_dim=config.head_dim,
        num_layers=config.head_layers,
        num_attention_heads=config.head_attention_heads,
        patch_size=factor * transformer.config.patch_size,
        trained=False,
    )
    # v-prediction weights all noise levels alike; the linear schedule ends in nearly pure noise, as OpenSora's
    scheduler = DPMSolverMultistepScheduler(
        beta_schedule="linear", beta_start=1e-4, beta_end=0.02, prediction_type="v_prediction", timestep_spacing="linspace"
    )
    return Jog3rPipeline(vae, text_encoder, tokenizer, transformer, head, scheduler)


def main(arguments: list[str]) -> None:
    """Build and save."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with one_line_errors():
        config = load_config(TinyConfig, arguments)
        torch.manual_seed(config.seed)
        pipeline = build_pipeline(config)
        replace_folder(config.output_dir, partial(save_without_paths, pipeline))
        for name in ("vae", "text_encoder", "transformer", "pointmap_head"):
            count = sum(parameter.numel() for parameter in getattr(pipeline, name).parameters())
            logger.info("%s: %.2f M parameters", name, count / 1e6)


if __name__ == "__main__":
    main(sys.argv[1:])
