"""A cache in a dataset repository of the hub: uploaded while it is made, the manifest last; or fetched from there."""

import json
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.hf_api import RepoFile

from jog3r.data.cache import MANIFEST, PLAN, REPORT, open_place
from jog3r.data.cache.places import connection_errors
from jog3r.data.errors import first_line
from jog3r.data.files import file_hash, write_aside

__all__ = ["HubCopy", "fetch_cache"]

logger = logging.getLogger(__name__)
CARD = "README.md"
_SECONDS_BETWEEN_COMMITS = 60.0  # of one process: the hub takes 128 an hour of one repository
_FILES_AT_ONCE = 64
_PAUSES = (1.0, 4.0, 16.0, 60.0)  # seconds before a lost connection is tried again
_BUSY = (408, 409, 412, 429)  # what the hub answers where others commit at the same time, or too often
_RIGHTS = {
    "realestate10k": "Latents and depth here are derived from videos whose rights stay with their owners: keep them to yourself.",
    "posed": "Latents and depth here are derived from videos of somebody: say here whose, and what may be done with them.",
    "procedural": "Everything here was drawn by code of jog3r (Apache-2.0).",
}


class HubCopy:
    """The copy of a cache in a dataset repository, made while the cache is: shards as they get ready, the manifest last.

    Several processes may have one each; what is there already is not sent again.

    Args:
        repository: OWNER/NAME; made if it is not there.
        folder: of the cache.
        private: whether a new repository is.
        processes: how many there are, of which each makes commits.
    """

    def __init__(self, repository: str, folder: str | Path, private: bool, processes: int = 1):
        self.repository, self.folder = repository, Path(folder)
        self._api, self._private, self._pause = HfApi(), private, _SECONDS_BETWEEN_COMMITS * processes
        self._pending: list[Path] = []
        self._pool = ThreadPoolExecutor(1)
        self._sent: Future[None] | None = None
        self._last = time.monotonic()
        self._finished = False  # whether the repository has a manifest, of what is about to change

    def open(self, plan: dict[str, Any]) -> None:
        """Make the repository, before hours are spent, or see that a cache of `plan` was begun in it.

        Raises:
            ValueError: the hub refuses, or the repository holds another cache, or other files.
        """
        try:
            _again(lambda: self._api.create_repo(self.repository, repo_type="dataset", private=self._private, exist_ok=True))
            place = open_place(f"hf://datasets/{self.repository}")
            before, self._finished = place.read(PLAN), place.read(MANIFEST) is not None
            others = set() if before is not None else {*self._there()} - {".gitattributes", CARD}
        except (ValueError, *connection_errors()) as error:
            raise ValueError(
                f"the hub does not give push_to_hub={self.repository!r}: {first_line(error)}; see `hf auth login`"
            ) from error
        if others:
            raise ValueError(f"push_to_hub={self.repository!r} holds other files ({sorted(others)[0]}); name a new repository")
        there = {} if before is None else json.loads(before)
        wrong = sorted(name for name in plan if before is not None and there.get(name) != plan[name])
        if wrong:
            raise ValueError(
                f"push_to_hub={self.repository!r} holds a cache of another {wrong[0]}: {there.get(wrong[0])}, now "
                f"{plan[wrong[0]]}; name a new repository"
            )

    def offer(self, path: Path) -> None:
        """A file of the cache is complete: it is sent beside the work, with others, about once a minute."""
        self._pending.append(path)
        idle = self._sent is None or self._sent.done()
        if idle and time.monotonic() - self._last > self._pause:
            self._begin()

    def flush(self) -> None:
        """Send what was offered, and wait for it.

        Raises:
            ValueError: the hub refuses, or there is no connection.
        """
        try:
            with suppress(*connection_errors()):
                self._wait()  # what failed in between is sent now
            self._begin()
            self._wait()
        except connection_errors() as error:
            raise ValueError(
                f"{str(self.folder)!r} is not all in {self.repository!r} ({first_line(error)}); the same command sends the rest"
            ) from error

    def finish(self, manifest: dict[str, Any]) -> None:
        """Send whatever of the finished cache is not there, other processes' files too; then manifest, report and card.

        Raises:
            ValueError: as `flush`.
        """
        self.flush()
        try:
            there = self._there()
            files = [name for name, entry in manifest["files"].items() if there.get(name) != entry["sha256"]]
            self._pending = [self.folder / name for name in files]
            self.flush()
            card = CommitOperationAdd(CARD, _card(self.repository, manifest).encode())
            self._commit([card, *(CommitOperationAdd(name, self.folder / name) for name in (PLAN, REPORT, MANIFEST))])
        except connection_errors() as error:
            raise ValueError(
                f"{self.repository!r} has no manifest yet ({first_line(error)}); run the same command again"
            ) from error
        logger.info("uploaded %s to %s", self.folder, self.repository)

    def _wait(self) -> None:
        if self._sent is not None:
            self._sent.result()

    def _begin(self) -> None:
        """Send what is pending beside the work; an error leaves it pending, and comes out of the future."""
        error = self._sent.exception() if self._sent is not None else None
        if isinstance(error, Exception):
            logger.warning("not uploaded yet: %s", first_line(error))
        if self._pending:
            self._sent, self._last = self._pool.submit(self._send), time.monotonic()

    def _send(self) -> None:
        while self._pending:
            files = self._pending[:_FILES_AT_ONCE]
            operations: list[CommitOperationAdd | CommitOperationDelete] = [CommitOperationAdd(PLAN, self.folder / PLAN)]
            operations += [CommitOperationAdd(path.name, path) for path in files if path.is_file()]
            if self._finished and MANIFEST in self._there():
                operations.append(CommitOperationDelete(MANIFEST))
            self._commit(operations)
            self._finished = False
            del self._pending[: len(files)]

    def _commit(self, operations: Sequence[CommitOperationAdd | CommitOperationDelete]) -> None:
        names = [operation.path_in_repo for operation in operations]
        message = names[-1] if len(names) < 3 else f"{len(names)} files, {names[1]} to {names[-1]}"
        _again(lambda: self._api.create_commit(self.repository, list(operations), commit_message=message, repo_type="dataset"))

    def _there(self) -> dict[str, str]:
        """Files of the repository with their SHA-256; "" of small ones, which the hub compares itself."""
        entries = self._api.list_repo_tree(self.repository, repo_type="dataset", recursive=True)
        files = [entry for entry in entries if isinstance(entry, RepoFile)]
        return {file.path: file.lfs.sha256 if file.lfs is not None else "" for file in files}


