"""Video to cameras and point cloud; without a video, of a clip drawn in code, with the errors against its true cameras.

python examples/reconstruct.py my_video.mp4 --out scene
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from jog3r import Jog3rPipeline, tiny_checkpoint
from jog3r.data import procedural_clip
from jog3r.data.video import Video, read_video
from jog3r.evaluation import pose_errors, pose_metrics
from jog3r.evaluation.baselines import constant_poses
from jog3r.export.exporters import write_results
from jog3r.export.scene import Scene


def main() -> None:
    """Read, reconstruct, write, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", nargs="?", help="video file, at most 64 frames (default: a procedural test clip)")
    parser.add_argument("--model", default=tiny_checkpoint(), help="folder or hub repository (default: the bundled tiny model)")
    parser.add_argument("--out", default="scene", help="folder to write (default: scene)")
    options = parser.parse_args()
    if Path(options.out).exists():
        parser.error(f"{options.out!r} exists already; name another folder")

    pipe = Jog3rPipeline.from_pretrained(options.model)
    _, height, width = pipe.output_size(None, None, None)
    clip = None if options.video else procedural_clip(0, split="test", height=height, width=width)
    try:
        if clip is None:
            video = read_video(options.video, size=(height, width), resize_mode="crop")
        else:
            video = Video(clip.frames, 8.0, np.arange(len(clip.frames)) / 8)
    except ValueError as error:
        parser.error(str(error))

    output = pipe(video=video.frames, generator=torch.Generator().manual_seed(0))
    paths = write_results(Scene(**output.clip(0), fps=video.fps, times=video.times), options.out)
    print(f"{options.out}: {', '.join(path.name for path in paths)}")
    if clip:
        for name, poses in (("reconstruction", output.poses[0].numpy()), ("constant pose", constant_poses(len(video.frames)))):
            metrics = pose_metrics([pose_errors(poses, clip.poses)])
            print(f"{name}: rotation {metrics['rotation_deg']:.2f} deg, translation {metrics['translation_deg']:.1f} deg")


if __name__ == "__main__":
    main()
