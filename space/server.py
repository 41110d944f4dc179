"""What the callbacks of the Space share: models, limits, the folder for files, and errors as one sentence."""

import logging
import os
import time
import traceback
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
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
from jog3r.space.guard.mcp_texts import PlainMCPServer
from jog3r.space.guard.storage import ServerFolder
from jog3r.space.guard.upkeep import few_arenas, start_upkeep
from jog3r.space.guard.upload_quota import UploadQuota
from jog3r.space.jobs import WRONG, Done, Failed, Step
from jog3r.space.look.html_pieces import progress
from jog3r.space.model import SpaceModel, load_model

_WRONG_VALUE = "A value of the request is of the wrong kind."
_log = logging.getLogger(__name__)
_SHOWN_SECONDS = 1.0  # between two steps that are shown: each update costs server and browser some hundredths of a second
_PROMPT_LOGGERS = ("jog3r.pipelines.captions", "diffusers.pipelines")  # warn about long prompts by quoting them


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
    for name in _PROMPT_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    first = load_model(model, "bundled tiny model" if model == bundled else None, dtype)
    if not first.has_geometry:
        raise ValueError(
            f"{model!r} has no trained 3D head, and the Space shows cameras: give it as the second model, to compare, or take "
            "`jog3r generate --model`, which finds the cameras of its videos by tracks"
        )
    second = load_model(compare, dtype=dtype) if compare else None
    for one in (first, second) if second else ():
        if not one.makes_videos:
            raise ValueError(f"{one.path!r} is a {type(one.pipe).__name__}, which makes no videos to compare: leave compare out")
    folder = ServerFolder(limits.keep_seconds, parent)
    start_upkeep(folder, limits)
    bound_gradio()
    os.environ["GRADIO_TEMP_DIR"] = str(folder.served)
    gradio.mcp.DEFAULT_TEMP_DIR = str(folder.served)  # took its value when it was imported
    gradio.mcp.GradioMCPServer = PlainMCPServer
    # Where it finds ffmpeg it would look into every video that it hands out, also a stranger's, and convert it, without a bound.
    gradio.processing_utils.ffmpeg_installed = lambda: False
    return Space(first, second, model == bundled, limits, folder)


def guard(page: gr.Blocks, space: Space, host: str | None) -> Middleware:
    """The gate in front of a page that is about to be served at `host`, and bounds for its connections and sessions."""
    bound_connections()
    spare_sessions(page)
    return Middleware(
        Gate,
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


class Page(gr.Blocks):
    """Blocks whose refusals of inputs neither quote them nor reach the log."""

    def validate_inputs(self, block_fn: Any, inputs: list[Any]) -> None:
        """Refuse too few values with one sentence, a `gr.Error`."""
        wanted = len(block_fn.inputs)
        if len(inputs) < wanted:
            message = f"The request has {len(inputs)} values; {wanted} are needed."
            raise gr.Error(message, title="Not done", print_exception=False)

    async def preprocess_data(self, *args: Any, **options: Any) -> list[Any]:
        """The inputs as callbacks get them; a `gr.Error` where a component does not take its value."""
        block_fn, values = args[:2]
        self.validate_inputs(block_fn, values)
        try:
            return await super().preprocess_data(*args, **options)
        except Exception:  # noqa: BLE001  # components raise all kinds, with the value in the message
            message = _out_of_bounds(block_fn.inputs, values) or _WRONG_VALUE
            raise gr.Error(message, title="Not done", print_exception=False) from None


def _out_of_bounds(inputs: list[Any], values: list[Any]) -> str | None:
    """The input whose value lies outside, by its name on the page; Gradio says "Value 1 is less than minimum value 2"."""
    for part, value in zip(inputs, values, strict=False):
        is_number = isinstance(part, (gr.Number, gr.Slider)) and isinstance(value, (int, float))
        if is_number and not part.minimum <= value <= part.maximum:
            return f"{part.label} must be between {part.minimum} and {part.maximum}."
    return None


def follow(
    events: Generator[Step | Done | Failed | None, None, None],
    outputs: int,
    side: str = "",
    begin: float = 0.0,
    length: float = 1.0,
) -> Generator[tuple[Any, ...], None, Any]:
    """Turn the events of a job into updates of the page; `result = yield from follow(...)`.

    Args:
        events: Of a job; closed at the end.
        outputs: How many components the callback updates; the first shows the progress, the others stay as they are.
        side: Of a job that is a part of a request: which one, in a word.
        begin, length: Its share of the whole.

    Yields:
        Updates of the components: steps with a preview, of the others not more than can be read.

    Returns:
        The job's result.

    Raises:
        Refused: The job failed.
    """
    rest = (gr.skip(),) * (outputs - 1)
    shown, first = float("-inf"), None  # of the first step: what came before it took as long as loading takes
    with closing(events):  # stops the job when the person has gone
        for event in events:
            if isinstance(event, Done):
                return event.value
            if isinstance(event, Failed):
                raise Refused(event.sentence)
            if event is not None and event.preview is None and time.monotonic() < shown + _SHOWN_SECONDS:
                continue
            left = None
            if event is not None:
                shown = time.monotonic()
                stage = f"{side}: {event.stage}" if side else event.stage
                event = replace(event, stage=stage, share=begin + length * event.share)
                first = first or (shown, event.share)
                done = event.share - first[1]
                left = (1 - event.share) * (shown - first[0]) / done if done > 0 else None
            yield (gr.skip() if event is None else progress(event, left), *rest)
    raise RuntimeError("the job ended without a result")
