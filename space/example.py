"""A finished result of the bundled model, to be seen before anybody has asked for one.

Its files lie in the package: making it takes as long as a request, and the first visitor of a server that has just started
would see nothing. `made.json` says what it was made from; a test fails when the checkpoint has changed since, and then
`python -m jog3r.space.example` makes it anew.
"""

import functools
import hashlib
import io
import json
import secrets
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from jog3r import tiny_checkpoint
from jog3r.data.files import write_aside
from jog3r.export.exporters import DOUBTFUL_SHARE, load_scene, result_files
from jog3r.export.files import write_files
from jog3r.export.formats.glb import glb_bytes
from jog3r.export.pictures.plots import strips_picture
from jog3r.space.clips import EXAMPLE_PROMPTS
from jog3r.space.guard.limits import GenerateSettings
from jog3r.space.guard.storage import ServerFolder
from jog3r.space.jobs import Done
from jog3r.space.look.html_pieces import example_note, generate_code, point_view
from jog3r.space.model import BUNDLED_STEPS, Result, generate_video, load_model

__all__ = ["Example", "main", "serve_example", "weights_digest"]

_FOLDER = Path(__file__).parent / "example_files"
_POINTS = 4000  # so many, and the pictures so wide, that all files together stay below 300 KB
_PICTURE_WIDTH = 880
_PICTURE_COLORS = 64


class Example(NamedTuple):
    """What the page shows: a note, and then as `generate`'s outputs after the status."""

    note: str
    video: str
    cloud: str
    path_picture: str
    strips: str
    downloads: list[str]
    code: str


def serve_example(folder: ServerFolder) -> Example:
    """Lay the files where they can be fetched, anew where they are gone or will soon be deleted.

    Args:
        folder: Of the running server.
    """
    served = folder.served / "example"
    served.mkdir(exist_ok=True)
    soon = time.time() - folder.keep_seconds / 2
    for source in _FOLDER.iterdir():
        target = served / source.name
        if not target.is_file() or target.stat().st_mtime < soon:
            write_aside(target, functools.partial(shutil.copyfile, source), tag=secrets.token_hex(8))  # nobody gets half a file
    return _example(served)


@functools.lru_cache(1)  # everybody who opens the page asks for it
def _example(served: Path) -> Example:
    settings = GenerateSettings(**json.loads((_FOLDER / "made.json").read_text(encoding="utf-8"))["settings"])
    scene = load_scene(_FOLDER)
    names = ("video.mp4", "pointcloud.glb", "cameras.json", "trajectory.png", "strips.png")
    video, cloud, cameras, path_picture, strips = (str(served / name) for name in names)
    view = point_view(cloud, Result(scene, ("",) * scene.num_frames))
    downloads = [video, cloud, cameras]
    return Example(example_note(settings), video, view, path_picture, strips, downloads, generate_code("", settings))


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
    contents = {name: content for name, content in result_files(scene).items() if not name.endswith(".ply")}
    contents["pointcloud.glb"] = glb_bytes(scene, scene.points(min_confidence_quantile=DOUBTFUL_SHARE, max_points=_POINTS))
    contents["strips.png"] = _smaller(strips_picture(scene, columns=6))
    contents["trajectory.png"] = _smaller(contents["trajectory.png"])
    made = {"settings": asdict(settings), "weights_sha256": weights_digest(model)}
    contents["made.json"] = (json.dumps(made, indent=2) + "\n").encode()
    write_files(_FOLDER, contents, overwrite=True)


def _smaller(png: bytes) -> bytes:
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    height = round(picture.height * _PICTURE_WIDTH / picture.width)
    buffer = io.BytesIO()
    picture.resize((_PICTURE_WIDTH, height), Image.Resampling.LANCZOS).quantize(_PICTURE_COLORS, Image.Quantize.MAXCOVERAGE).save(
        buffer, "PNG", optimize=True
    )
    return buffer.getvalue()


if __name__ == "__main__":
    main()
