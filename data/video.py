"""Reading a user's own clips: video files of any container, animated pictures, or a folder of images.

Letters: F frames, H W pixels. Pixel centres lie at integer coordinates, as everywhere in jog3r.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from jog3r.data.recordings.picture_folder import FOLDER_FPS
from jog3r.data.recordings.pictures import IMAGE_SUFFIXES
from jog3r.data.recordings.resizing import resize_frames
from jog3r.data.recordings.shots import DEFAULT_LIMITS, VideoLimits
from jog3r.data.video_stream import FrameStream, Resizing, stream_video

__all__ = ["FOLDER_FPS", "IMAGE_SUFFIXES", "Video", "VideoLimits", "read_frames", "read_video", "resize_frames"]


@dataclass(frozen=True)
class Video:
    """Decoded frames with their times; `frames, fps = video` works, too.

    Attributes:
        frames: (F, H, W, 3) uint8 RGB.
        fps: frames per second of the selection, the mean where the rate varies.
        times: (F,) float64, when each frame is shown, in seconds of the file's own clock, as ffprobe prints them; ascending.
    """

    frames: np.ndarray
    fps: float
    times: np.ndarray

    def __iter__(self) -> Iterator[Any]:
        """Frames and fps."""
        return iter((self.frames, self.fps))


def read_video(
    path: str | os.PathLike[str],
    *,
    max_frames: int = 64,
    stride: int = 1,
    start: int = 0,
    stop: int | None = None,
    size: tuple[int, int] | None = None,
    resize_mode: str = "stretch",
    limits: VideoLimits = DEFAULT_LIMITS,
) -> Video:
    """Read frames `start:stop:stride` of a video file or of a folder of images (in natural order of their names).

    Frames come as players show them: display matrix or EXIF orientation applied, pixels square, the stream that FFmpeg ranks
    best, 8 bits of each colour, white behind what is transparent. Nothing is dropped unasked: too many frames, a file that ends
    early, a frame that does not decode or a picture of an unknown kind are errors. Whether a file ends early is known from the
    frame count or the duration that its container states; streams without either (MPEG-TS, raw H.264) cannot tell.

    Args:
        path: Video file or animated picture (the content decides, not the extension), or folder.
        max_frames: Refuse when the selection holds more.
        stride: Take every stride-th frame, >= 1.
        start: First frame, >= 0.
        stop: Frame to stop before; None reads to the end.
        size: (height, width) to resize to while reading, see `resize_frames`; None keeps the size (of square pixels).
        resize_mode: "stretch" or "crop", used with `size`.
        limits: Duration and resolution refused, before decoding where they are stated.

    Returns:
        `Video(frames, fps, times)`; at least 2 frames. A folder gets `FOLDER_FPS / stride`, and place / `FOLDER_FPS` as times.

    Raises:
        ValueError: The file is missing, empty, truncated, damaged or no video, the selection has fewer than 2 or more than
            `max_frames` frames, a limit is passed, or an argument is out of range. The message names the path and the remedy.
    """
    if max_frames < 2:
        raise ValueError(f"max_frames must be at least 2, got {max_frames}")
    stream = stream_video(path, stride=stride, start=start, stop=stop, size=size, resize_mode=resize_mode, limits=limits)
    if stream.counted and stream.expected_frames > max_frames:
        raise _too_many(stream, str(stream.expected_frames), max_frames)
    return _collect(stream, max_frames, f"start={start}, stop={stop}, stride={stride}")


def read_frames(
    path: str | os.PathLike[str],
    numbers: Sequence[int],
    *,
    size: tuple[int, int] | None = None,
    resize_mode: str = "stretch",
    limits: VideoLimits = DEFAULT_LIMITS,
) -> Video:
    """Read the frames with these numbers, which need not be evenly apart: `numpy.linspace(0, 149, 16).round()` gives 16 of 150.

    Args:
        path: As of `read_video`, as all other arguments.
        numbers: Ascending frame numbers, the first frame has 0; at least 2.
        size: (height, width), or None.
        resize_mode: "stretch" or "crop".
        limits: Duration and resolution refused.

    Returns:
        `Video(frames, fps, times)`; fps is the mean of the frames taken.

    Raises:
        ValueError: As `read_video`; `EndsEarly`, which is one, where there are not as many frames.
    """
    numbers = [int(number) for number in numbers]
    if len(numbers) < 2 or numbers[0] < 0 or any(after <= before for before, after in pairwise(numbers)):
        raise ValueError(f"numbers must be two or more ascending frame numbers from 0, got {numbers}")
    video = _collect(FrameStream(path, numbers, Resizing(size, resize_mode), limits), len(numbers), f"numbers={numbers}")
    return replace(video, fps=(len(numbers) - 1) / float(video.times[-1] - video.times[0]))


def _collect(stream: FrameStream, max_frames: int, selection: str) -> Video:
    times: list[float] = []
    frames: list[np.ndarray] = []
    for time, frame in stream.timed():
        if len(frames) == max_frames:
            raise _too_many(stream, f"more than {max_frames}", max_frames)
        times.append(time)
        frames.append(frame)
    if len(frames) < 2:
        count = "1 frame" if frames else "no frame"
        raise ValueError(f"{str(stream.path)!r} gives {count} with {selection}; a clip needs at least 2")
    return Video(np.stack(frames), stream.fps, np.array(times))


def _too_many(stream: FrameStream, count: str, max_frames: int) -> ValueError:
    return ValueError(
        f"{str(stream.path)!r} gives {count} frames, more than max_frames={max_frames}; cut it with start and stop, "
        "subsample it with stride (of jog3r.data.video.read_video or of the command line), or go window by window "
        "(docs/long_videos.md; on the command line --window)"
    )
