"""What tracks cannot tell is flagged: cameras that only turn or stand still, cuts; the judge prefers the right beginning."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from sfm_scenes import make_room, path, render

from jog3r.geometry.camera_metrics import pose_errors
from jog3r.geometry.registration import Registration
from jog3r.sfm import track_cameras
from jog3r.sfm.checks import check_given
from jog3r.sfm.frames import make_grid
from jog3r.sfm.matching.tracks import Tracks
from jog3r.sfm.result import _degenerate, fill_poses, video_intrinsics
from jog3r.sfm.solving import rotation
from jog3r.sfm.solving.adjust import Freedom, adjust
from jog3r.sfm.solving.judge import judge
from jog3r.sfm.solving.planar import scene_is_planar
from jog3r.sfm.solving.prior import FocalPrior, usual_prior
from jog3r.sfm.solving.rotation import rotating_camera
from jog3r.sfm.solving.solution import Solution, reprojection, triangulate
from jog3r.sfm.solving.uncertainty import camera_uncertainty, rivals_disagree

SIZE, FOCAL = (144, 192), 150.0


def test_missing_pycolmap_is_one_line_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(ImportError, match=r"pip install '\.\[sfm\]'") as raised:
        track_cameras(np.zeros((2, 64, 64, 3), np.uint8))
    assert "\n" not in str(raised.value)


def test_a_turning_camera_has_rotations_and_no_directions() -> None:
    pytest.importorskip("pycolmap")
    clip = render(make_room(3), path(4, turn_deg=12), SIZE, FOCAL)
    found = track_cameras(clip.frames)
    assert pose_errors(found.poses, clip.poses).rotation_deg.max() < 0.3
    assert found.degenerate == ("", *["no parallax"] * 3)
    assert found.intrinsics[0, 0, 0] == pytest.approx(FOCAL, rel=0.05)


def test_a_still_camera_stands_still() -> None:
    pytest.importorskip("pycolmap")
    clip = render(make_room(3), path(3), SIZE, FOCAL)
    noise = np.random.default_rng(0).normal(0, 2, clip.frames.shape)
    found = track_cameras((clip.frames + noise).clip(0, 255).astype(np.uint8))
    assert pose_errors(found.poses, clip.poses).rotation_deg.max() < 0.1
    assert all("no parallax" in words for words in found.degenerate[1:])


def test_frames_behind_a_cut_are_flagged_and_interpolated_only_between_known_ones() -> None:
    pytest.importorskip("pycolmap")
    first = render(make_room(1), path(4, sideways=0.6, forward=0.4), SIZE, FOCAL)
    other = render(make_room(9), path(3, sideways=0.5), SIZE, FOCAL)
    found = track_cameras(np.concatenate([first.frames, other.frames]))
    assert found.registered.tolist() == [True] * 4 + [False] * 3
    assert all("no overlap" in words for words in found.degenerate[4:])
    assert found.pose_known.tolist() == found.registered.tolist()
    assert torch.equal(found.poses[4], found.poses[3]) and torch.equal(found.poses[6], found.poses[3])
    assert pose_errors(found.poses[:4], first.poses).rotation_deg.max() < 0.5


def test_the_network_is_the_answer_where_tracks_cannot_tell() -> None:
    pytest.importorskip("pycolmap")
    poses = torch.eye(4).repeat(3, 1, 1)
    poses[1:, 2, 3] = torch.tensor([0.1, 0.2])
    initial = Registration(
        poses=poses,
        intrinsics=torch.tensor([[40.0, 0, 16], [0, 40.0, 16], [0, 0, 1]]).expand(3, 3, 3),
        depth=torch.ones(3, 32, 32),
        pointmaps=torch.ones(3, 32, 32, 3),
        confidence=torch.ones(3, 32, 32),
        pair_scale=torch.ones(2),
        energy=0.0,
        converged=True,
        num_iterations=1,
        degenerate=("", "", "no parallax"),
        pose_covariance=torch.zeros(3, 6, 6),
    )
    found = track_cameras(np.full((3, 96, 128, 3), 127, np.uint8), initial=initial)
    assert found.chosen == "network" and "too little texture" in found.reason
    assert torch.equal(found.poses, poses) and found.degenerate == initial.degenerate
    # the network saw the 128 x 96 of the frames as 32 x 32: a pipeline stretches what it is given
    assert found.intrinsics[0].tolist() == [[160, 0, 64], [0, 120, 48], [0, 0, 1]]
    given = track_cameras(np.full((3, 96, 128, 3), 127, np.uint8), initial=initial, focal_px=90.0, pixel_aspect=1.5)
    assert given.intrinsics[2].tolist() == [[90, 0, 64], [0, 135, 48], [0, 0, 1]]
    given = track_cameras(np.full((3, 96, 128, 3), 127, np.uint8), initial=initial, pixel_aspect=1.5)
    assert given.intrinsics[0].tolist() == [[160, 0, 64], [0, 240, 48], [0, 0, 1]]
    for told, focals in (({}, [160, 120]), ({"pixel_aspect": 1.5}, [160, 160]), ({"focal_px": 90.0}, [90, 90])):
        known = check_given((96, 128), 3, initial, told.get("focal_px"), None, told.get("pixel_aspect"))
        grid = make_grid(3, (96, 128), 64, told.get("pixel_aspect", 1.0), None)
        as_given = known.network(grid)  # judged as it is returned
        assert as_given is not None and as_given.focals / grid.focal_scale == pytest.approx(focals)
    with pytest.raises(ValueError, match="same 4 frames"):
        track_cameras(np.full((4, 96, 128, 3), 127, np.uint8), initial=initial)
    with pytest.raises(TypeError, match="got dict"):
        track_cameras(np.full((3, 96, 128, 3), 127, np.uint8), initial={})


def tracks_of(poses: np.ndarray, count: int = 200, noise_px: float = 0.2, slope: float | None = None) -> tuple[Tracks, Solution]:
    """Exact tracks of points of a scene with noise, in the work grid, and the true cameras; with a slope, of a plane."""
    rng, frames = np.random.default_rng(0), len(poses)
    points = rng.uniform([-1.5, -1, 2], [1.5, 1, 6], (count, 3))
    if slope is not None:
        points[:, 2] = 4 + slope * points[:, 0]
    world_to_camera = np.linalg.inv(poses)
    local = np.einsum("fij,nj->nfi", world_to_camera[:, :3, :3], points) + world_to_camera[:, :3, 3]
    xy = FOCAL * local[..., :2] / local[..., 2:] + rng.normal(0, noise_px, (count, frames, 2))
    point, frame = (array.reshape(-1) for array in np.meshgrid(np.arange(count), np.arange(frames), indexing="ij"))
    tracks = Tracks(frames, point, frame, xy.reshape(-1, 2), point)
    return tracks, Solution("truth", world_to_camera, np.ones(frames, bool), FOCAL)


@pytest.fixture(scope="module")
def moving() -> tuple[Tracks, Solution]:
    return tracks_of(path(6, sideways=0.5, forward=0.3, turn_deg=6))


def test_points_of_two_frames_count_only_where_there_are_few_others() -> None:
    point = np.array([0, 0, 0, 1, 1, 1, 2, 2, 3, 3])
    frame = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 3])
    tracks = Tracks(4, point, frame, np.zeros((10, 2)), np.arange(10))
    assert tracks.confirmed(0).length.tolist() == [3, 3]
    assert tracks.confirmed(2).frame.tolist() == [0, 1, 2, 0, 1, 2, 2, 3]  # frame 3 has nothing else
    assert tracks.confirmed(3).num_points == 4


def test_triangulation_finds_the_points_and_their_residuals(moving: tuple[Tracks, Solution]) -> None:
    tracks, truth = moving
    distance = reprojection(tracks, truth, triangulate(tracks, truth))
    assert np.median(distance) < 0.4 and distance.max() < 1.5


def test_triangulation_of_a_turning_camera_puts_points_at_infinity_not_at_the_camera() -> None:
    tracks, truth = tracks_of(path(5, turn_deg=10))
    points = triangulate(tracks, truth)
    assert np.linalg.norm(points[:, :3], axis=1) == pytest.approx(1) and points[:, 3] == pytest.approx(0, abs=1e-9)
    assert np.median(reprojection(tracks, truth, points)) < 0.4


def test_the_judge_prefers_the_true_cameras_and_counts_missing_frames(moving: tuple[Tracks, Solution]) -> None:
    tracks, truth = moving
    prior = FocalPrior(FOCAL, 0.3)
    right = judge(tracks, truth, prior)
    assert right.inlier_share == 1 and right.angle_deg > 1
    still = judge(tracks, replace(truth, world_to_camera=np.tile(np.eye(4), (6, 1, 1))), prior)
    partial = judge(tracks, replace(truth, known=np.arange(6) < 3), prior)
    odd = judge(tracks, replace(truth, focal=2.5 * FOCAL), prior)
    assert right.cost < min(still.cost, partial.cost, odd.cost)
    assert partial.inlier_share == pytest.approx(0.5, abs=0.05)


def test_a_rival_that_is_about_as_likely_makes_frames_uncertain(moving: tuple[Tracks, Solution]) -> None:
    tracks, truth = moving
    right = judge(tracks, truth, FocalPrior(FOCAL, 0.3))
    cameras = np.linalg.inv(path(6, sideways=0.5, forward=0.3, turn_deg=8))  # the last frame by 2 degrees, the second by 0.4
    other = replace(right, solution=replace(truth, world_to_camera=cameras), cost=right.cost + 4)
    assert rivals_disagree([right, other])[:, 0].tolist() == [False] * 3 + [True] * 3
    assert not rivals_disagree([right, replace(other, cost=right.cost + 6)]).any()
    mirrored = np.linalg.inv(path(6, sideways=-0.5, forward=0.3, turn_deg=6))
    elsewhere = replace(other, solution=replace(truth, world_to_camera=mirrored))
    assert rivals_disagree([right, elsewhere]).tolist() == [[False, False]] + [[False, True]] * 5


def test_a_scene_in_one_plane_is_recognised(moving: tuple[Tracks, Solution]) -> None:
    prior = FocalPrior(FOCAL, 0.3)
    assert not scene_is_planar(moving[0], judge(*moving, prior))
    for slope in (0.0, 0.8):
        tracks, truth = tracks_of(path(6, sideways=0.5, forward=0.3, turn_deg=6), slope=slope)
        verdict = judge(tracks, truth, prior)
        assert scene_is_planar(tracks, verdict)
    features, sure = np.full(6, 200), camera_uncertainty(tracks, verdict, prior)
    assert all("planar scene" in words for words in _degenerate(features, tracks, (verdict, [verdict]), sure)[1:])
    turning = tracks_of(path(6, turn_deg=6))
    assert not scene_is_planar(turning[0], judge(*turning, prior))


@pytest.mark.parametrize(
    ("motion", "low", "high"),
    [
        (dict(forward=0.6), 0.3, 0.36),
        (dict(sideways=0.6), 0.3, 0.36),
        (dict(), 0.3, 0.36),
        (dict(forward=0.6, turn_deg=15), 0, 0.06),
        (dict(sideways=0.6, turn_deg=15), 0, 0.1),
        (dict(turn_deg=15), 0, 0.03),
    ],
)
def test_only_a_turn_tells_the_focal_length(motion: dict, low: float, high: float) -> None:
    tracks, truth = tracks_of(path(6, **motion))
    verdict = judge(tracks, truth, usual_prior(192.0))
    assert low <= camera_uncertainty(tracks, verdict, usual_prior(192.0)).focal <= high
    assert camera_uncertainty(tracks, verdict, FocalPrior(FOCAL, 0.0)).focal == 0


def test_sharp_pictures_count_for_more_than_what_is_usual() -> None:
    pytest.importorskip("pycolmap")
    tracks, truth = tracks_of(path(6, sideways=0.6, turn_deg=8), noise_px=0.15)
    prior = FocalPrior(FOCAL / 1.3, 0.35)
    found = adjust(tracks, replace(truth, focal=prior.focal), prior)
    assert found.focal == pytest.approx(FOCAL, rel=0.06)


def test_adjustment_from_a_turning_camera_finds_the_motion_and_the_focal_length(moving: tuple[Tracks, Solution]) -> None:
    pytest.importorskip("pycolmap")
    tracks, truth = moving
    prior = FocalPrior(1.25 * FOCAL, 0.35)
    beginning = rotating_camera(tracks, prior)
    assert beginning is not None
    found = adjust(tracks, beginning, prior)
    errors = pose_errors(np.linalg.inv(found.world_to_camera), np.linalg.inv(truth.world_to_camera))
    assert errors.rotation_deg.max() < 0.5 and errors.translation_deg.max() < 5
    assert found.focal == pytest.approx(FOCAL, rel=0.08)


def test_a_strong_prior_holds_the_focal_length_and_a_given_one_stays(moving: tuple[Tracks, Solution]) -> None:
    pytest.importorskip("pycolmap")
    tracks, truth = moving
    held = adjust(tracks, replace(truth, focal=170), FocalPrior(170, 0.002), rounds=1)
    assert held.focal == pytest.approx(170, rel=0.01)
    assert adjust(tracks, replace(truth, focal=170), FocalPrior(170, 0.0), rounds=1).focal == 170


def test_stretched_frames_are_adjusted_to_their_aspect() -> None:
    """The camera must roll: else a scene stretched in y explains the pictures as well."""
    pytest.importorskip("pycolmap")
    poses = path(6, sideways=0.5, forward=0.3, turn_deg=6)
    roll = np.radians(np.linspace(0, 25, 6))
    poses[:, :2, :2] = np.stack([np.stack([np.cos(roll), -np.sin(roll)], 1), np.stack([np.sin(roll), np.cos(roll)], 1)], 1)
    poses[:, :2, 2] = poses[:, 2, :2] = 0
    poses[:, 2, 2] = 1
    tracks, truth = tracks_of(poses)
    stretched = Tracks(tracks.num_frames, tracks.point, tracks.frame, tracks.xy * [1, 1.25], tracks.feature)
    found = adjust(stretched, truth, FocalPrior(FOCAL, 0.3), Freedom(aspect=True))
    assert found.aspect == pytest.approx(1.25, rel=0.05)


def test_rotations_and_focal_length_of_a_turning_camera_are_exact() -> None:
    tracks, truth = tracks_of(path(6, turn_deg=25))
    found = rotating_camera(tracks, usual_prior(192.0))
    assert found is not None and found.focal == pytest.approx(FOCAL, rel=0.01)
    assert pose_errors(np.linalg.inv(found.world_to_camera), np.linalg.inv(truth.world_to_camera)).rotation_deg.max() < 0.1


def test_a_long_turn_is_solved_in_part_and_the_rest_turned_from_that(monkeypatch: pytest.MonkeyPatch) -> None:
    tracks, truth = tracks_of(path(14, turn_deg=25))
    monkeypatch.setattr(rotation, "MAX_FRAMES", 6)
    found = rotating_camera(tracks, usual_prior(192.0))
    assert found is not None and found.known.all() and found.focal == pytest.approx(FOCAL, rel=0.01)
    assert pose_errors(np.linalg.inv(found.world_to_camera), np.linalg.inv(truth.world_to_camera)).rotation_deg.max() < 0.1
    seen = tracks.select(tracks.frame != 3)  # not one of the six
    found = rotating_camera(seen, usual_prior(192.0))
    assert found is not None and np.flatnonzero(~found.known).tolist() == [3]


def test_a_network_narrows_the_prior_of_the_focal_length() -> None:
    usual, narrowed = usual_prior(640.0), usual_prior(640.0, 320.0)
    assert usual.focal == 480 and 320 < narrowed.focal < 480 and narrowed.spread < usual.spread
    assert usual.cost(480) == 0 and usual.cost(960) == pytest.approx(usual.cost(240))


def test_grids_of_pixels_agree() -> None:
    """Work pixels are rays times the focal length, whatever the reduction; the centre of the video is (W / 2, H / 2)."""
    grid = make_grid(2, (300, 500), 100, 1.25, None)
    assert grid.small_size == (100, 60)
    # the first pixel of the small frames covers 5 x 5 of the video: its centre is at 2
    assert grid.to_video(np.array([[0.5, 0.5]])) == pytest.approx(np.array([[2.0, 2.0]]))
    solution = Solution("", np.tile(np.eye(4), (2, 1, 1)), np.ones(2, bool), focal=80.0)
    intrinsics = video_intrinsics(grid, solution)[0]
    assert intrinsics == pytest.approx(np.array([[400, 0, 250], [0, 500, 150], [0, 0, 1]]))
    ray = np.array([0.2, -0.1, 1])
    pixel = intrinsics @ ray
    work = grid.to_work((pixel[None, :2] + 0.5) * [100 / 500, 60 / 300], 0)
    assert work == pytest.approx(80 * ray[None, :2])


def test_poses_between_known_ones_are_interpolated_on_request() -> None:
    poses = path(5, sideways=1.0, turn_deg=40)
    known = np.array([True, True, False, True, False])
    copied, between = fill_poses(poses, known, False), fill_poses(poses, known, True)
    assert copied[2] == pytest.approx(poses[1]) and copied[4] == pytest.approx(poses[3])
    assert between[2, :3, :3] == pytest.approx(poses[2, :3, :3], abs=1e-6) and between[4] == pytest.approx(poses[3])
