"""What a connection may cost before it has asked for anything: bytes of headers, time, and how many one address may hold.

uvicorn bounds none of these. Gradio starts uvicorn itself, so the protocol below is put where uvicorn looks for its own.
"""

import asyncio
import itertools
import os
import resource
from typing import Any, cast

import h11
import uvicorn.config
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_BYTES = 64 * 1024  # of a request's first line and headers
HEAD_SECONDS = 10.0  # in which they must have come
PER_ADDRESS = 256  # connections; on Spaces all come from the proxy, which bounds its clients itself
IN_ALL = 4096
_DESCRIPTORS_LEFT = 256  # for files, the model and what else the process opens
_numbers = itertools.count()  # of connections, in their order


def bound_connections() -> None:
    """Let servers that start from now on use `BoundedProtocol`, and let the process open as many files as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = IN_ALL + _DESCRIPTORS_LEFT if hard == resource.RLIM_INFINITY else hard  # macOS refuses to raise it without end
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{BoundedProtocol.__name__}"


def allowed_hosts(host: str | None) -> frozenset[str] | None:
    """By which names a server that listens at `host` may be called; None: by any, as others than this machine reach it.

    JOG3R_HOSTS adds names, for a proxy on this machine that passes on the name it was called by.
    """
    host = host or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"
    names = {"localhost", "127.0.0.1", "::1"}
    if os.environ.get("SPACE_ID") or host.strip("[]") not in names:
        return None
    more = os.environ.get("JOG3R_HOSTS", "").lower().split(",")
    return frozenset(names | {name.strip() for name in more if name.strip()})


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 without WebSockets; a connection that waits too long for a request, or is one too many, is closed."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.conn = h11.Connection(h11.SERVER, HEAD_BYTES)
        self._late: asyncio.TimerHandle | None = None
        self._number = next(_numbers)  # clocks of event loops stand still for a millisecond

    @property
    def is_waiting(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        """Take the connection, or close it: of an address that has too many, else the one that has waited longest."""
        super().connection_made(transport)
        others = [cast(BoundedProtocol, one) for one in self.connections if one is not self]
        address = self.client[0] if self.client else None
        theirs = sum(one.client is not None and one.client[0] == address for one in others)
        if not os.environ.get("SPACE_ID") and address is not None and theirs >= PER_ADDRESS:
            transport.abort()
            return
        if len(others) >= _most_connections():
            min((one for one in (*others, self) if one.is_waiting), key=lambda one: one._number).transport.abort()
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Read on."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_watching()
        super().connection_lost(exc)

    def _should_upgrade_to_ws(self) -> bool:
        return False

    def _watch(self) -> None:
        if not self.is_waiting:
            self._stop_watching()
        elif self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _stop_watching(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        self._late = None
        if self.is_waiting:
            self.transport.abort()


def _most_connections() -> int:
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return IN_ALL if descriptors == resource.RLIM_INFINITY else min(IN_ALL, max(PER_ADDRESS, descriptors - _DESCRIPTORS_LEFT))
