"""Which model a run trains, told by its folder, and which options mean something to it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from jog3r.data.option_checks import check_options_of
from jog3r.pipelines.loading.any_pipeline import PIPELINES

__all__ = [
    "GENERATORS", "TRANSFORMERS", "check_model_options", "class_of", "generator_of_transformer", "kind_of", "recognise",
]  # fmt: skip

TRANSFORMERS = {  # of the generators of diffusers that can be trained
    "wan": "WanTransformer3DModel",
    "cogvideox": "CogVideoXTransformer3DModel",
    "ltx": "LTXVideoTransformer3DModel",
}
GENERATORS = tuple(TRANSFORMERS)
_KINDS = {  # class of the pipeline -> the option model
    "Jog3rPipeline": "jog3r",
    "Dust3rPipeline": "dust3r",
    "Jog3rWanPipeline": "wan",
    "Jog3rCogVideoXPipeline": "cogvideox",
    "Jog3rLTXPipeline": "ltx",
}
_OF_A_HEAD = ("head_from", "head_width", "head_layers", "head_noise_embedding", "min_reconstruction_timestep")
_OF_GENERATORS = (*_OF_A_HEAD, "trained_parameters")
MODEL_OPTIONS = {  # what each model takes; to the others the option would mean nothing, so it is refused
    "jog3r": ("frozen_blocks", "variational_bound"),
    "dust3r": (),
    "wan": (*_OF_GENERATORS, "timestep_sampling"),
    "cogvideox": _OF_GENERATORS,
    "ltx": (*_OF_GENERATORS, "timestep_sampling"),
}


def class_of(kind: str) -> str:
    """The class of the pipeline that the option `model` names."""
    return next(name for name, one in _KINDS.items() if one == kind)


def generator_of_transformer(name: str | None) -> str | None:
    """The option `model` for a transformer's class; None for those that are not of `GENERATORS`."""
    return next((kind for kind, one in TRANSFORMERS.items() if one == name), None)


def kind_of(pipeline: Any) -> str:
    """The option `model` for a pipeline."""
    return _KINDS[type(pipeline).__name__]


def recognise(config: Any) -> Any:
    """The configuration with its `model`: the one given, else what the folder `init_from` says, else jog3r.

    Raises:
        ValueError: the folder holds another pipeline than ours, or the model has no use for an option.
    """
    if config.model is not None:
        return config
    index = Path(config.init_from) / "model_index.json"
    kind = "jog3r"
    if index.is_file():
        name = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
        name = name[-1] if isinstance(name, list) else name
        if name not in PIPELINES:
            raise ValueError(f"init_from={config.init_from!r} is a {name}; training takes {', '.join(PIPELINES)}")
        kind = _KINDS[PIPELINES[name][0]]
    return dataclasses.replace(config, model=kind)


def check_model_options(config: Any) -> None:
    """Refuse options that mean nothing to `config.model`, once it is known.

    Raises:
        ValueError: naming the option.
    """
    named = config.trained_parameters is not None
    if named != (config.trainable == "named"):
        raise ValueError(
            f"trainable=named and trained_parameters belong together, got trainable={config.trainable} and "
            f"trained_parameters={config.trained_parameters}"
        )
    if config.min_reconstruction_timestep > config.max_reconstruction_timestep:
        raise ValueError(
            "min_reconstruction_timestep must not be above max_reconstruction_timestep, got "
            f"{config.min_reconstruction_timestep} and {config.max_reconstruction_timestep}"
        )
    if config.model is None:
        return
    check_options_of(config, "model", MODEL_OPTIONS)
    if config.model not in GENERATORS:
        return
    if config.trainable == "temporal":
        raise ValueError(
            f"the blocks of model={config.model} have no temporal attention of their own: name what to train with "
            "trainable=named and trained_parameters, or take trainable=lora"
        )
    if config.gradient_checkpointing and config.compile_backend is not None and config.reconstruction_batch:
        raise ValueError(
            f"the reconstruction half of model={config.model} reads its blocks uncompiled, and to compute them again for "
            "gradients would run the compiled ones: leave gradient_checkpointing or compile_backend out"
        )
    if config.train_text_encoder:
        raise ValueError(f"captions of model={config.model} are embedded once, at the start: set train_text_encoder=false")
    if config.head_from is not None and (config.head_width is not None or config.head_attention is not None):
        raise ValueError("head_width and head_attention are of a fresh head; that of head_from keeps its own: leave them out")
    if not config.reconstruction_batch and (given := [name for name in _OF_A_HEAD if getattr(config, name)]):
        raise ValueError(f"{', '.join(given)} belongs to the 3D head, which reconstruction_batch=0 does not train")
