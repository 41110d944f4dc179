"""LoRA layers of the transformer: diffusers' own loader of pipelines with one transformer, and checks of what it is given."""

from pathlib import Path
from typing import Any

import torch
from diffusers.loaders import Mochi1LoraLoaderMixin
from diffusers.utils.torch_utils import unwrap_module
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

PREFIX = "transformer."  # diffusers'
PREFIXES = (PREFIX, "base_model.model.", "diffusion_model.", "model.")  # and those of peft and of ComfyUI
PEFT_CONFIG = "adapter_config.json"
# what of a peft config changes the layers; the rest tells how they were trained
PEFT_OPTIONS = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "use_rslora", "use_dora", "lora_bias")
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
FETCH_OPTIONS = (*HUB_OPTIONS, "proxies", "weight_name", "use_safetensors")


class Jog3rLoraLoaderMixin(Mochi1LoraLoaderMixin):
    """Load, save, fuse and unfuse LoRA layers of `Jog3rTransformer3DModel`; needs the package peft."""

    @classmethod
    def lora_state_dict(
        cls, pretrained_model_name_or_path_or_dict: str | dict[str, torch.Tensor], **kwargs: Any
    ) -> dict[str, torch.Tensor] | tuple[dict[str, torch.Tensor], dict | None]:
        """Read LoRA weights (safetensors only) from a folder, a hub repository or a dict.

        Names may be diffusers' own, those of peft (`base_model.model.`) or of ComfyUI (`diffusion_model.`), or bare; strengths
        may come as `.alpha` values, in the file's header, or in peft's adapter_config.json beside it.

        Args:
            pretrained_model_name_or_path_or_dict: where they are.
            **kwargs: `weight_name`, `subfolder` and the usual options of downloads; `return_lora_metadata=True` gives a pair.

        Raises:
            TypeError: an option that there is not.
            ValueError: there are weights that are no LoRA layers.
        """
        return_metadata = kwargs.pop("return_lora_metadata", False)
        if unknown := sorted(set(kwargs) - set(FETCH_OPTIONS)):
            raise TypeError(f"unknown options for loading LoRA weights: {', '.join(unknown)}")
        source = pretrained_model_name_or_path_or_dict
        options = kwargs | {"use_safetensors": True}  # a pickle runs code of strangers
        found, metadata = super().lora_state_dict(source, return_lora_metadata=True, **options)
        if metadata is None and not isinstance(source, dict):
            metadata = _peft_config(source, {name: value for name, value in kwargs.items() if name in HUB_OPTIONS})
        state_dict = _scaled({PREFIX + _bare(name): value for name, value in found.items()})
        if strangers := [name for name in state_dict if ".lora_" not in name]:
            raise ValueError(f"not a LoRA checkpoint: {len(strangers)} weights such as {strangers[0]!r} are no LoRA layers")
        return (state_dict, metadata) if return_metadata else state_dict

    @classmethod
    def load_lora_into_transformer(cls, state_dict: dict[str, torch.Tensor], transformer: Any, **kwargs: Any) -> None:
        """Add LoRA layers to the transformer.

        Raises:
            ValueError: they do not fit it, or some are missing.
        """
        check_fit({name.removeprefix(PREFIX): value for name, value in state_dict.items()}, transformer)
        super().load_lora_into_transformer(state_dict, transformer=transformer, **kwargs)


def check_fit(layers: dict[str, torch.Tensor], model: torch.nn.Module) -> None:
    """Refuse LoRA layers, named as in `model`, that belong to no layer of it or come without their other half.

    Raises:
        ValueError: naming the first of them.
    """
    model = unwrap_module(model)
    modules = dict(model.named_modules())
    if not layers:
        raise ValueError("the LoRA file holds no layer")
    for name, value in layers.items():
        path, _, part = name.partition(".lora_")
        module: Any = modules.get(path)
        if not hasattr(module, "weight") and not hasattr(module, "base_layer"):
            raise ValueError(f"the LoRA layer {name!r} belongs to no layer of {type(model).__name__}")
        half = {"A.weight": "B.weight", "B.weight": "A.weight"}.get(part)
        if half is not None and f"{path}.lora_{half}" not in layers:
            raise ValueError(f"the LoRA layer {name!r} has no other half: {path}.lora_{half} is missing")
        width = {"A.weight": (1, "in_features"), "B.weight": (0, "out_features")}.get(part)
        if (
            width is not None
            and value.ndim == 2
            and hasattr(module, width[1])
            and value.shape[width[0]] != getattr(module, width[1])
        ):
            raise ValueError(
                f"the LoRA layer {name!r} has shape {tuple(value.shape)}, but that layer of {type(model).__name__} has "
                f"{width[1]}={getattr(module, width[1])}: it was trained for a model of another size"
            )


def _bare(name: str) -> str:
    """The name of a weight within the transformer, its factors called as peft calls them."""
    while found := next((prefix for prefix in PREFIXES if name.startswith(prefix)), None):
        name = name.removeprefix(found)
    name = name.replace(".lora_A.default.", ".lora_A.").replace(".lora_B.default.", ".lora_B.")
    return name.replace(".lora_down.", ".lora_A.").replace(".lora_up.", ".lora_B.")


def _scaled(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The layers with their `.alpha` values, where there are any, multiplied into the second factors."""
    result = {name: value for name, value in state_dict.items() if not name.endswith(".alpha")}
    for name, value in state_dict.items():
        if name.endswith(".alpha"):
            path = name.removesuffix(".alpha")
            down, up = f"{path}.lora_A.weight", f"{path}.lora_B.weight"
            if down not in result or up not in result:
                raise ValueError(f"not a LoRA checkpoint: {name!r} belongs to no pair of LoRA layers")
            result[up] = result[up] * (float(value) / result[down].shape[0])
    return result


def _peft_config(source: str | Path, options: dict[str, Any]) -> dict[str, Any] | None:
    """Rank, strength and their exceptions of an adapter that peft saved, as diffusers writes them into a file's header."""
    place = Path(source)
    if place.exists():
        folder = place.parent if place.is_file() else place / (options.get("subfolder") or "")
        file = folder / PEFT_CONFIG
    else:
        try:
            file = Path(hf_hub_download(str(source), PEFT_CONFIG, **options))
        except (EntryNotFoundError, LocalEntryNotFoundError):
            return None
    if not file.is_file():
        return None
    from peft import PeftConfig

    config = PeftConfig.from_pretrained(file.parent).to_dict()
    return {PREFIX + name: config[name] for name in PEFT_OPTIONS if name in config}
