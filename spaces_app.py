"""The Gradio Space: text to video with cameras, video to cameras, and two checkpoints side by side. Layout and callbacks only.

python spaces_app.py [--model FOLDER] [--compare FOLDER] [--host ADDRESS] [--port NUMBER]

JOG3R_MODEL and JOG3R_COMPARE_MODEL name the models where the options do not; JOG3R_DTYPE is their precision (float32, bfloat16 or
float16), JOG3R_REQUEST_SECONDS the time that a request may compute.
"""

import argparse
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from jog3r import tiny_checkpoint
from jog3r.space.clips import EXAMPLE_CLIPS, EXAMPLE_PROMPTS, write_example
from jog3r.space.example import serve_example
from jog3r.space.guard.leftovers import SESSIONS
from jog3r.space.guard.limits import GenerateSettings, Refused, SpaceLimits, check_whole
from jog3r.space.guard.uploads import decode_upload
from jog3r.space.jobs import Done, Failed, Step, stop_running
from jog3r.space.look.html_pieces import (
    IDLE,
    NO_POINTS,
    banner,
    compare_code,
    cut_note,
    finished,
    frames_taken,
    generate_code,
    point_view,
    pose_table,
    progress,
    reconstruct_code,
    summary,
)
from jog3r.space.look.plain_errors import Page
from jog3r.space.look.style import CSS, HEAD, theme
from jog3r.space.look.texts import ABOUT, INTRODUCTION, NO_VIDEOS, PROMPT_HINT, TINY_WORDS, compare_note, limits_note
from jog3r.space.model import BUNDLED_STEPS, GENERATED_FPS, find_cameras, generate_video
from jog3r.space.results import write_clip, write_colmap, write_consistency, write_correspondences, write_scene_files
from jog3r.space.server import Space, follow, guard, one_sentence, open_space
from jog3r.space.tracks import TRACK_SIDE, can_track

Updates = Iterator[tuple[Any, ...]]
_CAMERAS_TAB = "cameras"


# Callbacks: each yields updates of its outputs, the progress first


def generate(space: Space, prompt: str, seed: float, steps: float, guidance: float, frames: float) -> Updates:
    """Text to video with 3D points and cameras.

    Args:
        prompt: A scene, and how the camera moves through it.
        seed: Whole number; the same one gives the same clip.
        steps: Sampling steps; more take longer.
        guidance: How closely to follow the prompt; 1 is off.
        frames: Length of the clip.

    Returns:
        status, video (mp4), 3D view (HTML), camera path (PNG), depth and confidence (PNG), files, Python that reproduces it
    """
    with one_sentence("generate"):
        begin = time.monotonic()
        settings = GenerateSettings.checked(space.limits, space.model.max_frames, prompt, seed, steps, guidance, frames)
        yield _starting(7)
        events = generate_video(space.model.path, settings, True, space.limits.request_seconds)
        result = yield from follow(events, 7)
        yield _writing(7)
        with space.folder.request() as folder:
            files = write_scene_files(result.scene, folder)
            code = generate_code(_public_path(space), settings, space.model.dtype, space.model.names)
            cut = cut_note([space.model.part_read(settings.prompt)])
            cloud = point_view(space.folder.serve(Path(files.cloud)), result)
            shown = (files.video, cloud, files.path_picture, files.strips)
            seconds = time.monotonic() - begin
            yield summary(result, seconds, cut), *shown, files.downloads, code  # the files for COLMAP need not be waited for
            colmap, note = write_colmap(result.scene, folder)
            yield summary(result, seconds, cut, note), *shown, files.downloads + colmap, code


def reconstruct(space: Space, video: str | None, frames: float) -> Updates:
    """Video to 3D points and cameras.

    Args:
        video: Of a static scene.
        frames: How many frames to take, evenly over the clip.

    Returns:
        as generate, then matches between the first and the last frame (PNG), table of poses (HTML)
    """
    with one_sentence("reconstruct"), space.folder.request() as folder:
        if not video:
            raise Refused("Give a video first: upload one, record one, or take an example.")
        if not Path(video).is_file():  # the page was open for longer than files are kept
            raise Refused("The upload has expired; give the video again.")
        begin = time.monotonic()
        count = check_whole("The number of frames", frames, 2, space.model.max_video_frames)
        size = space.model.frame_size
        yield _starting(9)
        large = TRACK_SIDE if can_track() and space.model.size < TRACK_SIDE else 0
        upload = yield from follow(decode_upload(Path(video), count, size, space.limits, folder, large), 9)
        events = find_cameras(space.model.path, upload.frames, upload.fps, space.limits.request_seconds, upload.times)
        result = yield from follow(events, 9)
        yield _writing(9)
        files = write_scene_files(result.scene, folder)
        matches = write_correspondences(result.scene, folder)
        side = upload.frames.shape[1]
        model = space.model
        code = reconstruct_code(_public_path(space), upload.numbers, model.frame_size, model.dtype, side, names=model.names)
        cloud = point_view(space.folder.serve(Path(files.cloud)), result)
        shown = (files.video, cloud, files.path_picture, files.strips)
        rest = (code, matches, pose_table(result))
        taken, seconds = f"{frames_taken(upload.numbers)} {result.source}".strip(), time.monotonic() - begin
        yield summary(result, seconds, taken), *shown, files.downloads, *rest
        colmap, note = write_colmap(result.scene, folder)
        yield summary(result, seconds, taken, note), *shown, files.downloads + colmap, *rest


