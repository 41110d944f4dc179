"""The model of a run on a generator of diffusers: loaded as it is trained, with its head, LoRA layers and trained weights."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from jog3r.models.feature_tap import layout_of, num_blocks
from jog3r.models.pointmap_head import Pointmap3DHead
from jog3r.pipelines.generators.fit import check_fit, check_frames
from jog3r.pipelines.reconstruction import num_train_timesteps
from jog3r.training.config import TrainConfig
from jog3r.training.generators.model import GeneratorModel
from jog3r.training.preparation.component_files import load_text_models

__all__ = ["build_generator_model", "load_options", "load_types", "prepare_generator", "select_generator_weights"]

logger = logging.getLogger(__name__)
_BEHIND = ("norm_final", "norm_out", "proj_out", "scale_shift_table")  # of a transformer: what stands behind its blocks


def load_types(config: TrainConfig) -> dict[str, torch.dtype]:
    """Types of weights: where the run computes in bf16, a transformer that stays as it is has it, too; all else is float32."""
    frozen = config.mixed_precision == "bf16" and config.trainable in ("none", "lora")
    transformers = dict.fromkeys(("transformer", "transformer_2"), torch.bfloat16 if frozen else torch.float32)
    return {**transformers, "default": torch.float32}


def load_options(config: TrainConfig) -> dict[str, Any]:
    """How `load_pipeline` reads a generator: the text encoder as it was saved, since caches know it by its weights."""
    options: dict[str, Any] = {"dtype": load_types(config)}
    place = Path(config.init_from)
    if place.is_dir() and not ((place / "text_encoder").is_dir() and (place / "tokenizer").is_dir()):
        return options
    tokenizer, encoder = load_text_models(config.init_from)
    return options | {"tokenizer": tokenizer, "text_encoder": encoder}


def build_generator_model(pipeline: Any, config: TrainConfig) -> GeneratorModel:
    """The module that is trained, with the empty caption embedded. Gives the pipeline its head, and LoRA layers as configured.

    Raises:
        ValueError: a generator, a head or sizes that cannot be trained so; no text encoder.
    """
    for name in ("text_encoder", "tokenizer"):
        if getattr(pipeline, name) is None:
            raise ValueError(
                f"init_from={config.init_from!r} has no {name}, which embeds the captions, the empty one of videos too"
            )
    prepare_generator(pipeline, config)
    pipeline.vae.requires_grad_(False).eval()
    pipeline.text_encoder.requires_grad_(False).eval()
    with torch.no_grad():
        empty = pipeline.caption_of_videos()
    return GeneratorModel(pipeline, empty, read_transformer(pipeline, config))


def prepare_generator(pipeline: Any, config: TrainConfig) -> None:
    """Head and LoRA layers as configured; neither VAE nor text encoder is read.

    Raises:
        ValueError: as `build_generator_model`.
    """
    read_transformer(pipeline, config)
    check_frames(pipeline, config.num_frames, config.height, config.width)
    head = head_of(pipeline, config) if config.reconstruction_batch else pipeline.pointmap_head
    pipeline.register_modules(pointmap_head=head)


def read_transformer(pipeline: Any, config: TrainConfig) -> Any:
    """The transformer that is trained or read: of two, one for each part of the schedule, that of the head's time steps.

    Raises:
        ValueError: two of them with anything but a head on one, frozen; or none for the noisy part.
    """
    if pipeline.transformer is None:
        raise ValueError(f"{config.init_from!r} has no transformer for the noisy part of the schedule, which training needs")
    if getattr(pipeline, "transformer_2", None) is None:
        return pipeline.transformer
    if config.trainable != "none" or config.generation_batch:
        raise ValueError(
            f"{config.init_from!r} has two transformers, one for each part of the schedule, and what is generated needs both: "
            "the head alone is trained on one of them, with trainable=none and generation_batch=0; generators with one, such as "
            "Wan 2.1 and the 5B of Wan 2.2, are trained with all options"
        )
    bounds = (config.min_reconstruction_timestep, config.max_reconstruction_timestep)
    lowest, highest = (pipeline._transformer_at(step) for step in bounds)
    if lowest is not highest:
        boundary = pipeline.config.boundary_ratio * num_train_timesteps(pipeline.scheduler)
        raise ValueError(
            f"the two transformers of {config.init_from!r} take turns at time step {boundary:g}, and a head reads one: set "
            "min_reconstruction_timestep and max_reconstruction_timestep both below it, or neither, got "
            f"{bounds[0]} and {bounds[1]}"
        )
    return highest


# The head


def head_of(pipeline: Any, config: TrainConfig) -> Pointmap3DHead:
    """The head that is trained: the folder's own, one that `head_from` warms up, or a fresh one; marked as trained.

    Raises:
        ValueError: `head_from` is no head, or the folder's belongs to another generator.
    """
    given = {"attention": config.head_attention, "hidden_dim": config.head_width, "num_layers": config.head_layers}
    settings = {name: value for name, value in given.items() if value is not None}
    if config.head_width is not None:
        settings["num_attention_heads"] = max(1, config.head_width // 64)
    if config.head_noise_embedding:
        settings["noise_embedding"] = True
    own = pipeline.pointmap_head
    if config.head_from is not None:
        head = warm_head(pipeline, config, settings)
    elif own is None:
        head = new_head(pipeline, config, settings)
    elif changed := _differences(own, config, settings):
        logger.info("the head starts fresh, as %s", "; ".join(changed))
        head = new_head(pipeline, config, settings)
    else:
        head = own
    count = num_train_timesteps(pipeline.scheduler)
    bounds = (config.min_reconstruction_timestep / count, config.max_reconstruction_timestep / count)
    check_fit(pipeline, head)
    head.register_to_config(trained=True, noise_range=bounds, generator=type(pipeline.transformer).__name__)
    return head


def new_head(pipeline: Any, config: TrainConfig, settings: dict[str, Any]) -> Pointmap3DHead:
    """A fresh head that fits the generator."""
    layers = None if config.feature_layers is None else list(config.feature_layers)
    if layers is not None and layers[-1] > num_blocks(pipeline.transformer):
        raise ValueError(
            f"feature_layers count blocks from 1 to {num_blocks(pipeline.transformer)}, what the transformer of "
            f"{config.init_from!r} has, got {layers}"
        )
    return pipeline.new_head(layers, **settings)


def warm_head(pipeline: Any, config: TrainConfig, settings: dict[str, Any]) -> Pointmap3DHead:
    """A head whose weights are those of another one, or of a DUSt3R checkpoint, wherever the shapes are equal.

    Raises:
        ValueError: `head_from` is neither a head's folder nor a file, or gives no weight at all.
    """
    place = Path(str(config.head_from))
    if place.is_file():
        fitting = new_head(pipeline, config, {"hidden_dim": 64, "num_layers": 1, "num_attention_heads": 1}).config
        sizes = {name: fitting[name] for name in ("feature_dim", "frames_per_step", "feature_layers")}
        return Pointmap3DHead.from_single_file(str(place), feature_norm=True, **sizes, **settings)
    folder = place / "pointmap_head" if (place / "pointmap_head").is_dir() else place
    if not (folder / "config.json").is_file():
        raise ValueError(f"head_from={config.head_from!r} is no folder of a head or a pipeline, and no DUSt3R checkpoint")
    source = Pointmap3DHead.from_pretrained(folder)
    names = ("hidden_dim", "num_layers", "num_attention_heads", "attention", "mlp_ratio", "rotary_base", "noise_embedding")
    head = new_head(pipeline, config, {name: source.config[name] for name in names} | settings)
    weights = head.state_dict()
    taken = {name: value for name, value in source.state_dict().items() if name in weights and weights[name].shape == value.shape}
    if not taken:
        raise ValueError(
            f"no weight of head_from={config.head_from!r} fits the head of this run: leave out head_width and the like"
        )
    head.load_state_dict(weights | taken)
    fresh = sorted({name.split(".")[0] for name in weights if name not in taken})
    logger.info("%d of %d weights of the head are those of %s; fresh: %s", len(taken), len(weights), place.name, fresh or "none")
    return head


def _differences(own: Pointmap3DHead, config: TrainConfig, settings: dict[str, Any]) -> list[str]:
    """What the configuration asks of a head that the folder's own is not."""
    wanted = {name: value for name, value in settings.items() if name != "num_attention_heads"}
    if config.feature_layers is not None:
        wanted["feature_layers"] = list(config.feature_layers)
    return [f"{name} becomes {value}" for name, value in wanted.items() if own.config[name] != value]


