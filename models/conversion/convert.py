"""OpenSora 1.0 and DUSt3R checkpoints -> our models, strictly: every original weight is used or ignored for a stated reason.

Sizes come from the weights. `inspect_*` sorts a file's weights without reading them; `.load()` of the result returns the model.
Its weights stay mapped from the file: loading costs the file's size in memory and nothing on top. The models' classes come as
arguments, since the models' own `from_single_file` calls these functions.
"""

import ast
import logging
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin

from jog3r.models.conversion.checkpoint_files import Checkpoint, check_finite, read_checkpoint
from jog3r.models.conversion.original_names import DUST3R, DUST3R_HEAD, OPENSORA, Source

logger = logging.getLogger(__name__)

_SHOWN = 5  # names per message
_DUST3R_OUTPUTS = {"head_type": "linear", "output_mode": "pts3d", "depth_mode": ("exp", -float("inf"), float("inf"))} | {
    "conf_mode": ("exp", 1, float("inf"))
}

DUST3R_LICENSE = "cc-by-nc-sa-4.0"  # of the published weights, and of what is made of them


@dataclass
class Conversion:
    """A checkpoint sorted by our names, nothing read yet.

    Args:
        checkpoint: the mapped file.
        model: ours, on the meta device.
        sources: our weight -> where it lies in the file.
        ignored: original weight -> why it is not used.
        filled: our weight -> what stands there, as the file has none.
        fresh: our weight -> its random start (the warm starts' new input layer).
    """

    checkpoint: Checkpoint
    model: Any
    sources: dict[str, Source]
    ignored: dict[str, str]
    filled: dict[str, str] = field(default_factory=dict)
    fresh: dict[str, torch.Tensor] = field(default_factory=dict)

    @cached_property
    def dtype(self) -> torch.dtype:
        """Of the model: the widest in the file."""
        dtype = self.checkpoint.tensors[next(iter(self.sources.values())).name].dtype
        for source in self.sources.values():
            dtype = torch.promote_types(dtype, self.checkpoint.tensors[source.name].dtype)
        return dtype

    def read(self, name: str) -> torch.Tensor:
        """One of our weights, checked to be finite; a view of the mapped file where that is possible."""
        if name in self.fresh:
            return self.fresh[name].to(self.dtype)
        source = self.sources[name]
        tensor = source.read(self.checkpoint.tensors)
        check_finite(self.checkpoint.path, source.name, tensor)
        return tensor.to(self.dtype, copy=name in self.filled)  # a copy must not share its memory with the weight it copies

    def load(self) -> Any:
        """The model with the file's weights, in evaluation mode."""
        dtype = self.dtype
        names = [*self.sources, *self.fresh]
        self.model.load_state_dict({name: self.read(name) for name in names}, strict=True, assign=True)
        logger.info("%s: %d weights used, %d ignored, %s", self.checkpoint.path, len(self.used), len(self.ignored), dtype)
        return self.model.eval()

    @property
    def used(self) -> list[str]:
        """Original names of all weights that went into the model."""
        return sorted({source.name for source in self.sources.values()})

    def report(self) -> dict[str, Any]:
        """Every key used, ignored (with the reason) or missing (with what stands there instead), for people and for json."""
        return {
            "file": self.checkpoint.path.name,
            "layout": self.checkpoint.layout,
            "dtype": str(self.dtype).removeprefix("torch."),
            "model": type(self.model).__name__,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "used": self.used,
            "ignored": dict(sorted(self.ignored.items())),
            "missing": dict(sorted(self.filled.items())),
        }


