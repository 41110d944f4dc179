"""Twenty people at once: is any request lost or mixed up, does memory stay flat, does the queue keep its bound?

python benchmarks/space_load.py [--clients 20] [--minutes 3] [--model FOLDER] [--request_seconds 120]

Starts a Space of its own, measures cold start and first answer, then lets every client send request after request (a seed and
a prompt each) for the given time. A request that finds the queue full is turned away and comes again a second later.
"""

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from gradio_client import Client

ROOT = Path(__file__).resolve().parents[1]
SERVER = """
import sys
sys.path.insert(0, sys.argv[1])
import spaces_app
from dataclasses import replace
from jog3r import tiny_checkpoint
from jog3r.space.limits import SpaceLimits
from jog3r.space.server import open_space
limits = replace(SpaceLimits(), request_seconds=float(sys.argv[4]), waiting=int(sys.argv[5]))
space = open_space(sys.argv[2] or tiny_checkpoint(), bundled=tiny_checkpoint(), limits=limits)
spaces_app.launch(space, "127.0.0.1", int(sys.argv[3]))
"""


@dataclass
class Tally:
    """What the clients saw."""

    seconds: list[float] = field(default_factory=list)
    computing: list[float] = field(default_factory=list)
    outcomes: Counter = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--model", default="", help="default: the bundled checkpoint")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--waiting", type=int, default=16)
    parser.add_argument("--request_seconds", type=float, default=120.0)
    options = parser.parse_args()
    print(f"load average before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        begin = time.monotonic()
        process, url = _start(options, folder)
        try:
            print(f"start to first page: {time.monotonic() - begin:.1f} s, of it computing {_cpu_seconds(process.pid):.1f} s")
            client = Client(url, verbose=False, download_files=False)
            _ask(client, "a first room", 0, options)
            print(f"start to first answer: {time.monotonic() - begin:.1f} s, of it computing {_cpu_seconds(process.pid):.1f} s")
            _load(url, process.pid, options)
            print(f"files left for requests: {len(list(Path(folder).glob('jog3r-space-*/requests/*')))}")
        finally:
            process.kill()
            process.wait()


def _start(options: argparse.Namespace, folder: str) -> tuple[subprocess.Popen, str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [str(ROOT), options.model, str(port), str(options.request_seconds), str(options.waiting)]
    process = subprocess.Popen([sys.executable, "-c", SERVER, *arguments], env={**os.environ, "TMPDIR": folder})
    url = f"http://127.0.0.1:{port}/"
    while process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=30):
                return process, url
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the server did not start")


def _ask(client: Client, prompt: str, seed: int, options: argparse.Namespace) -> tuple:
    return client.predict(prompt, seed, options.steps, 2.5, options.frames, api_name="/generate")


def _load(url: str, pid: int, options: argparse.Namespace) -> None:
    tally, memory = Tally(), [_megabytes(pid)]
    end = time.monotonic() + 60 * options.minutes
    threads = [threading.Thread(target=_person, args=(url, number, end, tally, options)) for number in range(options.clients)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        memory.append(_megabytes(pid))
        time.sleep(2)
    print(f"load average after: {os.getloadavg()[0]:.1f}")
    done = tally.seconds
    print(f"outcomes of {sum(tally.outcomes.values())} requests of {options.clients} clients: {dict(tally.outcomes)}")
    if done:
        low, middle, high = np.percentile(done, [0, 50, 95])
        print(f"answered: shortest {low:.1f} s, p50 {middle:.1f} s, p95 {high:.1f} s (waiting in the queue included)")
        print(f"computing alone: p50 {np.percentile(tally.computing, 50):.1f} s, p95 {np.percentile(tally.computing, 95):.1f} s")
    third = max(1, len(memory) // 3)
    print(f"memory of the server: {memory[0]:.0f} MB before, {np.median(memory[-third:]):.0f} MB in the last third of the time")


def _person(url: str, number: int, end: float, tally: Tally, options: argparse.Namespace) -> None:
    client = Client(url, verbose=False, download_files=False)
    prompt = f"room number {number} with blue walls"
    while time.monotonic() < end:
        begin = time.monotonic()
        try:
            result = _ask(client, prompt, number, options)
        except Exception as error:  # noqa: BLE001  # the client has no class for each refusal
            outcome = "queue full" if "full" in str(error).lower() else f"refused: {str(error)[:60]}"
            with tally.lock:
                tally.outcomes[outcome] += 1
            time.sleep(1)
            continue
        mine = repr(prompt) in result[-1] and f"manual_seed({number})" in result[-1]
        whole = _frames(url, result[5]) == options.frames
        with tally.lock:
            tally.seconds.append(time.monotonic() - begin)
            tally.computing.append(float(re.search(r"Done in ([\d.]+)", result[0])[1]))  # type: ignore[index]
            tally.outcomes["answered" if mine and whole else "MIXED UP"] += 1


def _frames(url: str, files: list[dict]) -> int:
    path = next(file["path"] for file in files if file["path"].endswith("cameras.json"))
    with urllib.request.urlopen(f"{url}gradio_api/file={path}", timeout=60) as answer:
        return len(json.load(answer)["frames"])


def _cpu_seconds(pid: int) -> float:
    """Processor time so far: what the wall clock would show on an idle machine."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _megabytes(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024  # type: ignore[index]


if __name__ == "__main__":
    main()
