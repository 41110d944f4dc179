"""Where in a generator, and at how much noise, can depth and motion be read by a straight line? Linear probes, seconds each.

    OMP_NUM_THREADS=1 python benchmarks/tap_probe.py FOLDER [--generator_steps N] [--clips 192] [--held_out 64] [--steps_at ...]

FOLDER is that of `tap_study.py`, whose small Wan-type generator is read, after its training and before it. For each block and
time step ridge regression is fitted on the tokens of training clips, and measured on clips of the validation split: the share
of the variance that it explains, 1 being all of it, beyond what a token's place in the picture says already. Read are, of each
token, the logarithm of its depth against the clip's median (-2 to 2), and how far the point that it sees moves in the picture
from the first frame to the last, in two directions (at most its width). The strength of the ridge is chosen on the training
clips alone. 95 % intervals by resampling clips; they know nothing of another seed of the training. A head that is not linear
may find more.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from tap_study import BLOCKS, FRAMES, SIZE, new_generator, shorten_captions
from torch import Tensor

from jog3r import Jog3rWanPipeline
from jog3r.data.clip import Clip
from jog3r.data.procedural import procedural_clip
from jog3r.evaluation.statistics.intervals import Figure, figure
from jog3r.geometry.pointmaps import pointmaps_in_first_camera
from jog3r.models import FeatureTap
from jog3r.pipelines.reconstruction import noise_latents

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # against features of spread 1
FOLDS = 4
Targets = dict[str, Tensor]


def targets_of(clips: list[Clip], token: int) -> Targets:
    """Depth (B, f, N, 1) of the frames 0 and F-1, and motion (B, 1, N, 2) in widths of the picture between them."""
    depths, motions = [], []
    for clip in clips:
        depth, intrinsics, poses = (torch.as_tensor(one).float() for one in (clip.depth, clip.intrinsics, clip.poses))
        points = pointmaps_in_first_camera(depth[None], intrinsics[None], poses[None])[0, -1]  # (H, W, 3)
        seen = points @ intrinsics[0].T
        rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
        moved = (seen[..., :2] / seen[..., 2:].clamp(min=1e-3) - torch.stack([columns, rows], -1)) / SIZE
        motions.append(_of_tokens(moved, token)[None].clamp(-1, 1))  # points behind the first camera move without bound
        logarithms = torch.stack([_of_tokens(depth[frame].clamp(min=1e-3).log()[..., None], token) for frame in (0, -1)])
        depths.append((logarithms - logarithms.median()).clamp(-2, 2))
    return {"depth": torch.stack(depths), "motion": torch.stack(motions)}


def _of_tokens(values: Tensor, token: int) -> Tensor:
    """Medians (N, C) of values (H, W, C) over the pixels of each token."""
    return values.unfold(0, token, token).unfold(1, token, token).flatten(3).median(-1).values.flatten(0, 1)


@torch.no_grad()
def encode(pipe: Any, clips: list[Clip]) -> Tensor:
    """Latents (B, C, f, h, w)."""
    return torch.cat([pipe.encode_video(pipe.prepare_video(clip.frames)) for clip in clips])


@torch.no_grad()
def tokens_of(pipe: Any, latents: Tensor, step: int, caption: dict[str, Tensor], seed: int) -> list[Tensor]:
    """Tokens (B, f, N, D) behind every block, at one time step."""
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
    found: list[list[Tensor]] = []
    for part, own in zip(latents.split(16), noise.split(16), strict=True):
        t = torch.full((len(part),), float(step))
        given = {"prompt_embeds": caption["prompt_embeds"].expand(len(part), -1, -1)}
        inputs = pipe.transformer_inputs(noise_latents(pipe.scheduler, part, own, step), t, given)
        with FeatureTap(pipe.transformer, list(range(1, BLOCKS + 1)), stop=True) as tap:
            pipe.transformer(**inputs, return_dict=False)
        found.append(tap.taps)
    return [torch.cat(parts).double() for parts in zip(*found, strict=True)]


def explained(train: tuple[Tensor, Tensor], held: tuple[Tensor, Tensor]) -> Figure:
    """Share of the variance of the held-out targets that the fit explains beyond the means of each place.

    Args:
        train, held: tokens (B, f, N, D) and targets (B, f, N, C).
    """
    means = [one.mean(0) for one in train]
    x, y = (one - mean for one, mean in zip(train, means, strict=True))
    spread = x.flatten(0, -2).std(0) + 1e-9
    x, x_held = x / spread, (held[0] - means[0]) / spread
    fold = torch.arange(len(x)) % FOLDS

    def fit(chosen: Tensor, ridge: float) -> Tensor:
        a, b = x[chosen].flatten(0, -2), y[chosen].flatten(0, -2)
        return torch.linalg.solve(a.T @ a + ridge * len(a) * torch.eye(a.shape[1], dtype=a.dtype), a.T @ b)

    def left(ridge: float) -> float:
        return sum(float((y[fold == k] - x[fold == k] @ fit(fold != k, ridge)).square().sum()) for k in range(FOLDS))

    weights = fit(fold >= 0, min(RIDGES, key=left))
    truth = held[1] - means[1]
    wrong = (truth - x_held @ weights).square().flatten(1).sum(1).numpy()  # (B,)
    whole = truth.square().flatten(1).sum(1).numpy()
    return figure(lambda draws: 1 - (draws @ wrong) / (draws @ whole), len(whole))


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--generator_steps", type=int, default=600)
    parser.add_argument("--clips", type=int, default=192, help="to fit on")
    parser.add_argument("--held_out", type=int, default=64, help="clips to measure on")
    parser.add_argument("--steps_at", type=int, nargs="+", default=[50, 300, 600])
    options = parser.parse_args()
    shorten_captions()
    new, trained = options.folder / "new", options.folder / f"generator-{options.generator_steps}" / "pipeline"
    if not (new / "model_index.json").is_file():
        new_generator(new)
    splits = {"train": options.clips, "validation": options.held_out}
    clips = {split: [procedural_clip(k, split, FRAMES, SIZE, SIZE) for k in range(count)] for split, count in splits.items()}
    latents: dict[str, Tensor] = {}
    print("| generator | block | " + " | ".join(f"depth, motion at t = {step}" for step in options.steps_at) + " |")
    print("|" + "---|" * (2 + len(options.steps_at)))
    for name, folder in (("trained", trained), ("random", new)):
        pipe = Jog3rWanPipeline.from_pretrained(folder)
        targets = {split: targets_of(own, pipe.token_size) for split, own in clips.items()}
        latents = latents or {split: encode(pipe, own) for split, own in clips.items()}
        with torch.no_grad():
            caption = pipe.caption_of_videos()
        columns = []
        for step in options.steps_at:
            taps = {split: tokens_of(pipe, latents[split], step, caption, seed) for seed, split in enumerate(splits)}
            columns.append([_cell(targets, {split: taps[split][block] for split in splits}) for block in range(BLOCKS)])
        for block in range(BLOCKS):
            print(f"| {name} | {block + 1} of {BLOCKS} | {' | '.join(column[block] for column in columns)} |", flush=True)
    return 0


def _cell(targets: dict[str, Targets], taps: dict[str, Tensor]) -> str:
    shown = []
    for name in ("depth", "motion"):
        steps = slice(None) if name == "depth" else slice(-1, None)
        train, held = ((taps[split][:, steps], targets[split][name].double()) for split in ("train", "validation"))
        value = explained(train, held)
        shown.append(f"{value:.2f} ({value.low:.2f} to {value.high:.2f})")
    return ", ".join(shown)


if __name__ == "__main__":
    sys.exit(main())
