"""A server on loopback that gives out a folder with ranges, and hangs up in the middle of every n-th answer if asked to."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Lock, Thread


@contextmanager
def serve(folder: Path, cut_every: int = 0) -> Iterator[tuple[str, list[str]]]:
    """Address of `folder`, and the paths of the answers that were cut off."""
    cuts: list[str] = []
    asked, lock, closed = [0], Lock(), Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(head=True)

        def do_GET(self) -> None:
            self._answer(head=False)

        def _answer(self, head: bool) -> None:
            if closed.is_set():  # connections that were kept open are served by threads of their own
                self.close_connection = True
                return
            path = folder / self.path.lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            content = path.read_bytes()
            first, last = 0, len(content) - 1
            wanted = self.headers.get("Range")
            if wanted:
                begin, end = wanted.removeprefix("bytes=").split("-")
                first, last = int(begin), min(int(end or last), last)
            body = content[first : last + 1]
            self.send_response(206 if wanted else 200)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(body)))
            if wanted:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            self.end_headers()
            if head:
                return
            with lock:
                asked[0] += 1
                cut = bool(cut_every) and asked[0] % cut_every == 0
            if cut:
                cuts.append(self.path)
                self.close_connection = True
                body = body[: len(body) // 2]
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", cuts
    finally:
        closed.set()
        server.shutdown()
        server.server_close()
        thread.join()