def compare(space: Space, prompt: str, seed: float, steps: float, guidance: float) -> Updates:
    """The same prompt on two models, or with two seeds of one.

    Args:
        prompt: A scene, and how the camera moves through it.
        seed: Whole number.
        steps: Sampling steps.
        guidance: How closely to follow the prompt; 1 is off.

    Returns:
        status, two videos (mp4), two maps of where a video contradicts its own geometry (PNG), Python that reproduces it
    """
    with one_sentence("compare"), space.folder.request() as folder:
        models = (space.model, space.compare or space.model)
        frames = min(model.max_frames for model in models)
        settings = GenerateSettings.checked(space.limits, frames, prompt, seed, steps, guidance, frames)
        seeds = (settings.seed, settings.seed if space.compare else (settings.seed + 1) % 2**31)
        end = time.monotonic() + space.limits.request_seconds  # of all that the request computes
        shown: list[Any] = [None] * 4  # two videos, two maps; those of an earlier comparison go
        differences = []
        for number, (side, model) in enumerate(zip(("left", "right"), models, strict=True)):
            begin = number / 2  # of the whole bar
            yield progress(Step(f"{side}: starting", begin)), *shown, ""
            wish = replace(settings, seed=seeds[number])
            events = generate_video(model.path, wish, False, end - time.monotonic())
            clip = yield from follow(_part(events, side, begin, 0.4), 6)
            events = find_cameras(space.model.path, clip, GENERATED_FPS, end - time.monotonic())
            result = yield from follow(_part(events, side, begin + 0.4, 0.1), 6)
            yield _writing(6, f"{side}: writing the files", begin + 0.5)
            picture, maps = write_consistency(result.scene, folder, f"consistency_{side}")
            shown[number], shown[number + 2] = write_clip(clip, GENERATED_FPS, folder, f"video_{side}"), picture
            differences.append(f"{side} {maps.mean:.1f} over {maps.seen.mean():.0%} of the pixels")
        paths = (_public_path(space), space.compare.path if space.compare else _public_path(space))
        names = (models[0].names, models[1].names)
        code = compare_code(paths, seeds, settings, GENERATED_FPS, space.model.dtype, names)
        done = f"Done. Mean difference to frame 1, of 255: {', '.join(differences)}."
        cut = cut_note([model.part_read(settings.prompt) for model in models])
        yield finished(f"{done} {cut}".strip()), *shown, code


def example_clip(space: Space, name: str) -> Iterator[str]:
    """A rendered example clip (mp4)."""
    with one_sentence("example_clip"), space.folder.request() as folder:
        yield write_example(name, space.model.size, folder)


def example_result(space: Space) -> tuple[Any, ...]:
    """A result to look at before there is one."""
    with one_sentence("example_result"):
        return tuple(serve_example(space.folder))


def take_over(video: str | None) -> tuple[str, gr.Tabs]:
    """The video of one tab as that of the other, and that tab."""
    with one_sentence("take_over"):
        if not video or not Path(video).is_file():
            raise Refused("The video has expired; generate it again." if video else "Generate a video first.")
        return video, gr.Tabs(selected=_CAMERAS_TAB)


def _public_path(space: Space) -> str:
    return "" if space.is_bundled else space.model.path


def _starting(outputs: int) -> tuple[Any, ...]:
    """The first update. It comes before any work: Gradio knows whom to close at a stop only after a first update."""
    return (progress(Step("starting", 0.0)), *(gr.skip(),) * (outputs - 1))


def _writing(outputs: int, stage: str = "writing the files", share: float = 1.0) -> tuple[Any, ...]:
    """An update that says that the computation is over; a request that was stopped ends here."""
    return (progress(Step(stage, share)), *(gr.skip(),) * (outputs - 1))


