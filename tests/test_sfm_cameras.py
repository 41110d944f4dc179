"""Cameras from tracks on rendered scenes with known cameras: accuracy, pixel conventions, determinism, refusals."""

import os
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image
from sfm_scenes import RenderedClip, make_room, path, render

from jog3r.geometry.camera_metrics import pose_errors
from jog3r.sfm import TrackedCameras, track_cameras

pytest.importorskip("pycolmap")
SIZE, FOCAL = (144, 192), 150.0


@pytest.fixture(scope="module")
def clip() -> RenderedClip:
    return render(make_room(1), path(5, sideways=0.6, forward=0.5, turn_deg=8), SIZE, FOCAL)


@pytest.fixture(scope="module")
def found(clip: RenderedClip) -> TrackedCameras:
    return track_cameras(clip.frames)


def test_poses_and_focal_are_found(clip: RenderedClip, found: TrackedCameras) -> None:
    errors = pose_errors(found.poses, clip.poses)
    assert errors.rotation_deg.max() < 0.5
    assert errors.translation_deg.max() < 2
    assert torch.equal(found.poses[0], torch.eye(4))
    assert found.intrinsics[0, 0, 0] == pytest.approx(FOCAL, rel=0.05)
    assert found.chosen == "tracks" and "of the observations within 2 pixels" in found.reason
    assert bool(found.registered.all()) and found.degenerate == ("",) * 5


def test_a_given_focal_length_is_held_in_every_beginning(clip: RenderedClip) -> None:
    given = 1.1 * FOCAL  # wrong: bundle adjustment would move it if it could
    found = track_cameras(clip.frames, focal_px=given)
    assert torch.allclose(found.intrinsics[:, [0, 1], [0, 1]], torch.tensor(given))
    assert len(found.candidates) > 1 and all(one.focal_px == pytest.approx(given) for one in found.candidates)


def test_points_project_onto_their_tracks_in_pixels_of_the_video(found: TrackedCameras) -> None:
    tracks = found.tracks
    camera = torch.linalg.inv(found.poses.double())[tracks.frame] @ torch.cat(
        [found.points.double(), torch.ones(len(found.points), 1).double()], 1
    )[tracks.point].unsqueeze(-1)
    pixel = (found.intrinsics.double()[tracks.frame] @ camera[:, :3])[..., 0]
    distance = (pixel[:, :2] / pixel[:, 2:] - tracks.xy).norm(dim=1)
    assert distance.median() < 0.5 and distance.max() < 2.01
    for frame in range(5):
        assert distance[tracks.frame == frame].median() == pytest.approx(float(found.reprojection_px[frame]), abs=0.1)


def test_scale_is_that_of_the_points_of_frame_one(found: TrackedCameras) -> None:
    seen = found.tracks.point[found.tracks.frame == 0]
    assert found.points[seen].norm(dim=1).mean() == pytest.approx(1, abs=1e-4)


def test_every_track_sees_a_frame_once_and_colours_are_those_of_the_frames(clip: RenderedClip, found: TrackedCameras) -> None:
    tracks = found.tracks
    key = tracks.point * 5 + tracks.frame
    assert bool((key[1:] > key[:-1]).all()) and int(torch.bincount(tracks.point).min()) >= 2
    first = torch.cat([torch.ones(1, dtype=torch.bool), tracks.point[1:] != tracks.point[:-1]])
    x, y = tracks.xy[first].round().long().T
    expected = torch.from_numpy(clip.frames)[tracks.frame[first], y.clamp(0, SIZE[0] - 1), x.clamp(0, SIZE[1] - 1)]
    assert torch.equal(found.point_colors, expected)


def test_same_seed_same_result(clip: RenderedClip, found: TrackedCameras) -> None:
    again = track_cameras([Image.fromarray(frame) for frame in clip.frames])
    assert torch.equal(again.poses, found.poses) and torch.equal(again.points, found.points)
    assert again.candidates == found.candidates


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_the_number_of_cores_changes_nothing(clip: RenderedClip, found: TrackedCameras) -> None:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        alone = track_cameras(clip.frames)
    finally:
        os.sched_setaffinity(0, cores)
    assert torch.equal(alone.poses, found.poses) and torch.equal(alone.points, found.points)


