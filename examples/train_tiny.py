"""A few steps of joint training from the bundled checkpoint, on scenes drawn in code; the result is a pipeline folder.

python examples/train_tiny.py --out run --steps 5
"""

import argparse
import logging
from pathlib import Path

import torch

from jog3r import Jog3rPipeline, tiny_checkpoint
from jog3r.training.config import TrainConfig
from jog3r.training.train_joint import train


def main() -> None:
    """Train, load what came out, use it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="run", help="folder of the run; an unfinished run in it is resumed (default: run)")
    parser.add_argument("--steps", type=int, default=5, help="optimizer steps (default: 5)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    config = TrainConfig(
        init_from=str(tiny_checkpoint),
        output_dir=options.out,
        num_steps=options.steps,
        generation_batch=1,  # clips for L_gen
        reconstruction_batch=1,  # clips for L_rec, four pairs of frames each
        learning_rate=1e-5,
        warmup_steps=1,
        checkpoint_every=options.steps,
        sample_every=options.steps,  # a sheet to look at in run/samples
        sample_steps=8,
        tracker="none",
    )
    folder = train(config)
    if folder is None:
        parser.exit(message="paused; the same command goes on\n")

    pipe = Jog3rPipeline.from_pretrained(folder)
    prompt = "a room with white walls and a gray floor, with a green chair, the camera moves left"
    output = pipe(prompt, generator=torch.Generator().manual_seed(0))
    print(f"{Path(folder)}: trained {options.steps} steps; poses {tuple(output.poses.shape)}")


if __name__ == "__main__":
    main()
