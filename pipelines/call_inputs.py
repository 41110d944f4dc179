"""All that one call of the pipeline was given, and what of it is refused before anything is computed."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from jog3r.pipelines import reconstruction
from jog3r.pipelines.captions import CaptionBatch
from jog3r.pipelines.checks import (
    check_choices,
    check_embeds,
    check_finite,
    check_generators,
    check_latents,
    check_negative_prompt,
    check_number,
    check_prompt,
    check_registration,
    check_size,
    check_task,
    check_tensor,
)

__all__ = ["CallInputs", "check_finite", "check_generators", "check_size"]

TENSORS = ("latents", *CaptionBatch.names)
# Arguments without effect on a task, with the value that they have when they are not given. num_inference_steps and
# guidance_scale of "v2c" are not among them: a default of theirs cannot be told from the same number given on purpose.
UNUSED: dict[str, dict[str, Any]] = {
    "v2c": {
        "negative_prompt": None,
        **dict.fromkeys(TENSORS),
        "num_frames": None,
        "num_videos_per_prompt": 1,
        "callback_on_step_end": None,
        "guidance_channels": None,
        "eta": 0.0,
        "clean_caption": False,
    },
    "t2v": {"registration_kwargs": None, "reconstruction_timestep": None},
}
WORK = {"v2c": "it reads the video and nothing else", "t2v": "it finds no cameras"}


@dataclass(kw_only=True)
class CallInputs:
    """The arguments of `Jog3rPipeline.__call__` that can be wrong."""

    prompt: str | list[str] | None
    video: Any
    task: str | None
    negative_prompt: str | list[str] | None
    num_frames: int | None
    height: int | None
    width: int | None
    num_inference_steps: int
    guidance_scale: float
    guidance_channels: int | None
    reconstruction_timestep: float | None
    num_videos_per_prompt: int
    generator: Any
    latents: Tensor | None
    prompt_embeds: Tensor | None
    prompt_attention_mask: Tensor | None
    negative_prompt_embeds: Tensor | None
    negative_prompt_attention_mask: Tensor | None
    output_type: str
    callback_on_step_end: Any
    callback_inputs: list[str]
    clean_caption: bool
    eta: float
    decode_chunk_size: int | None
    registration: bool
    registration_kwargs: dict[str, Any] | None
    both_directions: bool

    def check(self, pipe: Any) -> str:
        """Refuse what cannot work.

        Args:
            pipe: the `Jog3rPipeline` called; its class imports this module, so its name cannot stand in the signature.

        Returns:
            The task meant.

        Raises:
            ValueError, TypeError: naming the value got and what to change.
        """
        if missing := [name for name in ("vae", "transformer", "scheduler") if getattr(pipe, name) is None]:
            raise ValueError(f"this pipeline was loaded without {', '.join(missing)}: it encodes prompts and nothing else")
        for name in TENSORS:
            check_tensor(getattr(self, name), name)
        check_generators(self.generator)
        check_prompt(self.prompt, self.prompt_embeds)
        check_prompt(self.negative_prompt, self.negative_prompt_embeds, "negative_prompt")
        has_prompt = self.prompt is not None or self.prompt_embeds is not None
        task = check_task(self.task, self.video is not None, has_prompt, pipe.pointmap_head is not None)
        check_choices(self.output_type, self.callback_inputs, pipe._callback_tensor_inputs)
        self._check_unused(task)
        self._check_numbers(pipe)
        if self.both_directions and (task != "v2c" or not self.registration):
            raise ValueError(
                f'both_directions reads a given video twice and registers the pairs together: it needs task "v2c" and '
                f"registration, got task {task!r} and registration={self.registration}"
            )
        if task == "v2c":
            check_registration(self.registration_kwargs, self.registration)
            self._check_video_task(pipe)
        else:
            self._check_texts(pipe)
            self._check_generation(pipe, task)
            shape = pipe.output_size(self.num_frames, self.height, self.width)
            check_registration(self.registration_kwargs, self.registration, shape)
        if task != "t2v" and pipe.pointmap_head.config.patch_size != pipe.token_size:
            raise ValueError(
                f"the pointmap head predicts {pipe.pointmap_head.config.patch_size} pixels a token, but VAE and transformer make "
                f"tokens of {pipe.token_size} pixels: these components do not belong together"
            )
        return task

    def _check_numbers(self, pipe: Any) -> None:
        check_number("num_inference_steps", self.num_inference_steps, 1, whole=True)
        check_number("num_videos_per_prompt", self.num_videos_per_prompt, 1, whole=True)
        check_number("guidance_scale", self.guidance_scale, 0)
        if self.guidance_channels is not None:
            check_number("guidance_channels", self.guidance_channels, 1, pipe.transformer.config.in_channels, whole=True)
        if self.reconstruction_timestep is not None:
            last = reconstruction.num_train_timesteps(pipe.scheduler) - 1
            check_number("reconstruction_timestep", self.reconstruction_timestep, 0, last)
        if self.decode_chunk_size is not None:
            check_number("decode_chunk_size", self.decode_chunk_size, 1, whole=True)

    def _check_unused(self, task: str) -> None:
        unused = []
        for name, default in UNUSED.get(task, {}).items():
            value = getattr(self, name)
            if value is not default and (default is None or value != default):  # tensors are compared with None alone
                unused.append(name)
        if unused:
            raise ValueError(f'task "{task}" has no use for {", ".join(unused)}; {WORK[task]}')

    def _check_video_task(self, pipe: Any) -> None:
        if (self.height is None) != (self.width is None):
            raise ValueError(
                f"give both height and width to resize the video, or neither; got height={self.height}, width={self.width}"
            )
        if self.height is not None and self.width is not None:
            check_size(self.height, self.width, pipe.token_size)

    def _check_texts(self, pipe: Any) -> None:
        config = pipe.transformer.config
        check_negative_prompt(self.negative_prompt, self.prompt, self.prompt_embeds)
        for name in ("prompt", "negative_prompt"):
            embeds, mask = getattr(self, f"{name}_embeds"), getattr(self, f"{name}_attention_mask")
            check_embeds(embeds, mask, config.caption_channels, config.max_caption_length, name)
        needs_encoder = self.prompt is not None or self.negative_prompt is not None
        if needs_encoder and (pipe.text_encoder is None or pipe.tokenizer is None):
            raise ValueError("this pipeline has no text encoder or no tokenizer: pass prompt_embeds instead of a prompt")
        negative = self.negative_prompt_embeds
        if negative is not None and negative.shape[0] not in (1, self._num_prompts()):
            raise ValueError(
                f"negative_prompt_embeds {tuple(negative.shape)} must be one for all prompts or one for each of the "
                f"{self._num_prompts()}"
            )

    def _num_prompts(self) -> int:
        if self.prompt_embeds is not None:
            return self.prompt_embeds.shape[0]
        return 1 if isinstance(self.prompt, str) else len(self.prompt or [])

    def _check_generation(self, pipe: Any, task: str) -> None:
        config = pipe.transformer.config
        num_frames, height, width = pipe.output_size(self.num_frames, self.height, self.width)
        check_size(height, width, pipe.token_size)
        check_number("num_frames", num_frames, 1 if task == "t2v" else 2, whole=True)
        reconstruction.check_variance(pipe.scheduler, config.in_channels, config.out_channels)
        batch_size = self._num_prompts() * self.num_videos_per_prompt
        check_generators(self.generator, batch_size)
        factor = pipe.vae_scale_factor
        check_latents(self.latents, (batch_size, config.in_channels, num_frames, height // factor, width // factor))
