"""The frozen models that preparation needs, loaded without the rest of a pipeline, and hashes that tell two of them apart."""

import hashlib
import inspect
import json
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from torch import nn

from jog3r.models.transformer_jog3r import Jog3rTransformer3DModel
from jog3r.pipelines.loading.whole_component import TEXT_ENCODER_OPTIONS, load_whole

__all__ = ["check_parts", "load_text_models", "load_vae", "transformer_config", "weights_hash"]

_VAES = ("AutoencoderKL", "AutoencoderTiny")


def weights_hash(model: nn.Module) -> str:
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


def check_parts(model: str) -> int:
    """Pixels a latent of a pipeline's VAE, from configs alone: what is missing or of another kind shows before weights are read.

    Raises:
        ValueError: no VAE that can be used; of a folder also: no tokenizer or no text encoder.
    """
    if Path(model).is_dir():
        lacking = [part for part in ("vae", "tokenizer", "text_encoder") if not Path(model, part).is_dir()]
        if lacking:
            raise ValueError(f"{model!r} has no {' and no '.join(lacking)}: give the folder of a pipeline")
    kind, config = _vae_kind(model)
    channels = config["encoder_block_out_channels" if kind == "AutoencoderTiny" else "block_out_channels"]
    return 2 ** (len(channels) - 1)


def _vae_kind(model: str) -> tuple[str, dict[str, Any]]:
    from diffusers import AutoencoderKL

    config, _ = AutoencoderKL.load_config(model, subfolder="vae", return_unused_kwargs=True)
    kind = config.get("_class_name")
    if kind not in _VAES:
        raise ValueError(f"the VAE of {model!r} is a {kind}, expected one of {', '.join(_VAES)}")
    return kind, config


def load_vae(model: str) -> nn.Module:
    """The image VAE of a pipeline (folder or hub repository), frozen.

    Raises:
        ValueError: a VAE of another kind, or weights that are not all there, do not fit its config or are damaged.
    """
    import diffusers

    kind, _ = _vae_kind(model)
    return load_whole(getattr(diffusers, kind), model, "vae", subfolder="vae").requires_grad_(False).eval()


def load_text_models(model: str) -> tuple[Any, nn.Module]:
    """Tokenizer and T5 encoder of a pipeline, frozen.

    Raises:
        ValueError: weights that are not all there, do not fit the encoder's config or are damaged.
    """
    from transformers import AutoTokenizer, T5EncoderModel

    tokenizer = AutoTokenizer.from_pretrained(model, subfolder="tokenizer")
    encoder = load_whole(T5EncoderModel, model, "text_encoder", subfolder="text_encoder", **TEXT_ENCODER_OPTIONS)
    return tokenizer, encoder.requires_grad_(False).eval()
