"""LoRA layers of the transformer, with the methods every diffusers pipeline offers."""

from collections.abc import Callable
from os import PathLike
from typing import Any

import torch
from diffusers.loaders.lora_base import LoraBaseMixin, _fetch_state_dict

FETCH_OPTIONS = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision", "subfolder", "weight_name")


class Jog3rLoraLoaderMixin(LoraBaseMixin):
    """Load, save, fuse and unfuse LoRA layers of `Jog3rTransformer3DModel`; needs the package peft."""

    _lora_loadable_modules = ["transformer"]
    transformer_name = "transformer"

    @classmethod
    def lora_state_dict(
        cls, pretrained_model_name_or_path_or_dict: str | dict[str, torch.Tensor], **kwargs: Any
    ) -> dict[str, torch.Tensor] | tuple[dict[str, torch.Tensor], dict | None]:
        """Read LoRA weights (safetensors only) from a folder, a hub repository or a dict.

        Args:
            pretrained_model_name_or_path_or_dict: where they are.
            **kwargs: `weight_name`, `subfolder` and the usual options of downloads; `return_lora_metadata=True` gives a pair.
        """
        return_metadata = kwargs.pop("return_lora_metadata", False)
        options = {name: kwargs.pop(name, None) for name in FETCH_OPTIONS}
        kwargs.pop("use_safetensors", None)
        if kwargs:
            raise TypeError(f"unknown options for loading LoRA weights: {', '.join(sorted(kwargs))}")
        state_dict, metadata = _fetch_state_dict(
            pretrained_model_name_or_path_or_dict=pretrained_model_name_or_path_or_dict,
            use_safetensors=True,
            user_agent={"file_type": "attn_procs_weights", "framework": "pytorch"},
            allow_pickle=False,  # a pickle runs code of strangers
            **options,
        )
        strangers = [name for name in state_dict if "lora" not in name]
        if strangers:
            raise ValueError(f"not a LoRA checkpoint: {len(strangers)} weights such as {strangers[0]!r} are no LoRA layers")
        return (state_dict, metadata) if return_metadata else state_dict

    def load_lora_weights(  # type: ignore[override]  # the base takes **kwargs only
        self,
        pretrained_model_name_or_path_or_dict: str | dict[str, torch.Tensor],
        adapter_name: str | None = None,
        hotswap: bool = False,
        **kwargs: Any,
    ) -> None:
        """Add LoRA layers to the transformer, see `lora_state_dict` for where they come from."""
        low_cpu_mem_usage = kwargs.pop("low_cpu_mem_usage", True)
        source = pretrained_model_name_or_path_or_dict
        source = dict(source) if isinstance(source, dict) else source  # the caller's dict stays as it is
        state_dict, metadata = self.lora_state_dict(source, return_lora_metadata=True, **kwargs)
        transformer = getattr(self, self.transformer_name)
        transformer.load_lora_adapter(
            state_dict,
            network_alphas=None,
            adapter_name=adapter_name,
            metadata=metadata,
            _pipeline=self,
            low_cpu_mem_usage=low_cpu_mem_usage,
            hotswap=hotswap,
        )

    @classmethod
    def save_lora_weights(  # type: ignore[override]  # each pipeline of diffusers names its own components
        cls,
        save_directory: str | PathLike,
        transformer_lora_layers: dict[str, torch.nn.Module | torch.Tensor],
        is_main_process: bool = True,
        weight_name: str | None = None,
        save_function: Callable | None = None,
        transformer_lora_adapter_metadata: dict | None = None,
    ) -> None:
        """Write LoRA layers (of `peft.get_peft_model_state_dict`) as safetensors.

        Args:
            save_directory: folder, made if missing.
            transformer_lora_layers: names and weights.
            is_main_process: only that one writes, in distributed training.
            weight_name: file name; None is diffusers' own.
            save_function: replaces the writing, in distributed training.
            transformer_lora_adapter_metadata: the LoRA configuration to write along.
        """
        if not transformer_lora_layers:
            raise ValueError("transformer_lora_layers is empty: there is nothing to save")
        cls._save_lora_weights(
            save_directory=save_directory,
            lora_layers={cls.transformer_name: transformer_lora_layers},
            lora_metadata={cls.transformer_name: transformer_lora_adapter_metadata},
            is_main_process=is_main_process,
            weight_name=weight_name,
            save_function=save_function,
            safe_serialization=True,
        )

    def fuse_lora(
        self,
        components: list[str] | None = None,
        lora_scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the LoRA layers into the weights: as fast as without them."""
        super().fuse_lora(components or ["transformer"], lora_scale, safe_fusing, adapter_names, **kwargs)

    def unfuse_lora(self, components: list[str] | None = None, **kwargs: Any) -> None:
        """Undo `fuse_lora`."""
        super().unfuse_lora(components or ["transformer"], **kwargs)
