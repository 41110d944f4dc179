"""The gate in front of Gradio: lets through what the page and its clients need, and nothing else.

Gradio's server can do more than this Space offers: fetch addresses on behalf of a visitor, convert recordings, record runs. It
also reads a whole request before it looks at it. The gate refuses by path, size and content first.
"""

import json
import math
import re
from collections.abc import Callable
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Gate"]

_API = "/gradio_api"
_MCP = f"{_API}/mcp"
_OPEN = re.compile(
    r"/|/(config|favicon\.ico|robots\.txt|manifest\.json|pwa_icon|theme\.css)/?"
    r"|/(assets|static|svelte)/.*"
    rf"|{_API}/(info|openapi\.json|app_id|startup-events|heartbeat/\w+|theme\.css|token|user|login_check)/?"
    rf"|{_API}/(queue/(join|data)|cancel|reset|upload|upload_progress|(run|api)/\w+|call(/v2)?/\w+(/\w+)?)/?"
    rf"|{_API}/file=.*"
    rf"|{_MCP}(/.*)?"
)
_UPLOAD = f"{_API}/upload"
_JSON_BYTES = 64 * 1024
_MCP_BYTES = 4 * 2**20  # MCP has no uploads: a clip comes inside the JSON
_MULTIPART_BYTES = 4096  # what a form adds to the file itself


class Gate:
    """ASGI middleware.

    Args:
        app: What is behind.
        upload_bytes: Largest upload.
        has_room: Whether files of another upload may be kept.
    """

    def __init__(self, app: ASGIApp, upload_bytes: int, has_room: Callable[[], bool]) -> None:
        self.app = app
        self.upload_bytes = upload_bytes
        self.has_room = has_room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it with one sentence."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            receive = await self._admit(scope, receive)
        except _Refusal as refusal:
            await JSONResponse({"detail": str(refusal)}, refusal.status)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    async def _admit(self, scope: Scope, receive: Receive) -> Receive:
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        if not _OPEN.fullmatch(path):
            raise _Refusal(404, "There is no such page.")
        if path.startswith(f"{_API}/file=") and (".." in path or ":" in path or "\0" in path):
            raise _Refusal(403, "Only files of this Space's own requests are served.")
        if scope["method"] not in ("POST", "PUT", "PATCH"):
            return receive
        limit = self._limit(path)
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > limit:
            raise _Refusal(413, f"The request is too large; at most {limit // 1024} KB are taken.")
        if path.rstrip("/") == _UPLOAD:
            if not self.has_room():
                raise _Refusal(507, "There are too many uploads here at the moment; please try again in an hour.")
            return _bounded(receive, limit)
        body = await _read(receive, limit)
        _check_json(body)
        return _replay(body, receive)

    def _limit(self, path: str) -> int:
        """Bytes that a request may have."""
        if path.rstrip("/") == _UPLOAD:
            return self.upload_bytes + _MULTIPART_BYTES
        return _MCP_BYTES if path.startswith(_MCP) else _JSON_BYTES


class _Refusal(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


async def _read(receive: Receive, limit: int) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise _Refusal(400, "The request was not finished.")
        body += message.get("body", b"")
        if len(body) > limit:
            raise _Refusal(413, f"The request is too large; at most {limit // 1024} KB are taken.")
        if not message.get("more_body"):
            return body


def _bounded(receive: Receive, limit: int) -> Receive:
    """The same body, cut off as a broken connection once it is longer than its header may say."""
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        return {"type": "http.disconnect"} if seen > limit else message

    return bounded


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body that was read, then whatever comes behind it (the client going away)."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def _check_json(body: bytes) -> None:
    if not body:
        return
    try:
        value = json.loads(body, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError):
        raise _Refusal(400, "The request is no JSON text with finite numbers.") from None
    _check_files(value)


def _finite(text: str) -> float:
    number = float(text)  # NaN, Infinity, and 1e999 as well
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _check_files(value: Any, depth: int = 0) -> None:
    """No file may be an address: Gradio would fetch it."""
    if depth > 16:
        raise _Refusal(400, "The request is nested too deeply.")
    if isinstance(value, dict):
        if "path" in value and (not isinstance(value["path"], str) or "://" in value["path"] or "\0" in value["path"]):
            raise _Refusal(400, "Files must be uploaded; addresses are not fetched.")
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            _check_files(item, depth + 1)
