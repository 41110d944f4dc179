"""What the page shows without its server: the example, the words, pieces of HTML, the code that reproduces a result."""

import ast
import html
import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gradio")

from space_server import save_tiny_model

import spaces_app
from jog3r import tiny_checkpoint
from jog3r.data import procedural_clip
from jog3r.data.procedural.scene_grammar import KINDS, MOTIONS, PALETTE, scene_words
from jog3r.export.formats.point_cloud import read_ply
from jog3r.export.scene import Scene
from jog3r.space.clips import EXAMPLE_PROMPTS
from jog3r.space.example import serve_example, weights_digest
from jog3r.space.guard.limits import GenerateSettings
from jog3r.space.guard.storage import ServerFolder
from jog3r.space.jobs import Done, Step
from jog3r.space.look.html_pieces import (
    compare_code,
    cut_note,
    finished,
    frames_taken,
    generate_code,
    point_view,
    progress,
    reconstruct_code,
)
from jog3r.space.look.texts import TINY_WORDS
from jog3r.space.model import Result, generate_video, load_model
from jog3r.space.results import write_scene_files

MARKUP = '"><script>alert(1)</script>'


def test_a_cloud_to_download_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("jog3r.space.results.MAX_GLB_POINTS", 100)
    clip = procedural_clip(9, split="test", num_frames=2)
    write_scene_files(Scene.from_depth(clip.frames, clip.depth, clip.poses, clip.intrinsics), tmp_path)
    assert len(read_ply((tmp_path / "pointcloud.ply").read_bytes())) == 100


# The example that is there at first


def test_the_example_is_of_this_checkpoint_and_small():
    folder = Path(__file__).resolve().parents[1] / "space" / "example_files"
    made = json.loads((folder / "made.json").read_text())
    assert made["weights_sha256"] == weights_digest(tiny_checkpoint), "make it anew: python -m jog3r.space.example"
    assert made["settings"]["prompt"] == EXAMPLE_PROMPTS[0]
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 300_000


def test_the_example_is_served_whole_again_and_again(tmp_path):
    folder = ServerFolder(3600, tmp_path)
    first = serve_example(folder)
    Path(first.video).unlink()  # as the upkeep does after an hour
    os.utime(first.strips, (0, 0))  # the next to go
    kept = Path(first.path_picture).stat()
    again = serve_example(folder)
    assert Path(again.strips).stat().st_mtime > 0 and Path(again.path_picture).stat().st_ino == kept.st_ino
    assert again == first and "made before" in again.note and f"manual_seed({0})" in again.code
    shown = [again.video, again.path_picture, again.strips, *again.downloads]
    assert all(Path(path).stat().st_size > 1000 and folder.served in Path(path).parents for path in shown)
    folder.close()


# HTML, texts and code


def test_the_end_of_a_request_is_escaped():
    assert "<script>" not in finished(MARKUP)


def test_a_screen_reader_hears_only_of_start_half_and_end():
    said = [re.search('say="(.*?)"', progress(Step(f"step {step}", step / 10)))[1] for step in range(11)]
    assert said == ["Started."] * 5 + ["Half done."] * 6
    assert all("role=" not in progress(Step("a", share)) for share in (0.0, 1.0))


def test_the_viewer_knows_the_cameras_in_the_axes_of_its_file():
    poses = np.tile(np.eye(4), (2, 1, 1))
    poses[1, :3, 3] = 1, 2, 3
    scene = Scene(np.zeros((2, 8, 16, 3), np.uint8), poses, np.tile([[8.0, 0, 8], [0, 8, 4], [0, 0, 1]], (2, 1, 1)))
    view = point_view("a.glb", Result(scene, ("", "")))
    cameras = json.loads(html.unescape(re.search('cameras="(.*?)"', view)[1]))
    # Right, up and back are glTF's x, y and z; the world is turned half a turn about x.
    assert cameras == {"field": 0.5, "poses": [[1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 1, 0, 0, 0, 1, 1, -2, -3]]}


