"""Output folders that are either complete or not there, and the error that a user can mend."""

import os
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

_DERIVED = ("points3D.ply",)  # of our points3D.bin, by trainers of Gaussian splats, who read it from then on


class UsageError(Exception):
    """Bad usage or input: shown as one line, exit code 2."""


class PartlyDone(UsageError):
    """The results are there, but not all that was asked for.

    Args:
        message: what is missing, and why.
        report: what the command prints of the results.
    """

    def __init__(self, message: str, report: str) -> None:  # noqa: D107  # the class says it
        super().__init__(message)
        self.report = report


class OutputFolder:
    """A folder filled aside and put in place at the end.

    Entering refuses what cannot be written before any work is done; leaving after an error removes every trace. A result that
    cannot be put in place at the end, on a disk that is full or gone, stays aside and is named.

    Args:
        path: the folder to be.
        overwrite: into an existing folder. Files of the result replace those of the same names, in its subfolders all of the same
            kind (ending), so that no subfolder mixes two runs; whatever else is there stays.
        names: what the result will hold at its top, as far as known: checked on entering. Those without suffix are folders.
        inputs: what the command reads; nothing of it is replaced. None stands for nothing.
    """

    def __init__(  # noqa: D107  # the class says it
        self, path: Path, overwrite: bool = False, names: Iterable[str] = (), inputs: Iterable[Path | None] = ()
    ) -> None:
        self.path = path
        self.overwrite = overwrite
        self.names = tuple(names)
        self.inputs = tuple(given for given in inputs if given is not None)
        self._aside: Path | None = None
        self._existed = False

    def __enter__(self) -> Path:
        """The folder to fill."""
        try:
            self._existed = self.path.exists()
        except OSError as error:  # a name that is too long
            raise UsageError(f"{self._refusal()}: {error.strerror}") from error
        if self._existed and not self.path.is_dir():
            raise UsageError(f"--out {str(self.path)!r} is a file; name a folder")
        if self._existed and not self.overwrite:
            raise UsageError(f"--out {str(self.path)!r} exists already; name a new folder or add --overwrite")
        if not self._existed and self.path.is_symlink():
            raise UsageError(f"{self._refusal()}: it is a link to {os.readlink(self.path)!r}, which is not there")
        self._check_inputs(self.names)
        for name in self.names:
            self._check_kind(name, is_folder=not Path(name).suffix)
        # Renaming works within one file system: inside of a folder that is there, which may be a mount point or a link.
        anchor = self.path.resolve() if self._existed else self.path.absolute().parent
        while not anchor.exists():
            anchor = anchor.parent
        try:
            self._aside = anchor / f".jog3r-{secrets.token_hex(4)}"
            self._aside.mkdir()
        except OSError as error:
            raise UsageError(f"{self._refusal()}: {error.strerror} ({str(anchor)!r})") from error
        return self._aside

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Put the folder in place after success, remove it after an error."""
        if self._aside is None:
            return
        if kind is None:
            try:
                self._put_in_place(self._aside)
            except (OSError, UsageError) as failure:  # after all the work: nothing is thrown away
                reason = failure if isinstance(failure, UsageError) else f"{self._refusal()}: {failure.strerror}"
                raise UsageError(f"{reason}; the results stay in {str(self._aside)!r}") from failure
        shutil.rmtree(self._aside, ignore_errors=True)

    def _put_in_place(self, aside: Path) -> None:
        """All of it, or nothing: what was there before waits aside until everything new is in place."""
        if not self._existed:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.rename(aside, self.path)
            return
        items, earlier = sorted(aside.iterdir()), aside / ".earlier"
        self._check_inputs([item.name for item in items])
        for item in items:
            self._check_kind(item.name, item.is_dir())
        earlier.mkdir()
        moves: list[tuple[Path, Path]] = []
        for item in items:
            target = self.path / item.name
            moves += [(target, earlier / item.name)] if os.path.lexists(target) else []
            moves.append((item, target))
            moves += [(earlier / item.name / name, target / name) for name in _others(target, item)]
        try:
            for source, target in moves:
                target.parent.mkdir(parents=True, exist_ok=True)
                os.rename(source, target)
        except BaseException:  # an interruption, too: put back and go on raising
            for source, target in reversed(moves):
                if os.path.lexists(target) and not os.path.lexists(source):
                    os.rename(target, source)
            raise

    def _check_inputs(self, names: Iterable[str]) -> None:
        """Refuse to write where something of these names at the top of the folder is read from, or into a folder that is read."""
        folder = Path(os.path.realpath(self.path))
        for given in self.inputs:
            place = Path(os.path.realpath(given))
            if place == folder:
                raise UsageError(f"--out {str(self.path)!r} is the folder that is read; name another one")
            if any(place.is_relative_to(folder / name) for name in names):
                raise UsageError(f"--out {str(self.path)!r} would replace what is read, {str(given)!r}; name another folder")

    def _check_kind(self, name: str, is_folder: bool) -> None:
        target = self.path / name
        if target.exists() and target.is_dir() != is_folder:
            there, wanted = ("file", "folder") if is_folder else ("folder", "file")
            raise UsageError(
                f"{self._refusal()}: {name!r} in it is a {there}, a {wanted} of that name is to be written; move it away"
            )

    def _refusal(self) -> str:
        return f"--out {str(self.path)!r} cannot be written"


def _others(folder: Path, new: Path) -> list[Path]:
    """Files in a folder, relative to it, that `new` does not stand for: in the same place it has none of that ending."""
    if not folder.is_dir():
        return []
    kinds = {(path.parent.relative_to(new), path.suffix) for path in new.rglob("*") if path.is_file()}
    there = [path.relative_to(folder) for path in folder.rglob("*") if path.is_symlink() or path.is_file()]
    return [path for path in there if (path.parent, path.suffix) not in kinds and path.name not in _DERIVED]
