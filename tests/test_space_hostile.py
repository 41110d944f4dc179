"""What strangers send to a running Space: each ends in a clear refusal, and the next good request is answered."""

import json
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio")
from gradio_client import Client, handle_file
from gradio_client.client import Job
from gradio_client.exceptions import AppError
from space_files import hostile_files
from space_server import (
    PATIENCE_SECONDS,
    PROMPT,
    Running,
    assert_worker_becomes_free,
    connected,
    function_number,
    held_layers,
    running_space,
    wait_for,
)

from jog3r.space.guard.limits import SpaceLimits

GOOD = (PROMPT, 0, 20, 1.0, 4)  # prompt, seed, steps, guidance, frames
UPLOAD_BYTES = 2 * 2**20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Running]:
    with running_space(folder, upload_bytes=UPLOAD_BYTES) as running:
        yield running


@pytest.fixture(scope="module")
def client(running: Running, folder: Path) -> Client:
    return connected(running.url, folder / "downloads")


@pytest.fixture(scope="module")
def files(folder: Path) -> dict[str, Path]:
    (folder / "files").mkdir()
    return hostile_files(folder / "files")


@pytest.fixture(scope="module", autouse=True)
def _a_good_request_is_answered_after_all(client: Client, running: Running) -> Iterator[None]:
    """After the last case of this file."""
    yield
    files = client.predict(*GOOD, api_name="/generate")[5]
    assert Path(next(path for path in files if path.endswith(".glb"))).read_bytes()[:4] == b"glTF"
    assert not list((running.space.folder.path / "requests").iterdir())


def _is_sentence(error: BaseException | str) -> str:
    text = str(error)
    leaked = [word for word in ("Traceback", "site-packages", "/work", "/tmp", "/etc/passwd", "Errno") if word in text]
    assert text and not leaked and "\n" not in text.strip(), text
    return text


def _post(running: Running, path: str, value: Any, session: str | None = None) -> tuple[int, str]:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    headers = {"Content-Type": "application/json"} | ({"x-session": session} if session else {})
    request = urllib.request.Request(f"{running.url.rstrip('/')}{path}", body, headers)
    return _open(request)


