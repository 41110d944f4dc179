"""An object that moves by itself and has more texture than the scene behind it: the cameras are flagged, not silently its own."""

from dataclasses import replace

import numpy as np
import pytest
from sfm_hard import add_mover
from sfm_scenes import make_room, path, render

from jog3r.sfm import track_cameras
from jog3r.sfm.checks import Given, Initial
from jog3r.sfm.frames import make_grid
from jog3r.sfm.matching.tracks import Tracks
from jog3r.sfm.result import finish
from jog3r.sfm.solving.judge import judge
from jog3r.sfm.solving.prior import FocalPrior
from jog3r.sfm.solving.second_motion import TWO_MOTIONS, TWO_MOTIONS_SHARE, contradicted_border
from jog3r.sfm.solving.solution import Solution

SIZE, FOCAL, FRAMES = (144, 192), 150.0, 4


def test_an_object_that_moves_by_itself_is_flagged() -> None:
    pytest.importorskip("pycolmap")
    room = render(make_room(0, contrast=0.12), path(FRAMES, sideways=0.3, forward=0.5, turn_deg=6), SIZE, FOCAL)
    found = track_cameras(add_mover(room.frames), focal_px=FOCAL)
    assert all("moving objects" in words for words in found.degenerate)
    assert found.reason.endswith(TWO_MOTIONS)


def test_the_networks_cameras_are_the_answer_then() -> None:
    grid = make_grid(4, SIZE, 192, 1.0, None)
    tracks, right = two_motions(-2.0)
    best = judge(tracks, right, FocalPrior(FOCAL, 0.3))
    initial = Initial(path(4, forward=0.3), np.full((4, 2), FOCAL), ("",) * 4)
    features, video = np.full(4, 600), np.zeros((4, *SIZE, 3), np.uint8)
    alone = finish(video, grid, features, tracks, (best, [best]), Given(None, None, None, None), False, True)
    assert alone.chosen == "tracks" and all("moving objects" in words for words in alone.degenerate)
    other = finish(video, grid, features, tracks, (best, [best]), Given(initial, None, None, None), False, True)
    assert other.chosen == "network" and other.reason == f"tracks cannot tell: {TWO_MOTIONS}"
    assert other.poses.numpy() == pytest.approx(initial.poses, abs=1e-6)


def two_motions(scene_px: float) -> tuple[Tracks, Solution]:
    """A plane that fills the picture of four frames, of which the middle third moves by itself; the plane's cameras."""
    x, y = (axis.reshape(-1) for axis in np.meshgrid(np.linspace(-90, 90, 30), np.linspace(-60, 60, 20)))
    middle = (abs(x) < 40) & (abs(y) < 25)
    start, frame = np.stack([x, y], 1), np.arange(4)
    scene, thing = np.stack([scene_px * frame, 0 * frame], 1), np.stack([3.0 * frame, 2.0 * frame**2], 1)
    xy = start[:, None] + np.where(middle[:, None, None], thing, scene)
    point = np.repeat(np.arange(len(x)), 4)
    cameras = np.tile(np.eye(4), (4, 1, 1))
    cameras[:, :2, 3] = scene / FOCAL
    return Tracks(4, point, np.tile(frame, len(x)), xy.reshape(-1, 2), point), Solution("", cameras, np.ones(4, bool), FOCAL)


def test_the_border_decides_whose_motion_it_is() -> None:
    tracks, right = two_motions(-2.0)
    assert contradicted_border(tracks, right) == 0
    moved = right.world_to_camera.copy()
    moved[:, :2, 3] = np.array([[0, 0], [3, 2], [6, 8], [9, 18]]) / FOCAL
    assert contradicted_border(tracks, replace(right, world_to_camera=moved)) > TWO_MOTIONS_SHARE
