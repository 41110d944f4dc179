"""The study from beginning to end at a toy size, a pause included; its verdicts on planted numbers."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import study_runs
from accelerate.state import AcceleratorState, PartialState
from study import BALANCED, ROWS, Row, Study
from study_claims import CLAIMS, KERNEL, MAA, MOVES, WARP_RATIO, Claim, judge_claim, paired, value_of, word_of
from study_measure import CAMERAS, FEATURES, as_samples, as_values
from study_page import ABLATIONS, BEGIN, END, TITLES, read_results, sentence, tables, write_page
from study_runs import Paused, Scale, Workshop

from jog3r.evaluation.predictions import pipeline_hash
from jog3r.evaluation.statistics.intervals import Figure
from jog3r.evaluation.statistics.per_clip import Samples
from jog3r.geometry.camera_metrics import PoseErrors
from jog3r.pipelines.loading.any_pipeline import load_pipeline
from jog3r.training.run.step_log import read_steps

TOY = Scale(
    frames=3, size=16, width=32, heads=2, blocks=3, tap=2, head_blocks=1, clips=4, image_steps=2, image_batch=2, video_steps=2,
    video_batch=2, steps=3, batch=(1, 1), pairs=1, test_clips=2, captions=2, varied_clips=1, sampling_steps=20,
)  # fmt: skip
TOY_ROWS = (
    Row("dust3r", {"model": "dust3r"}, (False, True)),
    *(replace(row, seeds=(0,)) for row in ROWS if row.name in ("frozen", "reconstruction", "generation", "joint", "two_stage")),
)


def test_a_toy_study_goes_on_where_it_was_stopped_and_fills_its_page(tmp_path, monkeypatch):
    AcceleratorState._reset_state()
    PartialState._reset_state()
    toy = Study(Workshop(tmp_path / "work", TOY, tmp_path / "results" / "generator"), tmp_path / "results", TOY_ROWS)
    page = tmp_path / "study.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")

    def written():
        write_page(page, read_results(toy.results, TOY))

    written()
    assert page.read_text().count("**Not run yet**") == len(CLAIMS) and "old" not in page.read_text()
    toy.workshop.prepare()
    replace(toy, wanted=["frozen"]).run(written)  # another process's share
    assert set(read_results(toy.results, TOY)) == {("frozen", 0), ("real", 0)}
    train = study_runs.train

    def stopped(config):
        """A SIGTERM in the joint run's first step."""
        return train(config, SimpleNamespace(received=True) if "joint" in config.output_dir else None)

    with monkeypatch.context() as patch:
        patch.setattr(study_runs, "train", stopped)
        with pytest.raises(Paused):
            toy.run(written)
    before = {path.name: path.stat().st_mtime_ns for path in toy.results.glob("*.json")}
    assert set(before) == {f"{name}.json" for name in ("dust3r-0", "frozen-0", "reconstruction-0", "generation-0", "real-0")}
    assert [entry["step"] for entry in read_steps(tmp_path / "work" / "runs" / "joint-0" / "steps.jsonl")] == [0]
    toy.run(written)
    assert [entry["step"] for entry in read_steps(tmp_path / "work" / "runs" / "joint-0" / "steps.jsonl")] == [0, 1, 2]
    assert {name: (toy.results / name).stat().st_mtime_ns for name in before} == before  # nothing is made twice
    results = read_results(toy.results, TOY)
    assert set(results) - {("real", 0)} == {(row.name, seed) for row in TOY_ROWS for seed in row.seeds}
    joint, other = results["joint", 0], results["dust3r", 0]
    assert len(joint["weights"]) == len(joint["generator"]) == 16 and joint["generator"] == other["generator"]
    assert set(joint["gradients"]["start"]) == {
        "generation",
        "reconstruction",
        "cosine",
        "loss_generation",
        "loss_reconstruction",
    }
    assert -1 <= joint["gradients"]["end"]["cosine"] <= 1
    assert set(joint["tables"]) >= {CAMERAS, "renderer", "captions", "reader", "agreement", FEATURES}
    assert set(results["two_stage", 0]["tables"]) == {"reader", "agreement"}
    assert joint["weights"] != other["weights"]
    elsewhere = replace(toy.workshop, folder=tmp_path / "elsewhere").pretrained()  # from the transformer beside the results
    assert pipeline_hash(load_pipeline(str(elsewhere))) == joint["generator"] and not (elsewhere.parent / "new").exists()
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and text.count("Not run yet") < len(CLAIMS)
    assert "| JOG3R (joint) | 1 | 3 | 3 + 3 |" in text and "| DUSt3R type, from scratch | 1 | 3 | 0 + 3 |" in text
    with pytest.raises(ValueError, match="was made at another scale"):
        read_results(toy.results, Scale())


