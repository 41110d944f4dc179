"""What preparing data for a generator of diffusers needs of its pipeline: sizes, before weights are read, and its captions."""

from collections.abc import Sequence
from typing import Any

import torch

from jog3r.data.cache import CachedCaption
from jog3r.pipelines.generators.fit import check_frames
from jog3r.training.generators.captions import caption_length, embed_for
from jog3r.training.generators.without_weights import pipeline_without_weights
from jog3r.training.preparation.component_files import check_folders, generator_kind
from jog3r.training.preparation.windows import Windows

__all__ = ["GeneratorParts", "generator_parts"]


class GeneratorParts:
    """The parts of one generator.

    Args:
        kind: as the option `model` of training calls it.
        place: folder or repository of the hub.
    """

    def __init__(self, kind: str, place: str):
        self.pipeline = pipeline_without_weights(kind, place)
        self.caption_length = caption_length(self.pipeline)

    def check_windows(self, num_frames: int, size: tuple[int, int]) -> None:
        """Refuse frames or a size (H, W) that VAE and transformer do not take whole.

        Raises:
            ValueError: naming the nearest that fit.
        """
        check_frames(self.pipeline, num_frames, *size)

    def latent_shape(self, size: tuple[int, int]) -> list[int]:
        """(C, h, w) of a latent step for pixels (H, W)."""
        pixels = self.pipeline._compression[1]
        return [self.pipeline.transformer.config.in_channels, size[0] // pixels, size[1] // pixels]

    def register(self, **parts: Any) -> None:
        """Take over VAE, tokenizer and text encoder, once they are loaded."""
        self.pipeline.register_modules(**parts)

    def embed(self, texts: Sequence[str], length: int, device: torch.device) -> list[CachedCaption]:
        """Captions as `embed_for` gives them."""
        return embed_for(self.pipeline, texts, length, device)


def generator_parts(model: str, windows: Windows | None, size: tuple[int, int]) -> GeneratorParts | None:
    """The parts of the generator that a folder or repository holds, None for JOG3R's own models.

    Raises:
        ValueError: windows for a model that reads single frames, none for one that compresses time, sizes that do not fit.
    """
    kind = generator_kind(model)
    if kind is None:
        if windows is not None:
            raise ValueError(
                f"window_frames={windows.num_frames} is for models that compress time; {model!r} reads single frames"
            )
        return None
    check_folders(model)
    parts = GeneratorParts(kind, model)
    if windows is None:
        raise ValueError(
            f"the VAE of {model!r} compresses time: say how many frames are encoded together, the num_frames of the training, "
            "with window_frames (17, 49, 81)"
        )
    parts.check_windows(windows.num_frames, size)
    return parts
