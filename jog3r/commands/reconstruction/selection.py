"""Which frames of a video a command takes: start, stop, stride, or a number of them, evenly."""

import argparse
from itertools import islice
from typing import Any

import numpy as np

from jog3r.commands.output_folder import UsageError

__all__ = [
    "check_count",
    "chosen_cameras",
    "even_numbers",
    "open_frames",
    "ranged_frames",
    "read_chosen",
    "selection_arguments",
]


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


def picture_names(options: argparse.Namespace, count: int) -> list[str] | None:
    """Of the `count` chosen pictures where `options.video` is a folder; None where it is a video, or there is none."""
    if options.video is None or not options.video.is_dir():
        return None
    names: list[str] = open_frames(options).names
    return names if len(names) == count else None  # pictures came or went meanwhile


def open_frames(options: argparse.Namespace, size: tuple[int, int] | None = None, recorded: int | None = None) -> Any:
    """The frames that the options choose from `options.video`: a `FrameStream`.

    Args:
        options: of `selection_arguments`, and `video`.
        size: (height, width) to bring them to; None keeps the video's own.
        recorded: frames that the video is known to have; None: as many as it says, or has.

    Raises:
        EndsEarly: while they are read, `--frames` of a video that says that it has more frames than it shows.
        ValueError: a video that cannot be read, options out of range, or fewer frames than `--frames` wants.
    """
    from jog3r.data.recordings.shots import DEFAULT_LIMITS
    from jog3r.data.video_stream import FrameStream, Resizing

    stream = ranged_frames(options, size)
    if options.frames is None:
        return stream
    # Headers may state no number, or a rounded one.
    count = stream.expected_frames if stream.counted else sum(1 for _ in ranged_frames(options))
    if recorded is not None:
        count = len(range(options.start, min(recorded, options.stop or recorded), options.stride))
    if count < options.frames:
        raise UsageError(
            f"{str(options.video)!r} gives {count} frames with start={options.start}, stop={options.stop}, "
            f"stride={options.stride}, fewer than --frames {options.frames}"
        )
    numbers = options.start + options.stride * even_numbers(count, options.frames)
    even = FrameStream(options.video, numbers.tolist(), Resizing(size, options.resize), DEFAULT_LIMITS)
    even.fps *= (options.frames - 1) / float(numbers[-1] - numbers[0])
    return even


def ranged_frames(options: argparse.Namespace, size: tuple[int, int] | None = None) -> Any:
    """All frames from start to stop with the stride: a `FrameStream`.

    Raises:
        UsageError, ValueError: a video that cannot be read, or options out of range.
    """
    from jog3r.data.video_stream import stream_video

    if options.frames is not None and options.frames < 2:
        raise UsageError(f"--frames must be at least 2, got {options.frames}")
    chosen = dict(start=options.start, stop=options.stop, stride=options.stride)
    return stream_video(options.video, **chosen, size=size, resize_mode=options.resize)


def read_chosen(options: argparse.Namespace, size: tuple[int, int] | None = None, most: int | None = None) -> Any:
    """`open_frames` as one `jog3r.data.video.Video`.

    Raises:
        UsageError: fewer than 2 frames, or more than `most`.
    """
    from jog3r.data.video import Video
    from jog3r.data.video_stream import EndsEarly

    enough = None if most is None else most + 1
    frames = open_frames(options, size)
    try:
        timed = list(islice(frames.timed(), enough))
    except EndsEarly as error:
        frames = open_frames(options, size, error.count)
        timed = list(islice(frames.timed(), enough))
    check_count(options, len(timed))
    if most is not None and len(timed) > most:
        raise UsageError(
            f"{str(options.video)!r} gives more than {most} frames with start={options.start}, stop={options.stop}, "
            f"stride={options.stride}; --frames {most} takes as many, evenly"
        )
    return Video(np.stack([frame for _, frame in timed]), frames.fps, np.array([time for time, _ in timed]))


def check_count(options: argparse.Namespace, count: int) -> None:
    """Refuse fewer than 2 frames.

    Raises:
        UsageError: see above.
    """
    if count < 2:
        raise UsageError(
            f"{str(options.video)!r} gives {count} frame with start={options.start}, stop={options.stop}, "
            f"stride={options.stride}; cameras need at least 2"
        )


def chosen_cameras(options: argparse.Namespace, true_poses: np.ndarray, count: int) -> np.ndarray:
    """Of the known poses of all frames of the video, those of the `count` chosen ones; all where there are so many.

    Raises:
        UsageError: they are not as many.
    """
    if len(true_poses) == count:
        return true_poses
    chosen = true_poses[options.start : options.stop : options.stride]
    # Cameras of another number of frames would be those of other moments.
    shown = sum(1 for _ in ranged_frames(options)) if options.frames is not None and len(chosen) > count else count
    if len(chosen) != shown:
        raise UsageError(
            f"{str(options.true_cameras)!r} has {len(true_poses)} cameras, of which {len(chosen)} would belong to the {shown} "
            "frames chosen; give those of all frames of the video, or of the chosen ones"
        )
    return chosen[even_numbers(shown, count)]


def even_numbers(count: int, chosen: int) -> np.ndarray:
    """(chosen,) numbers from 0 to count - 1, evenly spaced."""
    return np.linspace(0, count - 1, chosen).round().astype(int)
