"""One upload to frames, in a process that may be killed and cannot grow.

    python -m jog3r.space.guard.decode_upload FILE OUT SETTINGS

A stranger's file meets FFmpeg only here. What is wrong with it is printed as one line; limits are checked before any decoding.
"""

import json
import resource
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from jog3r.data.video import VideoLimits, read_video
from jog3r.space.guard.limits import Refused

__all__ = ["DecodeSettings", "main"]

_MEMORY_BYTES = 3 * 2**30  # address space, of which the libraries alone take a third
# What a file must begin with, as (offset, bytes): FFmpeg alone would also follow playlists to other files and addresses.
_CONTAINERS = {"MP4 or MOV": (4, b"ftyp"), "WebM or MKV": (0, b"\x1a\x45\xdf\xa3"), "AVI": (8, b"AVI ")}


@dataclass(frozen=True)
class DecodeSettings:
    """What to take of an upload, and the limits of `SpaceLimits` that bound it.

    Attributes:
        num_frames: Most frames to keep, evenly over the clip.
        size: Height and width to crop and scale to.
        max_bytes, max_seconds, max_frames, max_side, max_pixels: See `SpaceLimits`.
        cpu_seconds: Computing time of the process.
    """

    num_frames: int
    size: tuple[int, int]
    max_bytes: int
    max_seconds: float
    max_frames: int
    max_side: int
    max_pixels: int
    cpu_seconds: int

    def to_json(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))


def main(arguments: list[str]) -> int:
    """Decode; returns the exit code: 0 done, 2 refused with the reason on standard output."""
    path, out, settings = Path(arguments[0]), Path(arguments[1]), DecodeSettings(**json.loads(arguments[2]))
    if sys.platform == "linux":  # macOS refuses to set it
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (settings.cpu_seconds, settings.cpu_seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        frames, fps, stride = _decode(path, settings)
    except Refused as refusal:
        sys.stdout.write(str(refusal))
        return 2
    except ValueError as error:  # of read_video: names the server's path, which is nobody's business
        sys.stdout.write(f"The video cannot be read: {str(error).replace(repr(str(path)), 'it')}.")
        return 2
    except MemoryError:
        sys.stdout.write("Decoding the video needs too much memory; scale it down first.")
        return 2
    np.savez(out, frames=frames, fps=fps, stride=stride)
    return 0


def _decode(path: Path, settings: DecodeSettings) -> tuple[np.ndarray, float, int]:
    """Frames (F, H, W, 3) uint8, their frames per second, and the distance between them in frames of the file."""
    _check_file(path, settings)
    count = _count_frames(path, settings)
    if count < 2:
        raise Refused(f"The video has {count} frame; at least 2 are needed.")
    num_frames, stride = _even(count, settings.num_frames)
    video = read_video(
        path,
        max_frames=num_frames,
        stride=stride,
        stop=stride * (num_frames - 1) + 1,
        size=tuple(settings.size),
        resize_mode="crop",
        limits=VideoLimits(settings.max_seconds, settings.max_side),
    )
    return video.frames, video.fps, stride


def _even(count: int, most: int) -> tuple[int, int]:
    """Frames to take, at most `most` of `count`, and the stride that comes nearest to the clip's end."""
    shorter = max(1, (count - 1) // (most - 1))
    strides = (shorter, shorter + 1)  # the longer one takes fewer frames, and often spans much more
    numbers = [min(most, (count - 1) // stride + 1) for stride in strides]
    return max(zip(numbers, strides, strict=True), key=lambda pair: ((pair[0] - 1) * pair[1], pair[0]))


def _check_file(path: Path, settings: DecodeSettings) -> None:
    size = path.stat().st_size
    if size == 0:
        raise Refused("The file is empty (0 bytes); give a video file.")
    if size > settings.max_bytes:
        raise Refused(f"The file has {size / 2**20:.0f} MB; at most {settings.max_bytes / 2**20:.0f} MB are taken.")
    with path.open("rb") as file:
        head = file.read(16)
    if not any(head[offset : offset + len(magic)] == magic for offset, magic in _CONTAINERS.values()):
        raise Refused(f"This is no video file of a kind that is taken ({', '.join(_CONTAINERS)}).")


def _count_frames(path: Path, settings: DecodeSettings) -> int:
    """How many frames there are, from the header and the packets alone; nothing is decoded.

    Raises:
        Refused: A limit is passed.
    """
    try:
        container = av.open(str(path), metadata_errors="replace")
    except av.FFmpegError as error:
        raise Refused("The file cannot be opened as a video; it is damaged, cut off, or no video at all.") from error
    with container:
        if not container.streams.video or container.streams.video[0].codec_context is None:
            raise Refused("The file holds no video that can be decoded here; export it as MP4 (H.264).")
        stream = container.streams.video[0]
        _check_header(container, stream, settings)
        count = 0
        try:
            for packet in container.demux(stream):
                count += packet.size > 0
                if count > settings.max_frames:
                    raise _too_many(f"more than {settings.max_frames}", settings)
        except av.FFmpegError:  # cut off; read_video says where
            pass
        pixels = stream.width * stream.height
        if pixels * count > settings.max_pixels:
            raise Refused(
                f"Decoding {count} frames of {stream.width} x {stream.height} pixels is too much here; "
                "shorten the video or scale it down."
            )
        return count


def _check_header(container: Any, stream: Any, settings: DecodeSettings) -> None:
    if max(stream.width, stream.height) > settings.max_side or min(stream.width, stream.height) < 16:
        raise Refused(
            f"The video has {stream.width} x {stream.height} pixels; each side must lie between 16 and {settings.max_side}."
        )
    seconds = [float(stream.duration * stream.time_base)] if stream.duration is not None and stream.time_base else []
    seconds += [container.duration / av.time_base] if container.duration is not None else []
    if seconds and max(seconds) > settings.max_seconds:
        raise Refused(f"The video is {max(seconds):.0f} seconds long; at most {settings.max_seconds:.0f} are taken.")
    if stream.frames > settings.max_frames:
        raise _too_many(str(stream.frames), settings)


def _too_many(count: str, settings: DecodeSettings) -> Refused:
    return Refused(f"The video has {count} frames; at most {settings.max_frames} are taken.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
