"""What all modular blocks of JOG3R share: components, names of the state, and the way to the steps of the classic pipeline.

Letters: B clips, C latent channels, F frames, H W pixels, h w latents, L caption tokens, N tokens a frame, D width.
"""

import inspect
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler
from diffusers.modular_pipelines import ComponentSpec, InputParam, ModularPipelineBlocks, OutputParam
from transformers import AutoTokenizer, T5EncoderModel

from jog3r.models.pointmap_head import Pointmap3DHead
from jog3r.models.transformer_jog3r import Jog3rTransformer3DModel
from jog3r.pipelines.pipeline_jog3r import Jog3rPipeline

# The classes are those of the paper's model; an index names others where a checkpoint has others.
COMPONENTS = {
    "text_encoder": (T5EncoderModel, "T5-type; not needed where embeddings are passed in"),
    "tokenizer": (AutoTokenizer, "of the text encoder"),
    "transformer": (Jog3rTransformer3DModel, "denoiser whose features the head reads"),
    "pointmap_head": (Pointmap3DHead, "from features to pointmaps"),
    "vae": (AutoencoderKL, "image VAE, applied frame by frame"),
    "scheduler": (DDPMScheduler, "DDPM-type or flow-matching"),
}

# Types and defaults of these are those of `Jog3rPipeline.__call__`.
ARGUMENTS = {
    "prompt": "one text or several",
    "video": "path, list of PIL images, or array/tensor (F, H, W, 3), (B, F, H, W, 3) or (B, F, 3, H, W)",
    "task": '"t2v", "t2v+c" or "v2c"; None is that of the blocks',
    "negative_prompt": "what to steer away from; None is the learned null caption",
    "num_frames": "of the video to generate; None is what the model was made for",
    "height": "in pixels",
    "width": "in pixels",
    "num_inference_steps": "sampling steps",
    "guidance_scale": "strength of classifier-free guidance; 1 or less switches it off",
    "guidance_channels": "guide only the first so many latent channels",
    "reconstruction_timestep": "noise level of the features, in steps of the training schedule",
    "num_videos_per_prompt": "clips a prompt",
    "generator": "source of all randomness; a list has one a clip",
    "latents": "(B, C, F, h, w): noise to start from; afterwards the clean latents",
    "prompt_embeds": "(B, L, D)",
    "prompt_attention_mask": "bool (B, L); None for all tokens",
    "negative_prompt_embeds": "(B, L, D)",
    "negative_prompt_attention_mask": "bool (B, L); None for all tokens",
    "output_type": '"pil", "np", "pt" or "latent"',
    "clean_caption": "remove markup and addresses from texts",
    "eta": "of DDIM",
    "attention_kwargs": '{"scale": float} scales LoRA layers',
    "decode_chunk_size": "frames that go through the VAE at once",
    "registration": "False gives the head's pointmaps as predicted, without poses, intrinsics and depth",
    "registration_kwargs": "for register_pointmaps",
    "both_directions": "read a given video backwards, too",
}
RESULTS = {
    "timesteps": "of the sampling schedule",
    "tap_step": "index of the step at which features are read, or None",
    "features": "(B, F, N, D) of the tapped step, or None",
    "video_frames": "(B, F, 3, H, W) in 0..1: the video given, as the model sees it",
    "frames": "by output_type",
    "pairwise": "the head's prediction for all pairs (1, f)",
    "pointmaps": "(B, F, H, W, 3): the world point of every pixel",
    "confidence": "(B, F, H, W)",
    "depth": "(B, F, H, W); None without registration",
    "poses": "(B, F, 4, 4) camera-to-world; None without registration",
    "intrinsics": "(B, F, 3, 3) in pixels; None without registration",
    "registrations": "B results of register_pointmaps; None without registration",
}


def summary(block: Any) -> str:
    """The first line of a class's docstring."""
    return (type(block).__doc__ or "").strip().split("\n")[0]


class Jog3rBlock(ModularPipelineBlocks):
    """One step: reads names of the state, works with components, writes names back.

    Subclasses state in their docstring what they do, then `uses` (components), which of them are `optional`, `reads` and
    `writes` (of `ARGUMENTS` and `RESULTS`), and do the step in `run`.
    """

    model_name = "jog3r"
    uses: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self._progress_bar: dict[str, Any] = {}
        self._told_untrained = False

    description = property(summary)

    @property
    def expected_components(self) -> list[ComponentSpec]:
        """The components that the step works with."""
        return [
            ComponentSpec(name=name, type_hint=COMPONENTS[name][0], description=COMPONENTS[name][1], subfolder=name)
            for name in self.uses
        ]

    @property
    def inputs(self) -> list[InputParam]:
        """What the step reads; nothing is required here, so that the check says what is missing as the classic pipeline does."""
        return [_input(name) for name in self.reads]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        """What the step writes."""
        return [OutputParam(name, description=(ARGUMENTS | RESULTS)[name]) for name in self.writes]

    def set_progress_bar_config(self, **options: Any) -> None:
        """Options of the progress bar, as for every pipeline; only sampling shows one."""
        self._progress_bar = options

    @torch.no_grad()
    def __call__(self, components: Any, state: Any) -> tuple[Any, Any]:
        """Do the step on the components of a modular pipeline.

        Raises:
            ValueError: a component that the step needs was not loaded; or what the step itself refuses.
        """
        values = self.get_block_state(state)
        steps = self._classic_steps(components)
        with steps._settings_of_call(getattr(values, "guidance_scale", 1.0), getattr(values, "attention_kwargs", None)):
            for name, value in self.run(steps, values).items():
                setattr(values, name, value)
        self._told_untrained = steps._told_untrained
        self.set_block_state(state, values)
        return components, state

    def run(self, steps: Jog3rPipeline, values: Any) -> dict[str, Any]:
        """The step itself.

        Args:
            steps: the public steps of the classic pipeline, on the components at hand.
            values: what of the state the step reads, as attributes.

        Returns:
            What it writes, by name.
        """
        raise NotImplementedError

    def _classic_steps(self, components: Any) -> Jog3rPipeline:
        missing = [name for name in self.uses if name not in self.optional and getattr(components, name, None) is None]
        if missing:
            raise ValueError(
                f"the block {type(self).__name__} needs {', '.join(missing)}, not loaded so far; call load_components() or "
                "update_components(...)"
            )
        steps = _StepsOnComponents(**{name: getattr(components, name, None) for name in COMPONENTS})
        steps._device = components._execution_device
        steps._told_untrained = self._told_untrained
        steps.set_progress_bar_config(**self._progress_bar)
        return steps


class _StepsOnComponents(Jog3rPipeline):
    """The classic pipeline as a view of components that a modular pipeline owns, places and offloads."""

    _device: torch.device

    @property
    def _execution_device(self) -> torch.device:
        return self._device


_OF_THE_CALL = inspect.signature(Jog3rPipeline.__call__).parameters  # once: diffusers asks for inputs a thousand times a call


def _input(name: str) -> InputParam:
    if name in RESULTS:
        return InputParam(name, description=RESULTS[name])
    argument = _OF_THE_CALL[name]
    return InputParam(name, type_hint=argument.annotation, default=argument.default, description=ARGUMENTS[name])