def inspect_opensora(model_class: type, path: str | Path, **config: Any) -> Conversion:
    """Sort the weights of an OpenSora 1.0 checkpoint (`.pth` or `.safetensors`).

    Args:
        model_class: `Jog3rTransformer3DModel`, or a subclass.
        path: of the file; its weights may lie under "ema" (preferred, as OpenSora does), "model", "state_dict" or plain.
        config: of `Jog3rTransformer3DModel` what weights cannot tell: `num_attention_heads` (default 16), `sample_size`,
            `num_frames`, `space_scale` (0.5 at 256 pixels, 1.0 at 512), `time_scale`, `feature_layer` (26, or the last of fewer
            blocks), `feature_layers`. Sizes may be given, but must agree with the weights.

    Raises:
        FileNotFoundError: where there is no file.
        ValueError: for a truncated, damaged or foreign file, weights that are missing, unknown or of another shape, or
            a configuration that contradicts the weights.
        TypeError: for an unknown option.
    """
    _check_settings(model_class, config)
    checkpoint = read_checkpoint(path)
    sources, ignored, unknown = OPENSORA.plan(checkpoint.tensors)
    landmarks = ("x_embedder.proj.weight", "y_embedder.y_embedding", "y_embedder.y_proj.fc1.weight", "final_layer.linear.weight")
    tensors = _require(checkpoint, "an OpenSora 1.0 transformer", *landmarks, "blocks.0.mlp.fc1.weight")
    _require_shapes(checkpoint, {"x_embedder.proj.weight": 5, "blocks.0.mlp.fc1.weight": 2, "y_embedder.y_embedding": 2})
    width, in_channels, patch_frames, patch_size, _ = tensors["x_embedder.proj.weight"].shape
    if patch_frames != 1:
        raise ValueError(f"{checkpoint.path}: patches of {patch_frames} frames; OpenSora 1.0 has 1")
    heads = config.get("num_attention_heads", 16)
    if width % heads:
        raise ValueError(
            f"{checkpoint.path}: width {width} is not divisible by num_attention_heads={heads}; give the right number"
        )
    num_layers = _count_blocks(checkpoint, "blocks")
    sizes = {
        "in_channels": in_channels,
        "out_channels": tensors["final_layer.linear.weight"].shape[0] // patch_size**2,
        "num_layers": num_layers,
        "attention_head_dim": width // heads,
        "patch_size": patch_size,
        "caption_channels": tensors["y_embedder.y_embedding"].shape[1],
        "max_caption_length": tensors["y_embedder.y_embedding"].shape[0],
        "mlp_ratio": tensors["blocks.0.mlp.fc1.weight"].shape[0] / width,
        "qk_norm": None,
        "norm_eps": 1e-6,
    }
    defaults = {"feature_layer": min(26, num_layers)}
    model = _meta_model(checkpoint, model_class, sizes, defaults | config)
    conversion = Conversion(checkpoint, model, sources, ignored)
    if model.feature_weights is not None:
        conversion.fresh["feature_weights"] = torch.zeros(model.feature_weights.shape)
        conversion.filled["feature_weights"] = "equal shares of the tapped blocks"
    _check_complete(conversion, unknown)
    return conversion


def inspect_dust3r_head(model_class: type, path: str | Path, num_layers: int | None = None, **config: Any) -> Conversion:
    """Sort the decoder and head weights of a DUSt3R checkpoint with a linear head (`.pth` or `.safetensors`).

    Args:
        model_class: `Pointmap3DHead`, or a subclass.
        path: of the file.
        num_layers: take only the first so many blocks of each decoder (JOG3R has 6 of DUSt3R's 12); None = all.
        config: of `Pointmap3DHead` what weights cannot tell: `num_attention_heads` (default: from the file's arguments, else
            12), `rotary_base`. For a warm start on video features: `feature_dim` other than the file's gives a fresh
            input projection, `feature_norm=True` a fresh norm, `frames_per_step`, `noise_embedding` and `feature_layers`
            fresh layers in front of the decoders; all are reported as missing. With any of them, a copied decoder or fewer
            blocks the head is marked `trained=False`.

    Raises:
        FileNotFoundError, ValueError, TypeError: as in `inspect_opensora`.
    """
    _check_settings(model_class, config)
    checkpoint = read_checkpoint(path)
    sizes, unknown_values = _dust3r_head_sizes(checkpoint, config)
    config = {"feature_norm": False} | unknown_values | config
    sources, ignored, unknown = DUST3R_HEAD.plan(checkpoint.tensors)
    filled = _copy_missing_decoder(sources, "")
    layers_in_file = sizes["num_layers"]
    if num_layers is not None:
        if not 1 <= num_layers <= layers_in_file:
            raise ValueError(f"{checkpoint.path} has {layers_in_file} decoder blocks; cannot take num_layers={num_layers}")
        sizes["num_layers"] = num_layers
        sources = _cut_blocks(sources, num_layers, ignored)
    fresh_input = config.get("feature_dim", sizes["feature_dim"]) != sizes["feature_dim"]
    if fresh_input:
        sizes["feature_dim"] = config["feature_dim"]
    model = _meta_model(checkpoint, model_class, sizes, config)
    conversion = Conversion(checkpoint, model, sources, ignored, filled)
    _start_fresh(conversion, ["proj_in"] * fresh_input + ["norm_features"] * bool(config["feature_norm"]))
    _start_fresh(conversion, [name for name in ("proj_frames", "noise_embedder.linear_1") if _has(model, name)])
    _start_at_zero(conversion, ("noise_embedder.linear_2.", "feature_weights"))
    model.register_to_config(weights_license=DUST3R_LICENSE)
    cut = num_layers is not None and num_layers < layers_in_file
    if filled or cut:  # some layer reads what it was not trained on
        model.register_to_config(trained=False)
    _check_complete(conversion, unknown)
    return conversion


