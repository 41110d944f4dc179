"""A Space whose model is another generator with a head: sizes and lengths of its own, code that names its class."""

import ast

import numpy as np
import pytest

pytest.importorskip("gradio")
from space_server import running_space
from tiny_components import tiny_head, tiny_pipeline
from tiny_generators import tiny_generator, tiny_parent

from jog3r.space.guard.limits import GenerateSettings
from jog3r.space.jobs import Done, Failed
from jog3r.space.look.html_pieces import compare_code, generate_code, reconstruct_code
from jog3r.space.model import find_cameras, generate_video, load_model
from jog3r.space.server import open_space

SECONDS = 3600.0
NAME = "Jog3rCogVideoXPipeline"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a tiny CogVideoX for 9 frames of 32 x 64 pixels."""
    pipe = tiny_generator("cogvideox", noise_range=(0.0, 0.999))
    pipe.transformer.register_to_config(sample_width=8)
    pipe.save_pretrained(path := tmp_path_factory.mktemp("model") / "cogvideox")
    return str(path)


def last(events):
    return list(events)[-1]


def test_it_makes_videos_with_cameras_and_finds_those_of_a_video(folder: str) -> None:
    model = load_model(folder)
    assert (model.makes_videos, model.has_geometry, model.frame_size, model.size) == (True, True, (32, 64), 32)
    assert (model.max_frames, model.max_video_frames, model.frame_step, model.least_frames(2)) == (9, 33, 8, 9)
    assert (model.names, model.dtype, model.part_read("a red room")) == (NAME, "float32", None)
    assert model.part_read("red " * 600) == " ".join(["red"] * 225)
    done = last(generate_video(folder, settings_of(9), True, SECONDS))
    assert isinstance(done, Done) and done.value.scene.frames.shape == (9, 32, 64, 3)
    frames = last(generate_video(folder, settings_of(9), False, SECONDS)).value
    assert np.array_equal(frames, done.value.scene.frames)
    found = last(find_cameras(folder, frames, 8.0, SECONDS))
    assert isinstance(found, Done) and found.value.scene.poses.shape == (9, 4, 4)
    for refused in (find_cameras(folder, frames[:4], 8.0, SECONDS), generate_video(folder, settings_of(6), True, SECONDS)):
        assert isinstance(failed := last(refused), Failed) and "1 more than a multiple of 8 frames, not" in failed.sentence


def settings_of(frames: int) -> GenerateSettings:
    return GenerateSettings("a red room", 0, 2, 1.0, frames)


def test_the_page_offers_lengths_that_it_takes_and_code_of_its_class(folder: str, tmp_path) -> None:
    with running_space(tmp_path / "space", other=folder) as running:
        sliders = [part["props"] for part in running.page.config["components"] if part["props"].get("label") == "Frames"]
    assert [(one["minimum"], one["maximum"], one["value"], one["step"]) for one in sliders] == [(1, 9, 9, 8), (9, 33, 9, 8)]
    codes = [
        generate_code("owner/model", settings_of(5), "bfloat16", NAME),
        reconstruct_code("owner/model", [0, 1, 2, 3, 4], (32, 64), names=NAME),
        compare_code(("owner/model", ""), (0, 1), settings_of(5), names=(NAME, "Jog3rPipeline, tiny_checkpoint")),
    ]
    assert all(ast.parse(code) and f"{NAME}.from_pretrained('owner/model'" in code for code in codes[:2])
    assert "from jog3r import Jog3rCogVideoXPipeline\n" in codes[0] and "size=(32, 64)" in codes[1]
    assert "from jog3r import Jog3rCogVideoXPipeline, Jog3rPipeline, tiny_checkpoint\n" in codes[2]


def test_one_without_a_trained_head_is_refused(tmp_path) -> None:
    tiny_parent("wan").save_pretrained(tmp_path / "plain")
    with pytest.raises(ValueError, match="no trained 3D head, and the Space shows cameras: .*jog3r generate --model"):
        open_space(str(tmp_path / "plain"), None, bundled="")
    tiny_pipeline(pointmap_head=tiny_head(trained=False)).save_pretrained(tmp_path / "new")
    with pytest.raises(ValueError, match="no trained 3D head, and the Space shows cameras"):
        open_space(str(tmp_path / "new"), None, bundled="")
