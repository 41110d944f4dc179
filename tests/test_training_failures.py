"""Nothing is lost: kills, torn checkpoints, preemption; and every end of a run that is not the planned one says why."""

import ctypes
import json
import multiprocessing
import resource
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch.utils.data import Dataset
from training_cases import run_here
from training_kill import kill_once, same_result
from training_runs import CONTEXT, TrainingProcesses, errors_of, wait_until

from jog3r.training import train_joint
from jog3r.training.clips.clip_stream import ProceduralStream
from jog3r.training.clips.step_batches import BatchShare
from jog3r.training.clips.streams import build_loader, end_workers
from jog3r.training.config import TrainConfig
from jog3r.training.run.checkpoints import find_checkpoint, read_run
from jog3r.training.run.failures import TrainingStopped
from jog3r.training.run.step_log import StepLog, read_steps

STEPS = 12


def test_three_kills_and_a_preemption_change_nothing(init: Path, tmp_path: Path) -> None:
    """benchmarks/training_kill.py does thirty."""
    settings = {"num_steps": STEPS, "train_text_encoder": "true", "optimizer": "muon", "num_workers": 1}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run = TrainingProcesses(init, whole, **settings)
    assert run.wait() == 0, run.text()
    for number in range(3):
        kill_once(TrainingProcesses(init, killed, **settings), killed, while_writing=number != 1, steps=1 + number)
    stopped = TrainingProcesses(init, killed, **settings)
    wait_until(lambda: stopped.text().count("resumed from") >= 1 and read_steps(killed / "steps.jsonl"), stopped)
    stopped.signal(signal.SIGTERM)
    assert stopped.wait() == 0, stopped.text()
    last = TrainingProcesses(init, killed, **settings)
    assert last.wait() == 0, last.text()
    assert same_result(whole, killed, 4) == []
    names = sorted(path.name for path in killed.glob("step-*"))
    assert names in (["step-0000010", "step-0000012"], ["step-0000011", "step-0000012"])  # 11: the signal came then


def test_torn_checkpoints_are_named_and_the_one_before_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = run_here(tmp_path, num_steps=6, checkpoint_every=2, keep_checkpoints=3)
    assert read_run(find_checkpoint(folder))["step"] == 6
    weights = folder / "step-0000006" / "trained.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    (folder / "step-0000004" / "progress.pt").unlink()
    (folder / "step-9999999").mkdir()
    assert find_checkpoint(folder).name == "step-0000002"
    for text in ("step-0000006 is torn (trained.safetensors has changed)", "progress.pt is missing", "no checksums.json"):
        assert text in caplog.text
    before = {path.name: path.read_bytes() for path in (folder / "step-0000002").iterdir()}
    run_here(tmp_path, num_steps=4, checkpoint_every=2, keep_checkpoints=3)
    assert sorted(path.name for path in folder.glob("step-*")) == ["step-0000002", "step-0000004"]  # the torn ones are gone
    assert before == {path.name: path.read_bytes() for path in (folder / "step-0000002").iterdir()}


