"""A running Space for tests: the random tiny pipeline behind the real page, in this process."""

import functools
import json
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import torch
from gradio import http_server, networking
from gradio_client import Client
from tiny_components import tiny_pipeline

from jog3r.space.guard.limits import SpaceLimits
from jog3r.space.jobs import Done, run_job, watch
from jog3r.space.server import Space, open_space

PROMPT = "a room with blue walls, the camera moves forward"
# Generous: a busy machine must not fail tests that are not about time.
LIMITS = SpaceLimits(request_seconds=3600.0, decode_seconds=600.0)
ssl.create_default_context = functools.cache(ssl.create_default_context)  # httpx makes one a request: a third of the time
PATIENCE_SECONDS = 900.0  # of each single wait: a test fails by what it sees, not by how busy the machine is


def _start(server: http_server.Server) -> None:
    """What Gradio does, but for its patience of five seconds."""
    server.thread = threading.Thread(target=server.run, daemon=True)
    server.thread.start()
    end = time.monotonic() + PATIENCE_SECONDS
    while not server.started:
        if not server.thread.is_alive():
            raise http_server.ServerFailedToStartError("the port is taken")  # Gradio takes the next one
        assert time.monotonic() < end
        time.sleep(0.001)


http_server.Server.run_in_thread = _start
networking.url_ok = lambda url: httpx.head(url, timeout=PATIENCE_SECONDS).is_success


@dataclass(frozen=True)
class Running:
    url: str
    space: Space
    page: gr.Blocks


def save_tiny_model(folder: Path) -> str:
    tiny_pipeline().save_pretrained(folder)
    return str(folder)


@contextmanager
def running_space(folder: Path, compare: bool = False, other: str | None = None, **limits: object) -> Iterator[Running]:
    """Serve the tiny model, or that of another folder, on a free port; `folder` gets the model and the server's files."""
    import spaces_app

    bundled = save_tiny_model(folder / "tiny_model")
    second = save_tiny_model(folder / "second_model") if compare else None
    space = open_space(other or bundled, second, bundled=bundled, limits=replace(LIMITS, **limits), parent=folder)
    page = spaces_app.launch(space, "127.0.0.1", None, block=False)
    try:
        yield Running(page.local_url, space, page)
    finally:
        page.close()
        space.folder.close()


def connected(url: str, downloads: Path | None = None) -> Client:
    """A client that does not give up after httpx's five seconds; without `downloads` it fetches no files."""
    files = str(downloads) if downloads else False
    return Client(url, verbose=False, download_files=files, httpx_kwargs={"timeout": PATIENCE_SECONDS})


def function_number(running: Running, name: str) -> int:
    """By which Gradio's queue calls a function of the page."""
    config = json.load(urllib.request.urlopen(f"{running.url}config"))
    return next(function["id"] for function in config["dependencies"] if function["api_name"] == name)


def join_queue(running: Running, name: str, values: tuple[Any, ...], session: str) -> None:
    """What a page sends first; then it listens to its session's stream."""
    asked = {"data": values, "fn_index": function_number(running, name), "session_hash": session}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{running.url}gradio_api/queue/join", json.dumps(asked).encode(), headers)
    assert "event_id" in json.load(urllib.request.urlopen(request))


@contextmanager
def held_layers(space: Space) -> Iterator[threading.Event]:
    """No computation goes on by itself: layers that are made of others wait, and only a stop or the end lets them go on.

    A layer looks a few times a second whether its request was stopped; at the end whatever is under way goes on.

    Yields:
        Set once such a layer is reached.
    """
    begun, over = threading.Event(), threading.Event()
    checked = torch.nn.Identity()
    watch(checked)

    def wait(*_: Any) -> None:
        begun.set()
        while not over.wait(0.1):
            checked(None)  # leaves by an exception if the request was stopped

    networks = [part for part in space.model.pipe.components.values() if isinstance(part, torch.nn.Module)]
    layers = [layer for network in networks for layer in network.modules() if next(layer.children(), None) is not None]
    hooks = [layer.register_forward_pre_hook(wait) for layer in layers]
    try:
        yield begun
    finally:
        over.set()
        for hook in hooks:
            hook.remove()


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def assert_worker_becomes_free() -> None:
    """The model's only thread takes a job of ours: while layers are held, only if what was there before has been stopped."""
    end = time.monotonic() + PATIENCE_SECONDS
    with closing(run_job(lambda job: "free", PATIENCE_SECONDS)) as events:
        for event in events:
            if event == Done("free"):
                return
            assert event is None and time.monotonic() < end, "the worker is not free"
