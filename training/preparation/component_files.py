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
from jog3r.training.generators.options import generator_of_transformer

__all__ = [
    "check_folders", "check_parts", "generator_kind", "load_text_models", "load_vae", "transformer_config", "weights_hash",
]  # fmt: skip

_VAES = ("AutoencoderKL", "AutoencoderTiny")
_VIDEO_VAES = ("AutoencoderKLWan", "AutoencoderKLCogVideoX", "AutoencoderKLLTXVideo")


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


def generator_kind(model: str) -> str | None:
    """Which generator of diffusers a folder or hub repository holds, by its transformer; None for JOG3R's and others."""
    config = _read_transformer_config(model)
    return None if config is None else generator_of_transformer(config.get("_class_name"))


def transformer_config(model: str) -> dict[str, Any] | None:
    """The config of a pipeline's JOG3R transformer; None where the folder or hub repository has no transformer, or another's."""
    config = _read_transformer_config(model)
    if config is None or config.get("_class_name") != Jog3rTransformer3DModel.__name__:
        return None
    parameters = inspect.signature(Jog3rTransformer3DModel).parameters
    defaults = {name: parameters[name].default for name in ("max_caption_length", "patch_size")}
    return {**defaults, **config}  # what a config leaves out has the default


def _read_transformer_config(model: str) -> dict[str, Any] | None:
    path = Path(model, "transformer", "config.json")
    if not Path(model).is_dir():
        try:
            path = Path(hf_hub_download(model, "transformer/config.json"))
        except EntryNotFoundError:
            return None
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def check_parts(model: str) -> int:
    """Pixels a latent of a pipeline's image VAE, from configs alone: what is missing or of another kind shows before weights are
    read.

    Raises:
        ValueError: no VAE that can be used; of a folder also: no tokenizer or no text encoder.
    """
    check_folders(model)
    kind, config = _vae_kind(model, _VAES)
    channels = config["encoder_block_out_channels" if kind == "AutoencoderTiny" else "block_out_channels"]
    return 2 ** (len(channels) - 1)


def check_folders(model: str) -> None:
    """Refuse, with `ValueError`, a folder without VAE, tokenizer or text encoder."""
    if Path(model).is_dir():
        lacking = [part for part in ("vae", "tokenizer", "text_encoder") if not Path(model, part).is_dir()]
        if lacking:
            raise ValueError(f"{model!r} has no {' and no '.join(lacking)}: give the folder of a pipeline")


def _vae_kind(model: str, known: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    from diffusers import AutoencoderKL

    config, _ = AutoencoderKL.load_config(model, subfolder="vae", return_unused_kwargs=True)
    kind = config.get("_class_name")
    if kind not in known:
        raise ValueError(f"the VAE of {model!r} is a {kind}, expected one of {', '.join(known)}")
    return kind, config


def load_vae(model: str) -> nn.Module:
    """The VAE of a pipeline (folder or hub repository), frozen.

    Raises:
        ValueError: a VAE of another kind, or weights that are not all there, do not fit its config or are damaged.
    """
    import diffusers

    kind, _ = _vae_kind(model, (*_VAES, *_VIDEO_VAES))
    return load_whole(getattr(diffusers, kind), model, "vae", subfolder="vae").requires_grad_(False).eval()


def load_text_models(model: str) -> tuple[Any, nn.Module]:
    """Tokenizer and T5 or UMT5 encoder of a pipeline, frozen, in the type that it was saved in.

    Raises:
        ValueError: weights that are not all there, do not fit the encoder's config or are damaged.
    """
    from transformers import AutoConfig, AutoTokenizer, T5EncoderModel, UMT5EncoderModel

    tokenizer = AutoTokenizer.from_pretrained(model, subfolder="tokenizer")
    multilingual = AutoConfig.from_pretrained(model, subfolder="text_encoder").model_type == "umt5"
    encoder = load_whole(
        UMT5EncoderModel if multilingual else T5EncoderModel,
        model,
        "text_encoder",
        subfolder="text_encoder",
        **TEXT_ENCODER_OPTIONS,
    )
    return tokenizer, encoder.requires_grad_(False).eval()
