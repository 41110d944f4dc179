"""`make tiny` at a size of seconds: each stage goes on after a kill at any moment, to the same weights."""

import itertools
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from accelerate.state import AcceleratorState, PartialState
from training_runs import weights_of

from jog3r import Jog3rPipeline, tiny_checkpoint
from jog3r.commands.parser import main
from jog3r.evaluation.predictions import TEXT_PARTS, pipeline_hash
from jog3r.training import train_joint
from jog3r.training.run import checkpoints
from jog3r.training.tiny_model import new_tiny, train_text_encoder, train_tiny, train_vae
from jog3r.training.tiny_model.card_figures import FIGURES, fill_card
from jog3r.training.tiny_model.stages import KeptLoop

RECIPES = {
    "vae": "size: 16\nchannels: [8, 16, 16]\nnum_scenes: 3\nframes_per_scene: 2\nnum_steps: 5\nbatch_size: 2\nwarmup_steps: 2\n"
    "num_validation: 2\ncheckpoint_every: 2\n",
    "new": "num_layers: 2\nfeature_layer: 1\nnum_attention_heads: 2\nattention_head_dim: 8\nnum_frames: 3\ncaption_channels: 16\n"
    "vocabulary: 80\nhead_dim: 16\nhead_layers: 1\nhead_attention_heads: 2\n",
    "text": "num_steps: 5\nbatch_size: 2\nwarmup_steps: 2\ncheckpoint_every: 2\nnum_threads: 1\n",
    "images": "num_frames: 1\nreconstruction_batch: 0\n",
    "short": "num_frames: 2\npairs_per_clip: 1\n",
    "joint": "num_frames: 3\npairs_per_clip: 2\n",
}
OF_TRAINING = (
    "height: 16\nwidth: 16\ngeneration_batch: 1\nnum_steps: 3\nwarmup_steps: 1\ncheckpoint_every: 2\nsample_every: 0\n"
    "num_workers: 0\ntracker: none\nnum_threads: 1\n"
)
SCRIPTS: dict[str, Callable[[list[str]], int | None]] = {
    "tiny_model/train_vae.py": train_vae.main,
    "tiny_model/new_tiny.py": new_tiny.main,
    "tiny_model/train_text_encoder.py": train_text_encoder.main,
    "train_joint.py": train_joint.main,
    "jog3r": main,
}
SMALL = ("--clips", "1", "--videos", "2")


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipes")
    for name, text in RECIPES.items():
        extra = OF_TRAINING if name in ("images", "short", "joint") else ""
        extra += "reconstruction_batch: 1\n" if name in ("short", "joint") else ""
        (folder / f"tiny_{name}.yaml").write_text(text + extra)
    return folder


def _run_here(script: str, *arguments: str) -> int:
    """A stage in this process, which has imported everything already."""
    AcceleratorState._reset_state()
    PartialState._reset_state()
    torch.set_num_threads(1)  # a forked process cannot use the threads of this one
    return SCRIPTS[script](list(arguments)) or 0


@pytest.fixture(autouse=True)
def stages_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_tiny, "run", _run_here)
    monkeypatch.setattr(new_tiny, "islice", lambda captions, _: itertools.islice(captions, 300))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, recipes: Path) -> Path:
    """All stages once, without a kill; an interrupted one of an earlier version had left parts of folders."""
    runs = tmp_path_factory.mktemp("runs")
    for torn in ("vae", "new", "text"):
        (runs / torn).mkdir()
        (runs / torn / "config.json").write_text("{}")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(train_tiny, "run", _run_here)
        patched.setattr(new_tiny, "islice", lambda captions, _: itertools.islice(captions, 300))
        assert train_tiny.main(["--runs", str(runs), "--recipes", str(recipes), *SMALL]) == 0
    return runs


def test_all_stages_make_a_bundle_and_leave_nothing_else(undisturbed: Path, recipes: Path, tmp_path: Path) -> None:
    names = {path.name for path in undisturbed.iterdir()}
    assert names == {"vae", "new", "text", "images", "short", "joint", "bundle", "evaluation"}
    for path in undisturbed.rglob("*.json"):
        if "step-" not in str(path) and "evaluation" not in path.parts:
            assert str(undisturbed) not in path.read_text(), path
    pipeline = Jog3rPipeline.from_pretrained(undisturbed / "bundle")
    assert pipeline.transformer.config.num_layers == 2
    (undisturbed / "bundle" / "README.md").write_text("by hand")
    stages = [path for name in names - {"bundle", "evaluation"} for path in (undisturbed / name).rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in [*stages, *(undisturbed / "evaluation").rglob("0*.npz")]}
    assert train_tiny.main(["--runs", str(undisturbed), "--recipes", str(recipes), *SMALL]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}
    card, figures = ((undisturbed / "bundle" / name).read_text() for name in ("README.md", FIGURES))
    assert card.startswith("by hand\n\n## Measured quality") and card == fill_card(card, json.loads(figures))
    rotation = json.loads(figures)["one pass"]["v2c"]["first"]["model"]["rotation_deg"]
    assert f"| this model, one pass | {rotation['value']:.2f} |" in card
    assert set(json.loads(figures)) == {"one pass", "both directions"}
    replaced = shutil.copytree(undisturbed / "bundle", tmp_path / "bundle")
    train_tiny.bundle(undisturbed / "short" / "pipeline", replaced)  # other weights
    other = (replaced / "README.md").read_text()
    assert "Not measured yet" in other and "| this model" not in other and fill_card(other, json.loads(figures)) == card
    assert not (replaced / FIGURES).exists()