def inspect_dust3r_baseline(model_class: type, path: str | Path, **config: Any) -> Conversion:
    """Sort all weights of a DUSt3R checkpoint with a linear head (`.pth` or `.safetensors`).

    Args:
        model_class: `Dust3rBaseline`, or a subclass.
        path: of the file.
        config: of `Dust3rBaseline` what weights cannot tell: `num_attention_heads` (encoder, default: from the file's arguments,
            else 16), `decoder_num_attention_heads` (else 12), `rotary_base`.

    Raises:
        FileNotFoundError, ValueError, TypeError: as in `inspect_opensora`.
    """
    _check_settings(model_class, config)
    checkpoint = read_checkpoint(path)
    decoder_heads = config.pop("decoder_num_attention_heads", None)
    shared = {"num_attention_heads": decoder_heads} if decoder_heads is not None else {}
    head_sizes, head_values = _dust3r_head_sizes(checkpoint, shared)
    tensors = _require(
        checkpoint, "a whole DUSt3R model", "patch_embed.proj.weight", "enc_norm.weight", "enc_blocks.0.mlp.fc1.weight"
    )
    arguments = _dust3r_arguments(checkpoint)
    sizes = {
        "width": tensors["patch_embed.proj.weight"].shape[0],
        "num_layers": _count_blocks(checkpoint, "enc_blocks"),
        "patch_size": head_sizes["patch_size"],
        "mlp_ratio": head_sizes["mlp_ratio"],
        "decoder_width": head_sizes["hidden_dim"],
        "decoder_num_layers": head_sizes["num_layers"],
    }
    config = {
        "num_attention_heads": arguments.get("enc_num_heads", 16),
        "decoder_num_attention_heads": head_values["num_attention_heads"],
        "rotary_base": head_values["rotary_base"],
    } | config
    if "enc_num_heads" in arguments:
        _agree(checkpoint, "num_attention_heads", config["num_attention_heads"], arguments["enc_num_heads"])
    sources, ignored, unknown = DUST3R.plan(checkpoint.tensors)
    filled = _copy_missing_decoder(sources, "head.")
    model = _meta_model(checkpoint, model_class, sizes, config)
    model.register_to_config(weights_license=DUST3R_LICENSE)
    conversion = Conversion(checkpoint, model, sources, ignored, filled)
    _check_complete(conversion, unknown)
    return conversion


INSPECTIONS = {  # our class -> the function that sorts its original's weights
    "Jog3rTransformer3DModel": inspect_opensora,
    "Pointmap3DHead": inspect_dust3r_head,
    "Dust3rBaseline": inspect_dust3r_baseline,
}


def parse_dust3r_arguments(text: str) -> dict[str, Any]:
    """Keyword arguments of the constructor call that DUSt3R stores as text; read as syntax, never run.

    Raises:
        ValueError: where the text is anything but `Name(keyword=literal, ...)`.
    """
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ValueError("not a call with keywords")
        # the text says `inf`, which is no literal; a number too large for a float is
        unbounded = _InfinityAsLiteral()
        return {str(keyword.arg): ast.literal_eval(unbounded.visit(keyword.value)) for keyword in call.keywords}
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"model arguments are not of the form Name(keyword=literal, ...): {text[:200]!r}") from error


