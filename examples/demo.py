"""What `make demo` runs: three prompts to video with cameras, then cameras from a generated and from a rendered video.

python examples/demo.py --out outputs/demo
"""

import argparse
import time
from pathlib import Path

import torch

from jog3r import Jog3rPipeline, tiny_checkpoint
from jog3r.data import procedural_clip
from jog3r.evaluation import pose_errors, pose_metrics
from jog3r.evaluation.baselines import constant_poses
from jog3r.export.exporters import write_results
from jog3r.export.pictures import overview_animation
from jog3r.export.scene import Scene

PROMPTS = {
    "forward": "a room with blue walls and a brown plank floor, with a red sofa, the camera moves forward",
    "orbit": "a room with white walls and a gray floor, with a green plant and a yellow chair, the camera orbits left",
    "turn": "a room with yellow walls and a black tiled floor, with a purple bed, the camera turns right",
}


def main() -> None:
    """Generate, reconstruct, compare, and say where the files are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("outputs/demo"), help="folder to write (default: outputs/demo)")
    out = parser.parse_args().out
    pipe, generator = Jog3rPipeline.from_pretrained(tiny_checkpoint), torch.Generator()

    results, scenes = {}, []
    for name, prompt in PROMPTS.items():
        start = time.monotonic()
        results[name] = pipe(prompt, num_inference_steps=30, generator=generator.manual_seed(0))
        scenes.append(Scene(**results[name].clip(0), fps=8.0, caption=prompt))
        write_results(scenes[-1], out / name, overwrite=True)
        print(f"{out / name}: {prompt!r}, {time.monotonic() - start:.1f} s")

    clip = procedural_clip(0, split="test")
    forward = results["forward"]
    videos = {"generated": (forward.frames[0], forward.poses[0].numpy()), "rendered": (clip.frames, clip.poses)}
    for name, (video, reference) in videos.items():
        found = pipe(video=video, generator=generator.manual_seed(0))
        scenes.append(Scene(**found.clip(0), fps=8.0, caption=f"cameras of the {name} video"))
        write_results(scenes[-1], out / f"cameras_of_{name}", overwrite=True)
        truth = "its true cameras" if name == "rendered" else "the cameras it was generated with"
        print(f"{out / f'cameras_of_{name}'}: cameras found in the {name} video, against {truth}:")
        for method, poses in (("jog3r", found.poses[0].numpy()), ("constant pose", constant_poses(len(reference)))):
            errors = pose_metrics([pose_errors(poses, reference)])
            print(f"  {method:14s} rotation {errors['rotation_deg']:5.2f} deg, translation {errors['translation_deg']:5.1f} deg")
    (out / "overview.webp").write_bytes(overview_animation([*scenes[:3], scenes[-1]]))
    print(f"Look at {out}/overview.webp in a browser, then at {out}/*/video.mp4, trajectory.png, pointcloud.glb (a glTF viewer).")


if __name__ == "__main__":
    main()
