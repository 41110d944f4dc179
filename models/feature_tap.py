"""Reading the tokens behind chosen blocks of a diffusers video transformer, which stays as it is.

Letters: B clips, f latent steps in time as the blocks see them, N tokens a step, D width, K tapped blocks.
"""

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor, nn

from jog3r.models.layers import fuse_features

__all__ = ["LAYOUTS", "FeatureTap", "TokenLayout", "layout_of", "num_blocks", "transformer_width"]

Config = Any
Arguments = Mapping[str, Any]  # of a call of the transformer, by name


@dataclass(frozen=True)
class TokenLayout:
    """How transformers of one class lay their tokens out.

    Attributes:
        blocks: names of the lists of blocks that run in turn; tokens are read behind those of the last list.
        patch: config -> (latent steps, latent pixels a side) that one token stands for.
        steps: (config, arguments of the call) -> f.
        shape: (output of a block, B, f) -> tokens (B, f, N, D), row-major, without those of the text.
        clips: arguments of the call -> B.
    """

    blocks: tuple[str, ...]
    patch: Callable[[Config], tuple[int, int]]
    steps: Callable[[Config, Arguments], int]
    shape: Callable[[Any, int, int], Tensor]
    clips: Callable[[Arguments], int] = lambda arguments: int(arguments["hidden_states"].shape[0])


def _time_first(output: Tensor, _: int, steps: int) -> Tensor:
    """(B, f*N, D) in the order (t, y, x) -> (B, f, N, D)."""
    return output.unflatten(1, (steps, -1))


def _place_first(output: Tensor, clips: int, _: int) -> Tensor:
    """(B*N, f, D) -> (B, f, N, D)."""
    return output.unflatten(0, (clips, -1)).transpose(1, 2)


def _packed_steps(config: Config, arguments: Arguments) -> int:
    if arguments.get("num_frames") is None:
        raise ValueError("the tokens of an LTX-Video call are counted by its num_frames, height and width, got none of them")
    return int(arguments["num_frames"]) // int(config.patch_size_t)


LAYOUTS: dict[str, TokenLayout] = {
    "WanTransformer3DModel": TokenLayout(
        blocks=("blocks",),
        patch=lambda config: (config.patch_size[0], config.patch_size[1]),
        steps=lambda config, arguments: arguments["hidden_states"].shape[2] // config.patch_size[0],
        shape=_time_first,
    ),
    "CogVideoXTransformer3DModel": TokenLayout(
        blocks=("transformer_blocks",),
        patch=lambda config: (config.patch_size_t or 1, config.patch_size),
        steps=lambda config, arguments: arguments["hidden_states"].shape[1] // (config.patch_size_t or 1),
        shape=lambda output, clips, steps: _time_first(output[0], clips, steps),  # output[1] are the tokens of the text
    ),
    "LTXVideoTransformer3DModel": TokenLayout(
        blocks=("transformer_blocks",),
        patch=lambda config: (config.patch_size_t, config.patch_size),
        steps=_packed_steps,
        shape=_time_first,
    ),
    "LatteTransformer3DModel": TokenLayout(
        blocks=("transformer_blocks", "temporal_transformer_blocks"),
        patch=lambda config: (1, config.patch_size),
        steps=lambda _, arguments: arguments["hidden_states"].shape[2],
        shape=_place_first,
    ),
    "Jog3rTransformer3DModel": TokenLayout(
        blocks=("transformer_blocks",),
        patch=lambda config: (1, config.patch_size),
        steps=lambda _, arguments: arguments["hidden_states"].shape[2],
        shape=lambda output, *_: output,
    ),
}
"""Layouts by the name of the transformer's class; add yours to read another model."""


def layout_of(transformer: nn.Module) -> TokenLayout:
    """How a transformer lays its tokens out.

    Raises:
        ValueError: its class is not in `LAYOUTS`; the message says how to add it.
    """
    model = unwrap_module(transformer)
    for cls in type(model).__mro__:
        if cls.__name__ in LAYOUTS:
            return LAYOUTS[cls.__name__]
    name = type(model).__name__
    raise ValueError(
        f"no token layout is known for {name}; known are {', '.join(LAYOUTS)}. Add ten lines: "
        f"jog3r.models.feature_tap.LAYOUTS[{name!r}] = TokenLayout(blocks, patch, steps, shape), see docs/backbones.md"
    )


def num_blocks(transformer: nn.Module) -> int:
    """How many blocks can be tapped."""
    return len(getattr(unwrap_module(transformer), layout_of(transformer).blocks[-1]))


def transformer_width(transformer: nn.Module) -> int:
    """Channels D of a token."""
    config: Any = unwrap_module(transformer).config
    return int(config.num_attention_heads) * int(config.attention_head_dim)


