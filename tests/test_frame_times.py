"""Each frame's own time goes from the video through every command to the trajectory, the camera file and back."""

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from export_cases import make_scene
from PIL import Image

from jog3r import tiny_checkpoint
from jog3r.commands.parser import main
from jog3r.data import procedural_clip
from jog3r.export.exporters import load_scene, write_results
from jog3r.export.formats.camera_files import cameras_json, npz_bytes, read_details, read_npz
from jog3r.export.formats.trajectories import tum_text
from jog3r.export.scene import Scene
from jog3r.sfm.frames import check_frames

TIMES_MS = [0, 100, 200, 700, 1200, 1300, 1350, 2000, 2600, 2700]


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return procedural_clip(5, num_frames=len(TIMES_MS)).frames


def write_video(path: Path, frames: np.ndarray) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time, frame in zip(TIMES_MS, frames, strict=True):
            image = av.VideoFrame.from_ndarray(frame, format="rgb24")
            image.pts, image.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(image))
        container.mux(stream.encode())
    return path


def times_written(out: Path) -> list[float]:
    """Of cameras.json, all frames; those of the trajectory are the same, of frames with a pose."""
    frames = json.loads((out / "cameras.json").read_text())["frames"]
    lines = [line.split() for line in (out / "trajectory_tum.txt").read_text().splitlines() if line[0] != "#"]
    known = [frame["time"] for frame in frames if frame.get("pose_known", True)]
    np.testing.assert_allclose([float(words[0]) for words in lines], known)
    assert len(lines) >= 2
    return [frame["time"] for frame in frames]


@pytest.mark.parametrize(
    ("name", "options", "numbers"),
    [
        ("clip.mp4", [], range(10)),
        ("clip.mkv", ["--stride", "2", "--start", "1"], range(1, 10, 2)),
        ("clip.mp4", ["--frames", "4"], [0, 3, 6, 9]),
        ("clip.mkv", ["--window", "4", "--overlap", "2", "--start", "2"], range(2, 10)),
        ("clip.mp4", ["--window", "4", "--overlap", "2", "--frames", "6"], [0, 2, 4, 5, 7, 9]),
    ],
)
def test_reconstruct_writes_the_times_of_the_frames(
    tmp_path: Path, frames: np.ndarray, name: str, options: list[str], numbers: Any
) -> None:
    path = write_video(tmp_path / name, frames)
    command = ["reconstruct", str(path), "--out", str(tmp_path / "out"), "--export", "tum", "npz"]
    assert main([*command, "--model", tiny_checkpoint(), "--cameras", "network", *options]) == 0
    np.testing.assert_allclose(times_written(tmp_path / "out"), [TIMES_MS[number] / 1000 for number in numbers], atol=1e-3)


def test_times_of_a_folder_are_places_over_eight(tmp_path: Path, frames: np.ndarray) -> None:
    (tmp_path / "images").mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / "images" / f"{number}.png")
    command = ["reconstruct", str(tmp_path / "images"), "--out", str(tmp_path / "out"), "--export", "tum"]
    assert main([*command, "--model", tiny_checkpoint(), "--cameras", "network", "--stride", "3"]) == 0
    np.testing.assert_allclose(times_written(tmp_path / "out"), [0, 3 / 8, 6 / 8, 9 / 8])
    assert load_scene(tmp_path / "out").images.tolist() == ["0.png", "3.png", "6.png", "9.png"]


