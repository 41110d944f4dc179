"""The Gradio Space: text to video with cameras, video to cameras, and two checkpoints side by side. The layout only.

`python spaces_app.py`, or `jog3r serve`, which has options. JOG3R_MODEL and JOG3R_COMPARE_MODEL name the models where these do
not; JOG3R_DTYPE is their precision (float32, bfloat16 or float16), JOG3R_REQUEST_SECONDS the time that a request may compute.
"""

import gc
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

gc.disable()  # nothing of what is imported becomes garbage, and looking for it would take a fifth of the time

import gradio as gr

from jog3r import tiny_checkpoint
from jog3r.space.callbacks import CAMERAS_TAB, METHODS, Updates, compare, example_clip, generate, reconstruct, take_over
from jog3r.space.example import EXAMPLE_CLIPS, EXAMPLE_LABELS, EXAMPLE_PROMPTS, Example, serve_example
from jog3r.space.guard.leftovers import SESSIONS
from jog3r.space.guard.limits import SpaceLimits
from jog3r.space.jobs import stop_running
from jog3r.space.look.html_pieces import IDLE, NO_PLAYER, NOT_DONE, banner, finished, prompt_help
from jog3r.space.look.style import CSS, HEAD, theme
from jog3r.space.look.texts import (
    ABOUT,
    NO_VIDEOS,
    PROMPT_HINT,
    PROMPT_PATTERN,
    PROMPT_WORDS,
    compare_note,
    introduction,
    limits_note,
)
from jog3r.space.model import BUNDLED_STEPS, TRACK_SIDE
from jog3r.space.server import Page, Space, guard, open_space

gc.enable()

_GENERATE, _COMPARE = "Text to video", "Compare"  # names of tabs


def _settings(page: gr.Blocks, space: Space, tab: str, prompt: gr.Textbox, frames: bool = False) -> list[gr.components.Component]:
    """Seed, steps, guidance and, if wanted, frames, and a button that copies a link which opens this tab with all of them.

    Returns:
        The prompt and these.
    """
    limits, model = space.limits, space.model
    with gr.Row():
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**31 - 1, info="same seed, same clip", min_width=120)
        dice, link = (gr.Button(text, size="sm", min_width=90, elem_classes="dice") for text in ("New seed", "Copy link"))
    with gr.Accordion("Settings", open=False):
        usual = BUNDLED_STEPS if space.is_bundled else 30
        steps = gr.Slider(limits.min_steps, limits.max_steps, usual, step=1, label="Steps", info="more take longer")
        info = "how closely to follow the prompt; 1 is off"
        values = [prompt, seed, steps, gr.Slider(1, limits.max_guidance, 2.5, step=0.1, label="Guidance", info=info)]
        if frames:
            most, apart = model.max_frames, model.frame_step
            least = min(model.least_frames(limits.min_frames), most - apart)
            values.append(gr.Slider(least, most, most, step=apart, label="Frames"))
    dice.click(None, None, seed, js="() => Math.floor(Math.random() * 2147483647)", api_visibility="private")
    link.click(None, values, None, js=f"(...values) => jog3r.copy({tab!r}, ...values)", api_visibility="private")
    page.load(None, values, values, js=f"(...values) => jog3r.linked({tab!r}, values)", api_visibility="private")
    return values


def _buttons(name: str) -> tuple[gr.Button, gr.Button, gr.HTML]:
    """What starts and stops a request, and the line that tells of it."""
    with gr.Row():
        start, stop = gr.Button(name, variant="primary"), gr.Button("Stop", variant="stop", min_width=80, scale=0)
    return start, stop, gr.HTML(IDLE, label="Status", elem_classes="status")


def _player(value: str = NO_PLAYER) -> gr.HTML:
    return gr.HTML(value, label="Video, points, cameras and depth", elem_classes="viewer")


def _downloads(value: list[str] | None = None) -> gr.Files:
    return gr.Files(value, label="Downloads", interactive=False, elem_classes=["downloads", "shown"])


def _code(value: str | None = None) -> gr.Code:
    with gr.Accordion("Code that reproduces this", open=False):
        return gr.Code(value, language="python", label="Python", interactive=False, elem_classes="code")


def _picture(label: str, alt_text: str, value: str | None = None) -> gr.Image:
    return gr.Image(
        value,
        label=label,
        alt_text=alt_text,
        type="filepath",
        format="png",
        interactive=False,
        min_width=300,
        buttons=["download", "fullscreen"],
        elem_classes=["picture", "shown"],
    )


