"""A joint training small enough to run inside a test: settings, one batch with its draws, and a run in this process."""

import shutil
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, PartialState
from tiny_components import tiny_pipeline

from jog3r import Jog3rPipeline
from jog3r.training.build import build_model, select_trainable
from jog3r.training.clips.clip_stream import ProceduralStream
from jog3r.training.clips.step_batches import StepNoise, draw_step_noise
from jog3r.training.config import TrainConfig
from jog3r.training.joint_model import JointModel
from jog3r.training.run.processes import StopSignal
from jog3r.training.train_joint import train

SIZE = (3, 16, 16)  # frames, height, width


def settings(**changes: object) -> TrainConfig:
    arguments = dict(
        init_from="unused",
        output_dir="unused",
        num_frames=SIZE[0],
        height=SIZE[1],
        width=SIZE[2],
        generation_batch=2,
        reconstruction_batch=3,
        pairs_per_clip=2,
        frozen_blocks=1,
        num_workers=0,
        tracker="none",
    )
    if changes.get("model") not in (None, "jog3r") or changes.get("trainable", TrainConfig.trainable) != "temporal":
        del arguments["frozen_blocks"]
    return TrainConfig(**{**arguments, **changes})


def built(config: TrainConfig, pipeline: Jog3rPipeline | None = None) -> tuple[JointModel, list[tuple[str, torch.nn.Parameter]]]:
    """The model of `config` around a tiny pipeline, and what it trains."""
    joint = build_model(tiny_pipeline() if pipeline is None else pipeline, config)
    assert isinstance(joint, JointModel)
    return joint, select_trainable(joint, config)


def batch_and_draws(config: TrainConfig) -> tuple[dict[str, torch.Tensor], StepNoise]:
    pipe = tiny_pipeline()
    length = pipe.transformer.config.max_caption_length
    stream = ProceduralStream(pipe.vae, pipe.tokenizer, length, SIZE, 0, 8, 0)
    slots = list(range(config.generation_batch + config.reconstruction_batch))
    items = [stream[k] for k in slots]
    batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
    return batch, draw_step_noise(config, 0, slots, batch["latents"], length, 1000)


def _tiny_folder(base: Path) -> Path:
    """The random tiny pipeline's folder, saved once in pytest's folder of temporary files: to copy."""
    folder = base / "tiny_of_run_here"
    if not folder.exists():
        tiny_pipeline().save_pretrained(folder)
    return folder


def run_here(tmp_path: Path, pipeline: Jog3rPipeline | None = None, **changes: object) -> Path:
    """Train from `pipeline` (else a random tiny one) in this process; the run's folder."""
    init = tmp_path / "init"
    if not init.exists() and pipeline is None:
        shutil.copytree(_tiny_folder(tmp_path.parent), init)
    elif not init.exists():
        pipeline.save_pretrained(init)
    AcceleratorState._reset_state()
    PartialState._reset_state()
    arguments = dict(init_from=str(init), output_dir=str(tmp_path / "run"), warmup_steps=2, checkpoint_every=1000)
    arguments |= dict(sample_every=1000, ema_decay=0.9)
    train(settings(**{**arguments, **changes}), StopSignal())
    return Path(str({**arguments, **changes}["output_dir"]))
