"""Hard versions of real and rendered clips: are the cameras from tracks right, or flagged, and never silently wrong?

    python benchmarks/sfm_hard.py DATA [--clips N] [--only NAME ...]

DATA holds re10k/ (videos/, pose_files/), sevenscenes_redkitchen/clip_*/ and lund_door/ (scene.json); folders that are missing are
skipped with a line. Each clip is made harder in several ways; a version passes if its mean errors stay within twice the untouched
clip's (and 1 degree of rotation, 8 of direction), over the frames that are not flagged, or if it is refused. `*` marks frames
flagged as without a pose, `~` those whose direction is flagged, `?` those that are flagged as uncertain, of
poor fit, or for moving objects.
"""

import argparse
import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sfm_clips import read_clips
from sfm_scenes import RenderedClip, make_room, path, render
from torch.nn import functional

from jog3r.geometry.camera_metrics import pose_errors
from jog3r.sfm import TrackedCameras, track_cameras

Version = tuple[np.ndarray, np.ndarray, np.ndarray]  # frames, true poses, mask of frames that belong to frame 1's shot
FLOOR = (1.0, 8.0)  # degrees: twice an untouched clip's error, but not less than this
NOT_A_POSE = ("no overlap", "too few points", "poor fit", "uncertain", "moving objects")


