"""What a generator's pipeline refuses: heads that do not fit, frames and sizes that it cannot take, texts without encoder."""

import math
from typing import Any

from diffusers.utils.torch_utils import unwrap_module

from jog3r.models.feature_tap import num_blocks, transformer_width
from jog3r.pipelines.checks import check_number, check_size, check_tensor
from jog3r.pipelines.loading.model_card import is_untrained

# what each task has no use for is refused where it was given; "t2v" and "t2v+c" take all that the parent takes
OF_A_VIDEO = (
    *("video", "task", "height", "width", "generator", "output_type", "return_dict", "attention_kwargs", "max_sequence_length"),
    *("prompt_embeds", "prompt_attention_mask", "frame_rate"),
    *("reconstruction_timestep", "registration", "registration_kwargs"),
)
TRACKS = (
    "cameras without it come from tracks: `jog3r generate` and `jog3r reconstruct --cameras tracks`, or jog3r.sfm.track_cameras"
)


def check_head(pipe: Any, task: str) -> None:
    """A trained head that was made for this generator.

    Raises:
        ValueError: there is none, it is not trained, or it belongs to another transformer; the message says which.
    """
    head = pipe.pointmap_head
    if head is None:
        raise ValueError(f'task "{task}" needs the pointmap head, which this pipeline was loaded without; {TRACKS}')
    check_fit(pipe, head)
    if is_untrained(head):
        raise ValueError(f'the pointmap head is not trained: task "{task}" would give cameras that mean nothing; {TRACKS}')


def check_fit(pipe: Any, head: Any) -> None:
    """A head, trained or not, that was made for this generator.

    Raises:
        ValueError: it belongs to another transformer; the message says which.
    """
    name, transformer = type(unwrap_module(pipe.main_transformer)).__name__, pipe.main_transformer
    made_for = head.config.generator
    if made_for is not None and made_for != name:
        raise ValueError(f"the pointmap head was made for {made_for}, but this generator is a {name}")
    pairs = (
        ("feature_dim", transformer_width(transformer), "channels of a token"),
        ("patch_size", pipe.token_size, "pixels of a token"),
        ("frames_per_step", pipe.frames_per_step, "frames of a step in time"),
    )
    for setting, wanted, meaning in pairs:
        if head.config[setting] != wanted:
            raise ValueError(
                f"the pointmap head has {setting}={head.config[setting]}, but this generator has {wanted} {meaning}: it was made "
                "for another one"
            )
    layers = head.config.feature_layers
    if layers is None:
        raise ValueError(
            "the pointmap head does not say which blocks it reads; set them by "
            "pipe.pointmap_head.register_to_config(feature_layers=[...])"
        )
    if layers[-1] > num_blocks(transformer):
        raise ValueError(f"the pointmap head reads block {layers[-1]}, but this {name} has {num_blocks(transformer)}")


def check_frames(pipe: Any, num_frames: int, height: int, width: int) -> None:
    """Frames and sizes that VAE and transformer take whole.

    Raises:
        ValueError, TypeError: naming the nearest that fit.
    """
    check_number("num_frames", num_frames, 1, whole=True)
    multiple = pipe.frame_multiple
    if num_frames < 1 + multiple or (num_frames - 1) % multiple:
        lower = 1 + max(1, (num_frames - 1) // multiple) * multiple
        upper = 1 + max(1, math.ceil((num_frames - 1) / multiple)) * multiple
        nearest = " or ".join(map(str, dict.fromkeys((lower, upper))))
        raise ValueError(
            f"num_frames must be 1 more than a multiple of {multiple}, as the VAE compresses time, got {num_frames}; the nearest "
            f"are {nearest} (num_frames=..., that many frames of the video, or a window of so many; on the command line "
            "`--num_frames`, `--frames`, `--window`)"
        )
    check_size(height, width, pipe.token_size)


def check_latents_of(latents: Any, shape: tuple[int, ...], size: tuple[int, int, int]) -> None:
    """Given noise is that of the video asked for, whose sizes the cameras are found by.

    Raises:
        ValueError, TypeError: naming the shape that fits.
    """
    check_tensor(latents, "latents")
    if latents is not None and tuple(latents.shape[1:]) != shape:
        frames, height, width = size
        raise ValueError(
            f"latents of {frames} frames of {width} x {height} pixels have the shape (B, {', '.join(map(str, shape))}), got "
            f"{tuple(latents.shape)}; pass their num_frames, height and width"
        )


def check_text(pipe: Any, prompt: Any, negative_prompt: Any) -> None:
    """Texts need their encoder.

    Raises:
        ValueError: naming what is missing.
    """
    missing = [name for name in ("text_encoder", "tokenizer") if getattr(pipe, name) is None]
    if missing and not (prompt is None and negative_prompt is None):
        raise ValueError(
            f"this pipeline has no {' and no '.join(missing)}: pass prompt_embeds (and negative_prompt_embeds) instead of texts"
        )


def check_no_text_is_made_up(pipe: Any, given: dict[str, Any]) -> None:
    """Guidance without a negative prompt encodes an empty one.

    Raises:
        ValueError: there is nothing that could.
    """
    if given.get("negative_prompt_embeds") is None and None in (pipe.text_encoder, pipe.tokenizer):
        raise ValueError("without a text encoder guidance needs negative_prompt_embeds: pass them, or guidance_scale=1")


def check_only_a_video(given: dict[str, Any]) -> None:
    """Refuse arguments that the task "v2c" has no use for: all but those of `OF_A_VIDEO`.

    Raises:
        ValueError: naming the others that were given.
    """
    unused = [name for name, value in given.items() if name not in OF_A_VIDEO and value is not None]
    if unused:
        raise ValueError(f'task "v2c" has no use for {", ".join(unused)}; it reads the video and nothing else')


def check_nothing_of_cameras(given: dict[str, Any]) -> None:
    """ "t2v" finds no cameras.

    Raises:
        ValueError: naming options of cameras that were given.
    """
    unused = [name for name in ("reconstruction_timestep", "registration_kwargs") if given.get(name) is not None]
    if unused:
        raise ValueError(f'task "t2v" has no use for {", ".join(unused)}; it finds no cameras')
