"""Output folders that are either complete or not there, and the error that a user can mend."""

import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType


class UsageError(Exception):
    """Bad usage or input: shown as one line, exit code 2."""


class OutputFolder:
    """A folder filled aside and put in place at the end.

    Entering refuses what cannot be written before any work is done; leaving without `commit` removes every trace.

    Args:
        path: the folder to be.
        overwrite: into an existing folder; replaces files of the same names, leaves the others.
    """

    def __init__(self, path: Path, overwrite: bool = False) -> None:  # noqa: D107  # the class says it
        self.path = path
        self.overwrite = overwrite
        self._aside: Path | None = None

    def __enter__(self) -> Path:
        """The folder to fill."""
        try:
            exists = self.path.exists()
        except OSError as error:  # a name that is too long
            raise UsageError(f"--out {str(self.path)!r} cannot be written: {error.strerror}") from error
        if exists and not self.path.is_dir():
            raise UsageError(f"--out {str(self.path)!r} is a file; name a folder")
        if exists and not self.overwrite:
            raise UsageError(f"--out {str(self.path)!r} exists already; name a new folder or add --overwrite")
        anchor = self.path.absolute().parent
        while not anchor.exists():
            anchor = anchor.parent
        try:
            self._aside = Path(tempfile.mkdtemp(dir=anchor, prefix=".jog3r-"))
        except OSError as error:
            raise UsageError(f"--out {str(self.path)!r} cannot be written: {error.strerror} ({str(anchor)!r})") from error
        mask = os.umask(0)
        os.umask(mask)
        self._aside.chmod(0o777 & ~mask)  # mkdtemp makes private folders
        return self._aside

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Put the folder in place after success, remove it after an error."""
        if self._aside is None:
            return
        try:
            if kind is None:
                self._put_in_place(self._aside)
        finally:
            shutil.rmtree(self._aside, ignore_errors=True)

    def _put_in_place(self, aside: Path) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not self.path.exists():
                os.rename(aside, self.path)
                return
            for file in sorted(item for item in aside.rglob("*") if item.is_file()):
                target = self.path / file.relative_to(aside)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, target)
        except OSError as error:
            raise UsageError(f"--out {str(self.path)!r} cannot be written: {error.strerror}") from error
