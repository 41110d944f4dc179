"""Cameras for the pipelines of diffusers' video generators: their own call, read on the way, and one pass over a given video.

Letters: B clips, C latent channels, F frames, f latent steps in time, H W pixels, h w latents, P = F-1 pairs, K tapped blocks.
"""

import inspect
import logging
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from diffusers.utils.torch_utils import randn_tensor, unwrap_module
from torch import Tensor

from jog3r.models.feature_tap import FeatureTap, layout_of, num_blocks, transformer_width
from jog3r.models.pointmap_head import Pointmap3DHead, Pointmap3DHeadOutput
from jog3r.pipelines import reconstruction
from jog3r.pipelines.captions import CaptionBatch
from jog3r.pipelines.checks import OUTPUT_TYPES, check_generators, check_number, check_registration, check_size, check_task
from jog3r.pipelines.generators.card import generator_card
from jog3r.pipelines.generators.fit import (
    check_frames,
    check_head,
    check_latents_of,
    check_no_text_is_made_up,
    check_nothing_of_cameras,
    check_only_a_video,
    check_text,
)
from jog3r.pipelines.generators.tapped_step import TappedStep
from jog3r.pipelines.geometry_steps import GeometryMixin
from jog3r.pipelines.latents import decode_frames, encode_frames
from jog3r.pipelines.loading.checked_weights import Jog3rCheckpointMixin
from jog3r.pipelines.loading.model_card import is_untrained
from jog3r.pipelines.pipeline_output import Jog3rPipelineOutput
from jog3r.pipelines.video_input import MAX_FRAMES, load_frames, resize

logger = logging.getLogger(__name__)

_DOCUMENTATION = """Generate a video, with or without its geometry, from a prompt; or find the geometry of a video.

Takes the arguments of `{parent}.__call__`, described below, and by keyword:

Args:
    video: path, list of PIL images, or array/tensor (F, H, W, 3), (B, F, H, W, 3) or (B, F, 3, H, W), uint8 or 0..1. `height` and
        `width` stretch it; F is 1 more than a multiple of the VAE's compression in time. `prompt_embeds` may give the caption
        under which it is read; without them it is the empty one.
    task: "t2v", "t2v+c" or "v2c"; None means "v2c" if a video is given, else "t2v+c", or "t2v" without a trained head. "t2v" is
        the parent's call, bit for bit. "t2v+c" gives the same frames: the features are read at one of its steps, those of the
        pass with the negative prompt where there is guidance.
    reconstruction_timestep: in steps of the training schedule. "v2c": noise put on the video. "t2v+c": features are read at the
        last step at or below it. None: within the head's `noise_range`.
    registration: False returns the head's pointmaps as predicted, without poses, intrinsics and depth.
    registration_kwargs: for `register_pointmaps`, such as `{{"method": "reference"}}`.

Returns:
    `Jog3rPipelineOutput`.

Raises:
    ValueError, TypeError: an input that cannot work, a head that is not trained or was made for another generator.

{parents}
"""
_OWN = {"task": None, "video": None, "reconstruction_timestep": None, "registration": True, "registration_kwargs": None}


def call_with_geometry(parent: Any) -> Callable[..., Any]:
    """The `__call__` of a subclass of the pipeline class `parent`: the parent's arguments in their order, then ours."""
    inner = parent.__call__
    signature = inspect.signature(inner)
    own = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value) for name, value in _OWN.items()]
    merged = signature.replace(parameters=[*signature.parameters.values(), *own], return_annotation=Jog3rPipelineOutput | tuple)

    @torch.no_grad()
    def call(self: "GeneratorMixin", *args: Any, **kwargs: Any) -> Jog3rPipelineOutput | tuple:
        given = dict(merged.bind(self, *args, **kwargs).arguments)
        del given["self"]
        return self._call_with_geometry(inner, given)

    call.__name__, call.__qualname__ = "__call__", f"Jog3r{parent.__name__}.__call__"
    call.__doc__ = _DOCUMENTATION.format(parent=parent.__name__, parents=inspect.getdoc(inner))
    call.__signature__ = merged  # type: ignore[attr-defined]  # what diffusers and help() read
    return call


