"""Where the files of a cache lie: a folder, a dataset repository of the hub, or any other address that fsspec reads."""

import os
import re
from importlib import import_module
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

from jog3r.data.errors import first_line

__all__ = ["FolderPlace", "Place", "RemotePlace", "connection_errors", "first_line", "open_parquet", "open_place"]

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_HUB = re.compile(r"hf://datasets/(?P<name>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[^/]+))?(?:/(?P<folder>.*))?")
_BLOCK = {"clips": 1 << 22, "captions": 1 << 16}  # bytes asked for at once: shards are read on, captions picked out


class Place(Protocol):
    """A folder of files, here or elsewhere."""

    address: str
    far: bool  # a question for each of thousands of files takes minutes

    def read(self, name: str) -> bytes | None:
        """The content of a small file; None if there is none."""

    def check_size(self, name: str, size: int) -> None:
        """Refuse with `ValueError` a file that is missing or has another `size` in bytes."""

    def what(self, name: str) -> str:
        """Its name for messages."""

    def url(self, name: str) -> str:
        """What `datasets` opens it by."""

    def open(self, name: str, size: int) -> Any:
        """What pyarrow reads it from; `ValueError` as `check_size`."""


class FolderPlace:
    """A folder of this machine."""

    far = False

    def __init__(self, folder: str | PathLike[str]):
        self.folder = Path(folder)
        self.address = str(folder)

    def read(self, name: str) -> bytes | None:
        """See `Place`."""
        path = self.folder / name
        return path.read_bytes() if path.is_file() else None

    def check_size(self, name: str, size: int) -> None:
        """See `Place`."""
        path = self.folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            raise ValueError(f"{self.what(name)} is missing or damaged: {found} bytes, expected {size}")

    def what(self, name: str) -> str:
        """See `Place`."""
        return repr(str(self.folder / name))

    def url(self, name: str) -> str:
        """See `Place`."""
        return str(self.folder / name)

    def open(self, name: str, size: int) -> Any:
        """See `Place`."""
        self.check_size(name, size)
        return self.folder / name


class RemotePlace:
    """What fsspec opens: `hf://`, `s3://`, `gs://`, `https://` ... Safe to hand to a forked process: each opens anew.

    Args:
        address: of the folder, in the words of fsspec.
        name: for messages; None is the address.
    """

    far = True

    def __init__(self, address: str, name: str | None = None):
        self.folder = address.rstrip("/")
        self.address = name or address
        self._opened: tuple[int, Any, str] | None = None

    def read(self, name: str) -> bytes | None:
        """See `Place`."""
        filesystem, root = self._filesystem()
        try:
            return filesystem.cat_file(f"{root}/{name}")
        except FileNotFoundError:
            return None

    def check_size(self, name: str, size: int) -> None:
        """See `Place`."""
        self.open(name, size).close()

    def what(self, name: str) -> str:
        """See `Place`."""
        return f"{name} of {self.address!r}"

    def url(self, name: str) -> str:
        """See `Place`."""
        return f"{self.folder}/{name}"

    def open(self, name: str, size: int) -> Any:
        """See `Place`."""
        filesystem, root = self._filesystem()
        try:
            file = filesystem.open(f"{root}/{name}", "rb", block_size=_BLOCK.get(name.split("-")[0]))
        except FileNotFoundError as error:
            if isinstance(error.__cause__, connection_errors()) and not isinstance(error.__cause__, FileNotFoundError):
                raise ConnectionError(first_line(error.__cause__)) from error  # fsspec takes a server that is gone for this, too
            raise ValueError(f"{self.what(name)} is missing, though the manifest names it") from error
        if file.size != size:
            file.close()
            raise ValueError(f"{self.what(name)} is damaged: {file.size} bytes, expected {size}")
        return file

    def _filesystem(self) -> tuple[Any, str]:
        """The file system and the folder's path in it. One with a thread of its own does not survive a fork."""
        import fsspec

        if self._opened is None or self._opened[0] != os.getpid():
            filesystem, root = fsspec.core.url_to_fs(self.folder, skip_instance_cache=True)
            self._opened = (os.getpid(), filesystem, root.rstrip("/"))
        return self._opened[1], self._opened[2]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}


def open_place(address: str | PathLike[str], revision: str | None = None) -> Place:
    """The place that an address names.

    Args:
        address: a folder, OWNER/NAME of a dataset repository, or an address of fsspec (`hf://datasets/OWNER/NAME`, `s3://...`).
        revision: of a repository: branch, tag or commit; None is its main branch. It is resolved to the commit of now, so that
            all files are of one state.

    Raises:
        ValueError: no such folder, repository or revision, an address that fsspec cannot open, or no connection.
    """
    text = os.fspath(address)
    hub = _HUB.fullmatch(text)
    if hub is None and "://" not in text and not Path(text).exists() and _REPOSITORY.fullmatch(text):
        hub = _HUB.fullmatch(f"hf://datasets/{text}")
    if hub is not None:
        return _hub_place(hub["name"], revision or hub["revision"], hub["folder"] or "")
    if revision is not None:
        raise ValueError(f"a revision is for dataset repositories, and {text!r} is none; got revision {revision!r}")
    if "://" not in text:
        return FolderPlace(text)
    place = RemotePlace(text)
    try:
        place._filesystem()  # names a protocol that fsspec lacks
    except (ValueError, ImportError, OSError) as error:
        raise ValueError(f"{text!r} cannot be opened: {first_line(error)}") from error
    return place


def open_parquet(place: Place, name: str, size: int) -> Any:
    """A file as `pyarrow.parquet.ParquetFile`; `ValueError` if it is missing, has another `size` in bytes or is damaged."""
    import pyarrow
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(place.open(name, size))
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{place.what(name)} is damaged: {first_line(error)}") from error


def connection_errors() -> tuple[type[Exception], ...]:
    """What a lost connection, or a disk that hiccups, raises in the libraries that read."""
    found: list[type[Exception]] = [OSError]
    for library, module, name in (
        ("aiohttp", "aiohttp", "ClientError"),
        ("huggingface_hub", "huggingface_hub.errors", "HTTPError"),
    ):
        if find_spec(library) is not None:
            found.append(getattr(import_module(module), name))
    return tuple(found)


def _hub_place(name: str, revision: str | None, folder: str) -> RemotePlace:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        commit = HfApi().dataset_info(name, revision=revision).sha
    except RevisionNotFoundError as error:
        raise ValueError(f"the dataset repository {name!r} has no revision {revision!r}") from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"{name!r} is no folder here, and the hub shows no dataset repository of that name; a private one needs "
            "`hf auth login` or the variable HF_TOKEN"
        ) from error
    except connection_errors() as error:
        raise ValueError(
            f"{name!r} is no folder here, and the hub cannot be asked for a dataset repository of that name: {first_line(error)}"
        ) from error
    root = f"hf://datasets/{name}@{commit}" + (f"/{folder}" if folder else "")
    return RemotePlace(root, f"{name}@{commit if commit is None else commit[:12]}")
