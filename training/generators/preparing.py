"""What preparing data for a generator of diffusers needs of its pipeline: sizes, before weights are read, and its captions."""

from typing import Any

from jog3r.pipelines.generators.fit import check_frames
from jog3r.training.generators.without_weights import pipeline_without_weights
from jog3r.training.preparation.component_files import check_folders, generator_kind
from jog3r.training.preparation.windows import Windows

__all__ = ["generator_parts", "latent_shape"]


def generator_parts(model: str, windows: Windows | None, size: tuple[int, int]) -> Any:
    """The pipeline of the generator that a folder or repository holds, still without weights; None for JOG3R's own models.

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
    if windows is None:
        raise ValueError(
            f"the VAE of {model!r} compresses time: say how many frames are encoded together, the num_frames of the training, "
            "with window_frames (17, 49, 81)"
        )
    pipeline = pipeline_without_weights(kind, model)
    check_frames(pipeline, windows.num_frames, *size)
    return pipeline


def latent_shape(pipeline: Any, size: tuple[int, int]) -> list[int]:
    """(C, h, w) of a latent step for pixels (H, W)."""
    pixels = pipeline._compression[1]
    return [pipeline.transformer.config.in_channels, size[0] // pixels, size[1] // pixels]
