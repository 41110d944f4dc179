"""What `generate` and `reconstruct` share on the way to a result: the model, the seed, the stages shown."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm

from jog3r import tiny_checkpoint
from jog3r.commands.output_folder import UsageError
from jog3r.data.errors import first_line

__all__ = ["TINY_NOTE", "pipeline_of_options", "quiet_libraries", "seeded_generator", "stages"]

TINY_NOTE = (
    "note: the bundled tiny model has seen nothing but rendered rooms of 64 x 64 pixels; on real videos expect large errors"
)


def pipeline_of_options(options: argparse.Namespace, with_text: bool = True, generator: bool = False) -> Any:
    """The pipeline of `--model` (None: the bundled checkpoint) as `--dtype` on `--device`, there all at once or with `--offload`.

    Args:
        options: of the command line.
        with_text: False leaves the text encoder out, by far the largest part of a full-size model.
        generator: it must be a video generator; a DUSt3R baseline is refused.

    Raises:
        UsageError: there is no such model or device, or the model's weights do not fit its config.
    """
    model, device = options.model, options.device
    name = tiny_checkpoint() if model is None else model
    if model is None and not os.path.isdir(name):
        raise UsageError("the bundled tiny checkpoint is not part of this installation; name a model with --model")
    if options.offload and device.split(":")[0] == "cpu":
        raise UsageError(f"--offload keeps on the CPU what an accelerator does not need: add --device cuda, got {device!r}")
    import torch

    from jog3r.pipelines.loading.any_pipeline import load_pipeline

    quiet_libraries()
    try:
        pipe: Any = load_pipeline(name, with_text=with_text, dtype=getattr(torch, options.dtype))
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        raise UsageError(f"--model {name!r} cannot be loaded: {first_line(error)}") from error
    if generator and not hasattr(pipe, "transformer"):
        raise UsageError(
            f"--model {name!r} is a {type(pipe).__name__}, which has no video generator: windows and prompts need a JOG3R model"
        )
    try:
        torch.empty(0, device=device)  # offloading would find out in the middle of the work
        if options.offload:
            pipe.enable_model_cpu_offload(device=device)
        else:
            pipe = pipe.to(device)
    except (RuntimeError, AssertionError, ImportError) as error:
        raise UsageError(f"--device {device!r} cannot be used: {first_line(error)}") from error
    pipe.set_progress_bar_config(leave=False, desc="denoising", delay=1.0)
    return pipe


def quiet_libraries() -> None:
    """Switch progress bars and warnings of diffusers and transformers off: a command has its own bar, and errors are one line."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()


def seeded_generator(seed: int) -> Any:
    """A generator of `--seed`.

    Raises:
        UsageError: the seed does not fit into 64 bits.
    """
    import torch

    if not -(2**63) <= seed < 2**64:
        raise UsageError(f"--seed must fit into 64 bits, got {seed}")
    return torch.Generator().manual_seed(seed)


@contextmanager
def stages(count: int) -> Iterator[Callable[[str], None]]:
    """A line that names the stage at work, in a terminal; it vanishes at the end. Logs get the denoising bar alone."""
    hidden = not sys.stderr.isatty()  # so that an error is one line in a log
    with tqdm(total=count, leave=False, disable=hidden, bar_format="{desc} [{n_fmt}/{total_fmt}, {elapsed}]") as bar:

        def begin(name: str) -> None:
            bar.set_description_str(name)
            bar.update()

        yield begin
