"""What one client of the Space may have at once, and that it leaves room for the others."""

import asyncio
import json
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

gr = pytest.importorskip("gradio")
from space_server import LIMITS, PATIENCE_SECONDS, PROMPT, Running, held_layers, running_space

from jog3r.space.guard.clients import Clients
from jog3r.space.guard.gate import Gate
from jog3r.space.guard.limits import Refused
from jog3r.space.guard.storage import ServerFolder
from jog3r.space.guard.upload_quota import UploadQuota


def _scope(client: str | None, *forwarded: str) -> dict:
    headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]
    return {"client": (client, 1) if client else None, "headers": headers}


def _clients(**limits: int) -> Clients:
    return Clients(gr.Blocks().queue(), replace(LIMITS, **limits))


@pytest.mark.parametrize("client, address", [
    ("203.0.113.7", "203.0.113.7"), ("::ffff:203.0.113.7", "203.0.113.7"), ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
    ("127.0.0.1", None), ("127.0.0.2", None), ("::1", None), ("::ffff:127.0.0.1", None), (None, None),
    ("testclient", "testclient"),
])  # fmt: skip
def test_a_client_is_an_address_and_this_machine_is_none(monkeypatch, client, address):
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert _clients().address(_scope(client, "198.51.100.1")) == address


def test_all_that_mcp_brings_is_one_client_and_nobody_can_pretend_to_be_it(monkeypatch):
    monkeypatch.delenv("SPACE_ID", raising=False)
    for client, address in (("127.0.0.1", "mcp"), ("203.0.113.7", "203.0.113.7")):
        scope = _scope(client)
        scope["headers"] += [(b"x-gradio-user", b"mcp")]
        assert _clients().address(scope) == address


def test_on_spaces_people_behind_the_same_proxy_are_told_apart(monkeypatch):
    monkeypatch.setenv("SPACE_ID", "owner/space")
    clients = _clients()
    assert clients.address(_scope("10.0.0.1", "203.0.113.7")) == "203.0.113.7"
    assert clients.address(_scope("10.0.0.1", "2001:db8:1:2:3::4")) == "2001:db8:1:2::/64"
    assert clients.address(_scope("10.0.0.1", "203.0.113.7, 10.0.0.2")) == "203.0.113.7,10.0.0.2"
    assert clients.address(_scope("10.0.0.1", "203.0.113.8", "10.0.0.2")) == "203.0.113.8,10.0.0.2"
    assert clients.address(_scope("10.0.0.1")) is None


def test_requests_of_one_client_that_come_at_the_same_time_are_bounded():
    clients = _clients(requests_per_client=2)
    with clients.joining(_scope("203.0.113.7")), clients.joining(_scope("203.0.113.7")):
        with pytest.raises(Refused, match="You have 2 requests"), clients.joining(_scope("203.0.113.7")):
            pass
        with clients.joining(_scope("203.0.113.8")), clients.joining(_scope("127.0.0.1")):
            pass
    with clients.joining(_scope("203.0.113.7")):
        pass


def test_uploads_of_one_client_are_bounded_and_leave_room_for_others(tmp_path: Path):
    folder = ServerFolder(3600, tmp_path)
    quota = UploadQuota(folder, replace(LIMITS, uploads_per_client=2))
    for _ in range(2):
        quota.enter(10, "203.0.113.7")
    with pytest.raises(Refused, match="You have 2 uploads"):
        quota.enter(10, "203.0.113.7")
    quota.enter(10, "203.0.113.8")
    for _ in range(5):
        quota.enter(10)
    quota.leave(10, "203.0.113.7")
    quota.enter(10, "203.0.113.7")
    folder.close()


def test_slow_uploads_of_one_client_do_not_shut_out_the_others(tmp_path: Path):
    folder = ServerFolder(3600, tmp_path)
    statuses = []

    async def run() -> None:
        over = asyncio.Event()

        async def behind(scope, receive, send):
            await over.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})

        async def send(message):
            statuses.extend([message["status"]] if "status" in message else [])

        gate = Gate(behind, UploadQuota(folder, LIMITS), _clients(), tidy=lambda: None)
        scope = {"type": "http", "path": "/gradio_api/upload", "method": "POST", "headers": [], "query_string": b""}
        clients = ["203.0.113.7"] * 25 + ["203.0.113.8"]
        uploads = [asyncio.ensure_future(gate(scope | {"client": (client, 1)}, None, send)) for client in clients]
        while len(statuses) < 22:
            await asyncio.sleep(0.01)
        over.set()
        await asyncio.gather(*uploads)

    asyncio.run(asyncio.wait_for(run(), PATIENCE_SECONDS))
    assert sorted(statuses) == [200] * 4 + [507] * 22
    folder.close()


@pytest.mark.parametrize("size, headers, takes_room", [
    (1000, {"content-length": "1000"}, False), (100_000, {"content-length": "100000"}, True), (1000, {}, True),
])  # fmt: skip
def test_a_clip_inside_a_request_to_mcp_takes_the_room_of_an_upload(tmp_path: Path, size, headers, takes_room):
    folder = ServerFolder(3600, tmp_path)
    quota = UploadQuota(folder, replace(LIMITS, uploads_per_client=1))
    statuses = []
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "path": "/gradio_api/mcp/", "method": "POST", "headers": pairs, "client": ("203.0.113.7", 1)}

    async def receive():
        return {"type": "http.request", "body": json.dumps("x" * (size - 2)).encode()}

    async def send(message):
        statuses.extend([message["status"]] if "status" in message else [])

    async def behind(scope, receive, send):
        await gate(scope, receive, send) if not statuses else None  # another one while this is under way
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def second(scope, receive, send):
        await send({"type": "http.response.start", "status": 201, "headers": []})

    gate = Gate(second, quota, _clients(), tidy=lambda: None, mcp=True)
    for _ in range(2):  # and the room is left again
        statuses.clear()
        asyncio.run(Gate(behind, quota, _clients(), tidy=lambda: None, mcp=True)(scope, receive, send))
        assert statuses == [507 if takes_room else 201, 200]
    folder.close()


def _ask(running: Running, path: str, value: dict, client: str | None) -> tuple[int, str]:
    """As through a proxy on this machine, which says whom it speaks for."""
    headers = {"Content-Type": "application/json"} | ({"X-Forwarded-For": client} if client else {})
    request = urllib.request.Request(f"{running.url}gradio_api/{path}", json.dumps(value).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_one_client_cannot_fill_the_queue(tmp_path: Path):
    with running_space(tmp_path) as running, held_layers(running.space):  # all of them wait
        long = {"data": [PROMPT, 0, 100, 1.0, 4]}
        number = next(number for number, fn in running.page.fns.items() if fn.api_name == "generate")
        ways = [("call/generate", long), ("queue/join", long | {"fn_index": number, "session_hash": "one"})]
        named = dict(zip(("prompt", "seed", "steps", "guidance", "frames"), long["data"], strict=True))
        ways.append(("call/v2/generate", named))
        for k in range(5):
            assert _ask(running, *ways[k % 3], "203.0.113.7")[0] == 200
        for way in ways:
            status, text = _ask(running, *way, "203.0.113.7")
            assert status == 429 and "You have 5 requests waiting or running; please wait" in text
        assert _ask(running, *ways[0], "203.0.113.8")[0] == 200
        assert all(_ask(running, *ways[0], None)[0] == 200 for _ in range(7))
