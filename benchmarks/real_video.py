"""Cameras of real videos with known cameras: errors of V2C beside the constant pose and the camera that moves straight ahead.

    python benchmarks/real_video.py VIDEOS POSE_FILES [--model FOLDER] [--num_frames 16] [--stride N] [--resize crop|stretch]

VIDEOS holds NAME.mp4, POSE_FILES holds NAME.txt (RealEstate10K's camera files), one camera a frame. Of each video, windows of
`num_frames` frames, `stride` apart, are looked at one by one: from the first frame on, without overlap, as many as fit. Without
`--stride` it is the longest of training (1, 2, 4 or 8) that fits: 8 for official clips of 30 frames a second and at least 121
frames, 1 for 16 frames that were taken like this.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jog3r import tiny_checkpoint
from jog3r.commands.output_folder import UsageError
from jog3r.commands.reconstruction.known_cameras import read_true_cameras
from jog3r.data.frame_choice import STRIDES, FrameSelection
from jog3r.data.video import read_video
from jog3r.evaluation.baselines import constant_poses, forward_poses
from jog3r.evaluation.camera_metrics import PoseErrors, pose_errors, pose_metrics
from jog3r.pipelines.loading.any_pipeline import load_pipeline


def main() -> int:
    """Print a line for each window and one for all; pairs of frames (1, f). A mistake ends in one line and exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path)
    parser.add_argument("pose_files", type=Path)
    parser.add_argument("--model", default=tiny_checkpoint(), help="folder or hub repository (default: the bundled checkpoint)")
    parser.add_argument("--num_frames", type=int, default=16, help="of a window (default 16)")
    parser.add_argument("--stride", type=int, default=None, help="take every N-th frame (default: the longest that fits)")
    parser.add_argument(
        "--resize", choices=("crop", "stretch"), default="crop", help="the centre in the model's aspect ratio (default), or all"
    )
    try:
        compare(parser.parse_args())
    except (UsageError, ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def compare(options: argparse.Namespace) -> None:
    """The whole comparison, as the options say.

    Raises:
        ValueError, UsageError, OSError: a folder without videos, a file that cannot be read, or a video too short for a window.
    """
    if options.num_frames < 2 or (options.stride is not None and options.stride < 1):
        raise ValueError(f"num_frames must be at least 2 and stride 1, got {options.num_frames} and {options.stride}")
    paths = sorted(options.videos.glob("*.mp4"))
    if not paths:
        raise ValueError(f"{str(options.videos)!r} holds no .mp4")
    pipe = load_pipeline(options.model, with_text=False)
    _, height, width = pipe.output_size(None, None, None)
    errors: dict[str, list] = {"model": [], "constant pose": [], "always forward": []}
    print("| video | frames | " + " | ".join(f"{name}: rotation, translation" for name in errors) + " |")
    print("|---" * (2 + len(errors)) + "|")
    for path in paths:
        frames, true_poses = read_clip(path, options.pose_files / f"{path.stem}.txt", (height, width), options.resize)
        for window in cut_windows(len(frames), options.num_frames, options.stride, path.name):
            found = window_errors(pipe, frames[window.indices], true_poses[window.indices], path.name)
            for name, error in found.items():
                errors[name].append(error)
            count = window.num_frames
            place = "" if len(frames) == count else f" {window.start}+{window.stride}*{count}"
            print(f"| {path.stem}{place} | {count} | {_cells([values[-1:] for values in errors.values()])} |")
    print(f"| all | {options.num_frames * len(errors['model'])} | {_cells(errors.values())} |")


def read_clip(video: Path, cameras: Path, size: tuple[int, int], resize_mode: str) -> tuple[np.ndarray, np.ndarray]:
    """Frames (F, height, width, 3) uint8 of a video and its camera-to-world poses (F, 4, 4).

    Raises:
        ValueError, UsageError: a file that cannot be read, or other numbers of frames and cameras.
    """
    true_poses = read_true_cameras(cameras)
    count = len(true_poses)
    # one frame more than there are cameras is enough to tell that they do not belong together
    frames = read_video(video, max_frames=count + 1, stop=count + 1, size=size, resize_mode=resize_mode).frames
    if len(frames) != count:
        found = f"more than {count}" if len(frames) > count else len(frames)
        raise ValueError(f"{video.name} has {found} frames and {count} cameras")
    return frames, true_poses


def cut_windows(num_available: int, num_frames: int, stride: int | None, name: str) -> Iterator[FrameSelection]:
    """The windows of a video of `num_available` frames, see above.

    Raises:
        ValueError: not even one fits; `name` is that of the video.
    """
    fitting = [one for one in (STRIDES if stride is None else [stride]) if (num_frames - 1) * one < num_available]
    if not fitting:
        shortest = min(STRIDES) if stride is None else stride
        raise ValueError(
            f"{name} has {num_available} frames, a window of num_frames={num_frames} at stride {shortest} takes "
            f"{(num_frames - 1) * shortest + 1}: set num_frames or stride"
        )
    span = (num_frames - 1) * max(fitting) + 1
    for start in range(0, num_available - span + 1, span):
        yield FrameSelection(start, max(fitting), num_frames, False)


def window_errors(pipe: Any, frames: np.ndarray, true_poses: np.ndarray, name: str) -> dict[str, PoseErrors]:
    """Errors of the model, of the camera that never moves and of the one that moves straight ahead, on frames (F, H, W, 3).

    Pairs with a frame whose pose the model could not find count as 180 degrees, whatever stands in its place.
    """
    try:
        found = pipe(video=frames, generator=torch.Generator().manual_seed(0))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    known = found.registration[0].pose_known
    estimates = {"constant pose": constant_poses(len(frames)), "always forward": forward_poses(len(frames))}
    errors = {"model": pose_errors(found.poses[0].numpy(), true_poses, known=known.numpy())}
    return errors | {name: pose_errors(estimate, true_poses) for name, estimate in estimates.items()}


def _cells(errors_of_estimates: Iterable[list]) -> str:
    metrics = [pose_metrics(errors) for errors in errors_of_estimates]
    return " | ".join(f"{found['rotation_deg']:.1f}, {found['translation_deg']:.1f}" for found in metrics)


if __name__ == "__main__":
    sys.exit(main())