def _open(request: urllib.request.Request | str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")


# Requests over which Gradio fails


@pytest.mark.parametrize(
    "path, value, status",
    [
        ("/gradio_api/queue/data?session_hash=abc", None, 200),
        ("/gradio_api/call/generate/0a", None, 200),
        ("/gradio_api/queue/join", {"data": [], "fn_index": 9999, "session_hash": "aa"}, 400),
        ("/gradio_api/api/nothing", {"data": [1]}, 400),
        ("/gradio_api/call/v2/generate", {"x": [1]}, 400),
    ],
)
def test_what_names_nothing_there_is_answered_and_costs_one_line(running: Running, caplog, path: str, value: Any, status: int):
    asked = _open(f"{running.url.rstrip('/')}{path}") if value is None else _post(running, path, value)
    assert asked[0] == status and "Traceback" not in asked[1]
    lines = [record for record in caplog.records if record.name.startswith("jog3r")]
    assert len(lines) == 1 and not lines[0].exc_info and "\n" not in lines[0].getMessage()


# Values

BAD_VALUES = {
    "empty prompt": {0: ""},
    "blank prompt": {0: " \n\t "},
    "NUL": {0: "a room\0with walls"},
    "control characters": {0: "a \x1b[31m room\x07"},
    "private use": {0: "\ue000"},
    "long prompt": {0: "room " * 200},
    "prompt of 60 KB": {0: "x" * 60_000},
    "prompt is nothing": {0: None},
    "seed below 0": {1: -1},
    "seed too large": {1: 2**40},
    "seed a text": {1: "abc"},
    "seed a code": {1: "__import__('os').system('id')"},
    "seed a fraction": {1: 1e-9 + 2**31},
    "steps 0": {2: 0},
    "steps a million": {2: 10**6},
    "steps a huge number": {2: 10**300},
    "steps a list": {2: [1]},
    "guidance below 0": {3: -5},
    "guidance huge": {3: 1e200},
    "guidance a dictionary": {3: {"a": 1}},
    "frames 0": {4: 0},
    "frames a million": {4: 10**6},
    "frames a text": {4: "many"},
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_bad_values_are_refused(client: Client, case: str):
    values = list(GOOD)
    for place, value in BAD_VALUES[case].items():
        values[place] = value
    with pytest.raises(AppError) as error:
        client.predict(*values, api_name="/generate")
    _is_sentence(error.value)


def test_html_in_the_prompt_stays_text(client: Client):
    text = "<img src=x onerror=alert(1)> <script>alert(2)</script> a room"
    status, *_, code = client.predict(text, *GOOD[1:], api_name="/generate")
    assert "too long for the model" in status and "<script>" not in status and repr(text)[1:-1] in code


# Files

FILE_CASES = [
    *("ten thousand frames", "an hour", "huge frames", "tiny frames", "one frame", "only sound", "empty", "one byte", "zeros"),
    *("text", "html", "playlist to a local file", "concat list", "session description", "png", "gif", "elf", "header alone"),
    *("first half", "index lost", "index first, data lost", "random behind a header", "bits flipped", "zip bomb"),
    *("matroska header, noise", "avi header, noise", "size field of 2^63"),
]


@pytest.mark.parametrize("case", FILE_CASES)
def test_bad_files_are_refused(client: Client, files: dict[str, Path], case: str):
    with pytest.raises(AppError) as error:
        client.predict(handle_file(str(files[case])), 4, api_name="/reconstruct")
    assert _is_sentence(error.value).endswith(".")


ODD_NAMES = ["..mp4", "a b;id.mp4", "$(id).mp4", "'quote\".mp4", "-y.mp4", "%2e%2e%2f.mp4", "x" * 200 + ".mp4", "名.txt"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_file_names_do_no_harm(client: Client, folder: Path, name: str):
    """What is said is about the content: the name was taken as it is."""
    (folder / name).write_bytes(b"")
    with pytest.raises(AppError, match="empty"):
        client.predict(handle_file(str(folder / name)), 4, api_name="/reconstruct")


def test_too_large_an_upload_is_refused(client: Client, folder: Path):
    path = folder / "large.mp4"
    path.write_bytes(bytes(UPLOAD_BYTES + 10_000))
    with pytest.raises(Exception) as error:
        client.predict(handle_file(str(path)), 4, api_name="/reconstruct")
    assert "413" in str(error.value) or "large" in str(error.value)


def _multipart(running: Running, name: str) -> tuple[int, str]:
    mark = uuid.uuid4().hex
    head = f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\nContent-Type: video/mp4\r\n\r\n'
    body = head.encode() + b"content" + f"\r\n--{mark}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={mark}"}
    return _open(urllib.request.Request(f"{running.url}gradio_api/upload", body, kind))


WAYS_OUT = ["../../../../tmp/escaped.mp4", "/etc/escaped.mp4", "..\\..\\escaped.mp4", "a/../../escaped.mp4"]


@pytest.mark.parametrize("name", WAYS_OUT)
def test_uploads_stay_in_their_folder(running: Running, name: str):
    status, text = _multipart(running, name)
    if status == 200:
        assert all(Path(path).resolve().is_relative_to(running.space.folder.served) for path in json.loads(text))
    for place in (Path("/tmp/escaped.mp4"), Path("/etc/escaped.mp4"), running.space.folder.path / "escaped.mp4"):
        assert not place.exists()


# Paths and addresses


@pytest.mark.parametrize("path", [
    "/etc/passwd", "/proc/self/environ", "../../etc/passwd", "spaces_app.py", "http://127.0.0.1:1/x.mp4", "https://example.com/x.mp4",
    "file:///etc/passwd", "/tmp/a\0.mp4", "",
])  # fmt: skip
def test_no_path_of_the_callers_choosing_is_read(running: Running, path: str):
    video = {"path": path, "meta": {"_type": "gradio.FileData"}}
    status, text = _post(running, "/gradio_api/call/reconstruct", {"data": [video, 4, "auto"]})
    if status == 200:
        event = json.loads(text)["event_id"]
        status, text = _open(f"{running.url}gradio_api/call/reconstruct/{event}")
        assert "event: error" in text
    assert "root:" not in text and "PATH=" not in text


@pytest.mark.parametrize("path", [
    "gradio_api/file=/etc/passwd", "gradio_api/file=../../etc/passwd", "gradio_api/file=spaces_app.py",
    "gradio_api/file=/proc/self/environ", "gradio_api/file=http://127.0.0.1:1/", "gradio_api/proxy=http://example.com/",
    "gradio_api/file=%2e%2e/%2e%2e/etc/passwd", "static/..%2f..%2f..%2fetc/passwd", "assets/../../../../etc/passwd",
    "..%2fsetup.py",
])  # fmt: skip
def test_no_other_file_is_served(running: Running, path: str):
    status, text = _open(f"{running.url}{path}")
    assert status in (400, 403, 404, 405) and "root:" not in text and "jog3r.space" not in text


def test_files_of_a_request_are_served_and_its_neighbours_are_not(client: Client, running: Running):
    secret = running.space.folder.path / "requests" / "secret.txt"
    secret.write_text("secret")
    try:
        assert _open(f"{running.url}gradio_api/file={secret}")[0] in (403, 404)
        assert _open(f"{running.url}gradio_api/file={running.space.folder.path}/.lock")[0] in (403, 404)
    finally:
        secret.unlink()


# Requests


@pytest.mark.parametrize("body", [
    b"", b"{", b"{}", b"[]", b"\xff", b"[" * 9000, b'"text"', b"x" * 100_000,
    b'{"data": [NaN], "session_hash": "a", "fn_index": 2}', b'{"data": [1e999, -1e999], "session_hash": "a", "fn_index": 2}',
    b'{"data": "text", "session_hash": "a", "fn_index": 2}', b'{"data": {"a": 1}, "session_hash": "a", "fn_index": 2}',
    b'{"data": [], "session_hash": "a"}', b'{"data": [], "session_hash": "a", "fn_index": "generate"}',
    b'{"data": []}', b'{"data": [null, null, null, null, null]}', b'{"data": ["a room", 0, 20, 1, 4, "one", "too", "many"]}',
    b'{"data": ["a room", 0, 20, 1, 4], "session_hash": "../../x", "fn_index": 2}',
])  # fmt: skip
def test_broken_requests_are_refused(running: Running, body: bytes):
    status, text = _post(running, "/gradio_api/queue/join", body)
    assert status in (400, 413, 422) and json.loads(text)["detail"] and "Traceback" not in text


@pytest.mark.parametrize("number", [99999, -1])
def test_a_function_that_is_none_is_not_queued(running: Running, number: int):
    status, text = _post(running, "/gradio_api/queue/join", {"fn_index": number, "data": [], "session_hash": "a"})
    assert status >= 400 and "event_id" not in text and "Traceback" not in text


def _follow(running: Running, data: list[Any]) -> dict[str, Any]:
    """The last message to the session that asked for a clip."""
    session = uuid.uuid4().hex
    asked = {"data": data, "fn_index": function_number(running, "generate"), "session_hash": session}
    assert _post(running, "/gradio_api/queue/join", asked)[0] == 200
    status, text = _open(f"{running.url}gradio_api/queue/data?session_hash={session}")
    messages = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line]
    assert status == 200 and messages[-1]["msg"] == "close_stream" and messages[-2]["msg"] == "process_completed"
    assert "Traceback" not in text
    return messages[-2]


@pytest.mark.parametrize("data", [[], ["a room"], [None] * 5, [[]] * 5, [{"a": 1}] * 5])
def test_data_that_do_not_fit_end_in_an_error(running: Running, data: list[Any]):
    last = _follow(running, data)
    assert last["success"] is False and "error" in last["output"] and "data" not in last["output"]
    assert _is_sentence(last["output"]["error"])


def test_values_too_many_are_left_out(running: Running):
    last = _follow(running, [*GOOD, "one", "too", "many"])
    assert last["success"] is True
    assert "one" not in last["output"]["data"][-1] and repr(PROMPT) in last["output"]["data"][-1]


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity", "1" + "0" * 5000])
@pytest.mark.parametrize("place", range(1, 5))
def test_numbers_that_are_none_never_reach_the_page(running: Running, number: str, place: int):
    values = ['"a room"', "0", "20", "1", "4"]
    values[place] = number
    status, text = _post(running, "/gradio_api/call/generate", f'{{"data": [{",".join(values)}]}}'.encode())
    assert status == 400 and _is_sentence(text)


def test_uploads_stop_when_the_disk_is_taken_and_the_rest_goes_on(client: Client, running: Running):
    limits = running.space.limits
    before = limits.keep_bytes
    object.__setattr__(limits, "keep_bytes", 0)
    try:
        assert _multipart(running, "a.mp4")[0] == 507
        assert "Done" in client.predict(*GOOD, api_name="/generate")[0]
    finally:
        object.__setattr__(limits, "keep_bytes", before)


@pytest.mark.parametrize("path", ["cancel", "reset"])
def test_ending_requests_of_others_needs_their_secrets(client: Client, running: Running, path: str):
    number = function_number(running, "generate")
    sessions = ("guess", "", ".*", client.session_hash[:-1], client.session_hash.upper() + "0")
    with held_layers(running.space) as begun:
        job = client.submit(*GOOD, api_name="/generate")
        assert begun.wait(PATIENCE_SECONDS)
        for session in sessions:
            guess = {"session_hash": session, "fn_index": number, "event_id": "0" * 32}
            assert _post(running, f"/gradio_api/{path}", guess)[0] < 500
        assert not job.done()
    assert "Done" in job.result(timeout=PATIENCE_SECONDS)[0]


def _together(act: Callable[[Any], object], values: list[Any]) -> None:
    threads = [threading.Thread(target=act, args=(value,)) for value in values]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_parallel_starts_and_stops_leave_the_worker_free(client: Client, running: Running):
    clients = [client, *(connected(running.url) for _ in range(3))]
    jobs: list[Job] = []

    def start(client: Client) -> None:
        job = client.submit(PROMPT, 0, SpaceLimits().max_steps, 2.5, 4, api_name="/generate")
        wait_for(lambda: job.communicator.event_id)  # before the server has named it, it cannot be told to end it
        jobs.append(job)

    with held_layers(running.space) as begun:
        _together(start, clients)
        assert begun.wait(PATIENCE_SECONDS)
        wait_for(lambda: any(job.outputs() for job in jobs))
        at_work = [job for job in jobs if job.outputs()]
        _together(Job.cancel, [job for job in jobs if job not in at_work] * 2)
        _together(Job.cancel, at_work * 2)
        assert_worker_becomes_free()
    assert len(at_work) == 1
