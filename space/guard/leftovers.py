"""What Gradio 6 keeps of requests that are over, for as long as the server runs, and how this Space lets go of it.

Ordinary visitors do not need it: after three rounds of 1,240 requests whose results were fetched, a server with it had 821 MB and
one without it 822 MB. It is for strangers: without it, 2,000 sessions end the request of everybody who waits longer (Gradio drops
the oldest session, whatever runs in it), each result that nobody fetches keeps about 100 KB, and names of uploads stay for good.
"""

import os
import time

import gradio as gr
from gradio.routes import file_upload_statuses
from gradio.server_messages import ProcessCompletedMessage

SESSIONS = 50  # whose last components Gradio keeps, a quarter of a megabyte each; nothing of ours is in them
_ANALYTICS_EVENTS = 100
_UNFETCHED_SECONDS = 300.0  # what was asked for by a program that never comes for the result
_IDLE_SESSIONS = 2000  # more of them do not stay so long, but
_GRACE_SECONDS = 10.0  # this long: somebody may be on the way to the result
_GRADIO_SESSIONS = 10**6  # never reached, as the idle ones go
_SLOW_SECONDS = 60.0  # between two looks at what takes longer to look through


def bound_gradio() -> None:
    """Set what Gradio lets be set, before the page is built.

    Its queue keeps a record of each request and makes a table of all of them after every one, wanted or not.
    """
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = str(_ANALYTICS_EVENTS)
    os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(10**9)


def spare_sessions(page: gr.Blocks) -> None:
    """Let Gradio keep the messages of as many sessions as come, before the page is launched.

    Above 2000 it would drop the oldest session, and with it a request that waits or runs in there; Leftovers drops idle ones.
    """
    page._queue.pending_messages_per_session.max_size = _GRADIO_SESSIONS  # has no public name


class Leftovers:
    """Called every few seconds on the server's event loop, it drops what nobody will ask for any more.

    Args:
        page: Whose queue and files are looked through.
    """

    def __init__(self, page: gr.Blocks) -> None:
        self.page = page
        self._idle_since: dict[str, float] = {}
        self._in_vain: dict[str, float] = {}
        self._uploads: set[str] = set()
        self._slow_at = float("-inf")

    def __call__(self) -> None:
        """Drop it."""
        now = time.monotonic()
        self._drop_sessions(now)
        if now >= self._slow_at + _SLOW_SECONDS:
            self._slow_at = now
            self._drop_uploads()
            self._drop_file_names()

    def _drop_sessions(self, now: float) -> None:
        """Messages and identifiers of sessions in which nothing has been under way for a while, sooner if there are many.

        A stream of one in which nothing is under way any more ends: Gradio would send it heartbeats for ever.
        """
        queue = self.page._queue  # has no public name
        pending, messages = queue.pending_event_ids_session, queue.pending_messages_per_session
        busy = {event.session_hash for event in list(queue.event_ids_to_events.values())}
        listening = {session for session, kept in list(messages.items()) if kept._getters}  # a stream is open
        self._in_vain = {session: self._in_vain.get(session, now) for session in listening - busy}
        for session in [session for session, since in self._in_vain.items() if now - since >= _GRACE_SECONDS]:
            for event in list(pending.get(session, ())) or ["over"]:  # it was cancelled by another name, or fetched before
                over = ProcessCompletedMessage(output={"error": "This request is over."}, success=False, event_id=event)
                messages[session].put_nowait(over)
        busy |= listening
        self._idle_since = {
            session: self._idle_since.get(session, now) for session in [*messages, *pending] if session not in busy
        }
        oldest_first = sorted(self._idle_since.items(), key=lambda item: item[1])
        for number, (session, since) in enumerate(oldest_first):
            too_many = number < len(oldest_first) - _IDLE_SESSIONS
            if now - since >= (min(_GRACE_SECONDS, _UNFETCHED_SECONDS) if too_many else _UNFETCHED_SECONDS):
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
