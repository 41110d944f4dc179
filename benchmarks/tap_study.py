"""Where in a generator, and at how much noise, do features tell most of 3D? A grid of blocks and time steps, one head for each.

    OMP_NUM_THREADS=1 python benchmarks/tap_study.py FOLDER [--generator_steps N] [--head_steps N] [--blocks ...] [--steps_at ...]

A small Wan-type transformer (6 blocks, width 96; the VAE of the real class has random weights and is frozen) is trained on
generation alone, on procedural clips of 5 frames of 48 x 48 pixels that lie in a cache; then for each block and time step a
fresh head is trained on it, frozen, on the same clips. Beside it heads read the same transformer before its training
(`--control_steps_at`, behind the middle one of `--blocks`): what these find is in the latents, not in what was learned.
All are runs of `train_joint.py`: killed at any time, the same command goes on, and cells that are done stay.

Printed is a table in Markdown over clips of the validation split, with 95 % intervals by resampling clips: the mean distance of
predicted points from the true ones (the mean distance of all true points being 1), how much that is above the best cell's
(paired: the same clips, the same noise), the mean error of rotations, that of the directions of translations, and those of a
camera that moves straight ahead and never turns. The intervals know nothing of another seed of the training.
"""

import argparse
import inspect
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanTransformer3DModel

from jog3r import Jog3rPipeline, Jog3rWanPipeline, tiny_checkpoint
from jog3r.data.clip import Clip
from jog3r.data.procedural import procedural_clip
from jog3r.evaluation.baselines import forward_poses
from jog3r.evaluation.statistics.intervals import Figure, mean_figure
from jog3r.geometry.camera_metrics import failed_pose_errors, pose_errors
from jog3r.geometry.pointmaps import pointmaps_in_first_camera
from jog3r.training.config import TrainConfig
from jog3r.training.losses import pointmap_loss
from jog3r.training.preparation.prepare_config import PrepareConfig
from jog3r.training.prepare import Preparation
from jog3r.training.train_joint import train

FRAMES, SIZE, BLOCKS, CAPTION_TOKENS = 5, 48, 6, 48
COMMON: dict[str, Any] = dict(
    model="wan", data="cache", num_frames=FRAMES, height=SIZE, width=SIZE, num_threads=1, num_workers=0, tracker="none",
    sample_every=0, decay_fraction=0.5, checkpoint_every=100, keep_checkpoints=1, warmup_steps=20, ema_decay=0.99,
)  # fmt: skip
FOUND = ("points", "rotation", "direction")


def shorten_captions() -> None:
    """Wan pads captions to 512 tokens, which beside 18 of video would be nearly all of the work; here to a tenth of that."""
    call: Any = Jog3rWanPipeline.__call__
    signature = inspect.signature(call)
    changed = [
        one.replace(default=CAPTION_TOKENS) if name == "max_sequence_length" else one
        for name, one in signature.parameters.items()
    ]
    call.__signature__ = signature.replace(parameters=changed)


def new_generator(folder: Path) -> None:
    """A random one, with text encoder and tokenizer of the bundled checkpoint; latents of some clips have mean 0 and spread 1."""
    bundled = Jog3rPipeline.from_pretrained(tiny_checkpoint())
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        num_attention_heads=4, attention_head_dim=24, text_dim=bundled.text_encoder.config.d_model, ffn_dim=384, num_layers=BLOCKS
    )
    vae = AutoencoderKLWan(
        base_dim=16, z_dim=16, dim_mult=[1, 2, 2, 2], num_res_blocks=1, temperal_downsample=[False, True, True]
    ).eval()
    parts = dict(tokenizer=bundled.tokenizer, text_encoder=bundled.text_encoder, vae=vae, transformer=transformer)
    pipe = Jog3rWanPipeline(**parts, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0))
    with torch.no_grad():
        videos = [pipe.prepare_video(procedural_clip(number, "train", FRAMES, SIZE, SIZE).frames) for number in range(4)]
        raw = torch.cat([vae.encode(video.transpose(1, 2) * 2 - 1).latent_dist.mode() for video in videos])
    mean, spread = raw.mean((0, 2, 3, 4)), raw.std((0, 2, 3, 4))
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=spread.tolist())
    pipe.save_pretrained(folder)


def prepare(model: Path, folder: Path, clips: int) -> None:
    """A cache of that many clips of the training split."""
    Preparation(
        PrepareConfig(
            output_dir=str(folder), model=str(model), source="procedural", num_clips=clips, num_frames=FRAMES, height=SIZE,
            width=SIZE, window_frames=FRAMES, window_strides=(1,), windows_per_video=1, window_reverse_probability=0.0,
            min_frames=FRAMES, loader_threads=1, num_threads=1,
        )
    ).run()  # fmt: skip


