"""What connections may cost: bounded headers and waiting, a share for each address, room for a request where all are taken."""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

pytest.importorskip("gradio")
import uvicorn
from space_server import PATIENCE_SECONDS, wait_for

from jog3r.space.guard import connections
from jog3r.space.guard.connections import BoundedProtocol, allowed_hosts, bound_connections

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def app(scope, receive, send):
    """Says hello; to `/slow` only when asked to go on."""
    assert scope["type"] == "http"
    while scope["path"] == "/slow" and (await receive())["type"] != "http.disconnect":
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def server() -> Iterator[uvicorn.Server]:
    config = uvicorn.Config(
        app, port=0, http=BoundedProtocol, lifespan="off", log_level="error", timeout_keep_alive=PATIENCE_SECONDS
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    yield server
    server.should_exit = True
    thread.join()


def connect(server: uvicorn.Server, source: str = "127.0.0.1") -> socket.socket:
    address = server.servers[0].sockets[0].getsockname()
    return socket.create_connection(address, timeout=PATIENCE_SECONDS, source_address=(source, 0))


def is_open(server: uvicorn.Server, one: socket.socket) -> bool:
    return any(connection.client == one.getsockname() for connection in list(server.server_state.connections))


def answer(one: socket.socket) -> bytes:
    """What comes before the connection is closed; nothing where it is cut off."""
    try:
        one.sendall(REQUEST)
        return one.recv(4096)
    except ConnectionError:
        return b""


def test_a_request_is_answered_and_the_connection_kept(server: uvicorn.Server) -> None:
    with connect(server) as one:
        assert all(answer(one).startswith(b"HTTP/1.1 200") for _ in range(3))


def test_headers_without_end_are_cut_off(server: uvicorn.Server) -> None:
    with connect(server) as one:
        one.sendall(b"GET / HTTP/1.1\r\n")
        sent = 0
        with pytest.raises(ConnectionError):
            while sent < 64 * 2**20:
                one.sendall(b"A: b\r\n" * 10_000)
                sent += 60_000
        assert not is_open(server, one)


@pytest.mark.parametrize("begun", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\n"])
def test_a_connection_without_a_request_is_closed(server: uvicorn.Server, monkeypatch, begun: bytes) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.1)
    with connect(server) as one, suppress(ConnectionError):
        one.sendall(begun)
        assert one.recv(4096) == b""  # waits for the server to close it


def test_half_a_request_behind_an_answer_is_closed_and_a_long_answer_is_not(server: uvicorn.Server, monkeypatch) -> None:
    wait_for(lambda: not server.server_state.connections)
    with connect(server) as slow, connect(server) as one:
        slow.sendall(REQUEST.replace(b"/ ", b"/slow "))
        wait_for(lambda: len(server.server_state.tasks) == 1)
        assert answer(one).startswith(b"HTTP/1.1 200")
        monkeypatch.setattr(connections, "HEAD_SECONDS", 0.1)
        one.sendall(REQUEST[:9])
        wait_for(lambda: not is_open(server, one))
        [busy] = list(server.server_state.connections)
        assert busy._late is None  # no clock runs against the long answer


def test_one_address_does_not_lock_out_another(server: uvicorn.Server, monkeypatch) -> None:
    monkeypatch.setattr(connections, "PER_ADDRESS", 3)
    monkeypatch.delenv("SPACE_ID", raising=False)
    wait_for(lambda: not server.server_state.connections)
    held = [connect(server) for _ in range(20)]
    wait_for(lambda: sum(is_open(server, one) for one in held) == 3)
    with connect(server) as one_more, connect(server, "127.0.0.2") as other:
        assert answer(one_more) == b""
        assert answer(other).startswith(b"HTTP/1.1 200")
    for one in held:
        one.close()


def test_where_all_are_taken_the_one_that_waited_longest_goes(server: uvicorn.Server, monkeypatch) -> None:
    """Behind the proxy of Spaces all have one address."""
    wait_for(lambda: not server.server_state.connections)
    monkeypatch.setattr(connections, "IN_ALL", 3)
    monkeypatch.setattr(connections, "PER_ADDRESS", 1)
    monkeypatch.setenv("SPACE_ID", "owner/space")
    with connect(server) as busy, connect(server) as oldest:
        wait_for(lambda: is_open(server, oldest))
        second = connect(server)
        busy.sendall(REQUEST.replace(b"/ ", b"/slow "))
        wait_for(lambda: len(server.server_state.tasks) == 1 and len(server.server_state.connections) == 3)
        with connect(server) as new:
            assert answer(new).startswith(b"HTTP/1.1 200")
        assert [is_open(server, one) for one in (busy, oldest, second)] == [True, False, True]
        second.close()


def test_servers_to_come_use_it_and_may_open_as_many_files_as_the_system_lets_them(monkeypatch) -> None:
    monkeypatch.setitem(uvicorn.config.HTTP_PROTOCOLS, "auto", uvicorn.config.HTTP_PROTOCOLS["auto"])
    limits, asked = [(1024, 4096), (4096, 4096)], []
    monkeypatch.setattr(connections.resource, "getrlimit", lambda _: limits[len(asked)])
    monkeypatch.setattr(connections.resource, "setrlimit", lambda _, values: asked.append(values))
    bound_connections()
    bound_connections()
    assert asked == [(4096, 4096)]
    config = uvicorn.Config(app)
    config.load()
    assert config.http_protocol_class is BoundedProtocol


def test_names_of_a_server_on_one_machine(monkeypatch) -> None:
    monkeypatch.delenv("SPACE_ID", raising=False)
    monkeypatch.delenv("GRADIO_SERVER_NAME", raising=False)
    assert allowed_hosts(None) == allowed_hosts("[::1]") == {"localhost", "127.0.0.1", "::1"}
    monkeypatch.setenv("JOG3R_HOSTS", "Demo.example.org, ")
    assert allowed_hosts("localhost") == {"localhost", "127.0.0.1", "::1", "demo.example.org"}
    assert allowed_hosts("0.0.0.0") is None
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    assert allowed_hosts(None) is None
