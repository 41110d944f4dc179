"""Cameras that others found, and files of predictions: every form that is taken, and the ones that are refused."""

import json

import numpy as np
import pytest

from jog3r.evaluation import pose_errors
from jog3r.evaluation.clips.clip_sets import ProceduralClips
from jog3r.evaluation.clips.given_cameras import GivenCameras
from jog3r.evaluation.clips.windows import WindowedClips, WindowRule, find_entries
from jog3r.evaluation.exporting import export
from jog3r.evaluation.predictions import DamagedPrediction, Predictions
from jog3r.evaluation.processes import Processes
from jog3r.evaluation.tasks import Plan, video_to_cameras

STEP, KEPT = 3, 10  # of 28 to 30 frames


class ThinnedVideos:
    """Videos of which every third frame is kept, as far as their windows ask."""

    names, size = ["aa"], (16, 16)

    def expected_frames(self, index):
        return KEPT


def moving(count, dtype=np.float64):
    """Poses (F,4,4) whose first coordinate is the frame's number."""
    poses = np.tile(np.eye(4, dtype=dtype), (count, 1, 1))
    poses[:, 0, 3] = np.arange(count)
    return poses


@pytest.fixture
def thinned():
    entries, _ = find_entries(ThinnedVideos(), WindowRule(4, 1, "all"), None)
    return WindowedClips(ThinnedVideos(), entries, [], {"frame_step": STEP})


@pytest.fixture(scope="module")
def clips():
    return ProceduralClips("validation", 0, 3, 4, 16, 16)


def write(folder, clips, **more):
    """The true cameras of all clips."""
    for name, clip in zip(clips.names, clips, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.savez(folder / f"{name}.npz", **{"poses": clip.poses, **more})
    return folder


@pytest.mark.parametrize(
    ("count", "found"), [(4, [0, 1, 2, 3]), (10, [4, 5, 6, 7]), (28, [12, 15, 18, 21]), (30, [12, 15, 18, 21])]
)
def test_cameras_of_whole_videos_are_those_of_the_frames_that_a_step_keeps(tmp_path, thinned, count, found):
    name = "aa@4" if count == 4 else "aa"
    np.savez(tmp_path / f"{name}.npz", poses=moving(count))
    assert GivenCameras(tmp_path, thinned)[1]["poses"][:, 0, 3].tolist() == found


def test_cameras_of_neither_the_clip_nor_its_video_are_refused(tmp_path, thinned):
    for count in (27, 31, 9):
        np.savez(tmp_path / "aa.npz", poses=moving(count))
        error = str(GivenCameras(tmp_path, thinned)[1]["error"])
        assert f"it has {count} cameras, the clip has 4 frames, and its video 28 to 30" in error and "keeps 10" in error


def test_forms_of_cameras(tmp_path, clips):
    poses = clips[0].poses.astype(np.float64)
    for given in (
        {"poses": poses},
        {"poses": poses[:, :3]},
        {"extrinsics": np.linalg.inv(poses)},
        {"extrinsics": np.linalg.inv(poses)[:, :3]},
    ):
        np.savez(write(tmp_path, clips) / f"{clips.names[0]}.npz", intrinsics=3 * np.eye(3), **given)
        found = GivenCameras(tmp_path, clips)[0]
        np.testing.assert_allclose(found["poses"], poses, atol=1e-12)
        assert found["intrinsics"].shape == (4, 3, 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"poses": np.full((4, 4, 4), "x")}, "poses must be numbers, got an array of <U1"),
        ({"poses": np.eye(4)}, r"poses must be \(F,3,4\) or \(F,4,4\), got \(4, 4\)"),
        ({"intrinsics": np.full((4, 3, 3), "x")}, "intrinsics must be numbers"),
        ({"intrinsics": np.ones((4, 4))}, r"intrinsics must have an entry for each of 4 frames of 3 x 3, got \(4, 4\)"),
        ({"known": np.array(["yes"] * 4)}, "known must be numbers"),
        ({"depth": np.array("metres")}, r"depth must have an entry for each of 4 frames, got \(\)"),
    ],
)
def test_files_none_of_which_can_be_used_are_no_failure_of_a_method(tmp_path, clips, wrong, message):
    given = GivenCameras(write(tmp_path / "given", clips, **wrong), clips)
    with pytest.raises(ValueError, match="none of the 3 files in .* can be used; the first: 00000000.npz: " + message):
        video_to_cameras(given, clips, tmp_path / "v2c", Plan())
    np.savez(tmp_path / "given" / f"{clips.names[1]}.npz", poses=clips[1].poses)
    found = video_to_cameras(given, clips, tmp_path / "v2c", Plan())
    assert found["first"]["model"]["num_failed"] == 2 and len(found["errors"]) == 2


def test_results_of_another_method_are_not_overwritten(tmp_path, clips):
    first, second = (write(tmp_path / name, clips) for name in ("a", "b"))
    video_to_cameras(GivenCameras(first, clips), clips, tmp_path / "v2c", Plan())
    video_to_cameras(GivenCameras(first, clips), clips, tmp_path / "v2c", Plan())
    with pytest.raises(ValueError, match="were made with another configuration .*predictions: .*a' -> .*b'"):
        video_to_cameras(GivenCameras(second, clips), clips, tmp_path / "v2c", Plan())
    Predictions(tmp_path / "network", {"task": "v2c", "weights": "1"}).save("000000", {"poses": moving(4)})
    with pytest.raises(ValueError, match="another configuration"):
        video_to_cameras(GivenCameras(first, clips), clips, tmp_path / "network", Plan())


def test_positions_that_are_equal_up_to_the_files_rounding_are_equal(tmp_path, clips):
    poses = moving(4, np.float32)
    poses[:, 0, 3] = 1000 + np.arange(4) * 6e-5  # one step of float32 at 1000
    for name in ("poses", "extrinsics"):
        np.savez(write(tmp_path, clips) / f"{clips.names[0]}.npz", **{name: poses})
        found = GivenCameras(tmp_path, clips)[0]
        assert found["poses"].dtype == np.float32
        assert np.isnan(pose_errors(found["poses"], clips[0].poses).translation_deg).all()


# ---- files of predictions


def test_damaged_files_are_named_with_what_to_do(tmp_path):
    store = Predictions(tmp_path, {"task": "v2c"})
    store.save("000000", {"poses": moving(4), "caption": np.array("a room")})
    path = tmp_path / "000000.npz"
    path.write_bytes(path.read_bytes()[:-40])
    for read in (lambda: store.load("000000"), lambda: store.stored(["000000"]).text(0, "caption")):
        with pytest.raises(DamagedPrediction, match=r"000000\.npz cannot be read .*: delete it and start again"):
            read()
    other = Predictions(tmp_path / "verdicts", {"task": "judge"})
    with pytest.raises(DamagedPrediction):  # it is no verdict on the clip, to be kept
        export(other, ["000000"], lambda batch: [store.load("000000") for _ in batch], "judge", Processes(), strict=False)
    assert not list((tmp_path / "verdicts").iterdir())
    for text in ("{", "[]", json.dumps(None)):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"config\.json cannot be read .*give a new output folder, or delete this one"):
            Predictions(tmp_path, {"task": "v2c"})
