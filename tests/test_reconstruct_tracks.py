"""`jog3r reconstruct` with cameras from tracks: the video's own pixels, what the exports hold, what is refused."""

import json
import re
import shutil
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sfm_scenes import RenderedClip, make_room, path, render

from jog3r.commands.parser import main
from jog3r.commands.reconstruction.spool import Spool
from jog3r.data.video import resize_frames
from jog3r.export.exporters import load_scene
from jog3r.export.formats.point_cloud import read_ply
from jog3r.export.video import encode_video
from jog3r.geometry.camera_metrics import pose_errors
from jog3r.geometry.windows import JoinError

pycolmap = pytest.importorskip("pycolmap")
FRAMES, HEIGHT, WIDTH, FOCAL = 7, 144, 192, 150.0
RESULTS = {"video.mp4", "pointcloud.ply", "pointcloud.glb", "cameras.json", "trajectory.png"}
EXPORTS = ("colmap", "nerfstudio", "tum", "kitti", "npz", "blender")


@pytest.fixture(scope="module")
def clip() -> RenderedClip:
    return render(make_room(1), path(FRAMES, sideways=0.6, forward=0.5, turn_deg=8), (HEIGHT, WIDTH), FOCAL)


@pytest.fixture(scope="module")
def folder(clip: RenderedClip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With room.mp4 and, in `out`, what tracks make of it."""
    path = tmp_path_factory.mktemp("tracks")
    (path / "room.mp4").write_bytes(encode_video(clip.frames, 10.0, scale=1, crf=4))
    arguments = ["reconstruct", str(path / "room.mp4"), "--cameras", "tracks", "--out", str(path / "out")]
    assert main([*arguments, "--export", *EXPORTS]) == 0
    return path


def cameras_of(out: Path) -> tuple[dict, np.ndarray, np.ndarray]:
    document = json.loads((out / "cameras.json").read_text())
    arrays = [np.array([frame[name] for frame in document["frames"]]) for name in ("pose", "intrinsics")]
    return document, arrays[0], arrays[1]


def refused(capsys: pytest.CaptureFixture, out: Path, *arguments: object) -> str:
    """The one line of a refusal that leaves nothing."""
    assert main([*map(str, arguments), "--out", str(out)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and not out.exists(), lines
    return lines[0]


def test_cameras_are_those_of_the_video_itself(clip: RenderedClip, folder: Path) -> None:
    assert {path.name for path in (folder / "out").iterdir()} == RESULTS | {
        *("colmap", "nerfstudio", "trajectory_tum.txt", "trajectory_kitti.txt", "scene.npz", "blender")
    }
    document, poses, intrinsics = cameras_of(folder / "out")
    assert (document["width"], document["height"], document["source"]) == (WIDTH, HEIGHT, "tracks")
    assert all(frame["registered"] for frame in document["frames"])
    assert [frame["time"] for frame in document["frames"]] == pytest.approx(np.arange(FRAMES) / 10)
    errors = pose_errors(poses, clip.poses)
    assert errors["rotation_deg"].mean() < 0.3 and errors["translation_deg"].mean() < 3
    np.testing.assert_allclose(intrinsics, np.tile(clip.intrinsics, (FRAMES, 1, 1)), rtol=0.05)


def test_how_sure_the_focal_length_is_stands_everywhere(capsys, folder: Path, tmp_path: Path) -> None:
    sure = cameras_of(folder / "out")[0]["focal_uncertainty"]
    assert 0 < sure < 0.06 and load_scene(folder / "out").focal_uncertainty == sure
    still = tmp_path / "still.mp4"
    noise = np.random.default_rng(0).integers(-2, 3, (3, HEIGHT, WIDTH, 3))
    picture = render(make_room(3), path(1), (HEIGHT, WIDTH), FOCAL).frames[0]
    still.write_bytes(encode_video((picture + noise).clip(0, 255).astype(np.uint8), 10.0, scale=1, crf=4))
    for more, said, written in (
        ((), r"\+-\d\d % \(a camera that turns further would tell it\)", 0.1),
        (("--focal_px", "150"), r"\(given\)", 0),
    ):
        out = tmp_path / f"out{len(more)}"
        assert main(["reconstruct", str(still), "--cameras", "tracks", "--out", str(out), *more]) == 0
        assert re.search(rf"focal length \d+ pixels {said}; no points: nothing is seen from two", capsys.readouterr().out)
        found = json.loads((out / "cameras.json").read_text())["focal_uncertainty"]
        assert found > written if written else found == 0


def test_colmap_opens_the_real_tracks(capsys: pytest.CaptureFixture, folder: Path) -> None:
    model = pycolmap.Reconstruction(str(folder / "out" / "colmap" / "sparse" / "0"))
    assert (model.num_reg_images(), model.num_cameras()) == (FRAMES, 1)
    assert model.num_points3D() > 200 and model.compute_mean_track_length() > 2.5
    stored = model.compute_mean_reprojection_error()
    model.update_point_3d_errors()
    assert model.compute_mean_reprojection_error() == pytest.approx(stored, abs=1e-3)
    assert 0.01 < stored < 1  # features were found, not projected
    scene = load_scene(folder / "out")
    assert scene.tracks is not None and float(scene.tracks.error_px.mean()) == pytest.approx(stored, abs=1e-3)
    (camera,) = model.cameras.values()
    assert (camera.width, camera.height) == (WIDTH, HEIGHT)
    assert camera.principal_point_x == pytest.approx(scene.intrinsics[0, 0, 2] + 0.5)
    names = sorted(image.name for image in model.images.values())
    assert names == sorted(path.name for path in (folder / "out" / "colmap" / "images").iterdir())


def test_exports_have_the_pictures_in_full_size_and_the_tracked_points(clip: RenderedClip, folder: Path) -> None:
    from PIL import Image

    document = json.loads((folder / "out" / "nerfstudio" / "transforms.json").read_text())
    assert (document["w"], document["h"], len(document["frames"])) == (WIDTH, HEIGHT, FRAMES)
    for export in ("colmap", "nerfstudio"):
        image = np.asarray(Image.open(folder / "out" / export / "images" / "frame_00003.png"))
        assert np.abs(image.astype(int) - clip.frames[2]).mean() < 15  # the video has half of the colours' resolution
    cloud = read_ply((folder / "out" / "pointcloud.ply").read_bytes())
    start = read_ply((folder / "out" / "nerfstudio" / document["ply_file_path"]).read_bytes())
    assert 200 < len(cloud) <= len(load_scene(folder / "out").tracks)
    assert len(start) == len(cloud) and (cloud.points[:, 2] > 0).all() and (cloud.confidence >= 2).all()
    lines = (folder / "out" / "trajectory_tum.txt").read_text().splitlines()[1:]
    assert [float(line.split()[0]) for line in lines] == pytest.approx(np.arange(FRAMES) / 10)
    assert len((folder / "out" / "trajectory_kitti.txt").read_text().splitlines()) == FRAMES


def test_frames_are_chosen_evenly_and_max_side_bounds_features_alone(folder: Path, clip: RenderedClip, tmp_path: Path) -> None:
    arguments = ["reconstruct", str(folder / "room.mp4"), "--cameras", "tracks", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--frames", "4", "--max-side", "128", "--focal_px", "150"]) == 0
    document, poses, intrinsics = cameras_of(tmp_path / "out")
    assert (document["width"], document["height"], document["fps"]) == (WIDTH, HEIGHT, 5.0)
    assert pose_errors(poses, clip.poses[::2])["rotation_deg"].mean() < 1
    np.testing.assert_allclose(intrinsics[:, 0, 0], 150, rtol=1e-5)


def test_auto_judges_the_network_and_writes_the_better(capsys, folder: Path, clip: RenderedClip, model: Path) -> None:
    (folder / "true.json").write_bytes((folder / "out" / "cameras.json").read_bytes())
    arguments = ["reconstruct", str(folder / "room.mp4"), "--model", str(model), "--true_cameras", str(folder / "true.json")]
    assert main([*arguments, "--out", str(folder / "auto")]) == 0
    printed = capsys.readouterr().out
    document, poses, _ = cameras_of(folder / "auto")
    assert document["source"] == "tracks" and "cameras: tracks (" in printed and "this reconstruction" in printed
    assert pose_errors(poses, clip.poses)["rotation_deg"].mean() < 0.6


def test_auto_takes_the_network_where_nothing_can_be_followed(capsys, tmp_path: Path) -> None:
    """Nothing but blur for the features; for the trained network, one of its own rooms, the middle of a wide frame."""
    from PIL import Image, ImageFilter

    from jog3r.data import procedural_clip

    sharp = procedural_clip(2, split="test", num_frames=5, height=64, width=96).frames
    frames = np.stack([np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(3))) for frame in sharp])
    (tmp_path / "room.mp4").write_bytes(encode_video(frames, 8.0, scale=1))
    arguments = ["reconstruct", str(tmp_path / "room.mp4"), "--export", "colmap", "npz", "--out"]
    assert main([*arguments, str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    document, poses, intrinsics = cameras_of(tmp_path / "out")
    assert (document["source"], document["width"], document["height"]) == ("network", 96, 64)
    assert "cameras: network (" in printed and "the bundled tiny model" in printed and "had no effect" not in printed
    assert main([*arguments, str(tmp_path / "given"), "--focal_px", "90", "--interpolate"]) == 0
    assert "note: --focal_px, --interpolate had no effect: these cameras are the network's" in capsys.readouterr().out
    assert main([*arguments, str(tmp_path / "network"), "--cameras", "network"]) == 0
    of_network, its_poses, its_intrinsics = cameras_of(tmp_path / "network")
    assert (of_network["source"], of_network["width"], of_network["height"]) == ("network", 64, 64)
    np.testing.assert_allclose(poses, its_poses, atol=1e-5)
    np.testing.assert_allclose(intrinsics[:, 0, 0], its_intrinsics[:, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(intrinsics[:, 0, 2] - its_intrinsics[:, 0, 2], 16, atol=1e-4)  # the middle 64 of 96 columns
    model = pycolmap.Reconstruction(str(tmp_path / "out" / "colmap" / "sparse" / "0"))
    (camera,) = model.cameras.values()
    stored = model.compute_mean_reprojection_error()
    model.update_point_3d_errors()
    assert (camera.width, camera.height) == (96, 64) and stored < 0.01
    assert model.compute_mean_reprojection_error() == pytest.approx(stored, abs=1e-3)


def test_a_video_too_long_for_the_network_goes_by_tracks_and_says_so(capsys, monkeypatch, folder: Path, tmp_path: Path) -> None:
    monkeypatch.setattr("jog3r.Jog3rPipeline.max_video_frames", 3)
    arguments = ["reconstruct", str(folder / "room.mp4"), "--frames", "4"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert "note: the network was not asked; the network takes at most 3 frames at once, got 4" in capsys.readouterr().out
    assert cameras_of(tmp_path / "out")[0]["source"] == "tracks"
    line = refused(capsys, tmp_path / "none", *arguments, "--cameras", "tracks", "--depth", "network")
    assert "the network takes at most 3 frames at once, got 4: take fewer (--frames), or add --window 16" in line


def test_windows_that_do_not_join_leave_the_tracks(capsys, monkeypatch, folder: Path, tmp_path: Path) -> None:
    def apart(*_: object) -> None:
        raise JoinError("frames 2 to 3 do not join their windows: no frame has a pose in both windows")

    monkeypatch.setattr("jog3r.commands.reconstruction.tracked.find_maps", apart)
    arguments = ["reconstruct", str(folder / "room.mp4"), "--window", "4"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert "note: the network has no say; frames 2 to 3 do not join their windows" in capsys.readouterr().out
    assert cameras_of(tmp_path / "out")[0]["source"] == "tracks"


def test_where_neither_can_tell_the_ways_out_are_named(capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("jog3r.Jog3rPipeline.max_video_frames", 3)
    (tmp_path / "grey.mp4").write_bytes(encode_video(np.full((5, 96, 128, 3), 128, np.uint8), 10.0, scale=1))
    line = refused(capsys, tmp_path / "out", "reconstruct", tmp_path / "grey.mp4")
    assert "too little texture" in line and "take fewer (--frames), or add --window 16" in line


def test_frames_of_a_trimmed_video_are_chosen_from_those_that_show(folder: Path, tmp_path: Path) -> None:
    content = bytearray((folder / "room.mp4").read_bytes())
    place, ticks = content.index(b"elst") + 12, struct.unpack_from(">I", content, content.index(b"mdhd") + 16)[0]
    seconds, start, rate = struct.unpack_from(">Iii", content, place)
    struct.pack_into(">Iii", content, place, seconds * 5 // 7, start + 2 * ticks // 10, rate)  # the first 2 of 7 are hidden
    (tmp_path / "trimmed.mp4").write_bytes(content)
    windows = ["reconstruct", str(tmp_path / "trimmed.mp4"), "--cameras", "network", "--window", "3", "--frames", "3"]
    assert main([*windows, "--out", str(tmp_path / "windows")]) == 0
    assert len(cameras_of(tmp_path / "windows")[1]) == 3
    arguments = ["reconstruct", str(tmp_path / "trimmed.mp4"), "--cameras", "tracks", "--frames", "3", "--out"]
    assert main([*arguments, str(tmp_path / "out")]) == 0
    assert [frame["time"] for frame in cameras_of(tmp_path / "out")[0]["frames"]] == pytest.approx([0, 0.2, 0.4])


def test_a_full_disk_ends_in_one_line(capsys, monkeypatch, folder: Path, tmp_path: Path) -> None:
    little = SimpleNamespace(free=1000)
    arguments = ("reconstruct", folder / "room.mp4", "--cameras", "tracks")
    with monkeypatch.context() as patch:
        patch.setattr("jog3r.commands.reconstruction.spool.shutil.disk_usage", lambda _: little)
        assert "7 frames take 0.0 GB" in refused(capsys, tmp_path / "out", *arguments)
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    enter = Spool.__enter__

    def full(spool: Spool) -> Spool:
        found = enter(spool)
        found.files["frames"] = open("/dev/full", "wb", buffering=0)  # noqa: SIM115  # the spool closes it
        return found

    monkeypatch.setattr(Spool, "__enter__", full)
    line = refused(capsys, tmp_path / "out", *arguments)
    assert "No space left" in line and "name an --out on a larger disk" in line


def test_windows_of_the_network_go_with_tracks(folder: Path, clip: RenderedClip, tmp_path: Path) -> None:
    arguments = ["reconstruct", str(folder / "room.mp4"), "--window", "4", "--keyframes", "3", "--depth", "network"]
    assert main([*arguments, "--export", "npz", "--out", str(tmp_path / "out")]) == 0
    document, poses, _ = cameras_of(tmp_path / "out")
    assert document["source"] == "tracks" and len(poses) == FRAMES
    dense = load_scene(tmp_path / "out")
    assert dense.frame_index.tolist() == [0, 3, 6] and dense.size == (64, 64) and dense.pointmaps is not None
    reduced = resize_frames(clip.frames[dense.frame_index], 64, 64, "crop")[0]
    assert np.abs(dense.frames.astype(int) - reduced).mean() < 12  # the video is lossy


def test_without_pycolmap_auto_says_so_once_and_tracks_are_refused(capsys, monkeypatch, folder: Path, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    line = refused(capsys, tmp_path / "out", "reconstruct", folder / "room.mp4", "--cameras", "tracks")
    assert "need pycolmap: pip install" in line and "[sfm]" in line
    assert main(["reconstruct", str(folder / "room.mp4"), "--out", str(tmp_path / "out")]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if "[sfm]" in line]
    assert len(notes) == 1 and "these cameras are the network's" in notes[0]
    document, _, _ = cameras_of(tmp_path / "out")
    assert (document["source"], document["width"], document["height"]) == ("network", WIDTH, HEIGHT)


def test_frames_that_cannot_be_registered_are_flagged_and_interpolated_if_asked(
    capsys: pytest.CaptureFixture, clip: RenderedClip, tmp_path: Path
) -> None:
    frames, count = clip.frames[:5].copy(), 5
    frames[3] = 128
    (tmp_path / "gap.mp4").write_bytes(encode_video(frames, 10.0, scale=1, crf=4))
    arguments = ["reconstruct", str(tmp_path / "gap.mp4"), "--cameras", "tracks", "--export", "tum", "colmap", "--out"]
    assert main([*arguments, str(tmp_path / "flagged")]) == 0
    assert "frame 3: too few points, pose unknown" in capsys.readouterr().out
    document, _, _ = cameras_of(tmp_path / "flagged")
    assert [frame["registered"] for frame in document["frames"]] == [index != 3 for index in range(count)]
    assert document["frames"][3]["pose_known"] is False and document["frames"][3]["doubtful"] == "too few points"
    assert [index for index, frame in enumerate(document["frames"]) if "doubtful" in frame] == [3]
    assert load_scene(tmp_path / "flagged").doubtful.tolist() == [frame.get("doubtful", "") for frame in document["frames"]]
    assert len((tmp_path / "flagged" / "trajectory_tum.txt").read_text().splitlines()) == count  # and a header
    assert not (tmp_path / "flagged" / "colmap" / "images" / "frame_00004.png").exists()
    assert main([*arguments, str(tmp_path / "laid"), "--interpolate"]) == 0
    assert "frame 3: interpolated" in capsys.readouterr().out
    document, poses, _ = cameras_of(tmp_path / "laid")
    assert document["frames"][3]["registered"] is False and "pose_known" not in document["frames"][3]
    assert document["frames"][3]["doubtful"] == "interpolated"
    assert pose_errors(poses, clip.poses[:count])["rotation_deg"].max() < 0.5


def test_depth_that_cannot_be_aligned_leaves_the_tracked_points(capsys, folder: Path, tmp_path: Path) -> None:
    """A depth model with random weights: whatever it says, the cameras and a cloud are there, and a line says how it fits."""
    from test_prepare_sources import save_depth_anything

    for kind in ("metric", "relative"):
        save_depth_anything(tmp_path / kind, kind)
        arguments = ["reconstruct", str(folder / "room.mp4"), "--cameras", "tracks", "--frames", "4", "--depth"]
        code = main([*arguments, str(tmp_path / kind), "--out", str(tmp_path / f"{kind}_out"), "--export", "npz"])
        captured = capsys.readouterr()
        assert (code == 0 and "of the tracked points" in captured.out) or (code == 2 and "--depth" in captured.err)
        assert {path.name for path in (tmp_path / f"{kind}_out").iterdir()} == RESULTS | {"scene.npz"}
    shutil.rmtree(tmp_path / "metric")
    line = refused(capsys, tmp_path / "none", *arguments, tmp_path / "metric")
    assert "--depth" in line and "cannot be used" in line


def test_geometry_of_a_file_is_refined_by_the_tracks_of_its_video(
    capsys, folder: Path, clip: RenderedClip, tmp_path: Path
) -> None:
    """Coarse cameras and exact depth in a small square: cameras get those of the tracks, the cloud the depth."""
    from jog3r.commands.reconstruction.network_maps import grid_transform

    transform = grid_transform((HEIGHT, WIDTH), (48, 48), "crop")
    scene = load_scene(folder / "out")
    wall = 5.0  # the depth of what is ahead, in the room's own unit, up to what stands before it
    coarse = np.linalg.inv(clip.poses)
    coarse[:, :3, 3] += np.random.default_rng(0).normal(0, 0.05, (FRAMES, 3))
    coarse[0] = np.eye(4)
    arrays = {"extrinsics": coarse, "intrinsics": transform @ clip.intrinsics, "depth": np.full((FRAMES, 48, 48), wall)}
    np.savez(tmp_path / "found.npz", **arrays)
    arguments = ["register", str(tmp_path / "found.npz"), "--cameras", "auto"]
    assert "add --video" in refused(capsys, tmp_path / "out", *arguments)
    assert main([*arguments, "--video", str(folder / "room.mp4"), "--out", str(tmp_path / "out"), "--export", "npz"]) == 0
    assert "depth of 'file': within" in capsys.readouterr().out
    document, poses, _ = cameras_of(tmp_path / "out")
    assert (document["source"], document["width"], document["height"]) == ("tracks", WIDTH, HEIGHT)
    errors = pose_errors(poses, clip.poses)
    assert errors["rotation_deg"].mean() < 0.3 and errors["translation_deg"].mean() < 3
    dense = load_scene(tmp_path / "out")
    assert dense.size == (48, 48) and dense.source == "tracks"
    unit = np.linalg.norm(scene.poses[-1, :3, 3]) / np.linalg.norm(clip.poses[-1, :3, 3])
    assert np.median(dense.depth[dense.confidence > 0]) == pytest.approx(wall * unit, rel=0.25)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cameras", "magic"], "invalid choice: 'magic'"),
        (["--cameras", "network", "--max_side", "320"], "--max_side has no effect with --cameras network"),
        (["--cameras", "network", "--depth", "network"], "--depth has no effect with --cameras network"),
        (["--cameras", "tracks", "--window", "16"], "--window has no effect with --cameras tracks"),
        (["--cameras", "tracks", "--model", "x"], "--model has no effect with --cameras tracks"),
        (["--cameras", "tracks", "--device", "cuda"], "--device has no effect on tracks of SIFT features"),
        (["--cameras", "tracks", "--dtype", "bfloat16"], "--dtype has no effect with --cameras tracks"),
        (["--cameras", "tracks", "--max_side", "20"], "max_side must be at least 64 pixels, got 20"),
        (["--cameras", "tracks", "--focal_px", "-3"], "focal_px must be a positive number, got -3"),
        (["--cameras", "tracks", "--frames", "1"], "--frames must be at least 2"),
        (["--cameras", "tracks", "--frames", "50"], "gives 7 frames"),
        (["--cameras", "tracks", "--stop", "1"], "gives 1 frame"),
        (["--cameras", "tracks", "--depth", "./nowhere"], "--depth './nowhere' cannot be used"),
        (["--height", "16"], "both --height and --width"),
        (["--keyframes", "3"], "--keyframes chooses among the frames of a long video"),
        (["--keyframes", "0", "--window", "4"], "--keyframes must be at least 1, got 0"),
        (["--window", "1"], "--window must be at least 2 frames, got 1"),
        (["--overlap", "0"], "--overlap must be at least 1 frame, got 0"),
        (["--pixel_aspect", "nan"], "pixel_aspect must be a positive number, got nan"),
        (["--cameras", "network", "--distortion", "0"], "--distortion has no effect with --cameras network"),
        (["--distortion", "-0.3"], "distortion -0.3 means something beside a focal length only: give focal_px as well"),
    ],
)
def test_mistakes_end_in_one_line(capsys, folder: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    assert message in refused(capsys, tmp_path / "out", "reconstruct", folder / "room.mp4", *arguments)


def test_videos_that_tracks_cannot_tell_end_in_one_line(capsys, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    clips = {
        "grey": (np.full((5, 96, 128, 3), 128, np.uint8), "too little texture"),
        "unrelated": (
            random.integers(0, 255, (4, 12, 16, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2),
            "no cameras from tracks",
        ),
    }
    for name, (frames, message) in clips.items():
        (tmp_path / f"{name}.mp4").write_bytes(encode_video(frames, 10.0, scale=1))
        line = refused(capsys, tmp_path / "out", "reconstruct", tmp_path / f"{name}.mp4", "--cameras", "tracks")
        assert message in line, line
