"""The second tab with larger uploads: cameras from tracks where these can tell, and a line that says whose are shown."""

import ast
from pathlib import Path

import numpy as np
import pytest
from sfm_scenes import RenderedClip, make_room, path, render

pytest.importorskip("pycolmap")


from jog3r import tiny_checkpoint
from jog3r.export.video import encode_video
from jog3r.geometry.camera_metrics import pose_errors
from jog3r.space.guard.decode_upload import Wanted
from jog3r.space.guard.limits import SpaceLimits
from jog3r.space.guard.uploads import decode_upload
from jog3r.space.look.html_pieces import pose_table, reconstruct_code, summary
from jog3r.space.model import Result, find_cameras
from jog3r.space.results import DOWNLOADS, write_archives, write_correspondences, write_scene_files

SIDE = 160


@pytest.fixture(scope="module")
def clip() -> RenderedClip:
    return render(make_room(1), path(5, sideways=0.6, forward=0.5, turn_deg=8), (SIDE, SIDE), 150.0)


def found_in(frames: np.ndarray) -> Result:
    result = list(find_cameras(tiny_checkpoint(), frames, 10.0, 300.0))[-1].value
    assert isinstance(result, Result)
    return result


def test_tracks_of_a_larger_square_are_shown(clip: RenderedClip, tmp_path: Path) -> None:
    result = found_in(clip.frames)
    assert result.source.startswith("Cameras from feature tracks (") and result.scene.source == "tracks"
    assert result.scene.size == (SIDE, SIDE) and result.scene.tracks is not None
    assert pose_errors(result.scene.poses, clip.poses)["rotation_deg"].mean() < 0.6
    files = write_scene_files(result.scene, tmp_path)
    assert all(Path(file).stat().st_size for file in files.values())
    assert write_correspondences(result.scene, tmp_path) is None  # no point for every pixel
    paths, note = write_archives(result.scene, tmp_path, [files[name] for name in DOWNLOADS])
    assert len(paths) == 2 and not note
    assert "160 x 160 pixels" in summary(result, 1.0, result.source) and "frame" in pose_table(result)


def test_the_network_is_shown_where_tracks_cannot_tell_and_for_small_frames(clip: RenderedClip) -> None:
    grey = found_in(np.full_like(clip.frames, 120))
    assert grey.source.startswith("Cameras from the network (tracks cannot tell") and grey.scene.size == (64, 64)
    small = found_in(clip.frames[:, ::2, ::2][:, :64, :64])
    assert small.source == "Cameras from the network."


def test_only_uploads_that_are_large_enough_are_cut_large(clip: RenderedClip, tmp_path: Path) -> None:
    (tmp_path / "room.mp4").write_bytes(encode_video(clip.frames, 10.0, scale=1))
    for large, side in ((0, 64), (SIDE, SIDE), (SIDE + 2, 64)):
        upload = list(decode_upload(tmp_path / "room.mp4", Wanted(4, (64, 64), large), SpaceLimits(), tmp_path))[-1].value
        assert upload.frames.shape == (4, side, side, 3)
        (tmp_path / "upload.npz").unlink(missing_ok=True)


def test_the_code_says_the_same() -> None:
    code = reconstruct_code("", [0, 2, 4], (64, 64), side=384)
    ast.parse(code)
    assert "track_cameras(clip.frames, initial=out)" in code and "size=(384, 384)" in code
    assert "track_cameras" not in reconstruct_code("", [0, 2, 4], (64, 64), side=64)
