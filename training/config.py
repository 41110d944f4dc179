"""Configurations: one dataclass a script, a yaml recipe, and `--option value` overrides; what is unknown is refused."""

import dataclasses
import sys
import typing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from jog3r.data.option_checks import check_least, from_mapping
from jog3r.training.clips.data_place import HALVES, DataPlace, WeightedPlace, named_errors, read_places
from jog3r.training.generators.options import GENERATORS, check_model_options
from jog3r.training.option_help import describe_options

Config = TypeVar("Config")
LEAST_VALUES = {  # of the options of `TrainConfig` that count or weigh something
    1: (
        "num_steps", "num_frames", "height", "width", "checkpoint_every", "keep_checkpoints", "gradient_accumulation_steps",
        "sample_steps", "num_threads", "head_width", "head_layers", "validation_clips",
    ),
    0: (
        "seed", "num_workers", "loader_timeout", "sample_every", "validate_every", "max_grad_norm", "frozen_blocks",
        "min_reconstruction_timestep", "max_reconstruction_timestep", "reconstruction_weight", "reconstruction_warmup_steps",
        "confidence_alpha", "learning_rate", "matrix_learning_rate", "weight_decay", "warmup_steps", "stop_after_minutes",
    ),
}  # fmt: skip
_NOTHING = ("", "~", "null", "Null", "NULL")  # as yaml writes None


def load_config(cls: type[Config], arguments: Sequence[str]) -> Config:
    """Build the dataclass `cls` from command-line words `--config FILE --option value ...`.

    Options override the file, the file overrides the one that its `base` names, and that the defaults. Words for values are
    read as yaml (`3e-4`, `true`, `[1, 2]`), those of options that are texts as they stand. An option of `cls.IMPLIED` brings
    others along where these are not given, too. `--help` prints all options and ends the process.

    Raises:
        ValueError: unknown option, missing value, value of another type, no yaml, or a combination that `cls` refuses.
    """
    if {"--help", "-h"} & {*arguments}:
        sys.stdout.write(describe_options(cls))
        raise SystemExit(0)
    overrides = _pair_words(arguments)
    recipe = overrides.pop("config", None)
    values = {} if recipe is None else _read_recipe(Path(recipe))
    for name, implied in getattr(cls, "IMPLIED", {}).items():
        if name in overrides:
            values |= implied
    hints = typing.get_type_hints(cls)
    values |= {name: _read_word(name, word, hints.get(name)) for name, word in overrides.items()}
    return from_mapping(cls, values)


def recipe_of(arguments: Sequence[str]) -> str | None:
    """The file that `--config` names in the words of a command line, None without."""
    return _pair_words(arguments).get("config")


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Context of a script's work: a user's mistake, or a file that is not there, ends the process with one line and code 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from None


def _read_word(name: str, word: str, wanted: Any) -> Any:
    """A word of the command line as a value of an option annotated `wanted`; None is the annotation of unknown ones."""
    if wanted == str | None and word in _NOTHING:
        return None
    return word if wanted in (str, str | None, None) else _read_yaml(word, f"the value of --{name}")


def _read_yaml(text: str, place: str) -> Any:
    """`yaml.safe_load`; a `ValueError` that names `place` and the line if that is no yaml."""
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f", line {mark.line + 1}"
        raise ValueError(f"{place}{line} is no yaml: {getattr(error, 'problem', None) or error}") from error


