"""Which frames of a video a command takes: start, stop, stride, or a number of them, evenly."""

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np

from jog3r.commands.output_folder import UsageError

__all__ = ["EvenFrames", "chosen_cameras", "even_numbers", "open_frames", "read_chosen", "selection_arguments"]


def selection_arguments(parser: argparse.ArgumentParser) -> None:
    """Which frames, and how they are brought to another size."""
    parser.add_argument("--start", type=int, default=0, help="first frame (default 0)")
    parser.add_argument("--stop", type=int, default=None, help="frame to stop before (default: the end)")
    parser.add_argument("--stride", type=int, default=1, help="take every N-th frame (default 1)")
    parser.add_argument(
        "--frames", type=int, default=None, metavar="N", help="of those, N evenly spaced, the first and the last among them"
    )
    parser.add_argument(
        "--resize",
        choices=("crop", "stretch"),
        default="crop",
        help="to a network's size: the centre in its aspect ratio (default; pixels stay square), or all of the frame stretched",
    )


def open_frames(options: argparse.Namespace, size: tuple[int, int] | None = None) -> Any:
    """The frames that the options choose from `options.video`: iterable, again and again, with `timed`, `fps` and a length hint.

    Args:
        options: of `selection_arguments`, and `video`.
        size: (height, width) to bring them to; None keeps the video's own.

    Raises:
        ValueError: a video that cannot be read, options out of range, or fewer frames than `--frames` wants.
    """
    from jog3r.data.video_stream import stream_video

    chosen = dict(start=options.start, stop=options.stop, stride=options.stride)
    if options.frames is not None and options.frames < 2:
        raise UsageError(f"--frames must be at least 2, got {options.frames}")
    stream = stream_video(options.video, **chosen, size=size, resize_mode=options.resize)
    if options.frames is None:
        return stream
    count = sum(1 for _ in stream_video(options.video, **chosen))  # headers may state none, or round
    if count < options.frames:
        raise UsageError(
            f"{str(options.video)!r} gives {count} frames with start={options.start}, stop={options.stop}, "
            f"stride={options.stride}, fewer than --frames {options.frames}"
        )
    return EvenFrames(stream, count, options.frames)


def read_chosen(options: argparse.Namespace, size: tuple[int, int] | None = None) -> Any:
    """`open_frames` as one `jog3r.data.video.Video`.

    Raises:
        UsageError: fewer than 2 frames.
    """
    from jog3r.data.video import Video

    frames = open_frames(options, size)
    timed = list(frames.timed())
    if len(timed) < 2:
        raise UsageError(
            f"{str(options.video)!r} gives {len(timed)} frame with start={options.start}, stop={options.stop}, "
            f"stride={options.stride}; cameras need at least 2"
        )
    return Video(np.stack([frame for _, frame in timed]), frames.fps, np.array([time for time, _ in timed]))


def chosen_cameras(options: argparse.Namespace, true_poses: np.ndarray, count: int) -> np.ndarray:
    """Of the known poses of all frames of the video, those of the `count` chosen ones.

    Raises:
        UsageError: they are not as many.
    """
    chosen = true_poses[options.start : options.stop : options.stride]
    if options.frames is not None and len(chosen) >= count:
        chosen = chosen[even_numbers(len(chosen), count)]
    if len(chosen) != count:
        raise UsageError(f"{str(options.true_cameras)!r} has {len(chosen)} cameras for {count} frames")
    return chosen


def even_numbers(count: int, chosen: int) -> np.ndarray:
    """(chosen,) numbers from 0 to count - 1, evenly spaced."""
    return np.linspace(0, count - 1, chosen).round().astype(int)


class EvenFrames:
    """`chosen` of the `count` frames of a stream, evenly spaced, from the first to the last."""

    def __init__(self, stream: Any, count: int, chosen: int) -> None:
        self.stream = stream
        self.numbers = even_numbers(count, chosen)
        self.fps = stream.fps * (chosen - 1) / (count - 1)

    def __length_hint__(self) -> int:
        """How many."""
        return len(self.numbers)

    def __iter__(self) -> Iterator[np.ndarray]:
        """The frames in order."""
        return (frame for _, frame in self.timed())

    def timed(self) -> Iterator[tuple[float, np.ndarray]]:
        """Time in seconds and frame, in order."""
        wanted = set(self.numbers.tolist())
        for number, timed_frame in enumerate(self.stream.timed()):
            if number in wanted:
                yield timed_frame
