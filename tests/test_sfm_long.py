"""Long videos: which pairs are matched, places seen again, parts that are handled one after another."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from sfm_scenes import noise_texture

from jog3r.sfm.frames import make_grid
from jog3r.sfm.matching import features as features_module
from jog3r.sfm.matching import retrieval
from jog3r.sfm.matching.features import all_pairs, find_features, frame_pairs, match_features
from jog3r.sfm.matching.retrieval import LEAST_GAP, loop_pairs
from jog3r.sfm.matching.tracks import Tracks
from jog3r.sfm.solving import uncertainty
from jog3r.sfm.solving.judge import Verdict, judge
from jog3r.sfm.solving.prior import usual_prior
from jog3r.sfm.solving.solution import Solution
from jog3r.sfm.solving.uncertainty import camera_uncertainty

COUNT, SIZE = 108, (48, 64)


def pictures(count: int) -> np.ndarray:
    """(F, H, W, 3), each of another texture; every fourth from the 100th on is that of the frame 100 before."""
    frames = np.stack([noise_texture(np.random.default_rng(index), 64)[: SIZE[0]] for index in range(count)])
    frames[100::4] = frames[: max(count - 100, 0) : 4]
    return frames.round().astype(np.uint8)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("pycolmap")
    shares: list[float] = []
    grid = make_grid(COUNT, SIZE, 640, 1.0, None)
    path = find_features(pictures(COUNT), grid, tmp_path_factory.mktemp("long"), 48.0, 0, shares.append)
    assert len(shares) == 2 and sum(shares) == pytest.approx(1)  # 64 frames, and the rest
    return path


def test_places_seen_again_are_found_by_the_look_of_frames(database: Path) -> None:
    import pycolmap

    pairs = loop_pairs(database, COUNT, 0)
    assert {(0, 100), (4, 104)} <= {tuple(pair) for pair in pairs.tolist()}
    assert (pairs[:, 1] - pairs[:, 0] >= LEAST_GAP).all() and len(pairs) <= COUNT / 2
    assert np.array_equal(pairs, loop_pairs(database, COUNT, 0))
    assert len(loop_pairs(database, LEAST_GAP, 0)) == 0
    with pycolmap.Database.open(database) as opened:
        assert opened.num_cameras() == 1 and opened.num_images() == COUNT
        images = sorted(opened.read_all_images(), key=lambda image: image.name)
        assert [image.image_id for image in images] == list(range(1, COUNT + 1))
    assert not list((database.parent / "images").iterdir())


def test_all_pairs_are_those_near_by_and_those_that_look_alike(database: Path) -> None:
    pairs = {tuple(pair) for pair in all_pairs(database, COUNT, 0).tolist()}
    assert {tuple(pair) for pair in frame_pairs(COUNT).tolist()} < pairs and (4, 104) in pairs


def test_matching_in_parts_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pycolmap")
    picture = noise_texture(np.random.default_rng(0), 128)
    frames = np.stack([picture[20:84, 20 + 4 * index : 116 - 12 + 4 * index] for index in range(4)]).round().astype(np.uint8)
    grid, found = make_grid(4, frames.shape[1:3], 640, 1.0, None), []
    for at_once in (1024, 2):
        monkeypatch.setattr(features_module, "_PAIRS_AT_ONCE", at_once)
        folder = tmp_path / str(at_once)
        folder.mkdir()
        database = find_features(frames, grid, folder, 80.0, 0)
        found.append(match_features(database, grid, frame_pairs(4), False, 0))
    assert len(found[0].pairs) > 3 and np.array_equal(found[0].pairs, found[1].pairs)
    assert all(np.array_equal(a, b) for a, b in zip(found[0].indices, found[1].indices, strict=True))


def test_frames_without_features_are_alike_to_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long video often begins in black."""
    pytest.importorskip("pycolmap")
    monkeypatch.setattr(retrieval, "LEAST_GAP", 4)
    frames = pictures(20)
    frames[[0, 8]] = 0
    grid = make_grid(len(frames), SIZE, 640, 1.0, None)
    found = loop_pairs(find_features(frames, grid, tmp_path, 48.0, 0), len(frames), 0)
    assert len(found) and np.isfinite(found).all()
    dark = make_grid(8, SIZE, 640, 1.0, None)
    (tmp_path / "dark").mkdir()
    loop_pairs(find_features(np.zeros_like(frames[:8]), dark, tmp_path / "dark", 48.0, 0), 8, 0)


