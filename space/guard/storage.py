"""Where the Space keeps files: one private folder per server, one below it per request, and nothing longer than allowed."""

import fcntl
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["ServerFolder"]

_PREFIX = "jog3r-space-"


class ServerFolder:
    """The private folder of a running server.

    Folders of servers that are gone, killed ones included, are deleted when the next one starts: the system releases the lock of
    a dead process, so a folder whose lock is free has no owner.

    Args:
        keep_seconds: Age at which files in it are deleted.
        parent: Where to make it; None is the system's folder for temporary files.
    """

    def __init__(self, keep_seconds: float, parent: Path | None = None) -> None:
        self.keep_seconds = keep_seconds
        parent = Path(tempfile.gettempdir()) if parent is None else parent
        _remove_orphans(parent)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))  # readable by this user alone
        self._lock = (self.path / ".lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (self.path / "served").mkdir()
        (self.path / "requests").mkdir()

    @property
    def served(self) -> Path:
        """The only folder whose files go out over HTTP; Gradio's."""
        return self.path / "served"

    @contextmanager
    def request(self) -> Iterator[Path]:
        """A folder for one request's files while they are made; Gradio copies finished ones to `served`, then it goes."""
        folder = Path(tempfile.mkdtemp(dir=self.path / "requests"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def serve(self, path: Path) -> str:
        """Copy a finished file to where it can be fetched, under a name that cannot be guessed; returns that path."""
        folder = self.served / secrets.token_hex(16)
        folder.mkdir()
        return str(shutil.copy(path, folder / path.name))

    def usage(self) -> tuple[int, int]:
        """Bytes and number of all files in it."""
        sizes = [size for _, size, _ in self._files()]
        return sum(sizes), len(sizes)

    def remove_oldest(self, to_bytes: int, to_files: int, spare_seconds: float) -> tuple[int, int]:
        """Delete files, the oldest first, until the others take at most so much; returns bytes and number of those.

        Args:
            to_bytes, to_files: What may stay.
            spare_seconds: Age below which files stay in any case.
        """
        files = sorted(self._files())
        total, count = sum(size for _, size, _ in files), len(files)
        limit = time.time() - spare_seconds
        for changed, size, path in files:
            if changed > limit or (total <= to_bytes and count <= to_files):
                break
            with suppress(OSError):  # gone already
                path.unlink()
                total, count = total - size, count - 1
                if path.parent.parent != self.path:
                    path.parent.rmdir()  # if this was all that it held
        return total, count

    def _files(self) -> list[tuple[float, int, Path]]:
        """Time of the last change, size and path of every file."""
        found = []
        for folder, _, names in os.walk(self.path):
            for name in names:
                path = Path(folder, name)
                with suppress(FileNotFoundError):  # deleted meanwhile
                    status = path.lstat()
                    found.append((status.st_mtime, status.st_size, path))
        return [file for file in found if file[2].name != ".lock"]

    def remove_old(self) -> int:
        """Delete what is older than `keep_seconds`, abandoned uploads included; returns how many files went."""
        limit = time.time() - self.keep_seconds
        count = 0
        try:
            paths = sorted(self.path.rglob("*"), reverse=True)  # children before their folders
        except FileNotFoundError:  # closed meanwhile, by another thread
            return 0
        for path in paths:
            try:
                if path.name == ".lock" or path.parent == self.path or path.lstat().st_mtime > limit:
                    continue
                if path.is_dir():
                    path.rmdir()
                else:
                    path.unlink()
                    count += 1
            except OSError:  # in use, or gone already
                continue
        return count

    def close(self) -> None:
        """Delete everything."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _remove_orphans(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            if folder.lstat().st_uid != os.getuid() or folder.is_symlink():
                continue
            with (folder / ".lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # its owner lives, or it is being made this moment
            continue
