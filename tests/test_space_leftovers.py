"""What a running Space keeps of requests that are over: files, names, sessions, memory."""

import ctypes
import json
import platform
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("gradio")
from gradio.routes import file_upload_statuses
from space_server import PATIENCE_SECONDS, PROMPT, Running, connected, function_number, held_layers, running_space, wait_for

from jog3r.space.guard import gate, leftovers
from jog3r.space.guard.leftovers import SESSIONS, Leftovers
from jog3r.space.guard.upkeep import few_arenas

GOOD = (PROMPT, 0, 20, 1.0, 4)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_space(tmp_path_factory.mktemp("space")) as running:
        yield running


@pytest.fixture(autouse=True)
def no_tidying_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests say when; the server's own, every few seconds, would come between what is looked at."""
    monkeypatch.setattr(gate, "_TIDY_SECONDS", float("inf"))


def _post(running: Running, path: str, value: object) -> dict:
    request = urllib.request.Request(
        f"{running.url}gradio_api/{path}", json.dumps(value).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
        return json.load(answer)


def _tidy(running: Running, times: int) -> None:
    drop = Leftovers(running.page)
    for _ in range(times):
        drop()


def test_sessions_of_answered_requests_are_dropped(running: Running, monkeypatch):
    connected(running.url).predict(*GOOD, api_name="/generate")
    queue = running.page._queue
    assert queue.pending_messages_per_session
    sessions = queue.pending_messages_per_session
    wait_for(lambda: not queue.event_ids_to_events and not any(kept._getters for kept in list(sessions.values())))  # streams end
    _tidy(running, 2)
    assert queue.pending_messages_per_session  # somebody may still come for them
    monkeypatch.setattr(leftovers, "_UNFETCHED_SECONDS", 0.0)
    _tidy(running, 1)
    assert not queue.pending_messages_per_session and not queue.pending_event_ids_session


def test_a_result_that_nobody_fetches_is_dropped_and_one_under_way_is_not(running: Running, monkeypatch):
    monkeypatch.setattr(leftovers, "_UNFETCHED_SECONDS", 0.0)
    queue = running.page._queue
    with held_layers(running.space):
        event = _post(running, "call/generate", {"data": [PROMPT, 0, 20, 1.0, 4]})["event_id"]
        _tidy(running, 2)
        assert event in queue.event_ids_to_events and queue.pending_messages_per_session
    wait_for(lambda: event not in queue.event_ids_to_events)
    _tidy(running, 1)
    assert not queue.pending_messages_per_session and not queue.pending_event_ids_session


def test_streams_to_which_nothing_will_come_end(running: Running, monkeypatch):
    """Of a request that was cancelled by another name, and of one that was fetched before."""
    monkeypatch.setattr(leftovers, "_GRACE_SECONDS", 0.0)
    monkeypatch.setattr(gate, "_TIDY_SECONDS", 0.0)
    number = function_number(running, "generate")
    with held_layers(running.space) as begun:
        _post(running, "queue/join", {"data": GOOD, "fn_index": number, "session_hash": "listener"})
        assert begun.wait(PATIENCE_SECONDS)
        _post(running, "cancel", {"session_hash": "listener", "fn_index": number, "event_id": "another"})
        assert _read_to_the_end(running, "queue/data?session_hash=listener").count(b"process_completed") == 1
    event = _post(running, "call/generate", {"data": GOOD})["event_id"]
    assert b"event: complete" in _read_to_the_end(running, f"call/generate/{event}")
    assert b"event: error" in _read_to_the_end(running, f"call/generate/{event}")


def _read_to_the_end(running: Running, path: str) -> bytes:
    """A stream, while somebody else asks for something."""
    with ThreadPoolExecutor(1) as readers:
        opened = urllib.request.urlopen(f"{running.url}gradio_api/{path}", timeout=PATIENCE_SECONDS)
        stream = readers.submit(opened.read)
        wait_for(lambda: stream.done() or not urllib.request.urlopen(f"{running.url}gradio_api/startup-events").read())
    return stream.result()


def test_many_sessions_of_others_do_not_end_a_request(running: Running, monkeypatch):
    monkeypatch.setattr(leftovers, "_IDLE_SESSIONS", 5)
    monkeypatch.setattr(leftovers, "_GRACE_SECONDS", 0.0)
    queue = running.page._queue
    sessions = queue.pending_messages_per_session
    with held_layers(running.space):
        job = connected(running.url).submit(*GOOD, api_name="/generate")
        wait_for(job.outputs)
        monkeypatch.setattr(sessions, "max_size", sessions.max_size // 200)  # of Gradio's own 2000 this would leave 10
        quick = next(number for number, fn in running.page.fns.items() if fn.name == "take_over")
        for number in range(20):
            _post(running, "queue/join", {"data": [None], "fn_index": quick, "session_hash": f"stranger{number}"})
        wait_for(lambda: not any(event.session_hash.startswith("stranger") for event in list(queue.event_ids_to_events.values())))
        _tidy(running, 2)
        assert sum(session.startswith("stranger") for session in sessions) == 5
        assert [session for session in sessions if not session.startswith("stranger")]
    assert "Done" in job.result(timeout=PATIENCE_SECONDS)[0]


def test_among_many_idle_sessions_those_of_the_last_seconds_stay(running: Running, monkeypatch):
    monkeypatch.setattr(leftovers, "_IDLE_SESSIONS", 0)
    monkeypatch.setattr(leftovers, "_GRACE_SECONDS", 200.0)
    _post(running, "call/generate", {"data": ["", 0, 20, 1.0, 4], "session_hash": "waits"})
    queue = running.page._queue
    wait_for(lambda: not queue.event_ids_to_events)
    drop = Leftovers(running.page)
    drop()
    assert "waits" in queue.pending_messages_per_session
    monkeypatch.setattr(leftovers, "_GRACE_SECONDS", 0.0)
    drop()
    assert "waits" not in queue.pending_messages_per_session


def test_waiting_for_uploads_that_never_come_leaves_nothing(running: Running, monkeypatch):
    monkeypatch.setattr(leftovers, "_SLOW_SECONDS", 0.0)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{running.url}gradio_api/upload_progress?upload_id=never", timeout=PATIENCE_SECONDS)
    assert "never" in file_upload_statuses._signals
    file_upload_statuses.track("cut-off")
    drop = Leftovers(running.page)
    drop()
    assert "never" not in file_upload_statuses._signals
    assert "cut-off" in file_upload_statuses._statuses  # it may still come in
    drop()
    assert "cut-off" not in file_upload_statuses._statuses and "cut-off" not in file_upload_statuses._signals


def test_names_of_deleted_files_are_dropped(running: Running, tmp_path: Path):
    there = tmp_path / "there.mp4"
    there.write_bytes(b"x")
    running.page.upload_file_set |= {str(there), str(tmp_path / "gone.mp4")}
    _tidy(running, 1)
    assert str(there) in running.page.upload_file_set and str(tmp_path / "gone.mp4") not in running.page.upload_file_set


def test_gradio_is_bounded(running: Running):
    assert running.page._queue.ANALYTICS_MAX_EVENTS <= 100
    assert running.page.state_session_capacity == SESSIONS


def test_nobody_passes_by_the_queue(running: Running):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        _post(running, "run/generate", {"data": list(GOOD)})


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has arenas")
def test_threads_share_two_arenas():
    code = (
        "import ctypes, sys, threading; sys.path.insert(0, sys.argv[1]);"
        "from jog3r.space.guard.upkeep import few_arenas; assert few_arenas();"
        "meet = threading.Barrier(9);"
        "work = lambda: (ctypes.CDLL(None).malloc(1000), meet.wait(60), meet.wait(60));"
        "threads = [threading.Thread(target=work) for _ in range(8)]; [t.start() for t in threads]; meet.wait(60);"
        "ctypes.CDLL(None).malloc_stats(); meet.wait(60)"
    )
    root = str(Path(__file__).resolve().parents[1])
    done = subprocess.run([sys.executable, "-c", code, root], capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0 and done.stderr.count("Arena ") <= 2, done.stderr
    assert few_arenas() and hasattr(ctypes.CDLL(None), "mallopt")
