"""The network's part of a reconstruction: the paper's V2C on reduced frames, at once or window by window."""

import argparse
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jog3r.commands.options import registration_kwargs
from jog3r.commands.output_folder import UsageError
from jog3r.commands.reconstruction.network_maps import NetworkMaps, grid_transform
from jog3r.commands.reconstruction.spool import Spool
from jog3r.commands.reconstruction.windows import is_long, reconstruct_windows
from jog3r.commands.running import pipeline_of_options, seeded_generator

__all__ = ["KEY_FRAMES", "TooManyFrames", "check_length", "find_maps", "run_pipeline"]

KEY_FRAMES = 64  # of a long video, whose maps are kept


class TooManyFrames(UsageError):
    """The video is longer than the network takes at once."""


def check_length(count: int, pipe: Any) -> None:
    """Refuse more frames than the network takes at once.

    Raises:
        TooManyFrames: naming the window that the model was made for.
    """
    if count > pipe.max_video_frames:
        raise TooManyFrames(
            f"the network takes at most {pipe.max_video_frames} frames at once, got {count}: take fewer (--frames), or add "
            f"--window {pipe.output_size(None, None, None)[0]}"
        )


def run_pipeline(options: argparse.Namespace, pipe: Any, frames: np.ndarray) -> Any:
    """V2C of frames (F, H, W, 3) uint8 in the network's size.

    Raises:
        UsageError: `--both_directions` with a model that does not read backwards.
    """
    both: dict[str, Any] = {"both_directions": True} if options.both_directions else {}
    if both and "both_directions" not in inspect.signature(type(pipe).__call__).parameters:
        raise UsageError(f"--both_directions is for JOG3R models, --model is a {type(pipe).__name__}: leave it out")
    return pipe(
        video=frames,
        generator=seeded_generator(options.seed),
        reconstruction_timestep=options.reconstruction_timestep,
        registration_kwargs=registration_kwargs(options),
        output_type="pil",
        **both,
    )


def find_maps(options: argparse.Namespace, frames: np.ndarray, folder: Path) -> NetworkMaps:
    """What the network finds in frames (F, H, W, 3) of any size.

    Args:
        options: of the command.
        frames: they may lie on disk.
        folder: for the files of windows, while it is at work.

    Raises:
        TooManyFrames: more than it takes at once, and no windows.
    """
    from jog3r.data.video import resize_frames

    by_window = is_long(options)
    pipe = pipeline_of_options(options, with_text=False, generator=by_window)
    if not by_window:
        check_length(len(frames), pipe)
    height, width = pipe.output_size(None, options.height, options.width)[1:]
    if not by_window:
        reduced, transform = resize_frames(frames, height, width, options.resize)
        return NetworkMaps.of_registration(run_pipeline(options, pipe, reduced).registration[0], reduced, transform)
    transform = grid_transform((frames.shape[1], frames.shape[2]), (height, width), options.resize)
    with Spool(folder / ".windows") as spool:
        reduced_one_by_one = _Reduced(frames, (height, width), options.resize)
        result = reconstruct_windows(options, pipe, reduced_one_by_one, spool)
        count = min(KEY_FRAMES if options.keyframes is None else options.keyframes, len(result))
        numbers = np.unique(np.linspace(0, len(result) - 1, count).round().astype(int))
        maps = [result.frame(int(number)) for number in numbers]
        return NetworkMaps(
            result.poses.float().numpy(),
            result.intrinsics.float().numpy(),
            result.degenerate,
            numbers,
            np.stack([reduced_one_by_one.frame(int(number)) for number in numbers]),
            np.stack([found.depth.numpy() for found in maps]),
            np.stack([found.confidence.numpy() for found in maps]),
            transform,
        )


class _Reduced:
    """Frames brought to another size one at a time."""

    def __init__(self, frames: np.ndarray, size: tuple[int, int], mode: str) -> None:
        self.frames, self.size, self.mode = frames, size, mode

    def __length_hint__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.frame(number) for number in range(len(self.frames)))

    def frame(self, number: int) -> np.ndarray:
        """One of them, (h, w, 3)."""
        from jog3r.data.video import resize_frames

        return resize_frames(self.frames[number][None], *self.size, self.mode)[0][0]
