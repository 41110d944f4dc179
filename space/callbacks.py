"""The callbacks of the page: each yields updates of its outputs, the progress first."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from jog3r.export.formats.camera_files import cameras_json
from jog3r.export.player import Shown, pair_tag
from jog3r.space.example import write_example
from jog3r.space.guard.decode_upload import Wanted
from jog3r.space.guard.limits import GenerateSettings, Refused, check_whole
from jog3r.space.guard.uploads import decode_upload
from jog3r.space.jobs import Step
from jog3r.space.look.html_pieces import (
    compare_code,
    cut_note,
    finished,
    frames_taken,
    generate_code,
    pose_table,
    progress,
    reconstruct_code,
    result_caption,
    summary,
)
from jog3r.space.model import TRACK_SIDE, Result, find_cameras, generate_video
from jog3r.space.path_agreement import compared_paths, keep_path, kept_path
from jog3r.space.results import (
    DOWNLOADS,
    numbers,
    write_archives,
    write_clip,
    write_consistency,
    write_correspondences,
    write_player,
    write_scene_files,
)
from jog3r.space.server import Space, follow, one_sentence

Updates = Iterator[tuple[Any, ...]]
CAMERAS_TAB = "cameras"
_SIDES = ("left", "right")
METHODS = {"the better one": "auto", "network": "network", "tracks": "tracks"}


def generate(space: Space, prompt: str, seed: float, steps: float, guidance: float, frames: float) -> Updates:
    """Text to video with 3D points and cameras.

    Args:
        prompt: A scene, and how the camera moves through it.
        seed: Whole number; the same one gives the same clip.
        steps: Sampling steps; more take longer.
        guidance: How closely to follow the prompt; 1 is off.
        frames: Length of the clip.

    Returns:
        status (HTML), video (mp4), player of the result (HTML), camera path (PNG), the result in numbers (JSON: status, poses,
        intrinsics, doubtful frames), files, Python that reproduces it
    """
    with one_sentence("generate"):
        begin = time.monotonic()
        settings = GenerateSettings.checked(space.limits, space.model.max_frames, prompt, seed, steps, guidance, frames)
        yield _step(7, "starting", 0.0)
        events = generate_video(space.model.path, settings, True, space.limits.request_seconds)
        result = yield from follow(events, 7)
        yield _step(7)
        code = generate_code(_public_path(space), settings, space.model.dtype, space.model.names)
        cut = cut_note([space.model.part_read(settings.prompt)])
        with space.folder.request() as folder:
            yield from _shown(space, result, folder, begin, cut, code, result_caption(settings))


def reconstruct(space: Space, video: str | None, frames: float, method: str = "auto") -> Updates:
    """Video to 3D points and cameras.

    Args:
        video: Of a static scene.
        frames: How many frames to take, evenly over the clip.
        method: Where cameras come from: "network", "tracks" (where these are installed), or "auto" for the better one.

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
        yield _step(9, "starting", 0.0)
        tracks = space.model.can_track
        if method not in METHODS.values() or (method == "tracks" and not tracks):
            raise Refused(
                "Cameras come from auto or network" + (", or tracks." if tracks else "; tracks are not installed here.")
            )
        large = TRACK_SIDE if tracks and method != "network" else 0
        wanted = Wanted(count, size, large, space.model.frame_step)
        upload = yield from follow(decode_upload(Path(video), wanted, space.limits, folder), 9)
        events = find_cameras(space.model.path, upload.frames, upload.fps, space.limits.request_seconds, upload.times, method)
        result = yield from follow(events, 9)
        yield _step(9)
        model, side = space.model, upload.frames.shape[1]
        code = reconstruct_code(_public_path(space), upload.numbers, model.frame_size, model.dtype, side, names=model.names)
        taken = f"{frames_taken(upload.numbers)} {result.source}".strip()
        made, compared = kept_path(video, upload.numbers, space.folder), None
        if made is not None:
            moved, words = compared_paths(result.scene.poses, made, result.scene.pose_known)
            taken, compared = f"{taken} {words}", ("the path that it was generated with", moved)
        rest = (write_correspondences(result.scene, folder), pose_table(result))
        caption = f"Cameras of {len(upload.numbers)} frames of {Path(video).name}"
        yield from _shown(space, result, folder, begin, taken, code, caption, rest, compared)


