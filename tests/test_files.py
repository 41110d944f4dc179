"""Files and folders are whole whenever they exist, whatever happens while they are written."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from jog3r.data import files
from jog3r.data.files import replace_folder, write_aside, write_json


def _killed(work: Callable[[], object]) -> None:
    """`work` in a process of its own, in which it has to end by a kill."""
    process = os.fork()
    if process == 0:
        work()
        os._exit(0)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def _kill(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _two(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "in").mkdir(parents=True)
        (folder / "in" / "a.txt").write_text(text)
        (folder / "b.txt").write_text(text)

    return write


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": 1})
    replace_folder(str(tmp_path / "folder"), _two("old"))

    def half(aside: Path) -> None:
        _two("new")(aside)
        raise ValueError("no more")

    def half_file(aside: Path) -> None:
        aside.write_text("{")
        raise ValueError("no more")

    for call in (lambda: replace_folder(tmp_path / "folder", half), lambda: write_aside(str(tmp_path / "a.json"), half_file)):
        with pytest.raises(ValueError, match="no more"):
            call()
    assert (tmp_path / "a.json").read_text() == '{\n "a": 1\n}\n'
    assert (tmp_path / "folder" / "in" / "a.txt").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "folder"]


@pytest.mark.parametrize("moment", ["written", "moved away"])
def test_a_folder_that_was_being_replaced_survives_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    folder, plain = tmp_path / "folder", Path.rename
    replace_folder(folder, _two("old"))
    (folder / "kept.txt").write_text("by hand")

    def rename(path: Path, target: Path) -> Path:
        if moment == "written" or target == folder:
            _kill()
        return plain(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", rename)
        _killed(lambda: replace_folder(folder, _two("new")))
    assert folder.exists() == (moment == "written")

    def write(aside: Path) -> None:
        _two("new")(aside)
        (aside / "kept.txt").write_text((folder / "kept.txt").read_text())

    replace_folder(folder, write)
    assert (folder / "in" / "a.txt").read_text() == "new" and (folder / "kept.txt").read_text() == "by hand"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_all_is_on_the_disk_before_the_name_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []

    def sync(path: Path) -> None:
        synced.append(path.name)
        assert (tmp_path / "folder").exists() == (path == tmp_path)

    monkeypatch.setattr(files, "sync", sync)
    replace_folder(tmp_path / "folder", _two("text"))
    assert {*synced[:2]} == {"a.txt", "b.txt"} and synced[2:] == ["in", ".folder.partial", tmp_path.name]
