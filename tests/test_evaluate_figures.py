"""Figures that one odd clip, or a frame without a pose, must not decide; what tables say of brackets and how."""

import numpy as np
import pytest

from jog3r.evaluation.clips.clip_sets import ProceduralClips
from jog3r.evaluation.judges.judging import JudgedRow, judge_rows
from jog3r.evaluation.processes import Processes
from jog3r.evaluation.report import SCATTER, Printed, header, markdown, number, t2vc_blocks
from jog3r.evaluation.scoring import score_consistency, score_v2c
from jog3r.evaluation.statistics.compare import compare_blocks, compare_runs
from jog3r.evaluation.statistics.distances import DISTANCES, distance_figure, floor_figures
from jog3r.evaluation.statistics.per_clip import Samples, save_samples


@pytest.fixture(scope="module")
def clips():
    return ProceduralClips("validation", 0, 4, 4, 16, 16)


def view(clip, prefix="", **change):
    return {f"{prefix}{name}": change.get(name, getattr(clip, name)) for name in ("depth", "poses", "intrinsics")}


def test_one_nearly_still_clip_does_not_decide_the_warp_ratio(clips):
    items = [{"frames": clip.frames, **view(clip), **view(clip, "v2c_")} for clip in clips]

    def ratio(items):
        return score_consistency(items, [], [], None)["generated, geometry of T2V+C"]["warp_ratio"]

    usual = ratio(items)
    assert 0.05 < usual < 0.5 and usual.low < usual < usual.high and usual.n == 4
    still = np.repeat(clips[0].frames[:1], 4, 0)
    still[1, 0, 0, 0] ^= 1  # one level of one pixel
    items[0] = {**items[0], "frames": still}
    assert ratio(items) < 2  # a mean of quotients would be a hundred times as large


def test_judges_take_quotients_of_sums_too(tmp_path):
    class Warps:
        name, order = "warps", ()

        def describe(self):
            return {"judge": self.name}

        def look(self, frames, number):
            if number == 3:
                return {}
            return {"quotient warp / no-warp": np.array([1.0, 10.0]) if number else np.array([1.0, 1e-3])}

    row = JudgedRow("generated", lambda k: np.zeros((2, 8, 8, 3), np.uint8), range(4))
    result, samples = judge_rows(Warps(), [row], list("abcd"), tmp_path, {}, Processes())
    assert result["rows"]["generated"]["warp / no-warp"] == pytest.approx(3 / 20.001)
    assert "warp / no-warp" in samples.ratios["generated"]


def test_frames_without_a_pose_say_nothing_of_focal_length_and_depth(clips):
    clip = clips[0]
    lost = view(clip, depth=clip.depth.copy(), intrinsics=clip.intrinsics.copy())
    lost["depth"][2], lost["intrinsics"][2] = 7 * lost["depth"][2] + np.arange(16), 5 * lost["intrinsics"][2]
    lost["degenerate"] = np.array(["", "planar scene", "no overlap", ""])
    found = score_v2c([lost], [clip])["geometry"]
    assert found["focal error %"] == 0 and found["depth AbsRel % (one scale a clip)"] < 1e-3
    lost["degenerate"] = np.array(["no overlap"] * 4)
    found = score_v2c([lost], [clip])["geometry"]
    assert np.isnan(found["focal error %"]) and np.isnan(found["depth AbsRel % (one scale a clip)"])


def test_distances_of_two_runs_are_over_the_clips_of_their_difference(tmp_path):
    generator = np.random.default_rng(0)
    real, own, other = generator.normal(size=(3, 12, 1, 3))
    own[:2] += 50  # hard clips, on which the other run failed
    lost, lost_real = other.copy(), real.copy()
    lost[:2], lost_real[11] = np.nan, np.nan
    for name, pair in (("whole", (own, real)), ("lost", (lost, lost_real))):
        samples = Samples([str(k) for k in range(12)])
        samples.features["I3D"] = pair
        save_samples(tmp_path / name, {"t2vc": samples})
    result = compare_runs(tmp_path / "whole", tmp_path / "lost")
    for row in result["t2vc"]["tables"]["I3D"].values():
        assert row["difference"] == pytest.approx(row["first"] - row["second"], abs=1e-5)
        assert row["first"].n == row["second"].n == row["difference"].n == 10
    assert SCATTER in markdown(compare_blocks(result))


def test_a_frechet_distance_does_not_reach_below_zero():
    generator = np.random.default_rng(1)
    near = generator.normal(size=(6, 1, 2))
    for name, distance in DISTANCES.items():
        real = near + 1e-3 * generator.normal(size=near.shape)
        low = min(distance_figure(distance, near, real).low, *(one.low for one in floor_figures(distance, near, real)))
        assert low >= 0 if name == "Fréchet" else low < 0


def test_brackets_beside_distances_are_explained():
    empty = {"own video": {}, "shuffled pairs": {}, "constant pose": {}, "rotation_over_shuffled": 1.0}
    result = {"closed_loop": empty, "settings": {}, "captions": {}, "text agreement": {}, "consistency": {}, "errors": []}
    assert SCATTER not in t2vc_blocks({**result, "distributions": {}})
    rows = {"Fréchet": {"distance": 1.0}}
    blocks = t2vc_blocks({**result, "distributions": {"vit": rows, "I3D": rows}})
    assert blocks.count(SCATTER) == 2


def test_numbers_keep_what_they_say():
    assert [number(value) for value in (0.0127, 0.00012, -0.0004, -0.0, 0.0, 0.1234)] == [
        *("0.0127", "0.000120", "-0.000400", "0.000", "0.000", "0.123")
    ]
    assert header({"pixel_aspect": 1.185, "smoothness": 1e-4, "seed": 3, "source": "x"}) == (
        "pixel_aspect 1.185, smoothness 0.0001, seed 3, source x"
    )
    assert [number(Printed(value, 2)) for value in (115.36, 0.4)] == ["115.36", "0.40"]
