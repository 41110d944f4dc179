"""`jog3r prepare` on 200 procedural clips, a corrupt one among them: killed ten times, it must give an undisturbed run's bytes.

    python benchmarks/prepare_kill.py [--clips 200] [--kills 10] [--processes 1] [--model FOLDER [--window_frames N]]

The corrupt one is a video file cut in half beside real ones, so that decoding is what fails. `--window_frames`, up to 10, is
for models that compress time. Prints one line a kill and the verdict; exit code 1 if the outputs differ.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from jog3r import tiny_checkpoint
from jog3r.data.files import file_hash
from jog3r.data.procedural import procedural_clip
from jog3r.export.video import encode_video

ROOT = Path(__file__).resolve().parents[1]
FRAMES, SIZE = 10, 32


def write_dataset(folder: Path, clips: int, corrupt: int) -> None:
    """Procedural clips in RealEstate10K's layout: mp4 and camera files; one video is cut in half."""
    for name in ("cameras", "frames"):
        (folder / name).mkdir(parents=True)
    captions = {}
    for index in range(clips):
        clip, name = procedural_clip(index, "validation", FRAMES, SIZE, SIZE), f"clip{index:04d}"
        video = encode_video(clip.frames, fps=8)
        (folder / "frames" / f"{name}.mp4").write_bytes(video[: len(video) // 2] if index == corrupt else video)
        captions[name] = clip.caption
        lines = ["procedural"]
        for frame in range(FRAMES):
            k, world_to_camera = clip.intrinsics[frame] / SIZE, np.linalg.inv(clip.poses[frame].astype(np.float64))[:3]
            numbers = (1000 * frame, k[0, 0], k[1, 1], k[0, 2], k[1, 2], 0, 0, *world_to_camera.ravel())
            lines.append(" ".join(str(number) for number in numbers))
        (folder / "cameras" / f"{name}.txt").write_text("\n".join(lines))
    (folder / "captions.json").write_text(json.dumps(captions))


def start(dataset: Path, output: Path, model: str, processes: int, window_frames: int | None) -> subprocess.Popen:
    """One run of the real command, in its own process group."""
    options = {
        "output_dir": output, "model": model, "source": "realestate10k", "cameras": dataset / "cameras",
        "frames": dataset / "frames", "captions": dataset / "captions.json", "height": SIZE, "width": SIZE,
        "min_frames": FRAMES, "depth": "none", "clips_per_shard": 4, "captions_per_shard": 16, "num_threads": 1,
    }  # fmt: skip
    if window_frames is not None:
        options |= {"window_frames": window_frames, "windows_per_video": 2}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [*launch, str(ROOT / "training" / "prepare.py"), *words]
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)


def done_shards(output: Path) -> int:
    """How many shards are complete."""
    return len(list(output.glob("parts/*.json")))


def content(folder: Path) -> dict[str, str]:
    """Every file of a folder with its hash."""
    return {path.relative_to(folder).as_posix(): file_hash(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def kill_often(dataset: Path, output: Path, options: argparse.Namespace) -> None:
    """Kill -9 at random moments, spread over the work, each time after at least one shard more."""
    shards = -(-options.clips // 4)
    for kill in range(options.kills):
        process = start(dataset, output, options.model, options.processes, options.window_frames)
        goal = min(done_shards(output) + max(1, shards // (options.kills + 1)), shards - 1)
        while process.poll() is None and done_shards(output) < goal:
            time.sleep(0.001)
        time.sleep(random.uniform(0, 1.0))  # not always right behind a rename
        if process.poll() is not None:
            print(f"kill {kill + 1}: too late, the run was already over")
            return
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        torn = len(list(output.rglob(".*partial*")))
        print(f"kill {kill + 1}: {done_shards(output)} shards complete, {torn} half-written files", flush=True)
    if start(dataset, output, options.model, options.processes, options.window_frames).wait() != 0:
        raise SystemExit("the last run failed")


def main() -> int:
    """Compare the two outputs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--model", default=str(tiny_checkpoint()))
    parser.add_argument("--window_frames", type=int, default=None)
    options = parser.parse_args()
    random.seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_dataset(folder / "dataset", options.clips, corrupt=options.clips // 3)
        begin = time.monotonic()
        if start(folder / "dataset", folder / "whole", options.model, 1, options.window_frames).wait() != 0:
            raise SystemExit("the undisturbed run failed")
        seconds = time.monotonic() - begin
        kill_often(folder / "dataset", folder / "killed", options)
        whole, killed = content(folder / "whole"), content(folder / "killed")
        report = json.loads((folder / "killed" / "report.json").read_text())
    same = whole == killed
    print(f"undisturbed: {seconds:.1f} s for {options.clips} clips; {len(whole)} files")
    print(f"skipped: {report['skipped_videos']}")
    print("identical" if same else f"DIFFERENT: {sorted(set(whole.items()) ^ set(killed.items()))}")
    return 0 if same and len(report["skipped_videos"]) == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
