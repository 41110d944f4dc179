"""The examples of text and video run as a user runs them, on a tiny model."""

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_components import tiny_pipeline

ROOT = Path(__file__).resolve().parents[1]
RESULTS = {"video.mp4", "pointcloud.ply", "pointcloud.glb", "cameras.json", "trajectory.png"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny"
    tiny_pipeline().save_pretrained(path)
    return path


def run(name, tmp_path, *arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short_and_say_how_to_run_them(path):
    text = path.read_text()
    assert len(text.splitlines()) < 60 and f"python examples/{path.name}" in text


def test_text_to_video(model, tmp_path):
    for expected in (0, 2):  # the second time the file is there
        result = run("generate.py", tmp_path, "a room", "--model", model, "--steps", 2, "--out", "clip.mp4")
        assert result.returncode == expected, result.stderr
    assert "exists already" in result.stderr and (tmp_path / "clip.mp4").stat().st_size > 100


def test_text_to_video_with_cameras(model, tmp_path):
    result = run("generate_with_cameras.py", tmp_path, "--model", model, "--steps", 20)
    assert result.returncode == 0, result.stderr
    assert {path.name for path in (tmp_path / "scene").iterdir()} == RESULTS
    assert "camera  4 at" in result.stdout and "features read at t = " in result.stdout


def test_video_to_cameras(model, tmp_path):
    result = run("reconstruct.py", tmp_path, "--model", model)
    assert result.returncode == 0, result.stderr
    assert {path.name for path in (tmp_path / "scene").iterdir()} == RESULTS
    assert "constant pose: rotation" in result.stdout
    bad = run("reconstruct.py", tmp_path, "nowhere.mp4", "--model", model, "--out", "other")
    assert bad.returncode == 2 and "does not exist" in bad.stderr and not (tmp_path / "other").exists()
