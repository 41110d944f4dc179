"""Lenses that bend straight lines: the model, cameras from tracks behind one, and pictures without it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sfm_scenes import RenderedClip, make_room, path, render

from jog3r.commands.parser import main
from jog3r.data.video import read_video
from jog3r.export.exporters import load_scene
from jog3r.export.formats.camera_files import cameras_json, npz_bytes, read_details, read_npz
from jog3r.export.scene import Scene
from jog3r.export.video import encode_video
from jog3r.geometry.camera_metrics import pose_errors
from jog3r.sfm import TrackedCameras, track_cameras
from jog3r.sfm.lens import bending_of, bent, stretch, undistorted_images, undistorted_pixels

pycolmap = pytest.importorskip("pycolmap")
SIZE, FOCAL, DISTORTION = (144, 192), 110.0, -0.3


@pytest.fixture(scope="module")
def clip() -> RenderedClip:
    return render(make_room(1), path(6, sideways=0.6, forward=0.3, turn_deg=30), SIZE, FOCAL, distortion=DISTORTION)


@pytest.fixture(scope="module")
def found(clip: RenderedClip) -> TrackedCameras:
    return track_cameras(clip.frames)


@pytest.mark.parametrize("distortion", [-0.4, 0.0, 0.1])
def test_bending_is_undone_and_its_derivatives_are_right(distortion: float) -> None:
    slopes = np.random.default_rng(0).normal(0, 0.4, (50, 2))
    shown = bent(slopes, distortion)
    np.testing.assert_allclose(shown / stretch(shown, distortion), slopes, atol=1e-12)
    by_slopes, by_distortion = bending_of(slopes, distortion)
    step = 1e-6
    np.testing.assert_allclose(
        by_distortion, (bent(slopes, distortion + step) - bent(slopes, distortion - step)) / (2 * step), atol=1e-8
    )
    for axis, shift in enumerate(step * np.eye(2)):
        numeric = (bent(slopes + shift, distortion) - bent(slopes - shift, distortion)) / (2 * step)
        np.testing.assert_allclose(by_slopes[:, :, axis], numeric, atol=1e-8)


def test_undistorted_frames_are_those_of_a_pinhole(clip: RenderedClip) -> None:
    straight = render(make_room(1), clip.poses[:1], SIZE, FOCAL).frames[0]
    (undone,) = undistorted_images(clip.frames[:1], clip.intrinsics[None], DISTORTION)
    assert undone.dtype == np.uint8

    def difference(image: np.ndarray) -> float:
        return float(np.abs(image.astype(float) - straight).mean())

    assert difference(undone) < 0.25 * difference(clip.frames[0])
    numbers = np.random.default_rng(0).random((1, *SIZE, 1), np.float32)
    (nearest,) = undistorted_images(numbers, clip.intrinsics[None], DISTORTION, nearest=True)
    assert nearest.dtype == np.float32 and np.isin(nearest, numbers).all()


def test_a_wide_lens_is_found_with_the_cameras(clip: RenderedClip, found: TrackedCameras) -> None:
    assert found.distortion == pytest.approx(DISTORTION, abs=0.03)
    assert found.intrinsics[0, 0, 0] == pytest.approx(FOCAL, rel=0.04)
    errors = pose_errors(found.poses, clip.poses)
    assert errors.rotation_deg.max() < 0.5 and errors.translation_deg.max() < 3
    blind = track_cameras(clip.frames, distortion=0.0)
    assert blind.distortion == 0 and pose_errors(blind.poses, clip.poses).rotation_deg.max() > 1


def test_points_are_seen_where_the_lens_shows_them_and_straight_without_it(found: TrackedCameras, clip: RenderedClip) -> None:
    frames, straight = found.undistorted(clip.frames)
    assert straight.distortion == 0 and frames.shape == clip.frames.shape and (frames != clip.frames).any()
    scene = Scene.from_tracks(clip.frames, found, fps=8.0)
    assert scene.distortion == found.distortion and (scene.frames == frames).all()
    tracks = straight.tracks
    world = torch.cat([found.points.double(), torch.ones(len(found.points), 1).double()], 1)[tracks.point]
    camera = (torch.linalg.inv(found.poses.double())[tracks.frame] @ world[..., None])[:, :3, 0]
    slopes = camera[:, :2] / camera[:, 2:]
    centre, focals = found.intrinsics[0, :2, 2].double(), found.intrinsics[0, [0, 1], [0, 1]].double()
    assert ((slopes * focals + centre - tracks.xy).norm(dim=1).median()) < 0.5
    shown = torch.from_numpy(bent(slopes.numpy(), found.distortion)) * focals + centre
    assert (shown - found.tracks.xy).norm(dim=1).median() < 0.5
    assert (tracks.xy - found.tracks.xy).norm(dim=1).max() > 5
    place = clip.frames.copy()
    assert found.undistorted(place, out=place)[0] is place and (place == frames).all()


def test_a_lens_that_turns_is_not_taken_for_motion() -> None:
    turning = render(make_room(1), path(4, turn_deg=20), SIZE, FOCAL, distortion=DISTORTION)
    found = track_cameras(turning.frames)
    assert all("no parallax" in words for words in found.degenerate[1:])
    assert found.distortion == pytest.approx(DISTORTION, abs=0.03)
    assert pose_errors(found.poses, turning.poses).rotation_deg.max() < 0.3


def test_a_given_lens_is_held(clip: RenderedClip, found: TrackedCameras) -> None:
    frames = clip.frames[::2]
    given = track_cameras(frames, focal_px=FOCAL, distortion=DISTORTION)
    assert given.distortion == DISTORTION and given.focal_uncertainty == 0
    assert pose_errors(given.poses, clip.poses[::2]).rotation_deg.max() < 0.3
    intrinsics = track_cameras(frames, known_intrinsics=clip.intrinsics, distortion=DISTORTION)
    assert torch.allclose(intrinsics.poses, given.poses, atol=1e-3)
    xy = given.tracks.xy.numpy()  # in pixels of the video given, as those that were found
    assert 0 < xy[:, 0].min() < 10 and SIZE[1] - 10 < xy[:, 0].max() < SIZE[1]
    straight = undistorted_pixels(xy, clip.intrinsics, DISTORTION)
    assert np.array_equal(given.undistorted(frames)[1].tracks.xy.numpy(), straight)
    assert straight[:, 0].max() > SIZE[1] + 10 and found.tracks.xy[:, 0].max() < SIZE[1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"distortion": -0.3}, "distortion -0.3 means something beside a focal length only: give focal_px as well"),
        ({"distortion": True, "focal_px": 110.0}, "distortion must be a number, got True"),
        ({"distortion": float("nan"), "focal_px": 110.0}, "distortion must be a number, got nan"),
        ({"distortion": -3, "focal_px": 110.0}, r"distortion must be above -0\.672 here, got -3"),
    ],
)
def test_distortions_that_make_no_sense_are_refused(clip: RenderedClip, given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        track_cameras(clip.frames, **given)


def test_files_keep_the_distortion(found: TrackedCameras, clip: RenderedClip) -> None:
    scene = Scene.from_tracks(clip.frames, found, fps=8.0)
    assert read_details(cameras_json(scene))["distortion"] == found.distortion
    assert read_npz(npz_bytes(scene)).distortion == found.distortion
    assert "distortion" not in cameras_json(replace(scene, distortion=0.0)).decode()
    assert f"distortion {found.distortion:.3f} (taken out of the pictures)" in scene.focal_deviation


def test_the_command_writes_what_a_pinhole_would_have_seen(clip: RenderedClip, model: Path, tmp_path: Path, capsys) -> None:
    video, out = tmp_path / "wide.mp4", tmp_path / "out"
    video.write_bytes(encode_video(clip.frames[::2], 10.0, scale=1, crf=4))
    lens = ["--focal_px", str(FOCAL), "--distortion", str(DISTORTION)]
    arguments = [
        "reconstruct",
        str(video),
        "--cameras",
        "tracks",
        *lens,
        "--depth",
        "network",
        "--model",
        str(model),
        "--out",
        str(out),
    ]
    assert main([*arguments, "--export", "colmap"]) in (0, 2)  # random weights: their depth may not go with the points
    assert f"distortion {DISTORTION:.3f} (taken out of the pictures)" in capsys.readouterr().out
    assert json.loads((out / "cameras.json").read_text())["distortion"] == DISTORTION
    straight = np.stack(list(undistorted_images(read_video(video).frames, np.tile(clip.intrinsics, (3, 1, 1)), DISTORTION)))
    scene = load_scene(out)
    assert scene.distortion == DISTORTION and np.abs(scene.frames.astype(int) - straight).mean() < 6  # the result is lossy
    model = pycolmap.Reconstruction(str(out / "colmap" / "sparse" / "0"))
    assert [camera.model.name for camera in model.cameras.values()] == ["PINHOLE"]
    stored = model.compute_mean_reprojection_error()
    model.update_point_3d_errors()
    assert model.compute_mean_reprojection_error() == pytest.approx(stored, abs=1e-3) and stored < 0.5


def test_maps_of_a_network_are_undistorted_with_the_frames() -> None:
    from types import SimpleNamespace

    from jog3r.commands.reconstruction.network_maps import NetworkMaps

    transform, numbers = np.diag([0.5, 0.5, 1.0]), np.array([0, 2])
    frames, depth = np.random.default_rng(0).integers(0, 255, (2, 24, 32, 3), np.uint8), np.ones((2, 24, 32), np.float32)
    depth[:, :, 16:] = 2
    poses, intrinsics = np.tile(np.eye(4), (3, 1, 1)), np.tile(np.array([[40.0, 0, 32], [0, 40, 24], [0, 0, 1]]), (3, 1, 1))
    maps = NetworkMaps(poses, transform @ intrinsics, ("",) * 3, numbers, frames, depth, depth, transform)
    assert maps.undistorted(SimpleNamespace(distortion=0.0)) is maps
    straight = maps.undistorted(SimpleNamespace(distortion=DISTORTION, intrinsics=intrinsics))
    wanted = list(undistorted_images(frames, (transform @ intrinsics)[numbers], DISTORTION))
    assert (straight.frames == wanted).all() and set(np.unique(straight.depth)) == {1, 2}
    assert straight.depth.shape == straight.confidence.shape == depth.shape
