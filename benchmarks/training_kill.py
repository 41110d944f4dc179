"""Kill -9 a tiny joint training at random moments, writing included: its result must be that of an undisturbed run, bit for bit.

    python benchmarks/training_kill.py [--kills 30] [--steps 60] [--processes 1] [--data procedural|stream|mixture]
        [--workers 0] [--hub N] [--generator]

Every second kill waits until a checkpoint is being written. Compared are the final weights, and the clips of every step with
those planned. `--generator` trains LoRA layers and a head on a small random Wan-type model.
With `--hub N` the undisturbed run reads the shards from their folder, and the killed one from a stand-in of the
hub on loopback, to which they were uploaded, which drops every N-th connection in the middle of its answer, and whose cache
folder is empty at each start. Prints a line a kill and the verdict; exit code 1 if anything differs.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import huggingface_hub
import torch
from hub_server import serve
from tap_study import new_generator
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


def same_result(whole: Path, killed: Path, clips_per_step: int, places: tuple[str, str] = ("", "")) -> list[str]:
    """What differs between the two runs' weights and logs; every planned clip has to stand there exactly once.

    `places` are two names of the same shards, in the log of the first run and in that of the other.
    """
    complaints = []
    first, second = weights_of(whole / "pipeline"), weights_of(killed / "pipeline")
    complaints += [f"weights {name}" for name in {*first, *second} if not torch.equal(first[name], second[name])]
    one, two = read_steps(whole / "steps.jsonl"), read_steps(killed / "steps.jsonl")
    if one != json.loads(json.dumps(two).replace(*reversed(places))):
        complaints.append("logs")
    seen = Counter(position for entry in two for position in entry["positions"])
    if seen != Counter(range(len(one) * clips_per_step)):
        complaints.append("clips seen")
    return complaints


def prepare_shards(model: Path, folder: Path, push_to_hub: str | None = None) -> dict[str, object]:
    """Options that stream from a new cache of 16 procedural videos in 8 shards."""
    Preparation(
        PrepareConfig(
            output_dir=str(folder), model=str(model), source="procedural", num_clips=16, num_frames=6, height=TINY["height"],
            width=TINY["width"], min_frames=TINY["num_frames"], clips_per_shard=2, push_to_hub=push_to_hub,
        )
    ).run()  # fmt: skip
    return {"data": "stream", "dataset": folder, "open_shards": 2}


def mixture_of(cache: Path, dataset: str) -> dict[str, object]:
    """Options of halves that read two and three places, drawn, at random out of a cache, and streamed from `dataset`."""
    streamed = f"{{weight: 2, data: stream, dataset: {dataset}, open_shards: 2}}"
    places = {"generation_data": f"[3 procedural, 1 cache {cache}]"}
    return {**places, "reconstruction_data": f"[5 procedural varied, 3 cache {cache}, {streamed}]"}


def use_stand_in(address: str, folder: Path) -> None:
    """Let this process and all training processes take the server at `address` for the hub; their cache is `folder`."""
    huggingface_hub.constants.ENDPOINT = address
    huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    os.environ |= {"HF_ENDPOINT": address, "HF_HOME": str(folder)}


def main() -> int:
    """Compare the undisturbed run with the one that was killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--data", choices=["procedural", "stream", "mixture"], default="procedural")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--hub", type=int, default=0, metavar="N", help="with --data stream or mixture")
    parser.add_argument("--model", type=Path, default=tiny_checkpoint)
    parser.add_argument("--generator", action="store_true")
    options = parser.parse_args()
    if options.generator and options.data != "procedural":
        parser.error(f"--generator trains on procedural clips, got --data {options.data}")
    if options.hub and options.data == "procedural":
        parser.error("--hub streams shards: add --data stream or --data mixture")
    with tempfile.TemporaryDirectory() as scratch:
        repository = Path(scratch) / "repository"
        repository.mkdir()
        with serve(repository, options.hub) if options.hub else nullcontext(("", [])) as (address, dropped):
            if options.hub:
                use_stand_in(address, Path(scratch) / "hub_cache")
            complaints = _compare(options, Path(scratch))
    clips = options.steps * _clips_per_step(options.processes)
    drops = f", {len(dropped)} answers dropped" if options.hub else ""
    print(f"{options.kills} kills{drops}; {options.steps} steps, {clips} clips")
    print(f"DIFFERENT: {complaints}" if complaints else "weights bit-identical, every clip seen exactly once")
    return 1 if complaints else 0


def _clips_per_step(processes: int) -> int:
    return processes * (TINY["generation_batch"] + TINY["reconstruction_batch"])


def _compare(options: argparse.Namespace, scratch: Path) -> list[str]:
    """What differs between the undisturbed run and the one that is killed."""
    chance = random.Random(0)
    settings: dict[str, object] = {"num_steps": options.steps, "checkpoint_every": 3, "num_workers": options.workers}
    if options.generator:
        options.model = scratch / "wan"
        new_generator(options.model)
        settings |= {"num_frames": 5, "trainable": "lora", "lora_rank": 2, "head_width": 16, "head_layers": 1}
    disturbed = dict(settings)
    if options.data != "procedural":
        cache = scratch / "cache"
        streamed = prepare_shards(options.model, cache, "me/set" if options.hub else None)
        settings |= streamed if options.data == "stream" else mixture_of(cache, str(cache))
        address = "me/set" if options.hub else str(cache)
        disturbed |= {**streamed, "dataset": address} if options.data == "stream" else mixture_of(cache, address)
    whole, killed = scratch / "whole", scratch / "killed"
    run = TrainingProcesses(options.model, whole, options.processes, **settings)
    if run.wait(3600) != 0:
        raise SystemExit(run.text())
    for number in range(options.kills):
        shutil.rmtree(scratch / "hub_cache", ignore_errors=True)
        run = TrainingProcesses(options.model, killed, options.processes, **disturbed)
        steps, pause = chance.randint(1, 4), chance.uniform(0, 0.5)
        state = kill_once(run, killed, while_writing=number % 2 == 0, steps=steps, pause=pause)
        print(f"kill {number + 1}: {state}", flush=True)
    run = TrainingProcesses(options.model, killed, options.processes, **disturbed)
    if run.wait(3600) != 0:
        raise SystemExit(run.text())
    places = ("stream cache", "stream me/set") if options.hub else ("", "")
    return same_result(whole, killed, _clips_per_step(options.processes), places)


if __name__ == "__main__":
    sys.exit(main())