def test_frames_of_8000_pixels_are_reduced_one_at_a_time() -> None:
    small = render(make_room(1), path(5, sideways=0.6), (40, 400), 300.0, samples=1)
    frames = small.frames.repeat(20, axis=1).repeat(20, axis=2)  # (5, 800, 8000, 3)
    tracemalloc.start()
    found = track_cameras(frames, focal_px=6000.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * frames[0].nbytes  # a frame on its way from array to picture and back
    assert (found.width, found.height) == (8000, 800) and found.intrinsics[0, 0, 0] == 6000
    assert float(found.tracks.xy[:, 0].max()) > 4000


def test_known_focal_is_kept(clip: RenderedClip) -> None:
    found = track_cameras(torch.from_numpy(clip.frames).float() / 255, focal_px=FOCAL)
    assert found.intrinsics[:, 0, 0].numpy() == pytest.approx(FOCAL) and found.intrinsics[:, 1, 1].numpy() == pytest.approx(FOCAL)
    assert pose_errors(found.poses, clip.poses).rotation_deg.max() < 0.3


def test_intrinsics_per_frame_are_used_and_returned(clip: RenderedClip) -> None:
    """The same clip with every second frame flipped left and right of its centre by a crop of 10 columns."""
    frames = np.stack([frame[:, 10:] if index % 2 else frame[:, :-10] for index, frame in enumerate(clip.frames)])
    intrinsics = np.tile(clip.intrinsics, (5, 1, 1))
    intrinsics[1::2, 0, 2] -= 10
    found = track_cameras(frames, known_intrinsics=intrinsics)
    assert found.intrinsics.numpy() == pytest.approx(intrinsics, rel=1e-5)
    assert pose_errors(found.poses, clip.poses).rotation_deg.max() < 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"focal_px": -3}, "focal_px must be a positive number, got -3"),
        ({"focal_px": 2.6}, "focal_px must be in pixels: 2.6 in frames of .* would be a view of 17"),  # millimetres
        ({"known_intrinsics": np.diag([1.0, 1.2, 1.0])}, "known_intrinsics must be in pixels: 1 in frames"),
        ({"pixel_aspect": 0}, "pixel_aspect must be a positive number, got 0"),
        ({"known_intrinsics": np.eye(2)}, r"known_intrinsics must be finite, \(3, 3\) or \(5, 3, 3\), got shape \(2, 2\)"),
        ({"known_intrinsics": -np.eye(3)}, "upper triangular"),
        ({"known_intrinsics": np.eye(3), "focal_px": 300}, "not both"),
        ({"max_side": 20}, "max_side must be at least 64 pixels, got 20"),
    ],
)
def test_options_that_make_no_sense_are_refused(clip: RenderedClip, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        track_cameras(clip.frames, **options)


@pytest.mark.parametrize(
    ("video", "error", "message"),
    [
        ("clip.mp4", TypeError, "array or tensor .F, H, W, 3. or a list of PIL images, got str"),
        ([], TypeError, "an empty list"),
        (np.zeros((1, 64, 64, 3), np.uint8), ValueError, "at least 2 frames, got 1"),
        (np.zeros((4, 64, 64), np.uint8), ValueError, "shape .F, H, W, 3."),
        (np.zeros((4, 8, 64, 3), np.uint8), ValueError, "at least 32 pixels"),
        (np.full((4, 64, 64, 3), 2.0), ValueError, "must lie in 0..1"),
        (np.zeros((4, 64, 64, 3), np.int32), ValueError, "uint8 in 0..255"),
        ([Image.new("RGB", (64, 64)), Image.new("RGB", (64, 80))], ValueError, "one size"),
        (np.full((4, 96, 96, 3), 127, np.uint8), ValueError, "too little texture"),
    ],
)
def test_videos_without_cameras_are_refused_in_one_line(video: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        track_cameras(video)
    assert "\n" not in str(raised.value)


def test_unrelated_pictures_are_refused() -> None:
    frames = np.stack([render(make_room(seed), path(1), SIZE, FOCAL).frames[0] for seed in range(10, 14)])
    with pytest.raises(ValueError, match="one continuous shot|do not fit one rigid scene"):
        track_cameras(frames)


@pytest.mark.parametrize("calls", [1, 3, 5])
def test_a_check_ends_the_work(clip: RenderedClip, calls: int) -> None:
    class Stopped(BaseException):
        pass

    made = iter(range(1, calls))

    def check() -> None:
        if next(made, None) is None:
            raise Stopped

    with pytest.raises(Stopped):
        track_cameras(clip.frames, check=check)
