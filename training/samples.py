"""Sheets to look at while training: generated clips over real ones, and the cameras found in real clips."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from jog3r.data.procedural import procedural_clip
from jog3r.pipelines.pipeline_jog3r import Jog3rPipeline
from jog3r.training.config import TrainConfig

NUM_ROWS = 6


def save_samples(pipeline: Jog3rPipeline, config: TrainConfig, directory: Path, step: int) -> None:
    """Write `step-0000123.png`: validation captions generated, each row above its real clip; captions beside it as text."""
    clips = [procedural_clip(index, "validation", config.num_frames, config.height, config.width) for index in range(NUM_ROWS)]
    modes = {name: module.training for name, module in pipeline.components.items() if isinstance(module, torch.nn.Module)}
    for name in modes:
        getattr(pipeline, name).eval()
    pipeline.set_progress_bar_config(disable=True)
    generated = pipeline(
        [clip.caption for clip in clips],
        task="t2v",
        num_frames=config.num_frames,
        height=config.height,
        width=config.width,
        num_inference_steps=config.sample_steps,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).frames  # (NUM_ROWS, F, H, W, 3) in 0..1
    for name, training in modes.items():
        getattr(pipeline, name).train(training)
    directory.mkdir(parents=True, exist_ok=True)
    rows = []
    for clip, frames in zip(clips, generated, strict=True):
        shown = np.linspace(0, config.num_frames - 1, min(8, config.num_frames)).round().astype(int)
        rows += [np.concatenate([(frames[f] * 255).round().astype(np.uint8) for f in shown], axis=1)]
        rows += [np.concatenate([clip.frames[f] for f in shown], axis=1)]
    sheet = Image.fromarray(np.concatenate(rows))
    sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST).save(directory / f"step-{step:07d}.png")
    (directory / "captions.txt").write_text("\n".join(clip.caption for clip in clips) + "\n", encoding="utf-8")
