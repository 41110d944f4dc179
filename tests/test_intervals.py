"""Intervals cover what they say; figures keep the values of the plain metrics; two runs are compared clip by clip."""

import copy
import json

import numpy as np
import pytest

from jog3r.commands.parser import main
from jog3r.evaluation import pose_errors, pose_metrics
from jog3r.evaluation.report import Heading, Table, as_json, cell, latex, markdown
from jog3r.evaluation.statistics.compare import compare_runs, verdict
from jog3r.evaluation.statistics.distances import (
    by_video,
    distance_difference,
    distance_figure,
    floor_figures,
    frechet,
    kernel,
)
from jog3r.evaluation.statistics.intervals import Figure, bootstrap_weights, figure, mean_figure, ratio, student_quantile
from jog3r.evaluation.statistics.per_clip import Samples, load_samples, save_samples
from jog3r.evaluation.statistics.pose_figures import PairErrors, pose_figures
from jog3r.evaluation.video_metrics import frechet_distance, polynomial_mmd
from jog3r.geometry.cameras import so3_exp


def random_errors(generator, spread, count=12, frames=5):
    import torch

    def poses(rotation):
        found = np.tile(np.eye(4), (frames, 1, 1))
        found[:, :3, :3] = so3_exp(torch.tensor(rotation)).numpy()
        return found

    errors = []
    for _ in range(count):
        true = generator.normal(size=(frames, 3)) * 0.3
        a, b = poses(true), poses(true + spread * generator.normal(size=(frames, 3)))
        a[:, :3, 3] = generator.normal(size=(frames, 3))
        b[:, :3, 3] = a[:, :3, 3] + spread * generator.normal(size=(frames, 3))
        errors.append(pose_errors(b, a, "all"))
    return errors


# ---- intervals


@pytest.mark.parametrize(("kind", "truth"), [("skewed", 4.0), ("normal", 5.0), ("share", 0.5)])
def test_intervals_cover_the_truth_as_often_as_they_say(kind, truth):
    """1,000 experiments of 40 clips with 15 correlated pairs each; over pairs instead of clips a third would be missed."""
    generator, clips, pairs = np.random.default_rng(1), 40, 15
    covered = naive = 0
    for _ in range(1000):
        if kind == "skewed":
            values = generator.gamma(1, 1, (clips, pairs)) * generator.gamma(2, 2, (clips, 1))
        elif kind == "normal":
            values = 5 + generator.normal(size=(clips, pairs)) + 2 * generator.normal(size=(clips, 1))
        else:
            values = generator.binomial(1, generator.beta(2, 2, (clips, 1)), (clips, pairs)).astype(float)
        found = figure(ratio(values.sum(1), np.full(clips, float(pairs))), clips)
        assert found == pytest.approx(values.mean())
        covered += found.low <= truth <= found.high
        naive += abs(values.mean() - truth) < 1.96 * values.std() / values.size**0.5
    assert 930 <= covered <= 970
    assert naive < 800


def test_an_interval_of_a_median_covers_it():
    generator, covered = np.random.default_rng(2), 0
    zero = np.zeros(30)
    for _ in range(200):
        rotation = generator.gamma(2, 2, 30)
        table = PairErrors(rotation, zero, zero, zero > 0, np.arange(30), 30)
        found = figure(table.statistics()["rotation_median_deg"], 30)
        assert found == np.median(rotation)
        covered += found.low <= 3.3567 <= found.high  # 1.67835 * 2, the median of that gamma distribution
    assert covered >= 180


def test_a_figure_is_its_number_and_says_its_clips():
    found = mean_figure([1.0, np.nan, 3.0, 5.0], clips=np.array([0, 0, 1, 2]), n=3)
    assert found == 3.0 and found.n == 3 and found.low < 3 < found.high
    assert as_json({"a": found})["a"] == {"value": 3.0, "low": found.low, "high": found.high, "n": 3}
    assert copy.copy(found).low == found.low
    one = mean_figure([2.0])
    assert one == 2.0 and one.n == 1 and np.isnan(one.low) and cell(one) == "2.00"
    none = mean_figure([np.nan, np.nan])
    assert np.isnan(none) and none.n == 0 and as_json(none) == {"value": None, "low": None, "high": None, "n": 0}
    same = mean_figure([7.0] * 5)
    assert (same.low, same.high) == (7.0, 7.0)


