"""Twenty people at once: is any request lost or mixed up, does memory stay flat, does the queue keep its bound?

python benchmarks/space_load.py [--clients 20] [--minutes 3] [--rounds 2] [--model FOLDER] [--waiting 8] [--request_seconds 120]

Starts a Space of its own, then lets every client send request after request (a seed and a prompt each) for the given time. A
request that finds the queue full is turned away and comes again a second later. Meanwhile somebody opens the page every second.
Then the server rests until its upkeep has come by. The next round brings new clients; memory is flat if it ends as the first did.
"""

import argparse
import json
import os
import re
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from gradio_client import Client
from space_process import Server, running_server

# httpx gives up after 5 seconds unless told otherwise, which says more about the machine than about the server.
_PATIENCE_SECONDS = 60.0
_REST_SECONDS = 70.0  # the server's upkeep runs once a minute


@dataclass
class Tally:
    """What the clients saw; `spans` are the begin and end of each answered request, of `time.monotonic`."""

    spans: list[tuple[float, float]] = field(default_factory=list)
    computing: list[float] = field(default_factory=list)
    pages: list[float] = field(default_factory=list)
    outcomes: Counter = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def most_at_once(self) -> int:
        """Answered requests that were under way at the same time."""
        steps = sorted([(begin, 1) for begin, _ in self.spans] + [(end, -1) for _, end in self.spans])
        return int(max(np.cumsum([step for _, step in steps]), default=0))


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--model", default="", help="default: the bundled checkpoint")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--waiting", type=int, default=8)
    parser.add_argument("--request_seconds", type=float, default=120.0)
    options = parser.parse_args()
    print(f"load average before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(Path(folder), options.model, options.request_seconds, options.waiting) as server,
    ):
        client = Client(server.url, verbose=False, download_files=False)
        for seed in range(2):
            _ask(client, "a first room", seed, options)
        for number in range(options.rounds):
            print(f"round {number + 1}")
            _print(*_load(server, options), options)
            time.sleep(_REST_SECONDS)
            print(f"memory {_REST_SECONDS:.0f} s after the last answer: {server.megabytes:.0f} MB", flush=True)
        print(f"folders left for requests: {server.request_folders}")


def _ask(client: Client, prompt: str, seed: int, options: argparse.Namespace) -> tuple:
    return client.predict(prompt, seed, options.steps, 2.5, options.frames, api_name="/generate")


def _load(server: Server, options: argparse.Namespace) -> tuple[Tally, list[float]]:
    """Tally, and the server's memory every two seconds (MB)."""
    tally, memory = Tally(), [server.megabytes]
    end = time.monotonic() + 60 * options.minutes
    people = [threading.Thread(target=_person, args=(server.url, k, end, tally, options)) for k in range(options.clients)]
    visitor = threading.Thread(target=_visitor, args=(server.url, end, tally))
    for thread in (*people, visitor):
        thread.start()
    while any(thread.is_alive() for thread in people):
        memory.append(server.megabytes)
        time.sleep(2)
    visitor.join()
    return tally, memory


def _person(url: str, number: int, end: float, tally: Tally, options: argparse.Namespace) -> None:
    client = Client(url, verbose=False, download_files=False, httpx_kwargs={"timeout": _PATIENCE_SECONDS})
    prompt = f"room number {number} with blue walls"
    while time.monotonic() < end:
        begin = time.monotonic()
        try:
            result = _ask(client, prompt, number, options)
        except Exception as error:  # noqa: BLE001  # the client has no class for each refusal
            text = f"{type(error).__name__}: {error}"
            with tally.lock:
                tally.outcomes["told that the queue is full" if "queue is full" in text.lower() else text[:100]] += 1
            time.sleep(1)
            continue
        done = time.monotonic()
        mine = repr(prompt) in result[-1] and f"manual_seed({number})" in result[-1]
        whole = _frames(url, result[5]) == options.frames
        with tally.lock:
            tally.spans.append((begin, done))
            tally.computing.append(float(re.search(r"Done in ([\d.]+)", result[0])[1]))
            tally.outcomes["answered" if mine and whole else "MIXED UP"] += 1


def _visitor(url: str, end: float, tally: Tally) -> None:
    while time.monotonic() < end:
        begin = time.monotonic()
        with urllib.request.urlopen(url, timeout=_PATIENCE_SECONDS) as answer:
            answer.read()
        tally.pages.append(time.monotonic() - begin)
        time.sleep(1)


def _frames(url: str, files: list[dict]) -> int:
    path = next(file["path"] for file in files if file["path"].endswith("cameras.json"))
    with urllib.request.urlopen(f"{url}gradio_api/file={path}", timeout=_PATIENCE_SECONDS) as answer:
        return len(json.load(answer)["frames"])


def _print(tally: Tally, memory: list[float], options: argparse.Namespace) -> None:
    print(f"load average after: {os.getloadavg()[0]:.1f}")
    print(f"outcomes of {sum(tally.outcomes.values())} requests of {options.clients} clients: {dict(tally.outcomes)}")
    print(f"answered requests under way at once: at most {tally.most_at_once()}; 1 computes, {options.waiting} may wait")
    seconds = [end - begin for begin, end in tally.spans]
    for name, values in (("time to answer", seconds), ("of it computing", tally.computing), ("page meanwhile", tally.pages)):
        if values:
            p50, p95 = np.percentile(values, [50, 95])
            print(f"{name}: p50 {p50:.2f} s, p95 {p95:.2f} s, longest {max(values):.2f} s")
    thirds = " / ".join(f"{np.median(part):.0f}" for part in np.array_split(memory[1:], 3))
    print(f"memory of the server: {memory[0]:.0f} MB before, medians of the three thirds of the time {thirds} MB")


if __name__ == "__main__":
    main()
