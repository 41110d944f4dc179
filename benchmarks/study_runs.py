"""Models and trainings of the study (study.py): sizes, the common start, one run of train_joint.py for each row and seed."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from jog3r import Dust3rBaseline, Dust3rPipeline, Jog3rPipeline, Jog3rTransformer3DModel, Pointmap3DHead, tiny_checkpoint
from jog3r.data.files import replace_folder
from jog3r.pipelines.loading.any_pipeline import load_pipeline
from jog3r.training.build import build_model, select_trainable
from jog3r.training.clips.step_batches import BatchShare, draw_step_noise
from jog3r.training.clips.streams import build_loader, build_stream
from jog3r.training.config import TrainConfig
from jog3r.training.generators.inputs import describe_inputs
from jog3r.training.preparation.prepare_config import PrepareConfig
from jog3r.training.prepare import Preparation
from jog3r.training.run.step_log import read_steps
from jog3r.training.saving import save_without_paths
from jog3r.training.train_joint import train

COST = "cpu.txt"  # a line for each part of a run: CPU seconds and steps


class Paused(Exception):
    """A SIGTERM came: checkpoints are written, the same command goes on."""


@dataclass(frozen=True)
class Scale:
    """How large the study is; the defaults are what docs/study.md reports.

    Attributes:
        frames, size: of all clips, size in pixels.
        width, heads, blocks, tap: of the generator; `tap` counts blocks from 1.
        head_blocks: of the 3D head's decoders, as wide as the generator.
        clips: in the cache that all but the DUSt3R type train on.
        image_steps, video_steps: of the pre-training: on 64 single frames, then on 8 clips a step.
        image_batch, video_batch: clips of these.
        steps: of every row.
        batch: clips a step of the generation and of the reconstruction half.
        pairs: of frames of a reconstruction clip that a step looks at; more clips with few pairs teach more than few with many.
        test_clips, captions, varied_clips: of the evaluation: video to cameras, text to video, video to cameras on varied scenes.
        sampling_steps: of text to video.
    """

    frames: int = 8
    size: int = 64
    width: int = 128
    heads: int = 4
    blocks: int = 6
    tap: int = 5
    head_blocks: int = 4
    clips: int = 3000
    image_steps: int = 400
    image_batch: int = 64
    video_steps: int = 1200
    video_batch: int = 8
    steps: int = 600
    batch: tuple[int, int] = (4, 8)
    pairs: int = 2
    test_clips: int = 128
    captions: int = 64
    varied_clips: int = 64
    sampling_steps: int = 20


def common_options(scale: Scale) -> dict[str, Any]:
    """What all trainings share; rates are those of the recipes of the tiny model, not searched for."""
    return dict(
        height=scale.size, width=scale.size, num_threads=1, num_workers=0, tracker="none", sample_every=0, checkpoint_every=50,
        keep_checkpoints=1, pairs_per_clip=scale.pairs, warmup_steps=20, ema_decay=0.99, optimizer="muon", learning_rate=1.2e-3,
        matrix_learning_rate=4e-3, mixed_precision="bf16", attention_backend="_native_math",
    )  # fmt: skip


@dataclass(frozen=True)
class Workshop:
    """Where the study's models are made; whatever is there already stays.

    Attributes:
        folder: of everything: cache, starts, runs.
        scale: of all models.
        generator: folder of the pre-trained transformer, kept with the results: theirs are comparable with one start alone.
    """

    folder: Path
    scale: Scale
    generator: Path

    @property
    def cache(self) -> Path:
        """Clips as latents, embedded captions and depth."""
        return self.folder / "cache"

    def prepare(self) -> None:
        """Fill the cache with clips of the training split."""
        scale = self.scale
        Preparation(
            PrepareConfig(
                output_dir=str(self.cache), model=tiny_checkpoint(), source="procedural", num_clips=scale.clips,
                num_frames=scale.frames, min_frames=scale.frames, height=scale.size, width=scale.size, clips_per_shard=100,
                loader_threads=1, num_threads=1, batch_size=64,
            )
        ).run()  # fmt: skip

    def pretrained(self) -> Path:
        """The generator that all rows start from; it is trained if its transformer is not there."""
        folder = self.folder / "pretrained"
        if not folder.is_dir():
            if not self.generator.is_dir():
                transformer = Jog3rPipeline.from_pretrained(self._pretrain()).transformer.half()
                replace_folder(self.generator, partial(save_without_paths, transformer))
            pipe = self._new_pipeline()
            pipe.register_modules(transformer=Jog3rTransformer3DModel.from_pretrained(self.generator, torch_dtype=torch.float32))
            replace_folder(folder, partial(save_without_paths, pipe))
        return folder

    def _pretrain(self) -> Path:
        """Train a generator on generation alone, on single frames, then on clips."""
        scale, new = self.scale, self.folder / "new"
        if not new.is_dir():
            replace_folder(new, partial(save_without_paths, self._new_pipeline()))
        halves = dict(trainable="all", reconstruction_batch=0)
        images = self.folder / "pretrain_images"
        options = dict(num_frames=1, generation_batch=scale.image_batch, num_steps=scale.image_steps)
        self.train(new, images, **halves, **options, learning_rate=1.5e-3, matrix_learning_rate=5e-3)
        options = dict(generation_batch=scale.video_batch, num_steps=scale.video_steps, decay_fraction=0.5)
        return self.train(images / "pipeline", self.folder / "pretrain_videos", **halves, **options)

    def start(self, seed: int) -> Path:
        """The pre-trained generator with a fresh head of that seed."""
        folder = self.folder / f"start-{seed}"
        if not folder.is_dir():
            pipe = Jog3rPipeline.from_pretrained(self.pretrained())
            torch.manual_seed(seed)
            pipe.register_modules(pointmap_head=self._new_head())
            replace_folder(folder, partial(save_without_paths, pipe))
        return folder

    def dust3r_start(self, seed: int) -> Path:
        """A DUSt3R of the same width, as many image blocks as the generator has before the tap, and the same decoders."""
        folder, scale = self.folder / f"dust3r_start-{seed}", self.scale
        if not folder.is_dir():
            torch.manual_seed(seed)
            model = Dust3rBaseline(
                width=scale.width, num_layers=scale.tap, num_attention_heads=scale.heads, decoder_width=scale.width,
                decoder_num_layers=scale.head_blocks, decoder_num_attention_heads=scale.heads, patch_size=8,
            )  # fmt: skip
            replace_folder(folder, partial(save_without_paths, Dust3rPipeline(model)))
        return folder

    def train(self, start: Path, run: Path, **options: Any) -> Path:
        """One run of train_joint.py, gone on with where it was left; the folder of its pipeline.

        Raises:
            Paused: after a SIGTERM.
        """
        if (run / "pipeline").is_dir():
            return run / "pipeline"
        before, began = _steps_of(run), time.process_time()
        finished = train(self.config(start, run, **options))
        with (run / COST).open("a", encoding="utf-8") as file:
            file.write(f"{time.process_time() - began:.1f} {_steps_of(run) - before}\n")
        if finished is None:
            raise Paused
        return finished

    def config(self, start: Path, run: Path, **options: Any) -> TrainConfig:
        """Options of a run: those given, the common ones, and the data."""
        values = {**common_options(self.scale), "num_frames": self.scale.frames, **options}
        if options.get("model") != "dust3r":  # which reads frames, and a cache holds latents
            values |= dict(data="cache", cache_dir=str(self.cache), edge_threshold=None)
        return TrainConfig(init_from=str(start), output_dir=str(run), **values)

    def _new_pipeline(self) -> Jog3rPipeline:
        """VAE, text encoder and tokenizer of the bundled checkpoint around a random transformer and head."""
        pipe, scale = Jog3rPipeline.from_pretrained(tiny_checkpoint()), self.scale
        old = pipe.transformer.config
        torch.manual_seed(0)
        kept = ("in_channels", "out_channels", "caption_channels", "max_caption_length", "space_scale", "time_scale", "qk_norm")
        transformer = Jog3rTransformer3DModel(
            **{name: old[name] for name in kept}, num_layers=scale.blocks, feature_layer=scale.tap,
            num_attention_heads=scale.heads, attention_head_dim=scale.width // scale.heads,
            sample_size=scale.size // pipe.vae_scale_factor, num_frames=scale.frames,
        )  # fmt: skip
        pipe.register_modules(transformer=transformer, pointmap_head=self._new_head())
        return pipe

    def _new_head(self) -> Pointmap3DHead:
        scale = self.scale
        return Pointmap3DHead(
            feature_dim=scale.width, hidden_dim=scale.width, num_layers=scale.head_blocks, num_attention_heads=scale.heads,
            patch_size=8, trained=False,
        )  # fmt: skip


def _steps_of(run: Path) -> int:
    log = run / "steps.jsonl"
    return len(read_steps(log)) if log.is_file() else 0


def cpu_seconds_a_step(run: Path) -> float | None:
    """Of all parts of a run that were not killed; None without any."""
    if not (run / COST).is_file():
        return None
    parts = [line.split() for line in (run / COST).read_text(encoding="utf-8").splitlines()]
    return round(sum(float(seconds) for seconds, _ in parts) / max(sum(int(steps) for _, steps in parts), 1), 3)


def mean_losses(run: Path, last: int = 50) -> dict[str, float]:
    """Means of both losses and of the gradient's norm over the last steps of a run."""
    entries = [entry["losses"] for entry in read_steps(run / "steps.jsonl")][-last:]
    return {name: round(sum(one[name] for one in entries) / len(entries), 4) for name in entries[0]}


