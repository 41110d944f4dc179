"""Memory of a training step of the full-size model for each way to train it, and the count checked against a real allocator.

    OMP_NUM_THREADS=1 python benchmarks/memory_table.py [--config training/recipes/paper.yaml] [--option value ...]

Printed is a table in Markdown: what is trained, with and without gradient checkpointing, in GiB, with the smallest of the usual
cards that holds it. Nothing is computed and no weights are needed: see `jog3r.training.memory`. Then, for a small model that does
run here, the counted activations beside what the allocator gave. Exit code 1 if they differ by more than 5 %.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import nn
from torch.profiler import ProfilerActivity, profile

from jog3r import Jog3rTransformer3DModel, Pointmap3DHead
from jog3r.training.build import build_joint_model, select_trainable
from jog3r.training.config import TrainConfig, load_config
from jog3r.training.memory import StepMemory, measure_step, model_inputs, step_memory

ROOT = Path(__file__).resolve().parents[1]
WAYS = ("lora", "temporal", "all")
HEADER = "| trained | checkpointing | weights | gradients | moments | average | activations | total | fits |"


def row(config: TrainConfig, memory: StepMemory) -> str:
    """One line of the table."""
    parts = (memory.parameters, memory.gradients, memory.optimizer, memory.average, memory.activations, memory.total)
    sizes = " | ".join(f"{value / 2**30:.2f}" for value in parts)
    card = memory.smallest_card_gb
    fits = "none of 80 GB" if card is None else f"{card} GB"
    return f"| `{config.trainable}` | {'yes' if config.gradient_checkpointing else 'no'} | {sizes} | {fits} |"


def allocated_peak(joint: nn.Module, batch: dict[str, torch.Tensor], draws: Any, config: TrainConfig) -> int:
    """The most bytes that the allocator gave out in one forward and backward pass, from the profiler's record."""
    for _, parameter in select_trainable(joint, config):
        parameter.grad = torch.zeros_like(parameter)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        sum(joint(batch, draws, config).values()).backward()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def counted_and_allocated(**changes: Any) -> tuple[int, int]:
    """Bytes of activations of a small model's step: counted, and given by the allocator."""
    sizes = dict(num_frames=8, height=64, width=64, generation_batch=1, reconstruction_batch=1)
    sizes |= {"frozen_blocks": 1} if changes["trainable"] == "temporal" else {}
    config = TrainConfig(init_from="", output_dir="", **{**sizes, **changes})
    width = dict(num_attention_heads=4, attention_head_dim=32)
    transformer = Jog3rTransformer3DModel(num_layers=6, feature_layer=5, caption_channels=64, **width)
    head = Pointmap3DHead(feature_dim=128, hidden_dim=64, num_layers=2, num_attention_heads=2)
    joint = build_joint_model(transformer, head, None, DDPMScheduler(), config).train()
    batch, draws = model_inputs(joint, config)
    allocated_peak(joint, batch, draws, config)  # what is kept for later steps is there before
    return measure_step(joint, batch, draws, config).activations, allocated_peak(joint, batch, draws, config)


def main(arguments: list[str]) -> int:
    """Print both."""
    if not any(word.partition("=")[0] == "--config" for word in arguments):
        arguments = ["--config", str(ROOT / "training" / "recipes" / "paper.yaml"), *arguments]
    config = load_config(TrainConfig, arguments)
    print(HEADER, "|---" * 9 + "|", sep="\n")
    for trainable in WAYS:
        for checkpointing in (True, False):
            way = dataclasses.replace(config, trainable=trainable, gradient_checkpointing=checkpointing)
            print(row(way, step_memory(way)), flush=True)
    worst = 0.0
    for trainable in WAYS:
        for checkpointing in (True, False):
            counted, given = counted_and_allocated(trainable=trainable, gradient_checkpointing=checkpointing)
            worst = max(worst, abs(counted / given - 1))
            kind = f"{trainable}, {'with' if checkpointing else 'without'} checkpointing"
            print(f"small model, {kind}: counted {counted / 2**20:.2f} MiB, allocated {given / 2**20:.2f} MiB")
    print(f"largest difference {100 * worst:.1f} %")
    return 0 if worst < 0.05 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