@pytest.mark.parametrize(
    "stride, words",
    [
        (1, "Looked at frames 1 to 4 of the video."),
        (2, "Looked at every 2nd frame of the video, from 1 to 7."),
        (3, "Looked at every 3rd frame of the video, from 1 to 10."),
        (12, "Looked at every 12th frame of the video, from 1 to 37."),
        (21, "Looked at every 21st frame of the video, from 1 to 64."),
    ],
)
def test_the_summary_says_which_frames_were_taken(stride: int, words: str):
    assert frames_taken(range(0, 4 * stride, stride)) == words


def test_the_summary_counts_frames_that_are_not_equally_far_apart():
    assert frames_taken([0, 1, 3, 4]) == "Looked at 4 frames of the video, evenly from 1 to 5."


def test_the_words_of_the_tiny_model_are_those_of_its_grammar():
    words = [*KINDS, *MOTIONS, *(name for names in PALETTE.values() for name in names)]
    assert all(word in TINY_WORDS for word in words)
    assert all("walls" in prompt and "floor" in prompt and "the camera" in prompt for prompt in EXAMPLE_PROMPTS)
    assert all("floor" in scene_words(index, "train").caption for index in range(200))


def test_a_prompt_that_is_cut_is_said_to_be_at_the_result():
    model = load_model(tiny_checkpoint())
    prompt = "A room with green walls and a gray floor, with a blue chair, cinematic photograph at sunset, the camera turns left"
    part = model.part_read(prompt)
    assert prompt.lower().startswith(part) and len(model.pipe.tokenizer(part).input_ids) == 40
    assert model.part_read(part) is None and all(model.part_read(text) is None for text in EXAMPLE_PROMPTS)
    assert cut_note([None, None]) == ""
    assert f'read it up to "{part[-30:]}"; the rest had no effect' in cut_note([None, part, part + " more"])


@pytest.mark.parametrize("prompt", ["it's '''", "\\", MARKUP])
def test_the_code_of_a_comparison_is_python_with_the_prompt_as_a_literal(prompt: str):
    tree = ast.parse(compare_code(("", prompt), (1, 2), GenerateSettings(prompt, 1, 30, 2.5, 16), 8.0))
    assert prompt in [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]


def test_the_code_has_the_exact_guidance_and_no_path_of_the_server(tmp_path):
    settings = GenerateSettings("a room", 1, 30, 2.1234567, 16)
    for code in (generate_code(str(tmp_path), settings), compare_code((str(tmp_path), ""), (1, 2), settings, 8.0)):
        assert "guidance_scale=2.1234567," in code and str(tmp_path) not in code and "'path/to/your/model'" in code
    assert str(tmp_path) not in reconstruct_code(str(tmp_path), [0, 2, 4, 6], 64)
    assert "'owner/model'" in generate_code("owner/model", settings)


def test_the_code_says_the_precision_that_was_used():
    settings = GenerateSettings("a room", 1, 30, 2.5, 16)
    codes = [
        generate_code("owner/model", settings, "bfloat16"),
        reconstruct_code("owner/model", [0, 2, 4, 7], 64, "bfloat16"),
        compare_code(("owner/model", "owner/other"), (1, 2), settings, 8.0, "bfloat16"),
    ]
    assert [code.count("dtype=torch.bfloat16)") for code in codes] == [1, 1, 2]
    assert all(ast.parse(code) for code in codes) and "dtype" not in generate_code("owner/model", settings)


@pytest.mark.parametrize("name, value, message", [
    ("JOG3R_DTYPE", "int8", "one of float32, bfloat16, float16, got 'int8'"),
    ("JOG3R_REQUEST_SECONDS", "-1", "above 0, got '-1'"),
    ("JOG3R_REQUEST_SECONDS", "nan", "above 0, got 'nan'"), ("JOG3R_REQUEST_SECONDS", "0", "above 0, got '0'"),
])  # fmt: skip
def test_settings_of_the_environment_are_checked(monkeypatch, tmp_path, name, value, message):
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(ValueError, match=re.escape(message)):
        spaces_app.main(model=str(tmp_path))


def test_a_model_in_half_precision_answers(tmp_path):
    model = load_model(save_tiny_model(tmp_path / "half"), dtype="bfloat16")
    settings = GenerateSettings("a room", 1, 20, 1.0, 4)
    (result,) = [event.value for event in generate_video(model.path, settings, True, 300) if isinstance(event, Done)]
    assert model.dtype == "bfloat16" and result.scene.num_frames == 4 and np.isfinite(result.scene.poses).all()
