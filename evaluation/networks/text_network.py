"""CLIP by transformers, which places pictures and texts in one space: does a video show what its text says?

Letters: F frames, H W pixels, D features.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from jog3r.evaluation.consistency import as_video
from jog3r.evaluation.networks.features import picture_settings
from jog3r.evaluation.networks.pinned import WEIGHTS_NAME, pinned_folder

__all__ = ["TextNetwork", "load_text_network"]

_WANTED = ("*.json", "merges.txt", WEIGHTS_NAME)
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_BATCH = 16


class TextNetwork:
    """A frozen CLIP: a tower for pictures and one for texts.

    Attributes:
        name: model type, picture size and first digits of the weights' hash: what must stand beside every number made with it.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str, size: int, mean: Any, std: Any) -> None:
        """Wrap a transformers model and its tokenizer; `load_text_network` does it."""
        self._model, self._tokenizer, self.name = model.eval().requires_grad_(False), tokenizer, name
        self._size = size
        self._mean, self._std = (torch.tensor(value, dtype=torch.float32).view(1, 3, 1, 1) for value in (mean, std))

    @torch.no_grad()
    def text(self, caption: str) -> np.ndarray:
        """Unit vector (D,) float64 of a caption, cut after as many tokens as the network reads."""
        length = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(caption, truncation=True, max_length=length, return_tensors="pt")
        return _units(self._model.get_text_features(input_ids=tokens["input_ids"]).pooler_output)[0]

    @torch.no_grad()
    def video(self, frames: Tensor | np.ndarray) -> np.ndarray:
        """Unit vectors (F,D) float64 of frames (F,H,W,3): shorter side to the network's picture size, the middle square of it."""
        pictures = as_video(frames)  # (F,3,H,W) in 0..1
        factor = self._size / min(pictures.shape[-2:])
        height, width = (max(round(side * factor), self._size) for side in pictures.shape[-2:])
        resized = functional.interpolate(pictures.float(), (height, width), mode="bicubic", antialias=True).clamp(0, 1)
        top, left = (height - self._size) // 2, (width - self._size) // 2
        pixels = (resized[..., top : top + self._size, left : left + self._size] - self._mean) / self._std
        found = [self._model.get_image_features(pixel_values=batch).pooler_output for batch in pixels.split(_BATCH)]
        return _units(torch.cat(found))

    def agreement(self, frames: Tensor | np.ndarray, caption: str) -> float:
        """100 times the mean cosine of a caption with the frames (F,H,W,3) of a video: the field's CLIPSIM, or CLIP score."""
        return 100 * float((self.video(frames) @ self.text(caption)).mean())


def load_text_network(source: str | Path, sha256: str | None = None) -> TextNetwork:
    """A CLIP, OpenAI's or another of its architecture, from a local folder or a hub id.

    Args:
        source: folder with configuration, tokenizer and `model.safetensors`, or a hub id such as "openai/clip-vit-large-patch14".
        sha256: expected hash of `model.safetensors`; a must for a hub id.

    Raises:
        ValueError: no safetensors weights, a hash that differs, a hub id without a hash, another tokenizer or network.
    """
    from transformers import AutoModel, AutoTokenizer  # here: importing them takes seconds

    folder, digest = pinned_folder(source, sha256, _WANTED)
    model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    if model.config.model_type != "clip":  # others cut pictures and fill up texts in other ways
        raise ValueError(
            f"{source} is a {model.config.model_type} model; give a CLIP, with a tower for pictures and one for texts"
        )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if len(tokenizer) != (words := model.config.text_config.vocab_size):  # without its files transformers makes one of no words
        raise ValueError(f"{source} has a tokenizer of {len(tokenizer)} words for a network of {words}: are its files all there?")
    settings = picture_settings(folder, _MEAN, _STD)
    size = settings["size"] or int(model.config.vision_config.image_size)
    name = f"clip at {size} px, sha256 {digest[:12]}"
    return TextNetwork(model, tokenizer, name, size, settings["mean"], settings["std"])


def _units(features: Tensor) -> np.ndarray:
    """Rows (N,D) float64 of length 1."""
    return functional.normalize(features.double(), dim=-1).cpu().numpy()
