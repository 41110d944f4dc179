"""What Gradio 6 keeps of requests that are over, for as long as the server runs, and how this Space lets go of it."""

import os
import time

import gradio as gr
from gradio.routes import file_upload_statuses

__all__ = ["SESSIONS", "Leftovers", "bound_gradio"]

SESSIONS = 50  # whose last components Gradio keeps, a quarter of a megabyte each; nothing of ours is in them
_ANALYTICS_EVENTS = 100
_UNFETCHED_SECONDS = 300.0  # what was asked for by a program that never comes for the result


def bound_gradio() -> None:
    """Set what Gradio lets be set, before the page is built.

    Its queue keeps a record of each request and makes a table of all of them after every one, wanted or not.
    """
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = str(_ANALYTICS_EVENTS)
    os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(10**9)


class Leftovers:
    """Called now and then on the server's event loop, it drops what nobody will ask for any more.

    Args:
        page: Whose queue and files are looked through.
    """

    def __init__(self, page: gr.Blocks) -> None:
        self.page = page
        self._idle_since: dict[str, float] = {}
        self._uploads: set[str] = set()

    def __call__(self) -> None:
        """Drop it."""
        self._drop_sessions(time.monotonic())
        self._drop_uploads()
        self._drop_file_names()

    def _drop_sessions(self, now: float) -> None:
        """Messages and identifiers of sessions in which nothing has been under way for a while."""
        queue = self.page._queue  # has no public name
        pending, messages = queue.pending_event_ids_session, queue.pending_messages_per_session
        busy = {event.session_hash for event in list(queue.event_ids_to_events.values())}
        idle = (set(pending) | set(messages)) - busy
        self._idle_since = {session: self._idle_since.get(session, now) for session in idle}
        for session, since in list(self._idle_since.items()):
            if now - since >= _UNFETCHED_SECONDS:
                pending.pop(session, None)
                messages.pop(session, None)
                del self._idle_since[session]

    def _drop_uploads(self) -> None:
        """Progress of uploads that was there last time, too; one that still comes in gets its entry anew."""
        statuses, signals = file_upload_statuses._statuses, file_upload_statuses._signals
        for name in self._uploads:
            statuses.pop(name, None)
        for name in [name for name, signal in signals.items() if name not in statuses and not signal._waiters]:
            del signals[name]
        self._uploads = set(statuses)

    def _drop_file_names(self) -> None:
        """Names of files that were deleted after their time."""
        for names in self.page.temp_file_sets:
            names.difference_update([name for name in list(names) if not os.path.exists(name)])
