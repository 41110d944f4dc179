"""The frozen models that preparation needs, loaded without the rest of a pipeline, and hashes that tell two of them apart."""

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["DepthModel", "fingerprint", "load_depth_model", "load_text_models", "load_vae"]

# Of transformers' depth models, those whose output is z in metres; others give an inverse depth of unknown scale and shift.
METRIC_MODELS = ("zoedepth", "depth_pro", "glpn", "chmv2")


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of a model's weights, as float32 whatever their type, and of the numbers that scale a VAE's latents."""
    digest = hashlib.sha256()
    config: Any = model.config
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    for name in ("latents_mean", "latents_std", "scaling_factor", "shift_factor"):
        digest.update(f"{name}={values.get(name)};".encode())
    digest.update(type(model).__name__.encode())
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(weight.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_vae(model: str) -> nn.Module:
    """The image VAE of a pipeline (folder or hub repository), frozen."""
    from diffusers import AutoencoderKL, AutoencoderTiny

    config, _ = AutoencoderKL.load_config(model, subfolder="vae", return_unused_kwargs=True)
    kinds = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
    kind = config.get("_class_name")
    if kind not in kinds:
        raise ValueError(f"the VAE of {model!r} is a {kind}, expected one of {', '.join(kinds)}")
    vae = kinds[kind].from_pretrained(model, subfolder="vae")
    return vae.requires_grad_(False).eval()


def load_text_models(model: str) -> tuple[Any, nn.Module]:
    """Tokenizer and T5 encoder of a pipeline, frozen."""
    from transformers import AutoTokenizer, T5EncoderModel

    tokenizer = AutoTokenizer.from_pretrained(model, subfolder="tokenizer")
    encoder = T5EncoderModel.from_pretrained(model, subfolder="text_encoder", dtype="auto")
    return tokenizer, encoder.requires_grad_(False).eval()


@dataclass(frozen=True)
class DepthModel:
    """A depth model of transformers with its image processor."""

    name: str
    model: nn.Module
    processor: Any

    @torch.no_grad()
    def __call__(self, frames: Tensor, chunk_size: int = 4) -> Tensor:
        """Depth (F, H, W) float32 of frames (F, H, W, 3) uint8."""
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


def load_depth_model(name: str, assume_metric: bool = False) -> DepthModel:
    """Any `AutoModelForDepthEstimation` that gives z.

    Args:
        name: folder or hub repository.
        assume_metric: take a model at its user's word that cannot be recognised as metric.

    Raises:
        ValueError: the model gives relative inverse depth, which is no depth up to scale either.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForDepthEstimation

    config = AutoConfig.from_pretrained(name)
    metric = config.model_type in METRIC_MODELS or getattr(config, "depth_estimation_type", None) == "metric"
    if not metric and not assume_metric:
        raise ValueError(
            f"the depth model {name!r} ({config.model_type}) gives relative inverse depth, which makes no pointmaps; take a "
            "metric one (ZoeDepth, Depth Anything's Metric variants, Depth Pro) or set assume_metric if it is"
        )
    model = AutoModelForDepthEstimation.from_pretrained(name, dtype="auto").requires_grad_(False).eval()
    return DepthModel(name, model, AutoImageProcessor.from_pretrained(name))
