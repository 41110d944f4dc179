"""Real clips with known cameras, read from the folders in which they are published."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from jog3r.commands.reconstruction.known_cameras import read_true_cameras
from jog3r.data.video import read_video


@dataclass(frozen=True)
class TrueClip:
    """F frames and their true cameras."""

    name: str
    frames: np.ndarray
    """(F, H, W, 3) uint8."""
    poses: np.ndarray
    """(F, 4, 4) camera-to-world, any world."""
    focal_px: float
    """In x."""
    aspect: float
    """fy / fx."""


def read_clips(data: Path) -> Iterator[TrueClip]:
    """The clips of RealEstate10K (re10k), 7-Scenes (sevenscenes_redkitchen) and of the door (lund_door) that are in a folder.

    What is missing is named on standard error.
    """
    videos = sorted((data / "re10k" / "videos").glob("*.mp4"))
    if not videos:
        sys.stderr.write(f"skipped: no videos in {data / 're10k' / 'videos'}\n")
    for video in videos:
        file = data / "re10k" / "pose_files" / f"{video.stem}.txt"
        frames = read_video(video).frames
        numbers = np.array(file.read_text().splitlines()[1].split()[1:5], dtype=np.float64)
        fx, fy = numbers[0] * frames.shape[2], numbers[1] * frames.shape[1]
        yield TrueClip(video.stem[:6], frames, np.asarray(read_true_cameras(file)), fx, fy / fx)
    for folder in [*sorted((data / "sevenscenes_redkitchen").glob("clip_*")), data / "lund_door"]:
        if not (folder / "scene.json").is_file():
            sys.stderr.write(f"skipped: no scene.json in {folder}\n")
            continue
        scene = json.loads((folder / "scene.json").read_text())["frames"]
        frames = np.stack([np.asarray(Image.open(folder / frame["image"]).convert("RGB")) for frame in scene])
        poses = np.linalg.inv(np.array([frame["w2c"] for frame in scene]).reshape(-1, 4, 4))
        fx, fy = scene[0]["K"][:2]
        yield TrueClip(folder.name, frames, poses, fx, fy / fx)
