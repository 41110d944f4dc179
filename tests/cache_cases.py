"""A small cache of latents for tests, made by `prepare` itself."""

from pathlib import Path

import torch
from tiny_components import tiny_text_encoder, tiny_tokenizer, tiny_vae

from jog3r.training.preparation.prepare_config import PrepareConfig
from jog3r.training.prepare import Preparation


def make_cache(folder: Path, num_clips: int, num_frames: int) -> Path:
    """`folder` with a `model` and the `cache` of procedural videos of 16 x 16 pixels made with it, two videos a shard."""
    save_models(folder)
    Preparation(cache_config(folder, num_clips, num_frames)).run()
    return folder


def save_models(folder: Path) -> None:
    """What `prepare` takes, in `folder / "model"`."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        tiny_vae().save_pretrained(folder / "model" / "vae")
        tiny_text_encoder().save_pretrained(folder / "model" / "text_encoder")
        tiny_tokenizer().save_pretrained(folder / "model" / "tokenizer")


def cache_config(folder: Path, num_clips: int, num_frames: int) -> PrepareConfig:
    """The options of `make_cache`."""
    return PrepareConfig(
        output_dir=str(folder / "cache"), model=str(folder / "model"), source="procedural", num_clips=num_clips,
        num_frames=num_frames, height=16, width=16, min_frames=4, caption_length=8, clips_per_shard=2, captions_per_shard=3,
    )  # fmt: skip