def run_of(rotation, translation, moves=None):
    """A run whose clip k has these errors in both of its pairs."""
    found = {CAMERAS: {"rotation": [[value] * 2 for value in rotation], "translation": [[value] * 2 for value in translation]}}
    if moves is not None:
        one = [1.0] * len(moves)
        warps = {"moves as the scene %": [moves, one], "warp error": [moves, one], "no-warp error": [[2.0] * len(moves), one]}
        found["renderer"] = warps
    return found


def test_values_come_back_as_the_samples_they_were():
    generator = np.random.default_rng(0)
    errors = [
        PoseErrors(angles[0], angles[1], np.minimum(angles[1], 180 - angles[1]), np.ones(3), np.ones(3))
        for angles in generator.uniform(0, 60, (5, 2, 3)).round(1)
    ]
    errors[2].translation_deg[0] = errors[2].translation_folded_deg[0] = np.nan
    samples = Samples([str(k) for k in range(5)])
    samples.add_poses("first/model", errors, range(5))
    samples.add_ratio("captions", "object_f1", np.array([1.0, 2, 0, 4, 5]), np.array([3.0, 2, 0, 4, 6]))
    stored = json.loads(json.dumps(as_values(samples, {"first/model": CAMERAS, "captions": "captions"})))
    again = as_samples([stored], [CAMERAS, "captions"])
    weights = generator.integers(0, 3, (4, 5)).astype(float)
    for name in ("rotation_deg", "translation_deg", "maa@30", "rta@5"):
        np.testing.assert_allclose(
            again.statistics(CAMERAS)[name](weights), samples.statistics("first/model")[name](weights), atol=1e-9
        )
    np.testing.assert_allclose(
        again.statistics("captions")["object_f1"](weights), samples.statistics("captions")["object_f1"](weights)
    )
    twice = as_samples([stored, stored], [CAMERAS])  # two seeds on the same clips: the same clips, and twice the pairs
    assert len(twice.clips) == 5 and len(twice.pairs[CAMERAS].clip) == 30
    np.testing.assert_allclose(twice.statistics(CAMERAS)["maa@30"](weights), again.statistics(CAMERAS)["maa@30"](weights))


def test_differences_are_paired_and_a_clip_counts_with_all_its_seeds():
    generator = np.random.default_rng(1)
    hard = generator.uniform(2, 40, 60)  # clips differ far more than the rows
    results = {
        (row, seed): run_of(hard + shift + generator.normal(0, 0.1, 60), hard, list(60 + 3 * shift + generator.normal(0, 5, 60)))
        for row, shift in (("joint", 0.0), ("frozen", 0.5))
        for seed in (0, 1)
    }
    found = paired(results, "joint", "frozen", (CAMERAS, "rotation_deg"), [0, 1])
    assert found == pytest.approx(-0.5, abs=0.06) and found.n == 60
    assert -0.6 < found.low < found < found.high < -0.4  # the clips' own spread of 11 degrees has cancelled out
    assert value_of(results, "joint", (CAMERAS, "rotation_deg"), [0]).high - found.low > 2
    claim = Claim("Better.", "1 and 2", "joint", "frozen", (CAMERAS, "rotation_deg"), "less", unit="degrees")
    assert judge_claim(claim, results).word == "supported"
    assert "Better. **Supported**: -0.5" in sentence(claim, results) and "by seed -0.5" in sentence(claim, results)
    assert judge_claim(replace(claim, expected="more"), results).word == "contradicted"
    assert judge_claim(replace(claim, figure=MOVES), results).word in ("undecided", "supported")
    assert judge_claim(replace(claim, second="dust3r"), results).word == "not run yet"
    del results["frozen", 1]
    assert judge_claim(claim, results).seeds == pytest.approx((float(paired(results, "joint", "frozen", claim.figure, [0])),))
    ratio = value_of(results, "joint", WARP_RATIO, [0])
    assert ratio == pytest.approx(np.mean(results["joint", 0]["renderer"]["warp error"][0]) / 2)


