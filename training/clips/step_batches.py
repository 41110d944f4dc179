"""Which clips a step trains on and what is drawn for them: functions of (seed, step), however the work is divided.

The global batch of a step is [generation clips | reconstruction clips]. Processes and micro-steps take equal shares of both
parts: 1 process of 4 + 4 clips, 2 processes of 2 + 2 and 2 micro-steps of 2 + 2 train on the same clips under the same noise.
"""

from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from jog3r.training.config import TrainConfig

__all__ = ["BatchShare", "ShareOfStream", "StepNoise", "count_valid_pixels", "draw_step_noise"]


@dataclass(frozen=True)
class BatchShare:
    """One process's share of every global batch.

    Attributes:
        generation, reconstruction: clips a process and micro-step.
        micro_steps: forward and backward passes before one step of the optimizer.
        process, num_processes: this one, of how many.
    """

    generation: int
    reconstruction: int
    micro_steps: int = 1
    process: int = 0
    num_processes: int = 1

    @property
    def clips_per_micro_step(self) -> int:
        """Of this process."""
        return self.generation + self.reconstruction

    @property
    def clips_per_step(self) -> tuple[int, int]:
        """Generation and reconstruction clips of the global batch."""
        parts = self.micro_steps * self.num_processes
        return self.generation * parts, self.reconstruction * parts

    def slots(self, micro_step: int) -> list[int]:
        """Which clips of the global batch, counted from 0, this process takes in `micro_step`; those of generation first."""
        part = micro_step * self.num_processes + self.process
        behind_generation = self.clips_per_step[0]
        generation = range(part * self.generation, (part + 1) * self.generation)
        reconstruction = range(part * self.reconstruction, (part + 1) * self.reconstruction)
        return [*generation, *(behind_generation + slot for slot in reconstruction)]


class ShareOfStream(Dataset):
    """What one process reads of a stream from step `first_step` on, item after item, in the order of its micro-steps.

    Every item gets its "position" in the stream.

    Args:
        stream: the whole of it; step k trains on the positions k * (clips a step) and following.
        share: of this process.
        first_step, num_steps: the steps first_step ... num_steps - 1 are read.
    """

    def __init__(self, stream: Dataset, share: BatchShare, first_step: int, num_steps: int):
        self.stream, self.share = stream, share
        self.first_step, self.num_steps = first_step, num_steps

    def __len__(self) -> int:
        return (self.num_steps - self.first_step) * self.share.micro_steps * self.share.clips_per_micro_step

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        position = self.position(number)
        return {**self.stream[position], "position": torch.tensor(position)}

    def position(self, number: int) -> int:
        """Place in the stream of item `number`."""
        micro_step, place = divmod(number, self.share.clips_per_micro_step)
        step, micro_step = divmod(micro_step, self.share.micro_steps)
        return (self.first_step + step) * sum(self.share.clips_per_step) + self.share.slots(micro_step)[place]


@dataclass
class StepNoise:
    """Everything random in one micro-step of one process.

    Resuming a run needs no random state: step k draws the same numbers whenever, and by however many processes, it is run.
    """

    noise: torch.Tensor  # (B, C, F, h, w)
    timesteps: torch.Tensor  # (B,)
    drop_caption: torch.Tensor  # (G,) bool
    null_length: torch.Tensor  # (R,) tokens of the empty caption that the reconstruction half sees
    pairs: torch.Tensor  # (P, 2): frame 0 and another, each another one, in ascending order

    def to(self, device: torch.device) -> "StepNoise":
        """The same draws on `device`; they are drawn on the CPU, so that they do not depend on the device."""
        return StepNoise(**{entry.name: getattr(self, entry.name).to(device) for entry in fields(self)})


class Times(Protocol):
    """How time steps are drawn where they are not whole numbers of equal chance."""

    @property
    def count(self) -> int:
        """Of the training schedule."""

    def generation(self, generator: np.random.Generator) -> float:
        """For a clip of the generation half."""

    def reading(self, generator: np.random.Generator) -> float:
        """For a clip of the reconstruction half."""


def draw_step_noise(
    config: TrainConfig, step: int, slots: list[int], latents: torch.Tensor, caption_length: int, times: int | Times
) -> StepNoise:
    """Draw what is random for some clips of the global batch of a step; each clip has a generator of its own.

    Args:
        config: the options; read are the seed and the ranges of what is drawn.
        step: number of the optimizer step.
        slots: which clips of the global batch, see `BatchShare.slots`; the first `config.generation_batch` are generation's.
        latents (B, C, F, h, w): of these clips; only the shape is read.
        caption_length: L of the empty caption.
        times: the scheduler's num_train_timesteps, or how else time steps are drawn.
    """
    # Slot -1 draws what all clips of the step share. In sampling the unconditional half of guidance sees as many null tokens as
    # the caption has, in V2C it sees all: hence the clamp at the end.
    others = _generator(config.seed, step, -1).permutation(max(1, config.num_frames - 1))[: config.pairs_per_clip]
    frames = torch.from_numpy(np.sort(others) + 1)
    noise, timesteps, drop_caption, null_length = [], [], [], []
    for place, slot in enumerate(slots):
        generator = _generator(config.seed, step, slot)
        noise.append(torch.from_numpy(generator.standard_normal(latents.shape[1:], dtype=np.float32)))
        if place < config.generation_batch:
            timesteps.append(int(generator.integers(times)) if isinstance(times, int) else times.generation(generator))
            drop_caption.append(bool(generator.random() < config.caption_dropout))
        else:
            highest = config.max_reconstruction_timestep
            timesteps.append(int(generator.integers(highest + 1)) if isinstance(times, int) else times.reading(generator))
            null_length.append(min(caption_length, int(generator.integers(caption_length // 4, 2 * caption_length))))
    return StepNoise(
        torch.stack(noise),
        torch.tensor(timesteps),
        torch.tensor(drop_caption, dtype=torch.bool),
        torch.tensor(null_length, dtype=torch.long),
        torch.stack([torch.zeros_like(frames), frames], dim=-1),
    )


def _generator(seed: int, step: int, slot: int) -> np.random.Generator:
    return np.random.default_rng([seed, step, slot + 1])


def count_valid_pixels(batch: dict[str, Any], pairs: torch.Tensor, first: int) -> torch.Tensor:
    """Valid pixels (2,) int64 of both views of all pairs (P, 2) of the clips from `first` on: what the 3D loss is divided by.

    Summed over processes and micro-steps, so that a clip counts the same whoever computes it.
    """
    valid = batch["valid"][first:].flatten(2).sum(-1)  # (R, F)
    return torch.stack([valid[:, pairs[:, view]].sum() for view in range(2)])
