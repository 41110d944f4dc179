"""Reading features at one step of a sampling loop that is not ours: the tap opens when the step begins and closes behind it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jog3r.models.feature_tap import FeatureTap
from jog3r.pipelines.reconstruction import find_tap_step


class TappedStep:
    """Reads the tokens behind some blocks at the last sampling step within a range of noise.

    Args:
        transformer_at: time step -> the transformer that denoises it.
        layers: blocks to read, counted from 1.
        scheduler: whose `timesteps` the loop walks.
        bounds: lowest and highest time step to read at.

    Attributes:
        taps: what was read, or None.
        timestep: the time step at which it was read, or None.
    """

    def __init__(
        self,
        transformer_at: Callable[[float], Any],
        layers: list[int],
        scheduler: Any,
        bounds: tuple[float, float],
    ):
        self._transformer_at, self._layers, self._scheduler, self._bounds = transformer_at, layers, scheduler, bounds
        self._count = 0
        self._step: int | None = None
        self._tap: FeatureTap | None = None
        self.taps: list[Tensor] | None = None
        self.timestep: float | None = None

    def begin(self, t: Tensor | None) -> None:
        """The loop comes to time step `t`; None: it is not at one.

        Raises:
            ValueError: the schedule has no step in the range; raised at the first step, before anything is denoised.
        """
        self.end()
        if t is None:
            return
        if self._step is None:
            self._step = self._find()
        if self._count == self._step:
            self.timestep = float(t)
            self._tap = FeatureTap(self._transformer_at(self.timestep), self._layers)
            self._tap.__enter__()
        self._count += 1

    def end(self) -> None:
        """The step is over."""
        if self._tap is not None:
            tap, self._tap = self._tap, None
            tap.__exit__(None, None, None)
            self.taps = tap.taps

    def abandon(self) -> None:
        """The loop broke off; the transformer is left as it was."""
        if self._tap is not None:
            tap, self._tap = self._tap, None
            tap.__exit__(None, None, None)

    def _find(self) -> int:
        timesteps: Tensor = self._scheduler.timesteps
        low, high = self._bounds
        step = find_tap_step(timesteps, high, low)
        if step is None:
            shown = [f"{float(t):g}" for t in timesteps]
            listed = ", ".join(shown if len(shown) <= 6 else [shown[0], "...", *shown[-4:]])
            raise ValueError(
                f'task "t2v+c" reads its features at a step with t in [{low:g}, {high:g}], but {type(self._scheduler).__name__} '
                f"visits t = {listed}; use more num_inference_steps, a smaller shift of the scheduler, or pass "
                f"reconstruction_timestep={_next_whole(timesteps, low)} (noisier features)"
            )
        return step


def _next_whole(timesteps: Tensor, low: float) -> int:
    """The smallest visited time step that is not below the range, rounded up."""
    above = timesteps[timesteps >= low]
    return int(torch.ceil((above if len(above) else timesteps).float().min()))