def test_two_rows_that_both_know_nothing_are_not_as_good_as_each_other():
    claim = Claim("As good.", "-", "joint", "dust3r", MAA, "same", 5.0, chance=10.8)

    def word(error_deg):
        errors = [error_deg + k / 50 for k in range(50)]
        return judge_claim(claim, {(row, 0): run_of(errors, errors) for row in ("joint", "dust3r")}).word

    assert word(5.0) == "supported" and word(100.0) == "undecided"
    turned = Claim("As good.", "-", "joint", "dust3r", (CAMERAS, "rotation_deg"), "same", 1.0, chance=10.3)
    claim = turned
    assert word(5.0) == "supported" and word(20.0) == "undecided"


@pytest.mark.parametrize(
    ("value", "low", "high", "seeds", "expected", "margin", "word"),
    [
        (2, 1, 3, (2, 1.5), "more", 0, "supported"),
        (2, 1, 3, (2, 1.5), "less", 0, "contradicted"),
        (2, -1, 5, (2, 1.5), "more", 0, "undecided"),
        (2, 1, 3, (4, -0.1), "more", 0, "undecided"),  # decided by clips, not by seeds
        (-2, -3, -1, (-2,), "less", 0, "supported"),
        (0.5, -1, 2, (0.4, 0.6), "same", 3, "supported"),
        (0.5, -1, 4, (0.4, 0.6), "same", 3, "undecided"),
        (0.5, -1, 2, (-3.5, 4), "same", 3, "undecided"),
        (6, 4, 8, (5, 7), "same", 3, "contradicted"),
        (6, 4, 8, (2, 10), "same", 3, "undecided"),
        (2, np.nan, np.nan, (2,), "more", 0, "undecided"),
    ],
)
def test_words_need_the_interval_and_every_seed(value, low, high, seeds, expected, margin, word):
    assert word_of(Figure(value, low, high, 9), seeds, expected, margin) == word


def test_kernel_distances_are_paired_and_leave_out_what_failed():
    generator = np.random.default_rng(2)
    real = generator.normal(0, 1, (40, 4))
    near, far = real + generator.normal(0, 0.1, (40, 4)), real + 2
    near[3] = np.nan
    results = {
        ("real", 0): {FEATURES: [list(row) for row in real]},
        ("joint", 0): {FEATURES: [[None if np.isnan(value) else value for value in row] for row in near]},
        ("frozen", 0): {FEATURES: [list(row) for row in far]},
    }
    found = paired(results, "joint", "frozen", KERNEL, [0])
    assert found < -1 and found.high < 0 and found.n == 39
    assert abs(value_of(results, "joint", KERNEL, [0])) < 1 < value_of(results, "frozen", KERNEL, [0])


def test_every_claim_is_about_rows_and_figures_that_exist():
    names = {row.name for row in ROWS}
    assert all({claim.first, claim.second} <= names for claim in CLAIMS)
    assert len(names) == len(ROWS) and all((row.of or row.name) in names for row in ROWS)
    assert "**Not run yet**" in tables({}) and MAA in {claim.figure for claim in CLAIMS}
    assert {row.name for row in ROWS} == set(TITLES) | set(ABLATIONS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_is_a_run_that_train_joint_takes(row, tmp_path):
    scale, halves = Scale(), dict(zip(("generation_batch", "reconstruction_batch"), row.halves, strict=True))
    options = {name: 0.5 if value == BALANCED else value for name, value in row.train.items()}
    config = Workshop(tmp_path, scale, tmp_path).config(tmp_path, tmp_path, **options, **halves, num_steps=scale.steps)
    assert max(config.feature_layers or (scale.tap,)) <= scale.tap
    assert config.reconstruction_warmup_steps in (0, scale.steps // 2)


def test_lambda_is_balanced_by_the_first_joint_run(tmp_path, monkeypatch):
    toy = Study(Workshop(tmp_path / "work", TOY, tmp_path / "results" / "generator"), tmp_path)
    (tmp_path / "joint-0.json").write_text(json.dumps({"gradients": {"start": {"generation": 0.3, "reconstruction": 1.2}}}))
    seen = {}
    monkeypatch.setattr(Workshop, "start", lambda *_: tmp_path)
    monkeypatch.setattr(Workshop, "train", lambda *_, **options: seen.update(options))
    toy.train(next(row for row in ROWS if row.name == "balanced"), 0)
    assert seen["reconstruction_weight"] == 0.25 and seen["seed"] == 0