def _part(
    events: Generator[Step | Done | Failed | None, None, None], side: str, begin: float, length: float
) -> Generator[Step | Done | Failed | None, None, None]:
    """The events of a job that is a part of a request: its steps say which, and their shares are of the whole."""
    with closing(events):
        for event in events:
            is_step = isinstance(event, Step)
            yield replace(event, stage=f"{side}: {event.stage}", share=begin + length * event.share) if is_step else event


# Layout


def _settings(space: Space) -> list[gr.components.Component]:
    """Seed, steps and guidance."""
    limits = space.limits
    with gr.Row():
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**31 - 1, info="same seed, same clip", min_width=120)
        dice = gr.Button("New seed", size="sm", min_width=90, elem_classes="dice")
    usual = BUNDLED_STEPS if space.is_bundled else 30
    steps = gr.Slider(limits.min_steps, limits.max_steps, usual, step=1, label="Steps", info="more take longer")
    guidance = gr.Slider(
        1, limits.max_guidance, 2.5, step=0.1, label="Guidance", info="how closely to follow the prompt; 1 is off"
    )
    dice.click(None, None, seed, js="() => Math.floor(Math.random() * 2147483647)", api_visibility="private")
    return [seed, steps, guidance]


def _buttons(name: str) -> tuple[gr.Button, gr.Button]:
    with gr.Row():
        return gr.Button(name, variant="primary"), gr.Button("Stop", variant="stop", min_width=80, scale=0)


def _results(below_video: Callable[[], Any] | None = None) -> list[gr.components.Component]:
    """What shows a result, in the order of the callbacks' outputs after the status.

    Args:
        below_video: Makes what stands below the video.
    """
    with gr.Row():
        with gr.Column(min_width=280):  # below each other on a telephone
            video = gr.Video(
                label="Video",
                autoplay=True,
                loop=True,
                height=350 if below_video else 400,
                interactive=False,
                buttons=["download"],
                include_audio=True,  # else Gradio would convert it to hand it over
            )
            if below_video:
                below_video()
        with gr.Column(min_width=280):
            cloud = gr.HTML(NO_POINTS, label="Points and cameras", elem_classes="viewer")
    path = _picture("Camera path", "The cameras in their scene, and their path from above and from the side")
    strips = _picture("Depth and confidence", "Frames of the clip above their depth and their confidence")
    files = gr.Files(label="Downloads", interactive=False, elem_classes="downloads")
    return [video, cloud, path, strips, files, _code()]


def _code() -> gr.Code:
    with gr.Accordion("Code that reproduces this", open=False):
        return gr.Code(language="python", label="Python", interactive=False, elem_classes="code")


def _picture(label: str, alt_text: str) -> gr.Image:
    return gr.Image(
        label=label,
        alt_text=alt_text,
        type="filepath",
        format="png",
        interactive=False,
        buttons=["download", "fullscreen"],
        elem_classes="picture",
    )


def _for_space(function: Callable[..., Updates], space: Space) -> Callable[..., Updates]:
    """`function` of this Space under its own name and documentation, from which Gradio makes those of the endpoint."""
    bound = partial(function, space)
    bound.__name__, bound.__doc__ = function.__name__, function.__doc__
    return bound


def _connect(start: gr.Button, stop: gr.Button, function: Callable[..., Updates], inputs: list[Any], outputs: list[Any]) -> Any:
    """Run `function` by one button and end it by the other; returns the event."""
    event = start.click(
        function,
        inputs,
        outputs,
        api_name=function.__name__,
        concurrency_id="model",
        concurrency_limit=1,
        show_progress="minimal",
        show_progress_on=outputs[0],
    )
    # Stopped or failed, and the server has said so: cleared any earlier, the last step on its way would show again.
    event.failure(lambda: IDLE, None, outputs[0], queue=False, api_visibility="private")
    stop.click(None, None, None, cancels=[event], api_visibility="private")
    return event


def _generate_tab(space: Space) -> tuple[gr.Button, gr.Video]:
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
            gr.Examples([[text] for text in EXAMPLE_PROMPTS], [prompt], label="Examples", api_visibility="private")
            if space.is_bundled:
                with gr.Accordion("What the tiny model understands", open=False):
                    gr.Markdown(TINY_WORDS)
            with gr.Accordion("Settings", open=False):
                settings = _settings(space)
                most, apart = space.model.max_frames, space.model.frame_step
                least = min(space.model.least_frames(space.limits.min_frames), most - apart)
                frames = gr.Slider(least, most, most, step=apart, label="Frames")
            start, stop = _buttons("Generate")
            status = gr.HTML(IDLE, label="Status", elem_classes="status")
            note = gr.HTML(label="Example")
        with gr.Column(scale=3, min_width=300):
            shown = _results(hand_over.render)
    event = _connect(start, stop, _for_space(generate, space), [prompt, *settings, frames], [status, *shown])
    if space.is_bundled:
        opening: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        gr.on(fn=partial(example_result, space), outputs=[note, *shown], **opening)  # without a trigger: when the page opens
        event.success(None, None, note, js="() => ''", api_visibility="private")  # a result is there, the example is not
    return hand_over, shown[0]


