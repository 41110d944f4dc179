"""Runs of several tasks lose nothing when one of them cannot start; runs that others measured are not compared."""

import json
import shutil

import numpy as np
import pytest

from jog3r.evaluation import evaluate
from jog3r.evaluation.clips.clip_sets import ProceduralClips
from jog3r.evaluation.evaluate import run_evaluation
from jog3r.evaluation.report import markdown
from jog3r.evaluation.statistics.compare import compare_blocks, compare_runs
from jog3r.evaluation.statistics.per_clip import Samples, load_samples, save_samples


def options(model, out, **more):
    size = {"num_frames": 2, "height": 16, "width": 16}
    return {"task": "all", "model": str(model), "out": out, "clips": 1, "videos": 2, "num_inference_steps": 2, **size, **more}


def test_results_are_written_after_each_task(model, tmp_path, monkeypatch):
    def fail(*arguments):
        raise ValueError("it breaks")

    monkeypatch.setattr(evaluate, "text_to_video", fail)
    with pytest.raises(ValueError, match="it breaks"):
        run_evaluation(**options(model, tmp_path))
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["v2c"]["first"]["model"]["num_pairs"] == 1 and "t2vc" not in found
    assert set(load_samples(tmp_path)) == {"v2c"} and "Video to cameras" in (tmp_path / "results.md").read_text()


def test_what_the_second_task_cannot_do_is_refused_before_the_first(model, tmp_path, monkeypatch):
    def nothing(*arguments):
        raise AssertionError("it started")

    monkeypatch.setattr(evaluate, "video_to_cameras", nothing)
    trailing = shutil.copytree(model, tmp_path / "model")
    file = trailing / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"timestep_spacing": "trailing"}))
    with pytest.raises(ValueError, match="redraw_level=0.1 lies below the last sampling step"):
        run_evaluation(**options(trailing, tmp_path, judge="renderer", redraw_level=0.1))

    def caption(self, index):
        raise ValueError(f"no caption for clip {index}")

    monkeypatch.setattr(ProceduralClips, "caption", caption)
    with pytest.raises(ValueError, match="no caption for clip 0"):
        run_evaluation(**options(model, tmp_path))


def write(folder, captions=("a", "b", "c")):
    samples = Samples(["0", "1", "2"])
    for path in ("consistency/T2V+C", "text/generated", "judge/generated"):
        samples.add_means(path, "met3r_self", np.random.default_rng(0).random(3), range(3))
        samples.add_means(path, "flow_px", np.random.default_rng(1).random(3), range(3))
    samples.measured_by = {
        ("consistency/T2V+C", "met3r_self"): "colours",
        ("text/generated", ""): "clip 1",
        ("judge/generated", ""): "sfm",
    }
    samples.keep_captions(captions, range(3))
    save_samples(folder, {"t2vc": samples})
    assert load_samples(folder)["t2vc"] == samples
    return folder


@pytest.mark.parametrize(
    ("key", "tables"),
    [
        (("consistency/T2V+C", "met3r_self"), [["flow_px"], ["met3r_self", "flow_px"], ["met3r_self", "flow_px"]]),
        (("text/generated", ""), [["met3r_self", "flow_px"], [], ["met3r_self", "flow_px"]]),
        (("judge/generated", ""), [["met3r_self", "flow_px"], ["met3r_self", "flow_px"], []]),
    ],
)
def test_figures_of_two_networks_or_judges_are_not_compared(tmp_path, key, tables):
    first, second = write(tmp_path / "a"), write(tmp_path / "b")
    samples = load_samples(second)["t2vc"]
    samples.measured_by[key] = "another"
    save_samples(second, {"t2vc": samples})
    result = compare_runs(first, second)
    found = result["t2vc"]["tables"]
    assert [list(found.get(path, {})) for path in ("consistency/T2V+C", "text/generated", "judge/generated")] == tables
    (line,) = result["t2vc"]["not_compared"]
    assert line.startswith(key[0]) and line.endswith("the second by another")
    assert f"Not compared:\n- {line}" in markdown(compare_blocks(result))


def test_runs_of_other_captions_are_not_compared(tmp_path):
    first, same = write(tmp_path / "a"), write(tmp_path / "b")
    assert compare_runs(first, same)["t2vc"]["not_compared"] == []
    with pytest.raises(ValueError, match=r"other captions of '1' \(1 clips differ\)"):
        compare_runs(first, write(tmp_path / "c", captions=("a", "x", "c")))
