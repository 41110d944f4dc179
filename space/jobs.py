"""One computation at a time on the model, with steps to show on the way, a time limit, and a stop that is obeyed at once.

A generator that is closed (the person pressed Stop or left the page) or runs out of time asks its computation to stop; the
computation notices at the next layer of the network, because `watch` puts a check in front of every layer.
"""

import logging
import os
import threading
import time
import traceback
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import torch

from jog3r.space.guard.limits import Refused

WRONG = "Something went wrong here; please try again."
_log = logging.getLogger(__name__)
_PULSE_SECONDS = 0.7  # the longest silence of the generator; a closed one is noticed between two events
_GRACE_SECONDS = 3.0  # after the time limit, for a computation that is between two checks


class Stopped(BaseException):
    """The computation was asked to stop. Not an `Exception`, so that nothing on the way takes it for a failure of its own."""


@dataclass(frozen=True)
class Step:
    """Progress to show.

    Attributes:
        stage: What is being done, a few words.
        share: How much is done, 0 to 1.
        preview: JPEG of the clip as it is now, or None.
    """

    stage: str
    share: float
    preview: bytes | None = None


@dataclass(frozen=True)
class Done:
    """The result of a job."""

    value: Any


@dataclass(frozen=True)
class Failed:
    """There is no result.

    An event, not an exception: of an exception in its GPU process ZeroGPU passes on the class alone, and prints the message.

    Attributes:
        sentence: For the person who asked.
    """

    sentence: str


class Job:
    """What a computation sees of its request.

    Args:
        seconds: How long it may compute.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.deadline = float("inf")
        self.events: SimpleQueue[Any] = SimpleQueue()
        self._stop = threading.Event()

    def start(self) -> None:
        """The computation begins: its time runs from here, not from the queue."""
        self.deadline = time.monotonic() + self.seconds

    def stop(self) -> None:
        """Ask the computation to stop."""
        self._stop.set()

    def check(self) -> None:
        """Leave the computation if it was asked to stop or its time is over.

        Raises:
            Stopped: It was asked to stop.
            Refused: Its time is over.
        """
        if self._stop.is_set():
            raise Stopped
        if time.monotonic() > self.deadline:
            raise self.late()

    def report(self, event: Step) -> None:
        """Show a step; also a check."""
        self.check()
        self.events.put(event)

    def late(self) -> Refused:
        """The refusal of a request whose time is over."""
        return Refused("The request needed more computing time than is allowed here and was stopped; try fewer steps or frames.")


_running = threading.local()
_END = object()


def _new_worker() -> None:
    """One thread that owns the model: threads of their own for every request would each bring OpenMP threads along."""
    global _worker
    _worker = ThreadPoolExecutor(1, thread_name_prefix="model")


_worker: ThreadPoolExecutor
_new_worker()
os.register_at_fork(after_in_child=_new_worker)  # ZeroGPU forks, and threads do not survive a fork


def run_job(work: Callable[[Job], Any], seconds: float) -> Generator[Step | Done | Failed | None, None, None]:
    """Run `work` on the model's thread.

    Args:
        work: Gets the `Job`, reports steps, returns the result.
        seconds: Time limit of the computation.

    Yields:
        Each `Step`; None when there is nothing new, at least every 0.7 s; at last `Done`, or `Failed` if the time is over or
        `work` raised something, of which the log gets kind and place, and not the message: it could hold what was asked for.
    """
    job = Job(seconds)
    future = _worker.submit(_work, work, job)
    future.add_done_callback(lambda _: job.events.put(_END))
    try:
        while True:
            try:
                event = job.events.get(timeout=_PULSE_SECONDS)
            except Empty:
                event = None
            if event is _END:
                break
            if time.monotonic() > job.deadline + _GRACE_SECONDS:
                yield Failed(str(job.late()))
                return
            yield event
        yield _outcome(future)
    finally:
        # No waiting here: the caller may be the server's event loop. The next job waits in the worker's own queue.
        job.stop()
        future.cancel()


def stop_running() -> None:
    """Ask the computation of this moment to stop and begin no other: the server ends."""
    _worker.shutdown(wait=False, cancel_futures=True)
    _new_worker()
    job = _last
    if job is not None:
        job.stop()


_last: Job | None = None  # that was started; the worker has one thread


def _work(work: Callable[[Job], Any], job: Job) -> Any:
    global _last
    job.start()
    _running.job = _last = job
    try:
        job.check()
        return work(job)
    finally:
        _running.job = _last = None


def _outcome(future: Future) -> Done | Failed:
    try:
        return Done(future.result())
    except Stopped:
        return Failed("The request was stopped.")
    except Refused as refusal:
        return Failed(str(refusal))
    except Exception as error:  # noqa: BLE001  # nothing that goes wrong may reach a stranger as it is
        _log.error("a computation failed with %s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
        return Failed(WRONG)


def watch(model: torch.nn.Module) -> None:
    """Put a check of the running job in front of every layer of a model that is made of others, and of the model itself.

    Not of the single matrices and norms in them: they are many, and every module with a hook is called a longer way.
    """
    for module in model.modules():
        if module is model or next(module.children(), None) is not None:
            module.register_forward_pre_hook(_check_running)


def _check_running(*_: Any) -> None:
    job = getattr(_running, "job", None)
    if job is not None:
        job.check()
