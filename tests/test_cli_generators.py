"""`generate`, `reconstruct` and `evaluate` with folders of other generators: cameras from the head, from tracks, or why not."""

import errno
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sfm_scenes import make_room, path, render
from tiny_components import tiny_head, tiny_pipeline
from tiny_generators import tiny_generator, tiny_parent

from jog3r.commands import generate
from jog3r.commands.parser import build_parser, main
from jog3r.evaluation import pose_errors
from jog3r.export.video import encode_video

SMALL = ("--num_frames", "5", "--height", "16", "--width", "16", "--num_inference_steps", "2", "--guidance_scale", "1")
RESULTS = {"video.mp4", "pointcloud.ply", "pointcloud.glb", "cameras.json", "trajectory.png"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`plain` as diffusers saves it, `head` with a random head that says it was trained, `headless` of our own model."""
    folder = tmp_path_factory.mktemp("generators")
    tiny_parent("wan").save_pretrained(folder / "plain")
    tiny_generator("wan", noise_range=(0.0, 0.999)).save_pretrained(folder / "head")
    tiny_pipeline(pointmap_head=None).save_pretrained(folder / "headless")
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("video") / "clip.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (9, 48, 48, 3), dtype=np.uint8)
    file.write_bytes(encode_video(noise, 8.0))
    return file


def run(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, str, list[str]]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err.splitlines()


def refused(capsys: pytest.CaptureFixture, out: Path, *arguments: object) -> str:
    code, printed, lines = run(capsys, *arguments, "--out", out)
    assert (code, printed, len(lines)) == (2, "", 1) and not out.exists(), lines
    return lines[0]


def test_generate_without_a_head_keeps_the_video_and_says_why_there_are_no_cameras(capsys, folders: Path, tmp_path: Path) -> None:
    """Random weights make pictures in which there is nothing to follow."""
    pytest.importorskip("pycolmap")
    size = (*SMALL, "--height", 48, "--width", 48)
    for name, frames in (("plain", size), ("headless", size[2:])):
        out = tmp_path / name
        code, printed, lines = run(capsys, "generate", "a red room", "--model", folders / name, "--out", out, *frames)
        assert code == 2 and "video.mp4" in printed
        assert len(lines) == 1 and "cameras could not be made: no cameras from tracks: " in lines[0], lines
        assert {file.name for file in out.iterdir()} == {"video.mp4"}


def test_cameras_of_a_generated_video_from_tracks(tmp_path: Path) -> None:
    """The frames are rendered, as no random model makes a scene; what follows is what the command does with its own."""
    pytest.importorskip("pycolmap")
    clip = render(make_room(1), path(5, sideways=0.6, forward=0.5, turn_deg=8), (144, 192), 150.0)
    options = build_parser("generate").parse_args(["generate", "a room", "--out", "scene", "--export", "tum"])
    notes, failed = generate._follow([Image.fromarray(frame) for frame in clip.frames], 8.0, options, tmp_path)
    assert not failed and notes[0].startswith("cameras: tracks")
    assert {file.name for file in tmp_path.iterdir()} == RESULTS | {"trajectory_tum.txt"}
    document = json.loads((tmp_path / "cameras.json").read_text())
    assert (document["source"], document["width"], document["height"], document["fps"]) == ("tracks", 192, 144, 8.0)
    poses = np.array([frame["pose"] for frame in document["frames"]])
    assert pose_errors(poses, clip.poses)["rotation_deg"].mean() < 0.3


def test_a_full_disk_behind_a_generation_costs_no_video(capsys, monkeypatch, folders: Path, tmp_path: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(generate, "find_tracks", full)
    monkeypatch.setattr(generate, "_judge", full)
    options = (*SMALL, "--cameras")
    code, _, lines = run(capsys, "generate", "a room", "--model", folders / "head", *options, "tracks", "--out", tmp_path / "a")
    assert code == 2 and "cameras could not be made: [Errno 28] No space left on device; everything else is in" in lines[0]
    assert {file.name for file in (tmp_path / "a").iterdir()} == {"video.mp4"}
    code, printed, _ = run(
        capsys, "generate", "a room", "--model", folders / "head", *options, "network", "--out", tmp_path / "b"
    )
    assert code == 0 and "note: tracks could not be asked how well they agree: [Errno 28]" in printed
    assert {file.name for file in (tmp_path / "b").iterdir()} == RESULTS


def test_generate_with_a_head_writes_its_cameras(capsys, folders: Path, tmp_path: Path) -> None:
    options = ("--model", folders / "head", *SMALL, "--out", tmp_path / "out", "--export", "npz")
    code, printed, lines = run(capsys, "generate", "a red room", *options)
    assert code == 0, lines
    assert {file.name for file in (tmp_path / "out").iterdir()} == RESULTS | {"scene.npz"}
    document = json.loads((tmp_path / "out" / "cameras.json").read_text())
    assert (document["source"], len(document["frames"]), document["width"], document["fps"]) == ("network", 5, 16, 16.0)
    alone = ("--model", folders / "head", *SMALL, "--task", "t2v", "--out", tmp_path / "alone")
    assert run(capsys, "generate", "a red room", *alone)[0] == 0
    assert (tmp_path / "alone" / "video.mp4").read_bytes() == (tmp_path / "out" / "video.mp4").read_bytes()


def test_reconstruct_reads_a_video_with_the_head(capsys, folders: Path, video: Path, tmp_path: Path) -> None:
    options = ("--model", folders / "head", "--height", 16, "--width", 16, "--cameras", "network")
    code, _, lines = run(capsys, "reconstruct", video, *options, "--frames", 5, "--out", tmp_path / "out")
    assert code == 0, lines
    assert {file.name for file in (tmp_path / "out").iterdir()} == RESULTS
    both = (*options, "--frames", 5, "--both_directions")
    assert "both_directions is for JOG3R models" in refused(capsys, tmp_path / "no", "reconstruct", video, *both)
    long = tmp_path / "long.mp4"
    long.write_bytes(encode_video(np.zeros((83, 16, 16, 3), dtype=np.uint8), 8.0))
    for file, given, message in (
        (long, ("--frames", 83), "the network takes at most 81 frames at once, got 83: take fewer .*--window 81"),
        (video, ("--window", 6), "1 more than a multiple of 4, .*got 6; the nearest are 5 or 9 .*`--window`"),
        (video, ("--window", 5, "--close_loops"), "close_loops shows .* of a Jog3rWanPipeline would mix"),
        (video, ("--window", 5, "--both_directions"), "both_directions is for JOG3R models"),
    ):
        line = refused(capsys, tmp_path / "no", "reconstruct", file, *options, *given)
        assert re.search(message, line), line
    plain = ("--model", folders / "plain", "--height", 16, "--width", 16, "--cameras", "network", "--frames", 5)
    assert "needs the pointmap head" in refused(capsys, tmp_path / "no", "reconstruct", video, *plain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--num_frames", "6"), "1 more than a multiple of 4, .*got 6; the nearest are 5 or 9"),
        (("--num_frames", "6", "--task", "t2v"), "got 6; the nearest are 5 or 9"),
        (("--height", "24"), "multiples of 16 pixels"),
        (("--cameras", "network"), "needs the pointmap head, which this pipeline was loaded without; .*tracks"),
        (("--cameras", "tracks", "--task", "t2v"), "--cameras tracks needs --task t2v.c"),
        (("--registration", "reference"), "--registration and .* belong to a trained 3D head; these cameras come from tracks"),
        (("--reconstruction_timestep", "300"), "--reconstruction_timestep, .* belong to a trained 3D head"),
    ],
)
def test_generate_refuses_before_it_generates(capsys, folders: Path, tmp_path: Path, options: tuple, message: str) -> None:
    line = refused(capsys, tmp_path / "out", "generate", "a room", "--model", folders / "plain", *SMALL, *options)
    assert re.search(message, line), line


def test_without_pycolmap_and_without_a_head_the_remedy_is_named(
    capsys, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    line = refused(capsys, tmp_path / "out", "generate", "a room", "--model", folders / "plain", *SMALL)
    assert "no trained 3D head, and cameras from tracks need pycolmap: pip install" in line and "--task t2v" in line


def test_a_head_of_ours_that_was_never_trained_finds_no_cameras_unasked(
    capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_pipeline(pointmap_head=tiny_head(trained=False)).save_pretrained(tmp_path / "new")
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    line = refused(capsys, tmp_path / "out", "generate", "a room", "--model", tmp_path / "new", "--num_inference_steps", 20)
    assert "no trained 3D head, and cameras from tracks need pycolmap" in line


def test_evaluate_takes_them(capsys, folders: Path, tmp_path: Path) -> None:
    size = ("--num_frames", 5, "--height", 16, "--width", 16)
    options = (*size, "--clips", 2, "--captions", 2, "--num_inference_steps", 2, "--split", "validation")
    code, printed, lines = run(capsys, "evaluate", "all", "--model", folders / "head", "--out", tmp_path / "e", *options)
    assert code == 0, lines
    assert "always forward" in printed and (tmp_path / "e" / "results.json").is_file()
    code, _, lines = run(capsys, "evaluate", "v2c", "--model", folders / "plain", "--out", tmp_path / "p", *size)
    assert code == 2 and "has no trained 3D head" in lines[-1]