def test_the_bundled_card_tells_what_was_measured() -> None:
    """Its tables are made of the figures beside it; another figure would stand in it at once."""
    card, figures = ((Path(tiny_checkpoint) / name).read_text(encoding="utf-8") for name in ("README.md", FIGURES))
    assert fill_card(card, json.loads(figures)) == card
    measured = json.loads(figures)
    measured["one pass"]["t2vc"]["captions"]["generated, motion by V2C"]["motion"]["value"] = 12.345
    assert "| camera motion % followed | 12.35 [" in fill_card(card, measured).replace("12.34 [", "12.35 [")
    pipeline = Jog3rPipeline.from_pretrained(tiny_checkpoint)
    assert measured["one pass"]["v2c"]["settings"]["weights"] == pipeline_hash(pipeline, TEXT_PARTS)


def _die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_before_weights(patched: pytest.MonkeyPatch) -> None:
    """Between the config of a model and its weights."""
    patched.setattr(safetensors.torch, "save_file", _die)


def _die_before_the_name(patched: pytest.MonkeyPatch) -> None:
    """When all is written aside."""
    patched.setattr(Path, "rename", _die)


def _die_in_the_loop(patched: pytest.MonkeyPatch) -> None:
    """While the second checkpoint is written."""
    save = KeptLoop.save

    def second(self: KeptLoop, step: int, *state: object) -> None:
        if step == 4:
            patched.setattr(torch, "save", lambda _, path: (path.write_bytes(b"half"), _die()))
        save(self, step, *state)

    patched.setattr(KeptLoop, "save", second)


def _die_in_a_checkpoint(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(checkpoints, "save_file", _die)


@pytest.mark.parametrize(("stage", "moment"), [
    ("vae", _die_in_the_loop), ("vae", _die_before_weights), ("new", _die_before_the_name), ("text", _die_in_the_loop),
    ("text", _die_before_weights), ("images", _die_in_a_checkpoint), ("images", _die_before_weights),
    ("bundle", _die_before_the_name),
])  # fmt: skip
def test_a_stage_that_was_killed_goes_on_to_the_same_weights(
    undisturbed: Path, recipes: Path, tmp_path: Path, monkeypatch, stage: str, moment: Callable[[pytest.MonkeyPatch], None]
) -> None:
    monkeypatch.setattr(train_tiny, "evaluate", lambda *_: 0)  # which goes on by itself
    order = ["vae", "new", "text", "images", "short", "joint", "bundle"]
    for name in order[: order.index(stage)]:
        (tmp_path / name).symlink_to(undisturbed / name)
    for name in order[order.index(stage) + 1 :]:
        (tmp_path / name).symlink_to(undisturbed / name)  # nothing is done behind it
    arguments = ["--runs", str(tmp_path), "--recipes", str(recipes), *SMALL]
    if stage != "bundle":
        arguments += ["--bundle", str(tmp_path / "other")]
    process = os.fork()
    if process == 0:
        with pytest.MonkeyPatch.context() as patched:
            moment(patched)
            train_tiny.main(arguments)
        os._exit(0)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert train_tiny.main(arguments) == 0
    expected, found = weights_of(undisturbed / stage), weights_of(tmp_path / stage)
    assert expected.keys() == found.keys() and all(torch.equal(found[name], value) for name, value in expected.items())
    left = {path.name for path in tmp_path.iterdir() if not path.is_symlink()}
    assert left == {stage} | ({"other"} if stage != "bundle" else set())


def test_a_loop_of_other_options_is_refused(recipes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "vae.unfinished"
    folder.mkdir()
    module, words = torch.nn.Linear(1, 1), ["--config", str(recipes / "tiny_vae.yaml"), "--output_dir", str(tmp_path / "vae")]
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    KeptLoop(folder, {"seed": 1}, {"vae": module}).save(2, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0))
    with pytest.raises(SystemExit) as ended:
        train_vae.main(words)
    assert ended.value.code == 2
    assert "was begun with other options ({'seed': 1}): delete it, or set them again" in capsys.readouterr().err


def test_a_stage_that_fails_is_named(tmp_path: Path, recipes: Path, caplog: pytest.LogCaptureFixture, monkeypatch) -> None:
    monkeypatch.setattr(train_tiny, "run", lambda *_: -9)
    assert train_tiny.main(["--runs", str(tmp_path), "--recipes", str(recipes), *SMALL]) == -9
    assert "stage vae of make tiny ended with exit code -9; the same command goes on with it" in caplog.text
