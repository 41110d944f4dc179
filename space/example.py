"""What to try: prompts in the words that the bundled model knows, clips that are rendered when asked for, and a finished result.

The files of the result lie in the package: making it takes as long as a request, and the first visitor of a server that has just
started would see nothing. `made.json` says what it was made from; a test fails when the checkpoint has changed since, and then
`python -m jog3r.space.example` makes it anew.
"""

import hashlib
import io
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import gradio as gr
from PIL import Image

from jog3r import tiny_checkpoint
from jog3r.data.procedural import procedural_clip
from jog3r.export.exporters import DOUBTFUL_SHARE, load_scene, result_files
from jog3r.export.files import write_files
from jog3r.export.formats.glb import glb_bytes
from jog3r.export.player import Shown, player_tag
from jog3r.space.guard.limits import GenerateSettings
from jog3r.space.guard.storage import ServerFolder
from jog3r.space.jobs import Done
from jog3r.space.look.html_pieces import generate_code, result_caption
from jog3r.space.model import BUNDLED_STEPS, Result, generate_video, load_model
from jog3r.space.results import numbers, write_clip

EXAMPLE_PROMPTS = (
    "a room with blue walls and a brown tiled floor, with a red sofa, the camera moves forward",
    "a living space with green walls and a gray floor, with a blue chair and a yellow lamp, the camera turns left",
    "the camera orbits right in a room with white walls, a beige plank floor, and a green plant",
)
EXAMPLE_LABELS = ("Blue room, forward", "Green room, turn left", "White room, orbit right")
# How the camera moves, and the index in the test split, which nobody trained on.
EXAMPLE_CLIPS = {"camera moves forward": 9, "camera moves left": 12, "camera orbits left": 10}
_FPS = 8.0

_FOLDER = Path(__file__).parent / "example_files"
_POINTS = 2400  # so many that all files together stay below 300 KB
_PICTURE_COLORS = 64


# `generate`'s outputs after the status: video, player, camera path, numbers, downloads, code.
Example: TypeAlias = tuple[str, str, str, dict[str, Any], list[str], str]


def write_example(name: str, size: int, folder: Path) -> str:
    """Render an example clip of 16 frames.

    Args:
        name: Key of `EXAMPLE_CLIPS`.
        size: Height and width in pixels.
        folder: The request's folder.

    Returns:
        Path of the mp4.
    """
    clip = procedural_clip(EXAMPLE_CLIPS[name], split="test", height=size, width=size)
    return write_clip(clip.frames, _FPS, folder, name.replace(" ", "_"))


def serve_example(server: ServerFolder) -> Example:
    """Lay the files where they can be fetched for as long as the server runs.

    Args:
        server: The server's folder.
    """
    served = shutil.copytree(_FOLDER, server.path / "example")
    gr.set_static_paths([served])
    settings = GenerateSettings(**json.loads((_FOLDER / "made.json").read_text(encoding="utf-8"))["settings"])
    scene = load_scene(_FOLDER)
    names = ("video.mp4", "pointcloud.glb", "cameras.json", "trajectory.png")
    video, cloud, cameras, path_picture = (str(served / name) for name in names)
    files = {name: f"gradio_api/file={served / name}" for name in ("video.jpg", "depth.jpg", "confidence.jpg")}
    files["cloud"] = f"gradio_api/file={cloud}"
    caption = result_caption(settings, is_example=True)
    view = player_tag(Shown.of_scene(scene), files, caption=caption)
    data = numbers(Result(scene), caption)
    return video, view, path_picture, data, [video, cloud, cameras], generate_code("", settings)


def weights_digest(model: str) -> str:
    """SHA-256 over the weights of a checkpoint folder."""
    digest = hashlib.sha256()
    for path in sorted(Path(model).rglob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def main() -> None:
    """Make the files by the bundled model, with the page's own settings."""
    model = tiny_checkpoint()
    settings = GenerateSettings(
        EXAMPLE_PROMPTS[0], seed=0, steps=BUNDLED_STEPS, guidance=2.5, frames=load_model(model).max_frames
    )
    last = list(generate_video(model, settings, True, 3600))[-1]
    if not isinstance(last, Done):
        raise RuntimeError("the job ended without a result")
    scene = last.value.scene
    contents = {name: content for name, content in result_files(scene, dark=True).items() if not name.endswith(".ply")}
    contents["pointcloud.glb"] = glb_bytes(scene, scene.points(min_confidence_quantile=DOUBTFUL_SHARE, max_points=_POINTS))
    contents |= Shown.of_scene(scene, 64).sheets()
    picture, buffer = Image.open(io.BytesIO(contents["trajectory.png"])), io.BytesIO()
    picture.quantize(_PICTURE_COLORS, Image.Quantize.MAXCOVERAGE).save(buffer, "PNG", optimize=True)
    contents["trajectory.png"] = buffer.getvalue()
    made = {"settings": asdict(settings), "weights_sha256": weights_digest(model)}
    contents["made.json"] = (json.dumps(made, indent=2) + "\n").encode()
    write_files(_FOLDER, contents, overwrite=True)


if __name__ == "__main__":
    main()
