"""Train JOG3R: generation and reconstruction together, either alone, on one process or many.

    accelerate launch training/train_joint.py --config training/recipes/NAME.yaml [--option value ...]

The run's folder holds checkpoints (`step-*`, exact resume with the same command), `samples/` to look at, tracker files, and
at the end `pipeline/`, a folder for `from_pretrained` of its class. Options: `jog3r.training.config.TrainConfig`.
"""

import dataclasses
import logging
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from tqdm import tqdm

from jog3r.data.cache.places import connection_errors
from jog3r.data.errors import first_line
from jog3r.training.build import build_model, check_start, load_start, select_trainable
from jog3r.training.clips.held_out import hold_out
from jog3r.training.clips.step_batches import BatchShare, StepNoise, count_valid_pixels, draw_step_noise
from jog3r.training.clips.streams import build_loader, build_stream, end_workers, step_record
from jog3r.training.config import TrainConfig, load_config, recipe_of
from jog3r.training.generators.inputs import describe_inputs
from jog3r.training.generators.options import recognise
from jog3r.training.last_words import say_why
from jog3r.training.optimization import build_optimizers, learning_rate_factor, reconstruction_weight
from jog3r.training.run.card import training_section
from jog3r.training.run.checkpoints import (
    TrainingState,
    agree_on_checkpoint,
    check_same_data,
    load_checkpoint,
    read_run,
    save_checkpoint,
)
from jog3r.training.run.failures import OUT_OF_MEMORY, TrainingStopped, dump_batches, loader_failure
from jog3r.training.run.processes import (
    RunLock,
    StopSignal,
    any_process,
    is_sharded,
    name_blocks,
    seed_step,
    start_accelerator,
)  # fmt: skip
from jog3r.training.run.results import open_repository, push_results, save_best, save_results
from jog3r.training.run.sample_videos import log_pictures, save_samples, start_trackers
from jog3r.training.run.step_log import StepLog
from jog3r.training.run.validation import Best, Validation, better, told

if TYPE_CHECKING:
    from diffusers.training_utils import EMAModel

logger = logging.getLogger(__name__)
STEPS = "steps.jsonl"
MicroBatch = tuple[dict[str, torch.Tensor], StepNoise]


