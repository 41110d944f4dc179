"""Video files as FFmpeg reads them: the best stream, its frames upright, their own times; damage is an error, not concealed."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData

from jog3r.data.recordings.pictures import BACKGROUND
from jog3r.data.recordings.resizing import square_size
from jog3r.data.recordings.shots import Shot, VideoLimits

__all__ = ["VideoFile", "open_video"]

_FALLBACK_FPS = 25.0  # of streams that state no rate, as FFmpeg takes it


class VideoFile:
    """A recording in a video file of any container; the content decides, not the extension.

    Raises:
        ValueError: the file is empty or no video that FFmpeg can decode, or passes a limit.
    """

    def __init__(self, path: Path, limits: VideoLimits) -> None:
        self.path, self._limits = path, limits
        with open_video(path) as (container, stream):
            self._check_side(stream, stream)
            seconds = _stated_seconds(container, stream)
            limits.check_seconds(path, seconds or 0.0)
            self.fps = _frame_rate(stream)
            # WebM and Matroska state a duration alone, AVI counts the moments at which nothing new is shown.
            self.counted = stream.frames > 0 and container.format.name != "avi"
            self.expected_frames = stream.frames or round((seconds or 0.0) * self.fps)

    def shots(self, since: float | None = None) -> Iterator[Shot]:
        """See `Recording`; `since` seconds skips what is shown before, by seeking where the container can."""
        with open_video(self.path) as (container, stream):
            clock, number, rotation, matrix = _Clock(stream), 0, None, (1, 0, 0, 1)
            for frame in _decode(self.path, container, stream, since):
                time = clock.tick(frame)
                self._limits.check_seconds(self.path, time - clock.first)
                self._check_side(frame, stream)
                if frame.rotation != rotation:  # to ask each frame would keep them all: PyAV ties frame and side data in a circle
                    rotation, matrix = frame.rotation, _display_matrix(self.path, frame)
                aspect = _aspect(stream)
                shown_aspect = 1 / aspect if matrix[0] == 0 else aspect
                yield Shot(time, partial(self._picture, frame, matrix), shown_aspect, f"frame {number}")
                number += 1
            if since is not None:
                return
            if number == 0:
                raise ValueError(f"{str(self.path)!r} holds no decodable video frame; it is damaged or no video")
            _check_complete(self.path, container, stream, clock)

    def _check_side(self, stored: Any, stream: Any) -> None:
        """Of a stream or frame: as stored, and with square pixels."""
        self._limits.check_side(self.path, stored.width, stored.height)
        height, width = square_size(stored.height, stored.width, _aspect(stream))
        self._limits.check_side(self.path, width, height)

    def _picture(self, frame: Any, matrix: tuple[int, int, int, int]) -> np.ndarray:
        try:
            return _upright_picture(frame, matrix)
        except (av.FFmpegError, ValueError) as error:
            raise ValueError(f"{str(self.path)!r} holds a frame that cannot be shown ({error}); export it again") from error


@contextmanager
def open_video(path: Path) -> Iterator[tuple[Any, Any]]:
    """PyAV's container and its best video stream, as FFmpeg ranks them: not a cover or thumbnail where there is more.

    Raises:
        ValueError: empty, no video, or coded in a way that cannot be decoded here.
    """
    with path.open("rb") as file:
        if not file.read(1):
            raise ValueError(f"{str(path)!r} is empty (0 bytes); give a video file")
        file.seek(0)
        # FFmpeg gets no name: in one, it would take "12:30.mp4" for a protocol and "%d" for a list of files.
        nameless = SimpleNamespace(read=file.read, seek=file.seek, tell=file.tell)
        try:
            container = av.open(nameless, metadata_errors="replace")
        except av.FFmpegError as error:
            raise ValueError(
                f"{str(path)!r} cannot be opened as a video ({error.strerror}); it is damaged, cut off, or no video at all"
            ) from error
        with container:
            yield container, _best_stream(path, container)


def _best_stream(path: Path, container: Any) -> Any:
    stream = container.streams.best("video") if container.streams.video else None
    if stream is None:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "no streams"
        raise ValueError(f"{str(path)!r} holds no video stream (found: {kinds}); give a video file")
    if stream.disposition & av.stream.Disposition.attached_pic:
        raise ValueError(f"{str(path)!r} holds no video stream, only a cover picture; give a video file")
    if stream.codec_context is None:
        raise ValueError(f"{str(path)!r} is coded in a way this FFmpeg cannot decode; convert it to H.264 first")
    return stream


def _decode(path: Path, container: Any, stream: Any, since: float | None = None) -> Iterator[Any]:
    """All frames in order of display; anything damaged is an error, where the decoder alone would conceal it.

    With `since`, in seconds, the frames from there on. What is decoded on the way may refer to frames before the place that
    was sought, and is not looked at.
    """
    packets = 0
    if since is not None:
        _seek(container, stream, since)
    try:
        for packet in container.demux(stream):
            packets += packet.size > 0
            if packet.is_corrupt:
                raise ValueError(f"{str(path)!r} is damaged or cut off at packet {packets}; copy or export the video again")
            for frame in packet.decode():
                if since is not None and frame.time is not None and frame.time < since:
                    continue
                if frame.is_corrupt:
                    raise ValueError(f"{str(path)!r} has a damaged frame near packet {packets}; copy or export the video again")
                yield frame
    except av.FFmpegError as error:
        raise ValueError(
            f"{str(path)!r} stops decoding at packet {packets} ({error.strerror}); damaged or cut off: copy or export it again"
        ) from error
    if since is None and packets < stream.frames and not (container.format.name == "avi" and is_whole_avi(path)):
        raise ValueError(
            f"{str(path)!r} is cut off: {packets} of the {stream.frames} frames stated are there; copy or export it again"
        )


def is_whole_avi(path: Path) -> bool:
    """Whether the file is as long as its own parts say. Of the frames stated, some may be moments that show nothing new."""
    end, place = path.stat().st_size, 0
    with path.open("rb") as file:
        while file.read(4) == b"RIFF":
            place += 8 + int.from_bytes(file.read(4), "little")
            file.seek(place)
    return place <= end


def _seek(container: Any, stream: Any, seconds: float) -> None:
    """To the last key frame before that time; a container that cannot seek, or lands behind it, is read from its start."""
    try:
        container.seek(int(seconds / stream.time_base), stream=stream)
        times = (packet.dts if packet.pts is None else packet.pts for packet in container.demux(stream) if packet.size)
        first = next(times, None)
        behind = first is None or float(first * stream.time_base) > seconds
        container.seek(0 if behind else int(seconds / stream.time_base), stream=stream)
    except av.FFmpegError:
        pass  # raw streams: nothing has been read yet


# Times


def _frame_rate(stream: Any) -> float:
    return float(stream.average_rate or stream.guessed_rate or _FALLBACK_FPS)


def _stated_seconds(container: Any, stream: Any) -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration is not None else None


class _Clock:
    """The times of the pictures of a stream, and where they have got to."""

    def __init__(self, stream: Any) -> None:
        self._start = float((stream.start_time or 0) * stream.time_base)
        self.frame_seconds = 1 / _frame_rate(stream)
        self.count, self.first, self._last, self.longest = 0, 0.0, -math.inf, self.frame_seconds

    def tick(self, frame: Any) -> float:
        """Time of the next frame in seconds: its own; one without, or not after the frame before, follows that as players do."""
        time = self._start if frame.time is None and not self.count else frame.time
        if time is None or time <= self._last:
            time = self._last + self.frame_seconds
        if self.count:
            self.longest = max(self.longest, time - self._last)
        else:
            self.first = time
        self.count, self._last = self.count + 1, time
        return time

    @property
    def end(self) -> float:
        """Seconds from the stream's start to the end of its last frame."""
        return self._last - self._start + self.frame_seconds


