"""What a server does once a minute for as long as it lives: old files go, and so does memory that nobody uses."""

import ctypes
import gc
import threading
import time

from jog3r.space.storage import ServerFolder

__all__ = ["release_memory", "start_upkeep"]


def release_memory() -> bool:
    """Give freed memory back to the system; returns whether that is possible here (with glibc it is).

    Each thread's frees stay with the allocator, in an arena of its own, and what is free in one serves no other: a server that
    computes, draws and encodes in different threads grows for hours although it holds nothing. Python's own garbage goes first:
    a request leaves cycles with pictures in them, and beside everything that was imported they are too few for a full collection.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return False
    trim(0)
    return True


def start_upkeep(folder: ServerFolder, every_seconds: float = 60.0) -> None:
    """Delete old files and release memory in the background until the folder is closed; what is loaded now counts as kept."""
    gc.collect()
    gc.freeze()  # or each collection would look through everything that was imported

    def run() -> None:
        while folder.path.exists():
            time.sleep(every_seconds)
            folder.remove_old()
            release_memory()

    threading.Thread(target=run, name="upkeep", daemon=True).start()
