"""`jog3r generate` and `jog3r reconstruct`: from arguments to a folder of results."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from jog3r import tiny_checkpoint
from jog3r.cli_files import OutputFolder, PartlyDone, UsageError

MAX_FPS = 100_000  # what a video file can state
TINY_NOTE = (
    "note: the bundled tiny model has seen nothing but rendered rooms of 64 x 64 pixels; on real videos expect large errors"
)


def run_generate(options: argparse.Namespace) -> str:
    """`jog3r generate`: returns what to print."""
    if not options.prompt.strip():
        raise UsageError(
            "the prompt is empty; describe the scene, for example 'a room with blue walls, the camera moves forward'"
        )
    if not 0 < options.fps <= MAX_FPS:  # written so that NaN is wrong, too
        raise UsageError(f"--fps must be positive and at most {MAX_FPS}, got {options.fps:g}")
    from jog3r.cli_cameras import doubtful_poses

    _check_exports(options.export, has_geometry=options.task != "t2v")
    expected = ["video.mp4"] if options.task == "t2v" else result_names(options.export)
    failed: dict[str, ValueError] = {}
    with OutputFolder(options.out, options.overwrite, expected) as folder, _stages(3) as stage:
        stage("loading the model")
        pipe = load_pipeline(options)
        stage("generating")
        arguments = {
            name: value
            for name in ("num_frames", "height", "width", "guidance_scale", "negative_prompt", "reconstruction_timestep")
            if (value := getattr(options, name)) is not None
        }
        if options.task != "t2v":
            arguments["registration_kwargs"] = {"method": options.registration}
        output = pipe(
            options.prompt,
            task=options.task,
            num_inference_steps=options.num_inference_steps,
            generator=_generator(options.seed),
            **arguments,
        )
        stage("writing")
        if options.task == "t2v":
            _write_video(output.frames[0], options.fps, folder)
        else:
            failed = _write_scene(output, options.fps, options.prompt, options.export, folder)
        names = sorted(path.name for path in folder.iterdir())
    doubts = doubtful_poses(output.registration[0].degenerate) if output.registration else []
    return report("\n".join([written_line(options.out, names), *doubts]), options.out, failed)


def run_reconstruct(options: argparse.Namespace) -> str:
    """`jog3r reconstruct`: returns what to print."""
    from jog3r.cli_long import is_long, run_long_reconstruct

    if is_long(options):
        return run_long_reconstruct(options)
    from jog3r.cli_cameras import compare_cameras, doubtful_poses, read_true_cameras
    from jog3r.data.video import read_video

    if (options.height is None) != (options.width is None):
        raise UsageError("give both --height and --width, or neither")
    _check_exports(options.export, has_geometry=True)
    true_poses = None if options.true_cameras is None else read_true_cameras(options.true_cameras)

    def read(size: tuple[int, int]) -> Any:
        return read_video(
            options.video,
            start=options.start,
            stop=options.stop,
            stride=options.stride,
            size=size,
            resize_mode=options.resize,
        )

    with OutputFolder(options.out, options.overwrite, result_names(options.export)) as folder, _stages(4) as stage:
        # Read before the model is loaded where possible: a bad file is then refused at once.
        stage("reading the video")
        size = (options.height, options.width) if options.height is not None else _folder_size(options.model)
        video = read(size) if size is not None else None
        stage("loading the model")
        pipe = load_pipeline(options, with_text=False)
        if video is None:
            video = read((pipe.default_size, pipe.default_size))
        if true_poses is not None:
            true_poses = true_poses[options.start : options.stop : options.stride]
            if len(true_poses) != len(video.frames):
                raise UsageError(f"{str(options.true_cameras)!r} has {len(true_poses)} cameras for {len(video.frames)} frames")
        stage("finding the cameras")
        output = pipe(
            video=video.frames,
            generator=_generator(options.seed),
            reconstruction_timestep=options.reconstruction_timestep,
            registration_kwargs={"method": options.registration},
            both_directions=options.both_directions,
        )
        stage("writing")
        failed = _write_scene(output, video.fps, "", options.export, folder)
        names = sorted(path.name for path in folder.iterdir())
    lines = [written_line(options.out, names), *doubtful_poses(output.registration[0].degenerate)]
    if options.model is None:
        lines.append(TINY_NOTE)
    if true_poses is not None:
        lines.append(compare_cameras(output.poses[0].cpu().numpy(), output.registration[0].pose_known.cpu().numpy(), true_poses))
    return report("\n".join(lines), options.out, failed)


def written_line(out: Path, names: list[str]) -> str:
    """Folder and files written; with --overwrite also what was there before and stays, so that no two runs are mixed up."""
    from jog3r.export.exporters import left_from_earlier

    old = left_from_earlier(out, names)
    return f"{out}: {', '.join(names)}" + (f"\nnote: left from an earlier run: {', '.join(old)}" if old else "")


def result_names(exports: list[str]) -> list[str]:
    """Files and folders that a run with these exports leaves in its folder."""
    from jog3r.export.exporters import RESULT_NAMES, TARGETS

    return [*RESULT_NAMES, *(TARGETS[name] for name in exports)]


def write_exports(exports: list[str], scene_of: Callable[[str], Any], folder: Path) -> dict[str, ValueError]:
    """Write exports into a folder one by one; returns what was wrong with those that could not be made.

    Args:
        exports: keys of `EXPORTERS`.
        scene_of: the scene of an export.
        folder: which holds the results already, so that none of them is lost.
    """
    from jog3r.export.exporters import EXPORTERS
    from jog3r.export.files import write_files

    failed = {}
    for name in exports:
        try:
            contents = EXPORTERS[name](scene_of(name))
        except ValueError as error:
            failed[name] = error
        else:
            write_files(folder, contents, overwrite=True)
    return failed


def report(text: str, out: Path, failed: dict[str, ValueError]) -> str:
    """What a command prints of its results in `out`.

    Raises:
        PartlyDone: exports have failed; it holds the text.
    """
    if not failed:
        return text
    reasons = "; ".join(f"--export {name} could not be made: {error}" for name, error in failed.items())
    raise PartlyDone(f"{reasons}; everything else is in {str(out)!r}", text) from next(iter(failed.values()))


def load_pipeline(options: argparse.Namespace, with_text: bool = True) -> Any:
    """The pipeline of `--model` (None: the bundled checkpoint) as `--dtype` on `--device`, there all at once or with `--offload`.

    Args:
        options: of the command line.
        with_text: False leaves the text encoder out, by far the largest part of a full-size model.

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
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    from jog3r import Jog3rPipeline
    from jog3r.pipelines.load import WITHOUT_TEXT

    diffusers_logging.disable_progress_bar()  # the command has its own bar
    transformers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()
    try:
        parts = {} if with_text else WITHOUT_TEXT
        pipe = Jog3rPipeline.from_pretrained(name, dtype=getattr(torch, options.dtype), **parts)
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        raise UsageError(f"--model {name!r} cannot be loaded: {_first_line(error)}") from error
    try:
        torch.empty(0, device=device)  # offloading would find out in the middle of the work
        if options.offload:
            pipe.enable_model_cpu_offload(device=device)
        else:
            pipe = pipe.to(device)
    except (RuntimeError, AssertionError, ImportError) as error:
        raise UsageError(f"--device {device!r} cannot be used: {_first_line(error)}") from error
    pipe.set_progress_bar_config(leave=False, desc="denoising", delay=1.0)
    return pipe


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _folder_size(model: str | None) -> tuple[int, int] | None:
    """Height and width of a local checkpoint, from its configs alone; None where that is not possible."""
    folder = Path(tiny_checkpoint() if model is None else model)
    try:
        transformer = json.loads((folder / "transformer" / "config.json").read_text())
        vae = json.loads((folder / "vae" / "config.json").read_text())
    except (OSError, ValueError):
        return None  # a hub name, or a folder that the loader will complain about
    channels = vae.get("encoder_block_out_channels") or vae.get("block_out_channels")
    if channels is None or "sample_size" not in transformer:
        return None
    side = transformer["sample_size"] * 2 ** (len(channels) - 1)
    return side, side