class Run:
    """One training run: everything that is prepared once, and the step; `recipe` is named in the results' cards."""

    def __init__(self, config: TrainConfig, accelerator: Accelerator, recipe: str | None = None):
        self.config, self.recipe = config, recipe
        self.directory = Path(config.output_dir)
        # 1. processes
        self.accelerator = accelerator
        self.share = BatchShare(
            config.generation_batch,
            config.reconstruction_batch,
            config.gradient_accumulation_steps,
            accelerator.process_index,
            accelerator.num_processes,
        )
        generation, reconstruction = self.share.clips_per_step
        if accelerator.is_main_process:
            logger.info(
                "%d processes (%s), %d micro-steps: %d + %d clips a step (generation + reconstruction)",
                accelerator.num_processes, accelerator.distributed_type.value, config.gradient_accumulation_steps, generation,
                reconstruction,
            )  # fmt: skip
        if config.num_threads is not None:
            torch.set_num_threads(config.num_threads)
        if accelerator.is_main_process:  # a wrong name or a missing login shows before the models are loaded
            open_repository(config)
        start_trackers(accelerator, config)
        # 2. models; whatever starts fresh starts with the same weights in every process
        torch.manual_seed(config.seed)
        self.pipeline = load_start(config)
        self.joint = build_model(self.pipeline, config)
        self.inputs = describe_inputs(self.pipeline, config)
        # 3. data
        self.stream = build_stream(config, self.pipeline, self.inputs.caption_length, self.share)
        self.validation: Validation | None = None
        self.best: Best | None = None
        if config.validate_every:
            self.validation = Validation(hold_out(self.stream, config), config, self.inputs)
        # 4. optimization, distribution; schedules stay ours, as they count steps and not processes
        trained = select_trainable(self.joint, config)
        optimizers = build_optimizers(trained, config)
        schedules = [
            torch.optim.lr_scheduler.LambdaLR(one, lambda step: learning_rate_factor(step, config)) for one in optimizers
        ]
        name_blocks(self.joint)
        self.wrapped, *optimizers = accelerator.prepare(self.joint, *optimizers)
        parameters = dict(self.joint.named_parameters())  # sharding has replaced them; their average is sharded as they are
        trained = [(name, parameters[name]) for name, _ in trained]
        self.state = TrainingState(trained, self._build_average(trained), optimizers, schedules)
        self.sample_captions: dict[str, Any] = {}  # embedded for the first samples

    def _build_average(self, trained: list[tuple[str, torch.nn.Parameter]]) -> "EMAModel":
        from diffusers.training_utils import EMAModel  # not above: seconds, and a mistake in the options shall show before

        parameters = [value for _, value in trained]
        average = EMAModel(parameters, decay=self.config.ema_decay, use_ema_warmup=True, power=0.75, foreach=True)
        average.to(self.accelerator.device)
        return average

    def step(self, step: int, batches: Iterator[dict[str, torch.Tensor]]) -> tuple[dict[str, float], list[int]]:
        """One optimizer step.

        Returns:
            Losses, their sum, the gradient norm and the share of the time spent waiting for data (means over the processes);
            and the positions in the stream of the clips of all processes.
        """
        config, accelerator = self.config, self.accelerator
        begin = time.monotonic()
        seed_step(config.seed, step, accelerator.process_index)
        micro_batches = self._read(step, batches)
        waited = time.monotonic() - begin
        logs: dict[str, float] = {}
        for batch, draws in micro_batches:
            with accelerator.accumulate(self.wrapped):
                losses = self.wrapped(batch, draws, config)
                weights = {"generation": 1.0, "reconstruction": reconstruction_weight(step, config)}
                losses["loss"] = sum(weights[name] * value for name, value in losses.items())
                means = accelerator.reduce(torch.stack([value.detach().float() for value in losses.values()]), "mean")
                if not bool(means.isfinite().all()):
                    self._stop_non_finite(step, dict(zip(losses, means.tolist(), strict=True)), micro_batches)
                accelerator.backward(losses["loss"])
            for name, value in zip(losses, means.tolist(), strict=True):
                logs[name] = logs.get(name, 0.0) + value / config.gradient_accumulation_steps
        norm = accelerator.clip_grad_norm_([value for _, value in self.state.trained], config.max_grad_norm or math.inf)
        logs["gradient_norm"] = float(norm)
        if not torch.isfinite(torch.tensor(logs["gradient_norm"])):
            self._stop_non_finite(step, logs, micro_batches)
        for optimizer, schedule in zip(self.state.optimizers, self.state.schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
        self.state.average.step([value for _, value in self.state.trained])
        logs["data_wait"] = waited / (time.monotonic() - begin)
        positions = torch.cat([batch["position"] for batch, _ in micro_batches])
        return logs, sorted(accelerator.gather(positions).tolist())

    def _read(self, step: int, batches: Iterator[dict[str, torch.Tensor]]) -> list[MicroBatch]:
        """The step's clips and draws of this process, on the device."""
        accelerator, config = self.accelerator, self.config
        micro_batches: list[MicroBatch] = []
        for micro_step in range(config.gradient_accumulation_steps):
            try:
                batch = next(batches)
            except (RuntimeError, ValueError, OSError) as error:
                raise loader_failure(error, step, config.loader_timeout) from error
            on_device = self.inputs.encode({name: value.to(accelerator.device) for name, value in batch.items()})
            latents = on_device["latents"] if "latents" in on_device else batch["depth"]
            slots = self.share.slots(micro_step)
            draws = draw_step_noise(config, step, slots, latents, self.inputs.caption_length, self.inputs.times)
            micro_batches.append((on_device, draws.to(accelerator.device)))
        if config.reconstruction_batch:
            counts = [count_valid_pixels(batch, draws.pairs, config.generation_batch) for batch, draws in micro_batches]
            total = accelerator.reduce(torch.stack(counts).sum(0), "sum").float()
            for batch, _ in micro_batches:
                batch["valid_pixels"] = total / (len(micro_batches) * accelerator.num_processes)
        return micro_batches

    def _stop_non_finite(self, step: int, values: dict[str, float], micro_batches: list[MicroBatch]) -> None:
        """Write the clips and draws of this process for inspection, and stop before the weights are touched."""
        path = self.directory / f"nonfinite-step-{step:07d}-process-{self.accelerator.process_index}.safetensors"
        names = [self.stream.sample_name(place) for batch, _ in micro_batches for place in batch["position"].tolist()]
        dump_batches(path, micro_batches, {"step": step, "values": {k: str(v) for k, v in values.items()}, "samples": names})
        self.accelerator.wait_for_everyone()  # until all have written: when one process exits, the launcher kills the rest
        shown = ", ".join(f"{name} {value:g}" for name, value in values.items())
        raise TrainingStopped(
            f"not finite at step {step}: {shown}; clips: {'; '.join(names)}; clips and noise are in {path}. The weights are as "
            "before the step: look into the clips, or lower learning_rate"
        )

    def resume(self) -> int:
        """Load the newest intact checkpoint, if any; the number of the next step.

        Raises:
            ValueError: the checkpoint belongs to other data, another global batch, other trained parameters or another optimizer.
        """
        path = agree_on_checkpoint(self.directory, self.accelerator)
        if path is None:
            return 0
        if self.config.resume == "never":
            raise ValueError(f"resume=never, but {str(self.directory)!r} holds {path.name}: name a new output_dir, or delete it")
        saved = read_run(path)
        if saved["step"] > self.config.num_steps:
            raise ValueError(
                f"{str(path)!r} is behind num_steps={self.config.num_steps}: set num_steps to at least {saved['step']}, or name "
                "a new output_dir"
            )
        changed = check_same_data(path, saved, self.progress(0))
        load_checkpoint(self.state, path, changed)
        self.best = None if saved.get("best") is None else Best(**saved["best"])
        logger.info("resumed from %s", path)
        return saved["step"]

    def progress(self, step: int) -> dict[str, Any]:
        """What a checkpoint after `step` steps says about the run."""
        return {
            "step": step,
            "clips_per_step": list(self.share.clips_per_step),
            "data": self.stream.describe(),
            "best": None if self.best is None else dataclasses.asdict(self.best),
            "settings": dataclasses.asdict(self.config),
        }

    def save(self, step: int) -> None:
        """Checkpoint after `step` steps."""
        save_checkpoint(self.accelerator, self.state, self.directory, self.progress(step), self.config.keep_checkpoints)

    @contextmanager
    def averaged(self) -> Iterator[tuple[Any, Any] | None]:
        """The pipeline and the module that is trained with the averaged weights, on the main process; None on the others.

        All have to enter.
        """
        main = self.accelerator.is_main_process
        if is_sharded(self.accelerator):
            weights = self.state.averaged_weights(keep=main)
            if not main:
                yield None
                return
            pipeline = load_start(self.config)
            joint = build_model(pipeline, self.config)
            joint.load_state_dict(weights, strict=False)
            yield pipeline, joint
            return
        parameters = [value for _, value in self.state.trained]
        self.state.average.store(parameters)
        self.state.average.copy_to(parameters)
        try:
            yield (self.pipeline, self.joint) if main else None
        finally:
            self.state.average.restore(parameters)

    def save_results(self) -> None:
        """Write the averaged weights as folders, whose cards name the recipe; upload them if asked to."""
        with self.averaged() as averaged:
            if averaged is not None:
                folder = save_results(averaged[0], self.config, self._training_section(self.config.num_steps))
                logger.info("done: the result is in %s, samples and log beside it", folder)
                push_results(folder, self.config)

    def _training_section(self, step: int) -> str:
        return training_section(self.config, self.recipe, self.progress(step), self.directory / STEPS)

    def validate(self, step: int) -> None:
        """Measure the averaged weights on the held-out clips; keep them in `best/` if asked to and they are the best so far."""
        with self.averaged() as averaged:
            if averaged is None or self.validation is None:
                return
            values = self.validation.measure(*averaged, self.accelerator.device)
            logger.info("validation after step %d: %s", step, told(values))
            self.accelerator.log({f"validation/{name}": value for name, value in values.items()}, step=step)
            name = self.config.keep_best
            if name is not None and better(values[name], name, self.best):
                self.best = Best(name, values[name], step)
                folder = save_best(averaged[0], self.config, self._training_section(step), {"step": step, **values})
                logger.info("the best so far: %s", folder)

    def save_samples(self, step: int) -> None:
        """Generate and reconstruct with the averaged weights, write pictures to look at."""
        with self.averaged() as averaged:
            if averaged is not None:
                pipeline, _ = averaged
                held = self.validation
                pictures = save_samples(
                    pipeline, self.config, self.directory / "samples", step, device=self.accelerator.device,
                    embedded=None if self.config.train_text_encoder else self.sample_captions,
                    clips=None if held is None else lambda count: held.sample_clips(pipeline, count),
                )  # fmt: skip
                log_pictures(self.accelerator.trackers, pictures, step)


def train(config: TrainConfig, stop: StopSignal | None = None, recipe: str | None = None) -> Path | None:
    """Train to the end or to the first reason to pause.

    Args:
        config: the options.
        stop: that a signal sets; None listens for SIGTERM.
        recipe: name of the yaml file that the options came from, for the model card.

    Returns:
        The folder of the finished pipeline, None when paused.

    Raises:
        ValueError: options or data that do not fit, or another run in the folder.
        TrainingStopped: the run cannot go on.
    """
    if stop is None:
        with StopSignal() as stop:
            return train(config, stop, recipe)
    check_start(config)
    config = recognise(config)
    deadline = float("inf") if config.stop_after_minutes is None else time.monotonic() + 60 * config.stop_after_minutes
    accelerator = start_accelerator(config)
    with RunLock(accelerator, Path(config.output_dir)) as lock:
        run = Run(config, accelerator, recipe)
        if not _train(run, stop, deadline, lock):
            return None
        run.save_results()
        accelerator.end_training()
        return run.directory / "pipeline"


def _train(run: Run, stop: StopSignal, deadline: float, lock: RunLock) -> bool:
    """All steps that are left; false when paused."""
    config, accelerator = run.config, run.accelerator
    start = run.resume()
    batches = iter(build_loader(run.stream, run.share, config, start))
    main = accelerator.is_main_process
    log = StepLog(run.directory / STEPS, start) if main else None
    with tqdm(range(start, config.num_steps), initial=start, total=config.num_steps, unit="step", disable=not main) as bar:
        for step in bar:
            logs, positions = run.step(step, batches)
            if log is not None:
                losses = {name: value for name, value in logs.items() if name != "data_wait"}  # what a resumed run repeats
                log.append(step, positions, losses=losses, **step_record(run.stream, positions))
            bar.set_postfix({name: f"{value:.4f}" for name, value in logs.items()})
            accelerator.log(logs, step=step)
            done = step + 1
            paused = any_process(accelerator, stop.received or time.monotonic() > deadline)
            last = done == config.num_steps
            validates = bool(config.validate_every) and (done % config.validate_every == 0 or last)
            saves = done % config.checkpoint_every == 0 or last or paused
            if validates or saves:
                lock.check()  # before anything is written
                if log is not None:
                    log.sync()
            if validates:
                if paused:
                    run.save(done)  # once more behind it; but what stops the run may not wait for a validation
                run.validate(done)
            if saves:
                run.save(done)
            if config.sample_every and done % config.sample_every == 0:
                run.save_samples(done)
            if paused and done < config.num_steps:
                logger.info("paused after step %d: the same command goes on from there", done)
                accelerator.end_training()
                return False
    if log is not None:
        log.close()
    return True


def main(arguments: list[str]) -> int:
    """Entry point; a user's mistake ends in one line and exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        with StopSignal() as stop:
            train(load_config(TrainConfig, arguments), stop, recipe_of(arguments))
    except ValueError as error:
        say_why(str(error))
        return 2
    except torch.OutOfMemoryError as error:
        say_why(f"{OUT_OF_MEMORY} ({first_line(error)})")
        return 1
    except (TrainingStopped, SafetensorError, *connection_errors()) as error:
        say_why(str(error))
        return 1
    finally:
        end_workers()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
