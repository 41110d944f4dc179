"""The gate in front of Gradio: lets through what the page and its clients need, and nothing else.

Gradio's server can do more than this Space offers: fetch addresses on behalf of a visitor, convert recordings, record runs. It
also reads a whole request before it looks at it. The gate refuses by path, size and content first. Where Gradio fails over a
request all the same, the gate answers, and the log gets one line.
"""

import asyncio
import json
import logging
import math
import re
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from urllib.parse import unquote, urlsplit

import anyio
import anyio.to_thread
from gradio.route_utils import FnIndexInferError
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jog3r.space.guard.clients import Clients
from jog3r.space.guard.limits import Refused
from jog3r.space.guard.upload_quota import UPLOAD_FILES, UploadQuota

_log = logging.getLogger(__name__)
_API = "/gradio_api"
_MCP = f"{_API}/mcp"
_OPEN = re.compile(
    r"/|/(config|favicon\.ico|robots\.txt|manifest\.json|pwa_icon|theme\.css)/?"
    r"|/(assets|static|svelte)/.*"
    rf"|{_API}/(info|openapi\.json|app_id|startup-events|heartbeat/\w+|theme\.css|token|user|login_check)/?"
    rf"|{_API}/(queue/(join|data)|cancel|reset|upload|upload_progress|(run|api)/\w+|call(/v2)?/\w+(/\w+)?)/?"
    rf"|{_API}/file=.*"
)
_OPEN_FOR_MCP = re.compile(rf"{_MCP}(/.*)?")
_UPLOAD = f"{_API}/upload"
_JOIN = re.compile(rf"{_API}/(queue/join|call(/v2)?/\w+)/?")
_FILE = f"{_API}/file="
_JSON_BYTES = 64 * 1024
_MCP_BYTES = 4 * 2**20  # MCP has no uploads: a clip comes inside the JSON
_MULTIPART_BYTES = 4096  # what a form adds to the file itself
_PART = b"content-disposition:"  # begins each of them
_UPLOAD_SECONDS = 120.0
_BOUNDARY_BYTES = 256  # between the parts of a form: what its parser takes
_ADDRESS_BYTES = 1024  # of the path, and of what follows the question mark
# Gradio keeps what it is told under these names, so they must not be as long as a request.
_NAMES = ("session_hash", "event_id", "trigger_id")
_NAME = re.compile(r"[\w-]{1,64}")
_TIDY_SECONDS = 5.0
_UNKNOWN = (LookupError, TypeError, ValueError, FnIndexInferError)  # of Gradio, about what a request names


