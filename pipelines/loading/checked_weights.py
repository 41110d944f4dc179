"""Loading that refuses what does not fit, and saving with a card of our own."""

import json
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from jog3r.models.saving import CARD_NAME, SavingMixin
from jog3r.pipelines.loading.embedded_code import pipeline_with_code
from jog3r.pipelines.loading.model_card import model_card

# `DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)` finds the class here.
_SHIM = '''"""Lets DiffusionPipeline.from_pretrained(..., custom_pipeline=...) find the pipeline (package jog3r)."""

from {module} import {name}

__all__ = ["{name}"]
'''

_AS_IT_IS: Any = object()  # in the place of a dtype


def pipeline_shim(pipeline_class: type) -> str:
    """The text of pipeline.py where jog3r is installed."""
    return _SHIM.format(module=pipeline_class.__module__, name=pipeline_class.__name__)


class Jog3rCheckpointMixin(SavingMixin):
    """`from_pretrained`, `save_pretrained` and `push_to_hub` of the pipeline; stands before `DiffusionPipeline`."""

    # weights of others may hold what their library leaves out on purpose: None checks all components, else those named
    _checked_components: tuple[str, ...] | None = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Any:
        """Load from a folder, the hub or its cache, with the arguments of `DiffusionPipeline.from_pretrained`.

        Raises:
            ValueError: no such folder; the weights of a component do not fit its config, or their file is damaged.
        """
        name = str(pretrained_model_name_or_path)
        check_model_name(name)
        folder = name if os.path.isdir(name) else cls.download(name, **kwargs)  # type: ignore[attr-defined]  # of DiffusionPipeline
        try:
            pipe: Any = super().from_pretrained(folder, **kwargs)  # type: ignore[misc]  # of DiffusionPipeline, behind this class
        except SafetensorError as error:
            raise ValueError(f"checkpoint {name!r}: a file of weights is damaged or cut off ({error})") from error
        pipe.register_to_config(_name_or_path=name)
        if all(component is None for component in pipe.components.values()):
            kind = cls.load_config(folder).get("_class_name")  # type: ignore[attr-defined]  # of DiffusionPipeline
            raise ValueError(f"checkpoint {name!r} is a {kind} and has no component of a {cls.__name__}")
        for component, module in pipe.components.items():
            checked = cls._checked_components is None or component in cls._checked_components
            if checked and isinstance(module, ModelMixin | PreTrainedModel) and component not in kwargs:
                _check_weights(component, module, Path(folder), kwargs.get("variant"))
        return pipe

    @classmethod
    def from_pipe(cls, pipeline: Any, **kwargs: Any) -> Any:
        """As diffusers, but without a `dtype` all parts keep theirs: diffusers turns them to float32, in `pipeline`, too."""
        if not kwargs.keys() & {"dtype", "torch_dtype"}:
            kwargs["dtype"] = _AS_IT_IS
        return super().from_pipe(pipeline, **kwargs)  # type: ignore[misc]  # of DiffusionPipeline

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """As diffusers."""
        return self if kwargs.get("dtype") is _AS_IT_IS else super().to(*args, **kwargs)  # type: ignore[misc]

    def card(self) -> str:
        """The model card of the pipeline."""
        return model_card(self)

    def parts(self) -> dict[str, Any]:
        """The components."""
        return dict(self.components)  # type: ignore[attr-defined]  # of DiffusionPipeline

    @classmethod
    def _dict_from_json_file(cls, *args: Any, **kwargs: Any) -> Any:
        """As diffusers; the class is this one, also where the index names the code that the folder or repository carries."""
        config: Any = super()._dict_from_json_file(*args, **kwargs)  # type: ignore[misc]  # of DiffusionPipeline
        if isinstance(config, dict) and isinstance(config.get("_class_name"), list):
            config["_class_name"] = config["_class_name"][-1]
        return config

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, with_code: bool = False, **kwargs: Any) -> None:
        """Save all components; a README.md (model card) and the custom-pipeline file are added where missing.

        Args:
            save_directory: folder, made if missing.
            *args: as diffusers.
            with_code: put the source of this package into pipeline.py and name it in the index, for machines where jog3r is not
                installed: `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`.
            **kwargs: as diffusers.

        Raises:
            ValueError: see `SavingMixin.save_pretrained`.
        """
        # diffusers does not write a component into the index that took the place of None by an assignment
        self.register_modules(**self.parts())  # type: ignore[attr-defined]  # of DiffusionPipeline
        super().save_pretrained(save_directory, *args, **kwargs)
        if with_code:
            self._add_code(Path(save_directory))
        for file_name, text in ((CARD_NAME, self.card()), ("pipeline.py", pipeline_shim(type(self)))):
            path = Path(save_directory) / file_name
            if not path.exists():
                path.write_text(text, encoding="utf-8")

    def _add_code(self, folder: Path) -> None:
        index = folder / "model_index.json"
        config = json.loads(index.read_text(encoding="utf-8"))
        config["_class_name"] = ["pipeline", type(self).__name__]
        (folder / "pipeline.py").write_text(pipeline_with_code(type(self)), encoding="utf-8")
        index.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def check_model_name(name: str) -> None:
    """Refuse what is neither a folder nor can be a repository: the hub would answer with rules for names.

    Raises:
        ValueError: see above.
    """
    if not os.path.isdir(name) and (os.path.exists(name) or name.startswith((".", "/", "~")) or name.count("/") != 1):
        raise ValueError(f"{name!r} is no folder of a pipeline (nor the name of a hub repository, owner/name)")


