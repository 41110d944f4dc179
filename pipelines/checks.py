"""What a call of the pipeline refuses, before anything is computed. Every message says what was given and what to change."""

import inspect
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from jog3r.geometry.registration import register_pointmaps
from jog3r.geometry.registration.checks import check_given
from jog3r.geometry.registration.joint_fit.smoothness import TemporalWeights
from jog3r.geometry.registration.register import check_options

TASKS = ("t2v", "t2v+c", "v2c")
OUTPUT_TYPES = ("pil", "np", "pt", "latent")
REGISTRATION_METHODS = ("fast", "reference")


def check_task(task: str | None, has_video: bool, has_prompt: bool, has_head: bool) -> str:
    """The task meant, and that its one input is there.

    Args:
        task: one of `TASKS`; None means "v2c" with a video, else "t2v+c", or "t2v" without a head.
        has_video: a video is given.
        has_prompt: a prompt or its embeddings are given.
        has_head: the pipeline has a pointmap head.
    """
    if task is not None and task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(map(repr, TASKS))} or None, got {task!r}")
    if has_video and has_prompt:
        raise ValueError("got both a prompt and a video; give the prompt to generate, or the video to find its cameras")
    if not has_video and not has_prompt:
        raise ValueError("got neither a prompt nor a video; give the prompt to generate, or the video to find its cameras")
    task = task or ("v2c" if has_video else "t2v+c" if has_head else "t2v")
    if task == "v2c" and not has_video:
        raise ValueError('task "v2c" finds the cameras of a video, but only a prompt is given')
    if task != "v2c" and has_video:
        raise ValueError(f'task "{task}" generates from a prompt, but only a video is given; use task "v2c"')
    if task != "t2v" and not has_head:
        raise ValueError(f'task "{task}" needs the pointmap head, which this pipeline was loaded without; use task "t2v"')
    return task


def check_prompt(prompt: Any, prompt_embeds: Tensor | None, name: str = "prompt") -> None:
    """A text, or several, none of them empty; or embeddings, not both."""
    if prompt is not None and prompt_embeds is not None:
        raise ValueError(f"got both {name} and {name}_embeds; give one of them")
    if prompt is None:
        return
    texts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"{name} must be a text or a list of texts, got {type(prompt).__name__}")
    if not texts:
        raise ValueError(f"{name} is an empty list; give at least one text")
    if name == "prompt" and not all(text.strip() for text in texts):
        raise ValueError(
            "the prompt is empty; describe the scene, for example 'a room with blue walls, the camera moves forward'"
        )


def check_negative_prompt(negative_prompt: Any, prompt: Any, prompt_embeds: Tensor | None) -> None:
    """One negative text for all prompts, or as many as prompts."""
    if negative_prompt is None or isinstance(negative_prompt, str):
        return
    num_prompts = len(prompt_embeds) if prompt_embeds is not None else 1 if isinstance(prompt, str) else len(prompt)
    if len(negative_prompt) != num_prompts:
        raise ValueError(f"got {len(negative_prompt)} negative prompts for {num_prompts} prompts; give one text, or as many")


def check_embeds(embeds: Tensor | None, mask: Tensor | None, channels: int, max_length: int, name: str) -> None:
    """Embeddings (B, L, channels) with a mask (B, L) or none."""
    if embeds is None:
        if mask is not None:
            raise ValueError(f"{name}_attention_mask came without {name}_embeds")
        return
    if embeds.ndim != 3 or embeds.shape[-1] != channels or embeds.shape[1] > max_length or 0 in embeds.shape:
        raise ValueError(f"{name}_embeds must be (B, L, {channels}) with L in 1..{max_length}, got {tuple(embeds.shape)}")
    if mask is not None and mask.shape != embeds.shape[:2]:
        raise ValueError(f"{name}_attention_mask must be {tuple(embeds.shape[:2])}, got {tuple(mask.shape)}")


def check_tensor(value: Any, name: str) -> None:
    """A tensor, or None."""
    if value is not None and not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")


