"""Kill -9 a tiny joint training at random moments, writing included: its result must be that of an undisturbed run, bit for bit.

    python benchmarks/training_kill.py [--kills 30] [--steps 60] [--processes 1] [--data procedural|stream] [--workers 0]

Every second kill waits until a checkpoint is being written. Compared are the final weights, and the clips of every step with
those planned. Prints a line a kill and the verdict; exit code 1 if anything differs.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from training_runs import TINY, TrainingProcesses, wait_until, weights_of

from jog3r import tiny_checkpoint
from jog3r.training.preparation.prepare_config import PrepareConfig
from jog3r.training.prepare import Preparation
from jog3r.training.run.step_log import read_steps


def kill_once(run: TrainingProcesses, output: Path, while_writing: bool, steps: int, pause: float = 0.0) -> str:
    """Kill a run after `steps` steps and `pause` seconds, or after that as soon as it writes; says what it was doing."""
    log, start = output / "steps.jsonl", time.time_ns()
    before = log.stat().st_ino if log.is_file() else 0
    wait_until(lambda: log.is_file() and log.stat().st_ino != before, run)  # the log is opened anew by each start
    first = len(read_steps(log))
    wait_until(lambda: len(read_steps(log)) >= first + steps, run)
    time.sleep(pause)
    if while_writing:
        begin = time.time_ns()
        wait_until(lambda: _changed_since(output, begin), run)
    run.signal(signal.SIGKILL)
    for process in run.processes:
        process.join()
    half_written = [path.name for path in output.glob(".step-*.partial") if path.stat().st_ctime_ns > start]
    steps = read_steps(output / "steps.jsonl")
    return f"after step {steps[-1]['step'] if steps else '-'}" + (f", {half_written[0]} half written" if half_written else "")


def _changed_since(output: Path, begin: int) -> bool:
    """Whether a checkpoint is being written, or was, since `begin` (ns); what earlier kills left half written is older."""
    for path in [*output.glob(".step-*.partial"), *output.glob("step-*")]:
        try:
            if path.stat().st_ctime_ns > begin:
                return True
        except FileNotFoundError:  # renamed meanwhile
            return True
    return False


def same_result(whole: Path, killed: Path, clips_per_step: int) -> list[str]:
    """What differs between the two runs' weights and logs; every planned clip has to stand there exactly once."""
    complaints = []
    first, second = weights_of(whole / "pipeline"), weights_of(killed / "pipeline")
    complaints += [f"weights {name}" for name in {*first, *second} if not torch.equal(first[name], second[name])]
    one, two = read_steps(whole / "steps.jsonl"), read_steps(killed / "steps.jsonl")
    if one != two:
        complaints.append("logs")
    seen = Counter(position for entry in two for position in entry["positions"])
    if seen != Counter(range(len(one) * clips_per_step)):
        complaints.append("clips seen")
    return complaints


def prepare_shards(model: Path, folder: Path) -> dict[str, object]:
    """Options that stream from a new cache of 16 procedural videos in 8 shards."""
    Preparation(
        PrepareConfig(
            output_dir=str(folder), model=str(model), source="procedural", num_clips=16, num_frames=6, height=TINY["height"],
            width=TINY["width"], min_frames=TINY["num_frames"], clips_per_shard=2,
        )
    ).run()  # fmt: skip
    return {"data": "stream", "dataset": folder, "open_shards": 2}


def main() -> int:
    """Compare the undisturbed run with the one that was killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--data", choices=["procedural", "stream"], default="procedural")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--model", type=Path, default=tiny_checkpoint)
    options = parser.parse_args()
    chance = random.Random(0)
    settings: dict[str, object] = {"num_steps": options.steps, "checkpoint_every": 3, "num_workers": options.workers}
    with tempfile.TemporaryDirectory() as scratch:
        if options.data == "stream":
            settings |= prepare_shards(options.model, Path(scratch) / "cache")
        whole, killed = Path(scratch) / "whole", Path(scratch) / "killed"
        run = TrainingProcesses(options.model, whole, options.processes, **settings)
        if run.wait(3600) != 0:
            raise SystemExit(run.text())
        writing, number = 0, 0
        while number < options.kills:
            run = TrainingProcesses(options.model, killed, options.processes, **settings)
            steps, pause = chance.randint(1, 4), chance.uniform(0, 0.5)
            state = kill_once(run, killed, while_writing=number % 2 == 0, steps=steps, pause=pause)
            number += 1
            writing += "half written" in state
            print(f"kill {number}: {state}", flush=True)
        run = TrainingProcesses(options.model, killed, options.processes, **settings)
        if run.wait(3600) != 0:
            raise SystemExit(run.text())
        per_step = options.processes * (TINY["generation_batch"] + TINY["reconstruction_batch"])
        complaints = same_result(whole, killed, per_step)
        clips = per_step * options.steps
    print(f"{options.kills} kills, {writing} while a checkpoint was written; {options.steps} steps, {clips} clips")
    print(f"DIFFERENT: {complaints}" if complaints else "weights bit-identical, every clip seen exactly once")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
