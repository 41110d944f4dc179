"""What the callbacks of the Space share: models, limits, the folder for files, and errors as one sentence."""

import logging
import os
import time
import traceback
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import gradio.mcp
import gradio.processing_utils
from starlette.middleware import Middleware

from jog3r.space.guard.clients import Clients
from jog3r.space.guard.connections import allowed_hosts, bound_connections
from jog3r.space.guard.gate import Gate
from jog3r.space.guard.leftovers import Leftovers, bound_gradio, spare_sessions
from jog3r.space.guard.limits import Refused, SpaceLimits
from jog3r.space.guard.storage import ServerFolder
from jog3r.space.guard.upkeep import few_arenas, start_upkeep
from jog3r.space.guard.upload_quota import UploadQuota
from jog3r.space.jobs import WRONG, Done, Failed, Step
from jog3r.space.look.html_pieces import progress
from jog3r.space.model import SpaceModel, load_model

__all__ = ["Space", "follow", "guard", "mcp_is_on", "one_sentence", "open_space"]

_log = logging.getLogger(__name__)
_SHOWN_SECONDS = 1.0  # between two steps that are shown: each update costs server and browser some hundredths of a second
_PROMPT_LOGGER = "jog3r.pipelines.captions"  # warns about long prompts by quoting them


@dataclass(frozen=True)
class Space:
    """A Space that is ready to serve.

    Attributes:
        model: Finds cameras, and makes videos if it is a video generator.
        compare: The second model of the comparison; None if there is only one.
        is_bundled: Whether `model` is the checkpoint of the package.
        limits: What may be asked for.
        folder: Where files lie.
    """

    model: SpaceModel
    compare: SpaceModel | None
    is_bundled: bool
    limits: SpaceLimits
    folder: ServerFolder


def open_space(
    model: str,
    compare: str | None = None,
    *,
    bundled: str,
    limits: SpaceLimits | None = None,
    dtype: str = "float32",
    parent: Path | None = None,
) -> Space:
    """Load the models and make the private folder; Gradio keeps its files there from now on.

    Args:
        model: Folder or hub id.
        compare: Of the second model; None or empty for none.
        bundled: Path of the checkpoint in the package.
        limits: None means the default ones.
        dtype: Of the models: "float32", "bfloat16" or "float16".
        parent: Where the private folder is made; None is the system's folder for temporary files.

    Raises:
        ValueError, OSError: A model cannot be loaded, `model` finds no cameras, a model makes no videos to compare, or another
            `dtype`.
    """
    few_arenas()
    limits = limits or SpaceLimits()
    logging.getLogger(_PROMPT_LOGGER).setLevel(logging.ERROR)
    first = load_model(model, "bundled tiny model" if model == bundled else None, dtype)
    if not first.has_geometry:
        if first.is_other:
            raise ValueError(
                f"{model!r} has no trained 3D head, and the Space shows cameras: its videos, with cameras from tracks, are "
                "made by `jog3r generate --model`"
            )
        raise ValueError(f"{model!r} has no pointmap head; the Space needs one that finds cameras (the other goes to compare)")
    second = load_model(compare, dtype=dtype) if compare else None
    for one in (first, second) if second else ():
        if not one.makes_videos:
            raise ValueError(f"{one.path!r} is a {type(one.pipe).__name__}, which makes no videos to compare: leave compare out")
    folder = ServerFolder(limits.keep_seconds, parent)
    start_upkeep(folder)
    bound_gradio()
    os.environ["GRADIO_TEMP_DIR"] = str(folder.served)
    gradio.mcp.DEFAULT_TEMP_DIR = str(folder.served)  # took its value when it was imported
    # Where it finds ffmpeg it would look into every video that it hands out, also a stranger's, and convert it, without a bound.
    gradio.processing_utils.ffmpeg_installed = lambda: False
    return Space(first, second, model == bundled, limits, folder)


def guard(page: gr.Blocks, space: Space, host: str | None) -> Middleware:
    """The gate in front of a page that is about to be served at `host`, and bounds for its connections and sessions."""
    bound_connections()
    spare_sessions(page)
    return Middleware(
        Gate,
        upload_bytes=space.limits.upload_bytes,
        quota=UploadQuota(space.folder, space.limits),
        clients=Clients(page, space.limits),
        tidy=Leftovers(page),
        mcp=mcp_is_on(),
        hosts=allowed_hosts(host),
    )


def mcp_is_on() -> bool:
    """Whether Gradio will be an MCP server as well, as it decides itself."""
    return os.environ.get("GRADIO_MCP_SERVER", "False").lower() == "true"


@contextmanager
def one_sentence(what: str) -> Iterator[None]:
    """Show a refusal as it is, anything else as one sentence; the log gets where it happened, and never what was asked for.

    Args:
        what: The callback's name, for the log.
    """
    try:
        yield
    except Refused as refusal:
        raise gr.Error(str(refusal), title="Not done", print_exception=False) from None
    except gr.Error as error:
        if "worker error" in str(error.title):  # of ZeroGPU, whose message is the name of a class
            raise gr.Error(WRONG, title="Error", print_exception=False) from None
        raise
    except Exception as error:  # noqa: BLE001  # nothing that goes wrong may reach a stranger as it is
        # Without the message: it could hold the prompt.
        _log.error("%s failed with %s\n%s", what, type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
        raise gr.Error(WRONG, title="Error", print_exception=False) from None


def follow(events: Generator[Step | Done | Failed | None, None, None], outputs: int) -> Generator[tuple[Any, ...], None, Any]:
    """Turn the events of a job into updates of the page; `result = yield from follow(...)`.

    Args:
        events: Of a job; closed at the end.
        outputs: How many components the callback updates; the first shows the progress, the others stay as they are.

    Yields:
        Updates of the components: steps with a preview, of the others not more than can be read.

    Returns:
        The job's result.

    Raises:
        Refused: The job failed.
    """
    rest = (gr.skip(),) * (outputs - 1)
    shown = float("-inf")
    with closing(events):  # stops the job when the person has gone
        for event in events:
            if isinstance(event, Done):
                return event.value
            if isinstance(event, Failed):
                raise Refused(event.sentence)
            if event is not None and event.preview is None and time.monotonic() < shown + _SHOWN_SECONDS:
                continue
            shown = time.monotonic()
            yield (gr.skip() if event is None else progress(event), *rest)
    raise RuntimeError("the job ended without a result")
