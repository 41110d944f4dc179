"""Configurations: one dataclass a script, a yaml recipe, and `--option value` overrides; what is unknown is refused."""

import dataclasses
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

Config = TypeVar("Config")


def load_config(cls: type[Config], arguments: Sequence[str]) -> Config:
    """Build the dataclass `cls` from command-line words `--config FILE --option value ...`.

    Options override the file, the file overrides the defaults. Words for values are read as yaml (`3e-4`, `true`, `[1, 2]`).

    Raises:
        ValueError: unknown option, missing value, value of another type, or a combination that `cls` refuses.
    """
    import yaml

    overrides = _pair_words(arguments)
    values: dict[str, Any] = {}
    recipe = overrides.pop("config", None)
    if recipe is not None:
        path = Path(recipe)
        if not path.is_file():
            raise ValueError(f"recipe {recipe!r} does not exist")
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        if not isinstance(values, dict):
            raise ValueError(f"recipe {recipe!r} must be a yaml mapping of options, got {type(values).__name__}")
    values |= {name: yaml.safe_load(word) for name, word in overrides.items()}
    return from_mapping(cls, values)


def from_mapping(cls: type[Config], values: dict[str, Any]) -> Config:
    """Build the dataclass `cls` from a mapping, refusing unknown names and wrong types."""
    types_by_name = typing.get_type_hints(cls)
    known = {entry.name for entry in dataclasses.fields(cls)}  # type: ignore[arg-type]  # cls is a dataclass
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"unknown option {', '.join(unknown)}; {cls.__name__} knows {', '.join(sorted(known))}")
    missing = [
        entry.name
        for entry in dataclasses.fields(cls)  # type: ignore[arg-type]
        if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING and entry.name not in values
    ]
    if missing:
        raise ValueError(f"option {', '.join(missing)} must be given")
    return cls(**{name: _convert(name, value, types_by_name[name]) for name, value in values.items()})


def _pair_words(arguments: Sequence[str]) -> dict[str, str]:
    """["--a", "1", "--b=2"] -> {"a": "1", "b": "2"}."""
    words, pairs = list(arguments), {}
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise ValueError(f"expected an option like --name, got {word!r}")
        name, equals, value = word[2:].partition("=")
        if not equals:
            if not words or words[0].startswith("--"):
                raise ValueError(f"option --{name} needs a value")
            value = words.pop(0)
        if name in pairs:
            raise ValueError(f"option --{name} is given twice")
        pairs[name.replace("-", "_") if name != "config" else name] = value
    return pairs


def _convert(name: str, value: Any, wanted: Any) -> Any:
    """Check `value` against the annotation `wanted`; integers may stand for floats, lists for tuples."""
    options = (
        typing.get_args(wanted) if isinstance(wanted, types.UnionType) or typing.get_origin(wanted) is typing.Union else (wanted,)
    )
    for option in options:
        origin = typing.get_origin(option) or option
        if origin is type(None) and value is None:
            return None
        if origin is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        if origin is float and isinstance(value, str):  # yaml 1.1 reads 3e-4 as a word
            try:
                return float(value)
            except ValueError:
                continue
        if origin is tuple and isinstance(value, (list, tuple)):
            return tuple(_convert(name, item, typing.get_args(option)[0]) for item in value)
        if origin is typing.Literal:
            if value in typing.get_args(option):
                return value
            raise ValueError(f"option {name} must be one of {typing.get_args(option)}, got {value!r}")
        if origin is int and isinstance(value, bool):
            continue
        if isinstance(origin, type) and isinstance(value, origin):
            return value
    raise ValueError(f"option {name} must be {wanted}, got {value!r} ({type(value).__name__})")


@dataclasses.dataclass
class TrainConfig:
    """Options of `train_joint.py`.

    The reconstruction half of a step is switched on by `reconstruction_batch` > 0, the generation half by `generation_batch` > 0.
    """

    init_from: str  # pipeline folder to start from
    output_dir: str
    # what is trained
    trainable: Literal["all", "temporal", "none"] = "all"  # of the transformer; temporal is the paper's choice
    frozen_blocks: int = 4  # with trainable=temporal: the first blocks stay as they are
    train_text_encoder: bool = False
    # data
    data: Literal["procedural", "cache"] = "procedural"
    cache_dir: str | None = None  # with data=cache: a folder that `jog3r prepare` filled
    edge_threshold: float | None = 0.1  # with data=cache: relative depth step beside which depth is not believed
    agreement_threshold: float | None = None  # with data=cache: relative disagreement with other frames
    num_frames: int = 16
    height: int = 64
    width: int = 64
    generation_batch: int = 4  # clips per process and step
    reconstruction_batch: int = 4
    pairs_per_clip: int = 4
    first_clip: int = 0  # where in the stream of scenes this run starts
    num_workers: int = 1
    # losses
    reconstruction_weight: float = 1.0  # lambda
    reconstruction_warmup_steps: int = 0  # lambda rises linearly from 0
    confidence_alpha: float = 0.2
    caption_dropout: float = 0.1
    max_reconstruction_timestep: int = 100  # of num_train_timesteps
    variational_bound: bool = False  # trains a learned variance
    # optimisation
    num_steps: int = 1000
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-4
    matrix_learning_rate: float = 0.01  # of the matrices, with optimizer=muon
    weight_decay: float = 0.0
    warmup_steps: int = 100
    decay_fraction: float = 0.0  # share of the steps, at the end, over which the learning rate falls to zero
    max_grad_norm: float = 1.0
    gradient_accumulation_steps: int = 1
    gradient_checkpointing: bool = False
    mixed_precision: Literal["no", "bf16"] = "no"
    ema_decay: float = 0.999
    seed: int = 0
    num_threads: int | None = None  # of torch, on a CPU
    # keeping and watching
    resume: Literal["auto", "never"] = "auto"
    checkpoint_every: int = 200
    keep_checkpoints: int = 2
    sample_every: int = 500
    sample_steps: int = 20
    tracker: Literal["tensorboard", "none"] = "tensorboard"
    stop_after_minutes: float | None = None  # checkpoint and stop then; the same command resumes

    def __post_init__(self) -> None:
        if self.generation_batch < 0 or self.reconstruction_batch < 0 or self.generation_batch + self.reconstruction_batch == 0:
            raise ValueError(
                "generation_batch and reconstruction_batch must be >= 0 and not both 0, got "
                f"{self.generation_batch} and {self.reconstruction_batch}"
            )
        if self.reconstruction_batch and self.num_frames < 2:
            raise ValueError(f"reconstruction needs pairs of frames: num_frames={self.num_frames} with reconstruction_batch > 0")
        if self.reconstruction_batch and self.pairs_per_clip < 1:
            raise ValueError(f"pairs_per_clip must be at least 1, got {self.pairs_per_clip}")
        if (self.data == "cache") != (self.cache_dir is not None):
            raise ValueError(f"data=cache and cache_dir belong together, got data={self.data} and cache_dir={self.cache_dir!r}")
        if not 0 <= self.caption_dropout <= 1 or not 0 <= self.decay_fraction <= 1:
            raise ValueError("caption_dropout and decay_fraction are shares between 0 and 1")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {self.ema_decay}")
        if self.trainable == "none" and not self.reconstruction_batch:
            raise ValueError("trainable=none trains the 3D head alone: set reconstruction_batch > 0")
        for name in ("num_steps", "num_frames", "checkpoint_every", "keep_checkpoints", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
