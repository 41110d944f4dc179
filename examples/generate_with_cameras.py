"""Text to video with pointmaps and cameras, in one sampling.

python examples/generate_with_cameras.py --out scene \\
    "a room with green walls and a gray floor, with a blue chair, the camera turns left"
"""

import argparse
from pathlib import Path

import torch

from jog3r import Jog3rPipeline, tiny_checkpoint
from jog3r.export.exporters import write_results
from jog3r.export.scene import Scene

PROMPT = "a room with green walls and a gray floor, with a blue chair and a yellow lamp, the camera turns left"


def main() -> None:
    """Load, sample, write, and print the cameras."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt", nargs="?", default=PROMPT, help=f"default: {PROMPT!r}")
    parser.add_argument("--model", default=tiny_checkpoint(), help="folder or hub repository (default: the bundled tiny model)")
    parser.add_argument("--steps", type=int, default=30, help="sampling steps (default: 30)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="scene", help="folder to write (default: scene)")
    options = parser.parse_args()
    if Path(options.out).exists():
        parser.error(f"{options.out!r} exists already; name another folder")

    pipe = Jog3rPipeline.from_pretrained(options.model)
    output = pipe(
        options.prompt,
        num_inference_steps=options.steps,
        generator=torch.Generator().manual_seed(options.seed),
    )
    scene = Scene(**output.clip(0), fps=8.0, caption=options.prompt)
    paths = write_results(scene, options.out)
    print(f"{options.out}: {', '.join(path.name for path in paths)}")
    print(f"features read at t = {output.reconstruction_timestep:g}; focal length {output.intrinsics[0, 0, 0, 0]:.1f} pixels")
    for index, centre in enumerate(output.poses[0, :, :3, 3]):  # frame 1's points have a mean distance of 1
        print(f"camera {index + 1:2d} at x {centre[0]:+.3f}  y {centre[1]:+.3f}  z {centre[2]:+.3f}")


if __name__ == "__main__":
    main()
