"""Where the Space keeps files: one private folder per server, one below it per request, and nothing longer than allowed."""

import fcntl
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

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

    def serve(self, contents: Mapping[str, bytes]) -> dict[str, str]:
        """Write files where they can be fetched, in a folder whose name cannot be guessed; returns their addresses."""
        folder = self.served / secrets.token_hex(16)
        folder.mkdir()
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        return {name: f"gradio_api/file={folder / name}" for name in contents}

    def usage(self) -> tuple[int, int]:
        """Bytes and number of the files of requests and uploads."""
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

    def remove_old(self) -> None:
        """Delete what is older than `keep_seconds`, abandoned uploads included."""
        self.remove_oldest(0, 0, self.keep_seconds)

    def _files(self) -> list[tuple[float, int, Path]]:
        """Time of the last change, size and path of every file that goes after its time."""
        found = []
        for kept in (self.served, self.path / "requests", self.path / "made"):
            for folder, _, names in os.walk(kept):
                for name in names:
                    path = Path(folder, name)
                    with suppress(FileNotFoundError):  # deleted meanwhile
                        status = path.lstat()
                        found.append((status.st_mtime, status.st_size, path))
        return found

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
