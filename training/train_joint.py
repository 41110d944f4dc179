"""Train JOG3R: generation and reconstruction together, either alone, on one process or many.

    accelerate launch training/train_joint.py --config training/recipes/NAME.yaml [--option value ...]

The run's folder holds checkpoints (`step-*`, exact resume with the same command), `samples/` to look at, tracker files, and
at the end `pipeline/`, a folder for `Jog3rPipeline.from_pretrained`. Options: `jog3r.training.config.TrainConfig`.
"""

import dataclasses
import logging
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from jog3r.pipelines.load import load_pipeline
from jog3r.pipelines.pipeline_dust3r import Dust3rPipeline
from jog3r.pipelines.pipeline_jog3r import Jog3rPipeline
from jog3r.training.cached_stream import CachedStream
from jog3r.training.checkpoints import find_checkpoint, read_run, save_checkpoint
from jog3r.training.clip_stream import ProceduralStream
from jog3r.training.config import TrainConfig, load_config
from jog3r.training.depth_checks import DepthChecks
from jog3r.training.joint_model import ImageModel, JointModel, draw_step_noise, select_trainable
from jog3r.training.optimization import build_optimizers, learning_rate_factor, reconstruction_weight
from jog3r.training.samples import save_samples

logger = logging.getLogger(__name__)


class Run:
    """One training run: everything that is prepared once, and the step."""

    def __init__(self, config: TrainConfig):
        self.config = config
        self.directory = Path(config.output_dir)
        self.stop = False  # set by SIGTERM: the step is finished, a checkpoint saved

        # 1. processes
        self.accelerator = Accelerator(
            mixed_precision=config.mixed_precision,
            log_with=None if config.tracker == "none" else config.tracker,
            project_config=ProjectConfiguration(project_dir=str(self.directory), logging_dir=str(self.directory / "logs")),
        )
        if config.num_threads is not None:
            torch.set_num_threads(config.num_threads)
        # 2. models
        self.pipeline = load_pipeline(config.init_from)
        self.joint = build_model(self.pipeline, config)
        generator = isinstance(self.pipeline, Jog3rPipeline)
        self.caption_length = self.pipeline.transformer.config.max_caption_length if generator else 1
        self.num_train_timesteps = self.pipeline.scheduler.config.num_train_timesteps if generator else 1
        # 3. optimization
        self.trained = select_trainable(self.joint, config)
        optimizers = build_optimizers(self.trained, config)
        schedules = [
            torch.optim.lr_scheduler.LambdaLR(one, lambda step: learning_rate_factor(step, config)) for one in optimizers
        ]
        self.ema = EMAModel([parameter for _, parameter in self.trained], decay=config.ema_decay, use_ema_warmup=True, power=0.75)
        self.ema.to(self.accelerator.device)
        # 4. distribution; schedules stay ours, as they count steps and not processes
        self.wrapped = self.accelerator.prepare(self.joint)
        self.optimizers = [self.accelerator.prepare(one) for one in optimizers]
        self.schedules = schedules
        self.accelerator.register_for_checkpointing(self.ema, *schedules)
        if config.tracker != "none":
            self.accelerator.init_trackers("jog3r", config={k: str(v) for k, v in dataclasses.asdict(config).items()})

    def loader(self, start: int) -> DataLoader:
        """Batches from step `start` on; every process reads its own places of the stream."""
        config, accelerator = self.config, self.accelerator
        per_step = config.generation_batch + config.reconstruction_batch
        micro_steps = config.num_steps * config.gradient_accumulation_steps
        size, length = (config.num_frames, config.height, config.width), micro_steps * per_step * accelerator.num_processes
        if config.data == "cache":
            checks = DepthChecks(config.edge_threshold, config.agreement_threshold)
            folder = Path(str(config.cache_dir))
            stream: Dataset = CachedStream(
                folder, self.pipeline.vae, self.caption_length, size, length, config.seed, checks=checks
            )
        else:
            vae, tokenizer = getattr(self.pipeline, "vae", None), getattr(self.pipeline, "tokenizer", None)
            stream = ProceduralStream(vae, tokenizer, self.caption_length, size, config.first_clip, length, config.seed)
        order = [
            (micro_step * accelerator.num_processes + accelerator.process_index) * per_step + item
            for micro_step in range(start * config.gradient_accumulation_steps, micro_steps)
            for item in range(per_step)
        ]
        return DataLoader(
            Subset(stream, order),
            batch_size=per_step,
            num_workers=config.num_workers,
            prefetch_factor=4 if config.num_workers else None,
            worker_init_fn=_start_worker,
            multiprocessing_context="fork" if config.num_workers else None,
        )

    def step(self, step: int, batches: Any) -> dict[str, float]:
        """One optimizer step; returns the losses, their sum and the gradient norm."""
        config, accelerator = self.config, self.accelerator
        logs: dict[str, float] = {}
        for micro_step in range(config.gradient_accumulation_steps):
            batch = {name: value.to(accelerator.device) for name, value in next(batches).items()}
            draws = draw_step_noise(
                config,
                step * config.gradient_accumulation_steps + micro_step,
                accelerator.process_index,
                batch["latents"] if "latents" in batch else batch["depth"],
                self.caption_length,
                self.num_train_timesteps,
            ).to(accelerator.device)
            losses = self.wrapped(batch, draws, config)
            weights = {"generation": 1.0, "reconstruction": reconstruction_weight(step, config)}
            loss = sum(weights[name] * value for name, value in losses.items())
            if not torch.isfinite(loss):
                raise RuntimeError(f"the loss became {loss.item()} at step {step}: { {k: v.item() for k, v in losses.items()} }")
            accelerator.backward(loss / config.gradient_accumulation_steps)
            for name, value in {**losses, "loss": loss}.items():
                logs[name] = logs.get(name, 0.0) + value.item() / config.gradient_accumulation_steps
        logs["gradient_norm"] = float(accelerator.clip_grad_norm_([p for _, p in self.trained], config.max_grad_norm))
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
        self.ema.step([parameter for _, parameter in self.trained])
        return logs

    def resume(self) -> int:
        """Load the newest intact checkpoint, if any; the number of the next step."""
        path = find_checkpoint(self.directory) if self.config.resume == "auto" else None
        if path is None:
            return 0
        self.accelerator.load_state(str(path))
        step = read_run(path)["step"]
        logger.info("resumed from %s", path)
        return step

    def save(self, step: int) -> None:
        """Checkpoint after `step` steps."""
        save_checkpoint(self.accelerator, self.directory, step, dataclasses.asdict(self.config), self.config.keep_checkpoints)

    def save_pipeline(self, directory: Path) -> None:
        """Write the averaged weights as a pipeline folder."""
        parameters = [parameter for _, parameter in self.trained]
        self.ema.store(parameters)
        self.ema.copy_to(parameters)
        self.pipeline.save_pretrained(directory)
        self.ema.restore(parameters)

    def save_samples(self, step: int) -> None:
        """Generate with the averaged weights, write a sheet to look at."""
        parameters = [parameter for _, parameter in self.trained]
        self.ema.store(parameters)
        self.ema.copy_to(parameters)
        save_samples(self.pipeline, self.config, self.directory / "samples", step)
        self.ema.restore(parameters)


