"""A Space in a process of its own, for measurements: started on a free port of this machine, and ended."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Server", "running_server"]

ROOT = Path(__file__).resolve().parents[1]
_SERVER = """
import sys
sys.path.insert(0, sys.argv[1])
import spaces_app
from dataclasses import replace
from jog3r import tiny_checkpoint
from jog3r.space.guard.limits import SpaceLimits
from jog3r.space.server import open_space
limits = replace(SpaceLimits(), request_seconds=float(sys.argv[4]), waiting=int(sys.argv[5]))
space = open_space(sys.argv[2] or tiny_checkpoint(), bundled=tiny_checkpoint(), limits=limits)
spaces_app.launch(space, "127.0.0.1", int(sys.argv[3]))
"""


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        url: Address with a slash at the end.
        pid: Of its process.
        folder: Its folder for temporary files.
        started: When it was started, of `time.monotonic`.
    """

    url: str
    pid: int
    folder: Path
    started: float

    @property
    def megabytes(self) -> float:
        """Resident memory."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024

    @property
    def cpu_seconds(self) -> float:
        """Processor time so far: what the wall clock would show on an idle machine with one core."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def request_folders(self) -> int:
        """Folders of requests that are there now."""
        return len(list(self.folder.glob("jog3r-space-*/requests/*")))


@contextmanager
def running_server(folder: Path, model: str = "", request_seconds: float = 120.0, waiting: int = 20) -> Iterator[Server]:
    """Start a Space and wait for its page; killed at the end.

    Args:
        folder: For its temporary files.
        model: Folder or hub id; empty for the bundled checkpoint.
        request_seconds: See `SpaceLimits`.
        waiting: See `SpaceLimits`.

    Raises:
        RuntimeError: The server ended at once.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    arguments = [str(ROOT), model, str(port), str(request_seconds), str(waiting)]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, *arguments], env={**os.environ, "TMPDIR": str(folder)}, stdout=log, stderr=log
        )
    url = f"http://127.0.0.1:{port}/"
    try:
        while not _answers(url):
            if process.poll() is not None:
                raise RuntimeError(f"the server did not start:\n{(folder / 'server.log').read_text()}")
            time.sleep(0.05)
        yield Server(url, process.pid, folder, started)
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=30):
            return True
    except OSError:
        return False
