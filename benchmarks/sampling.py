"""Seconds of T2V, T2V+C and V2C, and what the geometry adds; all in one run, so that the ratios mean something.

python benchmarks/sampling.py [--model FOLDER] [--steps 30] [--repeats 3]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from jog3r import Jog3rPipeline, tiny_checkpoint
from jog3r.data import procedural_clip

PROMPT = "a room with blue walls and a brown floor, with a red sofa, the camera moves forward"


def median_seconds(action: Callable[[], object], repeats: int) -> float:
    """Median wall time of `repeats` calls after one to warm up."""
    action()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=tiny_checkpoint())
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    pipe = Jog3rPipeline.from_pretrained(options.model)
    pipe.set_progress_bar_config(disable=True)
    frames, height, width = pipe.output_size(None, None, None)
    video = procedural_clip(0, "test", frames, height, width).frames

    def sample(task: str) -> Callable[[], object]:
        return lambda: pipe(
            PROMPT, task=task, num_inference_steps=options.steps, generator=torch.Generator().manual_seed(0), output_type="np"
        )

    seconds = {task: median_seconds(sample(task), options.repeats) for task in ("t2v", "t2v+c")}
    seconds["v2c"] = median_seconds(lambda: pipe(video=video, generator=torch.Generator().manual_seed(0)), options.repeats)
    print(f"{frames} frames of {width} x {height}, {options.steps} steps, guidance on, {torch.get_num_threads()} threads")
    print("| task | seconds (median) |\n|---|---|")
    for task, value in seconds.items():
        print(f"| {task} | {value:.2f} |")
    print(f"geometry adds {100 * (seconds['t2v+c'] / seconds['t2v'] - 1):.1f} % to t2v")


if __name__ == "__main__":
    main()