@pytest.mark.parametrize("more", [(), ("--window", "4", "--keyframes", "2", "--cameras", "network"), ("--frames", "4")])
def test_frames_of_a_folder_keep_the_names_of_their_pictures(tmp_path: Path, more: tuple[str, ...]) -> None:
    clip = procedural_clip(0, "test", 6, 64, 64)
    (tmp_path / "images").mkdir()
    names = [f"DSC_{number}.{'JPG' if number == 9 else 'png'}" for number in (1, 2, 9, 10, 33, 101)]
    for name, frame in zip(names, clip.frames, strict=True):
        Image.fromarray(frame).save(tmp_path / "images" / name)
    command = ["reconstruct", str(tmp_path / "images"), "--out", str(tmp_path / "out"), "--model", tiny_checkpoint()]
    assert main([*command, *more, "--export", "npz"]) == 0
    found = [frame["image"] for frame in json.loads((tmp_path / "out" / "cameras.json").read_text())["frames"]]
    assert found == ([names[k] for k in (0, 2, 3, 5)] if "--frames" in more else names)
    shown = load_scene(tmp_path / "out")
    assert shown.images.tolist() == [found[k] for k in shown.frame_index]


@pytest.mark.parametrize("name", ["2024-05-01T12:30:05.mp4", "-x.mp4", "a%d#.mp4"])
def test_the_command_takes_any_name_in_the_folder_it_is_run_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frames: np.ndarray, name: str
) -> None:
    write_video(tmp_path / "plain.mp4", frames).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert main(["reconstruct", name, "--out", "out", "--frames", "3", "--model", tiny_checkpoint()]) == 0
    assert (tmp_path / "out" / "cameras.json").is_file()


# Scenes


def test_times_of_a_scene() -> None:
    scene = make_scene()
    np.testing.assert_allclose(scene.times, np.arange(scene.num_frames) / scene.fps)
    own = replace(scene, times=np.arange(scene.num_frames) ** 2 + 0.5)
    assert [line.split()[0] for line in tum_text(own).splitlines()[1:4]] == ["0.5", "1.5", "4.5"]
    lost = replace(own, pose_known=np.arange(scene.num_frames) != 1)
    assert [line.split()[0] for line in tum_text(lost).splitlines()[1:3]] == ["0.5", "4.5"]
    for wrong in ([0.0] * scene.num_frames, [np.nan] * scene.num_frames, -np.arange(scene.num_frames)):
        with pytest.raises(ValueError, match="times must be finite seconds that rise"):
            replace(scene, times=wrong)
    with pytest.raises(ValueError, match="times"):
        replace(scene, times=[0.0, 1.0])


def test_a_folder_with_a_colon_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scene = make_scene()
    write_results(Scene(scene.frames, scene.poses, scene.intrinsics), "2024-05-01T12:30")
    assert load_scene("2024-05-01T12:30").frames.shape == scene.frames.shape


@pytest.mark.parametrize(("mode", "words"), [("I;16", "more than 8 bits"), ("F", "more than 8 bits"), ("RGBA", "transparency")])
def test_images_that_rgb_would_change_are_refused_where_nothing_converts_them(mode: str, words: str) -> None:
    images = [Image.new(mode, (64, 64))] * 2
    with pytest.raises(ValueError, match=words):
        Scene(images, [np.eye(4)] * 2, [np.eye(3)] * 2)
    with pytest.raises(ValueError, match=words):
        check_frames(images)
    assert len(check_frames([Image.new("RGBA", (64, 64), (1, 2, 3, 255))] * 2)) == 2


def test_times_come_back_from_files(tmp_path: Path) -> None:
    own = replace(make_scene(), times=np.arange(make_scene().num_frames) ** 2 / 3)
    np.testing.assert_array_equal(read_npz(npz_bytes(own)).times, own.times)
    np.testing.assert_array_equal(read_details(cameras_json(own))["times"], own.times)
    bare = Scene(own.frames, own.poses, own.intrinsics, fps=own.fps, times=own.times)
    write_results(bare, tmp_path)
    np.testing.assert_array_equal(load_scene(tmp_path).times, own.times)
    document = json.loads((tmp_path / "cameras.json").read_text())
    for frame in document["frames"]:
        del frame["time"]  # as earlier versions wrote it
    (tmp_path / "cameras.json").write_text(json.dumps(document))
    np.testing.assert_allclose(load_scene(tmp_path).times, np.arange(own.num_frames) / own.fps)