def _check_weights(component: str, module: ModelMixin | PreTrainedModel, folder: Path, variant: str | None) -> None:
    """Refuse missing weights (diffusers and transformers fill them with noise) and, in models of ours, left-over ones.

    A text encoder may come in a file that holds a decoder, too.
    """
    if getattr(module, "hf_quantizer", None) is not None:
        return  # quantised files hold other names on purpose
    ours = isinstance(module, ModelMixin)
    saved = _saved_names(folder / component, ours, variant)
    if not saved:
        return
    if ours:
        renamed = OrderedDict.fromkeys(saved)
        module._fix_state_dict_keys_on_load(renamed)  # diffusers' older names of attention layers, as of Stable Diffusion's VAEs
        saved = set(renamed)
    expected = module.state_dict()
    there = {expected[name].data_ptr() for name in saved & set(expected)}
    missing = {
        name for name in set(expected) - saved if ours or expected[name].data_ptr() not in there
    }  # tied ones are stored once
    left_over = saved - set(expected) if ours else set()
    complaints = [
        f"{len(names)} weights {verb}, such as {sorted(names)[0]!r}"
        for names, verb in ((missing, "are missing"), (left_over, "belong to no layer"))
        if names
    ]
    if complaints:
        raise ValueError(
            f"checkpoint {str(folder)!r}: the weights of {component!r} do not fit its config: {'; '.join(complaints)}"
        )


def _saved_names(folder: Path, ours: bool, variant: str | None) -> set[str]:
    """Names of the weights in a component's files: safetensors, and pickled ones where there are no others."""
    names: set[str] = set()
    for file in _weight_files(folder, "diffusion_pytorch_model" if ours else "model", ".safetensors", variant):
        with safe_open(file, framework="pt") as content:
            names |= set(content.keys())
    if not names:
        for file in _weight_files(folder, "diffusion_pytorch_model" if ours else "pytorch_model", ".bin", variant):
            names |= set(torch.load(file, map_location="meta", mmap=is_zipfile(file), weights_only=True))
    return names


def _weight_files(folder: Path, stem: str, suffix: str, variant: str | None) -> list[Path]:
    """The files of that kind, shards included, of that variant where it exists."""
    files = sorted(folder.glob(f"{stem}*{suffix}"))
    plain = [file for file in files if file.name.count(".") == 1]
    chosen = [file for file in files if variant is not None and file.name.split(".")[1].split("-")[0] == variant]
    return chosen or plain