class Gate:
    """ASGI middleware.

    Args:
        app: What is behind.
        quota: Bounds the uploads, and how large one may be.
        clients: Who is asking.
        tidy: Called every few seconds on the event loop, between requests.
        mcp: Whether the way to the MCP server is open.
        hosts: By which names the server may be called, None by any. A page of somebody else whose name was made to lead to this
            machine (DNS rebinding) calls it by that name.
    """

    def __init__(
        self,
        app: ASGIApp,
        quota: UploadQuota,
        clients: Clients,
        tidy: Callable[[], None],
        mcp: bool = False,
        hosts: frozenset[str] | None = None,
    ) -> None:
        self.app = _answered(app)
        self.hosts = hosts
        self.quota = quota
        self.clients = clients
        self.tidy = tidy
        self.mcp = mcp
        self._tidied = time.monotonic()
        self._door = anyio.CapacityLimiter(1)  # uploads that wait to come in take no thread from those who fetch files

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it with one sentence."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        self._tidy_up()
        try:
            self._check_head(scope)
            if _is_upload(scope) or self._is_clip_for_mcp(scope):
                await self._upload(scope, receive, send)
            elif _has_body(scope):
                await self._json(scope, receive, send)
            else:
                await self.app(scope, receive, self._tidying(send))
        except Refused as refusal:
            await JSONResponse({"detail": str(refusal)}, refusal.status)(scope, receive, send)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self._limit(_path(scope))
        length = int(dict(scope["headers"]).get(b"content-length", limit))
        client = self.clients.address(scope)
        await anyio.to_thread.run_sync(self.quota.enter, length, client, limiter=self._door)
        try:
            if _is_upload(scope):
                await self.app(scope, _bounded(receive, limit), send)
            else:
                await self._json(scope, receive, send)
        finally:
            self.quota.leave(length, client)

    async def _json(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self._limit(_path(scope))
        try:
            body = await asyncio.wait_for(_read(receive, limit), _UPLOAD_SECONDS)
        except TimeoutError:
            raise Refused("The request took too long to come in.", 408) from None
        if len(body) > _JSON_BYTES:
            await anyio.to_thread.run_sync(_check_json, body)  # takes a second, in which nobody would be served
        else:
            _check_json(body)
        with ExitStack() as stack:
            if _JOIN.fullmatch(_path(scope)):
                stack.enter_context(self.clients.joining(scope))
            await self.app(scope, _replay(body, receive), send)

    def _tidy_up(self) -> None:
        if time.monotonic() > self._tidied + _TIDY_SECONDS:
            self._tidied = time.monotonic()
            try:
                self.tidy()
            except (AttributeError, KeyError, TypeError):  # a Gradio with other parts inside: no visitor may suffer for it
                _log.exception("tidying up failed")

    def _tidying(self, send: Send) -> Send:
        """`send` that also tidies up: of a server that is asked for nothing heartbeats of streams go out all the same."""

        async def tidy_and_send(message: Message) -> None:
            self._tidy_up()
            await send(message)

        return tidy_and_send

    def _check_head(self, scope: Scope) -> None:
        path = _path(scope)
        if max(len(scope["path"].encode()), len(scope.get("query_string", b""))) > _ADDRESS_BYTES:
            raise Refused(f"The address is too long; at most {_ADDRESS_BYTES} bytes are taken.", 414)
        if not (_OPEN.fullmatch(path) or (self.mcp and _OPEN_FOR_MCP.fullmatch(path))):
            raise Refused("There is no such page.", 404)
        if path.startswith(_FILE) and _leads_out(path.removeprefix(_FILE)):
            raise Refused("Only files of this Space's own requests are served.", 403)
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        self._check_origin(headers, _has_body(scope))
        if "," in headers.get(b"range", ""):
            raise Refused("One range of a file can be asked for at a time.", 416)
        if len(headers.get(b"content-type", "")) > _BOUNDARY_BYTES:
            raise Refused("The boundary of the form is too long.", 400)
        limit = self._limit(path)
        length = headers.get(b"content-length", "0")
        if _has_body(scope) and (not length.isdigit() or int(length) > limit):
            raise Refused(f"The request is too large; at most {limit // 1024} KB are taken.", 413)

    def _check_origin(self, headers: dict[bytes, str], changes: bool) -> None:
        """Whoever is bound to one machine answers to its names alone, and takes nothing from pages of others."""
        if self.hosts is None:
            return
        host = headers.get(b"host", "")
        if _name(f"//{host}") not in self.hosts:
            raise Refused(f"This server answers to {', '.join(sorted(self.hosts))} alone; JOG3R_HOSTS allows other names.", 403)
        origin = headers.get(b"origin")
        if changes and origin is not None and origin.partition("//")[2].lower() != host.lower():
            raise Refused("Pages of other servers may not ask this one.", 403)

    def _is_clip_for_mcp(self, scope: Scope) -> bool:
        """Whether a request to MCP may hold a clip, which Gradio will write to the disk; those that do not say their size may."""
        length = int(dict(scope["headers"]).get(b"content-length", _MCP_BYTES)) if _has_body(scope) else 0
        return bool(_OPEN_FOR_MCP.fullmatch(_path(scope))) and length > _JSON_BYTES

    def _limit(self, path: str) -> int:
        """Bytes that a request may have."""
        if path.rstrip("/") == _UPLOAD:
            return self.quota.limits.upload_bytes + _MULTIPART_BYTES
        return _MCP_BYTES if path.startswith(_MCP) else _JSON_BYTES


def _answered(app: ASGIApp) -> ASGIApp:
    """The same application, which answers when it fails: once it has begun by ending there, else by one sentence.

    Gradio fails over requests that name sessions, events or functions that are not there, with 70 lines of traceback each.
    """

    async def answered(scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def watched(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await app(scope, receive, watched)
        except Refused:
            raise
        except Exception as error:  # noqa: BLE001  # whatever a stranger's request leads to
            place = traceback.extract_tb(error.__traceback__)[-1]
            name = _path(scope).partition("=")[0]  # without the names of files
            _log.warning("%s %s: %s at %s:%d", scope["method"], name, type(error).__name__, place.filename, place.lineno or 0)
            if has_begun:
                await send({"type": "http.response.body", "body": b""})
            elif isinstance(error, _UNKNOWN):
                raise Refused("The request names something that is not there, or its values do not fit.", 400) from None
            else:
                raise Refused("The request could not be answered.", 500) from None

    return answered


def _path(scope: Scope) -> str:
    return scope["path"].removeprefix(scope.get("root_path", "")) or "/"


def _name(address: str) -> str | None:
    """The host of an address, without its port."""
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def _leads_out(file: str) -> bool:
    """Whether a file's path is an address or goes up, also to somebody who decodes it once more; names like a..mp4 do not."""
    return any(":" in text or "\0" in text or ".." in re.split(r"[/\\]", text) for text in (file, unquote(file)))


def _has_body(scope: Scope) -> bool:
    return scope["method"] in ("POST", "PUT", "PATCH")


def _is_upload(scope: Scope) -> bool:
    return _has_body(scope) and _path(scope).rstrip("/") == _UPLOAD


async def _read(receive: Receive, limit: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Refused("The request was not finished.", 400)
        body += message.get("body", b"")
        if len(body) > limit:
            raise Refused(f"The request is too large; at most {limit // 1024} KB are taken.", 413)
        if not message.get("more_body"):
            return bytes(body)


def _bounded(receive: Receive, limit: int) -> Receive:
    """The same body, cut off as a broken connection once it is longer than its header may say, too slow, or of many files."""
    seen, parts, tail = 0, 0, b""
    end = time.monotonic() + _UPLOAD_SECONDS

    async def bounded() -> Message:
        nonlocal seen, parts, tail
        try:
            message = await asyncio.wait_for(receive(), end - time.monotonic())
        except TimeoutError:
            raise Refused(f"The upload took longer than {_UPLOAD_SECONDS:.0f} s; send a smaller file.", 408) from None
        body = message.get("body", b"")
        seen += len(body)
        text = tail + body.lower()
        parts += text.count(_PART)
        tail = text[1 - len(_PART) :]
        return {"type": "http.disconnect"} if seen > limit or parts > UPLOAD_FILES else message

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
        raise Refused("The request is no JSON text with finite numbers.", 400) from None
    _check_files(value)


def _finite(text: str) -> float:
    number = float(text)  # NaN, Infinity, and 1e999 as well
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _check_files(value: Any, depth: int = 0) -> None:
    """No file may be an address: Gradio would fetch it. And no name may be longer than names are."""
    if depth > 16:
        raise Refused("The request is nested too deeply.", 400)
    if isinstance(value, dict):
        for name in _NAMES:
            if value.get(name) is not None and not _NAME.fullmatch(str(value[name])):
                raise Refused(f"{name} must be 1 to 64 letters, digits or dashes.", 400)
        if "path" in value and (not isinstance(value["path"], str) or "://" in value["path"] or "\0" in value["path"]):
            raise Refused("Files must be uploaded; addresses are not fetched.", 400)
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            _check_files(item, depth + 1)
