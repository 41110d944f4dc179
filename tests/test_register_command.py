"""`jog3r register`: the geometry of any model, in the three forms it may have, to the results of every run."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from jog3r.commands.parser import main
from jog3r.data import procedural_clip
from jog3r.export.exporters import load_scene
from jog3r.export.video import encode_video
from jog3r.geometry.camera_metrics import pose_errors
from jog3r.geometry.pointmaps import pointmaps_in_first_camera
from jog3r.geometry.registration.other_inputs import register_world_pointmaps, registration_from_depth

FRAMES, HEIGHT, WIDTH = 5, 48, 64
CLIP = procedural_clip(3, split="test", num_frames=FRAMES, height=HEIGHT, width=WIDTH)
POINTS = pointmaps_in_first_camera(*(torch.from_numpy(a) for a in (CLIP.depth, CLIP.intrinsics, CLIP.poses))).numpy()
RESULTS = {"video.mp4", "pointcloud.ply", "pointcloud.glb", "cameras.json", "trajectory.png"}


def elsewhere() -> np.ndarray:
    """A world that is no camera: turned a quarter about y, and moved."""
    world = np.eye(4)
    world[:3, :3], world[:3, 3] = [[0, 0, 1], [0, 1, 0], [-1, 0, 0]], [1.0, -2.0, 3.0]
    return world


def larger(poses: np.ndarray, factor: float) -> np.ndarray:
    scaled = poses.astype(np.float64)
    scaled[:, :3, 3] *= factor
    return scaled


MOVED = POINTS @ elsewhere()[:3, :3].T + elsewhere()[:3, 3]
CAMERAS = {"intrinsics": CLIP.intrinsics, "poses": elsewhere() @ larger(CLIP.poses, 7.0)}
PAIRS = {
    "anchor_pointmaps": np.repeat(POINTS[:1], FRAMES - 1, 0),
    "pointmaps": POINTS[1:],
    "pairs": np.array([[0, frame] for frame in range(1, FRAMES)]),
}
FORMS = {
    "depth": {"depth": 7 * CLIP.depth, **CAMERAS},
    "world-to-camera": {"depth": CLIP.depth, "intrinsics": CLIP.intrinsics[0], "extrinsics": np.linalg.inv(CLIP.poses)[:, :3]},
    "world": {"pointmaps": 3 * POINTS, "confidence": np.ones((FRAMES, HEIGHT, WIDTH))},
    "another world": {"pointmaps": MOVED, "poses": elsewhere() @ CLIP.poses.astype(np.float64)},
    "pairs": PAIRS,
    "a depth camera": {"depth": (5e3 * CLIP.depth).round().astype(np.uint16), **CAMERAS, "poses": larger(CLIP.poses, 5e3)},
    "another machine": {"depth": CLIP.depth.astype(">f4"), "intrinsics": CLIP.intrinsics, "poses": CLIP.poses},
    "unsigned pairs": {**PAIRS, "pairs": PAIRS["pairs"].astype(np.uint16)},
}


@pytest.mark.parametrize("form", FORMS)
def test_exact_geometry_of_every_form_gives_the_true_cameras(capsys, tmp_path: Path, form: str) -> None:
    np.savez(tmp_path / "found.npz", **FORMS[form], frames=CLIP.frames)
    assert main(["register", str(tmp_path / "found.npz"), "--out", str(tmp_path / "out"), "--export", "npz", "colmap"]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == RESULTS | {"scene.npz", "colmap"}
    printed = capsys.readouterr().out
    assert "doubtful" not in printed and f"focal length {CLIP.intrinsics[0, 0, 0]:.0f} pixels; depth of frames" in printed
    agreement = float(re.search(r"agrees to ([\d.]+) %\n?$", printed.strip())[1])
    assert agreement < 1
    scene = load_scene(tmp_path / "out")
    errors = pose_errors(scene.poses, CLIP.poses)
    assert errors["rotation_deg"].max() < 0.01 and errors["translation_deg"].max() < 0.05
    np.testing.assert_allclose(scene.intrinsics, CLIP.intrinsics, rtol=1e-3)
    unit = np.linalg.norm(POINTS[0][CLIP.valid[0]], axis=-1).mean()  # lengths are in mean distances of frame 1
    np.testing.assert_allclose(scene.depth[CLIP.valid] * unit, CLIP.depth[CLIP.valid], rtol=2e-3)
    assert (scene.frames == CLIP.frames).all()


def test_a_video_that_zooms_has_a_focal_length_for_each_frame(tmp_path: Path) -> None:
    intrinsics = CLIP.intrinsics.copy()
    intrinsics[:, [0, 1], [0, 1]] *= np.linspace(1, 1.4, FRAMES)[:, None]
    points = pointmaps_in_first_camera(*(torch.from_numpy(a) for a in (CLIP.depth, intrinsics, CLIP.poses))).numpy()
    np.savez(tmp_path / "found.npz", **{**PAIRS, "pointmaps": points[1:]}, frames=CLIP.frames)
    arguments = ["register", str(tmp_path / "found.npz"), "--out", str(tmp_path / "out"), "--export", "npz", "--focal_per_frame"]
    assert main(arguments) == 0
    scene = load_scene(tmp_path / "out")
    np.testing.assert_allclose(scene.intrinsics, intrinsics, rtol=2e-3)
    assert pose_errors(scene.poses, CLIP.poses)["rotation_deg"].max() < 0.2


def test_pictures_come_from_a_video_where_the_file_has_none(capsys, tmp_path: Path) -> None:
    np.savez(tmp_path / "found.npz", **FORMS["depth"])
    longer = np.repeat(CLIP.frames, 2, 0)[:-1]  # 9 frames, every other one is meant
    (tmp_path / "room.mp4").write_bytes(encode_video(np.repeat(np.repeat(longer, 2, 1), 2, 2), 10.0, scale=1))
    arguments = ["register", str(tmp_path / "found.npz"), "--video", str(tmp_path / "room.mp4"), "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "gives more than 5 frames with start=0" in (line := capsys.readouterr().err) and "--frames 5 takes as many" in line
    assert not (tmp_path / "out").exists()
    assert main([*arguments, "--frames", "5"]) == 0
    cameras = json.loads((tmp_path / "out" / "cameras.json").read_text())
    assert (cameras["width"], cameras["height"], cameras["fps"], len(cameras["frames"])) == (WIDTH, HEIGHT, 5.0, FRAMES)
    assert np.abs(load_scene(tmp_path / "out").frames.astype(int) - CLIP.frames).mean() < 12  # lossy twice


def changed(form: str, **arrays: object) -> dict[str, object]:
    return {name: array for name, array in {**FORMS[form], "frames": CLIP.frames, **arrays}.items() if array is not None}


@pytest.mark.parametrize("mistake", ["swapped", "other unit"])
def test_geometry_that_contradicts_itself_is_said_to(capsys, tmp_path: Path, mistake: str) -> None:
    poses = np.linalg.inv(CLIP.poses) if mistake == "swapped" else larger(CLIP.poses, 100.0)
    np.savez(tmp_path / "found.npz", depth=CLIP.depth, intrinsics=CLIP.intrinsics, poses=poses, frames=CLIP.frames)
    assert main(["register", str(tmp_path / "found.npz"), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "are the poses what they are called" in printed and "are the intrinsics of these pixels?" in printed


@pytest.mark.parametrize(
    ("arrays", "arguments", "message"),
    [
        ({"points": POINTS, "frames": CLIP.frames}, [], "holds frames, points, and for pointmaps in one world lacks pointmaps"),
        ({}, [], "holds nothing"),
        (changed("depth", poses=None), [], "for depth with cameras lacks poses; wanted is one of pairwise pointmaps: anchor_"),
        (changed("depth", extrinsics=CLIP.poses), [], "has too many: poses and extrinsics"),
        (changed("depth", sky=CLIP.valid), [], "has too many: sky"),
        (changed("pairs", anchor_pointmaps=None), [], "for pairwise pointmaps lacks anchor_pointmaps"),
        (changed("depth", frames=None), [], "the pictures are missing"),
        (
            changed("world-to-camera", extrinsics=np.linalg.inv(CLIP.poses).transpose(0, 2, 1)),
            [],
            "extrinsics must be rigid transforms from the world to the camera; matrix 1: its last row is",
        ),
        (changed("pairs", intrinsics=CLIP.intrinsics), ["--focal_per_frame"], "--focal_per_frame has no effect"),
        (changed("depth", frames=CLIP.frames / 255), [], "frames of"),
        (changed("depth", frames=CLIP.frames[:3]), [], "has 3 frames of 64 x 48 pixels, the geometry"),
        (changed("depth", depth=np.zeros_like(CLIP.depth)), [], "depth of frame 1 must have valid pixels"),
        (changed("depth", depth=CLIP.depth[..., None]), [], "depth of"),
        (changed("depth", depth=np.array([["much"]])), [], "depth of"),
        (changed("depth", intrinsics=np.eye(4)), [], "intrinsics must be finite, (3, 3) or (5, 3, 3)"),
        (changed("depth", depth=CLIP.depth.astype(complex)), [], "depth must hold real numbers"),
        (changed("pairs", pairs=PAIRS["pairs"].astype(float)), [], "pairs must be whole numbers (P, 2), got float64"),
        (changed("depth", poses=2 * CLIP.poses), [], "rigid camera-to-world"),
        (changed("world-to-camera", extrinsics=CLIP.poses[:, :2]), [], "extrinsics must be world-to-camera"),
        (changed("depth", confidence=-np.ones_like(CLIP.depth)), [], "confidence must be >= 0"),
        (changed("depth", confidence=np.ones(3)), [], "confidence of"),
        (changed("another world", poses=None), [], "pointmaps are not in the camera of frame 1"),
        (changed("world", pointmaps=POINTS[:, ::-1]), [], "its points do not meet their pixels; add poses"),
        (changed("world", pointmaps=POINTS[:1], confidence=None), [], "at least 2 frames"),
        (changed("pairs", pairs=PAIRS["pairs"] - 1), [], "pairs must hold frame indices"),
        (changed("depth", intrinsics=CLIP.intrinsics / WIDTH), [], "intrinsics must be in pixels: "),
        (changed("pairs", intrinsics=CLIP.intrinsics / WIDTH), [], "would be a view of 17"),
        (changed("world", intrinsics=CLIP.intrinsics / WIDTH), [], "intrinsics must be in pixels: "),
        (changed("depth"), ["--registration", "reference"], "--registration belongs to pairwise pointmaps"),
        (changed("world"), ["--focal_per_frame"], "--focal_per_frame belongs to pairwise pointmaps"),
        (changed("depth"), ["--stride", "2"], "--stride chooses frames of a video: add --video"),
        (changed("depth"), ["--export", "obj"], "unknown --export 'obj'"),
        (changed("depth"), ["--video", "nowhere.mp4"], "does not exist"),
        (changed("depth"), ["--video", "nowhere.mp4", "--frames", "1"], "--frames must be at least 2"),
    ],
)
def test_mistakes_end_in_one_line(capsys, tmp_path: Path, arrays: dict, arguments: list[str], message: str) -> None:
    np.savez(tmp_path / "found.npz", **arrays)
    assert main(["register", str(tmp_path / "found.npz"), "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["found.npz"]


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_files_that_are_no_npz_are_refused(capsys, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "found.npz").write_bytes(content)
    assert main(["register", str(tmp_path / "found.npz"), "--out", str(tmp_path / "out")]) == 2
    wanted = "is not there" if content is None else "cannot be read as an npz file"
    assert wanted in (error := capsys.readouterr().err) and len(error.splitlines()) == 1
    (tmp_path / "a.mp4").write_bytes(b"video")
    assert main(["register", str(tmp_path / "a.mp4"), "--out", str(tmp_path / "out")]) == 2
    assert "a video goes to `jog3r reconstruct`" in capsys.readouterr().err
    np.save(tmp_path / "one.npy", POINTS)
    assert main(["register", str(tmp_path / "one.npy"), "--out", str(tmp_path / "out")]) == 2
    assert "is one array (npy)" in capsys.readouterr().err


def test_pixels_without_geometry_stay_without() -> None:
    depth = torch.from_numpy(CLIP.depth.copy())
    depth[1:, :10] = torch.tensor([0.0, -1.0, torch.nan, torch.inf])[:, None, None]
    found = registration_from_depth(depth, torch.from_numpy(CLIP.intrinsics), torch.from_numpy(CLIP.poses))
    assert (found.confidence[1:, :10] == 0).all() and (found.confidence[1:, 10:] == 1).all()
    assert found.pointmaps.isfinite().all() and found.depth.isfinite().all()


def test_the_cameras_of_cropped_frames_may_be_off_the_centre() -> None:
    intrinsics = torch.from_numpy(CLIP.intrinsics.copy())
    intrinsics[:, 0, 2] += 0.2 * WIDTH
    points = pointmaps_in_first_camera(torch.from_numpy(CLIP.depth), intrinsics, torch.from_numpy(CLIP.poses))
    found = register_world_pointmaps(points, intrinsics=intrinsics)
    assert pose_errors(found.poses.numpy(), CLIP.poses)["rotation_deg"].max() < 0.01
    with pytest.raises(ValueError, match="not in the camera of frame 1"):
        register_world_pointmaps(points)


def test_geometry_that_is_trained_is_registered_without_its_gradient() -> None:
    depth = torch.from_numpy(CLIP.depth.copy()).requires_grad_()
    found = registration_from_depth(depth, torch.from_numpy(CLIP.intrinsics), torch.from_numpy(CLIP.poses))
    assert not (found.depth.requires_grad or found.poses.requires_grad or found.pointmaps.requires_grad)


def test_noisy_points_of_frame_1_pass_for_its_camera() -> None:
    noisy = torch.from_numpy(POINTS + np.random.default_rng(0).normal(0, 0.03, POINTS.shape) * CLIP.depth[..., None])
    found = register_world_pointmaps(noisy)
    assert pose_errors(found.poses.numpy(), CLIP.poses)["rotation_deg"].max() < 1
