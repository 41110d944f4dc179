"""Small pieces of HTML and code; everything that comes from outside is escaped here."""

import base64
from html import escape

import numpy as np
import torch

from jog3r.geometry.cameras import rotation_angle_deg
from jog3r.space.jobs import Step
from jog3r.space.limits import GenerateSettings
from jog3r.space.model import Result

__all__ = ["IDLE", "NO_POINTS", "banner", "generate_code", "point_view", "pose_table", "progress", "reconstruct_code", "summary"]

NO_POINTS = '<div class="empty">Points and cameras appear here.</div>'
IDLE = '<div class="progress" role="status"></div>'


def progress(step: Step) -> str:
    """A progress bar with its stage in words and, if there is one, the preview."""
    percent = round(100 * step.share)
    picture = ""
    if step.preview is not None:
        data = base64.b64encode(step.preview).decode()
        picture = f'<img src="data:image/jpeg;base64,{data}" alt="Preview: four frames of the clip, still noisy">'
    return (
        f'<div class="progress" role="status"><label>{escape(step.stage)}'
        f'<progress max="100" value="{percent}">{percent} %</progress></label>{picture}</div>'
    )


def banner(text: str) -> str:
    """A notice; `text` is plain text."""
    return f'<div class="banner" role="note">{escape(text)}</div>'


def point_view(path: str, result: Result) -> str:
    """The 3D viewer of a GLB; see viewer.js.

    Args:
        path: A file that is served.
        result: What it shows, for those who cannot see it.
    """
    count = result.scene.num_frames
    label = f"Coloured points of the scene in 3D with {count} cameras along their path, blue the first and red the last"
    return f'<point-view src="gradio_api/file={escape(path)}" label="{label}"></point-view>'


def summary(result: Result, seconds: float, note: str = "") -> str:
    """One line on a result: frames, size, time, focal length, frames whose pose is doubtful and why, and a note."""
    scene = result.scene
    height, width = scene.size
    focal = float(np.median(scene.intrinsics[:, 0, 0]))
    angle = 2 * np.degrees(np.arctan(width / 2 / focal))
    doubtful = [reason for reason in result.doubtful if reason]
    why = ", ".join(dict.fromkeys(doubtful))
    notes = f" {len(doubtful)} of them with a doubtful pose ({escape(why)})." if doubtful else ""
    return (
        f'<div class="progress" role="status">Done in {seconds:.1f} s: {scene.num_frames} frames of {width} x {height} pixels; '
        f"focal length {focal:.1f} px ({angle:.0f} degrees of view).{notes} {escape(note)}</div>"
    )


def pose_table(result: Result) -> str:
    """Every frame's camera as a table: position, rotation against frame 1, what makes it doubtful."""
    scene = result.scene
    angles = rotation_angle_deg(torch.from_numpy(scene.poses[:, :3, :3]))
    rows = []
    for index, (pose, angle, reason) in enumerate(zip(scene.poses, angles, result.doubtful, strict=True)):
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


def generate_code(model: str, settings: GenerateSettings) -> str:
    """Python that gives the same clip; the prompt goes in as a literal.

    Args:
        model: Folder or hub id; empty for the bundled checkpoint.
        settings: Of the request.
    """
    return f"""import torch
from jog3r import Jog3rPipeline, tiny_checkpoint

pipe = Jog3rPipeline.from_pretrained({_model_literal(model)})
out = pipe(
    {settings.prompt!a},
    num_frames={settings.frames},
    num_inference_steps={settings.steps},
    guidance_scale={settings.guidance:g},
    generator=torch.Generator().manual_seed({settings.seed}),
)
out.frames[0]  # PIL images
out.poses[0], out.intrinsics[0], out.pointmaps[0]  # cameras and points
"""


def reconstruct_code(model: str, num_frames: int, stride: int, size: int) -> str:
    """Python that finds the cameras of a video: of every `stride`-th frame, cropped to size x size."""
    stop = stride * (num_frames - 1) + 1
    return f"""import torch
from jog3r import Jog3rPipeline, tiny_checkpoint
from jog3r.data.video import read_video

pipe = Jog3rPipeline.from_pretrained({_model_literal(model)})
clip = read_video("my_video.mp4", stride={stride}, stop={stop}, size=({size}, {size}), resize_mode="crop")
out = pipe(video=clip.frames, generator=torch.Generator().manual_seed(0))
out.poses[0], out.intrinsics[0], out.depth[0]  # camera-to-world, pixels, z
"""


def _model_literal(model: str) -> str:
    return repr(model) if model else "tiny_checkpoint"
