"""Cameras of real videos with known cameras: errors of V2C beside the constant pose and the camera that moves straight ahead.

    python benchmarks/real_video.py VIDEOS POSE_FILES [--model FOLDER]

VIDEOS holds NAME.mp4, POSE_FILES holds NAME.txt (RealEstate10K's camera files), one camera a frame.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import torch

from jog3r import Jog3rPipeline, tiny_checkpoint
from jog3r.cli_cameras import read_true_cameras
from jog3r.data.video import read_video
from jog3r.evaluation.baselines import constant_poses, forward_poses
from jog3r.evaluation.camera_metrics import pose_errors, pose_metrics


def main() -> None:
    """Print a line for each video and one for all of them; pairs of frames (1, f)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path)
    parser.add_argument("pose_files", type=Path)
    parser.add_argument("--model", default=tiny_checkpoint())
    options = parser.parse_args()
    paths = sorted(options.videos.glob("*.mp4"))
    if not paths:
        parser.error(f"{str(options.videos)!r} holds no .mp4")

    pipe = Jog3rPipeline.from_pretrained(options.model)
    _, height, width = pipe.output_size(None, None, None)
    errors: dict[str, list] = {"model": [], "constant pose": [], "always forward": []}
    print("| video | frames | " + " | ".join(f"{name}: rotation, translation" for name in errors) + " |")
    print("|---" * (2 + len(errors)) + "|")
    frames = 0
    for path in paths:
        video = read_video(path, size=(height, width), resize_mode="crop")
        true_poses = read_true_cameras(options.pose_files / f"{path.stem}.txt")
        if len(true_poses) != len(video.frames):
            parser.error(f"{path.name} has {len(video.frames)} frames and {len(true_poses)} cameras")
        poses = pipe(video=video.frames, generator=torch.Generator().manual_seed(0)).poses[0].numpy()
        count = len(poses)
        estimates = {"model": poses, "constant pose": constant_poses(count), "always forward": forward_poses(count)}
        for name, estimate in estimates.items():
            errors[name].append(pose_errors(estimate, true_poses))
        print(f"| {path.stem} | {count} | {_cells([values[-1:] for values in errors.values()])} |")
        frames += count
    print(f"| all | {frames} | {_cells(errors.values())} |")


def _cells(errors_of_estimates: Iterable[list]) -> str:
    metrics = [pose_metrics(errors) for errors in errors_of_estimates]
    return " | ".join(f"{found['rotation_deg']:.1f}, {found['translation_deg']:.1f}" for found in metrics)


if __name__ == "__main__":
    main()