def gradient_balance(workshop: Workshop, model: Path, options: Mapping[str, Any], steps: int = 16) -> dict[str, float]:
    """How both losses pull at the weights that they share: those of the blocks up to the tap that `options` train.

    Returns:
        Means over steps of clips and noise: norms of the gradients of L_gen and of L_rec (before lambda), and the cosine between
        them, by "generation", "reconstruction" and "cosine"; both losses by "loss_generation" and "loss_reconstruction".
    """
    scale = workshop.scale
    config = workshop.config(
        model, workshop.folder / "unused", **options, generation_batch=scale.batch[0], reconstruction_batch=scale.batch[1],
        num_steps=steps, seed=100,
    )  # fmt: skip
    pipe = load_pipeline(str(model))
    joint, inputs = build_model(pipe, config), describe_inputs(pipe, config)
    blocks = [f"transformer_blocks.{number}." for number in range(scale.tap)]
    shared = [value for name, value in select_trainable(joint, config) if any(block in name for block in blocks)]
    share = BatchShare(*scale.batch)
    loader = build_loader(build_stream(config, pipe, inputs.caption_length, share), share, config, 0)
    sums: dict[str, float] = {}
    for step, batch in enumerate(loader):
        draws = draw_step_noise(config, step, share.slots(0), batch["latents"], inputs.caption_length, inputs.times)
        losses = joint(inputs.encode(batch), draws, config)
        vectors = {
            name: torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, shared, retain_graph=True)])
            for name, loss in losses.items()
        }
        values = {name: float(vector.norm()) for name, vector in vectors.items()}
        values |= {f"loss_{name}": loss.item() for name, loss in losses.items()}
        values["cosine"] = float(torch.cosine_similarity(*vectors.values(), dim=0))
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value / steps
    return {name: round(value, 4) for name, value in sums.items()}
