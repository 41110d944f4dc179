"""What strangers can cost a Space before it knows them: connections, headers, lines of its log.

python benchmarks/space_hostile.py [--connections 1500] [--megabytes 100] [--requests 2000]

Starts a Space of its own. One address (127.0.0.2) opens connections that ask for nothing, or for half a request, while another
(127.0.0.1) opens the page; then headers without an end come in, and requests that name what is not there; then a video is made.
"""

import argparse
import os
import socket
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from gradio_client import Client
from space_process import Server, running_server

_BAD = (  # path, body (None: GET), more headers
    ("gradio_api/queue/data?session_hash=nobody{0}", None, {}),
    ("gradio_api/call/generate/{0:x}", None, {}),
    ("gradio_api/queue/join", b'{"data": [], "fn_index": 9999, "session_hash": "a"}', {"Content-Type": "application/json"}),
    ("gradio_api/call/nothing{0}", b'{"data": []}', {"Content-Type": "application/json"}),
    ("gradio_api/file=/etc/passwd", None, {}),
    ("theme.css", None, {"Range": "bytes=0-1,2-3"}),
    ("gradio_api/upload", b"--x", {"Content-Type": "multipart/form-data; boundary=" + "x" * 5000}),
    ("nowhere{0}", None, {}),
)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=1500)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--requests", type=int, default=2000)
    options = parser.parse_args()
    print(f"load average before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder)) as server:
        print(f"page, nobody else there: {_page_seconds(server):.2f} s")
        _connect(server, options.connections)
        _send_headers(server, options.megabytes)
        _ask(server, options.requests)
        client = Client(server.url, verbose=False, download_files=False, httpx_kwargs={"timeout": 600})
        status = client.predict("a room with blue walls", 0, api_name="/generate")[0]
        print(f"a good request afterwards: {'answered' if 'Done in' in status else status}")


def _page_seconds(server: Server) -> float:
    begin = time.monotonic()
    with urllib.request.urlopen(server.url, timeout=60) as answer:
        answer.read()
    return time.monotonic() - begin


def _open(server: Server, source: str) -> socket.socket:
    port = int(server.url.rstrip("/").rpartition(":")[2])
    return socket.create_connection(("127.0.0.1", port), timeout=60, source_address=(source, 0))


def _connect(server: Server, count: int) -> None:
    held = []
    for number in range(count):
        try:
            one = _open(server, "127.0.0.2")
            one.sendall((b"", b"GET / HTTP/1.1\r\nHost: localhost\r\n")[number % 2])
            held.append(one)
        except OSError:  # closed by the server
            continue
    seconds = [_page_seconds(server) for _ in range(5)]
    print(f"page for another address, {count} connections of one that ask for nothing or half: longest {max(seconds):.2f} s")
    for one in held:
        one.close()


def _send_headers(server: Server, megabytes: int) -> None:
    before, sent = server.megabytes, 0
    most = before
    with _open(server, "127.0.0.1") as one:
        try:
            one.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
            while sent < megabytes * 2**20:
                sent += one.send(b"A: b\r\n" * 10_000)
                most = max(most, server.megabytes)
        except OSError:  # cut off
            pass
    print(f"{megabytes} MB of headers: cut off after {sent / 2**20:.1f} MB; memory {before:.0f} MB before, at most {most:.0f} MB")


def _ask(server: Server, count: int) -> None:
    log = server.folder / "server.log"
    before = len(log.read_text().splitlines())
    for number in range(count):
        path, body, headers = _BAD[number % len(_BAD)]
        request = urllib.request.Request(server.url + path.format(number), body, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                answer.read()
        except urllib.error.HTTPError:
            pass
    lines = len(log.read_text().splitlines()) - before
    print(f"{count} requests of {len(_BAD)} kinds that name what is not there: {lines} lines in the log")


if __name__ == "__main__":
    main()
