"""Frames of a video of any length, one at a time: what `read_video` reads, without holding it all."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np

from jog3r.data.video import (
    _NO_END,
    DEFAULT_LIMITS,
    FOLDER_FPS,
    IMAGE_SUFFIXES,
    VideoLimits,
    _check_complete,
    _check_selection,
    _Clock,
    _decode,
    _frame_rate,
    _natural,
    _read_image,
    _Request,
    _stated_seconds,
)

__all__ = ["FrameStream", "stream_video"]


class FrameStream:
    """Selected frames of a video file or a folder of images, each (H, W, 3) uint8 RGB; may be iterated again.

    Attributes:
        fps: frames per second after the stride.
    """

    def __init__(self, request: Any) -> None:
        self._request = request
        self.fps, self._hint = self._inspect_folder() if request.path.is_dir() else self._inspect_file()
        self.fps /= request.selection.step

    def __length_hint__(self) -> int:
        """How many frames to expect by what the container states; 0 for unknown."""
        return self._hint

    def __iter__(self) -> Iterator[np.ndarray]:
        """The frames in order.

        Raises:
            ValueError: the file is damaged or cut off, or the frames differ in size and no size was asked for.
        """
        shape = None
        for number, image in self._folder_images() if self._request.path.is_dir() else self._file_images():
            if shape not in (None, image.shape):
                raise ValueError(f"{str(self._request.path)!r} changes its size at frame {number}; give size=(height, width)")
            shape = image.shape
            yield image

    def _inspect_folder(self) -> tuple[float, int]:
        return FOLDER_FPS, len(self._names())

    def _names(self) -> list[Path]:
        path, selection = self._request.path, self._request.selection
        files = (file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith("."))
        names = sorted(files, key=_natural)
        if not names:
            raise ValueError(f"the folder {str(path)!r} holds no images ({', '.join(IMAGE_SUFFIXES)}); give a video or images")
        return names[selection.start : min(selection.stop, len(names)) : selection.step]

    def _inspect_file(self) -> tuple[float, int]:
        selection, limits = self._request.selection, self._request.limits
        with self._open() as container:
            stream = self._stream(container)
            seconds = _stated_seconds(container, stream)
            if seconds is not None and seconds > limits.max_seconds:
                raise ValueError(
                    f"{str(self._request.path)!r} is {seconds:.0f} s long, more than {limits.max_seconds:.0f} s; cut it first or "
                    "raise VideoLimits.max_seconds"
                )
            rate = _frame_rate(stream)
            stated = stream.frames or round((seconds or 0.0) * rate)  # WebM and Matroska state a duration alone
            return rate, len(range(selection.start, min(stated, selection.stop), selection.step))

    def _open(self) -> Any:
        path = self._request.path
        if path.stat().st_size == 0:
            raise ValueError(f"{str(path)!r} is empty (0 bytes); give a video file")
        try:
            return av.open(str(path), metadata_errors="replace")
        except av.FFmpegError as error:
            raise ValueError(
                f"{str(path)!r} cannot be opened as a video ({error.strerror}); it is damaged, cut off, or no video at all"
            ) from error

    def _stream(self, container: Any) -> Any:
        path = self._request.path
        if not container.streams.video or container.streams.video[0].codec_context is None:
            raise ValueError(f"{str(path)!r} holds no video stream that this FFmpeg can decode; give a video file")
        stream = container.streams.video[0]
        self._request.check_size(stream.width, stream.height)
        return stream

    def _file_images(self) -> Iterator[tuple[int, np.ndarray]]:
        request, count = self._request, 0
        with self._open() as container:
            stream = self._stream(container)
            clock = _Clock(stream)
            for frame in _decode(request.path, container, stream):
                if count in request.selection:
                    request.check_size(frame.width, frame.height)
                    # The display matrix of telephones: both count counterclockwise.
                    image = np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))
                    yield count, request.resized(image)
                count += 1
                clock.tick(frame)
                if count >= request.selection.stop:
                    return
            _check_complete(request.path, container, stream, clock)

    def _folder_images(self) -> Iterator[tuple[int, np.ndarray]]:
        for number, name in enumerate(self._names()):
            yield number, self._request.resized(_read_image(name, self._request))


def stream_video(
    path: str | Path,
    *,
    stride: int = 1,
    start: int = 0,
    stop: int | None = None,
    size: tuple[int, int] | None = None,
    resize_mode: str = "stretch",
    limits: VideoLimits = DEFAULT_LIMITS,
) -> FrameStream:
    """Frames `start:stop:stride` of a video file or of a folder of images; see `read_video` for the arguments.

    Raises:
        ValueError: the file is missing, empty or no video, a limit is passed, or an argument is out of range; while iterating
            also what is found only then.
    """
    path = Path(path)
    _check_selection(2, stride, start, stop)
    if not path.exists():
        raise ValueError(f"{str(path)!r} does not exist; give the path of a video file or of a folder of images")
    selection = range(start, _NO_END if stop is None else stop, stride)
    return FrameStream(_Request(path, selection, _NO_END, size, resize_mode, limits))
