"""JOG3R as modular blocks of diffusers: text to video, text to video with cameras, video to cameras, and one that chooses.

Every block does one public step of `Jog3rPipeline`, so that results are bit for bit those of the classic pipeline.

Letters: B clips, C latent channels, F frames, h w latents.
"""

from dataclasses import fields
from typing import Any

from diffusers.modular_pipelines import ConditionalPipelineBlocks, SequentialPipelineBlocks

from jog3r.pipelines.call_inputs import CallInputs
from jog3r.pipelines.captions import CaptionBatch
from jog3r.pipelines.checks import TASKS
from jog3r.pipelines.modular.block_base import COMPONENTS, Jog3rBlock, summary
from jog3r.pipelines.pipeline_jog3r import Jog3rPipeline

__all__ = [
    "Jog3rModularBlocks",
    "Jog3rModularBlocksT2V",
    "Jog3rModularBlocksT2VC",
    "Jog3rModularBlocksV2C",
]

NO_CALLBACKS: dict[str, Any] = {"callback_on_step_end": None, "callback_inputs": []}  # blocks have other ways to look in between
CHECKED = tuple(field.name for field in fields(CallInputs) if field.name not in NO_CALLBACKS)


class CheckInputs(Jog3rBlock):
    """Refuse what cannot work, also inputs of other tasks, before anything is computed.

    The blocks that it stands in front of set `task` and `uses`.
    """

    optional = ("text_encoder", "tokenizer", "pointmap_head")  # the inputs tell whether these are needed
    reads = CHECKED
    task: str

    def run(self, steps: Jog3rPipeline, values: Any) -> dict[str, Any]:
        """Raise ValueError or TypeError as `Jog3rPipeline` does."""
        task = self.task if values.task is None else values.task
        if task in TASKS and task != self.task:
            raise ValueError(f'these blocks do task "{self.task}" and no other, got task {task!r}')
        inputs = {name: getattr(values, name) for name in CHECKED}
        steps.check_inputs(CallInputs(**{**inputs, "task": task}, **NO_CALLBACKS))
        return {}


class EncodePrompt(Jog3rBlock):
    """Texts to caption embeddings, with the null caption for guidance; embeddings that are given pass through."""

    uses = ("text_encoder", "tokenizer", "transformer")
    optional = ("text_encoder", "tokenizer")
    reads = ("prompt", "negative_prompt", "guidance_scale", "num_videos_per_prompt", *CaptionBatch.names, "clean_caption")
    writes = CaptionBatch.names

    def run(self, steps: Jog3rPipeline, values: Any) -> dict[str, Any]:
        """Four tensors, see `Jog3rPipeline.encode_prompt`."""
        embeds = steps.encode_prompt(
            values.prompt,
            values.negative_prompt,
            steps.do_classifier_free_guidance,
            values.num_videos_per_prompt,
            **{name: getattr(values, name) for name in CaptionBatch.names},
            clean_caption=values.clean_caption,
        )
        return dict(zip(CaptionBatch.names, embeds, strict=True))


class SetTimesteps(Jog3rBlock):
    """Set the scheduler up and, with cameras, find the step at which features are read; a schedule that has none is refused."""

    uses = ("scheduler",)
    reads = ("num_inference_steps", "reconstruction_timestep")
    writes = ("timesteps", "tap_step", "reconstruction_timestep")
    task: str  # set by the blocks that it stands among

    def run(self, steps: Jog3rPipeline, values: Any) -> dict[str, Any]:
        """See `Jog3rPipeline.prepare_timesteps`."""
        timesteps, tap_step = steps.prepare_timesteps(values.num_inference_steps, self.task, values.reconstruction_timestep)
        level = None if tap_step is None else float(timesteps[tap_step])
        return {"timesteps": timesteps, "tap_step": tap_step, "reconstruction_timestep": level}


class PrepareLatents(Jog3rBlock):
    """Noise to start from: drawn, or that given."""

    uses = ("transformer", "vae", "scheduler")
    reads = ("num_frames", "height", "width", "generator", "latents", "prompt_embeds")
    writes = ("latents",)

    def run(self, steps: Jog3rPipeline, values: Any) -> dict[str, Any]:
        """See `Jog3rPipeline.prepare_latents`."""
        size = steps.output_size(values.num_frames, values.height, values.width)
        return {"latents": steps.prepare_latents(values.prompt_embeds.shape[0], *size, values.generator, values.latents)}


class Denoise(Jog3rBlock):
    """Denoise; features are read on the way, from the half with the null caption."""

    uses = ("transformer", "scheduler")
    reads = (
        *("latents", "timesteps", "tap_step", *CaptionBatch.names),
        *("guidance_scale", "guidance_channels", "generator", "eta", "attention_kwargs"),
    )
    writes = ("latents", "features")

    def run(self, steps: Jog3rPipeline, values: Any) -> dict[str, Any]:
        """See `Jog3rPipeline.denoise`."""
        latents, features = steps.denoise(
            values.latents,
            CaptionBatch(*(getattr(values, name) for name in CaptionBatch.names)),
            values.timesteps,
            values.tap_step,
            guidance_channels=values.guidance_channels,
            step_kwargs=steps.prepare_step_kwargs(values.generator, values.eta),
        )
        return {"latents": latents, "features": features}


class DecodePairs(Jog3rBlock):
    """Features that were read while denoising to the pointmaps of all pairs (1, f)."""

    uses = ("pointmap_head", "vae")
    reads = ("features", "latents")
    writes = ("pairwise",)

    def run(self, steps: Jog3rPipeline, values: Any) -> dict[str, Any]:
        """See `Jog3rPipeline.predict_pointmaps`."""
        height, width = (steps.vae_scale_factor * side for side in values.latents.shape[-2:])
        return {"pairwise": steps.predict_pointmaps(values.features, height, width)}


