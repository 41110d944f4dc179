"""Small pieces of HTML and code; everything that comes from outside is escaped here."""

import base64
import json
import math
import os
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import torch

from jog3r.geometry.cameras import rotation_angle_deg
from jog3r.space.guard.limits import GenerateSettings
from jog3r.space.jobs import Step
from jog3r.space.model import Result

NO_PLAYER = '<div class="empty">Video, points, cameras and depth appear here.</div>'
# What `say` holds is heard by those who use a screen reader, each text once; see announce.js.
IDLE = '<job-status class="progress" say=""></job-status>'
NOT_DONE = "Not done; what is shown here, if anything, is not its result."
_SHOWN_CHARACTERS = 30  # of a prompt that was cut, before the cut
_LOCAL_MODEL = "path/to/your/model"
_OURS = "Jog3rPipeline, tiny_checkpoint"


def progress(step: Step, seconds_left: float | None = None) -> str:
    """A progress bar with its stage in words, the time left if it is known and, if there is one, the preview; see page.js."""
    percent = round(100 * step.share)
    preview = "" if step.preview is None else f' preview="data:image/jpeg;base64,{base64.b64encode(step.preview).decode()}"'
    left = "" if seconds_left is None else f", about {math.ceil(seconds_left)} s left"
    return (
        f'<job-status class="progress" running say="{"Started." if step.share < 0.5 else "Half done."}"{preview}>'
        f'<label>{escape(step.stage)}{left}<progress max="100" value="{percent}">{percent} %</progress></label></job-status>'
    )


def finished(text: str, say: str | None = None) -> str:
    """The end of a request in words.

    Args:
        text: Plain text.
        say: What those hear who use a screen reader; None is all of it.
    """
    return f'<job-status class="progress" say="{escape(text if say is None else say)}">{escape(text)}</job-status>'


def banner(text: str) -> str:
    """A notice; `text` is plain text."""
    return f'<div class="banner" role="note">{escape(text)}</div>'


def summary(result: Result, seconds: float, note: str = "") -> str:
    """One line on a result: frames, size, time, focal length, frames whose pose is doubtful and why, and notes.

    Args:
        result: Of the request.
        seconds: That it took.
        note: Shown behind all this.
    """
    scene = result.scene
    height, width = scene.size
    focal = float(np.median(scene.intrinsics[:, 0, 0]))
    angle = 2 * np.degrees(np.arctan(width / 2 / focal))
    doubtful = [reason for reason in scene.doubtful if reason]
    why = ", ".join(dict.fromkeys(doubtful))
    notes = [
        f"Done in {seconds:.1f} s: {scene.num_frames} frames of {width} x {height} pixels; "
        f"focal length {focal:.1f} px{scene.focal_deviation} ({angle:.0f} degrees of view).",
        f"{len(doubtful)} of them with a doubtful pose ({why})." if doubtful else "",
        note,
    ]
    return " ".join(filter(None, notes))


def cut_note(parts_read: list[str | None]) -> str:
    """What of a prompt was not read.

    Args:
        parts_read: For each model that read it the part that it read, None if that was all.
    """
    shortest = min((part for part in parts_read if part is not None), key=len, default=None)
    if shortest is None:
        return ""
    return f'The prompt is too long for the model, which read it up to "{shortest[-_SHOWN_CHARACTERS:]}"; the rest had no effect.'


def result_caption(settings: GenerateSettings, is_example: bool = False) -> str:
    """What a generated result was made from; plain text.

    Args:
        settings: Of the request.
        is_example: It is what a page shows at first.
    """
    before = "An example that this model made before, its points thinned out: " if is_example else ""
    numbers = f"seed {settings.seed}, {settings.steps} steps, guidance {settings.guidance:g}, {settings.frames} frames"
    return f'{before}"{settings.prompt}", {numbers}'


def prompt_help(words: Mapping[str, Sequence[str]], pattern: str, most: int) -> str:
    """Choices that make a prompt, and a line about words that the model does not know, and about its length; see page.js.

    Args:
        words: For each part of a prompt what may stand there; "known" are all words of captions.
        pattern: Of a prompt, with the parts in braces.
        most: Tokens that the model reads.
    """
    data = escape(json.dumps({**words, "pattern": pattern, "most": most}, separators=(",", ":")))
    return f'<prompt-help data="{data}"></prompt-help>'


def frames_taken(numbers: Sequence[int]) -> str:
    """Which frames of a video were looked at; they are counted from 0, in the text from 1."""
    return f"Looked at {len(numbers)} frames of the video, evenly from 1 to {numbers[-1] + 1}."


