"""Who is asking, as far as an address tells, and how much of the queue is theirs already."""

import ipaddress
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
from starlette.types import Scope

from jog3r.space.guard.limits import Refused, SpaceLimits

_KEY = "jog3r.visit"  # in the scope of a request, which Gradio keeps with the event


class Clients:
    """Tells clients apart by their addresses, and bounds what one of them may have in the queue.

    Programs on this machine are not bounded: a load test is many people, and so is a proxy that does not say for whom it speaks.
    The proxy of Hugging Face Spaces does. What MCP brings comes from this machine, too, and is one client.

    Args:
        page: Whose queue it is.
        limits: `requests_per_client`.
    """

    def __init__(self, page: gr.Blocks, limits: SpaceLimits) -> None:
        self.page = page
        self.limits = limits
        self._is_behind_proxy = bool(os.environ.get("SPACE_ID"))
        self._joining: set[_Visit] = set()

    def address(self, scope: Scope) -> str | None:
        """The client of a request; None for one that is not bounded. What one IPv6 customer has (/64) is one client."""
        text = scope["client"][0] if scope.get("client") else ""
        hops = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
        if self._is_behind_proxy:
            # The whole list is the client's name. By the last hop alone all people behind one load balancer would share a bound.
            # A client that writes hops of its own becomes another client, which is no worse than having no bound.
            text = ",".join(hop.decode("latin-1") for hop in hops).replace(" ", "")
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return text or None
        if isinstance(address, ipaddress.IPv6Address):
            if address.ipv4_mapped is None and not address.is_loopback:
                return str(ipaddress.ip_network((int(address), 64), strict=False))
            address = address.ipv4_mapped or address
        through_mcp = "mcp" if (b"x-gradio-user", b"mcp") in scope["headers"] else None  # whose server calls as a program here
        return through_mcp if address.is_loopback else str(address)

    @contextmanager
    def joining(self, scope: Scope) -> Iterator[None]:
        """A request is being put in the queue.

        Raises:
            Refused: The client has as many there as one may have.
        """
        visit = scope[_KEY] = _Visit(self.address(scope))
        theirs = {one for one in self._joining | self._queued() if one.client == visit.client}  # those on both sides count once
        if visit.client is not None and len(theirs) >= self.limits.requests_per_client:
            raise Refused(f"You have {len(theirs)} requests waiting or running; please wait until one of them is done.", 429)
        self._joining.add(visit)
        try:
            yield
        finally:
            self._joining.remove(visit)

    def _queued(self) -> set["_Visit"]:
        queue: Any = self.page._queue  # has no public name
        waiting = [event for line in queue.event_queue_per_concurrency_id.values() for event in line.queue]
        running = [event for job in queue.active_jobs if job for event in job]
        return {event.request.scope[_KEY] for event in waiting + running if _KEY in event.request.scope}


class _Visit:
    """One request of a client."""

    def __init__(self, client: str | None) -> None:
        self.client = client
