"""What a server does once a minute for as long as it lives: old files go, and so does memory that nobody uses."""

import ctypes
import gc
import logging
import threading
import time

from jog3r.space.guard.limits import SpaceLimits
from jog3r.space.guard.storage import ServerFolder
from jog3r.space.guard.upload_quota import SPARED_SECONDS

_log = logging.getLogger(__name__)
_M_ARENA_MAX = -8  # of glibc's malloc.h
_ARENAS = 2


def few_arenas() -> bool:
    """Let the allocator have two arenas instead of eight for each core; returns whether that is possible here (with glibc it is).

    What is free in one arena serves no thread of another. A server that computes, draws and encodes in ever new threads spreads
    its memory over all of them, and no trimming brings the gaps together. To be called before there are many threads.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(_M_ARENA_MAX, _ARENAS) == 1


def release_memory() -> bool:
    """Give freed memory back to the system; returns whether that is possible here (with glibc it is).

    Frees stay with the allocator. Python's own garbage goes first: a request leaves cycles with pictures in them, and beside
    everything that was imported they are too few for a full collection.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return trim is not None


def start_upkeep(folder: ServerFolder, limits: SpaceLimits, every_seconds: float = 60.0) -> threading.Thread:
    """Delete old files, and the oldest of too many, and release memory until the folder is closed; what is loaded now is kept.

    A round that fails is logged, and the next one comes: the page promises that files are deleted.
    """
    gc.freeze()  # or each collection would look through everything that was imported

    def run() -> None:
        while folder.path.exists():
            time.sleep(every_seconds)
            try:
                folder.remove_old()
                folder.remove_oldest(limits.keep_bytes, limits.keep_files, SPARED_SECONDS)
                release_memory()
            except Exception:  # noqa: BLE001  # no free descriptor, a disk that fails: no kind of error may end the thread
                _log.exception("a round of the upkeep failed; the next one comes in %g s", every_seconds)

    thread = threading.Thread(target=run, name="upkeep", daemon=True)
    thread.start()
    return thread
