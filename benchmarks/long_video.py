"""Long videos: seconds and peak memory by length, and the drift on a synthetic loop with and without the global pass.

    python benchmarks/long_video.py [--model FOLDER] [--lengths 64 256 1000] [--seeds 5]

Each length runs in a process of its own, frames are drawn as they are asked for, maps go to a store that forgets them: what is
measured is the machinery. The loop needs no model: exact geometry of a walk round a room, with the errors of `Errors`.
"""

import argparse
import ctypes
import gc
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from long_video_scene import Errors, LoopWalk
from torch import Tensor

from jog3r import Jog3rPipeline, tiny_checkpoint
from jog3r.data import procedural_clip
from jog3r.geometry.cameras import invert, rotation_angle_deg, umeyama_sim3
from jog3r.pipelines.long_videos.long_video import join_video, reconstruct_long_video
from jog3r.pipelines.long_videos.loop_closing import LoopOptions

PATH_RADIUS = 2.75  # of the walk, in metres


class FirstOnly:
    """A store that forgets all frames but the first."""

    def __init__(self) -> None:
        self.first: tuple[Tensor, Tensor] | None = None

    def write(self, index: int, depth: Tensor, confidence: Tensor) -> None:
        """Forget."""
        if index == 0:
            self.first = (depth, confidence)

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """The first frame's maps."""
        if index or self.first is None:
            raise IndexError(f"frame {index} is forgotten")
        return self.first


def back_and_forth(num_frames: int, size: int) -> Iterator[np.ndarray]:
    """A rendered clip of 64 frames, played back and forth."""
    frames = procedural_clip(0, "test", 64, size, size).frames
    for index in range(num_frames):
        place = index % 126
        yield frames[place if place < 64 else 126 - place]


def peak_megabytes() -> float:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def held_megabytes() -> float:
    """Resident memory of this process once the allocator has given back what nobody holds (Linux with glibc)."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def run_length(model: str, num_frames: int, close_loops: bool) -> None:
    """Print seconds, peak and what the model and one window alone take."""
    pipe = Jog3rPipeline.from_pretrained(model)
    options = {"progress": False, "generator": torch.Generator().manual_seed(0)}
    reconstruct_long_video(pipe, list(back_and_forth(16, pipe.default_size)), **options)  # warms up
    held, base, start, busy = held_megabytes(), peak_megabytes(), time.perf_counter(), time.process_time()
    frames = back_and_forth(num_frames, pipe.default_size)
    result = reconstruct_long_video(pipe, frames, store=FirstOnly(), close_loops=close_loops, **options)
    seconds, busy, peak = time.perf_counter() - start, time.process_time() - busy, peak_megabytes()
    print(seconds, busy, peak, base, held_megabytes() - held, len(result))


def measure_lengths(model: str, lengths: list[int], close_loops: bool) -> None:
    """One process a length; prints the table and the slopes."""
    rows = []
    print("| frames | seconds | CPU seconds | CPU ms a frame | peak MB | above one window | held by the result |")
    print("|---|---|---|---|---|---|---|")
    for count in lengths:
        command = [sys.executable, __file__, "--model", model, "--one", str(count), *(["--close_loops"] if close_loops else [])]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        seconds, busy, peak, base, held, _ = map(float, output.split()[-6:])
        rows.append((count, busy, peak))
        cells = [f"{count}", f"{seconds:.1f}", f"{busy:.1f}", f"{1000 * busy / count:.0f}", f"{peak:.0f}"]
        print(f"| {' | '.join([*cells, f'{peak - base:.1f}', f'{held:.1f}'])} |", flush=True)
    if len(rows) > 1:
        counts, busy_seconds, peaks = np.array(rows).T
        growth = np.polyfit(np.log(counts), np.log(busy_seconds), 1)[0]
        memory = 1024 * np.polyfit(counts, peaks, 1)[0]
        print(f"CPU seconds grow with frames to the power {growth:.2f}; peak memory by {memory:.1f} KB a frame")


def drift(poses: Tensor, walk: LoopWalk) -> tuple[float, float]:
    """RMS error of the centres after the best similarity, in per cent of the path's radius, and the mean rotation error."""
    ours, true = poses[:, :3, 3].double(), walk.poses[:, :3, 3]
    scale, rotation, shift = umeyama_sim3(ours, true)
    error = (scale * ours @ rotation.T + shift - true).square().sum(-1).mean().sqrt() / PATH_RADIUS
    apart = (invert(poses.double()) @ walk.poses)[:, :3, :3]
    return 100 * float(error), float(rotation_angle_deg(apart).mean())


def measure_drift(num_frames: int, seeds: int) -> None:
    """A walk once round and 24 frames more, reconstructed by windows with errors."""
    errors = Errors(outliers=0.1)
    rows: dict[str, list[tuple[float, float]]] = {"joined windows": [], "and the global pass": []}
    closed = 0
    start = time.perf_counter()
    for seed in range(seeds):
        walk = LoopWalk(num_frames, size=24, errors=errors, seed=seed)
        result = join_video(walk.reconstruct, [*range(num_frames), *range(24)], loops=LoopOptions(), progress=False)
        rows["joined windows"].append(drift(result.chained_poses[:num_frames], walk))
        rows["and the global pass"].append(drift(result.poses[:num_frames], walk))
        closed += sum(loop.weight > 0.5 for loop in result.loops)
    print(f"loop of {num_frames} frames, {errors}, {seeds} seeds, {closed / seeds:.1f} loops closed each")
    print("| | centre error, % of the radius | rotation error, degrees |\n|---|---|---|")
    for name, values in rows.items():
        centres, angles = zip(*values, strict=True)
        print(f"| {name} | {statistics.mean(centres):.2f} | {statistics.mean(angles):.2f} |")
    print(f"({time.perf_counter() - start:.0f} s)")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(tiny_checkpoint()))
    parser.add_argument("--lengths", type=int, nargs="*", default=[64, 256, 1000])
    parser.add_argument("--close_loops", action="store_true", help="look for loops in the timed runs too")
    parser.add_argument("--loop_frames", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--one", type=int, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        run_length(options.model, options.one, options.close_loops)
        return
    if options.lengths:
        measure_lengths(options.model, options.lengths, options.close_loops)
    if options.seeds:
        measure_drift(options.loop_frames, options.seeds)


if __name__ == "__main__":
    main()
