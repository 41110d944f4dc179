"""Seconds of T2V, T2V+C and V2C, the tasks in turn, and what the geometry adds.

The speed of a machine drifts by more than the geometry costs. So its share is taken within each T2V+C call: seconds of its own
steps over seconds of the rest, which is what T2V does (the same passes, the same frames: `tests/test_pipeline.py`).

python benchmarks/sampling.py [--model FOLDER] [--steps 30] [--repeats 7]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch

from jog3r import Jog3rPipeline, tiny_checkpoint
from jog3r.data import procedural_clip

PROMPT = "a room with blue walls and a brown floor, with a red sofa, the camera moves forward"


def time_in_turn(actions: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Wall time of `repeats` calls of each action after one to warm up, the actions in turn."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(repeats + 1):
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            if turn:
                times[name].append(time.perf_counter() - start)
    return times


def timed(function: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    """The function, with the seconds of each call added to `spent`."""

    def call(*arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        result = function(*arguments, **options)
        spent.append(time.perf_counter() - start)
        return result

    return call


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=tiny_checkpoint())
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    pipe = Jog3rPipeline.from_pretrained(options.model)
    pipe.set_progress_bar_config(disable=True)
    frames, height, width = pipe.output_size(None, None, None)
    video = procedural_clip(0, "test", frames, height, width).frames

    def sample(task: str) -> Callable[[], object]:
        return lambda: pipe(
            PROMPT, task=task, num_inference_steps=options.steps, generator=torch.Generator().manual_seed(0), output_type="np"
        )

    spent: list[float] = []  # seconds of the two steps, call by call
    steps: dict[str, Any] = {name: timed(getattr(pipe, name), spent) for name in ("predict_pointmaps", "assemble_geometry")}

    def with_cameras() -> None:
        with patch.multiple(pipe, **steps):
            sample("t2v+c")()

    actions: dict[str, Callable[[], object]] = {"t2v": sample("t2v"), "t2v+c": with_cameras}
    actions["v2c"] = lambda: pipe(video=video, generator=torch.Generator().manual_seed(0))
    seconds = time_in_turn(actions, options.repeats)
    geometry = [sum(spent[k : k + 2]) for k in range(2, len(spent), 2)]  # the first call was to warm up
    added = statistics.median(part / (whole - part) for part, whole in zip(geometry, seconds["t2v+c"], strict=True))
    print(f"{frames} frames of {width} x {height}, {options.steps} steps, guidance on, {torch.get_num_threads()} threads")
    print("| task | seconds (median) |\n|---|---|")
    for task, values in seconds.items():
        print(f"| {task} | {statistics.median(values):.2f} |")
    print(f"geometry takes {statistics.median(geometry):.2f} s and adds {100 * added:.1f} % to t2v")


if __name__ == "__main__":
    main()