def _generator(seed: int) -> Any:
    import torch

    if not -(2**63) <= seed < 2**64:
        raise UsageError(f"--seed must fit into 64 bits, got {seed}")
    return torch.Generator().manual_seed(seed)


def _check_exports(names: list[str], has_geometry: bool) -> None:
    if not names:
        return
    from jog3r.export.exporters import EXPORTERS

    unknown = [name for name in names if name not in EXPORTERS]
    if unknown:
        raise UsageError(f"unknown --export {', '.join(map(repr, unknown))}; choose from {', '.join(EXPORTERS)}")
    if not has_geometry:
        raise UsageError("--export needs cameras; use --task t2v+c")


def _write_scene(output: Any, fps: float, caption: str, exports: list[str], folder: Path) -> dict[str, ValueError]:
    """All results; returns the exports that could not be made."""
    from jog3r.export.exporters import write_results
    from jog3r.export.scene import Scene

    scene = Scene(**output.clip(), fps=fps, caption=caption)
    write_results(scene, folder, overwrite=True)
    return write_exports(exports, lambda _: scene, folder)


def _write_video(frames: list[Any], fps: float, folder: Path) -> None:
    import numpy as np

    from jog3r.export.video import encode_video

    (folder / "video.mp4").write_bytes(encode_video(np.stack([np.asarray(frame) for frame in frames]), fps))


@contextmanager
def _stages(count: int) -> Iterator[Callable[[str], None]]:
    """A line that names the stage at work, in a terminal; it vanishes at the end. Logs get the denoising bar alone."""
    hidden = not sys.stderr.isatty()  # so that an error is one line in a log
    with tqdm(total=count, leave=False, disable=hidden, bar_format="{desc} [{n_fmt}/{total_fmt}, {elapsed}]") as bar:

        def begin(name: str) -> None:
            bar.set_description_str(name)
            bar.update()

        yield begin