def test_students_quantiles_are_those_of_the_tables():
    for freedom, value in ((1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (30, 2.042)):
        assert student_quantile(0.975, freedom) == pytest.approx(value, rel=0.01)


def test_draws_are_the_same_every_time():
    assert bootstrap_weights(7) is bootstrap_weights(7) and (bootstrap_weights(7).sum(1) == 7).all()


# ---- figures of cameras


def test_pose_figures_have_the_values_of_the_plain_metrics():
    errors = random_errors(np.random.default_rng(0), 0.2)
    found, plain = pose_figures(errors), pose_metrics(errors)
    assert found.keys() == plain.keys() and all(found[name] == plain[name] for name in plain)
    table = PairErrors.of(errors)
    for name, statistic in table.statistics().items():
        assert statistic(np.ones((1, 12)))[0] == pytest.approx(plain[name]), name
    twice = np.ones((1, 12))
    twice[0, 3] = 2  # a clip drawn twice is a clip given twice
    for name, value in pose_metrics([*errors, errors[3]]).items():
        if not name.startswith("num"):
            assert table.statistics()[name](twice)[0] == pytest.approx(value), name


def test_seeds_of_a_clip_do_not_count_as_clips():
    errors = random_errors(np.random.default_rng(0), 0.2, count=6)
    once, four = pose_figures(errors), pose_figures(errors * 4, [*range(6)] * 4)
    assert four["rotation_deg"] == pytest.approx(once["rotation_deg"]) and four["rotation_deg"].n == 6
    assert four["rotation_deg"].high == pytest.approx(once["rotation_deg"].high)


# ---- two runs


def write_run(folder, names, spread=1.0, still=1.0):
    folder.mkdir()
    samples = Samples(names)
    generator = np.random.default_rng(5)
    spreads = {name: spread * (0.1 + 0.05 * (int(name) % 4)) for name in names}
    errors = [random_errors(np.random.default_rng(100 + int(name)), spreads[name], count=1)[0] for name in names]
    samples.add_poses("first/model", errors, range(len(names)))
    true = [random_errors(np.random.default_rng(200 + int(name)), still, count=1)[0] for name in names]
    samples.add_poses("first/constant pose", true, range(len(names)))
    samples.add_means("consistency", "flow_px", generator.random(len(names)), range(len(names)))
    samples.features["I3D"] = (generator.normal(size=(len(names), 1, 4)), generator.normal(size=(len(names), 1, 4)))
    save_samples(folder, {"v2c": samples})
    return samples


def test_runs_are_compared_on_the_clips_they_share(tmp_path, capsys):
    names = [str(k) for k in range(12)]
    better, worse = tmp_path / "better", tmp_path / "worse"
    written = write_run(better, names)
    write_run(worse, [*names[::-1], "77"], 1.3)  # another order, one clip more
    assert load_samples(better)["v2c"].tables() == written.tables()
    result = compare_runs(better, worse)
    found = result["v2c"]
    assert (found["clips"], found["left_out"]) == (12, [0, 1])
    row = found["tables"]["first/model"]["rotation_deg"]
    assert row["verdict"] == "first" and row["difference"].high < 0
    alone = [(row[k].high - row[k].low) for k in ("first", "second")]
    assert row["difference"].high - row["difference"].low < max(alone)  # paired: clips that are hard for both cancel out
    assert "first/constant pose" not in found["tables"]
    assert found["tables"]["consistency"]["flow_px"]["verdict"] == "-"
    assert set(found["tables"]["I3D"]) == {"Fréchet", "kernel (KID)"}
    assert all(
        line["verdict"] in ("undecided", "-") and line["difference"] == 0
        for table in compare_runs(better, better)["v2c"]["tables"].values()
        for line in table.values()
    )
    assert main(["evaluate", "compare", str(better), str(worse), "--out", str(tmp_path / "out")]) == 0
    assert "12 clips in common" in capsys.readouterr().out
    stored = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert set(stored["v2c"]["tables"]["first/model"]["maa@30"]["difference"]) == {"value", "low", "high", "n"}
    assert (tmp_path / "out" / "compare.tex").read_text().count("\\begin{tabular}") == len(found["tables"])


def test_runs_that_cannot_be_compared_are_refused(tmp_path, capsys):
    write_run(tmp_path / "a", ["1", "2", "3"])
    write_run(tmp_path / "b", ["4", "5", "6"])
    (tmp_path / "empty").mkdir()
    for words, message in (
        (["a", "b"], "no clip in common"),
        (["a", "empty"], "holds no per_clip.npz"),
        (["a"], "compare takes two folders"),
        (["a", "b", "--clips", "3"], "--clips has no effect with compare"),
    ):
        assert main(["evaluate", "compare", *(str(tmp_path / w) if w in "ab empty" else w for w in words)]) == 2
        assert message in capsys.readouterr().err
    write_run(tmp_path / "c", ["1", "2", "3"], still=2.0)  # at another stride
    with pytest.raises(ValueError, match="the runs saw other frames of '1': evaluate both with the same --clip_list"):
        compare_runs(tmp_path / "a", tmp_path / "c")
    (tmp_path / "b" / "per_clip.npz").write_bytes(b"PK")
    assert main(["evaluate", "compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_a_run_does_not_win_by_failing_on_hard_clips(tmp_path):
    hard = np.arange(12) % 3 == 0
    errors = np.where(hard, 5.0, 1.0) + np.linspace(0, 0.1, 12)
    for name, values in (("whole", errors), ("lost", np.where(hard, np.nan, errors + 0.2))):
        samples = Samples([str(k) for k in range(12)])
        samples.add_means("consistency/V2C", "warp_ratio", values, range(12))
        samples.add_means("judge/redrawn", "only here", np.where(hard == (name == "whole"), 1.0, np.nan), range(12))
        save_samples(tmp_path / name, {"t2vc": samples})
    found = compare_runs(tmp_path / "lost", tmp_path / "whole")["t2vc"]["tables"]
    row = found["consistency/V2C"]["warp_ratio"]
    assert row["difference"] == pytest.approx(0.2) and row["difference"].n == 8 and row["verdict"] == "second"
    assert found["judge/redrawn"] == {}  # no clip has it in both


def test_verdicts_know_which_way_is_better():
    up, down = Figure(1, 0.5, 1.5, 9), Figure(-1, -1.5, -0.5, 9)
    assert [verdict("rotation_deg", up), verdict("rotation_deg", down), verdict("maa@30", up)] == ["second", "first", "first"]
    assert verdict("overlapping pairs %", up) == "-"
    assert verdict("maa@30", Figure(1, -0.5, 1.5, 9)) == verdict("maa@30", Figure(1, np.nan, np.nan, 1)) == "undecided"


# ---- distances


def test_distances_draw_whole_clips():
    generator = np.random.default_rng(0)
    real, near = generator.normal(size=(2, 24, 3, 5))
    far = near + 1
    found = distance_figure(frechet, near, real)
    assert found == pytest.approx(frechet_distance(near.reshape(-1, 5), real.reshape(-1, 5))) and found.n == 24
    assert found.low < found < found.high < distance_figure(frechet, far, real).low
    assert distance_figure(kernel, near, real).high < distance_figure(kernel, far, real).low
    better = distance_difference(frechet, near, far, real)
    assert better.high < 0 and np.isnan(distance_difference(frechet, near[:3], far[:3], real[:3]).low)
    assert distance_difference(frechet, near, near, real, real + 1).high < 0  # each against real clips of its own
    repeated = np.repeat(near[:, :1], 3, 1)  # frames of one clip that are all alike are no more samples: the spread shows it
    wide = distance_figure(frechet, repeated, real)
    assert wide.high - wide.low > found.high - found.low


def clips_of_frames(seed: int, clips: int = 12, frames: int = 8) -> np.ndarray:
    """(N,K,D) vectors of frames: those of a clip lie close to each other."""
    generator = np.random.default_rng(seed)
    return generator.normal(size=(clips, 1, 4)) + 0.1 * generator.normal(size=(clips, frames, 4))


def test_frames_of_one_clip_are_not_taken_for_independent_samples():
    draws = [(clips_of_frames(seed), clips_of_frames(1000 + seed)) for seed in range(40)]
    values = np.array([distance_figure(kernel, *pair) for pair in draws])
    naive = np.array([polynomial_mmd(*(part.reshape(-1, 4) for part in pair)) for pair in draws])
    assert abs(values.mean()) < 3 * values.std() / 40**0.5  # unbiased
    assert naive.mean() > 6 * naive.std() / 40**0.5  # as it would be with pairs of frames of one clip
    alone = [part[:, 0] for part in draws[0]]
    owners = np.arange(12)
    assert polynomial_mmd(*alone, owners_a=owners, owners_b=owners + 12) == pytest.approx(polynomial_mmd(*alone))
    assert distance_figure(kernel, draws[0][0], draws[0][0]) == pytest.approx(0)
    with pytest.raises(ValueError, match="all samples are of one clip"):
        polynomial_mmd(*alone, owners_a=0 * owners, owners_b=owners)


def test_the_floor_is_what_a_perfect_generator_has_at_its_size():
    """Whether it draws each caption once or four times, and whether it resembles the captions' own real clips or not."""
    for distance in (frechet, kernel):
        found = []
        for seed in range(12):
            real = clips_of_frames(seed, frames=2)
            four = np.concatenate([clips_of_frames(100 * (1 + k) + seed, frames=2) for k in range(4)], axis=1)
            found.append([*floor_figures(distance, four, real), *floor_figures(distance, real + 1e-3, real)])
            assert found[-1][0].n == found[-1][1].n == 6
        own, floor, copy, same_floor = np.array(found).T
        assert np.array_equal(floor, same_floor)
        spread = (own - floor).std() / 12**0.5
        assert abs((own - floor).mean()) < 3 * spread and np.allclose(copy, floor, atol=0.02 * floor.std() + 0.02)
    assert floor_figures(frechet, real[:3], real[:3]) is None


def test_windows_and_seeds_of_a_video_stand_behind_each_other():
    vectors = [np.full((2, 3), k, float) for k in range(3)]
    found = by_video([vectors[0], None, vectors[2]], [0, 1, 0], 2)
    assert found.shape == (2, 4, 3) and found[0, :, 0].tolist() == [0, 0, 2, 2] and np.isnan(found[1]).all()
    samples = Samples(["a", "b"])
    samples.features["net"] = (found, found)
    assert np.isnan(samples.select(["b"]).features["net"][0]).all()
    ragged = by_video([*vectors, vectors[0] + 9], [0, 0, 1, 2], 3)
    assert distance_figure(frechet, ragged, ragged).n == 3


def test_runs_are_compared_with_their_own_real_clips_and_as_many_seeds(tmp_path):
    real = clips_of_frames(0, frames=2)
    fair, more = clips_of_frames(1, frames=2), np.concatenate([clips_of_frames(seed, frames=2) for seed in (1, 2)], axis=1)
    for name, own, true in (("a", fair, real), ("b", more, real), ("c", fair + 1, real + 1)):
        samples = Samples([str(k) for k in range(12)])
        samples.features["net"] = (own, true)
        samples.add_means("text/generated", "agreement", 20.0 + (name == "a") + np.arange(12) / 9, range(12))
        save_samples(tmp_path / name, {"t2vc": samples})
    found = compare_runs(tmp_path / "a", tmp_path / "b")["t2vc"]["tables"]
    assert found["net"]["Fréchet"]["difference"] == pytest.approx(0)
    assert found["text/generated"]["agreement"]["verdict"] == "first"
    found = compare_runs(tmp_path / "a", tmp_path / "c")["t2vc"]["tables"]
    assert found["net"]["Fréchet"]["second"] == pytest.approx(found["net"]["Fréchet"]["first"], rel=1e-4)
    whole = (tmp_path / "a" / "per_clip.npz").read_bytes()
    for size in (4, len(whole) // 2, len(whole) - 30):
        (tmp_path / "a" / "per_clip.npz").write_bytes(whole[:size])
        with pytest.raises(ValueError, match="cannot be read"):
            load_samples(tmp_path / "a")


# ---- tables


def test_tables_for_markdown_and_latex():
    table = Table({"a_b | c": {"x": Figure(1.0, 0.5, 2.0, 3), "y": None}}, {"x": "x %", "y": "y"}, "row")
    text = markdown([Heading(2, "T"), "words", table])
    assert text == "## T\n\nwords\n\n| row | x % | y |\n|---|---|---|\n| a_b \\| c | 1.00 [0.500, 2.00] | - |\n"
    text = latex([Heading(2, "T"), "50 % & more", table])
    assert "\\subsection*{T}" in text and "50 \\% \\& more" in text and "\\begin{tabular}{lrr}" in text
    assert "a\\_b \\textbar{} c & 1.00 {\\scriptsize [0.500, 2.00]} & - \\\\" in text