class _InfinityAsLiteral(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.AST:  # noqa: N802  # ast's name
        return ast.copy_location(ast.Constant(float("inf")), node) if node.id == "inf" else node


def _dust3r_arguments(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the checkpoint says about its model, checked to be the variant that we compute."""
    text = checkpoint.arguments.get("model")
    if text is None:
        return {}
    try:
        arguments = parse_dust3r_arguments(str(text))
    except ValueError as error:
        raise ValueError(f"{checkpoint.path}: {error}") from error
    for name, expected in _DUST3R_OUTPUTS.items():
        if arguments.get(name, expected) != expected:
            raise ValueError(f"{checkpoint.path} was trained with {name}={arguments[name]!r}; only {expected!r} is supported")
    return arguments


def _dust3r_head_sizes(checkpoint: Checkpoint, config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the weights tell about decoder and head, and what only the file's arguments can tell."""
    tensors = _require(
        checkpoint,
        "a DUSt3R model with a linear head",
        "decoder_embed.weight",
        "dec_blocks.0.mlp.fc1.weight",
        "downstream_head1.proj.weight",
    )
    _require_shapes(checkpoint, {"decoder_embed.weight": 2, "dec_blocks.0.mlp.fc1.weight": 2})
    arguments = _dust3r_arguments(checkpoint)
    hidden_dim, feature_dim = tensors["decoder_embed.weight"].shape
    sizes = {
        "feature_dim": feature_dim,
        "hidden_dim": hidden_dim,
        "num_layers": _count_blocks(checkpoint, "dec_blocks"),
        "patch_size": round((tensors["downstream_head1.proj.weight"].shape[0] / 4) ** 0.5),
        "attention": "pairwise",
        "mlp_ratio": tensors["dec_blocks.0.mlp.fc1.weight"].shape[0] / hidden_dim,
        "norm_eps": 1e-6,
    }
    position = re.fullmatch(r"RoPE(\d+)", str(arguments.get("pos_embed", "RoPE100")))
    if position is None:
        raise ValueError(
            f"{checkpoint.path} has pos_embed={arguments['pos_embed']!r}; only rotary positions (RoPE100) are supported"
        )
    values = {"num_attention_heads": arguments.get("dec_num_heads", 12), "rotary_base": float(position[1])} | {
        name: config[name] for name in ("num_attention_heads", "rotary_base") if name in config
    }
    if "dec_num_heads" in arguments:
        _agree(checkpoint, "num_attention_heads of the decoder", values["num_attention_heads"], arguments["dec_num_heads"])
    return sizes, values


def _copy_missing_decoder(sources: dict[str, Source], prefix: str) -> dict[str, str]:
    """A checkpoint without a second decoder starts it as a copy of the first, as DUSt3R does with CroCo's."""
    if any(name.startswith(f"{prefix}other_blocks.") for name in sources):
        return {}
    copied = {
        name.replace("anchor_blocks", "other_blocks", 1): source
        for name, source in sources.items()
        if f"{prefix}anchor_blocks." in name
    }
    sources.update(copied)
    return {name: f"a copy of {source.name}" for name, source in copied.items()}


def _cut_blocks(sources: dict[str, Source], num_layers: int, ignored: dict[str, str]) -> dict[str, Source]:
    kept = {}
    for name, source in sources.items():
        block = re.match(r"(?:anchor|other)_blocks\.(\d+)\.", name)
        if block and int(block[1]) >= num_layers:
            ignored[source.name] = f"block behind the first {num_layers}, cut on request"
        else:
            kept[name] = source
    return kept


def _start_fresh(conversion: Conversion, modules: list[str]) -> None:
    """Give modules that the file does not fit a random start, and say so."""
    for module in modules:
        for source_name in [name for name in conversion.sources if name.startswith(f"{module}.")]:
            source = conversion.sources.pop(source_name)
            conversion.ignored[source.name] = "replaced by a fresh layer for features of another width"
        layer = conversion.model.get_submodule(module).to_empty(device="cpu")
        layer.reset_parameters()
        for name, tensor in layer.state_dict().items():
            conversion.fresh[f"{module}.{name}"] = tensor
            conversion.filled[f"{module}.{name}"] = "a fresh start"


def _has(model: torch.nn.Module, name: str) -> bool:
    return any(key.startswith(f"{name}.") for key in model.state_dict())


def _start_at_zero(conversion: Conversion, beginnings: tuple[str, ...]) -> None:
    """Give weights that the file does not have, and that change nothing at first, their zeros, and say so."""
    for name, tensor in conversion.model.state_dict().items():
        if name.startswith(beginnings):
            conversion.fresh[name] = torch.zeros(tensor.shape)
            conversion.filled[name] = "a fresh start"


def _check_settings(model: type[ModelMixin], config: dict[str, Any]) -> None:
    """Refuse values of another type than the constructor's, and numbers that are not positive: no setting may be zero."""
    hints = typing.get_type_hints(model.__init__)
    for name in config.keys() & hints.keys():  # other names the constructor refuses
        value = config[name]
        kinds = [typing.get_origin(kind) or kind for kind in typing.get_args(hints[name]) or [hints[name]]]
        fits = type(value) in kinds or (type(value) is int and float in kinds) or (type(value) is tuple and list in kinds)
        if not fits or (type(value) in (int, float) and not value > 0):
            limit = ", above 0" if {int, float} & {*kinds} else ""
            names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            raise ValueError(f"{name} must be {names}{limit}, got {value!r}")


def _meta_model(
    checkpoint: Checkpoint, factory: Callable[..., ModelMixin], sizes: dict[str, Any], config: dict[str, Any]
) -> ModelMixin:
    for name, value in config.items():
        if name in sizes:
            _agree(checkpoint, name, value, sizes[name])
    try:
        with torch.device("meta"):
            return factory(**sizes | config)
    except ValueError as error:
        raise ValueError(f"{checkpoint.path}: {error}") from error


def _check_complete(conversion: Conversion, unknown: list[str]) -> None:
    """Refuse a file with missing or unknown weights, or weights of another shape."""
    path, tensors = conversion.checkpoint.path, conversion.checkpoint.tensors
    model = type(conversion.model).__name__
    if unknown:
        raise ValueError(f"{path}: {len(unknown)} weights are unknown to {model}: {_listed(unknown)}")
    expected = conversion.model.state_dict()
    missing = [name for name in expected if name not in conversion.sources and name not in conversion.fresh]
    if missing:
        raise ValueError(f"{path}: {len(missing)} weights of {model} are missing: {_listed(missing)}")
    surplus = [source.name for name, source in conversion.sources.items() if name not in expected]
    if surplus:
        raise ValueError(f"{path}: {len(surplus)} weights have no place in {model}: {_listed(surplus)}")
    wrong = []
    for name, source in conversion.sources.items():
        found, ours = tuple(tensors[source.name].shape), tuple(expected[name].shape)
        if found != source.original_shape(ours):
            wrong.append(f"{source.name} {found} for {name} {ours}")
    if wrong:
        raise ValueError(f"{path}: {len(wrong)} weights have another shape: {_listed(wrong)}")


def _require(checkpoint: Checkpoint, what: str, *names: str) -> dict[str, torch.Tensor]:
    missing = [name for name in names if name not in checkpoint.tensors]
    if missing:
        found = _listed(list(checkpoint.tensors))
        raise ValueError(f"{checkpoint.path} is not {what}: {', '.join(missing)} missing; its weights begin {found}")
    return checkpoint.tensors


def _require_shapes(checkpoint: Checkpoint, dimensions: dict[str, int]) -> None:
    for name, ndim in dimensions.items():
        shape = tuple(checkpoint.tensors[name].shape)
        if len(shape) != ndim or 0 in shape:
            raise ValueError(f"{checkpoint.path}: {name} has shape {shape}, expected {ndim} dimensions")


def _count_blocks(checkpoint: Checkpoint, block_list: str) -> int:
    """Number of blocks; refuses gaps before a model of as many blocks as a damaged name says is built."""
    numbers = {int(name.split(".")[1]) for name in checkpoint.tensors if re.match(rf"{block_list}\.\d+\.", name)}
    if numbers != set(range(len(numbers))):
        raise ValueError(
            f"{checkpoint.path}: {block_list} are numbered {_listed([str(n) for n in sorted(numbers)])}, expected 0, 1, 2, ..."
        )
    return len(numbers)


def _agree(checkpoint: Checkpoint, name: str, given: Any, found: Any) -> None:
    if given != found:
        raise ValueError(f"{name}={given!r} was asked for, but {checkpoint.path} has {found!r}; leave it out")


def _listed(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
