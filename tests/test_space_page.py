"""What the page shows without its server: the example, the words, pieces of HTML, the code that reproduces a result."""

import ast
import json
import re
import signal
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gradio")

from gradio.utils import is_static_file
from space_server import save_tiny_model

import spaces_app
from jog3r import tiny_checkpoint
from jog3r.data import procedural_clip
from jog3r.data.procedural.scene_grammar import KINDS, MOTIONS, PALETTE, scene_words
from jog3r.export.formats.camera_files import cameras_json
from jog3r.export.formats.point_cloud import read_ply
from jog3r.export.scene import Scene
from jog3r.space.example import EXAMPLE_PROMPTS, serve_example, weights_digest
from jog3r.space.guard.limits import GenerateSettings
from jog3r.space.guard.storage import ServerFolder
from jog3r.space.jobs import Done, Step
from jog3r.space.look.html_pieces import (
    compare_code,
    cut_note,
    finished,
    frames_taken,
    generate_code,
    progress,
    reconstruct_code,
)
from jog3r.space.look.texts import PROMPT_PATTERN, PROMPT_WORDS
from jog3r.space.model import generate_video, load_model
from jog3r.space.path_agreement import compared_paths, keep_path, kept_path
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


def test_the_example_is_served_for_as_long_as_the_server_runs(tmp_path):
    folder = ServerFolder(-1, tmp_path)
    video, player, path_picture, data, downloads, code = serve_example(folder)
    folder.remove_old()
    assert all(Path(path).stat().st_size > 1000 and is_static_file(path) for path in (video, path_picture, *downloads))
    assert folder.usage() == (0, 0) and "made before" in player and "manual_seed(0)" in code and len(data["frames"]) == 16
    np.testing.assert_array_equal(kept_path(video, [0, 1], folder)[0], np.eye(4))
    folder.close()


# The path that was made and the one that was found


def test_a_path_that_was_found_is_compared_with_the_one_it_was_made_with():
    made = np.tile(np.eye(4), (3, 1, 1))
    made[1:, :3, 3] = [1, 0, 0], [2, 0, 0]
    found = made.copy()
    found[:, :3, 3] *= 3  # lengths have no unit
    known = np.ones(3, bool)
    moved, words = compared_paths(found, made, known)
    np.testing.assert_allclose(moved, found)
    assert "turns 0.0 degrees otherwise and moves 0 degrees off in direction" in words
    turn = np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0.0]])  # a quarter
    found[1, :3, :3], found[2, :3, 3] = turn, [0, 0, 6]
    assert "turns 45.0 degrees otherwise and moves 45 degrees off in direction" in compared_paths(found, made, known)[1]
    assert "turns 0.0 degrees otherwise; a camera that hardly" in compared_paths(made[:1].repeat(3, 0), made, known)[1]
    assert "Too few" in compared_paths(found, made, np.array([True, False, False]))[1]
    late = made.copy()
    late[0], late[0, 0, 3] = found[1], 50.0  # whatever stands in place of a pose that was not found
    moved, words = compared_paths(late, made, np.array([False, True, True]))
    np.testing.assert_allclose(moved, made, atol=1e-12)
    assert "turns 0.0 degrees otherwise and moves 0 degrees" in words


def test_the_path_of_a_video_is_known_by_its_content_as_long_as_files_are_kept(tmp_path):
    server, clip = ServerFolder(3600, tmp_path), procedural_clip(9, split="test", num_frames=4)
    scene = Scene(clip.frames, clip.poses, clip.intrinsics)
    (tmp_path / "a.mp4").write_bytes(b"video")
    keep_path(str(tmp_path / "a.mp4"), cameras_json(scene), server)
    (tmp_path / "copy.mp4").write_bytes(b"video")
    np.testing.assert_array_equal(kept_path(str(tmp_path / "copy.mp4"), [0, 3], server), clip.poses[[0, 3]])
    assert kept_path(str(tmp_path / "copy.mp4"), [0, 4], server) is None  # not of this video
    (tmp_path / "copy.mp4").write_bytes(b"another")
    assert kept_path(str(tmp_path / "copy.mp4"), [0], server) is None
    server.keep_seconds = -1
    server.remove_old()
    assert kept_path(str(tmp_path / "a.mp4"), [0], server) is None
    server.close()


# HTML, texts and code


def test_every_word_of_the_choices_is_known_and_a_prompt_of_them_is_too():
    first = {name: words[0] for name, words in PROMPT_WORDS.items()}
    said = " ".join(
        [PROMPT_PATTERN.format(**first), *EXAMPLE_PROMPTS, *(words for name in first for words in PROMPT_WORDS[name])]
    )
    assert {word.strip(",") for word in said.split()} <= set(PROMPT_WORDS["known"])


def test_the_end_of_a_request_is_escaped():
    assert "<script>" not in finished(MARKUP)


def test_a_screen_reader_hears_only_of_start_half_and_end():
    said = [re.search('say="(.*?)"', progress(Step(f"step {step}", step / 10)))[1] for step in range(11)]
    assert said == ["Started."] * 5 + ["Half done."] * 6
    assert all("role=" not in progress(Step("a", share)) for share in (0.0, 1.0))


def test_the_summary_says_which_frames_were_taken():
    assert frames_taken([0, 1, 3, 4]) == "Looked at 4 frames of the video, evenly from 1 to 5."


def test_the_words_of_the_tiny_model_are_those_of_its_grammar():
    words = [*KINDS, *MOTIONS, *(name for names in PALETTE.values() for name in names)]
    choices = " ".join(text for name in ("walls", "floor", "thing", "camera") for text in PROMPT_WORDS[name])
    assert all(word in choices for word in words)
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
    tree = ast.parse(compare_code(("", prompt), (1, 2), GenerateSettings(prompt, 1, 30, 2.5, 16)))
    assert prompt in [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]


def test_the_code_has_the_exact_guidance_and_no_path_of_the_server(tmp_path):
    settings = GenerateSettings("a room", 1, 30, 2.1234567, 16)
    for code in (generate_code(str(tmp_path), settings), compare_code((str(tmp_path), ""), (1, 2), settings)):
        assert "guidance_scale=2.1234567," in code and str(tmp_path) not in code and "'path/to/your/model'" in code
    assert str(tmp_path) not in reconstruct_code(str(tmp_path), [0, 2, 4, 6], (64, 64))
    assert "'owner/model'" in generate_code("owner/model", settings)


def test_the_code_says_the_precision_that_was_used():
    settings = GenerateSettings("a room", 1, 30, 2.5, 16)
    codes = [
        generate_code("owner/model", settings, "bfloat16"),
        reconstruct_code("owner/model", [0, 2, 4, 7], (64, 64), "bfloat16"),
        compare_code(("owner/model", "owner/other"), (1, 2), settings, "bfloat16"),
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
