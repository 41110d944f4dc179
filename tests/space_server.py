"""A running Space for tests: the random tiny pipeline behind the real page, in this process."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import gradio as gr
from tiny_components import tiny_pipeline

from jog3r.space.limits import SpaceLimits
from jog3r.space.server import Space, open_space

PROMPT = "a room with blue walls, the camera moves forward"
# Generous: a busy machine must not fail tests that are not about time.
LIMITS = SpaceLimits(request_seconds=300.0, decode_seconds=120.0)


@dataclass(frozen=True)
class Running:
    url: str
    space: Space
    page: gr.Blocks


def save_tiny_model(folder: Path) -> str:
    tiny_pipeline().save_pretrained(folder)
    return str(folder)


@contextmanager
def running_space(folder: Path, compare: bool = False, **limits: object) -> Iterator[Running]:
    """Serve on a free port; `folder` gets the model and the server's files."""
    import spaces_app

    model = save_tiny_model(folder / "tiny_model")
    second = save_tiny_model(folder / "second_model") if compare else None
    space = open_space(model, second, bundled=model, limits=replace(LIMITS, **limits), parent=folder)
    page = spaces_app.launch(space, "127.0.0.1", None, block=False)
    try:
        yield Running(page.local_url, space, page)
    finally:
        page.close()
        space.folder.close()
