"""Reading a user's own clips: video files of any container, or a folder of images; and resizing with the cameras in step.

Letters: F frames, H W pixels. Pixel centres lie at integer coordinates, as everywhere in jog3r.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

__all__ = ["FOLDER_FPS", "Video", "VideoLimits", "read_video", "resize_frames"]

FOLDER_FPS = 8.0  # a folder of images has no clock; this one is written to the results
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_NO_END = 2**62


class Video(NamedTuple):
    """Decoded frames (F, H, W, 3) uint8 RGB and their frames per second (after `stride`)."""

    frames: np.ndarray
    fps: float


@dataclass(frozen=True)
class VideoLimits:
    """What is refused before anything is decoded, so that a hostile or mistaken file costs nothing.

    Attributes:
        max_seconds: Longest duration that the container may state.
        max_side: Largest width or height in pixels.
    """

    max_seconds: float = 3600.0
    max_side: int = 4096


DEFAULT_LIMITS = VideoLimits()


def read_video(
    path: str | Path,
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

    Nothing is dropped unasked: too many frames, a file that ends early or a frame that does not decode are errors. Whether a file
    ends early is known from the frame count or the duration that its container states; streams without either (MPEG-TS, raw
    H.264) cannot tell.

    Args:
        path: Video file (the content decides, not the extension) or folder.
        max_frames: Refuse when the selection holds more.
        stride: Take every stride-th frame, >= 1.
        start: First frame, >= 0.
        stop: Frame to stop before; None reads to the end.
        size: (height, width) to resize to while reading, see `resize_frames`; None keeps the size.
        resize_mode: "stretch" or "crop", used with `size`.
        limits: Duration and resolution refused before decoding.

    Returns:
        `Video(frames, fps)`; at least 2 frames. A folder gets `FOLDER_FPS / stride`.

    Raises:
        ValueError: The file is missing, empty, truncated, damaged or no video, the selection has fewer than 2 or more than
            `max_frames` frames, a limit is passed, or an argument is out of range. The message names the path and the remedy.
    """
    path = Path(path)
    _check_selection(max_frames, stride, start, stop)
    if not path.exists():
        raise ValueError(f"{str(path)!r} does not exist; give the path of a video file or of a folder of images")
    request = _Request(path, range(start, _NO_END if stop is None else stop, stride), max_frames, size, resize_mode, limits)
    frames, fps = (_read_folder(request), FOLDER_FPS) if path.is_dir() else _read_file(request)
    if len(frames) < 2:
        raise ValueError(
            f"{str(path)!r} gives {len(frames)} frame with start={start}, stop={stop}, stride={stride}; a clip needs at least 2"
        )
    return Video(np.stack(frames), fps / stride)


