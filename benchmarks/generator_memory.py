"""Memory of the head on other generators, and of training it, without a GPU and without weights: tensors hold no data.

    OMP_NUM_THREADS=1 python benchmarks/generator_memory.py [--training]

Printed are three tables in Markdown, in GiB: the weights of each part of some generators, of which model offloading holds one at
a time; of the head its weights, and the most that features, tokens and maps hold at one time, with pairs in chunks, as the head
decodes them, and all at once (what the generators themselves hold while they compute is not counted); and a step of each training
recipe, with and without gradient checkpointing, with the operations of a micro-step and the hours of a run at 40 % of an A100's
peak. `--training` prints the last one alone.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel, WanTransformer3DModel
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

from jog3r import Pointmap3DHead
from jog3r.models import pointmap_head
from jog3r.training.config import TrainConfig, load_config
from jog3r.training.generators.options import GENERATORS
from jog3r.training.generators.without_weights import pipeline_without_weights
from jog3r.training.live_memory import LiveMemory
from jog3r.training.memory import CUDA_BYTES, USABLE, step_flops, step_memory

# name, width of the transformer, frames of a step, pixels of a token, frames, height, width
CASES = (
    ("Wan 2.1 1.3B", 1536, 4, 16, 49, 480, 832),
    ("Wan 2.1 1.3B", 1536, 4, 16, 81, 480, 832),
    ("Wan 2.2 5B", 3072, 4, 32, 121, 704, 1280),
    ("CogVideoX 2B", 1920, 4, 16, 49, 480, 720),
    ("LTX-Video 2B", 2048, 8, 32, 161, 512, 704),
)


ROOT = Path(__file__).resolve().parents[1]
RECIPES = ("wan_1_3b_head", "wan_1_3b_lora", "cogvideox_2b_lora", "ltx_lora")
CARDS_GB = (24, 40, 80)
A100_TERAFLOPS = 312  # in bf16
_XXL = dict(d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu")


def parts() -> list[tuple[str, nn.Module, nn.Module, nn.Module]]:
    """Name, transformer, VAE and text encoder by their published configurations; to be called on the meta device."""
    umt5 = UMT5EncoderModel(UMT5Config(vocab_size=256384, **_XXL))
    t5 = T5EncoderModel(T5Config(vocab_size=32128, **_XXL))
    wan, cogvideox, ltx = (pipeline_without_weights(kind, None) for kind in GENERATORS)
    large_cogvideox = CogVideoXTransformer3DModel(num_attention_heads=48, num_layers=42, use_rotary_positional_embeddings=True)
    return [
        ("Wan 2.1 1.3B", wan.transformer, wan.vae, umt5),
        ("Wan 2.1 14B", WanTransformer3DModel(text_dim=4096), wan.vae, umt5),
        ("CogVideoX 2B", cogvideox.transformer, cogvideox.vae, t5),
        ("CogVideoX 5B", large_cogvideox, cogvideox.vae, t5),
        ("LTX-Video 2B", ltx.transformer, ltx.vae, t5),
    ]


def head_memory(case: tuple[Any, ...], at_once: int, dtype: torch.dtype) -> tuple[int, int, int]:
    """Bytes of the head's weights, of the maps it returns, and the peak of all else."""
    _, width, per_step, token, frames, height, columns = case
    steps, tokens = 1 + (frames - 1) // per_step, (height // token) * (columns // token)
    before, pointmap_head.MAX_TOKENS = pointmap_head.MAX_TOKENS, at_once
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            head = Pointmap3DHead(feature_dim=width, patch_size=token, frames_per_step=per_step)
            for name, module in head.named_modules():
                kept = name.split(".")[0] in head._keep_in_fp32_modules
                for key, weight in module._parameters.items():
                    if weight is not None and not kept:  # `.to` does not know tensors without data
                        module._parameters[key] = nn.Parameter(torch.empty(weight.shape, dtype=dtype))
            pairs = torch.stack([torch.zeros(frames - 1, dtype=torch.long), torch.arange(1, frames)], dim=-1)
            head._check_pairs = lambda given, *_: given  # it looks at numbers, which tensors without data have not
            features = torch.zeros(1, steps, tokens, width, dtype=dtype)
            memory = LiveMemory()
            memory.ignore([*head.parameters(), *head.buffers(), pairs])
            with memory:
                features = features.clone()
                maps = head(features, height, columns, pairs)
            returned = sum(map(_bytes, maps.to_tuple()[:4]))
            weights = sum(map(_bytes, [*head.parameters(), *head.buffers()]))
            return weights, returned, memory.peak - returned
    finally:
        pointmap_head.MAX_TOKENS = before


def training_rows() -> Iterator[str]:
    """A step of each recipe, on one device and with cached clips."""
    for name in RECIPES:
        for checkpointing in (True, False):
            words = ["--config", str(ROOT / "training" / "recipes" / f"{name}.yaml")]
            config = load_config(TrainConfig, [*words, "--gradient_checkpointing", str(checkpointing).lower()])
            memory, steps = step_memory(config), config.gradient_accumulation_steps * config.num_steps
            sizes = (memory.parameters, memory.gradients + memory.optimizer + memory.average, memory.activations, memory.total)
            fits = [card for card in CARDS_GB if memory.total + CUDA_BYTES <= USABLE * card * 1e9]
            teraflops = step_flops(config) / 1e12
            numbers = " | ".join(f"{size / 2**30:.2f}" for size in sizes)
            yield (
                f"| `{name}` | {'yes' if checkpointing else 'no'} | {numbers} | {', '.join(map(str, fits)) or 'none'} | "
                f"{teraflops:.0f} | {teraflops * steps / (0.4 * A100_TERAFLOPS) / 3600:.2g} |"
            )


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def main(arguments: list[str]) -> int:
    """Entry point."""
    if arguments != ["--training"]:
        inference()
    print("| recipe | checkpointing | weights | gradients, moments, average | activations | total | fits | TFLOP | hours |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in training_rows():
        print(row, flush=True)
    return 0


def inference() -> None:
    """The first two tables."""
    print("| generator | transformer | VAE | text encoder |\n|---|---|---|---|")
    with torch.device("meta"):
        for name, *modules in parts():
            sizes = (2 * sum(weight.numel() for weight in module.parameters()) for module in modules)  # bfloat16
            print(f"| {name} | {' | '.join(f'{size / 2**30:.2f}' for size in sizes)} |")
    print()
    print("| generator | frames, pixels | weights of the head | maps returned | beside them, in chunks | all pairs at once |")
    print("|---|---|---|---|---|---|")
    for case in CASES:
        weights, maps, peak = head_memory(case, pointmap_head.MAX_TOKENS, torch.bfloat16)
        *_, whole = head_memory(case, 2**62, torch.bfloat16)
        sizes = " | ".join(f"{value / 2**30:.2f}" for value in (weights, maps, peak, whole))
        print(f"| {case[0]} | {case[4]} of {case[5]} x {case[6]} | {sizes} |")
    print()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
