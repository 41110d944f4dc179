"""The gate in front of Gradio and the quota of uploads."""

import asyncio
import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import anyio.to_thread
import pytest

gr = pytest.importorskip("gradio")
from space_server import LIMITS

from jog3r.space.guard import gate as gate_module
from jog3r.space.guard.clients import Clients
from jog3r.space.guard.gate import Gate
from jog3r.space.guard.limits import Refused
from jog3r.space.guard.storage import ServerFolder
from jog3r.space.guard.upload_quota import UploadQuota
from jog3r.space.server import mcp_is_on

CLIENTS = Clients(gr.Blocks().queue(), LIMITS)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> ServerFolder:
    global _folder
    _folder = ServerFolder(3600, tmp_path_factory.mktemp("gate"))
    return _folder


_folder: ServerFolder


def _ask(
    path: str,
    method: str = "GET",
    body: bytes | list[bytes] = b"",
    headers: dict[str, str] | None = None,
    quota: UploadQuota | None = None,
    query: str = "",
    mcp: bool = False,
    hosts: frozenset[str] | None = None,
) -> tuple[int, bytes]:
    """Status and body that the gate answers, 200 where it lets through, 499 where it breaks the connection."""
    chunks = [body] if isinstance(body, bytes) else body
    sent = []
    parts = [{"type": "http.request", "body": chunk, "more_body": k < len(chunks) - 1} for k, chunk in enumerate(chunks)]

    async def behind(scope, receive, send):
        while method == "POST":
            message = await receive()
            if message["type"] == "http.disconnect":
                await send({"type": "http.response.start", "status": 499, "headers": []})
                await send({"type": "http.response.body", "body": b""})
                return
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"passed"})

    async def receive():
        return parts.pop(0)

    async def send(message):
        sent.append(message)

    pairs = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {"type": "http", "path": path, "method": method, "headers": pairs, "root_path": "", "query_string": query.encode()}
    quota = quota or UploadQuota(_folder, replace(LIMITS, upload_bytes=10_000))
    gate = Gate(behind, quota=quota, clients=CLIENTS, tidy=lambda: None, mcp=mcp, hosts=hosts)
    asyncio.run(gate(scope, receive, send))
    return sent[0]["status"], sent[1]["body"]


@pytest.mark.parametrize("path", [
    "/", "/config", "/theme.css", "/assets/a/b.js", "/gradio_api/info", "/gradio_api/queue/data", "/gradio_api/file=/tmp/x/y.mp4",
    "/gradio_api/heartbeat/abc", "/gradio_api/call/generate/0a",
])  # fmt: skip
def test_the_gate_opens_for_the_page(path):
    assert _ask(path)[0] == 200


@pytest.mark.parametrize("path", [
    "/gradio_api/proxy=http://example.com", "/gradio_api/process_recording", "/gradio_api/vibe-edit", "/monitoring", "/docs",
    "/gradio_api/run-history/connect", "/gradio_api/runs", "/gradio_api/component_server", "/.env", "/openapi.json",
    "/gradio_api/custom_component/a/b/c/d", "/gradio_api/stream/a/b/1/playlist.m3u8", "/gradio_api/dev/reload", "/login",
])  # fmt: skip
def test_the_gate_is_shut_for_the_rest(path):
    assert _ask(path)[0] == 404


@pytest.mark.parametrize("path", [
    "http://127.0.0.1:1/", "https://example.com/a", "/tmp/a/../../etc/passwd", "/tmp/a\0b", "file:///etc", "..", "../a",
    "/tmp/a/..", "%2e%2e/a", "/tmp/%2e%2e/a", "/tmp/..%2fa", "..\\a", "/tmp\\..\\a", "/tmp/..%5ca", "http%3a//127.0.0.1/",
])  # fmt: skip
def test_the_gate_serves_no_addresses_and_no_way_out(path):
    assert _ask(f"/gradio_api/file={path}")[0] == 403


@pytest.mark.parametrize("name", ["holiday..mp4", "..mp4", "a...b", "...", "100%.mp4", "what..is..this/clip.mp4"])
def test_the_gate_serves_files_with_dots_in_their_names(name):
    assert _ask(f"/gradio_api/file=/tmp/x/{name}")[0] == 200