class DecodeFrames(Jog3rBlock):
    """Clean latents to frames."""

    uses = ("vae",)
    reads = ("latents", "output_type", "decode_chunk_size")
    writes = ("frames",)

    def run(self, steps: Jog3rPipeline, values: Any) -> dict[str, Any]:
        """See `Jog3rPipeline.decode_latents`."""
        return {"frames": steps.decode_latents(values.latents, values.output_type, values.decode_chunk_size)}


class EncodeVideo(Jog3rBlock):
    """A given video, stretched to height x width where these are given, to latents."""

    uses = ("transformer", "vae")
    reads = ("video", "height", "width", "decode_chunk_size", "output_type")
    writes = ("video_frames", "latents", "frames")

    def run(self, steps: Jog3rPipeline, values: Any) -> dict[str, Any]:
        """See `Jog3rPipeline.prepare_video`, `encode_video` and `present_video`."""
        video = steps.prepare_video(values.video, values.height, values.width)
        latents = steps.encode_video(video, values.decode_chunk_size)
        return {
            "video_frames": video,
            "latents": latents,
            "frames": steps.present_video(video, latents, values.output_type),
        }


class ReconstructPairs(Jog3rBlock):
    """Noise the latents of a video a little, read the features in one pass, and decode the pointmaps of all pairs (1, f)."""

    uses = ("transformer", "pointmap_head", "vae", "scheduler")
    reads = ("latents", "reconstruction_timestep", "generator", "both_directions", "attention_kwargs")
    writes = ("pairwise", "reconstruction_timestep")

    def run(self, steps: Jog3rPipeline, values: Any) -> dict[str, Any]:
        """See `Jog3rPipeline.reconstruct_pairs`."""
        level = values.reconstruction_timestep
        level = steps.default_reconstruction_timestep if level is None else level
        pairs, _ = steps.reconstruct_pairs(values.latents, level, values.generator, values.both_directions)
        return {"pairwise": pairs, "reconstruction_timestep": level}


class RegisterPairs(Jog3rBlock):
    """Pointmaps of pairs to cameras, depth and pointmaps of all frames."""

    reads = ("pairwise", "latents", "registration", "registration_kwargs")
    writes = ("pointmaps", "confidence", "depth", "poses", "intrinsics", "registrations")

    def run(self, steps: Jog3rPipeline, values: Any) -> dict[str, Any]:
        """See `Jog3rPipeline.assemble_geometry`."""
        num_frames = values.latents.shape[2]
        geometry = steps.assemble_geometry(values.pairwise, num_frames, values.registration, values.registration_kwargs)
        # "registration" of the state is the switch: a call that goes on from this state reads it again
        geometry["registrations"] = geometry.pop("registration", None)
        return {name: geometry.get(name) for name in self.writes}


class _Sequence(SequentialPipelineBlocks):
    description = property(summary)
    task: str

    def __init__(self) -> None:
        super().__init__()
        used = {name for block in self.sub_blocks.values() for name in block.uses}
        self.sub_blocks["check"].uses = tuple(name for name in COMPONENTS if name in used)
        for name in {"check", "set_timesteps"} & set(self.sub_blocks):
            self.sub_blocks[name].task = self.task

    def set_progress_bar_config(self, **options: Any) -> None:
        for block in self.sub_blocks.values():
            block.set_progress_bar_config(**options)


class Jog3rModularBlocksT2V(_Sequence):
    """Text to video with JOG3R."""

    task = "t2v"
    block_names = ["check", "encode_prompt", "set_timesteps", "prepare_latents", "denoise", "decode"]
    block_classes = [CheckInputs, EncodePrompt, SetTimesteps, PrepareLatents, Denoise, DecodeFrames]


class Jog3rModularBlocksT2VC(_Sequence):
    """Text to video with pointmaps and cameras, with JOG3R."""

    task = "t2v+c"
    block_names = [*Jog3rModularBlocksT2V.block_names, "decode_pairs", "register"]
    block_classes = [*Jog3rModularBlocksT2V.block_classes, DecodePairs, RegisterPairs]


class Jog3rModularBlocksV2C(_Sequence):
    """Video to cameras, depth and pointmaps with JOG3R."""

    task = "v2c"
    block_names = ["check", "encode_video", "reconstruct_pairs", "register"]
    block_classes = [CheckInputs, EncodeVideo, ReconstructPairs, RegisterPairs]


class Jog3rModularBlocks(ConditionalPipelineBlocks):
    """All three tasks, chosen as `Jog3rPipeline` chooses: by `task`, else "v2c" where a video is given, else "t2v+c"."""

    block_names = ["t2v", "t2v+c", "v2c"]
    block_classes = [Jog3rModularBlocksT2V, Jog3rModularBlocksT2VC, Jog3rModularBlocksV2C]
    block_trigger_inputs = ["task", "video"]
    default_block_name = "t2v+c"

    description = property(summary)

    def select_block(self, task: str | None = None, video: Any = None) -> str | None:
        """Name of the blocks that run; a task that there is not is left to their check."""
        if task in self.sub_blocks:
            return task
        return None if video is None else "v2c"

    def set_progress_bar_config(self, **options: Any) -> None:
        """Options of the progress bar, as for every pipeline."""
        for block in self.sub_blocks.values():
            block.set_progress_bar_config(**options)