@pytest.mark.parametrize("count", [2, 24, 25, 70, 300])
def test_pairs_are_those_of_the_rule(count: int) -> None:
    def wanted(first: int, second: int) -> bool:
        gap = second - first
        star = first == 0 and second % 8 == 0 and second <= 256
        return count <= 24 or gap <= 4 or gap in (8, 16, 32, 64) or star

    expected = [(i, j) for i in range(count) for j in range(i + 1, count) if wanted(i, j)]
    assert frame_pairs(count).tolist() == [list(pair) for pair in expected]


def walk(frames: int, length: int, points: int) -> tuple[Tracks, Verdict]:
    """Exact tracks of `length` frames each, with a fifth of a pixel of noise, along a straight walk past them."""
    rng = np.random.default_rng(0)
    world_to_camera = np.tile(np.eye(4), (frames, 1, 1))
    world_to_camera[:, 0, 3] = -0.1 * np.arange(frames)
    start = rng.integers(0, frames - length + 1, points)
    point = np.repeat(np.arange(points), length)
    frame = (start[:, None] + np.arange(length)).reshape(-1)
    places = np.stack(
        [0.1 * (start + length / 2) + rng.uniform(-1, 1, points), rng.uniform(-1, 1, points), rng.uniform(3, 6, points)], 1
    )
    local = places[point] + world_to_camera[frame, :3, 3]
    xy = 300 * local[:, :2] / local[:, 2:] + rng.normal(0, 0.2, (len(point), 2))
    tracks = Tracks(frames, point, frame, xy, point)
    return tracks, judge(tracks, Solution("truth", world_to_camera, np.ones(frames, bool), 300.0), usual_prior(400.0))


def test_sure_cameras_of_a_long_video_are_said_to_be_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    tracks, verdict = walk(160, 20, 3000)  # with 600 of the points: 11 degrees
    found = camera_uncertainty(tracks, verdict, usual_prior(400.0))
    assert found.rotation_deg.max() < 1 and found.direction_deg[2:].max() < 10  # the second is close to the first
    monkeypatch.setattr(uncertainty, "_PAIRS_AT_ONCE", 70_000)
    again = camera_uncertainty(tracks, verdict, usual_prior(400.0))
    np.testing.assert_allclose(again.rotation_deg, found.rotation_deg, rtol=1e-5)


def test_points_that_all_frames_see_are_few_enough_for_memory() -> None:
    tracks, verdict = walk(80, 80, 700)
    tracemalloc.start()
    found = camera_uncertainty(tracks, verdict, usual_prior(400.0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.isfinite(found.rotation_deg).all() and peak < 1e9  # 600 of them took 4 GB


def test_the_number_of_pairs_grows_with_that_of_frames() -> None:
    counts = [len(frame_pairs(count)) for count in (24, 500, 1000)]
    assert counts[0] == 276 and counts[2] < 2.05 * counts[1]


def test_tracks_of_a_long_video_are_limited_and_the_long_ones_stay() -> None:
    length = np.where(np.arange(30000) % 3 == 0, 10, 2)
    point = np.repeat(np.arange(30000), length)
    frame = np.concatenate([np.arange(n) for n in length])
    tracks = Tracks(100, point, frame, np.zeros((len(point), 2)), np.zeros(len(point), np.int64))
    limited = tracks.limited(600, 0)
    assert 60000 <= len(limited.point) < 1.6 * 60000 and limited.length.mean() > tracks.length.mean()
    assert tracks.limited(2000, 0) is tracks
