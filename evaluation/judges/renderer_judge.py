"""The renderer as judge of generated videos: it knows the true depth and cameras of the procedural clips.

A caption does not fix a scene, so what is judged are not videos from captions alone but clips drawn anew: a rendered clip is
noised to a middle level of the schedule and denoised from there under its own caption (as SDEdit, arXiv 2108.01073). Layout and
camera stay the clip's, details become the model's. If the model is consistent, the frames match when warped by the true geometry.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor

from jog3r.data import Clip
from jog3r.evaluation.consistency import warp_error
from jog3r.pipelines.captions import CaptionBatch
from jog3r.pipelines.pipeline_jog3r import Jog3rPipeline
from jog3r.pipelines.reconstruction import noise_latents, num_train_timesteps

__all__ = ["RendererJudge", "redraw", "steps_below"]

_STILL = 0.01  # of 255 levels: a plain grey picture is right under any warp, and wrong under none


@dataclass(frozen=True)
class RendererJudge:
    """Warps the frames of a video by the true depth and cameras of its clip.

    Its figures: "warp error" and "no-warp error", mean absolute differences to frame 1 (0..255) with and without the warp, and
    "moves as the scene %", 100 no-warp / (warp + no-warp): 100 where the warp explains all change between the frames, 50 where it
    explains nothing, 0 for a frozen video.

    Attributes:
        level: share of the schedule that clips are noised to before they are drawn anew.
        clips: the true ones; video k of a row is looked at with the geometry of clip k.
    """

    level: float
    clips: Sequence[Clip] = ()
    name = "renderer"
    order = ("moves as the scene %",)  # what tells a good video from a bad one, higher is better

    def describe(self) -> dict[str, Any]:
        """What decides the figures."""
        return {"judge": "renderer: true depth and cameras of the clips", "redraw_level": self.level}

    def look(self, frames: np.ndarray, number: int) -> dict[str, np.ndarray]:
        """Figures of a video (F,H,W,3) uint8 of clip `number`."""
        clip = self.clips[number]
        found = warp_error(frames, clip.depth, clip.poses, clip.intrinsics, clip.valid)
        change = found["warp"] + found["no_warp"]
        figures = {
            "warp error": found["warp"],
            "no-warp error": found["no_warp"],
            "moves as the scene %": 100 * found["no_warp"] / change if change > _STILL else float("nan"),
        }
        return {f"figure {name}": np.array(value) for name, value in figures.items()}


@torch.no_grad()
def redraw(
    pipeline: Any, frames: np.ndarray, captions: list[str], seeds: list[int], level: float, sampling: dict[str, Any]
) -> np.ndarray:
    """Clips drawn anew by a model: noised to a level of its schedule, denoised from there under their captions.

    Args:
        pipeline: a `Jog3rPipeline`.
        frames (B,F,H,W,3): uint8.
        captions: B of them.
        seeds: of the noise, one a clip.
        level: share of the schedule; of the sampling steps those at or below it are done.
        sampling: `num_inference_steps` and `guidance_scale` (2.5 unless given); what else it holds is not read.

    Returns:
        (B,F,H,W,3) float in 0..1.

    Raises:
        ValueError: another pipeline, or a level below all of the sampling steps.
    """
    left = steps_below(pipeline, level, sampling["num_inference_steps"])
    clean = pipeline.encode_video(pipeline.prepare_video(frames))  # (B,C,F,h,w)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    noise = randn_tensor(clean.shape, generator=generators, device=clean.device)
    with pipeline._settings_of_call(sampling.get("guidance_scale", 2.5), None):
        texts = CaptionBatch(*pipeline.encode_prompt(captions, None, pipeline.do_classifier_free_guidance))
        noisy = noise_latents(pipeline.scheduler, clean, noise, left[0])
        latents, _ = pipeline.denoise(noisy, texts, left, step_kwargs=pipeline.prepare_step_kwargs(generators, 0.0))
    return np.asarray(pipeline.decode_latents(latents, "np"))


def steps_below(pipeline: Any, level: float, num_inference_steps: int) -> torch.Tensor:
    """Time steps of the sampling, which the scheduler is set to, at or below a level of the schedule.

    Raises:
        ValueError: another pipeline, or a level below all of the sampling steps.
    """
    if not isinstance(pipeline, Jog3rPipeline):
        raise ValueError(f"judge=renderer lets a Jog3rPipeline draw clips anew, got a {type(pipeline).__name__}")
    timesteps, _ = pipeline.prepare_timesteps(num_inference_steps, "t2v")
    left: torch.Tensor = timesteps[timesteps <= level * num_train_timesteps(pipeline.scheduler)]
    if not len(left):
        raise ValueError(f"redraw_level={level:g} lies below the last sampling step, {float(timesteps.min()):g}: raise it")
    return left
