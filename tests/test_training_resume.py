"""Going on from a checkpoint: changed options take effect, what does not fit is refused, foreign folders are left alone."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from training_cases import run_here, settings

from jog3r.training import optimization
from jog3r.training.run.checkpoints import _gather, check_same_data, find_checkpoint
from jog3r.training.run.failures import TrainingStopped
from jog3r.training.run.processes import start_accelerator
from jog3r.training.run.step_log import StepLog, read_steps
from jog3r.training.train_joint import Run

RATES = dict(learning_rate=1e-3, matrix_learning_rate=0.02, weight_decay=0.1, ema_decay=0.9)


@pytest.fixture(scope="module")
def first_step(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `run_here(folder, num_steps=1)` leaves, made once: to copy."""
    folder = tmp_path_factory.mktemp("first_step")
    run_here(folder, num_steps=1)
    return folder


@pytest.fixture
def one_step(first_step: Path, tmp_path: Path) -> Path:
    """The run's folder in a copy of it."""
    return Path(shutil.copytree(first_step, tmp_path, dirs_exist_ok=True)) / "run"


def run_again(tmp_path: Path, **changes: object) -> Run:
    """A run over the folder that `run_here` left, prepared and not yet resumed."""
    AcceleratorState._reset_state()
    PartialState._reset_state()
    folders = dict(init_from=str(tmp_path / "init"), output_dir=str(tmp_path / "run"))
    config = settings(**{**folders, "warmup_steps": 2, "ema_decay": 0.9, **changes})
    return Run(config, start_accelerator(config))


def options_of(run: Run) -> dict[str, list[float]]:
    """Of every group of every optimizer, and of the average."""
    groups = [group for optimizer in run.state.optimizers for group in optimizer.param_groups]
    names = ("lr", "initial_lr", "weight_decay")
    return {name: [group[name] for group in groups] for name in names} | {"decay": [run.state.average.decay]}


def test_the_options_of_the_command_hold_and_not_those_of_the_checkpoint(tmp_path: Path) -> None:
    run_here(tmp_path, num_steps=1, optimizer="muon", **RATES)
    changed = dict(learning_rate=4e-3, matrix_learning_rate=0.08, weight_decay=0.3, ema_decay=0.5)
    run = run_again(tmp_path, num_steps=10, optimizer="muon", warmup_steps=4, **changed)
    assert run.resume() == 1
    assert options_of(run) == {
        "lr": [2e-3, 2e-3, 0.04],  # the second of four steps of warm-up
        "initial_lr": [4e-3, 4e-3, 0.08],
        "weight_decay": [0.3, 0.0, 0.3],  # AdamW's matrices, its vectors, Muon's matrices
        "decay": [0.5],
    }
    for schedule, optimizer in zip(run.state.schedules, run.state.optimizers, strict=True):
        optimizer.step()
        schedule.step()
    assert options_of(run)["lr"] == [3e-3, 3e-3, 0.06]
    assert run.state.average.optimization_step == 1


def test_a_learning_rate_of_zero_stops_all_movement(tmp_path: Path) -> None:
    rates = {name: value for name, value in RATES.items() if name != "matrix_learning_rate"}
    folder = run_here(tmp_path, num_steps=2, **rates)
    run_here(tmp_path, num_steps=4, **{**rates, "learning_rate": 0.0})
    before, after = ((folder / f"step-000000{step}" / "trained.safetensors").read_bytes() for step in (2, 4))
    assert before == after