def _shown(  # noqa: PLR0913  # what a result is made of
    space: Space,
    result: Result,
    folder: Path,
    begin: float,
    note: str,
    code: str,
    caption: str,
    rest: tuple[Any, ...] = (),
    compared: tuple[str, np.ndarray] | None = None,
) -> Updates:
    """A finished result; then once more with the files that need not be waited for."""
    files = write_scene_files(result.scene, folder)
    video, cloud, path_picture = (files[name] for name in ("video.mp4", "pointcloud.glb", "trajectory.png"))
    player = write_player(result.scene, cloud, space.folder, caption, compared)
    if result.scene.caption:
        keep_path(video, cameras_json(result.scene), space.folder)
    seconds, downloads = time.monotonic() - begin, [files[name] for name in DOWNLOADS]

    words = summary(result, seconds, note)

    def update(downloads: list[str], later: str, heard: str) -> tuple[Any, ...]:
        text = f"{words} {later}".strip()
        return finished(text, heard), video, player, path_picture, numbers(result, text), downloads, code, *rest

    yield update(downloads, "The zips are being packed; the next request starts when they are done.", words)
    more, lacking = write_archives(result.scene, folder, downloads)
    yield update(downloads + more, lacking, lacking or words)


def compare(space: Space, prompt: str, seed: float, steps: float, guidance: float) -> Updates:
    """The same prompt on two models, or with two seeds of one.

    Args:
        prompt: A scene, and how the camera moves through it.
        seed: Whole number.
        steps: Sampling steps.
        guidance: How closely to follow the prompt; 1 is off.

    Returns:
        status, player of both videos (HTML), the two videos (mp4), two maps of where a video contradicts its own geometry (PNG),
        Python that reproduces it
    """
    with one_sentence("compare"), space.folder.request() as folder:
        models = (space.model, space.compare or space.model)
        most, step = min(model.max_frames for model in models), max(model.frame_step for model in models)  # of 1, 4 or 8
        frames, fps = most - (most - 1) % step, float(space.model.pipe.fps)
        settings = GenerateSettings.checked(space.limits, frames, prompt, seed, steps, guidance, frames)
        seeds = (settings.seed, settings.seed if space.compare else (settings.seed + 1) % 2**31)
        end = time.monotonic() + space.limits.request_seconds  # of all that the request computes
        files: dict[str, str] = {}  # of the player
        videos: list[str] = []
        pictures: list[str | None] = [None, None]

        def shown() -> tuple[Any, ...]:  # what is of an earlier comparison goes
            caption = f'"{settings.prompt}", {settings.steps} steps, guidance {settings.guidance:g}'
            names = [f"{side}: {model.name}, seed {one}" for side, model, one in zip(_SIDES, models, seeds, strict=True)]
            player = pair_tag((names[0], names[1]), np.arange(frames) / fps, files, caption=caption)
            return player, list(videos), *pictures

        differences = []
        for number, (side, model) in enumerate(zip(_SIDES, models, strict=True)):
            begin = number / 2  # of the whole bar
            yield progress(Step(f"{side}: starting", begin)), *shown(), ""
            events = generate_video(model.path, replace(settings, seed=seeds[number]), False, end - time.monotonic())
            clip = yield from follow(events, 6, side, begin, 0.4)
            events = find_cameras(space.model.path, clip, fps, end - time.monotonic(), method="network")
            scene = (yield from follow(events, 6, side, begin + 0.4, 0.1)).scene
            yield _step(6, f"{side}: writing the files", begin + 0.5)
            pictures[number], maps = write_consistency(scene, folder, f"consistency_{side}")
            videos.append(write_clip(clip, float(model.pipe.fps), folder, f"video_{side}"))
            sheets = Shown.of_scene(scene, points=False).sheets().items()
            files |= space.folder.serve({name.replace(".", "2." if number else "."): sheet for name, sheet in sheets})
            seen = f"{maps.mean:.1f} over {maps.seen.mean():.0%} of the pixels"
            differences.append(f"{side} {seen if maps.seen.any() else 'none, since no frame sees what frame 1 sees'}")
        paths = (_public_path(space), space.compare.path if space.compare else _public_path(space))
        code = compare_code(paths, seeds, settings, space.model.dtype, (models[0].names, models[1].names))
        done = f"Done. Mean difference to frame 1, of 255: {', '.join(differences)}."
        cut = cut_note([model.part_read(settings.prompt) for model in models])
        yield finished(f"{done} {cut}".strip()), *shown(), code


def example_clip(space: Space, name: str) -> Iterator[str]:
    """A rendered example clip (mp4)."""
    with one_sentence("example_clip"), space.folder.request() as folder:
        yield write_example(name, space.model.size, folder)


def take_over(video: str | None) -> tuple[str, gr.Tabs]:
    """The video of one tab as that of the other, and that tab."""
    with one_sentence("take_over"):
        if not video or not Path(video).is_file():
            raise Refused("The video has expired; generate it again." if video else "Generate a video first.")
        return video, gr.Tabs(selected=CAMERAS_TAB)


def _public_path(space: Space) -> str:
    return "" if space.is_bundled else space.model.path


def _step(outputs: int, stage: str = "writing the files", share: float = 1.0) -> tuple[Any, ...]:
    """An update of the progress alone.

    The first comes before any work: Gradio knows whom to close at a stop only after a first update. One stands between the
    computation and the writing of its files: a request that was stopped ends here.
    """
    return (progress(Step(stage, share)), *(gr.skip(),) * (outputs - 1))
