"""Depth models of transformers: frames in, depth of every pixel out."""

from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["DepthModel", "check_depth_model", "load_depth_model"]

# Of transformers' depth models, those whose output is z in metres; others give an inverse depth of unknown scale and shift.
METRIC_MODELS = ("zoedepth", "depth_pro", "glpn", "chmv2")


@dataclass(frozen=True)
class DepthModel:
    """A depth model of transformers with its image processor.

    Attributes:
        name: folder or hub repository.
        model: the network.
        processor: its image processor.
        inverse: the output is an inverse depth of unknown scale and shift, not z.
    """

    name: str
    model: nn.Module
    processor: Any
    inverse: bool = False

    @torch.no_grad()
    def __call__(self, frames: Tensor, chunk_size: int = 4) -> Tensor:
        """Depth, or inverse depth, (F, H, W) float32 of frames (F, H, W, 3) uint8."""
        return torch.cat([self._chunk(chunk) for chunk in frames.split(chunk_size)])

    def _chunk(self, frames: Tensor) -> Tensor:
        parameter = next(self.model.parameters())
        size = (frames.shape[1], frames.shape[2])
        inputs = self.processor(images=list(frames.cpu().numpy()), return_tensors="pt", input_data_format="channels_last")
        output = self.model(pixel_values=inputs["pixel_values"].to(parameter))
        config: Any = self.model.config
        if config.model_type == "zoedepth":
            return self._without_padding(output.predicted_depth.float().cpu(), size)
        items = self.processor.post_process_depth_estimation(output, target_sizes=[size] * len(frames))
        return torch.stack([item["predicted_depth"].float().cpu() for item in items])  # (F, H, W)

    def _without_padding(self, depth: Tensor, size: tuple[int, int]) -> Tensor:
        """ZoeDepth's processor pads by 3 * sqrt(side / 2) pixels all around; transformers' own way back needs torchvision."""
        pads = [int((side / 2) ** 0.5 * 3) if self.processor.do_pad else 0 for side in size]
        padded = (size[0] + 2 * pads[0], size[1] + 2 * pads[1])
        depth = functional.interpolate(depth[:, None], padded, mode="bicubic", align_corners=False)[:, 0]
        return depth[:, pads[0] : pads[0] + size[0], pads[1] : pads[1] + size[1]]  # (F, H, W)


def check_depth_model(name: str, assume_metric: bool = False, allow_inverse: bool = False) -> bool:
    """Look at the config of a depth model; no weights are read.

    Args:
        name: folder or hub repository.
        assume_metric: take a model at its user's word that cannot be recognised as metric.
        allow_inverse: also take models of relative inverse depth, whose scale and shift have to be found otherwise.

    Returns:
        Whether it is metric.

    Raises:
        ValueError: no depth model of transformers, or one that gives relative inverse depth, which is no depth up to scale
            either.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES

    try:
        config = AutoConfig.from_pretrained(name)
    except ValueError as error:
        raise ValueError(f"{name!r} holds no model of transformers: {error}") from error
    if config.model_type not in MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES:
        raise ValueError(f"{name!r} is no depth model of transformers but a {config.model_type}")
    metric = config.model_type in METRIC_MODELS or getattr(config, "depth_estimation_type", None) == "metric" or assume_metric
    if not metric and not allow_inverse:
        raise ValueError(
            f"the depth model {name!r} ({config.model_type}) gives relative inverse depth, which makes no pointmaps; take a "
            "metric one (ZoeDepth, Depth Anything's Metric variants, Depth Pro) or set assume_metric if it is"
        )
    return metric


def load_depth_model(name: str, assume_metric: bool = False, allow_inverse: bool = False) -> DepthModel:
    """Any `AutoModelForDepthEstimation`, frozen; the arguments are those of `check_depth_model`.

    Raises:
        ValueError: as `check_depth_model`, or weights that are not all there or damaged.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForDepthEstimation

    metric = check_depth_model(name, assume_metric, allow_inverse)
    try:
        config = AutoConfig.from_pretrained(name)
        if getattr(config, "max_depth", 1) is None:  # of relative models in older folders; transformers 5 multiplies by it
            config.max_depth = 1
        model = AutoModelForDepthEstimation.from_pretrained(name, config=config, dtype="auto").requires_grad_(False).eval()
        processor = AutoImageProcessor.from_pretrained(name)
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"the depth model {name!r} cannot be loaded: {error}") from error
    return DepthModel(name, model, processor, inverse=not metric)
