"""The sampling loop of the pipeline: any scheduler, guidance, and the tap of the features on the way.

Letters: B clips, C latent channels, F frames, h w latents, N tokens a frame, D width.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import FasterCacheConfig
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from jog3r.pipelines import reconstruction
from jog3r.pipelines.captions import CaptionBatch


class SamplingMixin:
    """What of `Jog3rPipeline` samples; needs its transformer and its scheduler."""

    transformer: Any
    scheduler: Any
    vae_scale_factor: int
    progress_bar: Callable
    _execution_device: Any
    _guidance_scale: float = 1.0
    _num_timesteps: int = 0
    _current_timestep: Tensor | None = None
    _attention_kwargs: dict[str, Any] | None = None
    _interrupt: bool = False

    @property
    def guidance_scale(self) -> float:
        """Strength of classifier-free guidance of the running call; a callback may change it."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the null caption is denoised along."""
        return self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        """Passes of the transformer in the last sampling."""
        return self._num_timesteps

    @property
    def current_timestep(self) -> Tensor | None:
        """The time step being denoised, or None."""
        return self._current_timestep

    @property
    def attention_kwargs(self) -> dict[str, Any] | None:
        """`{"scale": float}` of LoRA layers in the running call."""
        return self._attention_kwargs

    @property
    def interrupt(self) -> bool:
        """Set `_interrupt` in a callback to skip the remaining steps."""
        return self._interrupt

    @contextmanager
    def _settings_of_call(self, guidance_scale: float, attention_kwargs: dict[str, Any] | None) -> Iterator[None]:
        """What a call hands its steps by attributes of the pipeline; afterwards these are as they were, also after an error."""
        before = (self._guidance_scale, self._attention_kwargs, False)
        self._guidance_scale, self._attention_kwargs, self._interrupt = guidance_scale, attention_kwargs, False
        try:
            yield
        finally:
            self._guidance_scale, self._attention_kwargs, self._interrupt = before
            self._current_timestep = None
            if getattr(self.transformer, "is_cache_enabled", False):  # an aborted call leaves what a step cache remembers
                self.transformer._reset_stateful_cache()

    def prepare_timesteps(
        self, num_inference_steps: int, task: str, max_timestep: float | None = None
    ) -> tuple[Tensor, int | None]:
        """Set the scheduler up and find the step at which features are read.

        Args:
            num_inference_steps: steps of the scheduler.
            task: "t2v+c" refuses a schedule that has no step in range.
            max_timestep: upper end of the range; None is 5 % of the training steps.

        Returns:
            The time steps and the index of the step to tap, None if no step is in range.
        """
        try:
            self.scheduler.set_timesteps(num_inference_steps, device=self._execution_device)
        except (ValueError, IndexError, AssertionError) as error:  # diffusers' own complaints name arrays, not the remedy
            raise ValueError(
                f"{type(self.scheduler).__name__} cannot be set to num_inference_steps={num_inference_steps} ({error}); "
                "use more steps or another scheduler"
            ) from error
        timesteps: Tensor = self.scheduler.timesteps
        if max_timestep is None:
            max_timestep = reconstruction.MAX_RECONSTRUCTION_LEVEL * reconstruction.num_train_timesteps(self.scheduler)
        tap_step = reconstruction.find_tap_step(timesteps, max_timestep)
        if tap_step is None and task == "t2v+c":
            raise ValueError(reconstruction.no_tap_message(self.scheduler, num_inference_steps, max_timestep))
        self._num_timesteps = len(timesteps)
        return timesteps, tap_step

    def prepare_latents(
        self,
        batch_size: int,
        num_frames: int,
        height: int,
        width: int,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
    ) -> Tensor:
        """Noise (B, C, F, h, w) float32 to start from: drawn, or the one given."""
        factor, channels = self.vae_scale_factor, self.transformer.config.in_channels
        shape = (batch_size, channels, num_frames, height // factor, width // factor)
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=self._execution_device, dtype=torch.float32)
        return latents.to(self._execution_device, torch.float32) * getattr(self.scheduler, "init_noise_sigma", 1.0)

    def denoise(
        self,
        latents: Tensor,
        captions: CaptionBatch,
        timesteps: Tensor,
        tap_step: int | None = None,
        *,
        guidance_channels: int | None = None,
        step_kwargs: dict[str, Any] | None = None,
        on_step_end: Callable[[int, Tensor, Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The sampling loop.

        Args:
            latents (B, C, F, h, w): noise, as `prepare_latents` gives it.
            captions: of the B clips.
            timesteps, tap_step: as `prepare_timesteps` gives them; None taps nothing.
            guidance_channels: guide only the first so many latent channels (OpenSora: 3); None = all.
            step_kwargs: for `scheduler.step`.
            on_step_end: gets step, time step and latents, returns the latents to go on with.

        Returns:
            Clean latents (B, C, F, h, w), and the features (B, F, N, D) of the tapped step: those of the unconditional half of
            a guided batch, as the head was trained with the empty caption. None if nothing was tapped.
        """
        features = None
        with self.progress_bar(total=len(timesteps)) as progress:
            for step, t in enumerate(timesteps):
                if self.interrupt:
                    continue
                self._current_timestep = t
                prediction, tapped = self.predict_noise(latents, t, captions, step == tap_step, guidance_channels)
                features = tapped if step == tap_step else features
                latents = self.scheduler.step(prediction, t, latents, return_dict=False, **(step_kwargs or {}))[0]
                if on_step_end is not None:
                    latents = on_step_end(step, t, latents)
                progress.update()
        self._current_timestep = None
        return latents, features

    def predict_noise(
        self, latents: Tensor, t: Tensor, captions: CaptionBatch, tap: bool = False, guidance_channels: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """One guided pass: what the scheduler wants (B, C or 2C, F, h, w) float32, and with `tap` the features (B, F, N, D)."""
        guided, batch_size = self.do_classifier_free_guidance, latents.shape[0]
        embeds, mask = captions.current(guided)
        if hasattr(self.scheduler, "scale_model_input"):
            latents = self.scheduler.scale_model_input(latents, t)
        model_input = torch.cat([latents, latents]) if guided else latents
        options: dict[str, Any] = {"encoder_hidden_states": embeds}
        if mask is not None:  # FasterCache halves what it is given by these names, and cannot halve None
            options["encoder_attention_mask"] = mask
        with self._step_caches(not tap):
            output = self.transformer(
                model_input.to(self.transformer.dtype),
                timestep=t.expand(model_input.shape[0]),
                **options,
                return_features=tap,
                attention_kwargs=self.attention_kwargs,
            )
        channels = self.transformer.config.in_channels
        sample = output.sample.float()
        if not reconstruction.learns_variance(self.scheduler):
            sample = sample[:, :channels]
        if guided:
            negative, sample = sample.chunk(2)
            end = guidance_channels or channels  # the channels behind, variance among them, are those of the prompt
            steered = negative[:, :end] + self.guidance_scale * (sample[:, :end] - negative[:, :end])
            sample = torch.cat([steered, sample[:, end:]], dim=1)
        return sample, output.features[:batch_size] if tap else None

    @contextmanager
    def _step_caches(self, allowed: bool) -> Iterator[None]:
        """Run one pass with diffusers' step caches, or without: a cached step has no true features."""
        config = self.transformer._cache_config
        if config is None:
            yield
        elif allowed:
            halves = isinstance(config, FasterCacheConfig) and not config.is_guidance_distilled
            if halves and not self.do_classifier_free_guidance:
                raise ValueError(
                    "FasterCache takes the first half of a batch for the null caption's: set guidance_scale above 1, or "
                    "FasterCacheConfig(is_guidance_distilled=True)"
                )
            with self.transformer.cache_context("cond_uncond"):
                yield
        else:
            self.transformer.disable_cache()
            try:
                yield
            finally:
                self.transformer.enable_cache(config)

    def prepare_step_kwargs(self, generator: torch.Generator | list[torch.Generator] | None, eta: float) -> dict[str, Any]:
        """Arguments that only some schedulers' `step` takes."""
        accepted = inspect.signature(self.scheduler.step).parameters
        return {name: value for name, value in (("generator", generator), ("eta", eta)) if name in accepted}