def main() -> int:
    """Print a line for each version of each clip; exit code 1 if any is silently wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--clips", type=int, default=None, help="only the first N real clips")
    parser.add_argument("--only", nargs="*", default=None, help="only these versions")
    options = parser.parse_args()
    print("| clip | version | rotation, direction | untouched | frames | verdict |\n|---|---|---|---|---|---|")
    wrong = 0
    for clip in list(read_clips(options.data))[: options.clips]:
        untouched = errors_of(attempt(clip.frames), clip.poses, np.ones(len(clip.frames), bool))
        for name, harden in HARDER.items():
            if options.only is None or name in options.only:
                wrong += report(clip.name, name, *harden(clip.frames, clip.poses), untouched)
    for name, scene in rendered():
        if options.only is None or name in options.only:
            wrong += report("rendered", name, scene.frames, scene.poses, np.ones(len(scene.frames), bool), (0.5, 4.0))
    print(f"{wrong} silently wrong")
    return 1 if wrong else 0


def attempt(frames: np.ndarray) -> TrackedCameras | str:
    """The cameras, or the sentence with which the frames are refused."""
    try:
        return track_cameras(frames)
    except ValueError as error:
        return str(error)


def errors_of(found: TrackedCameras | str, poses: np.ndarray, same_shot: np.ndarray) -> tuple[float, float]:
    """Mean rotation and direction errors in degrees over the frames that are not flagged; NaN where all are."""
    if isinstance(found, str):
        return np.nan, np.nan
    flags = found.degenerate[1:]
    sure = np.array([not any(word in flag for word in NOT_A_POSE) for flag in flags]) & found.registered.numpy()[1:]
    aimed = sure & np.array(["no parallax" not in flag for flag in flags])
    errors = pose_errors(found.poses, poses)
    rotation = np.where(same_shot[1:], errors.rotation_deg, 180.0)[sure]
    direction = np.where(same_shot[1:], np.nan_to_num(errors.translation_deg, nan=90.0), 180.0)[aimed]
    return (float(rotation.mean()) if len(rotation) else np.nan), (float(direction.mean()) if len(direction) else np.nan)


def report(clip: str, version: str, frames: np.ndarray, poses: np.ndarray, same_shot: np.ndarray, untouched: tuple) -> bool:
    """Print the line of one version; whether it is silently wrong."""
    found = attempt(frames)
    errors = errors_of(found, poses, same_shot)
    # NaN, everything flagged, is not more than any limit; where the untouched clip has no errors, the limit is the floor alone
    wrong = any(error > max(floor, 2 * clean) for error, clean, floor in zip(errors, untouched, FLOOR, strict=True))
    if isinstance(found, str):
        print(f"| {clip} | {version} | | | {len(frames)} | refused: {found} |", flush=True)
        return False
    marks = f"{int((~found.registered).sum())}* {sum('no parallax' in flag for flag in found.degenerate)}~"
    doubted = [any(word in flag for word in NOT_A_POSE[2:]) for flag in found.degenerate]
    marks += f" {sum(doubted)}?"
    numbers = f"{errors[0]:.2f}, {errors[1]:.1f} | {untouched[0]:.2f}, {untouched[1]:.1f}"
    verdict = "SILENTLY WRONG" if wrong else "ok"
    print(f"| {clip} | {version} | {numbers} | {len(frames)} {marks} | {verdict} {found.candidates[0].name} |", flush=True)
    return wrong


def _each(change: Callable[[Image.Image], Image.Image]) -> Callable[[np.ndarray, np.ndarray], Version]:
    def harden(frames: np.ndarray, poses: np.ndarray) -> Version:
        changed = np.stack([np.asarray(change(Image.fromarray(frame)).convert("RGB")) for frame in frames])
        return changed, poses, np.ones(len(poses), bool)

    return harden


def _jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=20)
    return Image.open(buffer)


def _small(image: Image.Image) -> Image.Image:
    scale = 128 / max(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)


def _blurred(image: Image.Image) -> Image.Image:
    """Nine pixels of motion blur across."""
    array = np.asarray(image, np.float64)
    padded = np.pad(array, ((0, 0), (4, 4), (0, 0)), mode="edge")
    blurred = sum(padded[:, shift : shift + array.shape[1]] for shift in range(9)) / 9
    return Image.fromarray(blurred.round().astype(np.uint8))


def _few(frames: np.ndarray, poses: np.ndarray) -> Version:
    some = np.linspace(0, len(frames) - 1, 3).round().astype(int)
    return frames[some], poses[some], np.ones(3, bool)


def _every_eighth(frames: np.ndarray, poses: np.ndarray) -> Version:
    return frames[::8], poses[::8], np.ones(len(frames[::8]), bool)


def _upside_down(frames: np.ndarray, poses: np.ndarray) -> Version:
    half = np.diag([-1.0, -1.0, 1.0, 1.0])
    return np.ascontiguousarray(frames[:, ::-1, ::-1]), half @ poses @ half, np.ones(len(frames), bool)


def add_mover(frames: np.ndarray) -> np.ndarray:
    """A textured object over 30 % of the picture that crosses it by itself."""
    count, height, width = frames.shape[:3]
    rng = np.random.default_rng(0)
    size = (round(0.55 * height), round(0.55 * width))
    patch = np.asarray(Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).resize(size[::-1], Image.Resampling.BICUBIC))
    changed = frames.copy()
    for index in range(count):
        left = round((width - size[1]) * index / max(count - 1, 1))
        top = round(0.2 * height + 0.1 * height * np.sin(index / 3))
        changed[index, top : top + size[0], left : left + size[1]] = patch
    return changed


def _moving(frames: np.ndarray, poses: np.ndarray) -> Version:
    return add_mover(frames), poses, np.ones(len(frames), bool)


def _cut(frames: np.ndarray, poses: np.ndarray) -> Version:
    """The second half is another scene."""
    half = len(frames) // 2
    other = render(make_room(77), path(len(frames) - half, sideways=0.5), frames.shape[1:3], 0.7 * frames.shape[2]).frames
    return np.concatenate([frames[:half], other]), poses, np.arange(len(frames)) < half


def _through_a_lens(distortion: float) -> Callable[[np.ndarray, np.ndarray], Version]:
    """As a wide lens shows the frames: the division model in units of a usual focal length; the corners stay where they are."""

    def harden(frames: np.ndarray, poses: np.ndarray) -> Version:
        size = np.array(frames.shape[2:0:-1])  # W, H
        rows, columns = np.mgrid[: size[1], : size[0]]
        from_centre = np.stack([columns, rows], -1) - (size - 1) / 2
        stretch = 1 + distortion * (from_centre**2).sum(-1, keepdims=True) / (0.75 * size.max()) ** 2
        places = 2 * from_centre / stretch * stretch[0, 0] / (size - 1)
        grid = torch.from_numpy(places).float().expand(len(frames), -1, -1, -1)
        pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()  # (F, 3, H, W)
        bent = functional.grid_sample(pixels, grid, align_corners=True, padding_mode="border").round().byte()
        return bent.permute(0, 2, 3, 1).numpy(), poses, np.ones(len(poses), bool)

    return harden


HARDER: dict[str, Callable[[np.ndarray, np.ndarray], Version]] = {
    "128 px": _each(_small),
    "JPEG q20": _each(_jpeg),
    "blur 9 px": _each(_blurred),
    "3 frames": _few,
    "every 8th": _every_eighth,
    "180 degrees": _upside_down,
    "moving 30 %": _moving,
    "cut": _cut,
    "lens -0.05": _through_a_lens(-0.05),
    "lens -0.15": _through_a_lens(-0.15),
    "lens -0.35": _through_a_lens(-0.35),
}


def rendered() -> Iterator[tuple[str, RenderedClip]]:
    """Clips of which the truth needs a renderer; frames have a little noise."""
    room, size, focal = make_room(3), (192, 288), 230.0
    scenes = {
        "room": render(room, path(12, sideways=0.4, forward=0.4, turn_deg=8), size, focal),
        "turn 20": render(room, path(12, turn_deg=20), size, focal),
        "turn 60": render(room, path(12, turn_deg=60), size, focal),
        "still": render(room, path(12), size, focal),
        "forward": render(room, path(12, forward=0.6), size, focal),
        "tiny motion": render(room, path(12, sideways=0.03), size, focal),
        "grey walls": render(make_room(3, contrast=0.03), path(12, sideways=0.4, forward=0.4, turn_deg=8), size, focal),
        "stretched": render(room, path(12, sideways=0.5, forward=0.3, turn_deg=10), size, 200.0, aspect=1.25),
        "wide lens": render(room, path(12, sideways=0.5, forward=0.3, turn_deg=10), size, 170.0, distortion=-0.25),
        "wide lens, forward": render(room, path(12, forward=0.6), size, 170.0, distortion=-0.25),
        "wide lens, turn 20": render(room, path(12, turn_deg=20), size, 170.0, distortion=-0.25),
        "wide lens, still": render(room, path(12), size, 170.0, distortion=-0.25),
        "tele": render(room, path(12, sideways=0.5, turn_deg=4), size, 460.0),
    }
    for name, clip in scenes.items():
        noise = np.random.default_rng(0).normal(0, 3, clip.frames.shape)
        yield name, replace(clip, frames=(clip.frames + noise).clip(0, 255).round().astype(np.uint8))


if __name__ == "__main__":
    sys.exit(main())