def check_size(height: int, width: int, multiple: int) -> None:
    """Height and width in whole tokens."""
    for name, size in (("height", height), ("width", width)):
        if isinstance(size, bool) or not isinstance(size, numbers.Integral):
            raise TypeError(f"{name} must be a whole number of pixels, got {size!r}")
    if height < multiple or width < multiple or height % multiple or width % multiple:
        sizes = " or ".join(dict.fromkeys(f"{h}x{w}" for h, w in _nearest_sizes(height, width, multiple)))
        raise ValueError(
            f"height and width must be multiples of {multiple} pixels (one token), got {height}x{width}; "
            f"the nearest sizes are {sizes} (pass height=..., width=...)"
        )


def _nearest_sizes(height: int, width: int, multiple: int) -> list[tuple[int, int]]:
    lower = tuple(max(size // multiple, 1) * multiple for size in (height, width))
    upper = tuple(max(math.ceil(size / multiple), 1) * multiple for size in (height, width))
    return [(lower[0], lower[1]), (upper[0], upper[1])]


def check_number(name: str, value: Any, low: float, high: float = math.inf, whole: bool = False) -> None:
    """A finite number in `low` .. `high`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral if whole else numbers.Real):
        raise TypeError(f"{name} must be a {'whole ' if whole else ''}number, got {value!r}")
    if not (math.isfinite(value) and low <= float(value) <= high):
        upper = "" if high == math.inf else f" and at most {high:g}"
        raise ValueError(f"{name} must be at least {low:g}{upper}, got {value}")


def check_latents(latents: Tensor | None, shape: tuple[int, ...]) -> None:
    """Given noise of the right shape, all finite."""
    if latents is None:
        return
    if tuple(latents.shape) != shape:
        raise ValueError(f"latents must have shape {shape} (B, C, F, h, w), got {tuple(latents.shape)}")
    check_finite(latents, "the latents given")


def check_finite(values: Tensor, name: str) -> None:
    """No NaN, no infinity."""
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise ValueError(f"{name} hold {bad} NaN or infinite values of {values.numel()}; nothing can be made of them")


def check_choices(output_type: str, callback_inputs: Sequence[str], allowed_callback_inputs: Sequence[str]) -> None:
    """Output type and the tensors that a callback asks for."""
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type must be one of {', '.join(map(repr, OUTPUT_TYPES))}, got {output_type!r}")
    unknown = [name for name in callback_inputs if name not in allowed_callback_inputs]
    if unknown:
        raise ValueError(f"callback_on_step_end_tensor_inputs may name {list(allowed_callback_inputs)}, got {unknown}")


def check_generators(generator: Any, batch_size: int | None = None) -> None:
    """One generator, or one a clip; None: their number is not known yet."""
    for item in generator if isinstance(generator, list) else [generator]:
        if item is not None and not isinstance(item, torch.Generator):
            raise TypeError(
                f"generator must be a torch.Generator or a list of them, got {item!r}; for a seed pass "
                "torch.Generator().manual_seed(seed)"
            )
    if isinstance(generator, list) and batch_size is not None and len(generator) != batch_size:
        raise ValueError(f"got {len(generator)} generators for {batch_size} clips; give one, or one a clip")


def check_registration(options: Any, has_registration: bool = True, shape: tuple[int, int, int] | None = None) -> None:
    """Options of `register_pointmaps`, as it checks them when all else is done; of frames of a `shape` (F, H, W) if known."""
    if options is None:
        return
    if not has_registration:
        raise ValueError("registration_kwargs came without registration: nothing is registered with registration=False")
    if not isinstance(options, Mapping):
        raise TypeError(f"registration_kwargs must be a dict of options of register_pointmaps, got {type(options).__name__}")
    parameters = inspect.signature(register_pointmaps).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(f"registration_kwargs may name {', '.join(known)}, got {', '.join(map(repr, unknown))}")
    method = options.get("method", "fast")
    if method not in REGISTRATION_METHODS:
        names = " or ".join(map(repr, REGISTRATION_METHODS))
        raise ValueError(f"method in registration_kwargs must be {names}, got {method!r}")
    weights = TemporalWeights(options.get("smoothness_focal", 0.0), options.get("smoothness_translation", 0.0))
    check_options(options.get("max_iterations"), options.get("chunk_pairs", 32), weights, options.get("smoothness", "auto"))
    if shape is not None:
        given = ("focal_px", "pixel_aspect", "intrinsics", "known_poses")
        check_given(shape, torch.device("cpu"), **{name: _on_cpu(options[name]) for name in given if name in options})


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value
