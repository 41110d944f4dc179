"""Does the whole loop learn? A small new model is prepared for and trained on one clip alone, then asked for its cameras.

    OMP_NUM_THREADS=1 python benchmarks/overfit_one_clip.py [--steps 240] [--clip 2]

The clip is 4 frames of 32 x 32 pixels whose camera moves by two fifths of the scene's mean distance, shown in its own direction
only. Printed are, of the averaged weights and under noise that training has not seen, the generation loss (also for each third of
the time steps), the mean distance of the predicted points from the true ones (the mean distance of all points being 1), and the
errors of the cameras that "v2c" finds, means over the frames behind the first. Wanted: both losses near zero, rotation within
0.5 deg, direction of the translation within 2 deg.
"""

import argparse
import dataclasses
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from jog3r import Jog3rPipeline, Jog3rTransformer3DModel, Pointmap3DHead, tiny_checkpoint
from jog3r.data.procedural import procedural_clip
from jog3r.geometry.camera_metrics import pose_errors
from jog3r.geometry.pointmaps import mean_distance, pointmaps_in_first_camera
from jog3r.training.build import build_model
from jog3r.training.clips.step_batches import BatchShare, draw_step_noise
from jog3r.training.clips.streams import build_stream
from jog3r.training.config import TrainConfig
from jog3r.training.preparation.prepare_config import PrepareConfig
from jog3r.training.prepare import Preparation
from jog3r.training.run.step_log import read_steps
from jog3r.training.train_joint import train

FRAMES, SIZE = 4, 32
STEPS, CLIP = 240, 2


@dataclasses.dataclass
class Knowledge:
    """How well a model knows the clip.

    Attributes:
        generation: generation loss over all time steps; 1 is what knowing nothing costs.
        generation_thirds: of the first, second and last third of the time steps.
        distance: of predicted points from the true ones, over the mean distance of all true points of both frames.
        rotation_deg, translation_deg: of the cameras found.
    """

    generation: float
    generation_thirds: list[float]
    distance: float
    rotation_deg: float
    translation_deg: float


def new_model() -> Jog3rPipeline:
    """The bundled pipeline with a small new transformer and head instead of the trained ones."""
    pipeline = Jog3rPipeline.from_pretrained(tiny_checkpoint())
    old = pipeline.transformer.config
    torch.manual_seed(0)
    transformer = Jog3rTransformer3DModel(
        in_channels=old.in_channels, out_channels=old.out_channels, num_layers=2, feature_layer=2, num_attention_heads=4,
        attention_head_dim=24, sample_size=SIZE // pipeline.vae_scale_factor, num_frames=FRAMES,
        caption_channels=old.caption_channels, max_caption_length=old.max_caption_length, space_scale=old.space_scale,
        time_scale=old.time_scale, qk_norm=old.qk_norm,
    )  # fmt: skip
    head = Pointmap3DHead(
        feature_dim=transformer.width, hidden_dim=128, num_layers=1, num_attention_heads=4, patch_size=pipeline.token_size
    )
    pipeline.register_modules(transformer=transformer, pointmap_head=head)
    return pipeline


def overfit(folder: Path, clip: int = CLIP, **changes: Any) -> TrainConfig:
    """Prepare the clip in `folder` and train on it alone; the options of the run, whose results lie beside it."""
    new_model().save_pretrained(folder / "new")
    size = {"num_frames": FRAMES, "height": SIZE, "width": SIZE, "num_threads": 1}
    length = Jog3rTransformer3DModel.load_config(folder / "new" / "transformer")["max_caption_length"]
    plan = PrepareConfig(
        output_dir=str(folder / "cache"), model=str(folder / "new"), source="procedural", first_clip=clip, num_clips=1,
        min_frames=FRAMES, caption_length=length, **size,
    )  # fmt: skip
    Preparation(plan).run()
    options: dict[str, Any] = dict(
        init_from=str(folder / "new"), output_dir=str(folder / "run"), data="cache", cache_dir=str(folder / "cache"),
        edge_threshold=None, generation_batch=2, reconstruction_batch=1, pairs_per_clip=FRAMES - 1, caption_dropout=0.0,
        num_steps=STEPS, optimizer="muon", learning_rate=5e-3, matrix_learning_rate=2.5e-2, warmup_steps=10, decay_fraction=0.9,
        ema_decay=0.95, reverse_probability=0.0, num_workers=0, tracker="none", checkpoint_every=10**6, sample_every=10**6,
    )  # fmt: skip
    config = TrainConfig(**{**options, **size, **changes})
    train(config)
    return config