class GeneratorMixin(Jog3rCheckpointMixin, GeometryMixin):
    """The tasks "t2v+c" and "v2c" for a pipeline of diffusers; stands before it, with `__call__ = call_with_geometry(Parent)`."""

    noise_range: ClassVar[tuple[float, float]] = (0.0, 0.2)
    """Shares of the training schedule within which features are read, where the head states none."""

    _checked_components = ("pointmap_head",)
    _guidance_in_batch = False  # both halves of guidance go through the transformer as one batch, the negative one first
    _step_tap: TappedStep | None = None
    _told = False
    transformer: Any
    scheduler: Any
    vae: Any
    pointmap_head: Pointmap3DHead | None
    video_processor: Any
    _execution_device: Any
    maybe_free_model_hooks: Callable[[], None]
    encode_prompt: Callable[..., Any]

    # --- what a subclass states ---

    fps: float = 8.0
    """Frames per second of the videos that the model was trained on."""

    @property
    def _compression(self) -> tuple[int, int]:
        """Frames of a latent step, and pixels of a latent."""
        raise NotImplementedError

    def _transformer_at(self, timestep: float) -> Any:  # noqa: ARG002  # of models with several
        """The transformer that denoises a time step."""
        return self.transformer

    def transformer_inputs(self, latents: Tensor, t: Tensor, given: dict[str, Any]) -> dict[str, Any]:
        """Noisy latents (B, C, f, h, w) at the time steps (B,) as the transformer's arguments.

        Args:
            latents: as `encode_video` gives them, noised.
            t: in steps of the training schedule.
            given: arguments of the pipeline's call that concern a video; without `prompt_embeds` the empty caption is encoded.
        """
        raise NotImplementedError

    def prediction(self, sample: Tensor, latents: Tensor) -> Tensor:  # noqa: ARG002  # of models that lay it out otherwise
        """What the transformer returned for noisy `latents` (B, C, f, h, w), in their shape."""
        return sample

    def _latents_shape(self, num_frames: int, height: int, width: int) -> tuple[int, ...]:
        """Of one video, as the parent's call takes `latents`."""
        per_step, pixels = self._compression
        channels = self.main_transformer.config.in_channels
        return channels, (num_frames - 1) // per_step + 1, height // pixels, width // pixels

    # --- sizes ---

    @property
    def main_transformer(self) -> Any:
        """The transformer whose sizes count; of several all have the same."""
        return self.transformer

    @property
    def frames_per_step(self) -> int:
        """Frames that a step of the features stands for; the first step is one frame."""
        return self._compression[0] * layout_of(self.main_transformer).patch(self.main_transformer.config)[0]

    @property
    def frame_multiple(self) -> int:
        """Numbers of frames are 1 more than a multiple of this."""
        return self.frames_per_step

    @property
    def token_size(self) -> int:
        """Side of a token in pixels; heights and widths are multiples of it."""
        return self._compression[1] * layout_of(self.main_transformer).patch(self.main_transformer.config)[1]

    @property
    def max_video_frames(self) -> int:
        """Longest video that is taken in."""
        return max(MAX_FRAMES, self.output_size(None, None, None)[0])

    def output_size(self, num_frames: int | None, height: int | None, width: int | None) -> tuple[int, int, int]:
        """Frames, height and width to generate: what is given, else the parent's defaults."""
        parameters = inspect.signature(type(self).__call__).parameters
        wanted = (("num_frames", num_frames), ("height", height), ("width", width))
        frames, rows, columns = (parameters[name].default if value is None else value for name, value in wanted)
        return frames, rows, columns

    @property
    def default_reconstruction_timestep(self) -> float:
        """Noise put on a given video, in steps of the training schedule: two fifths into the range, as the paper's 2 % of 5 %."""
        low, high = self._bounds()
        return float(round(low + 0.4 * (high - low)))

    @property
    def makes_cameras(self) -> bool:
        """Whether there is a head that was trained."""
        return self.pointmap_head is not None and not is_untrained(self.pointmap_head)

    def new_head(self, feature_layers: list[int] | None = None, **config: Any) -> Pointmap3DHead:
        """An untrained head that fits this generator.

        Args:
            feature_layers: blocks to read, counted from 1; None: the middle one.
            config: other settings of `Pointmap3DHead`.
        """
        model = self.main_transformer
        sizes = {
            "feature_dim": transformer_width(model),
            "patch_size": self.token_size,
            "frames_per_step": self.frames_per_step,
            "feature_layers": feature_layers or [max(1, num_blocks(model) // 2)],
            "generator": type(unwrap_module(model)).__name__,
        }
        return Pointmap3DHead(**sizes | {"trained": False} | config)

    # --- a given video ---

    def prepare_video(self, video: Any, height: int | None = None, width: int | None = None) -> Tensor:
        """A video in any accepted form to (B, F, 3, H, W) float32 in 0..1, stretched to height x width where these are given.

        Raises:
            ValueError: see `video_input.load_frames`; or frames or a size that VAE and transformer do not take.
        """
        frames = load_frames(video, self.max_video_frames)
        if height is not None and width is not None:
            check_size(height, width, self.token_size)
            frames = resize(frames, height, width)
        check_frames(self, frames.shape[1], *frames.shape[-2:])
        return frames.to(self._execution_device)

    def encode_video(self, frames: Tensor) -> Tensor:
        """Frames (B, F, 3, H, W) in 0..1 to normalised latents (B, C, f, h, w) float32."""
        return encode_frames(self.vae, frames * 2 - 1)

    @torch.no_grad()
    def through_vae(self, video: Any, output_type: str = "np") -> Any:
        """A video as the VAE gives it back: the best that a generated one can look like."""
        frames = decode_frames(self.vae, self.encode_video(self.prepare_video(video)))
        self.maybe_free_model_hooks()
        return self.video_processor.postprocess_video(frames, output_type=output_type)

    def caption_of_videos(self, device: torch.device | None = None) -> dict[str, Tensor]:
        """The caption under which videos are read, the empty one, as arguments of a call: for many videos it is encoded once.

        `device` is the text encoder's; None: the pipeline's.
        """
        parameters = inspect.signature(type(self).__call__).parameters
        encoded = self.encode_prompt(
            "",
            do_classifier_free_guidance=False,
            max_sequence_length=self._argument({}, "max_sequence_length"),
            device=self._execution_device if device is None else device,
        )
        names = [name for name in CaptionBatch.names[:2] if name in parameters]
        return dict(zip(names, encoded, strict=False))  # the negative ones come behind

    def extract_features(
        self, latents: Tensor, timestep: float, generator: Any = None, given: dict[str, Any] | None = None
    ) -> list[Tensor]:
        """Clean latents (B, C, f, h, w), noised to `timestep`, to the tokens of the K blocks that the head reads, in one pass.

        Args:
            latents: as `encode_video` gives them.
            timestep: in steps of the training schedule.
            generator: of the noise.
            given: arguments of the pipeline's call that concern a video, such as `prompt_embeds`.
        """
        check_generators(generator, latents.shape[0])
        noise = randn_tensor(latents.shape, generator=generator, device=latents.device, dtype=latents.dtype)
        noisy = reconstruction.noise_latents(self.scheduler, latents, noise, timestep)
        model = self._transformer_at(timestep)
        t = torch.full((latents.shape[0],), float(timestep), device=latents.device)
        inputs = self.transformer_inputs(noisy, t, given or {})
        head: Any = self.pointmap_head
        with FeatureTap(model, list(head.config.feature_layers), stop=True) as tap:
            model(**inputs, return_dict=False)
        return tap.taps

    def predict_pointmaps(self, taps: list[Tensor], height: int, width: int, timestep: float) -> Pointmap3DHeadOutput:
        """Tokens (B, f, N, D) of the K blocks, read at `timestep`, to the pointmaps of all pairs (0, f) of frames."""
        head: Any = self.pointmap_head
        level = timestep / reconstruction.num_train_timesteps(self.scheduler) if head.config.noise_embedding else None
        return head([tap.to(head.dtype) for tap in taps], height, width, noise_level=level)

    def reconstruct_pairs(
        self, latents: Tensor, timestep: float, generator: Any = None, given: dict[str, Any] | None = None
    ) -> tuple[Pointmap3DHeadOutput, Tensor]:
        """Clean latents (B, C, f, h, w) to the pointmaps of all pairs (0, f) of frames; arguments as of `extract_features`.

        Returns:
            The pairs, and the features (B, f, N, D) behind the last block that the head reads.
        """
        height, width = (self._compression[1] * side for side in latents.shape[-2:])
        taps = self.extract_features(latents, timestep, generator, given)
        return self.predict_pointmaps(taps, height, width, timestep), taps[-1]

    # --- the call ---

    @property
    def _current_timestep(self) -> Tensor | None:
        return self.__dict__.get("_step_now")

    @_current_timestep.setter
    def _current_timestep(self, t: Tensor | None) -> None:
        """Every loop of diffusers says here that a step begins, before it enters the transformer's cache context."""
        self.__dict__["_step_now"] = t
        if self._step_tap is not None:
            self._step_tap.begin(t)

    def _call_with_geometry(self, parents_call: Callable[..., Any], given: dict[str, Any]) -> Jog3rPipelineOutput | tuple:
        # 1. Check inputs
        task = self._check_call(given)
        return_dict = given.get("return_dict", True)
        if task == "t2v":
            frames = self._generate(parents_call, given)
            output = Jog3rPipelineOutput(frames=frames)
            return output if return_dict else output.to_tuple()
        if task == "v2c":
            # 2. Encode the video, noise it, read the features in one pass, decode all pairs
            video = self.prepare_video(given["video"], given.get("height"), given.get("width"))
            latents = self.encode_video(video)
            num_frames = video.shape[1]
            timestep = given.get("reconstruction_timestep")
            timestep = self.default_reconstruction_timestep if timestep is None else float(timestep)
            pairs, _ = self.reconstruct_pairs(latents, timestep, given.get("generator"), given)
            frames = self._present_video(video, latents, self._argument(given, "output_type"))
        else:
            # 2. The parent's call, read at one of its steps, and all pairs
            num_frames, height, width = self.output_size(*(given.get(name) for name in ("num_frames", "height", "width")))
            frames, read = self._generate_and_read(parents_call, given)
            if read.taps is None or read.timestep is None:  # interrupted before the tap
                output = Jog3rPipelineOutput(frames=frames)
                return output if return_dict else output.to_tuple()
            timestep = read.timestep
            pairs = self.predict_pointmaps(self._unconditional(read.taps, len(frames)), height, width, timestep)
        # 3. Find the cameras
        geometry = self.assemble_geometry(pairs, num_frames, given.get("registration", True), given.get("registration_kwargs"))
        self.maybe_free_model_hooks()
        output = Jog3rPipelineOutput(frames=frames, **geometry, pairwise=pairs, reconstruction_timestep=timestep)
        return output if return_dict else output.to_tuple()

    def _check_call(self, given: dict[str, Any]) -> str:
        """The task meant; refuses what cannot work before anything is computed, and leaves to the parent what it checks."""
        video, prompt = given.get("video"), given.get("prompt")
        has_prompt = prompt is not None or (video is None and given.get("prompt_embeds") is not None)
        wanted = given.get("task")
        task = check_task(wanted, video is not None, has_prompt, True if wanted or video is not None else self.makes_cameras)
        check_text(self, prompt, given.get("negative_prompt"))
        if task != "v2c" and self._argument(given, "guidance_scale") > 1:
            check_no_text_is_made_up(self, given)
        if task == "t2v":
            check_nothing_of_cameras(given)
            if wanted is None and not self._told:
                logger.warning("this pipeline has no trained 3D head: the video comes without geometry (task t2v)")
                self._told = True
            return task
        check_head(self, task)
        if (timestep := given.get("reconstruction_timestep")) is not None:
            last = reconstruction.num_train_timesteps(self.scheduler) - 1
            check_number("reconstruction_timestep", timestep, 0, last)
        registration = given.get("registration_kwargs"), given.get("registration", True)
        if task == "v2c":
            check_registration(*registration)
            check_only_a_video(given)
            if (given.get("height") is None) != (given.get("width") is None):
                raise ValueError("give both height and width to resize the video, or neither")
            if self._argument(given, "output_type") not in OUTPUT_TYPES:
                raise ValueError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, got {given['output_type']!r}")
            check_text(self, "" if given.get("prompt_embeds") is None else None, None)
        else:
            size = self.output_size(*(given.get(name) for name in ("num_frames", "height", "width")))
            check_frames(self, *size)
            check_registration(*registration, size)
            check_latents_of(given.get("latents"), self._latents_shape(*size), size)
        return task

    def _generate(self, parents_call: Callable[..., Any], given: dict[str, Any]) -> Any:
        """The frames of the parent's call with those of the arguments that are its own."""
        arguments = {name: value for name, value in given.items() if name not in _OWN and name != "return_dict"}
        return parents_call(self, **arguments, return_dict=False)[0]

    def _generate_and_read(self, parents_call: Callable[..., Any], given: dict[str, Any]) -> tuple[Any, TappedStep]:
        head: Any = self.pointmap_head
        bounds = self._bounds(given.get("reconstruction_timestep"))
        self._step_tap = read = TappedStep(self._transformer_at, list(head.config.feature_layers), self.scheduler, bounds)
        try:
            frames = self._generate(parents_call, given)
            read.end()
        finally:
            read.abandon()
            self._step_tap = None
        return frames, read

    def _unconditional(self, taps: list[Tensor], count: int) -> list[Tensor]:
        """Of a guided batch of `count` clips the half without the prompt, which stands first, as the head was trained."""
        return [tap[:count] for tap in taps] if self._guidance_in_batch else taps

    def _caption(self, given: dict[str, Any], latents: Tensor, **more: Any) -> tuple:
        """What `encode_prompt` gives for B clips: the caption of the call's `prompt_embeds`, else the empty one."""
        embeds = given.get("prompt_embeds")
        if embeds is not None and len(embeds) not in (1, len(latents)):
            raise ValueError(f"prompt_embeds must be of one caption or of {len(latents)}, one a video, got {len(embeds)}")
        if embeds is not None and more.get("prompt_attention_mask", embeds) is None:
            raise ValueError("prompt_embeds need their prompt_attention_mask")
        return self.encode_prompt(
            [""] * len(latents) if embeds is None else None,
            do_classifier_free_guidance=False,
            prompt_embeds=embeds,
            max_sequence_length=self._argument(given, "max_sequence_length"),
            device=latents.device,
            **more,
        )

    def _argument(self, given: dict[str, Any], name: str) -> Any:
        """What was given, else the parent's default."""
        return given.get(name, inspect.signature(type(self).__call__).parameters[name].default)

    def _bounds(self, highest: float | None = None) -> tuple[float, float]:
        """Time steps at which features may be read: the head's, up to what the call says."""
        steps = reconstruction.num_train_timesteps(self.scheduler)
        head: Any = self.pointmap_head
        low, high = (share * steps for share in head.config.noise_range or self.noise_range)
        return (low, high) if highest is None else (low if low <= highest else 0.0, highest)

    def _present_video(self, frames: Tensor, latents: Tensor, output_type: str) -> Any:
        if output_type == "latent":
            return latents
        return self.video_processor.postprocess_video(frames.transpose(1, 2) * 2 - 1, output_type=output_type)

    def card(self) -> str:
        """The model card of the pipeline."""
        return generator_card(self)
