"""Samples of a generator of diffusers while it is trained: one clip after the other, captions embedded once."""

import inspect
from typing import Any

import numpy as np
import torch

from jog3r.data.clip import Clip
from jog3r.pipelines.captions import CaptionBatch
from jog3r.pipelines.latents import in_tiles
from jog3r.pipelines.pipeline_output import Jog3rPipelineOutput
from jog3r.training.config import TrainConfig
from jog3r.training.generators.captions import caption_length
from jog3r.training.joint_model import autocast

__all__ = ["NUM_CLIPS", "embed_for_samples", "generate_samples", "reconstruct_samples"]

NUM_CLIPS = 2  # each of tens of frames in hundreds of pixels


@torch.no_grad()
def embed_for_samples(pipeline: Any, captions: list[str], embedded: dict[str, Any]) -> dict[str, Any]:
    """The captions and their negative ones as arguments of a call, and "empty", those of a video; kept in `embedded`.

    Computed where the text encoder lies, which may be another device than that of the rest.
    """
    if not embedded:
        device = pipeline.text_encoder.device
        encoded = pipeline.encode_prompt(captions, max_sequence_length=caption_length(pipeline), device=device)
        known = inspect.signature(type(pipeline).__call__).parameters
        embedded |= dict(zip([name for name in CaptionBatch.names if name in known], encoded, strict=True))
        embedded["empty"] = pipeline.caption_of_videos(device)
    return embedded


def generate_samples(pipeline: Any, config: TrainConfig, embedded: dict[str, Any]) -> np.ndarray:
    """Frames (K, F, H, W, 3) uint8 of K captions, under the guidance that the generator's own pipeline takes unasked."""
    device = pipeline.transformer.device
    texts = {name: _to_model(value, pipeline) for name, value in embedded.items() if name != "empty"}
    frames = []
    for clip in range(len(texts["prompt_embeds"])):
        # not all parts have one precision, and not all calls of diffusers convert between them
        with autocast(config, device), in_tiles(pipeline.vae):
            output = pipeline(
                **{name: value[clip : clip + 1] for name, value in texts.items()},
                task="t2v",
                num_frames=config.num_frames,
                height=config.height,
                width=config.width,
                num_inference_steps=config.sample_steps,
                generator=torch.Generator().manual_seed(0),
                output_type="np",
            )
        frames.append(output.frames[0])
    return (np.stack(frames) * 255).round().astype(np.uint8)


def _to_model(value: torch.Tensor, pipeline: Any) -> torch.Tensor:
    """Embeddings on the transformer's device in its precision, masks on its device."""
    model = pipeline.transformer
    return value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)


def reconstruct_samples(pipeline: Any, clips: list[Clip], embedded: dict[str, Any]) -> Jog3rPipelineOutput:
    """Depth (K, F, H, W), poses (K, F, 4, 4) and registration of the clips."""
    empty = {name: _to_model(value, pipeline) for name, value in embedded["empty"].items()}
    found = [
        pipeline(video=clip.frames, task="v2c", generator=torch.Generator().manual_seed(0), output_type="np", **empty)
        for clip in clips
    ]
    return Jog3rPipelineOutput(
        frames=None,
        depth=torch.cat([one.depth for one in found]),
        poses=torch.cat([one.poses for one in found]),
        registration=[one.registration[0] for one in found],
    )
