"""The examples of text and video run as a user runs them, on a tiny model."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_generators import tiny_parent

from jog3r import Jog3rWanPipeline

ROOT = Path(__file__).resolve().parents[1]
RESULTS = {"video.mp4", "pointcloud.ply", "pointcloud.glb", "cameras.json", "trajectory.png"}


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run a script as `python examples/NAME ARGUMENTS` in an empty folder, without paying for a new process."""
    monkeypatch.chdir(tmp_path)

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short_and_say_how_to_run_them(path):
    text = path.read_text()
    assert len(text.splitlines()) < 60 and f"python examples/{path.name}" in text


def test_text_to_video(run, model, capsys):
    assert "clip.mp4: 4 frames of 16 x 16" in run("generate.py", "a room", "--model", model, "--steps", 2, "--out", "clip.mp4")
    assert Path("clip.mp4").stat().st_size > 100
    with pytest.raises(SystemExit):
        run("generate.py", "a room", "--model", model, "--out", "clip.mp4")
    assert "exists already" in capsys.readouterr().err


def test_text_to_video_with_cameras(run, model):
    printed = run("generate_with_cameras.py", "--model", model, "--steps", 20)
    assert {path.name for path in Path("scene").iterdir()} == RESULTS
    assert "camera  4 at" in printed and "features read at t = 0" in printed


def test_a_head_for_another_generator(run, tmp_path, capsys):
    tiny_parent("wan").save_pretrained(tmp_path / "plain")
    arguments = (tmp_path / "plain", "--out", "with_head", "--width", 64, "--frames", 5, "--size", 16, "--steps", 3)
    assert "a head trained for 3 steps" in run("with_weights/train_generator_head.py", *arguments)
    pipe = Jog3rWanPipeline.from_pretrained("with_head")
    assert pipe.makes_cameras and pipe.pointmap_head.config.feature_layers == [2]
    assert pipe(video=np.zeros((5, 16, 16, 3), np.uint8), registration=False).pointmaps.shape == (1, 5, 16, 16, 3)
    with pytest.raises(SystemExit):
        run("with_weights/train_generator_head.py", *arguments)
    assert "exists already" in capsys.readouterr().err


def test_video_to_cameras(run, model, capsys):
    assert "constant pose: rotation" in run("reconstruct.py", "--model", model)
    assert {path.name for path in Path("scene").iterdir()} == RESULTS
    with pytest.raises(SystemExit):
        run("reconstruct.py", "nowhere.mp4", "--model", model, "--out", "other")
    assert "does not exist" in capsys.readouterr().err and not Path("other").exists()
