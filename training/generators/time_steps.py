"""At which time steps a generator of diffusers is trained: as its family was for generation, within the head's range for 3D."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from jog3r.pipelines.reconstruction import is_flow_matching, num_train_timesteps
from jog3r.training.config import TrainConfig

__all__ = ["TimeSteps", "time_steps"]


@dataclass(frozen=True)
class TimeSteps:
    """How time steps are drawn.

    Attributes:
        count: of the training schedule.
        flow: flow matching: steps are any numbers from 0 to `count`, and the noise level is step / count. Else whole numbers.
        shift: odds of the noise are multiplied by it, as the scheduler does where it samples.
        logit_normal: flow matching: levels before the shift are logistic of a normal number (Esser et al. 2024), else uniform.
        reconstruction: lowest and highest step at which the head reads.
    """

    count: int
    flow: bool
    shift: float
    logit_normal: bool
    reconstruction: tuple[int, int]

    def generation(self, generator: np.random.Generator) -> float:
        """For a clip of the generation half."""
        if not self.flow:
            return int(generator.integers(self.count))
        level = 1 / (1 + math.exp(-generator.standard_normal())) if self.logit_normal else generator.random()
        return self.count * self.shift * level / (1 + (self.shift - 1) * level)

    def reading(self, generator: np.random.Generator) -> float:
        """For a clip of the reconstruction half."""
        low, high = self.reconstruction
        return float(generator.uniform(low, high)) if self.flow else int(generator.integers(low, high + 1))


def time_steps(scheduler: Any, config: TrainConfig, num_tokens: int) -> TimeSteps:
    """How `config` draws them under a scheduler of diffusers, for clips of so many tokens.

    Raises:
        ValueError: the range of the head goes beyond the schedule.
    """
    count = num_train_timesteps(scheduler)
    if config.max_reconstruction_timestep > count - 1:
        raise ValueError(
            f"max_reconstruction_timestep must be at most {count - 1}, the last time step of the scheduler in "
            f"{config.init_from!r}, got {config.max_reconstruction_timestep}"
        )
    bounds = (config.min_reconstruction_timestep, config.max_reconstruction_timestep)
    flow = is_flow_matching(scheduler)
    return TimeSteps(count, flow, scheduler_shift(scheduler, num_tokens), config.timestep_sampling != "uniform", bounds)


def scheduler_shift(scheduler: Any, num_tokens: int) -> float:
    """By which a flow matching scheduler multiplies the odds of the noise: a constant, or one that grows with the tokens."""
    settings = scheduler.config
    if settings.get("use_dynamic_shifting"):
        low, high = settings.base_image_seq_len, settings.max_image_seq_len
        slope = (settings.max_shift - settings.base_shift) / (high - low)
        mu = settings.base_shift + slope * (num_tokens - low)
        return mu if settings.get("time_shift_type") == "linear" else math.exp(mu)
    return float(settings.get("flow_shift") or settings.get("shift") or 1.0)
