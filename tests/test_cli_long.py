"""`jog3r reconstruct` with windows: files, what they hold, refusals."""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from jog3r import tiny_checkpoint
from jog3r.commands.output_folder import UsageError
from jog3r.commands.reconstruct import run as run_reconstruct
from jog3r.commands.reconstruction.selection import chosen_cameras
from jog3r.commands.reconstruction.spool import Spool
from jog3r.commands.reconstruction.windows import is_long, long_video_arguments, run_long_reconstruct
from jog3r.data import procedural_clip
from jog3r.export.exporters import load_scene
from jog3r.export.video import encode_video


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    frames = np.random.default_rng(0).integers(0, 255, (10, 16, 16, 3), dtype=np.uint8)
    path.write_bytes(encode_video(frames, 8.0, scale=1))
    return path


def options(video: Path, model: Path, out: Path, *arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    long_video_arguments(parser)
    parsed = parser.parse_args(arguments)
    shared = dict(video=video, out=out, overwrite=False, export=[], model=str(model), seed=0, device="cpu", registration="fast")
    placed = dict(dtype="float32", offload=False)
    sizes = dict(reconstruction_timestep=None, height=16, width=16, start=0, stop=None, stride=1, frames=None, resize="crop")
    return argparse.Namespace(
        **vars(parsed), **shared, **placed, **sizes, true_cameras=None, both_directions=False, focal_per_frame=False
    )


def test_results_are_complete(tmp_path: Path) -> None:
    """With the trained model: weights drawn at random find no cameras, and windows without cameras do not join."""
    clip = procedural_clip(5, num_frames=10)
    (tmp_path / "room.mp4").write_bytes(encode_video(clip.frames, 8.0, scale=1))
    sizes = ("--window", "4", "--overlap", "2", "--keyframes", "3", "--close-loops")
    chosen = options(tmp_path / "room.mp4", Path(tiny_checkpoint()), tmp_path / "out", *sizes)
    chosen.height = chosen.width = 64
    chosen.export = ["tum", "kitti", "npz"]
    text = run_long_reconstruct(chosen)
    assert "10 frames in 4 windows; clouds show 3 of them" in text
    assert "loops closed" in text
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        *("video.mp4", "cameras.json", "trajectory.png", "pointcloud.ply", "pointcloud.glb"),
        *("trajectory_tum.txt", "trajectory_kitti.txt", "scene.npz"),
    }
    cameras = json.loads((tmp_path / "out" / "cameras.json").read_text())
    assert len(cameras["frames"]) == 10
    assert len((tmp_path / "out" / "trajectory_kitti.txt").read_text().splitlines()) == 10
    known = sum(frame.get("pose_known", True) for frame in cameras["frames"])
    assert len((tmp_path / "out" / "trajectory_tum.txt").read_text().splitlines()) == 1 + known
    scene = load_scene(tmp_path / "out")  # the key frames
    assert [scene.frame_index[0], scene.frame_index[-1]] == [0, 9]
    np.testing.assert_allclose(scene.poses[[0, 2]], [cameras["frames"][index]["pose"] for index in (0, 9)], atol=1e-6)


def test_long_is_what_is_asked_for(video: Path, model: Path, tmp_path: Path) -> None:
    assert not is_long(options(video, model, tmp_path))
    assert is_long(options(video, model, tmp_path, "--window", "8"))
    assert is_long(options(video, model, tmp_path, "--close_loops"))
    assert not is_long(options(tmp_path / "none.mp4", model, tmp_path))


def test_refusals_leave_nothing(video: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="--keyframes chooses among the frames of a long video"):
        is_long(options(video, model, out, "--keyframes", "3"))
    with pytest.raises(UsageError, match="--keyframes must be at least 1, got 0"):
        run_long_reconstruct(options(video, model, out, "--keyframes", "0"))
    one = options(video, model, out, "--keyframes", "1", "--window", "4")
    one.export = ["tum", "colmap"]
    with pytest.raises(UsageError, match="--export colmap needs points that several frames see: raise --keyframes to 2"):
        run_long_reconstruct(one)
    with pytest.raises(ValueError, match="overlap=4 and window=4"):
        run_long_reconstruct(options(video, model, out, "--window", "4", "--overlap", "4"))
    with pytest.raises(ValueError, match="does not exist"):
        run_long_reconstruct(options(tmp_path / "none.mp4", model, out))
    wrong = options(video, model, out)
    wrong.width, wrong.cameras = None, "auto"
    with pytest.raises(UsageError, match="both --height and --width"):
        run_reconstruct(wrong)
    assert list(tmp_path.iterdir()) == []


def test_spool_gives_back_what_it_took_and_vanishes(tmp_path: Path) -> None:
    with Spool(tmp_path / "spool") as spool:
        for index in range(3):
            spool.add_frame(np.full((2, 4, 3), index, np.uint8))
            spool.write(index, torch.full((2, 4), index + 0.5), torch.full((2, 4), 2.0))
        assert spool.frames()[:, 0, 0, 0].tolist() == [0, 1, 2]
        depth, confidence = spool.read(1)
        assert depth.tolist() == [[1.5] * 4] * 2
        assert confidence.tolist() == [[2.0] * 4] * 2
    assert list(tmp_path.iterdir()) == []


def test_a_spool_on_a_full_disk_vanishes_and_says_why(tmp_path: Path) -> None:
    refused = pytest.raises(UsageError, match="cannot be written to '.*No space left on device.*: take fewer frames")
    with Path("/dev/full").open("wb") as full, refused, Spool(tmp_path / "spool") as spool:
        os.dup2(full.fileno(), spool.files["frames"].fileno())  # behind its buffer, which fails again when it is closed
        spool.add_frame(np.zeros((2, 4, 3), np.uint8))
        spool.add_frame(np.zeros((200, 400, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_cameras_of_another_number_of_frames_are_no_truth(video: Path) -> None:
    chosen = argparse.Namespace(video=video, true_cameras="true.txt", start=0, stop=None, stride=1, frames=4, resize="crop")
    poses = np.arange(14)
    for count in (14, 9, 3):
        with pytest.raises(UsageError, match=f"has {count} cameras, of which {count} would .* {10 if count > 4 else 4} frames"):
            chosen_cameras(chosen, poses[:count], 4)
    assert chosen_cameras(chosen, poses[:10], 4).tolist() == [0, 3, 6, 9]
    for chosen.start, chosen.stride in ((0, 1), (2, 3)):
        assert chosen_cameras(chosen, poses[:4], 4).tolist() == [0, 1, 2, 3]  # of the chosen frames alone
