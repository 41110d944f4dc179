"""Processes that must not work side by side: those that accelerate does not see as one run, and two at work in one folder."""

import logging
import os
import socket
import time
from pathlib import Path
from types import TracebackType

from filelock import OwnerRecord, SoftFileLease, Timeout

__all__ = ["FolderLock", "check_world"]

logger = logging.getLogger(__name__)
SILENCE_SECONDS = 60.0  # a lock on another machine that was not refreshed for so long is of a dead process; a third between two


def check_world(num_processes: int) -> None:
    """Refuse processes that were started as one run and that accelerate sees each for itself: all would do the whole work.

    Raises:
        ValueError: WORLD_SIZE, which `accelerate launch` and torchrun set, is not `num_processes`.
    """
    told = os.environ.get("WORLD_SIZE", "1")
    if told != str(num_processes):
        raise ValueError(
            f"WORLD_SIZE={told} processes were launched, but accelerate sees {num_processes}: each would do all the work in the "
            "same folder. Without a GPU set ACCELERATE_USE_CPU=true and launch with training/accelerate/cpu.yaml, or start one "
            "process without a launcher; unset WORLD_SIZE if it is a leftover"
        )


class FolderLock:
    """Context in which no other process gets the lock of the same folder and name; the folder is made.

    A lock that a dead process of this machine left is taken over at once, one of another machine after `SILENCE_SECONDS` without
    a sign of life: with the other's clock being another one, it is watched for so long.

    Args:
        folder: to work in.
        name: of the lock, a file in the folder; processes that share the work have names of their own.

    Raises:
        ValueError: on entry, if another process holds it, with its number and machine.
    """

    def __init__(self, folder: str | Path, name: str = ".lock"):
        self.path = Path(folder) / name
        self._lease = SoftFileLease(self.path, lease_duration=SILENCE_SECONDS, thread_local=False)
        self._made: list[Path] = []

    def __enter__(self) -> "FolderLock":
        folder = self.path.parent
        self._made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        if not self._acquire():
            self._take_from_the_dead()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Free the folder; of what was made for the lock, empty folders go."""
        self._lease.release()
        for folder in self._made:
            if any(folder.iterdir()):
                break
            folder.rmdir()

    def check(self) -> None:
        """Refuse to go on if the lock was lost: to another machine, after this process was halted for a minute or so.

        Raises:
            ValueError: it was.
        """
        if self._lease.compromise is not None:
            raise ValueError(
                f"the lock {str(self.path)!r} was lost ({self._lease.compromise.reason}): another process may be at work in the "
                "folder; this one stops"
            )

    def _acquire(self) -> bool:
        try:
            self._lease.acquire(timeout=0)  # takes over from a process of this machine that is gone
        except Timeout:
            return False
        return True

    def _take_from_the_dead(self) -> None:
        owner, touched = self._lease.owner, self._touched()
        if owner is not None and _lives_here(owner):
            raise ValueError(self._refusal(owner))
        logger.info("%s: waiting up to %.0f s for a sign of life of its owner", self.path, SILENCE_SECONDS)
        deadline = time.monotonic() + SILENCE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(min(1.0, SILENCE_SECONDS / 10))
            if self._acquire():
                return
            # reading it first: what a network file system remembers of a file is brought up to date when the file is opened
            if self._lease.owner != owner or self._touched() != touched:
                raise ValueError(self._refusal(self._lease.owner))
        self._lease.force_break()  # network file systems cannot exchange two names, which the lease needs to take over itself
        if not self._acquire():
            raise ValueError(self._refusal(self._lease.owner))

    def _touched(self) -> int | None:
        try:
            return self.path.stat().st_mtime_ns
        except FileNotFoundError:
            return None

    def _refusal(self, owner: OwnerRecord | None) -> str:
        whose = "another process" if owner is None else f"process {owner.pid} on {owner.hostname}"
        return f"{whose} is at work in {str(self.path.parent)!r} ({self.path.name}): wait for its end, or name another folder"


def _lives_here(owner: OwnerRecord) -> bool:
    if owner.hostname != socket.gethostname():
        return False
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # there, and somebody else's
        return True
    return True
