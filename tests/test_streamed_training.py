"""Training from streamed shards: kills change nothing, and what cannot be resumed to the sample is refused by name."""

from pathlib import Path

import pytest
from training_cases import run_here
from training_kill import kill_once, prepare_shards, same_result
from training_runs import TrainingProcesses

from jog3r.training.run.step_log import read_steps


@pytest.fixture(scope="module")
def streamed(init: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return prepare_shards(init, tmp_path_factory.mktemp("shards") / "cache")


@pytest.mark.parametrize(("processes", "workers"), [(1, 2), (2, 0)])
def test_a_kill_changes_nothing(init: Path, streamed: dict[str, object], tmp_path: Path, processes: int, workers: int) -> None:
    """benchmarks/training_kill.py --data stream does more."""
    settings = {**streamed, "num_steps": 6, "num_workers": workers, "train_text_encoder": "true"}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run = TrainingProcesses(init, whole, processes, **settings)
    assert run.wait() == 0, run.text()
    kill_once(TrainingProcesses(init, killed, processes, **settings), killed, while_writing=True, steps=3)
    last = TrainingProcesses(init, killed, processes, **settings)
    assert last.wait() == 0, last.text()
    assert "resumed from" in last.text()
    assert same_result(whole, killed, 4 * processes) == []
    shown = {name.split()[0] for entry in read_steps(killed / "steps.jsonl") for name in entry["samples"]}
    assert len(shown) == 16


def test_what_cannot_be_resumed_to_the_sample_is_refused(init: Path, streamed: dict[str, object], tmp_path: Path) -> None:
    options = {**streamed, "init_from": str(init), "dataset": str(streamed["dataset"]), "reverse_probability": 0.0}
    options |= {"output_dir": str(tmp_path / "run"), "train_text_encoder": True}
    run_here(tmp_path, num_steps=2, checkpoint_every=2, **options)
    run_here(tmp_path, num_steps=3, num_workers=1, **options)  # one worker is as many readers as none
    for changes, message in (
        ({"num_workers": 2}, r"other data: workers \(num_workers, at least 1\) 1, now 2: go on with that"),
        ({"open_shards": 1}, "other data: open_shards 2, now 1"),
        ({"seed": 5}, "other data: seed 0, now 5"),
    ):
        with pytest.raises(ValueError, match=message):
            run_here(tmp_path, num_steps=4, **{**options, **changes})
    fewer = prepare_shards(init, tmp_path / "fewer")
    path = tmp_path / "fewer" / "manifest.json"
    path.write_text(path.read_text(encoding="utf-8").replace("train/00000003", "train/00000333"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"other data: videos_sha256 .*; shards_sha256 \w+, now"):
        run_here(tmp_path, num_steps=4, **{**options, "dataset": str(fewer["dataset"])})