def _check_complete(path: Path, container: Any, stream: Any, clock: _Clock) -> None:
    """Containers without a frame count (WebM, Matroska) state a duration: what was decoded has to reach it."""
    seconds = _stated_seconds(container, stream)
    # With sound the container's duration may be the sound's, which says nothing about the pictures.
    if stream.frames or seconds is None or len(container.streams) > 1:
        return
    # Frames of a variable rate may stand longer than the average one: as long as any before.
    if clock.end - clock.frame_seconds + 1.5 * clock.longest < seconds:
        raise ValueError(
            f"{str(path)!r} is cut off: {clock.count} frames end at {clock.end:.2f} s, its header states {seconds:.2f} s; "
            "copy or export it again"
        )


# Pictures


def _aspect(stream: Any) -> float:
    """Width of a stored pixel over its height."""
    return float(stream.sample_aspect_ratio or 1)


def _display_matrix(path: Path, frame: Any) -> tuple[int, int, int, int]:
    """a, b, c, d in -1, 0, 1: a stored pixel (x, y) is shown at (a x + c y, b x + d y), apart from a shift.

    Raises:
        ValueError: a turn by an angle other than a multiple of 90 degrees.
    """
    data = frame.side_data.get(SideData.DISPLAYMATRIX)
    if data is None:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5] / 65536
    if not a * d - b * c:
        return 1, 0, 0, 1  # players take no notice of a matrix that shows nothing
    signs = [int(np.sign(value)) if abs(value) > 0.02 * max(abs(a), abs(b), abs(c), abs(d)) else 0 for value in (a, b, c, d)]
    if sum(map(abs, signs)) != 2 or bool(signs[0]) != bool(signs[3]):
        raise ValueError(f"{str(path)!r} is to be shown turned by {abs(frame.rotation)} degrees; export it upright")
    return signs[0], signs[1], signs[2], signs[3]


def _upright_picture(frame: Any, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """(H, W, 3) uint8 RGB as players show it, also of 10 and 12 bits; what is transparent shows the background."""
    if frame.format.has_palette or any(component.is_alpha for component in frame.format.components):
        rgba = frame.to_ndarray(format="rgba").astype(np.uint16)
        alpha = rgba[..., 3:]
        picture = ((rgba[..., :3] * alpha + BACKGROUND * (255 - alpha) + 127) // 255).astype(np.uint8)
    else:
        picture = frame.to_ndarray(format="rgb24")
    a, b, c, d = matrix
    if a == 0:
        picture, flip_x, flip_y = picture.swapaxes(0, 1), c < 0, b < 0
    else:
        flip_x, flip_y = a < 0, d < 0
    return np.ascontiguousarray(picture[:: -1 if flip_y else 1, :: -1 if flip_x else 1])