def _read_recipe(path: Path, readers: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Options of a recipe over those of the recipe that its `base`, a path from its own folder, names."""
    if not path.is_file():
        raise ValueError(f"recipe {str(path)!r} does not exist" + (f"; {readers[-1]} names it as its base" if readers else ""))
    if path.resolve() in readers:
        raise ValueError(f"recipe {str(path)!r} is, over some others, its own base")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"recipe {str(path)!r} is no UTF-8 text: {error}") from error
    values = _read_yaml(text, f"recipe {str(path)!r}") or {}
    if not isinstance(values, dict):
        raise ValueError(f"recipe {str(path)!r} must be a yaml mapping of options, got {type(values).__name__}")
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ValueError(f"the base of recipe {str(path)!r} must be the path of another, got {base!r}")
    return _read_recipe(path.parent / base, (*readers, path.resolve())) | values


def _pair_words(arguments: Sequence[str]) -> dict[str, str]:
    """["--a", "1", "--b=2"] -> {"a": "1", "b": "2"}."""
    words, pairs = list(arguments), {}
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise ValueError(f"expected an option like --name, got {word!r}")
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_")
        if not equals:
            if not words or words[0].startswith("--"):
                raise ValueError(f"option --{name} needs a value")
            value = words.pop(0)
        if name in pairs:
            raise ValueError(f"option --{name} is given twice")
        pairs[name] = value
    return pairs


@dataclasses.dataclass(kw_only=True)
class TrainConfig(DataPlace):
    """Options of `train_joint.py`.

    The reconstruction half of a step is switched on by `reconstruction_batch` > 0, the generation half by `generation_batch` > 0.
    """

    # given on the command line, these set others that are not
    IMPLIED: ClassVar[dict[str, dict[str, Any]]] = {"lora_rank": {"trainable": "lora", "train_text_encoder": False}}

    init_from: str  # pipeline folder to start from
    output_dir: str  # folder of the run; one with checkpoints is gone on with
    model: Literal["jog3r", "dust3r", "wan", "cogvideox", "ltx"] | None = None  # what init_from holds; None: as its index says
    # what is trained
    trainable: Literal["all", "temporal", "lora", "named", "none"] = "all"  # of the transformer; temporal is the paper's choice
    trained_parameters: tuple[str, ...] | None = None  # with trainable=named: parts of the names of what is trained
    frozen_blocks: int = 4  # with trainable=temporal: the first blocks stay as they are
    lora_rank: int | None = None  # with trainable=lora: None is 16; `--lora_rank N` alone sets trainable=lora
    lora_alpha: float | None = None  # with trainable=lora: None is lora_rank, a scale of 1
    lora_targets: tuple[str, ...] | None = None  # with trainable=lora: endings of linear layers; None is all attention
    feature_layers: tuple[int, ...] | None = None  # blocks to tap, several are fused; None taps as init_from does
    head_attention: Literal["pairwise", "global"] | None = None  # another than init_from's starts a fresh head
    head_from: str | None = None  # of other generators: folder of a head, or DUSt3R checkpoint, whose weights it starts with
    head_width: int | None = None  # of a fresh head of other generators; None is 768
    head_layers: int | None = None  # likewise; None is 6
    head_noise_embedding: bool = False  # likewise: it is told the noise level at which it reads
    train_text_encoder: bool = False  # with the generation loss
    # data, beside the place that it comes from
    generation_data: str | dict[str, Any] | tuple[str | dict[str, Any], ...] | None = None  # of that half alone, instead of data
    reconstruction_data: str | dict[str, Any] | tuple[str | dict[str, Any], ...] | None = None  # likewise; see docs/data.md
    num_frames: int = 16  # of each clip
    height: int = 64  # of the clips, in pixels
    width: int = 64  # likewise
    generation_batch: int = 4  # clips per process and step
    reconstruction_batch: int = 4  # likewise
    pairs_per_clip: int = 4  # of frames that the 3D loss looks at
    num_workers: int = 1  # processes that make clips, of each training process
    loader_timeout: float = 600.0  # seconds that a step may wait for a worker (num_workers > 0); 0 waits for ever
    # losses
    reconstruction_weight: float = 1.0  # lambda
    reconstruction_warmup_steps: int = 0  # lambda rises linearly from 0
    confidence_alpha: float = 0.2  # weight of -log confidence in the 3D loss
    caption_dropout: float = 0.1  # share of generation clips that see the empty caption
    min_reconstruction_timestep: int = 0  # of other generators: with the next, where the head learns to read
    max_reconstruction_timestep: int = 100  # below the scheduler's num_train_timesteps
    timestep_sampling: Literal["logit_normal", "uniform"] | None = None  # of flow matching, before its shift; None: the first
    variational_bound: bool = False  # trains a learned variance
    # optimisation
    num_steps: int = 1000  # of the optimizer, in all
    optimizer: Literal["adamw", "adamw8bit", "muon"] = "adamw"  # muon is for the matrices of the blocks, adamw for the rest
    learning_rate: float = 1e-4  # its largest; of all but muon's matrices
    matrix_learning_rate: float = 0.01  # of the matrices, with optimizer=muon
    weight_decay: float = 0.0  # of matrices; vectors have none
    warmup_steps: int = 100  # over which the learning rates rise from 0
    decay_fraction: float = 0.0  # share of the steps, at the end, over which the learning rate falls to zero
    max_grad_norm: float = 1.0  # 0: gradients are not clipped
    gradient_accumulation_steps: int = 1  # micro-steps before one of the optimizer
    gradient_checkpointing: bool = False  # compute blocks again in the backward pass instead of keeping them
    mixed_precision: Literal["no", "bf16"] = "no"  # bf16: matrix products; weights and losses stay in float32
    compile_backend: str | None = None  # of torch.compile, such as inductor; compiles the repeated blocks; None = not
    attention_backend: Literal["native", "_native_efficient", "_native_math"] | None = None  # on a CPU in bf16 _native_math
    ema_decay: float = 0.999  # of the averaged weights, which are the result
    seed: int = 0  # of everything drawn
    num_threads: int | None = None  # of torch, on a CPU
    # keeping and watching
    resume: Literal["auto", "never"] = "auto"  # auto goes on from the newest intact checkpoint
    checkpoint_every: int = 200  # steps
    keep_checkpoints: int = 2  # how many stay
    validate_every: int = 0  # steps; 0: no clips are held out of the training data
    validation_clips: int = 8  # with validate_every: held out of the data, for each half
    keep_best: Literal["rotation", "direction", "maa", "l_gen", "l_rec"] | None = None  # of validations, by this; in best/
    sample_every: int = 500  # 0: no samples
    sample_steps: int = 20  # of the samples' denoising
    tracker: Literal["tensorboard", "wandb", "trackio", "none"] = "tensorboard"  # gets losses and pictures
    push_to_hub: bool = False  # upload the result at the end
    hub_model_id: str | None = None  # "owner/name" to upload to
    hub_private: bool = False  # make the repository private
    stop_after_minutes: float | None = None  # checkpoint and stop then; the same command resumes

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.generation_batch < 0 or self.reconstruction_batch < 0 or self.generation_batch + self.reconstruction_batch == 0:
            raise ValueError(
                "generation_batch and reconstruction_batch must be >= 0 and not both 0, got "
                f"{self.generation_batch} and {self.reconstruction_batch}"
            )
        if self.reconstruction_batch and self.num_frames < 2:
            raise ValueError(f"reconstruction needs pairs of frames: num_frames={self.num_frames} with reconstruction_batch > 0")
        if self.reconstruction_batch and self.pairs_per_clip < 1:
            raise ValueError(f"pairs_per_clip must be at least 1, got {self.pairs_per_clip}")
        for name in ("caption_dropout", "decay_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share between 0 and 1, got {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {self.ema_decay}")
        self._check_what_is_trained_and_kept()
        check_least(self, LEAST_VALUES)
        check_model_options(self)
        if self.lora_alpha is not None and self.lora_alpha <= 0:
            raise ValueError(f"lora_alpha must be above 0 (or null), got {self.lora_alpha}")
        self._check_validation()
        self._check_data()

    def places(self, half: str) -> tuple[WeightedPlace, ...]:
        """What the half "generation" or "reconstruction" reads: places of its own key, else that of `data`; none if it is off."""
        if not getattr(self, f"{half}_batch"):
            return ()
        return read_places(getattr(self, f"{half}_data"), f"{half}_data") or (WeightedPlace(Fraction(1), self),)

    @property
    def embeds_captions(self) -> bool:
        """Whether captions come as token ids and the model embeds them; else they come embedded, out of a cache or kept."""
        if self.model in GENERATORS or not self.generation_batch:
            return False
        read = [entry.place.data for entry in self.places("generation")]
        return self.train_text_encoder or "procedural" in read

    def _check_data(self) -> None:
        """Options of the data that fit each other and the halves that read it."""
        common = []
        for half in HALVES:
            option, batch = f"{half}_data", getattr(self, f"{half}_batch")
            given = getattr(self, option)
            if given is not None and not batch:
                raise ValueError(f"{option}={given} means nothing to {half}_batch=0")
            if given is None and batch:
                common.append(half)
                continue
            for entry in self.places(half):
                with named_errors(f"{option}, {entry.place.label()}"):
                    entry.place.check(captions=half == "generation", depth=half == "reconstruction")
        if common:
            self.check(captions="generation" in common, depth="reconstruction" in common)
            return
        for field in dataclasses.fields(DataPlace):
            if (value := getattr(self, field.name)) != field.default:
                raise ValueError(
                    f"{field.name}={value} is read by neither half: what they read is named by generation_data and "
                    "reconstruction_data alone"
                )

    def _check_validation(self) -> None:
        if self.keep_best is not None and not self.validate_every:
            raise ValueError(f"keep_best={self.keep_best} is found by validation: set validate_every above 0")
        half = "generation" if self.keep_best == "l_gen" else "reconstruction"
        if self.keep_best is not None and not getattr(self, f"{half}_batch"):
            raise ValueError(f"keep_best={self.keep_best} is of the {half} half, which {half}_batch=0 switches off")
        if not self.validate_every and self.validation_clips != type(self).validation_clips:
            raise ValueError(f"validation_clips={self.validation_clips} means nothing to validate_every=0")

    def _check_what_is_trained_and_kept(self) -> None:
        if self.push_to_hub != (self.hub_model_id is not None):
            raise ValueError(f"push_to_hub and hub_model_id belong together, got {self.push_to_hub} and {self.hub_model_id!r}")
        if self.trainable == "none" and not self.reconstruction_batch:
            raise ValueError("trainable=none trains the 3D head alone: set reconstruction_batch > 0")
        if self.head_attention is not None and not self.reconstruction_batch:
            raise ValueError("head_attention starts a fresh head, which reconstruction_batch=0 does not train")
        frozen = self.model not in GENERATORS and self.frozen_blocks not in (0, type(self).frozen_blocks)
        if frozen and self.trainable != "temporal":
            raise ValueError(f"frozen_blocks={self.frozen_blocks} belongs to trainable=temporal, got trainable={self.trainable}")
        if self.optimizer != "muon" and self.matrix_learning_rate != type(self).matrix_learning_rate:
            raise ValueError(
                f"matrix_learning_rate belongs to optimizer=muon, got optimizer={self.optimizer}; leave it out (over a recipe: "
                f"--matrix_learning_rate {type(self).matrix_learning_rate}, the default)"
            )
        lora_options = {name: getattr(self, name) for name in ("lora_rank", "lora_alpha", "lora_targets")}
        given = [name for name, value in lora_options.items() if value is not None]
        if self.trainable != "lora" and given:
            raise ValueError(f"{', '.join(given)} belongs to trainable=lora, got trainable={self.trainable}")
        if self.lora_rank is not None and self.lora_rank < 1:
            raise ValueError(f"lora_rank must be at least 1, got {self.lora_rank}")
        if self.train_text_encoder and not self.generation_batch:
            raise ValueError("the reconstruction half reads no captions: train_text_encoder=true needs generation_batch > 0")
        if self.trainable == "lora" and self.train_text_encoder:
            raise ValueError("a LoRA file holds layers of the transformer alone: trainable=lora goes not with train_text_encoder")
        read = [entry.place.data for entry in self.places("reconstruction")]
        if self.model == "dust3r" and (self.generation_batch or {"cache", "stream"} & {*read}):
            raise ValueError(
                "a DUSt3R generates nothing and reads frames, no latents: model=dust3r needs generation_batch=0 and "
                f"data=procedural or videos, got {self.generation_batch} and {', '.join(read)}"
            )
        jog3r_only = self.trainable != "all" or self.feature_layers is not None or self.head_attention is not None
        if self.model == "dust3r" and (jog3r_only or self.train_text_encoder):
            raise ValueError("a DUSt3R is trained whole: model=dust3r takes no trainable, feature_layers, head_attention")
