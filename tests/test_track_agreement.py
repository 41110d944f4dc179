"""Tracks as a judge of given cameras: right ones pass, wrong ones do not, and where tracks cannot tell, the reason is said."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sfm_scenes import RenderedClip, make_room, path, render
from tiny_components import PROMPT

import jog3r.sfm
from jog3r.commands.parser import main
from jog3r.evaluation.judges.track_agreement import track_agreement

pytest.importorskip("pycolmap")


@pytest.fixture(scope="module")
def clip() -> RenderedClip:
    return render(make_room(1), path(5, sideways=0.6, forward=0.5, turn_deg=8), (144, 192), 150.0)


def test_true_cameras_pass_and_wrong_ones_do_not(clip: RenderedClip) -> None:
    intrinsics = np.tile(clip.intrinsics, (5, 1, 1))
    right = track_agreement(clip.frames, clip.poses, intrinsics)
    assert right.frames == 4 and right.rotation_deg < 0.6 and right.translation_deg < 5 and not right.reason
    assert right.focal_ratio == pytest.approx(1, abs=0.06) and right.reprojection_px < 1
    assert "differ by 0." in str(right)
    still = np.tile(np.eye(4), (5, 1, 1))
    wrong = track_agreement(clip.frames, still, 2 * intrinsics)
    assert wrong.rotation_deg > 3 and wrong.translation_deg == 90 and wrong.focal_ratio == pytest.approx(0.5, abs=0.03)
    known = np.array([True, False, True, True, True])
    assert track_agreement(clip.frames, clip.poses, intrinsics, known).frames == 3
    alone = track_agreement(clip.frames, clip.poses, intrinsics, np.arange(5) == 1)
    assert alone.to_dict() == {"frames": 0, "reason": "tracks and model have 1 frames in common"}


def test_cameras_that_tracks_doubt_judge_nobody(clip: RenderedClip, monkeypatch: pytest.MonkeyPatch) -> None:
    found = jog3r.sfm.track_cameras(clip.frames)
    intrinsics = np.tile(clip.intrinsics, (5, 1, 1))
    for changes, seen in (
        (
            {"degenerate": ("moving objects",) * 5},
            {"frames": 0, "reason": "tracks and model have 0 frames in common that tracks are sure of (moving objects)"},
        ),
        ({"degenerate": ("", "uncertain", "planar scene", "poor fit", "no parallax, uncertain")}, {"frames": 1}),
        ({"focal_uncertainty": 0.3}, {"frames": 4}),
    ):
        monkeypatch.setattr(jog3r.sfm, "track_cameras", lambda *_, changes=changes, **__: replace(found, **changes))
        agreement = track_agreement(clip.frames, clip.poses, intrinsics)
        assert agreement.to_dict().items() >= seen.items()
        assert (agreement.focal_ratio is None) == (seen["frames"] != 1) and (
            agreement.frames == 0 or "degrees in rotation" in str(agreement)
        )


def test_what_cannot_be_told_is_said(clip: RenderedClip, monkeypatch: pytest.MonkeyPatch) -> None:
    intrinsics = np.tile(clip.intrinsics, (5, 1, 1))
    small = track_agreement(clip.frames[:, ::3, ::3], clip.poses, intrinsics)
    assert small.frames == 0 and small.reason.startswith("pictures of 64 x 48 pixels are too small")
    grey = track_agreement(np.full_like(clip.frames, 128), clip.poses, intrinsics)
    assert "too little texture" in grey.reason and grey.rotation_deg is None
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    assert "pycolmap" in track_agreement(clip.frames, clip.poses, intrinsics).reason


def test_generate_writes_it_beside_the_cameras(capsys: pytest.CaptureFixture, model: Path, tmp_path: Path) -> None:
    arguments = ["generate", PROMPT, "--model", str(model), "--num_inference_steps", "20", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert (
        "note: tracks cannot tell how well the cameras fit: pictures of 16 x 16 pixels are too small" in capsys.readouterr().out
    )
    found = json.loads((tmp_path / "out" / "cameras.json").read_text())["track_agreement"]
    assert found["frames"] == 0 and "too small" in found["reason"]