def _results(first: Example | None = None, below_player: Callable[[], Any] | None = None) -> list[gr.components.Component]:
    """What shows a result, in the order of the callbacks' outputs after the status.

    Args:
        first: What it shows at first.
        below_player: Makes what stands below the player.
    """
    video, view, path, data, files, code = first or (None, NO_PLAYER, None, None, None, None)
    hidden = gr.Video(video, label="Video", visible=False)  # what plays it is below; for programs, and for what takes it over
    player = _player(view)
    if below_player:
        below_player()
    picture = _picture("Camera path", "The path of the cameras from above and from the side", path)
    numbers = gr.JSON(data, label="The result in numbers", visible=False)  # for programs
    return [hidden, player, picture, numbers, _downloads(files), _code(code)]


def _for_space(function: Callable[..., Updates], space: Space) -> Callable[..., Updates]:
    """`function` of this Space under its own name and documentation, from which Gradio makes those of the endpoint."""
    bound = partial(function, space)
    bound.__name__, bound.__doc__ = function.__name__, function.__doc__
    return bound


def _connect(
    start: Callable[..., Any],
    stop: gr.Button,
    function: Callable[..., Updates],
    inputs: list[Any],
    outputs: list[Any],
    visibility: str = "public",
) -> None:
    """Run `function` by one event and end it by a button."""
    event = start(
        function,
        inputs,
        outputs,
        api_name=function.__name__,
        api_visibility=visibility,
        concurrency_id="model",
        concurrency_limit=1,
        show_progress="minimal",
        show_progress_on=outputs[0],
    )
    # Stopped or failed, and the server has said so: cleared any earlier, the last step on its way would show again.
    event.failure(lambda: finished(NOT_DONE), None, outputs[0], queue=False, api_visibility="private")
    stop.click(None, None, None, cancels=[event], api_visibility="private")


def _generate_tab(page: gr.Blocks, space: Space) -> tuple[gr.Button, gr.Video]:
    """Returns the button that hands the video over, and the video."""
    hand_over = gr.Button("Find its cameras", size="md", render=False)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            prompt = gr.Textbox(
                EXAMPLE_PROMPTS[0],
                label="Prompt",
                info=PROMPT_HINT if space.is_bundled else None,
                lines=3,
                max_length=space.limits.prompt_characters,
            )
            if space.is_bundled:
                most = space.model.pipe.transformer.config.max_caption_length
                gr.HTML(prompt_help(PROMPT_WORDS, PROMPT_PATTERN, most), label="Words")
                judge = "text => document.querySelector('prompt-help')?.judge?.(text)"
                gr.on([prompt.change, page.load], None, prompt, None, js=judge, api_visibility="private")
            gr.Examples(
                [[text] for text in EXAMPLE_PROMPTS],
                [prompt],
                label="Examples",
                example_labels=list(EXAMPLE_LABELS),
                api_visibility="private",
            )
            wish = _settings(page, space, _GENERATE, prompt, frames=True)
            start, stop, status = _buttons("Generate")
        with gr.Column(scale=3, min_width=300):
            shown = _results(serve_example(space.folder) if space.is_bundled else None, hand_over.render)
    _connect(start.click, stop, _for_space(generate, space), wish, [status, *shown])
    return hand_over, shown[0]


def _reconstruct_tab(space: Space) -> tuple[gr.Video, Callable[[Callable[..., Any]], None]]:
    """Returns the video that is given, and what runs the search for its cameras at a further event."""
    limits = space.limits
    gr.HTML(banner(limits_note(space.is_bundled)))
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            video = gr.Video(
                label=f"Your video: at most {limits.upload_seconds:.0f} s and {limits.upload_bytes // 2**20} MB",
                sources=["upload", "webcam"],
                include_audio=True,  # else Gradio converts every upload
                webcam_options=gr.WebcamOptions(mirror=False),  # a mirrored room has mirrored cameras
                elem_classes="given",
            )
            with gr.Row():
                for name in EXAMPLE_CLIPS:
                    gr.Button(f"Example: {name}", size="sm", min_width=130).click(
                        partial(example_clip, space, name),
                        None,
                        video,
                        concurrency_id="examples",
                        concurrency_limit=1,
                        api_visibility="private",
                    )
            usual, most = space.model.max_frames, space.model.max_video_frames
            crop = f"taken evenly over the clip, its centre cropped {'to fit' if space.model.is_other else 'square'}"
            least, apart = space.model.least_frames(2), space.model.frame_step
            frames = gr.Slider(least, most, usual, step=apart, label="Frames", info=crop)
            method = gr.Radio(
                list(METHODS.items()),
                value="auto",
                label="Cameras from",
                info=f"tracks need a video with at least {TRACK_SIDE} pixels a side",
                visible=space.model.can_track,
            )
            start, stop, status = _buttons("Find the cameras")
        with gr.Column(scale=3, min_width=300):
            shown = _results()
            matches = _picture("First to last frame", "Lines between pixels of the first and last frame with the same 3D point")
            table = gr.HTML(label="Poses", elem_classes="shown")
    find, asked, told = _for_space(reconstruct, space), [video, frames, method], [status, *shown, matches, table]
    _connect(start.click, stop, find, asked, told)
    return video, lambda event: _connect(event, stop, find, asked, told, "private")


