"""How long the trainer waits for cached data, and whether memory stays flat over many clips.

    python benchmarks/training_data.py [--steps 60] [--clips 10000] [--workers 1] [--model FOLDER]

Prepares a cache of procedural clips, trains the model on it and prints the share of the time spent waiting, without the first ten
steps, in which the workers start; then reads clips alone, printing the memory of the loader processes on the way.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from jog3r import tiny_checkpoint
from jog3r.pipelines.loading.any_pipeline import load_pipeline
from jog3r.training.clips.step_batches import BatchShare
from jog3r.training.clips.streams import build_loader, build_stream
from jog3r.training.config import TrainConfig
from jog3r.training.preparation.prepare_config import PrepareConfig
from jog3r.training.prepare import Preparation
from jog3r.training.run.processes import start_accelerator
from jog3r.training.train_joint import Run

WARM_UP_STEPS = 10


def training_config(folder: Path, options: argparse.Namespace, steps: int) -> TrainConfig:
    """Joint training of the model on the cache, with as many clips a step as the paper's recipe: the fewest there can be."""
    return TrainConfig(
        init_from=str(options.model), output_dir=str(folder / "run"), data="cache", cache_dir=str(folder / "cache"),
        train_text_encoder=True, num_frames=16, generation_batch=1, reconstruction_batch=1, pairs_per_clip=4, optimizer="muon",
        num_steps=steps, num_workers=options.workers, num_threads=1, tracker="none",
    )  # fmt: skip


def print_waiting(config: TrainConfig) -> float:
    """Train, print the share of the time that the trainer waited for its loader."""
    run = Run(config, start_accelerator(config))
    batches = iter(build_loader(run.stream, run.share, config, 0))
    waited, seconds = [], []
    for step in range(config.num_steps):
        begin = time.monotonic()
        logs, _ = run.step(step, batches)
        seconds.append(time.monotonic() - begin)
        waited.append(logs["data_wait"] * seconds[-1])
    share = sum(waited[WARM_UP_STEPS:]) / sum(seconds[WARM_UP_STEPS:])
    print(f"{config.num_steps - WARM_UP_STEPS} steps of {np.mean(seconds[WARM_UP_STEPS:]):.2f} s: waited {100 * share:.2f} %")
    return share


def print_memory(config: TrainConfig, clips: int) -> float:
    """Read `clips` clips, print the unshared memory of this process and its workers; its growth in MiB after a fifth of them."""
    share = BatchShare(config.generation_batch, config.reconstruction_batch)
    pipeline = load_pipeline(config.init_from)
    stream = build_stream(config, pipeline, pipeline.transformer.config.max_caption_length, clips)
    loader = build_loader(stream, share, config, 0)
    every = max(1, len(loader) // 10)
    sizes, begin = [], time.monotonic()
    for number, _ in enumerate(loader, 1):
        if number % every == 0:
            processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
            sizes.append(sum(process.memory_full_info().uss for process in processes) / 2**20)
            done = number * share.clips_per_micro_step
            print(f"{done} clips: {sizes[-1]:.0f} MiB, {done / (time.monotonic() - begin):.0f} clips/s", flush=True)
    return sizes[-1] - sizes[1]


def main() -> int:
    """Both measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--videos", type=int, default=40)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--model", type=Path, default=tiny_checkpoint)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        size = {"num_frames": 16, "height": 64, "width": 64, "caption_length": 32, "num_threads": 1}
        Preparation(
            PrepareConfig(str(folder / "cache"), str(options.model), "procedural", num_clips=options.videos, **size)
        ).run()
        share = print_waiting(training_config(folder, options, options.steps))
        growth = print_memory(training_config(folder, options, -(-options.clips // 2)), options.clips)
        print(f"memory grew by {growth:.1f} MiB over the last {options.clips * 4 // 5} clips")
    return 0 if share < 0.02 and growth < 20 else 1


if __name__ == "__main__":
    sys.exit(main())
