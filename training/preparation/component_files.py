"""The frozen models that preparation needs, loaded without the rest of a pipeline, and hashes that tell two of them apart."""

import hashlib
import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional

from jog3r.models.transformer_jog3r import Jog3rTransformer3DModel

__all__ = ["DepthModel", "fingerprint", "load_depth_model", "load_text_models", "load_vae", "transformer_config"]

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


def transformer_config(model: str) -> dict[str, Any] | None:
    """The config of a pipeline's JOG3R transformer; None where the folder or hub repository has no transformer, or another's."""
    path = Path(model, "transformer", "config.json")
    if not Path(model).is_dir():
        try:
            path = Path(hf_hub_download(model, "transformer/config.json"))
        except EntryNotFoundError:
            return None
    if not path.is_file():
        return None
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("_class_name") != Jog3rTransformer3DModel.__name__:
        return None
    parameters = inspect.signature(Jog3rTransformer3DModel).parameters
    defaults = {name: parameters[name].default for name in ("max_caption_length", "patch_size")}
    return {**defaults, **config}  # what a config leaves out has the default


def load_vae(model: str) -> nn.Module:
    """The image VAE of a pipeline (folder or hub repository), frozen.

    Raises:
        ValueError: a VAE of another kind, or weights that are not all there, do not fit its config or are damaged.
    """
    from diffusers import AutoencoderKL, AutoencoderTiny

    config, _ = AutoencoderKL.load_config(model, subfolder="vae", return_unused_kwargs=True)
    kinds = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
    kind = config.get("_class_name")
    if kind not in kinds:
        raise ValueError(f"the VAE of {model!r} is a {kind}, expected one of {', '.join(kinds)}")
    return _load_whole(kinds[kind], model, "vae").requires_grad_(False).eval()


def load_text_models(model: str) -> tuple[Any, nn.Module]:
    """Tokenizer and T5 encoder of a pipeline, frozen.

    Raises:
        ValueError: weights that are not all there, do not fit the encoder's config or are damaged.
    """
    from transformers import AutoTokenizer, T5EncoderModel

    tokenizer = AutoTokenizer.from_pretrained(model, subfolder="tokenizer")
    encoder = _load_whole(T5EncoderModel, model, "text_encoder", dtype="auto", ignore_mismatched_sizes=True)
    return tokenizer, encoder.requires_grad_(False).eval()


def _load_whole(kind: Any, model: str, component: str, **options: Any) -> Any:
    """`from_pretrained` that refuses what it would fill with noise (transformers) or leave without values (diffusers).

    `ignore_mismatched_sizes` of transformers lets its report reach us; weights in the file that no layer takes are allowed: a
    text encoder may come with its decoder.
    """
    try:
        loaded, report = kind.from_pretrained(model, subfolder=component, output_loading_info=True, **options)
    except SafetensorError as error:
        raise ValueError(f"the {component} of {model!r}: a file of weights is damaged or cut off ({error})") from error
    except ValueError as error:
        raise ValueError(f"the {component} of {model!r} cannot be loaded: {error}") from error
    mismatched = [key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]]
    for names, fault in ((report["missing_keys"], "are missing"), (mismatched, "have another shape than its config says")):
        if names:
            raise ValueError(f"the {component} of {model!r}: {len(names)} weights {fault}, such as {min(names)!r}")
    return loaded


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
        ValueError: no depth model of transformers, or one that gives relative inverse depth, which is no depth up to scale
            either.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForDepthEstimation
    from transformers.models.auto.modeling_auto import MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES

    try:
        config = AutoConfig.from_pretrained(name)
    except ValueError as error:
        raise ValueError(f"{name!r} holds no model of transformers: {error}") from error
    if config.model_type not in MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES:
        raise ValueError(f"{name!r} is no depth model of transformers but a {config.model_type}")
    metric = config.model_type in METRIC_MODELS or getattr(config, "depth_estimation_type", None) == "metric"
    if not metric and not assume_metric:
        raise ValueError(
            f"the depth model {name!r} ({config.model_type}) gives relative inverse depth, which makes no pointmaps; take a "
            "metric one (ZoeDepth, Depth Anything's Metric variants, Depth Pro) or set assume_metric if it is"
        )
    try:
        model = AutoModelForDepthEstimation.from_pretrained(name, dtype="auto").requires_grad_(False).eval()
        processor = AutoImageProcessor.from_pretrained(name)
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"the depth model {name!r} cannot be loaded: {error}") from error
    return DepthModel(name, model, processor)