def pose_table(result: Result) -> str:
    """Every frame's camera as a table: position, rotation against frame 1, what makes it doubtful."""
    scene = result.scene
    angles = rotation_angle_deg(torch.from_numpy(scene.poses[:, :3, :3]))
    rows = []
    for index, (pose, angle, reason) in enumerate(zip(scene.poses, angles, scene.doubtful, strict=True)):
        x, y, z = pose[:3, 3]
        cells = "".join(f"<td>{value:.3f}</td>" for value in (x, y, z))
        rows.append(f'<tr><th scope="row">{index + 1}</th>{cells}<td>{float(angle):.2f}</td><td>{escape(reason)}</td></tr>')
    return (
        '<div class="poses"><table><caption>Camera of each frame, in the camera of frame 1 (x right, y down, z forward). '
        "Lengths have no unit: the points of frame 1 have a mean distance of 1.</caption>"
        '<thead><tr><th scope="col">frame</th><th scope="col">x</th><th scope="col">y</th><th scope="col">z</th>'
        '<th scope="col">turned by (deg)</th><th scope="col">doubtful because</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def generate_code(model: str, settings: GenerateSettings, dtype: str = "float32", names: str = _OURS) -> str:
    """Python that gives the same clip; the prompt goes in as a literal.

    Args:
        model: Folder or hub id; empty for the bundled checkpoint. A folder is not named.
        settings: Of the request.
        dtype: Of the model.
        names: What is imported, the pipeline's class first.
    """
    return f"""import torch
from jog3r import {names}

pipe = {names.split(",")[0]}.from_pretrained({_model_literal(model)}{_precision(dtype)})
out = pipe(
    {settings.prompt!a},
    num_frames={settings.frames},
    num_inference_steps={settings.steps},
    guidance_scale={settings.guidance!r},
    generator=torch.Generator().manual_seed({settings.seed}),
)
out.frames[0]  # the pictures
out.poses[0], out.intrinsics[0], out.pointmaps[0]  # cameras and points
"""


def reconstruct_code(  # noqa: PLR0913  # what the lines are made of
    model: str,
    numbers: Sequence[int],
    size: tuple[int, int],
    dtype: str = "float32",
    side: int = 0,
    *,
    names: str = _OURS,
) -> str:
    """Python that finds the cameras of a video: of the frames with these numbers.

    Args:
        model: As of `generate_code`.
        numbers: Of the frames.
        size: Height and width that the model sees.
        dtype: Of the model.
        side: Of the square that was cut out; in a larger one features are followed.
        names: As of `generate_code`.
    """
    pipeline = f"{names.split(',')[0]}.from_pretrained({_model_literal(model)}{_precision(dtype)})"
    strides = set(np.diff(numbers).tolist())
    chosen = f"range({numbers[0]}, {numbers[-1] + 1}, {strides.pop()})" if len(strides) == 1 else str(list(numbers))
    cut, imported, frames = size, "read_frames", "clip.frames"
    last = "out.poses[0], out.intrinsics[0], out.depth[0]  # camera-to-world, pixels, z"
    if side > min(size):
        cut, imported = (side, side), "read_frames, resize_frames\nfrom jog3r.sfm import track_cameras"
        frames = f"resize_frames(clip.frames, {size[0]}, {size[1]})[0]"
        last = """found = track_cameras(clip.frames, initial=out)
found.chosen, found.poses, found.intrinsics, found.points  # tracks or network; camera-to-world, pixels, world points"""
    return f"""import torch
from jog3r import {names}
from jog3r.data.video import {imported}

pipe = {pipeline}
clip = read_frames("my_video.mp4", {chosen}, size={cut}, resize_mode="crop")
out = pipe(video={frames}, generator=torch.Generator().manual_seed(0))
{last}
"""


def compare_code(
    models: tuple[str, str],
    seeds: tuple[int, int],
    settings: GenerateSettings,
    dtype: str = "float32",
    names: tuple[str, str] = (_OURS, _OURS),
) -> str:
    """Python that makes the two clips and says by how much each contradicts the geometry that the first model finds in it.

    Args:
        models: Folders or hub ids; empty for the bundled checkpoint.
        seeds: Of the left and of the right clip.
        settings: Of the request, but for the seed.
        dtype: Of the models.
        names: What is imported for each, the pipeline's class first.
    """
    classes = [name.split(",")[0] for name in names]
    triples = zip(classes, models, seeds, strict=True)
    sides = ", ".join(f"({name}, {_model_literal(model)}, {seed})" for name, model, seed in triples)
    imported = ", ".join(dict.fromkeys(", ".join(names).split(", ")))
    return f"""import torch
from jog3r import {imported}
from jog3r.export.pictures.consistency import consistency_maps
from jog3r.export.scene import Scene

judge = {classes[0]}.from_pretrained({_model_literal(models[0])}{_precision(dtype)})
for pipeline, model, seed in [{sides}]:
    clip = pipeline.from_pretrained(model{_precision(dtype)})(
        {settings.prompt!a},
        task="t2v",
        num_frames={settings.frames},
        num_inference_steps={settings.steps},
        guidance_scale={settings.guidance!r},
        generator=torch.Generator().manual_seed(seed),
    )
    out = judge(video=clip.frames[0], generator=torch.Generator().manual_seed(0))
    maps = consistency_maps(Scene(**out.clip(), fps=8.0))
    maps.mean, maps.seen.mean()  # difference to frame 1, of 255, and share of the pixels that it is of
"""


def _model_literal(model: str) -> str:
    if not model:
        return "tiny_checkpoint"
    return repr(_LOCAL_MODEL if os.path.isdir(model) else model)  # where the server's folders lie is nobody's business


def _precision(dtype: str) -> str:
    return "" if dtype == "float32" else f", dtype=torch.{dtype}"
