"""Joint step against the plain way of doing it: two full passes with gradients for everything.

    OMP_NUM_THREADS=1 python benchmarks/training_step.py [--repeats 5] [--case "tiny, temporal"] [--compile joint plain]

Both ways see the same clips, noise and captions (embedded beforehand), compute the same two losses, clip the gradients, take a
step of AdamW and of the moving average, on as many clips as the paper's recipe: 1 + 1. The plain way takes torch's AdamW as it
comes, the joint step that of the trainer. Reported is the median CPU time of a step on one thread, the two ways in turn, so that
other work on the machine does not count; and beside it the ratio of the multiplications, which no machine can change.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import EMAModel
from torch.utils.flop_counter import FlopCounterMode

from jog3r import Jog3rTransformer3DModel, Pointmap3DHead, tiny_checkpoint
from jog3r.pipelines.reconstruction import noise_latents
from jog3r.training.build import build_joint_model, select_trainable
from jog3r.training.clips.step_batches import StepNoise, draw_step_noise
from jog3r.training.config import TrainConfig
from jog3r.training.joint_model import JointModel, reconstruction_loss
from jog3r.training.losses import generation_loss
from jog3r.training.optimization import build_optimizers

Losses: TypeAlias = Callable[[JointModel, dict[str, torch.Tensor], StepNoise, TrainConfig], torch.Tensor]

# Tiny is the bundled model as its files have it. Mid-size has the paper's proportions: half of its blocks, a third of its width.
TINY = dict(Jog3rTransformer3DModel.load_config(tiny_checkpoint(), subfolder="transformer"))
MID = dict(
    num_layers=14,
    feature_layer=13,
    num_attention_heads=6,
    attention_head_dim=64,
    caption_channels=512,
    in_channels=4,
    out_channels=4,
    sample_size=16,
    max_caption_length=40,
)
TINY_HEAD = dict(Pointmap3DHead.load_config(tiny_checkpoint(), subfolder="pointmap_head"))
MID_HEAD = dict(feature_dim=384, hidden_dim=256, num_layers=3, num_attention_heads=4, patch_size=8)
CASES = {
    "tiny, temporal": (TINY, TINY_HEAD, dict(trainable="temporal", frozen_blocks=1)),
    "tiny, all": (TINY, TINY_HEAD, dict(trainable="all")),
    "mid-size, temporal": (MID, MID_HEAD, dict(trainable="temporal", frozen_blocks=2)),
    "mid-size, all": (MID, MID_HEAD, dict(trainable="all")),
}


def make_inputs(config: TrainConfig, caption_channels: int) -> tuple[dict[str, torch.Tensor], StepNoise]:
    """Random clips: what is in them does not matter for the time."""
    clips, frames = config.generation_batch + config.reconstruction_batch, config.num_frames
    size = (config.height, config.width)
    batch = {
        "latents": torch.randn(clips, 4, frames, size[0] // 4, size[1] // 4),
        "depth": torch.rand(clips, frames, *size) + 1,
        "valid": torch.ones(clips, frames, *size, dtype=torch.bool),
        "intrinsics": (torch.eye(3) * torch.tensor([60.0, 60.0, 1.0])).expand(clips, frames, 3, 3),
        "poses": torch.eye(4).expand(clips, frames, 4, 4),
        "caption_mask": torch.ones(clips, 40, dtype=torch.long),
        "caption_embeds": torch.randn(clips, 40, caption_channels),
    }
    return batch, draw_step_noise(config, 0, list(range(clips)), batch["latents"], 40, 1000)


def plain_losses(joint: JointModel, batch: dict[str, torch.Tensor], draws: StepNoise, config: TrainConfig) -> torch.Tensor:
    """Both losses by two separate passes through all blocks, the empty caption embedded for every clip."""
    count = config.generation_batch
    null = joint.transformer.null_caption
    noisy = noise_latents(joint.scheduler, batch["latents"], draws.noise, draws.timesteps)
    text = torch.where(draws.drop_caption[:, None, None], null[None], batch["caption_embeds"][:count])
    mask = batch["caption_mask"][:count].bool()
    sample = joint.transformer(noisy[:count], draws.timesteps[:count], text, mask).sample
    latents, noise = batch["latents"][:count], draws.noise[:count]
    generation = generation_loss(sample, latents, noise, draws.timesteps[:count], joint.scheduler).mean()
    empty = null.expand(len(noisy) - count, -1, -1)
    null_mask = torch.arange(null.shape[0])[None] < draws.null_length[:, None]
    features = joint.transformer(noisy[count:], draws.timesteps[count:], empty, null_mask, return_features=True).features
    maps = joint.pointmap_head(features, config.height, config.width, pairs=draws.pairs)
    return generation + reconstruction_loss(maps, batch, draws.pairs, config)


def joint_losses(joint: JointModel, batch: dict[str, torch.Tensor], draws: StepNoise, config: TrainConfig) -> torch.Tensor:
    """Both losses as the training script computes them."""
    return torch.stack(list(joint(batch, draws, config).values())).sum()


def make_step(
    joint: JointModel, trained: list[Any], optimizers: list[torch.optim.Optimizer], losses: Losses, *inputs: Any
) -> Callable[[], float]:
    """One step as a function without arguments; it returns the loss."""
    average = EMAModel(trained, decay=0.999, use_ema_warmup=True, power=0.75)

    def step() -> float:
        loss = losses(joint, *inputs)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        average.step(trained)
        return loss.item()

    return step


def make_ways(transformer: dict, head: dict, changes: dict, compiled: list[str]) -> dict[str, Callable[[], float]]:
    """The steps to compare by name: "plain", "joint", and those of them that `compiled` names as "... compiled"."""
    sizes = dict(num_frames=16, height=64, width=64, generation_batch=1, reconstruction_batch=1, pairs_per_clip=4)
    config = TrainConfig(init_from="", output_dir="", **{**sizes, **changes})
    inputs = make_inputs(config, transformer["caption_channels"])
    ways = {"plain": dataclasses.replace(config, trainable="all"), "joint": config}
    ways |= {f"{name} compiled": dataclasses.replace(ways[name], compile_backend="inductor") for name in compiled}
    steps = {}
    for name, options in ways.items():
        torch.manual_seed(0)
        models = Jog3rTransformer3DModel.from_config(transformer), Pointmap3DHead.from_config(head)
        joint = build_joint_model(*models, None, DDPMScheduler(), options)
        named = select_trainable(joint, options)
        trained = [value for _, value in named]
        plain = name.startswith("plain")
        optimizers = [torch.optim.AdamW(trained, lr=1e-5)] if plain else build_optimizers(named, options)
        steps[name] = make_step(joint, trained, optimizers, plain_losses if plain else joint_losses, *inputs, options)
    return steps


def compare(steps: dict[str, Callable[[], float]], repeats: int) -> tuple[dict[str, float], float]:
    """Median CPU seconds of each way, and how many times the joint step's multiplications the plain one takes."""
    first, flops = {}, {}
    for name, step in steps.items():  # also warms up
        if "compiled" in name:
            first[name] = step()
            continue
        with FlopCounterMode(display=False) as counter:
            first[name] = step()
        flops[name] = counter.get_total_flops()
    if any(abs(loss - first["plain"]) > 1e-4 * abs(first["plain"]) for loss in first.values()):
        raise RuntimeError(f"the ways do not compute the same losses: {first}")
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            begin = time.process_time()
            step()
            times[name].append(time.process_time() - begin)
    return {name: statistics.median(values) for name, values in times.items()}, flops["plain"] / flops["joint"]


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--case", choices=CASES, default=None, help="one of the cases alone")
    parser.add_argument("--compile", nargs="*", choices=["joint", "plain"], default=[], help="also time these by torch.compile")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for case, (transformer, head, changes) in CASES.items():
        if options.case not in (None, case):
            continue
        seconds, products = compare(make_ways(transformer, head, changes, options.compile), options.repeats)
        shown = [f"{name} {value:.3f} s ({seconds['plain'] / value:.2f}x)" for name, value in seconds.items()]
        print(f"{case}: {', '.join(shown)}; multiplications {products:.2f}x", flush=True)


if __name__ == "__main__":
    main()
