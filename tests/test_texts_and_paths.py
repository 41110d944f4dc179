"""Folders and files are given as texts or as `pathlib.Path`, whichever somebody has."""

from pathlib import Path

import torch
from accelerate.state import AcceleratorState, PartialState
from tiny_components import tiny_pipeline
from training_cases import settings

from jog3r.data.cache import Cache, stream_frames
from jog3r.evaluation.evaluate import EvaluationOptions
from jog3r.training.clips.cached_stream import CachedStream
from jog3r.training.preparation.prepare_config import PrepareConfig
from jog3r.training.prepare import prepare
from jog3r.training.run.checkpoints import find_checkpoint, read_run
from jog3r.training.run.step_log import StepLog, read_steps
from jog3r.training.train_joint import train


def test_a_cache_and_a_run(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path / "init")
    size = dict(num_frames=3, height=16, width=16)
    options = PrepareConfig(
        output_dir=tmp_path / "cache", model=tmp_path / "init", source="procedural", num_clips=2, min_frames=3, **size
    )
    assert options.model == str(tmp_path / "init")
    assert prepare(options) == tmp_path / "cache"
    for place in (tmp_path / "cache", str(tmp_path / "cache")):
        assert len(Cache(place)) == 2
        assert len(list(stream_frames(place))) == 6
        streams = [CachedStream(one, pipeline.vae, 8, (3, 16, 16), 4, 0) for one in (place, tmp_path / "cache")]
        assert torch.equal(*(stream[1]["latents"] for stream in streams))
    AcceleratorState._reset_state()
    PartialState._reset_state()
    places = dict(init_from=tmp_path / "init", output_dir=tmp_path / "run", data="cache", cache_dir=tmp_path / "cache")
    assert train(settings(**places, num_steps=1, sample_every=0)) == tmp_path / "run" / "pipeline"
    assert read_run(str(find_checkpoint(str(tmp_path / "run"))))["settings"]["init_from"] == str(tmp_path / "init")
    StepLog(str(tmp_path / "run" / "steps.jsonl"), 1).close()
    assert len(read_steps(str(tmp_path / "run" / "steps.jsonl"))) == 1


def test_an_evaluation(tmp_path: Path) -> None:
    options = EvaluationOptions(task="v2c", model=tmp_path / "model", out=tmp_path / "out")
    assert (options.model, options.out) == (str(tmp_path / "model"), str(tmp_path / "out"))
