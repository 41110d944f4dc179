"""How fast procedural clips are rendered on one core.

    OMP_NUM_THREADS=1 python benchmarks/rendering.py --clips 40 --size 64 --num_frames 16 --style varied

Prints CPU seconds a clip for rendering, and for the caption alone.
"""

import argparse
import platform
import time

import numpy as np

from jog3r.data.procedural import procedural_caption, procedural_clip
from jog3r.data.procedural.clips import STYLES


def main() -> None:
    """Render clips of the validation split and print the time each took."""
    parser = argparse.ArgumentParser(description="CPU time of procedural clips on one core")
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--size", type=int, default=64, help="height and width in pixels")
    parser.add_argument("--num_frames", type=int, default=16)
    parser.add_argument("--style", choices=STYLES, default="rooms")
    options = parser.parse_args()
    shape = (options.num_frames, options.size, options.size, options.style)
    procedural_clip(0, "validation", *shape)
    seconds = []
    for index in range(options.clips):
        start = time.process_time()
        procedural_clip(index, "validation", *shape)
        seconds.append(time.process_time() - start)
    start = time.process_time()
    for index in range(1000):
        procedural_caption(index, "validation")
    caption_ms = time.process_time() - start
    print(f"{platform.machine()}, numpy {np.__version__}, {options.num_frames} frames of {options.size} x {options.size}")
    mean = np.mean(seconds)
    print(f"{mean:.4f} s a clip (median {np.median(seconds):.4f}, worst {np.max(seconds):.4f}), {1 / mean:.1f} clips/s")
    print(f"{caption_ms:.3f} ms a caption")


if __name__ == "__main__":
    main()