def _reconstruct_tab(space: Space) -> gr.Video:
    """Returns the video that is given."""
    limits = space.limits
    gr.HTML(banner(limits_note(space.is_bundled)))
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            video = gr.Video(
                label=f"Your video: at most {limits.upload_seconds:.0f} s and {limits.upload_bytes // 2**20} MB",
                sources=["upload", "webcam"],
                include_audio=True,  # else Gradio converts every upload
                webcam_options=gr.WebcamOptions(mirror=False),  # a mirrored room has mirrored cameras
                height=330,
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
            crop = "taken evenly over the clip, its centre cropped " + (
                "to the model's shape" if space.model.is_other else "square"
            )
            least, apart = space.model.least_frames(2), space.model.frame_step
            frames = gr.Slider(least, most, usual, step=apart, label="Frames", info=crop)
            start, stop = _buttons("Find the cameras")
            status = gr.HTML(IDLE, label="Status", elem_classes="status")
        with gr.Column(scale=3, min_width=300):
            shown = _results()
            matches = _picture("First to last frame", "Lines between pixels of the first and last frame with the same 3D point")
            table = gr.HTML(label="Poses")
    _connect(start, stop, _for_space(reconstruct, space), [video, frames], [status, *shown, matches, table])
    return video


def _compare_tab(space: Space) -> None:
    gr.HTML(banner(compare_note(space.model.name, space.compare.name if space.compare else None)))
    with gr.Row():
        with gr.Column(scale=3, min_width=300):
            prompt = gr.Textbox(EXAMPLE_PROMPTS[1], label="Prompt", lines=2, max_length=space.limits.prompt_characters)
            start, stop = _buttons("Compare")
            status = gr.HTML(IDLE, label="Status", elem_classes="status")
        with gr.Column(scale=2, min_width=300):
            settings = _settings(space)
    names = (space.model.name, space.compare.name) if space.compare else ("first seed", "next seed")
    videos, maps = [], []
    with gr.Row():
        for name in names:
            with gr.Column(min_width=300):
                videos.append(gr.Video(label=name, autoplay=True, loop=True, height=300, interactive=False))
                maps.append(_picture(f"Consistency, {name}", "Frames, the same carried to frame 1, and the difference there"))
    _connect(start, stop, _for_space(compare, space), [prompt, *settings], [status, *videos, *maps, _code()])


def _no_videos() -> None:
    """What stands where a model that makes videos is asked for them."""
    gr.HTML(banner(NO_VIDEOS))


def build(space: Space) -> gr.Blocks:
    """The page."""
    with Page(title="JOG3R", analytics_enabled=False, delete_cache=(60, space.limits.keep_seconds)) as page:
        gr.Markdown(INTRODUCTION)
        makes_videos = space.model.makes_videos
        opening = None if makes_videos else _CAMERAS_TAB
        with gr.Tabs(
            selected=opening, overflow_behavior="wrap"
        ) as tabs:  # else Gradio hides in a menu what it thinks does not fit
            with gr.Tab("Text to video"):
                generated = _generate_tab(space) if makes_videos else _no_videos()
            with gr.Tab("Video to cameras", id=_CAMERAS_TAB):
                given = _reconstruct_tab(space)
            with gr.Tab("Compare"):
                if makes_videos:
                    _compare_tab(space)
                else:
                    _no_videos()
            with gr.Tab("About"):
                gr.Markdown(ABOUT)
        if generated is not None:
            hand_over, clip = generated
            handed = hand_over.click(take_over, clip, [given, tabs], queue=False, api_visibility="private")
            handed.success(None, None, None, js="() => window.scrollTo({ top: 0 })", api_visibility="private")
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
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # or people's files would stay
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


def _request_seconds(text: str | None) -> float:
    if not text:
        return SpaceLimits.request_seconds
    if not re.fullmatch(r"\d+(\.\d+)?", text) or float(text) == 0:
        raise ValueError(f"JOG3R_REQUEST_SECONDS must be a number above 0, got {text!r}")
    return float(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", default=None, help="folder or hub repository (default: JOG3R_MODEL, else the bundled tiny model)"
    )
    parser.add_argument(
        "--compare", default=None, help="second model of the comparison (default: JOG3R_COMPARE_MODEL, else none)"
    )
    parser.add_argument("--host", default=None, help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=None)
    main(**vars(parser.parse_args()))