def resize_frames(frames: np.ndarray, height: int, width: int, mode: str = "stretch") -> tuple[np.ndarray, np.ndarray]:
    """Resize a clip and say what that does to its cameras.

    Args:
        frames: (F, H, W, 3) uint8.
        height: New height in pixels.
        width: New width in pixels.
        mode: "stretch" (all of the image, aspect may change, so fx and fy scale differently) or "crop" (the largest centred
            part of the new aspect).

    Returns:
        (F, height, width, 3) uint8, and the (3, 3) float64 map T of pixel coordinates: new intrinsics = T @ old intrinsics.

    Raises:
        ValueError: Wrong shape, dtype, size or mode.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise ValueError(f"frames must be (F, H, W, 3) uint8, got shape {frames.shape} of {frames.dtype}")
    if height < 1 or width < 1:
        raise ValueError(f"the new size must be at least 1 x 1 pixels, got height {height}, width {width}")
    box = _crop_box(frames.shape[1], frames.shape[2], height, width, mode)
    resized = np.stack([_resize_image(Image.fromarray(frame), height, width, box) for frame in frames])
    left, top, right, bottom = box
    scale_x, scale_y = width / (right - left), height / (bottom - top)
    # The box is in edge coordinates (first pixel from 0 to 1), ours are half a pixel less: shift, scale, shift back.
    transform = np.array([[scale_x, 0, (0.5 - left) * scale_x - 0.5], [0, scale_y, (0.5 - top) * scale_y - 0.5], [0, 0, 1]])
    return resized, transform


@dataclass(frozen=True)
class _Request:
    """The arguments of one `read_video`."""

    path: Path
    selection: range
    max_frames: int
    size: tuple[int, int] | None
    mode: str
    limits: VideoLimits

    def check_size(self, width: int, height: int) -> None:
        if max(width, height) > self.limits.max_side:
            raise ValueError(
                f"{str(self.path)!r} is {width} x {height} pixels, more than the {self.limits.max_side} allowed a side; "
                "scale it down first or raise VideoLimits.max_side"
            )

    def too_many(self, count: str) -> ValueError:
        return ValueError(
            f"{str(self.path)!r} gives {count} frames, more than max_frames={self.max_frames}; cut it with start and stop, "
            "subsample it with stride, or go window by window (docs/long_videos.md; on the command line --window 16)"
        )

    def resized(self, image: np.ndarray) -> np.ndarray:
        return image if self.size is None else resize_frames(image[None], *self.size, self.mode)[0][0]


def _check_selection(max_frames: int, stride: int, start: int, stop: int | None) -> None:
    if max_frames < 2:
        raise ValueError(f"max_frames must be at least 2, got {max_frames}")
    if stride < 1:
        raise ValueError(f"stride must be at least 1, got {stride}")
    if start < 0 or (stop is not None and stop <= start):
        raise ValueError(f"need 0 <= start < stop, got start={start}, stop={stop}")


def _crop_box(old_height: int, old_width: int, height: int, width: int, mode: str) -> tuple[float, float, float, float]:
    """The part of the old image that is shown: (left, top, right, bottom) in edge coordinates."""
    if mode == "stretch":
        return 0.0, 0.0, float(old_width), float(old_height)
    if mode != "crop":
        raise ValueError(f"resize mode must be 'stretch' or 'crop', got {mode!r}")
    zoom = min(old_width / width, old_height / height)
    left, top = (old_width - zoom * width) / 2, (old_height - zoom * height) / 2
    return left, top, left + zoom * width, top + zoom * height


def _resize_image(image: Image.Image, height: int, width: int, box: tuple[float, float, float, float]) -> np.ndarray:
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS, box=box))


# Video files


def _read_file(request: _Request) -> tuple[list[np.ndarray], float]:
    path, limits, selection = request.path, request.limits, request.selection
    if path.stat().st_size == 0:
        raise ValueError(f"{str(path)!r} is empty (0 bytes); give a video file")
    try:
        container = av.open(str(path), metadata_errors="replace")
    except av.FFmpegError as error:
        raise ValueError(
            f"{str(path)!r} cannot be opened as a video ({error.strerror}); it is damaged, cut off, or no video at all"
        ) from error
    with container:
        if not container.streams.video:
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "no streams"
            raise ValueError(f"{str(path)!r} holds no video stream (found: {kinds}); give a video file")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise ValueError(f"{str(path)!r} is coded in a way this FFmpeg cannot decode; convert it to H.264 first")
        request.check_size(stream.width, stream.height)
        seconds = _stated_seconds(container, stream)
        if seconds is not None and seconds > limits.max_seconds:
            raise ValueError(
                f"{str(path)!r} is {seconds:.0f} s long, more than {limits.max_seconds:.0f} s; cut it first or raise "
                "VideoLimits.max_seconds"
            )
        selected = len(range(selection.start, min(stream.frames, selection.stop), selection.step))
        if selected > request.max_frames:
            raise request.too_many(str(selected))
        return _collect(request, container, stream), _frame_rate(stream)


def _frame_rate(stream: Any) -> float:
    return float(stream.average_rate or stream.guessed_rate or 25)


def _stated_seconds(container: Any, stream: Any) -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration is not None else None


def _collect(request: _Request, container: Any, stream: Any) -> list[np.ndarray]:
    """Decode in order, keep the selected frames, and stop as soon as the selection is complete."""
    kept: list[np.ndarray] = []
    shape, count, clock = None, 0, _Clock(stream)
    for frame in _decode(request.path, container, stream):
        if count in request.selection:
            if len(kept) == request.max_frames:
                raise request.too_many(f"more than {request.max_frames}")
            request.check_size(frame.width, frame.height)
            # The display matrix of telephones: both count counterclockwise.
            image = np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))
            if shape not in (None, image.shape) and request.size is None:
                raise ValueError(f"{str(request.path)!r} changes its size at frame {count}; give size=(height, width)")
            shape = image.shape
            kept.append(request.resized(image))
        count += 1
        clock.tick(frame)
        if count >= request.selection.stop:
            return kept
    if count == 0:
        raise ValueError(f"{str(request.path)!r} holds no decodable video frame; it is damaged or no video")
    _check_complete(request.path, container, stream, clock)
    return kept


def _decode(path: Path, container: Any, stream: Any) -> Iterator[Any]:
    """All frames in order of display; anything damaged is an error, where the decoder alone would conceal it."""
    packets = 0
    try:
        for packet in container.demux(stream):
            packets += packet.size > 0
            if packet.is_corrupt:
                raise ValueError(f"{str(path)!r} is damaged or cut off at packet {packets}; copy or export the video again")
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise ValueError(f"{str(path)!r} has a damaged frame near packet {packets}; copy or export the video again")
                yield frame
    except av.FFmpegError as error:
        raise ValueError(
            f"{str(path)!r} stops decoding at packet {packets} ({error.strerror}); damaged or cut off: copy or export it again"
        ) from error
    if packets < stream.frames:
        raise ValueError(
            f"{str(path)!r} is cut off: {packets} of the {stream.frames} frames stated are there; copy or export it again"
        )


class _Clock:
    """Where the pictures of a stream have got to."""

    def __init__(self, stream: Any) -> None:
        self.start = float((stream.start_time or 0) * stream.time_base)
        self.frame_seconds = 1 / _frame_rate(stream)
        self.count, self.end, self.longest = 0, 0.0, self.frame_seconds

    def tick(self, frame: Any) -> None:
        begin = self.end if frame.time is None else float(frame.time) - self.start
        if self.count:
            self.longest = max(self.longest, begin + self.frame_seconds - self.end)
        self.count, self.end = self.count + 1, begin + self.frame_seconds


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


# Folders of images


def _read_folder(request: _Request) -> list[np.ndarray]:
    files = (file for file in request.path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith("."))
    names = sorted(files, key=_natural)
    if not names:
        raise ValueError(
            f"the folder {str(request.path)!r} holds no images ({', '.join(IMAGE_SUFFIXES)}); give a video file or images"
        )
    selection = request.selection
    chosen = names[selection.start : min(selection.stop, len(names)) : selection.step]
    if len(chosen) > request.max_frames:
        raise request.too_many(str(len(chosen)))
    frames: list[np.ndarray] = []
    for name in chosen:
        image = _read_image(name, request)
        if frames and request.size is None and image.shape != frames[0].shape:
            raise ValueError(
                f"images in {str(request.path)!r} differ in size: {name.name!r} is {image.shape[1]} x {image.shape[0]}, "
                f"{chosen[0].name!r} is {frames[0].shape[1]} x {frames[0].shape[0]}; give size=(height, width) or equal sizes"
            )
        frames.append(request.resized(image))
    return frames


def _read_image(path: Path, request: _Request) -> np.ndarray:
    try:
        with Image.open(path) as image:
            request.check_size(*image.size)
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{str(path)!r} is no readable image ({error}); remove or replace it") from error


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key by which frame_2 comes before frame_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name.lower())]