def build_model(pipeline: Jog3rPipeline | Dust3rPipeline, config: TrainConfig) -> JointModel | ImageModel:
    """The module that is trained: the generator with its head, or the DUSt3R baseline."""
    if isinstance(pipeline, Dust3rPipeline):
        if config.generation_batch:
            raise ValueError(f"a DUSt3R generates nothing: set generation_batch=0, got {config.generation_batch}")
        if config.data == "cache":
            raise ValueError("a cache holds latents, a DUSt3R needs frames: use data=procedural")
        parts = [pipeline.baseline]
        model: JointModel | ImageModel = ImageModel(pipeline.baseline)
    else:
        pipeline.vae.requires_grad_(False).eval()
        parts = [pipeline.transformer, pipeline.pointmap_head]
        model = JointModel(pipeline.transformer, pipeline.pointmap_head, pipeline.text_encoder, pipeline.scheduler)
    if config.gradient_checkpointing:
        for part in parts:
            part.enable_gradient_checkpointing()
    return model


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)  # the other cores are the trainer's
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # preemption reaches the whole group: the trainer decides when to stop


def train(config: TrainConfig, run: Run | None = None) -> Path | None:
    """Train to the end or to the first reason to pause; the folder of the finished pipeline, None when paused."""
    run = Run(config) if run is None else run
    deadline = None if config.stop_after_minutes is None else time.monotonic() + 60 * config.stop_after_minutes
    signal.signal(signal.SIGTERM, lambda *_: setattr(run, "stop", True))
    start = run.resume()
    batches = iter(run.loader(start))
    main = run.accelerator.is_main_process
    with tqdm(range(start, config.num_steps), initial=start, total=config.num_steps, unit="step", disable=not main) as bar:
        for step in bar:
            logs = run.step(step, batches)
            bar.set_postfix({name: f"{value:.4f}" for name, value in logs.items()})
            run.accelerator.log(logs, step=step)
            done = step + 1
            paused = run.stop or (deadline is not None and time.monotonic() > deadline)
            if done % config.checkpoint_every == 0 or done == config.num_steps or paused:
                run.save(done)
            if main and done % config.sample_every == 0 and config.generation_batch:
                run.save_samples(done)
            if paused and done < config.num_steps:
                logger.info("paused after step %d: the same command goes on from there", done)
                run.accelerator.end_training()
                return None
    if main:
        run.save_pipeline(Path(config.output_dir) / "pipeline")
    run.accelerator.end_training()
    return Path(config.output_dir) / "pipeline"


def main(arguments: list[str]) -> int:
    """Entry point; a user's mistake ends in one line and exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        config = load_config(TrainConfig, arguments)
        if not Path(config.init_from).is_dir():
            raise ValueError(f"init_from={config.init_from!r} is no pipeline folder")
        run = Run(config)
    except ValueError as error:
        logger.error("error: %s", error)
        return 2
    train(config, run)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
