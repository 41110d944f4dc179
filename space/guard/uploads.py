"""Uploads to frames: starts `decode_upload` in a process of its own, waits for it, and ends it when nobody waits any more."""

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Generator
from dataclasses import asdict
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen, TimeoutExpired
from typing import NamedTuple

import numpy as np

import jog3r
from jog3r.space.guard.decode_upload import Wanted
from jog3r.space.guard.limits import Refused, SpaceLimits
from jog3r.space.jobs import Done, Step

_log = logging.getLogger(__name__)
_CODE = Path(jog3r.__file__).resolve().parent.parent  # what holds the package, installed or not
_PULSE_SECONDS = 0.2
_TOO_LONG = "Reading the video took too long; shorten it or scale it down."
# What a process needs that meets strangers' files; the server's other variables may be secrets.
_ENVIRONMENT = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


class Upload(NamedTuple):
    """What was taken of an upload.

    Attributes:
        frames: (F, H, W, 3) uint8.
        fps: Frames per second.
        times: (F,) in seconds of the file's clock.
        numbers: F frame numbers in the file, from 0.
    """

    frames: np.ndarray
    fps: float
    times: np.ndarray
    numbers: list[int]


def decode_upload(path: Path, wanted: Wanted, limits: SpaceLimits, folder: Path) -> Generator[Step | Done | None, None, None]:
    """Decode an upload within the limits.

    Args:
        path: The uploaded file.
        wanted: What to take of it.
        limits: See `SpaceLimits`.
        folder: The request's folder.

    Yields:
        None while it works, then `Done` with an `Upload`.

    Raises:
        Refused: The file is no video, is damaged, or passes a limit.
    """
    out = folder / "upload.npz"
    texts = str(path.resolve()), str(out.resolve()), json.dumps(wanted), json.dumps(asdict(limits))
    command = [sys.executable, "-m", "jog3r.space.guard.decode_upload", *texts]
    python_path = os.pathsep.join(filter(None, [str(_CODE), os.getenv("PYTHONPATH")]))
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    environment |= {"PYTHONPATH": python_path, "OMP_NUM_THREADS": "1"}
    process = Popen(command, cwd=folder, env=environment, stdin=DEVNULL, stdout=PIPE, stderr=PIPE)
    try:
        yield Step("reading the video", 0.0)
        end = time.monotonic() + limits.decode_seconds
        while True:
            try:
                printed, errors = process.communicate(timeout=_PULSE_SECONDS)
                break
            except TimeoutExpired:
                if time.monotonic() > end:
                    raise Refused(_TOO_LONG) from None
                yield None
    finally:
        process.kill()
        process.wait()
    if process.returncode == 2:
        raise Refused(printed.decode(errors="replace").strip())
    if process.returncode == -signal.SIGXCPU:
        raise Refused(_TOO_LONG)
    if process.returncode != 0:
        places = [line for line in errors.decode(errors="replace").splitlines() if line.startswith("  File ")]
        _log.error("decoding ended with code %d\n%s", process.returncode, "\n".join(places))  # no message: it could hold a name
        raise Refused("The video cannot be decoded; export it again as MP4 (H.264).")
    with np.load(out) as arrays:
        upload = Upload(arrays["frames"], float(arrays["fps"]), arrays["times"], arrays["numbers"].tolist())
    yield Done(upload)