@pytest.fixture(scope="module")
def first_step(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first_step")
    run_here(folder, num_steps=1, checkpoint_every=1)
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generation_batch": 1}, "was made with 2 \\+ 3 clips a step .*this run has 1 \\+ 3"),
        ({"first_clip": 5}, "was made with other data"),
        ({"trainable": "temporal"}, "trains other parameters than this run"),
        ({"resume": "never"}, "resume=never, but .* holds step-0000001"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    first_step: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    shutil.copytree(first_step, tmp_path, dirs_exist_ok=True)
    with pytest.raises(ValueError, match=message):
        run_here(tmp_path, **{"num_steps": 2, "checkpoint_every": 1, **changes})


def test_changed_options_are_named_when_a_run_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run_here(tmp_path, num_steps=1, learning_rate=1e-4)
    with caplog.at_level("INFO"):
        run_here(tmp_path, num_steps=2, learning_rate=2e-4)
    assert "changed since the checkpoint: learning_rate 0.0001 -> 0.0002" in caplog.text


def test_a_full_disk_ends_in_one_line_and_costs_no_checkpoint(init: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    assert TrainingProcesses(init, output, num_steps=2, checkpoint_every=1).wait() == 0
    before = {path.name: path.stat().st_size for path in output.glob("step-*/*")}
    full = TrainingProcesses(init, output, file_limit=20_000, num_steps=4, checkpoint_every=1)
    assert full.wait() == 1
    [message] = errors_of(full.text())
    assert "the checkpoint after step 3 cannot be written" in message
    assert "Traceback" not in full.text()
    assert before == {path.name: path.stat().st_size for path in output.glob("step-*/*")}
    assert not list(output.glob(".step-*"))
    again = TrainingProcesses(init, output, num_steps=4, checkpoint_every=1)
    assert again.wait() == 0, again.text()
    assert "resumed from" in again.text()
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_disk_that_is_full_at_the_end_ends_in_one_line(init: Path, tmp_path: Path) -> None:
    """The VAE, the largest file of the result, is in no checkpoint."""
    output, options = tmp_path / "run", {"trainable": "none", "generation_batch": 0, "num_steps": 1}
    full = TrainingProcesses(init, output, file_limit=220_000, **options)
    assert full.wait() == 1
    [message] = errors_of(full.text())
    assert "pipeline/ cannot be written to" in message and "make room" in message
    assert "Traceback" not in full.text()
    assert not list(output.glob(".pipeline*"))
    again = TrainingProcesses(init, output, **options)
    assert again.wait() == 0, again.text()
    assert (output / "pipeline" / "model_index.json").is_file()


def test_memory_that_runs_out_names_the_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def exhausted(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has")

    monkeypatch.setattr(train_joint, "train", exhausted)
    assert train_joint.main(["--init_from", str(tmp_path), "--output_dir", str(tmp_path)]) == 1
    for name in ("gradient_checkpointing=true", "adamw8bit", "jog3r.training.memory", "Tried to allocate 2.00 GiB"):
        assert name in caplog.text


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ProceduralStream.__getitem__

    def damaged(self: ProceduralStream, position: int) -> dict[str, torch.Tensor]:
        item = plain(self, position)
        return {**item, "latents": item["latents"] * torch.nan} if position == 11 else item

    monkeypatch.setattr(ProceduralStream, "__getitem__", damaged)
    with pytest.raises(TrainingStopped, match="not finite at step 2: .*train/00000011.*nonfinite-step-0000002-process-0"):
        run_here(tmp_path, num_steps=4, checkpoint_every=1)
    folder = tmp_path / "run"
    assert find_checkpoint(folder).name == "step-0000002"
    with safe_open(folder / "nonfinite-step-0000002-process-0.safetensors", "pt") as file:
        assert json.loads(file.metadata()["samples"])[1].startswith("train/00000011")
        assert file.get_tensor("0.batch.latents")[1].isnan().all()
        assert file.get_tensor("0.draws.noise").shape == file.get_tensor("0.batch.latents").shape
    monkeypatch.undo()
    run_here(tmp_path, num_steps=4, checkpoint_every=1)  # goes on once the clip is whole
    assert [entry["step"] for entry in read_steps(folder / "steps.jsonl")] == [0, 1, 2, 3]


class Hanging(Dataset):
    """Never gives clip 1, and says when it was asked for it."""

    def __init__(self) -> None:
        self.hangs = multiprocessing.Event()

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        if position == 1:
            self.hangs.set()
            time.sleep(3600)
        if position == 2:
            raise ValueError("clip 2 is damaged")
        return {"value": torch.tensor(position)}


def _break_off(folder: str) -> None:
    """Ends as an interpreter does, with all that is registered for its end; multiprocessing's own processes leave that out."""
    config = TrainConfig(init_from="a", output_dir=folder, generation_batch=1, reconstruction_batch=0, num_steps=3)
    batches = iter(build_loader(Hanging(), BatchShare(1, 0), config, 0))
    next(batches)
    ctypes.pythonapi.Py_Exit(3)


def test_a_run_that_breaks_off_does_not_wait_for_a_worker_that_stalls(tmp_path: Path) -> None:
    process = CONTEXT.Process(target=_break_off, args=(str(tmp_path),))
    process.start()
    process.join(300)
    code = process.exitcode
    process.kill()  # or pytest would wait for it, too
    assert code == 3


def test_a_loader_that_stalls_or_fails_says_so(tmp_path: Path) -> None:
    config = TrainConfig(
        init_from="a", output_dir=str(tmp_path), generation_batch=1, reconstruction_batch=0, num_steps=3, loader_timeout=600.0
    )
    clips = Hanging()
    batches = iter(build_loader(clips, BatchShare(1, 0), config, 0))
    assert clips.hangs.wait(300)  # the worker has started, which may take longer than a step may wait, and given clip 0
    assert int(next(batches)["position"]) == 0
    batches._timeout = 0.1
    with pytest.raises(RuntimeError, match="timed out") as stalled:
        next(batches)
    end_workers()  # pytest's own processes end without what Python does at an end: the worker would outlive them by an hour
    message = str(train_joint.loader_failure(stalled.value, 1, 2.0))
    assert "no data for step 1: the data loader gave nothing for 2 s (loader_timeout)" in message
    damaged = iter(build_loader(Hanging(), BatchShare(2, 0, process=1, num_processes=2), config, 0))
    with pytest.raises(ValueError, match="Caught ValueError") as failed:
        next(damaged)
    assert str(train_joint.loader_failure(failed.value, 0, 0.0)).startswith("no data for step 0: ValueError: clip 2 is damaged;")


def test_the_log_of_steps_drops_what_a_killed_run_did_after_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    log = StepLog(path, 0)
    for step in range(4):
        log.append(step, [step], [f"clip {step}"], {"loss": 1.0})
    log.close()
    with path.open("a") as file:
        file.write('{"step": 4, "posi')  # the kill came here
    assert [entry["step"] for entry in read_steps(path)] == [0, 1, 2, 3]
    log = StepLog(path, 2)
    log.append(2, [2], ["clip 2"], {"loss": 1.0})
    log.close()
    assert [entry["step"] for entry in read_steps(path)] == [0, 1, 2]
