"""The module that a run trains, made of a pipeline: which blocks are tapped, which head, which weights get gradients."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from jog3r.models.dust3r_baseline import Dust3rBaseline
from jog3r.models.feature_tap import layout_of, num_blocks
from jog3r.models.pointmap_head import Pointmap3DHead
from jog3r.models.transformer_jog3r import Jog3rTransformer3DModel
from jog3r.pipelines.checks import check_size
from jog3r.pipelines.loading.any_pipeline import load_pipeline
from jog3r.pipelines.pipeline_dust3r import Dust3rPipeline
from jog3r.pipelines.pipeline_jog3r import Jog3rPipeline
from jog3r.training.config import TrainConfig
from jog3r.training.generators.build import build_generator_model, load_options, select_generator_weights
from jog3r.training.generators.model import GeneratorModel
from jog3r.training.generators.options import GENERATORS, kind_of
from jog3r.training.joint_model import ImageModel, JointModel

logger = logging.getLogger(__name__)
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out")  # the attention layers: spatial, temporal and caption
LORA_RANK = 16


def check_start(config: TrainConfig) -> None:
    """Refuse a start that is no pipeline folder, with the command that makes one.

    Raises:
        ValueError: there is no such folder.
    """
    if not Path(config.init_from).is_dir() and config.model not in GENERATORS:  # those may lie on the hub
        kind = "dust3r" if config.model == "dust3r" else "opensora"
        raise ValueError(
            f"init_from={config.init_from!r} is no pipeline folder: name one with --init_from, or make it of original weights "
            f"with `jog3r convert {kind} CHECKPOINT --out {config.init_from}` (docs/checkpoints.md); of a repository of the hub "
            f"say what it is: model={', '.join(GENERATORS)}"
        )


def load_start(config: TrainConfig) -> Any:
    """The pipeline that a run starts from."""
    return load_pipeline(config.init_from, **(load_options(config) if config.model in GENERATORS else {}))


def build_model(pipeline: Any, config: TrainConfig) -> JointModel | ImageModel | GeneratorModel:
    """The module that is trained: a generator with its head, or the DUSt3R baseline. Changes the pipeline as configured.

    Raises:
        ValueError: the pipeline is not of the kind that the configuration is for, or has not what is to be trained.
    """
    _check_kind(pipeline, config)
    if isinstance(pipeline, Dust3rPipeline):
        return build_image_model(pipeline.baseline, config)
    if not isinstance(pipeline, Jog3rPipeline):
        return finish_generator(build_generator_model(pipeline, config), config)
    embeds = config.embeds_captions or "videos" in {entry.place.data for entry in config.places("generation")}
    if config.generation_batch and embeds and None in (pipeline.text_encoder, pipeline.tokenizer):
        raise ValueError(
            f"init_from={config.init_from!r} has no text encoder or no tokenizer to embed captions with: add them, train on a "
            "cache, or set generation_batch=0"
        )
    pipeline.vae.requires_grad_(False).eval()
    # T5-XXL is six times the rest: with a cache of captions it stays off the training's device
    text_encoder = pipeline.text_encoder if config.embeds_captions else None
    joint = build_joint_model(pipeline.transformer, pipeline.pointmap_head, text_encoder, pipeline.scheduler, config)
    pipeline.register_modules(pointmap_head=joint.pointmap_head)
    return joint


def build_joint_model(
    transformer: Jog3rTransformer3DModel, head: Pointmap3DHead | None, text_encoder: Any, scheduler: Any, config: TrainConfig
) -> JointModel:
    """Generator and head with the configured taps, attention, LoRA layers and ways to compute; changes what it is given.

    Raises:
        ValueError: as `add_lora`, or LoRA on other taps than those of the transformer.
    """
    if config.feature_layers is not None:
        if config.trainable == "lora" and list(config.feature_layers) != transformer.feature_layers:
            raise ValueError(
                f"LoRA files do not hold taps: {config.init_from!r} taps blocks {transformer.feature_layers}, got "
                f"feature_layers={list(config.feature_layers)}; set_feature_layers and save it first"
            )
        keeps_head = head is not None and head.config.trained and not config.reconstruction_batch
        if keeps_head and list(config.feature_layers) != transformer.feature_layers:
            raise ValueError(
                f"the 3D head of {config.init_from!r} reads blocks {transformer.feature_layers}, and reconstruction_batch=0 does "
                f"not train it for feature_layers={list(config.feature_layers)}"
            )
        transformer.set_feature_layers(config.feature_layers)
    if head is not None and config.head_attention not in (None, head.config.attention):
        logger.info("the head starts fresh, as its attention becomes %s", config.head_attention)
        head = Pointmap3DHead.from_config(head.config, attention=config.head_attention, trained=False)
    if head is not None and config.reconstruction_batch:
        head.register_to_config(trained=True)  # whatever is sampled or saved from here on has had steps of this run
    if config.trainable == "lora":
        add_lora(transformer, config)
    for part in (transformer, head):
        if part is not None:
            set_computation(part, config)
    return JointModel(transformer, head, text_encoder, scheduler)


def finish_generator(joint: GeneratorModel, config: TrainConfig) -> GeneratorModel:
    """LoRA layers, in float32 beside weights of any type, and the configured ways to compute."""
    if config.trainable == "lora":
        head = joint.pointmap_head
        add_lora(joint.transformer, config, None if head is None else head.config.feature_layers[-1])
        for name, parameter in joint.transformer.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.float()
    for part in (joint.transformer, joint.pointmap_head):
        if part is not None:
            set_computation(part, config)
    return joint


def build_image_model(baseline: Dust3rBaseline, config: TrainConfig) -> ImageModel:
    """The DUSt3R baseline with the configured ways to compute."""
    set_computation(baseline, config)
    return ImageModel(baseline)


def set_computation(part: Any, config: TrainConfig) -> None:
    """Checkpointing, attention backend and compilation of one model."""
    if config.gradient_checkpointing:  # nothing in a block is random: no states of generators to keep for computing it again
        part.enable_gradient_checkpointing(partial(checkpoint, use_reentrant=False, preserve_rng_state=False))
    if config.attention_backend is not None:
        part.set_attention_backend(config.attention_backend)
    if config.attention_backend == "_native_math":  # else it computes in float32, whatever the inputs
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    if config.compile_backend is not None:
        _check_compile_backend(config.compile_backend)
        # block by block: one is compiled, all others of its kind reuse it
        part.compile_repeated_blocks(backend=config.compile_backend)


def _check_compile_backend(name: str) -> None:
    known = torch._dynamo.list_backends(exclude_tags=())  # those for looking into failures, such as eager, too
    if name not in known:
        raise ValueError(f"compile_backend must be one of {', '.join(known)}, got {name!r}")


def _check_kind(pipeline: Any, config: TrainConfig) -> None:
    kind = kind_of(pipeline)
    if config.model not in (None, kind):
        raise ValueError(f"{config.init_from!r} is a {type(pipeline).__name__}: set model={kind}, got model={config.model}")
    if kind not in GENERATORS:
        check_size(config.height, config.width, pipeline.token_size)
    looked_at = config.reconstruction_batch and (config.validate_every or config.sample_every)
    if looked_at and kind not in GENERATORS and config.num_frames > pipeline.max_video_frames:
        raise ValueError(
            f"{config.init_from!r} finds cameras in at most {pipeline.max_video_frames} frames, got "
            f"num_frames={config.num_frames}: set sample_every=0 and validate_every=0, or take fewer"
        )
    if kind == "jog3r" and config.reconstruction_batch and pipeline.pointmap_head is None:
        raise ValueError(f"{config.init_from!r} has no pointmap_head to train: add one, or set reconstruction_batch=0")
    if kind == "jog3r" and config.reconstruction_batch:
        last = pipeline.scheduler.config.num_train_timesteps - 1
        if config.max_reconstruction_timestep > last:
            raise ValueError(
                f"max_reconstruction_timestep must be at most {last}, the last time step of the scheduler in "
                f"{config.init_from!r}, got {config.max_reconstruction_timestep}"
            )


def reached_blocks(transformer: Any, config: TrainConfig, last_tap: int | None = None) -> int:
    """How many blocks get gradients: all, or, where nothing is generated, those up to the last tap (None: the transformer's)."""
    if config.generation_batch:
        return num_blocks(transformer)
    return int(transformer.config.feature_layer if last_tap is None else last_tap)


def add_lora(transformer: Any, config: TrainConfig, last_tap: int | None = None) -> None:
    """Give the linear layers that `config.lora_targets` names, in the blocks that get gradients, LoRA layers (arXiv 2106.09685).

    Raises:
        ValueError: without the package peft, or a target that no layer has.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ValueError("LoRA needs the package peft: pip install '.[train]' in the checkout of jog3r") from error
    rank = LORA_RANK if config.lora_rank is None else config.lora_rank
    alpha = rank if config.lora_alpha is None else config.lora_alpha
    names = lora_layers(transformer, config.lora_targets or _lora_targets(transformer), config, last_tap)
    transformer.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=names))


def _lora_targets(transformer: Any) -> tuple[str, ...]:
    """All attention; diffusers' own classes have a list of two modules for what comes out of it."""
    return LORA_TARGETS if isinstance(transformer, Jog3rTransformer3DModel) else (*LORA_TARGETS[:-1], f"{LORA_TARGETS[-1]}.0")


def lora_layers(transformer: Any, targets: Sequence[str], config: TrainConfig, last_tap: int | None = None) -> list[str]:
    """Names of the linear layers that end in one of `targets`, such as "to_q" or "temporal_attn.to_q"."""
    blocks = layout_of(transformer).blocks[-1]
    linear = [
        f"{blocks}.{index}.{name}"
        for index, block in enumerate(getattr(transformer, blocks)[: reached_blocks(transformer, config, last_tap)])
        for name, module in block.named_modules()
        if isinstance(module, nn.Linear)
    ]
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in linear):
            known = sorted({name.split(".", 2)[2] for name in linear})
            raise ValueError(f"lora_targets: no linear layer of a block is called {target!r}; there are {', '.join(known)}")
    return [name for name in linear if any(f".{name}".endswith(f".{target}") for target in targets)]


