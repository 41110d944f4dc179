"""Cameras from tracks of long videos: time and memory over the number of frames, and whether the loop is closed.

    python benchmarks/sfm_long.py [--frames 125 250 500 1000] [--size 640 360] [--turns 1.15]

A camera walks round a textured hall with panels in it, a little more than once, at the same pace for every length: the longest
walk sees its first places again. Frames are rendered to a file first; each length is solved in a process of its own, whose
largest memory of its own (without the frames' file) is printed with its processor seconds.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from long_video_scene import ROOM, LoopWalk
from sfm_scenes import noise_texture

from jog3r.geometry.camera_metrics import pose_errors
from jog3r.geometry.cameras import pixel_rays

TEXELS = 2048  # of a wall, across and down
PANELS, PANEL_SIZE = 24, (1.2, 1.6)  # that stand around, near the walls; how wide and high


def main() -> int:
    """Print a line for each length, and how time and memory grow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[125, 250, 500, 1000])
    parser.add_argument("--size", type=int, nargs=2, default=[640, 360], metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--turns", type=float, default=1.15, help="how often the longest walk goes round")
    parser.add_argument("--solve", nargs=2, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.solve is not None:
        return solve(Path(options.solve[0]), int(options.solve[1]))
    with tempfile.TemporaryDirectory() as name:
        walk = write_walk(Path(name) / "frames.npy", max(options.frames), (options.size[1], options.size[0]), options.turns)
        print(
            "| frames | processor seconds | a frame | seconds by the clock | memory, MB | rotation, place |\n" + "|---" * 6 + "|"
        )
        rows = []
        for count in options.frames:
            done = subprocess.run(
                [sys.executable, __file__, "--solve", name, str(count)], stdout=subprocess.PIPE, check=True, text=True
            )
            row = json.loads(done.stdout.splitlines()[-1])
            row["errors"] = compare(np.load(Path(name) / "poses.npy"), walk[:count])
            rows.append(row)
            print(
                f"| {count} | {row['cpu']:.0f} | {row['cpu'] / count:.2f} | {row['wall']:.0f} | {row['memory_mb']:.0f} | "
                f"{row['errors'][0]:.2f}, {row['errors'][1]:.2%} ({row['known']} frames, {row['loops']} loop pairs) |",
                flush=True,
            )
    if len(rows) > 1:
        logs = np.log([[count, row["cpu"]] for count, row in zip(options.frames, rows, strict=True)])
        print(f"processor time grows as the number of frames to the power of {np.polyfit(logs[:, 0], logs[:, 1], 1)[0]:.2f}")
        more = (rows[-1]["memory_mb"] - rows[0]["memory_mb"]) / (options.frames[-1] - options.frames[0])
        print(f"memory grows by {more:.2f} MB a frame (a frame itself has {np.prod(options.size) * 3 / 1e6:.2f} MB)")
    return 0


def write_walk(path: Path, count: int, size: tuple[int, int], turns: float) -> np.ndarray:
    """Render the frames (F, H, W, 3) to a file; returns the camera-to-world poses (F, 4, 4)."""
    once = LoopWalk(round(count / turns))
    numbers = np.arange(count) % len(once)
    poses = once.room_poses.numpy()[numbers]
    height, width = size
    walls = [pyramid(seed) for seed in range(6)]
    intrinsics = once.intrinsics.clone()
    intrinsics[0, 0] = intrinsics[1, 1] = 0.75 * width
    intrinsics[0, 2], intrinsics[1, 2] = width / 2, height / 2
    rays = pixel_rays(intrinsics, height, width).numpy().reshape(-1, 3).astype(np.float32)
    frames = np.lib.format.open_memmap(path, "w+", np.uint8, (count, height, width, 3))
    rng = np.random.default_rng(0)
    for index, pose in enumerate(poses):
        grey = look(walls, rays @ pose[:3, :3].T.astype(np.float32), pose[:3, 3].astype(np.float32), 0.75 * width)
        noisy = grey + rng.normal(0, 2, grey.shape).astype(np.float32)
        frames[index] = noisy.clip(0, 255).astype(np.uint8).reshape(height, width, 1)
    frames.flush()
    return np.linalg.inv(poses[:1]) @ poses


def pyramid(seed: int) -> list[np.ndarray]:
    """A grey texture and its halves, for walls that are far away."""
    levels = [noise_texture(np.random.default_rng(seed), TEXELS)[..., 0].astype(np.float32)]
    for _ in range(4):
        last = levels[-1]
        levels.append((last[::2, ::2] + last[1::2, ::2] + last[::2, 1::2] + last[1::2, 1::2]) / 4)
    return levels


def look(walls: list[list[np.ndarray]], ways: np.ndarray, centre: np.ndarray, focal_px: float) -> np.ndarray:
    """Grey values (R,) where rays (R, 3) from a centre meet the walls of the hall."""
    half = np.array(ROOM, np.float32)
    ways = np.where(np.abs(ways) < 1e-9, 1e-9, ways)
    far = (half * np.sign(ways) - centre) / ways
    axis = far.argmin(1)
    distance = far[np.arange(len(far)), axis]
    hit = (centre + distance[:, None] * ways) / half  # -1..1 on the walls
    values = np.empty(len(ways), np.float32)
    nearest = distance.copy()
    level_of = np.log2(np.maximum(distance * TEXELS / (2 * half.mean() * focal_px), 1)).round().astype(int).clip(0, 4)
    for wall in range(6):
        here = np.flatnonzero((axis == wall // 2) & (np.sign(ways[np.arange(len(ways)), axis]) == 2 * (wall % 2) - 1))
        place = hit[here][:, [other for other in range(3) if other != wall // 2]]
        for level in np.unique(level_of[here]).tolist():
            some = level_of[here] == level
            values[here[some]] = between(walls[wall][level], (place[some] + 1) / 2)
    for number in range(PANELS):
        angle = 2 * np.pi * number / PANELS
        middle = np.array([4.4 * np.cos(angle), 0.8 * np.sin(5 * angle), 3.7 * np.sin(angle)], np.float32)
        across, down = np.array([np.sin(2 * angle), 0, np.cos(2 * angle)], np.float32), np.array([0, 1, 0], np.float32)
        normal = np.cross(across, down)
        with np.errstate(divide="ignore"):
            away = ((middle - centre) @ normal) / (ways @ normal)
        near = np.flatnonzero((away > 0) & (away < nearest))
        offset = centre + away[near, None] * ways[near] - middle
        place = np.stack([offset @ down / PANEL_SIZE[1], offset @ across / PANEL_SIZE[0]], 1) + 0.5
        inside = ((place > 0) & (place < 1)).all(1)
        nearest[near[inside]] = away[near[inside]]
        values[near[inside]] = between(walls[number % 6][2][: TEXELS // 8, : TEXELS // 8], place[inside])
    return values


def between(texture: np.ndarray, place: np.ndarray) -> np.ndarray:
    """(K,) values of a square texture at places (K, 2) in 0..1, bilinear."""
    at = place.clip(0, 1) * (len(texture) - 1)
    low = np.minimum(at.astype(int), len(texture) - 2)
    (a, b), (row, column) = (at - low).T, low.T
    upper = (1 - b) * texture[row, column] + b * texture[row, column + 1]
    return (1 - a) * upper + a * ((1 - b) * texture[row + 1, column] + b * texture[row + 1, column + 1])


def solve(folder: Path, count: int) -> int:
    """Find the cameras of the first `count` frames in a folder; prints time and memory as JSON."""
    from jog3r.sfm import track_cameras
    from jog3r.sfm.matching.retrieval import LEAST_GAP

    frames = np.load(folder / "frames.npy", mmap_mode="r")[:count]
    track_cameras(frames[:8])  # the first call of a process imports what it needs, which takes seconds
    largest = [0.0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            status = Path("/proc/self/status").read_text()
            largest[0] = max(largest[0], int(status.split("RssAnon:")[1].split()[0]) / 1024)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    wall, cpu = time.perf_counter(), time.process_time()
    found = track_cameras(frames, progress=True)
    row = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    done.set()
    watcher.join()
    point, frame = found.tracks.point.numpy(), found.tracks.frame.numpy()
    first = np.flatnonzero(np.r_[True, point[1:] != point[:-1]])
    spans = np.maximum.reduceat(frame, first) - np.minimum.reduceat(frame, first)
    row |= {"memory_mb": largest[0], "known": int(found.registered.sum()), "loops": int((spans >= LEAST_GAP).sum())}
    np.save(folder / "poses.npy", found.poses.numpy())
    print(json.dumps(row))
    return 0


def compare(found: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """Mean rotation error in degrees, and of the places over the length of the walk, the unit of length fitted."""
    rotation = float(pose_errors(found, true).rotation_deg.mean())
    places, goal = found[:, :3, 3].astype(np.float64), true[:, :3, 3]
    scale = (places * goal).sum() / max((places**2).sum(), 1e-12)
    length = np.linalg.norm(np.diff(goal, axis=0), axis=1).sum()
    return rotation, float(np.linalg.norm(scale * places - goal, axis=1).mean() / length)


if __name__ == "__main__":
    sys.exit(main())