def all_valid(points: torch.Tensor) -> torch.Tensor:
    """A mask (F, H, W) of points (F, H, W, 3) that leaves none out."""
    return torch.ones(points.shape[:-1], dtype=torch.bool)


@torch.no_grad()
def generation_losses(pipeline: Jog3rPipeline, config: TrainConfig, count: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses (count,) of the clip under `count` draws of noise that training has not seen, and their time steps (count,)."""
    asked = dataclasses.replace(config, generation_batch=1, reconstruction_batch=0, num_steps=count, seed=config.seed + 1)
    joint = build_model(pipeline, asked)
    length, steps = pipeline.transformer.config.max_caption_length, pipeline.scheduler.config.num_train_timesteps
    stream = build_stream(asked, pipeline, length, BatchShare(1, 0))
    losses, timesteps = [], []
    for position in range(count):
        batch = {name: value[None] for name, value in stream[position].items()}
        draws = draw_step_noise(asked, position, [0], batch["latents"], length, steps)
        losses.append(joint(batch, draws, asked)["generation"])
        timesteps.append(draws.timesteps[0])
    return torch.stack(losses), torch.stack(timesteps)


@torch.no_grad()
def examine(config: TrainConfig, clip: int = CLIP) -> Knowledge:
    """Ask the trained model for what it was shown."""
    pipeline = Jog3rPipeline.from_pretrained(Path(config.output_dir) / "pipeline")
    pipeline.set_progress_bar_config(disable=True)
    losses, timesteps = generation_losses(pipeline, config)
    thirds = 3 * timesteps // pipeline.scheduler.config.num_train_timesteps
    truth = procedural_clip(clip, "train", FRAMES, SIZE, SIZE)
    question = {"video": truth.frames, "output_type": "pt"}
    points = pipeline(**question, registration=False, generator=torch.Generator().manual_seed(0)).pointmaps[0]  # (F, H, W, 3)
    depth, intrinsics, poses = (torch.from_numpy(value).float() for value in (truth.depth, truth.intrinsics, truth.poses))
    true_points = pointmaps_in_first_camera(depth, intrinsics, poses)  # (F, H, W, 3)
    points, true_points = (value / mean_distance(value, all_valid(value)).mean() for value in (points, true_points))
    found = pipeline(**question, generator=torch.Generator().manual_seed(0))
    errors = pose_errors(found.poses[0], truth.poses, relative="first")
    return Knowledge(
        generation=losses.mean().item(),
        generation_thirds=[losses[thirds == third].mean().item() for third in range(3)],
        distance=(points - true_points).norm(dim=-1).mean().item(),
        rotation_deg=float(errors.rotation_deg.mean()),
        translation_deg=float(errors.translation_deg.mean()),
    )


def main() -> int:
    """Overfit, print how the losses fell and what was found; exit code 1 if the cameras were not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--clip", type=int, default=CLIP, help="number of the procedural clip")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        begin = time.process_time()
        config = overfit(Path(scratch), options.clip, num_steps=options.steps)
        print(f"{options.steps} steps in {time.process_time() - begin:.0f} s of CPU")
        log = read_steps(Path(config.output_dir) / "steps.jsonl")
        for entry in log[:: max(1, len(log) // 12)] + log[-1:]:
            print(f"step {entry['step'] + 1}: " + ", ".join(f"{name} {value:.4f}" for name, value in entry["losses"].items()))
        known = examine(config, options.clip)
    print(
        f"generation loss {known.generation:.3f} (by thirds {', '.join(f'{loss:.3f}' for loss in known.generation_thirds)}), "
        f"distance of points {known.distance:.4f}, rotation {known.rotation_deg:.2f} deg, "
        f"translation direction {known.translation_deg:.2f} deg"
    )
    return 0 if known.rotation_deg < 0.5 and known.translation_deg < 2 else 1


if __name__ == "__main__":
    sys.exit(main())