def select_trainable(joint: JointModel | ImageModel | GeneratorModel, config: TrainConfig) -> list[tuple[str, nn.Parameter]]:
    """Freeze what the configuration freezes and what gets no gradient; return the trained parameters by name.

    `temporal` is the paper's choice: the temporal attention of all blocks but the first `frozen_blocks`, and the head. The
    weights of a fusion of several tapped blocks belong to the head's side: trained with it, but for LoRA.

    Raises:
        ValueError: that leaves nothing to train.
    """
    if isinstance(joint, ImageModel):
        return list(joint.named_parameters())
    trained = select_generator_weights(joint, config) if isinstance(joint, GeneratorModel) else _select_weights(joint, config)
    _check_not_empty(trained, num_blocks(joint.transformer), config)
    return trained


def _select_weights(joint: JointModel, config: TrainConfig) -> list[tuple[str, nn.Parameter]]:
    transformer = joint.transformer
    joint.requires_grad_(False)
    if joint.text_encoder is not None:
        joint.text_encoder.requires_grad_(config.train_text_encoder)
    if joint.pointmap_head is not None:
        joint.pointmap_head.requires_grad_(config.reconstruction_batch > 0)
    blocks = transformer.transformer_blocks[: reached_blocks(transformer, config)]
    if config.trainable == "all":
        transformer.requires_grad_(True)
        for block in transformer.transformer_blocks[len(blocks) :]:
            block.requires_grad_(False)
        if not config.generation_batch:
            transformer.proj_out.requires_grad_(False)
            transformer.scale_shift_table.requires_grad_(False)
    elif config.trainable == "temporal":
        for block in blocks[config.frozen_blocks :]:
            block.temporal_attn.requires_grad_(True)
    elif config.trainable == "lora":
        for name, parameter in transformer.named_parameters():
            parameter.requires_grad_("lora_" in name)
    if transformer.feature_weights is not None:
        transformer.feature_weights.requires_grad_(config.reconstruction_batch > 0 and config.trainable != "lora")
    return [(name, parameter) for name, parameter in joint.named_parameters() if parameter.requires_grad]


def _check_not_empty(trained: list[tuple[str, nn.Parameter]], num_blocks: int, config: TrainConfig) -> None:
    if trained:
        return
    shown = {"temporal": f", frozen_blocks={config.frozen_blocks}", "lora": f", lora_targets={config.lora_targets}"}
    raise ValueError(
        f"nothing is left to train: trainable={config.trainable}{shown.get(config.trainable, '')} with "
        f"reconstruction_batch={config.reconstruction_batch}; the transformer of {config.init_from!r} has {num_blocks} blocks"
    )