def _compare_tab(page: gr.Blocks, space: Space) -> None:
    gr.HTML(banner(compare_note(space.model.name, space.compare.name if space.compare else None)))
    with gr.Row():
        with gr.Column(scale=3, min_width=300):
            prompt = gr.Textbox(EXAMPLE_PROMPTS[1], label="Prompt", lines=2, max_length=space.limits.prompt_characters)
            start, stop, status = _buttons("Compare")
        with gr.Column(scale=2, min_width=300):
            wish = _settings(page, space, _COMPARE, prompt)
    shown = [_player('<div class="empty">Both videos and their depth appear here.</div>'), _downloads()]
    alt_text = "Frames, the same carried to frame 1, and the difference there"
    with gr.Row():
        maps = [_picture(f"Consistency, {side}", alt_text) for side in ("left", "right")]
    _connect(start.click, stop, _for_space(compare, space), wish, [status, *shown, *maps, _code()])


def build(space: Space) -> gr.Blocks:
    """The page."""
    with Page(title="JOG3R", analytics_enabled=False, delete_cache=(60, space.limits.keep_seconds)) as page:
        makes_videos = space.model.makes_videos
        gr.Markdown(introduction(space.model.name, makes_videos))
        opening = None if makes_videos else CAMERAS_TAB
        with gr.Tabs(selected=opening, overflow_behavior="wrap") as tabs:  # else Gradio hides what it thinks does not fit
            with gr.Tab(_GENERATE):
                generated = _generate_tab(page, space) if makes_videos else gr.HTML(banner(NO_VIDEOS))
            with gr.Tab("Video to cameras", id=CAMERAS_TAB):
                given, find = _reconstruct_tab(space)
            with gr.Tab(_COMPARE):
                _compare_tab(page, space) if makes_videos else gr.HTML(banner(NO_VIDEOS))
            with gr.Tab("About"):
                gr.Markdown(ABOUT)
        if isinstance(generated, tuple):
            hand_over, clip = generated
            handed = hand_over.click(take_over, clip, [given, tabs], queue=False, api_visibility="private")
            handed.success(None, None, None, js="() => window.scrollTo({ top: 0 })", api_visibility="private")
            find(handed.success)
    return page.queue(max_size=space.limits.waiting, api_open=False)  # no computation passes by the queue


def launch(space: Space, host: str | None = None, port: int | None = None, block: bool = True) -> gr.Blocks:
    """Serve the page; returns it when `block` is False."""
    page = build(space)
    page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=not block,
        max_file_size=space.limits.upload_bytes,
        state_session_capacity=SESSIONS,
        app_kwargs={"middleware": [guard(page, space, host)]},
        theme=theme(),
        css=CSS,
        head=HEAD,
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        footer_links=["api"],  # not Gradio's settings: they offer to record the screen, whose address the gate keeps closed
    )
    return page


def main(model: str | None = None, compare: str | None = None, host: str | None = None, port: int | None = None) -> None:
    """Serve the page until interrupted or terminated."""
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)) if in_main else None  # or people's files would stay
    bundled = tiny_checkpoint()
    model = model or os.environ.get("JOG3R_MODEL") or bundled
    space = open_space(
        model,
        compare or os.environ.get("JOG3R_COMPARE_MODEL"),
        bundled=bundled,
        limits=SpaceLimits(request_seconds=_request_seconds(os.environ.get("JOG3R_REQUEST_SECONDS"))),
        dtype=os.environ.get("JOG3R_DTYPE") or "float32",
    )
    try:
        launch(space, host, port)
    finally:
        stop_running()
        space.folder.close()
        if in_main:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _request_seconds(text: str | None) -> float:
    if text and (not re.fullmatch(r"\d+(\.\d+)?", text) or float(text) == 0):
        raise ValueError(f"JOG3R_REQUEST_SECONDS must be a number above 0, got {text!r}")
    return float(text or SpaceLimits.request_seconds)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(f"python spaces_app.py takes no options, got {' '.join(sys.argv[1:])}; jog3r serve does")
    main()
