"""How a run does on clips that it never trains on: both losses at fixed noise, and cameras against the truth."""

import dataclasses
import logging
import math
from typing import Any

import torch
from torch import nn

from jog3r.data.clip import Clip
from jog3r.geometry.camera_metrics import PoseErrors, failed_pose_errors, pose_errors, pose_metrics
from jog3r.training.clips.held_out import HeldClip
from jog3r.training.clips.step_batches import draw_step_noise
from jog3r.training.clips.streams import join_items
from jog3r.training.config import TrainConfig
from jog3r.training.generators.inputs import Inputs
from jog3r.training.generators.options import GENERATORS
from jog3r.training.run.sample_videos import in_evaluation, reconstruct_clips

__all__ = ["NAMES", "Best", "Validation", "better", "told"]

logger = logging.getLogger(__name__)
NAMES = {  # as `keep_best` calls them: how the terminal does, and whether higher is better
    "l_gen": ("L_gen {:.4f}", False),
    "l_rec": ("L_rec {:.4f}", False),
    "rotation": ("rotation {:.2f} deg", False),
    "direction": ("direction {:.2f} deg", False),
    "maa": ("mAA@30 {:.1f} %", True),
}


class Validation:
    """What is measured, always on the same clips under the same noise.

    Args:
        held: the clips of each half, see `hold_out`.
        config: the options.
        inputs: of the model.
    """

    def __init__(self, held: dict[str, list[HeldClip]], config: TrainConfig, inputs: Inputs):
        self.held, self.config, self.inputs = held, config, inputs
        self._shown: list[Clip] = []
        self._empty: dict[str, Any] = {}  # the caption under which another generator reads videos
        halves = {f"{half}_batch": int(half in held) for half in ("generation", "reconstruction")}
        self._one = dataclasses.replace(config, **halves, seed=0, caption_dropout=0.0)  # one clip a half at a time

    def clips(self, pipeline: Any, half: str, count: int | None = None) -> list[Clip]:
        """The first `count` clips of a half, all if None."""
        return [one.clip(getattr(pipeline, "vae", None)) for one in self.held[half][:count]]

    def sample_clips(self, pipeline: Any, count: int) -> list[Clip]:
        """Clips to show, with the captions of the data: those that the generator is measured on, else the head. Decoded once."""
        half = "generation" if "generation" in self.held else "reconstruction"
        if len(self._shown) < min(count, len(self.held[half])):
            self._shown = self.clips(pipeline, half, count)
        return self._shown[:count]

    def measure(self, pipeline: Any, joint: nn.Module, device: torch.device) -> dict[str, float]:
        """Values by the names of `NAMES`, of those that the run trains.

        Args:
            pipeline: with the weights to be measured.
            joint: the module that is trained, of the same weights.
            device: to compute on.
        """
        if self.config.model in GENERATORS and not self._empty:  # before anything but the text encoder changes its device
            with torch.no_grad():
                self._empty["empty"] = pipeline.caption_of_videos(pipeline.text_encoder.device)
        with in_evaluation(pipeline, device), torch.no_grad():
            values = self._losses(joint.to(device), device)
            if "reconstruction" in self.held:
                values |= self._cameras(pipeline)
        return values

    def _losses(self, joint: nn.Module, device: torch.device) -> dict[str, float]:
        """Means over the clips; the generator's time steps lie evenly from 0 to the last one."""
        count, sums = self.config.validation_clips, dict[str, float]()
        steps = self.inputs.times if isinstance(self.inputs.times, int) else self.inputs.times.count
        for number in range(count):
            batch = join_items([self.held[half][number].item() for half in self.held])
            batch = self.inputs.encode({name: value.to(device) for name, value in batch.items()})
            shape_of = batch["latents"] if "latents" in batch else batch["depth"]
            slots = list(range(len(self.held)))
            draws = draw_step_noise(self._one, number, slots, shape_of, self.inputs.caption_length, self.inputs.times)
            if "generation" in self.held:
                draws.timesteps[0] = int((number + 0.5) / count * steps)
            losses = joint(batch, draws.to(device), self._one)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value) / count
        return {short: sums[name] for name, short in (("generation", "l_gen"), ("reconstruction", "l_rec")) if name in sums}

    def _cameras(self, pipeline: Any) -> dict[str, float]:
        """Mean errors over all pairs of the first frame and another; a clip whose pointmaps cannot be registered is all wrong."""
        errors: list[PoseErrors] = []
        for clip in self.clips(pipeline, "reconstruction"):
            try:
                found = reconstruct_clips(pipeline, [clip], self.config, self._empty)
                errors.append(pose_errors(found.poses[0], clip.poses, known=found.registration[0].pose_known))
            except ValueError as error:
                logger.warning("no cameras in a validation clip: %s", error)
                errors.append(failed_pose_errors(clip.poses))
        figures = pose_metrics(errors)
        return {"rotation": figures["rotation_deg"], "direction": figures["translation_deg"], "maa": figures["maa@30"]}


def told(values: dict[str, float]) -> str:
    """The values for the terminal."""
    return ", ".join(NAMES[name][0].format(value) for name, value in values.items())


@dataclasses.dataclass(frozen=True)
class Best:
    """The best validation so far.

    Attributes:
        name: what it is the best by, see `NAMES`.
        value: of that.
        step: after how many steps.
    """

    name: str
    value: float
    step: int


def better(value: float, name: str, best: Best | None) -> bool:
    """Whether a value is better than the best so far; one that is not finite never is."""
    if not math.isfinite(value):
        return False
    if best is None or best.name != name:
        return True
    return value > best.value if NAMES[name][1] else value < best.value
