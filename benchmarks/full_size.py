"""Builds, saves, loads and runs the complete pipeline at the paper's full size, with random weights.

    python benchmarks/full_size.py --video CLIP.mp4

One guided denoising step of 16 frames at 256 x 256 pixels, then cameras of a real clip at that size; prints seconds and peak
memory of each part. The text encoder of T5-XXL's architecture is built without memory, to count it; one of its width but a
single layer runs. Needs 4 GB of disk, 5 GB of memory and a quarter of an hour of one processor core.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from jog3r import Jog3rPipeline, Jog3rTransformer3DModel, Pointmap3DHead
from jog3r.pipelines.captions import CaptionBatch
from jog3r.pipelines.loading.assemble import opensora_scheduler

T5_XXL = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "feed_forward_proj": "gated-gelu"}
FRAMES, SIZE = 16, 256


def timed(name: str, run: Callable[[], Any]) -> Any:
    """Run, then print seconds, those of them that the processor worked, and the process's peak memory so far."""
    start, start_busy = time.perf_counter(), time.process_time()
    result = run()
    seconds, busy = time.perf_counter() - start, time.process_time() - start_busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{name:<72} {seconds:7.1f} s, {busy:7.1f} s of processor, peak {peak:5.2f} GB", flush=True)
    return result


def build() -> Jog3rPipeline:
    """The defaults of every class are the full size; output layers that start at zero get random weights."""
    torch.manual_seed(0)
    words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformer = Jog3rTransformer3DModel()
    with torch.no_grad():
        for parameter in transformer.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=SIZE,
    )
    return Jog3rPipeline(
        vae=vae,
        text_encoder=T5EncoderModel(T5Config(**T5_XXL | {"num_layers": 1, "d_ff": 128, "num_heads": 2, "vocab_size": 256})),
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>"),
        transformer=transformer,
        pointmap_head=Pointmap3DHead(),
        scheduler=opensora_scheduler(),
    )


def count(pipe: Jog3rPipeline) -> None:
    """Print the parameters of every component."""
    with torch.device("meta"):
        t5 = T5EncoderModel(T5Config(vocab_size=32128, **T5_XXL))
    modules = {"transformer": pipe.transformer, "pointmap_head": pipe.pointmap_head, "vae": pipe.vae, "T5-v1.1-XXL encoder": t5}
    for name, module in modules.items():
        print(f"{name:<24} {sum(parameter.numel() for parameter in module.parameters()):>14,} parameters")


@torch.no_grad()
def denoise_once(pipe: Jog3rPipeline) -> None:
    """The first of 100 steps, guided as OpenSora does: two captions, three channels."""
    pipe._guidance_scale = 7.0
    captions = CaptionBatch(*timed("encode the prompt (1-layer text encoder)", lambda: pipe.encode_prompt("a room")))
    timesteps, _ = pipe.prepare_timesteps(100, "t2v")
    latents = pipe.prepare_latents(1, FRAMES, SIZE, SIZE, torch.Generator().manual_seed(0))
    name = f"one guided pass, {FRAMES} x {SIZE} x {SIZE} (2 clips through 28 blocks)"
    noise, _ = timed(name, lambda: pipe.predict_noise(latents, timesteps[0], captions, guidance_channels=3))
    latents = pipe.scheduler.step(noise, timesteps[0], latents).prev_sample
    timed(f"decode {FRAMES} frames", lambda: pipe.decode_latents(latents, "pt", chunk_size=4))


def main() -> None:
    """Build, save, load, run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", required=True, help="a real clip of at least 16 frames")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--work", type=Path, default=None, help="folder for the saved pipeline (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        pipe = timed("build with random weights", build)
        count(pipe)
        timed("save", lambda: pipe.save_pretrained(folder))
        del pipe
        dtype = getattr(torch, options.dtype)
        pipe = timed(f"load in {options.dtype}", lambda: Jog3rPipeline.from_pretrained(folder, torch_dtype=dtype))
        pipe.set_progress_bar_config(disable=True)
        denoise_once(pipe)
        frames = pipe.prepare_video(options.video, SIZE, SIZE)[:, :FRAMES]
        settings = {"generator": torch.Generator().manual_seed(0), "decode_chunk_size": 4, "output_type": "pt"}
        name = f"cameras of {frames.shape[1]} real frames (VAE, 26 blocks, head, registration)"
        result = timed(name, lambda: pipe(video=frames, **settings))
        print(f"poses {tuple(result.poses.shape)}, all finite: {bool(result.poses.isfinite().all())}")


if __name__ == "__main__":
    main()