class FeatureTap:
    """Reads the tokens behind blocks of a transformer during the calls inside a `with`.

    The blocks and their weights stay as they are: hooks read what passes. Step caches of diffusers are switched off inside, as a
    cached block has no true tokens (enter it outside of `cache_context`, which knows the hooks of its beginning alone), and
    compiled parts run as they were before compilation.

    Args:
        transformer: of a class in `LAYOUTS`, or one of those compiled by `torch.compile`.
        layers: one block or several, counted from 1, ascending.
        stop: leave the blocks behind the last one out. What the call returns is then no prediction; hooks of offloading and the
            code behind the call run as always.

    Example:
        ```py
        >>> with FeatureTap(transformer, 20, stop=True) as tap:
        ...     transformer(hidden_states=latents, timestep=t, encoder_hidden_states=texts)
        >>> tap.features  # (B, f, N, D)
        ```

    Raises:
        ValueError: the transformer's class is not known, or a block is not there.
    """

    def __init__(self, transformer: nn.Module, layers: int | Sequence[int], stop: bool = False):
        self.transformer = unwrap_module(transformer)
        self.layout = layout_of(transformer)
        self.layers = [layers] if isinstance(layers, int) else [int(layer) for layer in layers]
        self.stop = stop
        check_layers(self.layers, num_blocks(transformer))
        self._outputs: dict[int, Tensor] = {}
        self._call: Arguments | None = None
        self._stack = ExitStack()

    @property
    def taps(self) -> list[Tensor]:
        """Tokens behind each block, K times (B, f, N, D), of the last call.

        Raises:
            RuntimeError: the transformer was not called, or did not reach every block.
        """
        if missing := [layer for layer in self.layers if layer not in self._outputs]:
            raise RuntimeError(
                f"nothing was read behind block {', '.join(map(str, missing))} of {type(self.transformer).__name__}: call it "
                "inside the `with`, in a way that runs these blocks"
            )
        return [self._outputs[layer] for layer in self.layers]

    @property
    def features(self) -> Tensor:
        """Features (B, f, N, D) of the last call: the tokens of the one block, or the normalised ones of several, averaged.

        `Jog3rTransformer3DModel` fuses its own blocks by its learned weights.
        """
        taps = self.taps
        if len(taps) == 1:
            return taps[0]
        own = getattr(self.transformer, "feature_weights", None)
        if own is not None and self.transformer.feature_layers == self.layers:
            return fuse_features(taps, own, self.transformer.config.norm_eps)
        return fuse_features(taps, taps[0].new_zeros(len(taps), dtype=torch.float32))

    def __enter__(self) -> "FeatureTap":
        with ExitStack() as stack:  # undone if anything on the way fails
            stack.enter_context(_without_caches(self.transformer))
            stack.enter_context(_not_compiled())
            blocks = getattr(self.transformer, self.layout.blocks[-1])
            hooks = [self.transformer.register_forward_pre_hook(self._begin, with_kwargs=True)]
            hooks.append(self.transformer.register_forward_hook(self._end, always_call=True))
            hooks += [blocks[layer - 1].register_forward_hook(self._recorder(layer)) for layer in self.layers]
            for hook in hooks:
                stack.callback(hook.remove)
            if self.stop:
                stack.enter_context(_shortened(self.transformer, self.layout.blocks, self.layers[-1]))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _begin(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self._outputs = {}
        # of the class: hooks of offloading and caches replace the method of the object
        self._call = inspect.signature(type(model).forward).bind(model, *args, **kwargs).arguments

    def _end(self, *_: Any) -> None:
        self._call = None  # blocks that a backward pass runs again are not read

    def _recorder(self, layer: int) -> Callable[..., None]:
        def record(_: nn.Module, __: Any, output: Any) -> None:
            if self._call is not None:
                steps = self.layout.steps(self.transformer.config, self._call)
                self._outputs[layer] = self.layout.shape(output, self.layout.clips(self._call), steps)

        return record


def check_layers(layers: Sequence[int], count: int | None = None) -> None:
    """Blocks that are there, ascending; `count` is their number, where it is known.

    Raises:
        ValueError: naming what was given.
    """
    name = "feature_layer" if len(layers) == 1 else "feature_layers"
    got = layers[0] if len(layers) == 1 else list(layers)
    if not layers or any(layer < 1 or (count is not None and layer > count) for layer in layers):
        last = "" if count is None else f" to num_layers={count}"
        raise ValueError(f"{name} counts blocks from 1{last}, got {got}")
    if list(layers) != sorted(set(layers)):
        raise ValueError(f"feature_layers must ascend without repetition, got {got}")


@contextmanager
def _shortened(model: nn.Module, names: Sequence[str], count: int) -> Iterator[None]:
    """The first `count` blocks of each list stand for all of them."""
    lists = {name: getattr(model, name) for name in names}
    for name, blocks in lists.items():
        setattr(model, name, blocks[:count])
    try:
        yield
    finally:
        for name, blocks in lists.items():
            setattr(model, name, blocks)


@contextmanager
def _without_caches(model: Any) -> Iterator[None]:
    config = getattr(model, "_cache_config", None)
    if config is None:
        yield
        return
    model.disable_cache()
    try:
        yield
    finally:
        model.enable_cache(config)


@contextmanager
def _not_compiled() -> Iterator[None]:
    """Compiled code would be compiled anew for every set of hooks, or not see them."""
    if "torch._dynamo" not in sys.modules:  # nothing was compiled; importing it takes seconds
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