def test_lists_of_a_recipe_have_not_changed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run_here(tmp_path, num_steps=1, feature_layers=(1, 2))
    with caplog.at_level("INFO"):
        run_here(tmp_path, num_steps=2, feature_layers=(1, 2))
    changes = [record.getMessage() for record in caplog.records if "changed since the checkpoint" in record.getMessage()]
    assert changes == ["changed since the checkpoint: num_steps 1 -> 2"]


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ({"trainable": "temporal"}, {}, "trains other parameters than this run .*trainable temporal -> all.*new output_dir"),
        ({}, {"trainable": "temporal"}, "trains other parameters than this run .*trainable all -> temporal.*new output_dir"),
        (
            {"trainable": "lora", "lora_rank": 2},
            {"trainable": "lora", "lora_rank": 4},
            r"other shapes than this run .*\(2, 16\), here \(4, 16\).*lora_rank 2 -> 4.*new output_dir",
        ),
        ({}, {"optimizer": "muon"}, "made with optimizer=adamw, this run has muon.*new output_dir"),
        ({"optimizer": "muon"}, {}, "made with optimizer=muon, this run has adamw.*new output_dir"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_weight_is_touched(
    first_step: Path, tmp_path: Path, before: dict, now: dict, message: str
) -> None:
    if not before:
        shutil.copytree(first_step, tmp_path, dirs_exist_ok=True)
    else:
        run_here(tmp_path, num_steps=1, **before)
    run = run_again(tmp_path, num_steps=1, **now)
    weights = [parameter.detach().clone() for _, parameter in run.state.trained]
    averages = [value.clone() for value in run.state.average.shadow_params]
    with pytest.raises(ValueError, match=message):
        run.resume()
    assert all(torch.equal(value, parameter) for value, (_, parameter) in zip(weights, run.state.trained, strict=True))
    assert all(torch.equal(value, shadow) for value, shadow in zip(averages, run.state.average.shadow_params, strict=True))


def test_groups_of_other_sizes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_here(tmp_path, num_steps=1, optimizer="muon")
    plain = optimization.is_hidden_matrix
    monkeypatch.setattr(optimization, "is_hidden_matrix", lambda name, value: "to_q" not in name and plain(name, value))
    with pytest.raises(ValueError, match="has optimizers of .* parameters a group, this run of .*new output_dir"):
        run_again(tmp_path, num_steps=1, optimizer="muon").resume()


def test_moments_of_8_bits_are_another_optimizers() -> None:
    saved, now = ({"clips_per_step": [1, 1], "data": {}, "settings": {"optimizer": name}} for name in ("adamw", "adamw8bit"))
    with pytest.raises(ValueError, match="optimizer=adamw, this run has adamw8bit"):
        check_same_data(Path("step-0000001"), saved, now)


def test_what_a_user_put_beside_the_checkpoints_stays_and_is_not_read(tmp_path: Path) -> None:
    folder = run_here(tmp_path, num_steps=2, checkpoint_every=1)
    shutil.copytree(folder / "step-0000001", folder / "step-best")
    (folder / "step-9999999.txt").write_text("why the second is better")
    (folder / "step-9999999").write_text("no folder")
    (folder / "step-12").mkdir()
    assert find_checkpoint(folder).name == "step-0000002"
    run_here(tmp_path, num_steps=4, checkpoint_every=1)
    names = ["step-0000003", "step-0000004", "step-12", "step-9999999", "step-9999999.txt", "step-best"]
    assert sorted(path.name for path in folder.glob("step-*")) == names


def test_checkpoints_are_in_the_order_of_their_numbers(one_step: Path, tmp_path: Path) -> None:
    folder = one_step
    for number in ("9999999", "10000000"):
        shutil.copytree(folder / "step-0000001", folder / f"step-{number}")
    assert find_checkpoint(folder).name == "step-10000000"


def test_a_seal_that_is_no_text_is_torn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = run_here(tmp_path, num_steps=2, checkpoint_every=1)
    (folder / "step-0000002" / "checksums.json").write_bytes(b"\xff\xfe\x00")
    assert find_checkpoint(folder).name == "step-0000001"
    assert "step-0000002 is torn (checksums.json is not readable" in caplog.text


def test_torn_checkpoints_alone_are_no_fresh_start(tmp_path: Path) -> None:
    folder = run_here(tmp_path, num_steps=2, checkpoint_every=1)
    for path in folder.glob("step-*"):
        (path / "progress.pt").unlink()
    with pytest.raises(ValueError, match=r"no checkpoint in .* is intact \(step-0000001, step-0000002.*delete them to start"):
        run_here(tmp_path, num_steps=4, checkpoint_every=1)
    assert len(list(folder.glob("step-*"))) == 2


def test_a_checkpoint_is_on_the_disk_before_the_one_before_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run_here(tmp_path, num_steps=1, keep_checkpoints=1)
    synced: list[str] = []
    plain = os.fsync

    def noted(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path == folder and path.name not in synced:
            assert (folder / "step-0000002").is_dir() and (folder / "step-0000001").is_dir()
        synced.append(path.name)
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    run_here(tmp_path, num_steps=2, keep_checkpoints=1)
    assert [path.name for path in folder.glob("step-*")] == ["step-0000002"]
    place = synced.index("run")
    assert {"checksums.json", "trained.safetensors", "progress.pt"} <= set(synced[:place])
    assert synced[place - 1] == ".step-0000002.partial"


def test_only_the_writing_process_copies_the_state(one_step: Path, tmp_path: Path) -> None:
    state = run_again(tmp_path).state
    other = SimpleNamespace(is_main_process=False, distributed_type=DistributedType.MULTI_GPU)
    weights, content = _gather(other, state)
    assert set(weights["trained.safetensors"].values()) == {None}
    assert set(weights["average.safetensors"].values()) == {None}
    assert not any(isinstance(value, torch.Tensor) for entry in content["optimizers"][0]["state"].values() for value in entry)


def test_shards_that_an_earlier_version_left_with_deepspeed_are_refused(one_step: Path, tmp_path: Path) -> None:
    folder = one_step
    (folder / "step-0000001" / "deepspeed").mkdir()
    with pytest.raises(ValueError, match="holds DeepSpeed's shards, which this version no longer reads: name a new output_dir"):
        run_again(tmp_path, num_steps=2).resume()


def test_a_disk_without_room_is_named_and_leaves_nothing_half(
    one_step: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:  # torch.save says so of a full disk
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0\nframe #0: ...")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingStopped, match=r"step 2 cannot be written to .*pos 64 vs 0 \(\d+ MiB were free\); make room"):
        run_here(tmp_path, num_steps=2)
    assert sorted(path.name for path in (tmp_path / "run").glob("*step-*")) == ["step-0000001"]


def test_a_run_that_is_further_is_not_called_finished(tmp_path: Path) -> None:
    run_here(tmp_path, num_steps=4, checkpoint_every=2)
    with pytest.raises(ValueError, match="step-0000004' is behind num_steps=2: set num_steps to at least 4"):
        run_here(tmp_path, num_steps=2, checkpoint_every=2)


def test_names_may_hold_other_ends_of_lines(tmp_path: Path) -> None:
    log = StepLog(tmp_path / "steps.jsonl", 0)
    log.append(0, [0], ["a\u2028b\u0085c"], {"loss": 1.0})
    log.close()
    with (tmp_path / "steps.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 1, "posi')  # cut off
    assert [entry["samples"] for entry in read_steps(tmp_path / "steps.jsonl")] == [["a\u2028b\u0085c"]]
