"""One run a folder: refused beside a living process, taken over from a dead one, here or on another machine."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_components import tiny_text_encoder, tiny_tokenizer, tiny_vae
from training_cases import run_here, settings

from jog3r.data.cache import Cache
from jog3r.training import folder_lock
from jog3r.training.folder_lock import FolderLock, check_world
from jog3r.training.preparation.prepare_config import PrepareConfig
from jog3r.training.preparation.shards import lock_cache
from jog3r.training.prepare import Preparation, prepare
from jog3r.training.run.failures import TrainingStopped
from jog3r.training.run.processes import RunLock, start_accelerator

FORK = multiprocessing.get_context("fork")


def _hold(entered: Callable[[], object], ready: object, end: object) -> None:
    with entered():
        ready.set()
        end.wait()


class Holder:
    """A process of its own in a lock's context until told to leave or killed."""

    def __init__(self, entered: Callable[[], object]):
        ready, self._end = FORK.Event(), FORK.Event()
        self.process = FORK.Process(target=_hold, args=(entered, ready, self._end))
        self.process.start()
        assert ready.wait(120)

    def leave(self) -> None:
        self._end.set()
        self.process.join()

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()


def _foreign(path: Path, duration: float) -> None:
    """The lock of a process on another machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"filelock/2\npid=17\nhost=elsewhere\nmode=lease\ntoken={'a' * 32}\nduration={duration!r}\nstart=1\n")


def test_a_second_process_is_refused_by_name_and_a_later_one_is_not(tmp_path: Path) -> None:
    holder = Holder(lambda: FolderLock(tmp_path / "a" / "run"))
    with pytest.raises(ValueError, match=rf"process {holder.process.pid} on .* is at work in .*run'.*name another folder"):
        FolderLock(tmp_path / "a" / "run").__enter__()
    holder.leave()
    assert not (tmp_path / "a").exists()  # made for the lock alone
    with FolderLock(str(tmp_path / "a" / "run")) as lock:
        (tmp_path / "a" / "run" / "result").write_text("")
        lock.check()
    assert [path.name for path in (tmp_path / "a" / "run").iterdir()] == ["result"]


def test_the_lock_of_a_killed_process_is_taken_over_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = Holder(lambda: FolderLock(tmp_path))
    holder.kill()
    assert (tmp_path / ".lock").is_file()
    monkeypatch.setattr(FolderLock, "_take_from_the_dead", None)  # nothing to wait for
    with FolderLock(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_the_lock_of_another_machine_is_watched_for_a_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "SILENCE_SECONDS", 0.2)
    _foreign(tmp_path / ".lock", 0.2)
    with FolderLock(tmp_path):  # it was silent
        pass
    monkeypatch.setattr(folder_lock, "SILENCE_SECONDS", 60.0)
    _foreign(tmp_path / ".lock", 60.0)
    seen = []

    def sleep(_: float) -> None:  # the other one refreshes its lock while it is watched
        seen.append(len(seen))
        os.utime(tmp_path / ".lock", ns=(len(seen), len(seen)))

    monkeypatch.setattr(folder_lock, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
    with pytest.raises(ValueError, match="process 17 on elsewhere is at work"):
        FolderLock(tmp_path).__enter__()
    assert seen == [0]


def test_a_lock_that_cannot_be_exchanged_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Network file systems: the lease cannot take over there by itself."""
    monkeypatch.setattr(folder_lock, "SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(folder_lock.SoftFileLease, "_take_over", lambda *_: None)
    _foreign(tmp_path / ".lock", 0.2)
    with FolderLock(tmp_path) as lock:
        assert lock.path.read_text().splitlines()[1] == f"pid={os.getpid()}"


def test_a_lost_lock_stops_the_run_before_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lost:
        compromise = type("Compromise", (), {"reason": "owner-changed"})

        def release(self) -> None:
            pass

    with RunLock(start_accelerator(settings(output_dir=str(tmp_path))), tmp_path) as lock:
        monkeypatch.setattr(lock._lock, "_lease", Lost())
        with pytest.raises(TrainingStopped, match=r"was lost \(owner-changed\): another process may be at work"):
            lock.check()


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    folder = run_here(tmp_path, num_steps=1, num_workers=1)
    assert not (folder / ".lock").exists()  # and a worker of the data has not freed it before its time
    holder = Holder(lambda: FolderLock(folder))
    with pytest.raises(ValueError, match="is at work in .*run"):
        run_here(tmp_path, num_steps=2)
    assert [path.name for path in folder.glob("step-*")] == ["step-0000001"]
    holder.leave()


def test_processes_that_accelerate_does_not_see_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_world(1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_world(2)
    for call in (
        lambda: check_world(1),
        lambda: run_here(tmp_path),
        lambda: prepare(PrepareConfig(output_dir=str(tmp_path), model="m")),
    ):
        with pytest.raises(ValueError, match="WORLD_SIZE=2 processes were launched, but accelerate sees 1.*cpu.yaml"):
            call()
    assert not (tmp_path / "run").exists()


# A cache: its processes share the folder, but nobody else's


def _config(folder: Path) -> PrepareConfig:
    model = folder / "model"
    if not model.exists():
        for name, part in (("vae", tiny_vae()), ("text_encoder", tiny_text_encoder()), ("tokenizer", tiny_tokenizer())):
            part.save_pretrained(model / name)
    return PrepareConfig(
        output_dir=str(folder / "cache"), model=str(model), source="procedural", num_clips=2, num_frames=4, height=16, width=16,
        min_frames=4, clips_per_shard=1, caption_length=8,
    )  # fmt: skip


def test_processes_of_one_preparation_share_a_cache_and_those_of_two_do_not(tmp_path: Path) -> None:
    config = _config(tmp_path)
    holder = Holder(lambda: lock_cache(tmp_path / "cache", (0, 2)))
    with lock_cache(tmp_path / "cache", (1, 2)):
        pass
    for process in ((0, 2), (0, 1), (2, 3)):
        with pytest.raises(ValueError, match=rf"process {holder.process.pid} on .* is at work in .*cache' \(.lock-0-of-2\)"):
            lock_cache(tmp_path / "cache", process).__enter__()
    with pytest.raises(ValueError, match="is at work in .*cache'"):
        prepare(config)
    holder.kill()
    prepare(config)
    assert not list((tmp_path / "cache").glob(".lock*"))
    Cache(tmp_path / "cache").verify()


def test_a_shard_of_the_right_size_and_a_wrong_checksum_is_written_again(tmp_path: Path) -> None:
    """What two preparations in one folder could leave before there was a lock."""
    config = _config(tmp_path)
    prepare(config)
    shards = [tmp_path / "cache" / name for name in ("clips-00001.parquet", "captions-00000.parquet")]
    before = [path.read_bytes() for path in shards]
    for path, content in zip(shards, before, strict=True):
        path.write_bytes(content[:100] + bytes(20) + content[120:])
    with pytest.raises(ValueError, match="has changed since it was written"):
        Cache(tmp_path / "cache").verify()
    assert Preparation(config).run()
    Cache(tmp_path / "cache").verify()
    assert [path.read_bytes() for path in shards] == before
