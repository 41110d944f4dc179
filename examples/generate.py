"""Text to video, without cameras.

python examples/generate.py "a room with blue walls and a brown floor, with a red sofa, the camera moves forward" --out video.mp4
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from jog3r import Jog3rPipeline, tiny_checkpoint
from jog3r.export.files import write_file
from jog3r.export.video import encode_video

PROMPT = "a room with blue walls and a brown floor, with a red sofa, the camera moves forward"


def main() -> None:
    """Load, sample, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt", nargs="?", default=PROMPT, help=f"default: {PROMPT!r}")
    parser.add_argument("--model", default=tiny_checkpoint(), help="folder or hub repository (default: the bundled tiny model)")
    parser.add_argument("--steps", type=int, default=30, help="sampling steps (default: 30)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="video.mp4", help="file to write (default: video.mp4)")
    options = parser.parse_args()
    if Path(options.out).exists():
        parser.error(f"{options.out!r} exists already; name another file")

    pipe = Jog3rPipeline.from_pretrained(options.model)
    output = pipe(
        options.prompt,
        task="t2v",
        num_inference_steps=options.steps,
        generator=torch.Generator().manual_seed(options.seed),
    )
    frames = np.stack([np.asarray(frame) for frame in output.frames[0]])  # (F, H, W, 3) uint8
    path = write_file(options.out, encode_video(frames, fps=8.0))
    print(f"{path}: {len(frames)} frames of {frames.shape[2]} x {frames.shape[1]} pixels")


if __name__ == "__main__":
    main()
