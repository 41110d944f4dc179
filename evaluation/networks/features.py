"""Frozen feature networks that judge from outside: loaded through transformers, weights in safetensors, hash pinned.

DINO (v1, v2, with registers) and every other vision transformer of `AutoModel` whose output is one class token, registers and one
token a patch. Letters: N pictures, F frames, C channels, H W pixels, h w patches.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from jog3r.evaluation.consistency import as_video
from jog3r.evaluation.networks.pinned import WEIGHTS_NAME, pinned_folder

_WANTED = ("config.json", "preprocessor_config.json", WEIGHTS_NAME)
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_BATCH = 16


class FeatureNetwork:
    """A frozen vision transformer as feature function.

    Attributes:
        name: model type, picture size and first digits of the weights' hash: what must stand beside every number made with it.
        sha256: of the weights file.
    """

    def __init__(self, model: torch.nn.Module, sha256: str, image_size: int, mean: Any, std: Any) -> None:
        """Wrap a transformers model; `load_features` does it."""
        self._model = model.eval().requires_grad_(False)
        self.sha256 = sha256
        config: Any = model.config
        self._patch = int(config.patch_size)
        self._image_size = max(image_size // self._patch, 1) * self._patch
        self._skip = 1 + int(getattr(config, "num_register_tokens", 0))
        self._mean, self._std = (torch.tensor(value, dtype=torch.float32).view(1, 3, 1, 1) for value in (mean, std))
        self.name = f"{config.model_type} at {self._image_size} px, sha256 {sha256[:12]}"

    @torch.no_grad()
    def dense(self, frames: Tensor) -> Tensor:
        """Patch features (N,C,h,w) of pictures (N,3,H,W) in 0..1; the shorter side becomes the network's picture size."""
        height, width = self._sides(frames)
        tokens = self._tokens(frames, height, width)[:, self._skip :]  # (N,h*w,C)
        return tokens.transpose(1, 2).unflatten(2, (height // self._patch, width // self._patch))  # (N,C,h,w)

    @torch.no_grad()
    def pooled(self, frames: Tensor) -> Tensor:
        """Class token (N,C) of pictures (N,3,H,W) in 0..1."""
        return self._tokens(frames, *self._sides(frames))[:, 0]

    def clip(self, frames: Tensor | np.ndarray) -> np.ndarray:
        """One vector (2C,) float64 of a clip (F,H,W,3): mean over frames of the class token, and mean absolute change of it.

        A plain descriptor for distances between sets of clips at small N, not FVD: name the network and this pooling beside it.
        """
        tokens = self.pooled(as_video(frames)).double()  # (F,C)
        change = (tokens[1:] - tokens[:-1]).abs().mean(0) if len(tokens) > 1 else torch.zeros_like(tokens[0])
        return torch.cat((tokens.mean(0), change)).cpu().numpy()

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters()).device

    def _sides(self, frames: Tensor) -> tuple[int, int]:
        """Height and width the pictures are resized to: multiples of the patch, the shorter one the picture size."""
        height, width = frames.shape[-2:]
        factor = self._image_size / min(height, width)
        rounded = [max(round(side * factor / self._patch), 1) * self._patch for side in (height, width)]
        return rounded[0], rounded[1]

    def _tokens(self, frames: Tensor, height: int, width: int) -> Tensor:
        if frames.dim() != 4 or frames.shape[1] != 3:
            raise ValueError(f"pictures must have shape (N,3,H,W) in 0..1, got {tuple(frames.shape)}")
        frames = frames.to(self._device)
        resized = functional.interpolate(frames.float(), (height, width), mode="bicubic", antialias=True).clamp(0, 1)
        pixels = (resized - self._mean.to(resized)) / self._std.to(resized)
        # ViT (DINO v1) asks for leave to stretch its position embedding, DINOv2 always does.
        options = {"interpolate_pos_encoding": True} if self._model.config.model_type == "vit" else {}
        return torch.cat([self._model(pixel_values=chunk, **options).last_hidden_state for chunk in pixels.split(_BATCH)])


def load_features(source: str | Path, sha256: str | None = None, image_size: int | None = None) -> FeatureNetwork:
    """A feature network from a local folder or a hub id (only config, preprocessor config and safetensors are fetched).

    Args:
        source: folder with `config.json` and `model.safetensors`, or a hub id such as "facebook/dino-vits16".
        sha256: expected hash of `model.safetensors`; a must for a hub id, so that a number always names its network.
        image_size: shorter side in pixels; None: the preprocessor's crop, else the config's picture size.

    Raises:
        ValueError: no safetensors weights, a hash that differs, a hub id without a hash, a network that is no vision transformer.
    """
    from transformers import AutoModel  # here: importing it takes seconds

    folder, digest = pinned_folder(source, sha256, _WANTED)

    model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    if not hasattr(model.config, "patch_size"):
        raise ValueError(f"{source} is a {model.config.model_type} model without patches; give a vision transformer such as DINO")
    settings = picture_settings(folder)
    size = image_size or settings["size"] or int(getattr(model.config, "image_size", 224))
    return FeatureNetwork(model, digest, size, settings["mean"], settings["std"])


def picture_settings(folder: Path, mean: Any = _IMAGENET_MEAN, std: Any = _IMAGENET_STD) -> dict[str, Any]:
    """`size` in pixels (None where it is not said), `mean` and `std` (unless said, those given) of pictures for a network."""
    path = folder / "preprocessor_config.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    crop = stored.get("crop_size") or stored.get("size") or {}
    size = crop.get("height") or crop.get("shortest_edge") if isinstance(crop, dict) else int(crop)
    return {"size": size, "mean": stored.get("image_mean") or mean, "std": stored.get("image_std") or std}
