"""Figures that one odd clip, or a frame without a pose, must not decide; what tables say of brackets and how."""

import numpy as np
import pytest
import torch

from jog3r.evaluation.clips.clip_sets import ProceduralClips
from jog3r.evaluation.judges.judging import JudgedRow, judge_rows
from jog3r.evaluation.processes import Processes
from jog3r.evaluation.report import SCATTER, Printed, header, markdown, number, t2vc_blocks
from jog3r.evaluation.scoring import score_consistency, score_v2c
from jog3r.evaluation.statistics.compare import compare_blocks, compare_runs
from jog3r.evaluation.statistics.distances import DISTANCES, distance_figure, floor_figures
from jog3r.evaluation.statistics.per_clip import Samples, save_samples
from jog3r.geometry.cameras import so3_exp


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
    still[1] ^= 1  # one level of one frame
    items[0] = {**items[0], "frames": still}
    assert ratio(items) < 1  # a mean of quotients would be above 10


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
    assert found["depth delta < 1.25 %"] == 100
    lost["degenerate"] = np.array(["no overlap"] * 4)
    found = score_v2c([lost], [clip])["geometry"]
    assert np.isnan(found["focal error %"]) and np.isnan(found["depth AbsRel % (one scale a clip)"])


def test_figures_that_others_print(clips, tmp_path):
    clip = clips[0]
    turned, depth = clip.poses.astype(np.float64), clip.depth.copy()
    for frame, degrees in ((1, 4), (2, 14), (3, 16)):
        turn = np.eye(4)
        turn[:3, :3] = so3_exp(torch.tensor([0.0, np.radians(degrees), 0.0], dtype=torch.float64)).numpy()
        turned[frame] = turned[frame] @ turn
    depth[:, :4], depth[:, 4:8] = 1.2 * depth[:, :4], depth[:, 4:8] / 1.3  # the median is between: the scale stays
    prediction = view(clip, poses=turned, depth=depth)
    result = score_v2c([prediction], [clip])
    model = result["first"]["model"]
    assert (model["rra@5"], model["rra@15"]) == (pytest.approx(100 / 3), pytest.approx(200 / 3))
    assert model["rta@15"] == model["rta_folded@15"] == 100
    scale = np.median(clip.depth) / np.median(depth)
    quotient = depth * scale / clip.depth
    assert result["geometry"]["depth delta < 1.25 %"] == pytest.approx(100 * np.mean((quotient < 1.25) & (quotient > 0.8)))
    assert 10 < result["geometry"]["depth delta < 1.25 %"] < 90
    save_samples(tmp_path, {"v2c": result["samples"]})
    found = compare_runs(tmp_path, tmp_path)["v2c"]["tables"]
    assert {"rra@15", "rta@15", "rta_folded@15"} < set(found["first/model"]) and "depth delta < 1.25 %" in found["geometry"]


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
