"""The folder of a cache while it is being written: whose it is, which shards are complete, which are this process's to write."""

import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jog3r.data.cache import MANIFEST, PLAN, REPORT, part_name
from jog3r.data.files import aside_of, file_hash, write_json
from jog3r.data.local_files import is_hidden
from jog3r.training.folder_lock import FolderLock

__all__ = ["ShardFolder", "lock_cache"]

logger = logging.getLogger(__name__)
PARTS = "parts"
_LOCK = re.compile(r"\.lock-\d+-of-(\d+)")


@contextmanager
def lock_cache(directory: str | Path, process: tuple[int, int]) -> Iterator[None]:
    """Context in which nobody else does this process's share of a cache, and nobody shares the work out among another number.

    Raises:
        ValueError: somebody does.
    """
    index, count = process
    with FolderLock(directory, f".lock-{index}-of-{count}"):
        for path in Path(directory).iterdir():
            if (found := _LOCK.fullmatch(path.name)) and int(found[1]) != count:
                with FolderLock(directory, path.name):  # gone, if this can be had
                    pass
        yield


class ShardFolder:
    """Bookkeeping of one process; processes share nothing but the folder.

    A shard is complete when its index lies in `parts/`, which is written after its Parquet file was renamed.

    Args:
        directory: of the cache.
        process: (this one, of how many); shards are dealt out in turn.
    """

    def __init__(self, directory: str | Path, process: tuple[int, int]):
        self.directory, self.process = Path(directory), process
        self.tag = f"-{process[0]}"  # of files that any process may write

    def check(self, plan: dict[str, Any]) -> None:
        """See that the folder is new or was begun with this `plan`, or with one of which this is a part.

        Raises:
            ValueError: it holds something else, or was begun with another plan; what differs is named, the VAE first.
        """
        path = self.directory / PLAN
        if not path.is_file():
            found = sorted(item.name for item in self.directory.iterdir()) if self.directory.is_dir() else []
            strangers = [name for name in found if name != PARTS and not is_hidden(name)]
            if strangers:
                raise ValueError(f"output_dir {str(self.directory)!r} holds other files ({strangers[0]}); name a new folder")
            return
        before = json.loads(path.read_text(encoding="utf-8"))
        wrong = sorted(name for name in plan if before.get(name) != plan[name])
        if wrong:
            name = "vae" if "vae" in wrong else wrong[0]
            others = f" (also: {', '.join(other for other in wrong if other != name)})" if len(wrong) > 1 else ""
            raise ValueError(
                f"the cache {str(self.directory)!r} was begun with another {name}: {before.get(name)}, now {plan.get(name)}"
                f"{others}; name a new output_dir or delete it"
            )

    def claim(self, plan: dict[str, Any]) -> None:
        """Make the folder that of `plan`, or see that it already is.

        Raises:
            ValueError: as `check`.
        """
        path = self.directory / PLAN
        if self.process[0] != 0:
            _wait_for(path)
        self.check(plan)
        if not path.is_file():
            (self.directory / PARTS).mkdir(parents=True, exist_ok=True)
            write_json(path, plan)
        for name in (MANIFEST, REPORT):  # of a run that was killed while writing it
            aside_of(self.directory / name, self.tag).unlink(missing_ok=True)

    def mine(self, count: int) -> range:
        """This process's shards of `count`."""
        return range(self.process[0], count, self.process[1])

    def todo(self, kind: str, count: int, retry_skipped: bool = False) -> list[int]:
        """Those of them that are not complete or have changed, or in which something was skipped; they are opened for writing."""
        parts = {number: self._intact_part(kind, number) for number in self.mine(count)}
        numbers = [number for number, part in parts.items() if part is None or (retry_skipped and part.get("skipped"))]
        if numbers:
            (self.directory / MANIFEST).unlink(missing_ok=True)  # what it states is about to change
        for number in numbers:
            self._index(kind, number).unlink(missing_ok=True)
        return numbers

    def part(self, kind: str, number: int) -> Any:
        """The index of a complete shard; None if it has to be written."""
        index, data = self._index(kind, number), self.data(kind, number)
        if not index.is_file():
            return None
        part = json.loads(index.read_text(encoding="utf-8"))
        if part["bytes"] and (not data.is_file() or data.stat().st_size != part["bytes"]):
            logger.warning("%s is missing or damaged: writing it again", data)
            return None
        return part

    def _intact_part(self, kind: str, number: int) -> Any:
        """`part`, if the content is what it was, too; reading all of it takes seconds a gigabyte, computing it again hours."""
        part, data = self.part(kind, number), self.data(kind, number)
        if part is not None and part["bytes"] and file_hash(data) != part["sha256"]:
            logger.warning("%s has changed since it was written: writing it again", data)
            return None
        return part

    def seal(self, kind: str, number: int, content: dict[str, Any]) -> None:
        """Write the index of a shard whose Parquet file is in place; without rows there is none."""
        data = self.data(kind, number)
        exists = data.is_file()
        content |= {"bytes": data.stat().st_size if exists else 0, "sha256": file_hash(data) if exists else None}
        write_json(self._index(kind, number), content)

    def data(self, kind: str, number: int) -> Path:
        """The Parquet file of a shard."""
        return self.directory / f"{part_name(kind, number)}.parquet"

    def write(self, name: str, content: dict[str, Any]) -> None:
        """A json file of the whole cache."""
        write_json(self.directory / name, content, self.tag)

    def _index(self, kind: str, number: int) -> Path:
        return self.directory / PARTS / f"{part_name(kind, number)}.json"


def _sign_of_life(directory: Path) -> list[int]:
    """When the lock of the first process was refreshed."""
    found = []
    for lock in directory.glob(".lock-0-of-*"):
        with suppress(FileNotFoundError):
            found.append(lock.stat().st_mtime_ns)
    return found


def _wait_for(path: Path, seconds: float = 600.0) -> None:
    """Wait until the first process has made `path`: as long as it is at work, which its lock shows, and `seconds` more."""
    deadline, sign = time.monotonic() + seconds, None
    while not path.is_file():
        latest = _sign_of_life(path.parent)
        if latest != sign:  # it surveys the videos, which may take hours
            deadline, sign = time.monotonic() + seconds, latest
        if time.monotonic() > deadline:
            raise ValueError(f"{path} did not appear within {seconds:.0f} s: is process 0 running, with the same output_dir?")
        time.sleep(0.2)
