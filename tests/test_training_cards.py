"""What a finished run says of itself, and starts that end in one line: a missing login, a missing folder."""

import io
import subprocess
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState, PartialState
from tiny_components import tiny_pipeline
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from training_cases import run_here

from jog3r import __version__
from jog3r.training import prepare
from jog3r.training.run import card as card_module
from jog3r.training.run.card import source_version
from jog3r.training.train_joint import main

ROOT = Path(__file__).resolve().parents[1]


def test_the_cards_say_what_made_them_and_nothing_of_this_machine(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "deep").mkdir()
    init, recipe = tmp_path / "deep" / "base", tmp_path / "recipes" / "mine.yaml"
    tiny_pipeline().save_pretrained(init)
    recipe.parent.mkdir()
    recipe.write_text("num_frames: 3\nheight: 16\nwidth: 16\n")
    words = {
        "config": recipe, "init_from": init, "output_dir": tmp_path / "deep" / "run", "generation_batch": 2,
        "reconstruction_batch": 1, "pairs_per_clip": 2, "num_workers": 0, "tracker": "tensorboard", "num_steps": 2,
        "warmup_steps": 1, "sample_every": 0, "lora_rank": 2,
    }  # fmt: skip
    AcceleratorState._reset_state()
    PartialState._reset_state()
    with caplog.at_level("INFO"):
        assert main([word for name, value in words.items() for word in (f"--{name}", str(value))]) == 0
    run = tmp_path / "deep" / "run"
    assert f"done: the result is in {run / 'lora'}" in caplog.text
    for folder in ("pipeline", "lora"):
        card = (run / folder / "README.md").read_text()
        for text in (
            "| recipe | mine.yaml |", "| started from | base |", "| steps | 2, of 2 generation + 1 reconstruction clips |",
            "lora_rank=2", "data=procedural, kind=procedural, first_clip=0, seed=0",
            "| clips | 3 frames of 16 x 16 pixels |", "generation=", f"| made with | {source_version()}; torch ",
        ):  # fmt: skip
            assert text in card
    for path in (*(run / "pipeline").rglob("*"), *(run / "lora").rglob("*"), *(run / "logs").rglob("*")):
        assert path.is_dir() or str(tmp_path).encode() not in path.read_bytes(), path
    assert "Not stated by whoever saved" not in (run / "pipeline" / "README.md").read_text()


def test_the_commit_is_that_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card_module, "ROOT", tmp_path)
    assert source_version() == f"jog3r {__version__}"  # installed from a wheel
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "file").write_text("1")
    for words in (["init", "-q"], ["add", "file"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert source_version() == f"jog3r {__version__}, git commit {commit}"
    (tmp_path / "file").write_text("2")
    assert source_version().endswith(f"{commit}, with local changes")
    monkeypatch.setenv("PATH", "")
    assert source_version() == f"jog3r {__version__}, commit unknown"


@pytest.mark.usefixtures("wandb_anew")
def test_wandb_without_a_login_ends_in_one_line_before_the_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setattr("jog3r.training.train_joint.load_start", None)
    with pytest.raises(ValueError, match="tracker=wandb cannot start: .*`wandb login` first, or set WANDB_MODE=offline"):
        run_here(tmp_path, tracker="wandb")


@pytest.mark.parametrize(("options", "kind"), [
    ([], "opensora"), (["--model", "dust3r", "--generation_batch", "0"], "dust3r"),
])  # fmt: skip
def test_a_start_that_is_not_there_names_the_command_that_makes_it(
    options: list[str], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = ROOT / "training" / "recipes" / "paper.yaml"
    words = ["--config", str(recipe)] if kind == "opensora" else ["--init_from", "runs/opensora", "--output_dir", "x"]
    assert main([*words, *options]) == 2
    assert f"`jog3r convert {kind} CHECKPOINT --out runs/opensora`" in caplog.text
    assert not list(tmp_path.iterdir())


def test_torchrun_repeats_the_line_at_the_end_of_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, run in (("train", main), ("prepare", prepare.main)):
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / name))
        assert run(["--no_such", "1"]) == 2
        failure = ProcessFailure(local_rank=0, pid=1, exitcode=2, error_file=str(tmp_path / name))
        report = str(ChildFailedError(f"{name}.py", {0: failure})).splitlines()
        [line] = [line for line in report[-3:] if "error: unknown option no_such" in line]
        assert line.strip().startswith("traceback : error: ")