def _again(act: Callable[[], object]) -> None:
    """`act`, and again after a while where the connection was lost, or the hub had too much to do."""
    for pause in _PAUSES:
        try:
            act()
            return
        except connection_errors() as error:
            status = getattr(getattr(error, "response", None), "status_code", 500)
            if 400 <= status < 500 and status not in _BUSY:
                raise  # the hub understood, and refuses
            logger.info("%s; trying again", first_line(error))
            time.sleep(pause)
    act()


def _card(repository: str, manifest: dict[str, Any]) -> str:
    """The dataset card: what is in it, whose it is, how it is read."""
    plan = manifest["plan"]
    source = str(plan["source"].get("kind", "posed"))
    rights = next((text for kind, text in _RIGHTS.items() if source.startswith(kind)), _RIGHTS["posed"])
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    models = "\n".join(f"| {part} | {name} |" for part, name in manifest["models"].items())
    return f"""---
tags:
- jog3r
configs:
- config_name: clips
  data_files: clips-*.parquet
- config_name: captions
  data_files: captions-*.parquet
---

# Prepared videos for jog3r

Latents, depth, cameras and caption embeddings, made by `jog3r prepare`. {rights}

| | |
|---|---|
| videos | {manifest["videos"]}, and {manifest["skipped"]} that were skipped (`{REPORT}`) |
| frames | {manifest["frames"]} of {plan["height"]} x {plan["width"]} pixels |
| size | {size / 1e9:.3g} GB in {len(manifest["files"])} files, whose SHA-256 stand in `{MANIFEST}` |
{models}

To train on it without a copy, each shard read from front to end:

```
accelerate launch training/train_joint.py --data stream --dataset {repository} ...
```

To copy it first: `jog3r prepare --from_hub {repository} --output_dir CACHE`, then `--data cache --cache_dir CACHE`.
"""


def fetch_cache(repository: str, folder: str | Path) -> dict[str, Any]:
    """Copy a finished cache from the hub into a folder: files of the right checksum stay, the manifest comes last.

    Args:
        repository: OWNER/NAME, or OWNER/NAME@REVISION.
        folder: new, or of the same copy that was interrupted.

    Returns:
        The manifest.

    Raises:
        ValueError: no such repository or revision, no finished cache in it, no connection, a file that came out damaged, or a
            folder of something else.
    """
    from huggingface_hub import hf_hub_download
    from tqdm import tqdm

    from jog3r.data.cache import Cache

    name, _, revision = repository.partition("@")
    folder = Path(folder)
    place = open_place(f"hf://datasets/{name}", revision or None)
    manifest = Cache(place).manifest
    commit = place.url("").split("@")[1].split("/")[0]
    if (folder / MANIFEST).is_file() and json.loads((folder / MANIFEST).read_text(encoding="utf-8")) != manifest:
        raise ValueError(f"{str(folder)!r} holds another cache; name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    strangers = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    strangers -= {*manifest["files"], MANIFEST, PLAN, REPORT}
    if strangers:
        raise ValueError(f"{str(folder)!r} holds other files ({sorted(strangers)[0]}); name a new folder")
    try:
        for file, entry in tqdm(manifest["files"].items(), desc="download", unit="file"):
            path = folder / file
            if not path.is_file() or file_hash(path) != entry["sha256"]:
                options = {"repo_type": "dataset", "revision": commit, "local_dir": folder, "force_download": path.is_file()}
                _again(partial(hf_hub_download, name, file, **options))
                if file_hash(path) != entry["sha256"]:
                    raise ValueError(f"{file} of {repository!r} does not have the checksum of its manifest; try again")
        for file in (PLAN, REPORT, MANIFEST):
            if (content := place.read(file)) is not None:
                write_aside(folder / file, partial(Path.write_bytes, data=content))
    except connection_errors() as error:
        raise ValueError(f"{repository!r} was not copied whole ({first_line(error)}); the same command goes on") from error
    return manifest