# What is trained


def reached_blocks(joint: GeneratorModel, config: TrainConfig) -> int:
    """How many blocks get gradients: all, or those up to the last tap where nothing is generated."""
    if config.generation_batch:
        return num_blocks(joint.transformer)
    return int(joint.pointmap_head.config.feature_layers[-1])


def select_generator_weights(joint: GeneratorModel, config: TrainConfig) -> list[tuple[str, nn.Parameter]]:
    """Freeze what the configuration freezes and what gets no gradient; the trained parameters by name, perhaps none.

    Raises:
        ValueError: a part of `trained_parameters` that no parameter's name has.
    """
    transformer = joint.transformer
    joint.requires_grad_(False)
    if joint.pointmap_head is not None:
        joint.pointmap_head.requires_grad_(config.reconstruction_batch > 0)
    if config.trainable != "none":
        behind = _behind_the_last_tap(joint, config)
        parts = {"all": ("",), "lora": ("lora_",)}.get(config.trainable, config.trained_parameters or ())
        names = [name for name, _ in transformer.named_parameters()]
        if missing := [part for part in parts if not any(part in name for name in names)]:
            raise ValueError(
                f"trained_parameters: no parameter of {type(transformer).__name__} is called like {', '.join(missing)}"
            )
        for name, parameter in transformer.named_parameters():
            parameter.requires_grad_(any(part in name for part in parts) and not name.startswith(behind))
    return [(name, parameter) for name, parameter in joint.named_parameters() if parameter.requires_grad]


def _behind_the_last_tap(joint: GeneratorModel, config: TrainConfig) -> tuple[str, ...]:
    """Beginnings of names that no gradient reaches."""
    if config.generation_batch:
        return ()
    blocks = layout_of(joint.transformer).blocks[-1]
    count, reached = num_blocks(joint.transformer), reached_blocks(joint, config)
    return (*_BEHIND, *(f"{blocks}.{index}." for index in range(reached, count)))
