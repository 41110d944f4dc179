"""A server on loopback that gives out a folder with ranges, and hangs up in the middle of every n-th answer if asked to.

The same folder is the dataset repository `me/set` in the words of the hub, as far as reading and filling one takes them.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Lock, Thread

COMMIT = "a" * 40


def _hub_answer(folder: Path, place: str) -> tuple[int, str, bytes]:
    """Status, kind of error and json that the hub has for a path of its programming interface."""
    facts = {"id": "me/set", "sha": COMMIT, "siblings": []}
    files = [{"type": "file", "path": path.name, "size": path.stat().st_size, "oid": COMMIT} for path in folder.glob("*.*")]
    known = {"": facts, "/revision/main": facts, f"/revision/{COMMIT}": facts, f"/tree/{COMMIT}": files, "/tree/main": files}
    name, _, rest = place.partition("/api/datasets/me/set")
    if name or rest not in known:
        return 404, "RepoNotFound" if name else "RevisionNotFound", b"{}"
    return 200, "none", json.dumps(known[rest]).encode()


def _hub_takes(folder: Path, place: str, content: bytes) -> tuple[int, dict]:
    """Status and answer for what is sent to the hub; a commit writes its files into the folder."""
    if place == "/api/repos/create":
        return (409 if any(folder.iterdir()) else 200), {"url": "/datasets/me/set", "error": "it is there"}
    if place == "/api/validate-yaml":
        return 200, {"errors": [], "warnings": []}
    if place == "/api/datasets/me/set/preupload/main":
        names = [file["path"] for file in json.loads(content)["files"]]
        common = {"uploadMode": "regular", "shouldIgnore": False}
        return 200, {"files": [{"path": name, **common, "oid": _git_hash(folder / name)} for name in names]}
    if place == "/api/datasets/me/set/commit/main":
        for entry in map(json.loads, content.splitlines()):
            if entry["key"] == "file":
                (folder / entry["value"]["path"]).write_bytes(base64.b64decode(entry["value"]["content"]))
            elif entry["key"] == "deletedFile":
                (folder / entry["value"]["path"]).unlink()
        return 200, {"commitUrl": f"/datasets/me/set/commit/{COMMIT}", "commitOid": COMMIT}
    return 404, {}


def _git_hash(path: Path) -> str | None:
    content = path.read_bytes() if path.is_file() else None
    return None if content is None else hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _range(header: str | None, size: int) -> tuple[int, int]:
    """First and last byte that are asked for."""
    begin, _, end = (header or "bytes=0-").removeprefix("bytes=").partition("-")
    return int(begin), min(int(end or size), size - 1)


class _Handler(BaseHTTPRequestHandler):
    server: "_Server"
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(head=True)

    def do_GET(self) -> None:
        self._answer(head=False)

    def do_POST(self) -> None:
        if self.server.closed.is_set():
            self.close_connection = True
            return
        content = self.rfile.read(int(self.headers["Content-Length"]))
        status, answer = _hub_takes(self.server.folder, self.path.split("?")[0], content)
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(self._cut(body))

    def _answer(self, head: bool) -> None:
        if self.server.closed.is_set():  # connections that were kept open are served by threads of their own
            self.close_connection = True
            return
        place = self.path.split("?")[0]
        if place.startswith("/api/"):
            self._api(place)
            return
        path = self.server.folder / place.removeprefix(f"/datasets/me/set/resolve/{COMMIT}").lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        wanted = self.headers.get("Range")
        first, last = _range(wanted, len(content))
        body = content[first : last + 1]
        self.send_response(206 if wanted else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(body)))
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.end_headers()
        if not head:
            self.wfile.write(self._cut(body))

    def _cut(self, body: bytes) -> bytes:
        with self.server.lock:
            self.server.asked += 1
            whole = not self.server.cut_every or self.server.asked % self.server.cut_every != 0
        if whole:
            return body
        self.server.cuts.append(self.path)
        self.close_connection = True
        return body[: len(body) // 2]

    def _api(self, place: str) -> None:
        status, error, body = _hub_answer(self.server.folder, place)
        self.send_response(status)
        self.send_header("X-Error-Code", error)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path, cut_every: int):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.cut_every = folder, cut_every
        self.cuts: list[str] = []
        self.asked, self.lock, self.closed = 0, Lock(), Event()


@contextmanager
def serve(folder: Path, cut_every: int = 0) -> Iterator[tuple[str, list[str]]]:
    """Address of `folder`, and the paths of the answers that were cut off."""
    server = _Server(folder, cut_every)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", server.cuts
    finally:
        server.closed.set()
        server.shutdown()
        server.server_close()
        thread.join()