@dataclass(frozen=True)
class Study:
    """What all cells share.

    Attributes:
        folder: of everything.
        generator_steps, head_steps: of the two trainings, 8 clips each.
        held: clips that nothing was trained on.
    """

    folder: Path
    generator_steps: int
    head_steps: int
    held: list[Clip]

    def generator(self) -> Path:
        """The folder of the generator after its training."""
        run = self.folder / f"generator-{self.generator_steps}"
        if not (run / "pipeline").is_dir():
            options = dict(generation_batch=8, reconstruction_batch=0, trainable="all", num_steps=self.generator_steps)
            self.train(self.folder / "new", run, learning_rate=2e-3, **options)
        return run / "pipeline"

    def train(self, start: Path, run: Path, **options: Any) -> None:
        """One run of the script."""
        cache = str(self.folder / "cache")
        train(TrainConfig(init_from=str(start), output_dir=str(run), cache_dir=cache, **COMMON, **options))

    def cell(self, start: Path, name: str, block: int, step: int) -> dict[str, list[float]]:
        """What a head finds in each held-out clip that reads behind `block` of the generator `start` at time step `step`."""
        run = self.folder / f"head-{name}-{self.head_steps}-{block}-{step}"
        found = run / "found.json"
        if not found.is_file():
            options = dict(generation_batch=0, reconstruction_batch=8, trainable="none", num_steps=self.head_steps)
            options |= dict(feature_layers=(block,), min_reconstruction_timestep=step, max_reconstruction_timestep=step)
            options |= dict(head_width=128, head_layers=2, pairs_per_clip=4, learning_rate=1e-3)
            if not (run / "pipeline").is_dir():
                self.train(start, run, **options)
            values = examine(run / "pipeline", self.held, step)
            found.write_text(json.dumps({"clips": len(self.held), **values}), encoding="utf-8")
        return json.loads(found.read_text(encoding="utf-8"))


@torch.no_grad()
def examine(folder: Path, clips: list[Clip], step: int) -> dict[str, list[float]]:
    """Of each clip: distance of predicted points from the true ones, mean errors of rotations and directions in degrees."""
    pipe = Jog3rWanPipeline.from_pretrained(folder)
    caption = pipe.caption_of_videos()
    values: dict[str, list[float]] = {name: [] for name in FOUND}
    for number, clip in enumerate(clips):
        latents = pipe.encode_video(pipe.prepare_video(clip.frames))
        taps = pipe.extract_features(latents, step, torch.Generator().manual_seed(number), caption)
        maps = pipe.predict_pointmaps(taps, SIZE, SIZE, step)
        values["points"].append(points_error(maps, clip))
        try:
            geometry = pipe.assemble_geometry(maps, FRAMES)
            errors = pose_errors(geometry["poses"][0], clip.poses, known=geometry["registration"][0].pose_known)
        except ValueError:  # maps that cannot be registered count as all wrong
            errors = failed_pose_errors(clip.poses)
        values["rotation"].append(float(np.mean(errors.rotation_deg)))
        values["direction"].append(float(np.mean(np.nan_to_num(errors.translation_deg, nan=90.0))))
    return values


def points_error(maps: Any, clip: Clip) -> float:
    """Mean over the views of all pairs, each pair in units of its own mean distance."""
    depth, intrinsics, poses, valid = (
        torch.as_tensor(value)[None] for value in (clip.depth, clip.intrinsics, clip.poses, clip.valid)
    )
    truth = pointmaps_in_first_camera(depth.float(), intrinsics.float(), poses.float())[0]  # (F, H, W, 3)
    first, second = maps.pairs.T
    sure = torch.ones_like(maps.confidence[0])
    views = (maps.anchor_pointmaps[0], sure, maps.pointmaps[0], sure, truth[first], truth[second])
    return float(pointmap_loss(*views, valid[0][first], valid[0][second], alpha=0.0)) / 2


def shown(value: Figure, digits: int) -> str:
    """Value and interval."""
    return f"{value:.{digits}f} ({value.low:.{digits}f} to {value.high:.{digits}f})"


def table(rows: list[tuple[str, int, int, dict[str, list[float]]]]) -> list[str]:
    """Lines of Markdown; the best cell is that of the smallest distance of points."""
    best = min(rows, key=lambda row: float(np.mean(row[3]["points"])))[3]["points"]
    lines = ["| generator | block | t | points | above the best | rotation, deg | direction, deg |", "|" + "---|" * 7]
    for name, block, step, found in rows:
        above = np.subtract(found["points"], best)
        figures = [shown(mean_figure(found["points"]), 3), shown(mean_figure(above), 3) if above.any() else "best"]
        figures += [shown(mean_figure(found[key]), 1) for key in FOUND[1:]]
        lines.append(f"| {name} | {block} of {BLOCKS} | {step} | {' | '.join(figures)} |")
    return lines


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=192, help="to train on")
    parser.add_argument("--held_out", type=int, default=24, help="clips to measure on")
    parser.add_argument("--generator_steps", type=int, default=600)
    parser.add_argument("--head_steps", type=int, default=200)
    parser.add_argument("--blocks", type=int, nargs="+", default=[1, 3, 6])
    parser.add_argument("--steps_at", type=int, nargs="+", default=[50, 500])
    parser.add_argument("--control_steps_at", type=int, nargs="*", default=[50])
    options = parser.parse_args()
    shorten_captions()
    new = options.folder / "new"
    if not (new / "model_index.json").is_file():
        new_generator(new)
    prepare(new, options.folder / "cache", options.clips)
    held = [procedural_clip(number, "validation", FRAMES, SIZE, SIZE) for number in range(options.held_out)]
    study = Study(options.folder, options.generator_steps, options.head_steps, held)
    start, middle = study.generator(), options.blocks[len(options.blocks) // 2]
    cells = [("trained", start, block, step) for step in options.steps_at for block in options.blocks]
    cells += [("random", new, middle, step) for step in options.control_steps_at]
    rows = []
    for name, folder, block, step in cells:
        label = f"{options.generator_steps}" if name == "trained" else "0"
        rows.append((name, block, step, study.cell(folder, label, block, step)))
        print("\n".join(["", *table(rows)]), flush=True)
    ahead = [pose_errors(forward_poses(FRAMES), clip.poses) for clip in held]
    means = [[float(np.nanmean(getattr(one, key))) for one in ahead] for key in ("rotation_deg", "translation_deg")]
    print(f"\nstraight ahead: {', '.join(shown(mean_figure(value), 1) for value in means)}; {len(held)} clips")
    return 0


if __name__ == "__main__":
    sys.exit(main())
