"""How long the trainer waits for prepared data, whether memory stays flat over many clips, and what streaming costs.

    python benchmarks/training_data.py [--steps 60] [--clips 10000] [--workers 1] [--model FOLDER] [--data cache stream]
        [--videos 40] [--frames 16] [--frames_per_group 16] [--clips_per_shard 16]

Prepares a cache of procedural clips, trains the model on it and prints the share of the time spent waiting, without the first ten
steps, in which the workers start; then reads clips alone, printing the memory of the loader processes on the way. At last both
ways to read the same files, at random and shard by shard, take turns. `--steps 0` and `--clips 0` leave out a part.
"""

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from torch.utils.data import DataLoader

import jog3r.training.prepare
from jog3r import tiny_checkpoint
from jog3r.data.cache import FRAMES_PER_GROUP
from jog3r.pipelines.loading.any_pipeline import load_pipeline
from jog3r.training.clips.step_batches import BatchShare
from jog3r.training.clips.streams import build_loader, build_stream
from jog3r.training.config import TrainConfig
from jog3r.training.preparation.prepare_config import PrepareConfig
from jog3r.training.run.processes import start_accelerator
from jog3r.training.train_joint import Run

WARM_UP_STEPS = 10


def training_config(folder: Path, options: argparse.Namespace, data: str, steps: int) -> TrainConfig:
    """Joint training of the model on the cache, with as many clips a step as the paper's recipe: the fewest there can be."""
    place = {"cache_dir" if data == "cache" else "dataset": str(folder / "cache")}
    return TrainConfig(
        init_from=str(options.model), output_dir=str(folder / "run"), data=data, **place,
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


def open_loader(config: TrainConfig) -> DataLoader:
    """All clips of the run, read by nobody else."""
    share = BatchShare(config.generation_batch, config.reconstruction_batch)
    pipeline = load_pipeline(config.init_from)
    stream = build_stream(config, pipeline, pipeline.transformer.config.max_caption_length, share)
    return build_loader(stream, share, config, 0)


def print_memory(config: TrainConfig) -> float:
    """Read all clips, print the unshared memory of this process and its workers; its growth in MiB after a tenth of them."""
    loader = open_loader(config)
    every = max(1, len(loader) // 10)
    sizes, begin = [], time.monotonic()
    for number, _ in enumerate(loader, 1):
        if number % every == 0:
            processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
            sizes.append(sum(process.memory_full_info().uss for process in processes) / 2**20)
            done = 2 * number
            print(f"{done} clips: {sizes[-1]:.0f} MiB, {done / (time.monotonic() - begin):.0f} clips/s", flush=True)
    return sizes[-1] - sizes[0]


def print_ratio(cached: TrainConfig, streamed: TrainConfig, rounds: int = 5) -> float:
    """Read all clips both ways in turn, without workers; clips a second of processor time, streamed over at random."""
    loaders = {config.data: open_loader(dataclasses.replace(config, num_workers=0)) for config in (cached, streamed)}
    speeds: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(rounds):
        for name, loader in loaders.items():
            begin = time.process_time()
            clips = sum(2 for _ in loader)
            speeds[name].append(clips / (time.process_time() - begin))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    print(", ".join(f"{name}: {value:.0f} clips/s of processor time" for name, value in medians.items()))
    return medians["stream"] / medians["cache"]


def main() -> int:
    """Both measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--videos", type=int, default=40)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--frames", type=int, default=16, help="of a video; a clip takes 16")
    parser.add_argument("--frames_per_group", type=int, default=FRAMES_PER_GROUP)
    parser.add_argument("--clips_per_shard", type=int, default=16)
    parser.add_argument("--model", type=Path, default=tiny_checkpoint)
    parser.add_argument("--data", nargs="+", choices=["cache", "stream"], default=["cache", "stream"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    good = True
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        size = {"num_frames": options.frames, "height": 64, "width": 64, "caption_length": 32, "num_threads": 1}
        size["clips_per_shard"] = options.clips_per_shard
        jog3r.training.prepare.FRAMES_PER_GROUP = options.frames_per_group
        jog3r.training.prepare.Preparation(
            PrepareConfig(
                output_dir=str(folder / "cache"), model=str(options.model), source="procedural", num_clips=options.videos, **size
            )
        ).run()
        for data in options.data:
            print(f"--data {data}")
            if options.steps:
                good &= print_waiting(training_config(folder, options, data, options.steps)) < 0.02
            if options.clips:
                growth = print_memory(training_config(folder, options, data, options.clips // 2))
                print(f"memory grew by {growth:.1f} MiB over the last {options.clips * 9 // 10} clips")
                good &= growth < 20
        if len(options.data) > 1:
            ratio = print_ratio(*(training_config(folder, options, data, 200) for data in ("cache", "stream")))
            print(f"streamed over at random: {ratio:.2f}")
            good &= ratio >= 0.8
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