@pytest.mark.parametrize("value, status", [
    ({"data": ["a room", 0, 30, 2.5, 16], "session_hash": "abc"}, 200),
    ({"data": [{"path": "/tmp/x/clip.mp4", "meta": {"_type": "gradio.FileData"}}]}, 200),
    ({"data": [{"path": "http://10.0.0.1/x.mp4", "meta": {"_type": "gradio.FileData"}}]}, 400),
    ({"data": [{"video": {"path": "https://example.com/x.mp4"}}]}, 400),
    ({"data": [{"path": ["/etc/passwd"]}]}, 400),
    ({"data": [float("nan")]}, 400),
    ({"data": [float("inf")]}, 400),
    ({"data": ["x" * 70_000]}, 413),
    ({"data": [], "session_hash": "x" * 65}, 400),
    ({"data": [], "session_hash": ["x"]}, 400),
    ({"data": [], "event_id": "x" * 60_000}, 400),
    ({"data": [], "session_hash": None, "trigger_id": 7, "event_id": "0" * 32}, 200),
])  # fmt: skip
def test_the_gate_reads_requests_before_gradio_does(value, status):
    assert _ask("/gradio_api/queue/join", "POST", json.dumps(value).encode())[0] == status


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[" * 5000, b"[" * 40 + b"]" * 40, b"NaN", b"[1e999]", b"-1e999"])
def test_the_gate_refuses_what_is_no_json(body):
    assert _ask("/gradio_api/queue/join", "POST", body)[0] == 400


@pytest.mark.parametrize("error, status", [(KeyError("9999"), 400), (TypeError("x"), 400), (RuntimeError("broken"), 500)])
def test_a_failure_behind_the_gate_is_answered_in_one_sentence(caplog, error, status):
    async def behind(scope, receive, send):
        raise error

    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": "/config", "method": "GET", "headers": [], "root_path": "", "query_string": b""}
    gate = Gate(behind, quota=UploadQuota(_folder, LIMITS), clients=CLIENTS, tidy=lambda: None)
    asyncio.run(gate(scope, None, send))
    assert sent[0]["status"] == status and str(error).strip("'").encode() not in sent[1]["body"]
    assert f"GET /config: {type(error).__name__} at " in caplog.text and len(caplog.records) == 1


LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


@pytest.mark.parametrize("host, method, origin, status", [
    ("localhost:7860", "GET", None, 200), ("127.0.0.1", "GET", "http://evil.example", 200), ("[::1]:7860", "GET", None, 200),
    ("localhost:7860", "POST", "http://localhost:7860", 200), ("LOCALHOST", "POST", None, 200),
    ("evil.example", "GET", None, 403), ("", "GET", None, 403), ("[", "GET", None, 403),
    ("localhost.evil.example", "GET", None, 403),
    ("localhost:7860", "POST", "http://evil.example", 403), ("localhost:7860", "POST", "null", 403),
    ("localhost:7860", "POST", "http://localhost:3000", 403),
])  # fmt: skip
def test_a_server_of_one_machine_answers_to_its_names_and_its_own_page(host, method, origin, status):
    headers = {"host": host} | ({"origin": origin} if origin else {})
    assert _ask("/gradio_api/queue/join" if method == "POST" else "/config", method, b"", headers, hosts=LOCAL)[0] == status
    if origin != "null":
        assert _ask("/config", "GET", b"", headers)[0] == 200  # a public server has any name


@pytest.mark.parametrize("headers, status", [
    ({"range": "bytes=0-9"}, 200), ({"range": "bytes=0-1,3-4"}, 416),
    ({"content-type": "multipart/form-data; boundary=" + "b" * 300}, 400),
])  # fmt: skip
def test_headers_over_which_gradio_fails_are_refused(headers, status):
    assert _ask("/gradio_api/file=/tmp/x/a.mp4", headers=headers)[0] == status


def test_the_gate_refuses_large_uploads_by_their_header():
    assert _ask("/gradio_api/upload", "POST", b"x", {"content-length": "20000"})[0] == 413
    assert _ask("/gradio_api/upload", "POST", b"x", {"content-length": "-1"})[0] == 413
    assert _ask("/gradio_api/upload", "POST", b"x", {"content-length": "9000"})[0] == 200


def test_the_gate_takes_no_uploads_when_the_disk_is_taken_but_the_page_works(folder):
    full = UploadQuota(folder, replace(LIMITS, keep_bytes=100))
    status, text = _ask("/gradio_api/upload", "POST", b"x", {"content-length": "9000"}, full)
    assert status == 507 and b"try again" in text
    assert _ask("/", quota=full)[0] == 200 and _ask("/gradio_api/queue/join", "POST", b"{}", quota=full)[0] == 200


def test_the_gate_refuses_long_addresses():
    assert _ask("/gradio_api/upload_progress", query="upload_id=" + "x" * 2000)[0] == 414
    assert _ask("/gradio_api/heartbeat/" + "x" * 2000)[0] == 414
    assert _ask("/gradio_api/upload_progress", query="upload_id=abc")[0] == 200


def test_the_gate_breaks_off_uploads_of_many_files_wherever_the_pieces_are_cut():
    one = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nb\r\n'
    upload = ("/gradio_api/upload", "POST")
    assert _ask(*upload, one * 4)[0] == 200 and _ask(*upload, one * 5)[0] == 499
    text = one * 5
    assert all(_ask(*upload, [text[:cut], text[cut:]])[0] == 499 for cut in range(len(one) * 4, len(one) * 4 + 40))
    assert _ask(*upload, [text[k : k + 7] for k in range(0, len(one) * 4, 7)])[0] == 200


def test_the_gate_breaks_off_uploads_that_take_too_long(monkeypatch):
    monkeypatch.setattr(gate_module, "_UPLOAD_SECONDS", 0.0)
    status, answer = _ask("/gradio_api/upload", "POST", b"x", {"content-length": "1"})
    assert status == 408 and "took longer than 0 s; send a smaller file" in str(answer)


def test_the_gate_does_not_wait_long_for_json(monkeypatch, folder):
    monkeypatch.setattr(gate_module, "_UPLOAD_SECONDS", 0.0)
    assert _ask("/gradio_api/queue/join", "POST", b"{}")[0] == 408


def test_the_gate_tidies_now_and_then(monkeypatch, folder):
    calls = []

    async def behind(scope, receive, send): ...

    gate = Gate(behind, UploadQuota(folder, LIMITS), CLIENTS, tidy=lambda: calls.append(1))
    scope = {"type": "http", "path": "/", "method": "GET", "headers": [], "query_string": b""}
    asyncio.run(gate(scope, None, None))
    assert not calls
    monkeypatch.setattr(gate_module, "_TIDY_SECONDS", -1.0)
    asyncio.run(gate(scope, None, None))
    assert calls == [1]


def test_a_visitor_is_served_when_tidying_fails(monkeypatch, folder, caplog):
    monkeypatch.setattr(gate_module, "_TIDY_SECONDS", -1.0)
    served = []

    async def behind(scope, receive, send):
        served.append(scope["path"])

    def tidy():
        raise AttributeError("_queue")

    scope = {"type": "http", "path": "/", "method": "GET", "headers": [], "query_string": b""}
    asyncio.run(Gate(behind, UploadQuota(folder, LIMITS), CLIENTS, tidy)(scope, None, None))
    assert served == ["/"] and "tidying up failed" in caplog.text


# Room for uploads


def _file(folder: ServerFolder, name: str, size: int, age: float) -> Path:
    path = folder.served / name / "clip.mp4"
    path.parent.mkdir()
    path.write_bytes(b"x" * size)
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_the_oldest_files_make_room_and_young_ones_stay(tmp_path):
    folder = ServerFolder(3600, tmp_path)
    old, middle, young = (_file(folder, name, 400, age) for name, age in (("a", 900), ("b", 600), ("c", 1)))
    quota = UploadQuota(folder, replace(LIMITS, keep_bytes=1300))
    quota.enter(100)
    assert old.exists()
    quota.enter(50)  # more than fits beside the first, which still comes in
    assert not old.exists() and not old.parent.exists() and not middle.exists() and young.exists()
    with pytest.raises(Refused, match="in a few minutes"):
        quota.enter(1000)  # what is young stays
    assert young.exists()
    folder.close()


def test_uploads_at_once_are_bounded_and_those_cut_off_do_not_count(tmp_path):
    folder = ServerFolder(3600, tmp_path)
    quota = UploadQuota(folder, replace(LIMITS, uploads_at_once=2))
    quota.enter(10)
    quota.enter(10)
    with pytest.raises(Refused, match="in a minute"):
        quota.enter(10)
    quota.leave(10)
    quota.enter(10)
    folder.close()


def test_an_upload_is_refused_by_what_lies_here_and_what_still_comes_in(tmp_path, monkeypatch):
    folder = ServerFolder(3600, tmp_path)
    counts, usage = [], folder.usage
    monkeypatch.setattr(folder, "usage", lambda: counts.append(1) or usage())
    quota = UploadQuota(folder, replace(LIMITS, keep_bytes=1000))
    for name in "abc":
        quota.enter(300)
        _file(folder, name, 300, 0)
        quota.leave(300)
    assert len(counts) == 3  # once an upload
    with pytest.raises(Refused, match="in a few minutes"):
        quota.enter(300)
    quota.enter(50)
    with pytest.raises(Refused, match="in a few minutes"):
        quota.enter(60)  # the first is still coming in
    quota.leave(50)
    quota.enter(60)
    folder.close()


def test_uploads_that_were_cut_off_push_out_no_files(tmp_path):
    folder = ServerFolder(3600, tmp_path)
    old = _file(folder, "a", 600, 900)
    quota = UploadQuota(folder, replace(LIMITS, keep_bytes=1000))
    for _ in range(10):
        quota.enter(300)
        quota.leave(300)
    assert old.exists()
    folder.close()


def test_the_event_loop_and_other_threads_do_not_wait_while_files_are_counted(tmp_path, monkeypatch):
    folder = ServerFolder(3600, tmp_path)
    quota = UploadQuota(folder, LIMITS)
    quota.enter(10)
    counting, go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(folder, "usage", lambda: (counting.set(), go_on.wait(60), (0, 0))[-1])

    async def behind(scope, receive, send): ...

    async def ask():
        gate = Gate(behind, quota, CLIENTS, tidy=lambda: None)
        scope = {"type": "http", "path": "/gradio_api/upload", "method": "POST", "headers": [], "query_string": b""}
        uploads = [asyncio.ensure_future(gate(scope, None, None)) for _ in range(15)]
        while not counting.is_set():
            await asyncio.sleep(0.01)
        quota.leave(10)  # as the gate does on the event loop
        free = anyio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
        go_on.set()
        await asyncio.gather(*uploads)
        return free

    assert asyncio.run(ask())
    folder.close()


def test_the_number_of_files_is_bounded(tmp_path):
    folder = ServerFolder(3600, tmp_path)
    paths = [_file(folder, str(k), 1, 900 - k) for k in range(6)]
    UploadQuota(folder, replace(LIMITS, keep_files=6)).enter(1)
    assert [path.exists() for path in paths] == [False] * 3 + [True] * 3
    folder.close()


def test_mcp_may_carry_a_clip_and_nothing_else_may():
    body = json.dumps({"video": "x" * 100_000}).encode()
    assert _ask("/gradio_api/mcp/", "POST", body, mcp=True)[0] == 200
    assert _ask("/gradio_api/mcp/", "POST", b"", {"content-length": str(5 * 2**20)}, mcp=True)[0] == 413
    assert _ask("/gradio_api/queue/join", "POST", body, mcp=True)[0] == 413


def test_the_gate_opens_for_mcp_only_where_it_is_on():
    assert _ask("/gradio_api/mcp/")[0] == 404 and _ask("/gradio_api/mcp/", "POST", b"{}")[0] == 404
    assert _ask("/gradio_api/mcp/", mcp=True)[0] == 200 and _ask("/gradio_api/mcp", mcp=True)[0] == 200
    assert _ask("/gradio_api/mcpx", mcp=True)[0] == 404


@pytest.mark.parametrize("text, is_on", [("True", True), ("true", True), ("False", False), ("1", False), (None, False)])
def test_mcp_is_on_where_gradio_has_it_on(monkeypatch, text, is_on):
    monkeypatch.delenv("GRADIO_MCP_SERVER", raising=False)
    if text:
        monkeypatch.setenv("GRADIO_MCP_SERVER", text)
    assert mcp_is_on() == is_on


@pytest.mark.parametrize("size, in_a_thread", [(1000, False), (100_000, True)])
def test_large_json_is_looked_through_beside_the_event_loop(monkeypatch, size, in_a_thread):
    threads, check = [], gate_module._check_json
    monkeypatch.setattr(gate_module, "_check_json", lambda body: (threads.append(threading.current_thread()), check(body)))
    assert _ask("/gradio_api/mcp/", "POST", json.dumps(["x" * size]).encode(), mcp=True)[0] == 200
    assert (threads[0] is not threading.main_thread()) == in_a_thread
    assert _ask("/gradio_api/mcp/", "POST", b'["' + b"x" * size + b'", NaN]', mcp=True)[0] == 400
