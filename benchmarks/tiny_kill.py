"""`make tiny` at a size of seconds, killed with -9 again and again: its bundle must be that of an undisturbed run, bit by bit.

    python benchmarks/tiny_kill.py [--kills 12] [--seed 0]

The launcher and the stage at work are killed together, after a random time. Prints a line a kill and the verdict; exit code 1
if the bundles differ.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from training_runs import weights_of

ROOT = Path(__file__).resolve().parents[1]
_TRAINING = """height: 16
width: 16
generation_batch: 1
num_steps: 20
warmup_steps: 2
checkpoint_every: 3
sample_every: 0
num_workers: 0
tracker: none
num_threads: 1
"""
RECIPES = {
    "vae": """size: 16
channels: [8, 16, 16]
num_scenes: 8
frames_per_scene: 2
num_steps: 60
batch_size: 2
warmup_steps: 5
num_validation: 4
checkpoint_every: 5
""",
    "new": """num_layers: 2
feature_layer: 1
num_attention_heads: 2
attention_head_dim: 8
num_frames: 3
caption_channels: 16
vocabulary: 80
head_dim: 16
head_layers: 1
head_attention_heads: 2
""",
    "text": "num_steps: 60\nbatch_size: 2\nwarmup_steps: 5\ncheckpoint_every: 5\nnum_threads: 1\n",
    "images": _TRAINING + "num_frames: 1\nreconstruction_batch: 0\n",
    "short": _TRAINING + "num_frames: 2\npairs_per_clip: 1\nreconstruction_batch: 1\n",
    "joint": _TRAINING + "num_frames: 3\npairs_per_clip: 2\nreconstruction_batch: 1\n",
}


def start(runs: Path, recipes: Path) -> subprocess.Popen:
    """One `make tiny` in a process group of its own."""
    command = [sys.executable, "training/tiny_model/train_tiny.py", "--runs", str(runs), "--recipes", str(recipes)]
    command += ["--clips", "1", "--videos", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def main() -> int:
    """Run both and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, text in RECIPES.items():
            (folder / f"tiny_{name}.yaml").write_text(text, encoding="utf-8")
        begin = time.monotonic()
        _, errors = (whole := start(folder / "whole", folder)).communicate()
        if whole.returncode:
            print(errors)
            return 1
        seconds = time.monotonic() - begin
        print(f"undisturbed: {seconds:.0f} s")
        for number in range(options.kills):
            process = start(folder / "killed", folder)
            time.sleep(chance.uniform(0.1, 0.4) * seconds)
            over = process.poll() is not None
            os.killpg(process.pid, signal.SIGKILL) if not over else None
            process.communicate()
            stages = [name for name in (*RECIPES, "bundle") if (folder / "killed" / name).is_dir()]
            print(f"{number + 1}: {'had ended' if over else 'killed'}; folders: {', '.join(stages) or 'none'}", flush=True)
            if over:
                break
        _, errors = (last := start(folder / "killed", folder)).communicate()
        if last.returncode:
            print(errors)
            return 1
        expected, found = (weights_of(folder / name / "bundle") for name in ("whole", "killed"))
        same = expected.keys() == found.keys() and all(torch.equal(value, found[name]) for name, value in expected.items())
        print("the bundles are the same, bit by bit" if same else "the bundles differ")
        return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
