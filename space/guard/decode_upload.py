"""One upload to frames, in a process that may be killed and cannot grow.

    python -m jog3r.space.guard.decode_upload FILE OUT WANTED LIMITS

A stranger's file meets FFmpeg only here. What is wrong with it is printed as one line; limits are checked before any decoding.
"""

import json
import re
import resource
import sys
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from jog3r.data.recordings.video_file import is_whole_avi, open_video
from jog3r.data.video import Video, VideoLimits, read_frames
from jog3r.data.video_stream import EndsEarly
from jog3r.space.guard.limits import Refused, SpaceLimits

_MEMORY_BYTES = 3 * 2**30  # address space, of which the libraries alone take a third
# What a file must begin with, as (offset, bytes): FFmpeg alone would also follow playlists to other files and addresses.
_CONTAINERS = {"MP4 or MOV": (4, b"ftyp"), "WebM or MKV": (0, b"\x1a\x45\xdf\xa3"), "AVI": (8, b"AVI ")}


class Wanted(NamedTuple):
    """What to take of an upload.

    Attributes:
        num_frames: Most frames to keep, evenly over the clip.
        size: Height and width to crop and scale to.
        large: Side of a square to crop and scale to instead, where the frames are as large; 0 never.
        step: Numbers of frames that the model takes are this apart, from 1.
    """

    num_frames: int
    size: tuple[int, int]
    large: int = 0
    step: int = 1


def main(arguments: list[str]) -> int:
    """Decode; returns the exit code: 0 done, 2 refused with the reason on standard output."""
    path, out, wanted, limits = Path(arguments[0]), Path(arguments[1]), *map(json.loads, arguments[2:])
    wanted, limits = Wanted(*wanted), SpaceLimits(**limits)
    if sys.platform == "linux":  # macOS refuses to set it
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (int(limits.decode_seconds), int(limits.decode_seconds) + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        video, numbers = _decode(path, wanted, limits)
    except Refused as refusal:
        sys.stdout.write(str(refusal))
        return 2
    except ValueError as error:  # of the reader: names the server's path and settings, which are nobody's business
        reason = re.sub(r" or raise VideoLimits\.\w+", "", str(error).replace(repr(str(path)), "it"))
        sys.stdout.write(f"The video cannot be read: {reason}.")
        return 2
    except MemoryError:
        sys.stdout.write("Decoding the video needs too much memory; scale it down first.")
        return 2
    np.savez(out, frames=video.frames, fps=video.fps, times=video.times, numbers=numbers)
    return 0


def _decode(path: Path, wanted: Wanted, limits: SpaceLimits) -> tuple[Video, list[int]]:
    """The frames taken, and their numbers in the file."""
    _check_file(path, limits)
    count, side = _count_packets(path, limits)
    wanted = wanted._replace(size=(wanted.large,) * 2) if 0 < wanted.large <= side else wanted
    try:
        return _take(path, count, wanted, limits)
    except EndsEarly as error:  # some packets show nothing: an edit list hides them, or they only help to decode others
        return _take(path, error.count, wanted, limits)


def _take(path: Path, count: int, wanted: Wanted, limits: SpaceLimits) -> tuple[Video, list[int]]:
    """Frames of a clip of `count`, evenly from the first to the last."""
    if count < 2:
        raise Refused(f"The video has {count} frame; at least 2 are needed.")
    kept = max(2, min(count, wanted.num_frames) - (min(count, wanted.num_frames) - 1) % wanted.step)
    numbers = np.linspace(0, count - 1, kept).round().astype(int).tolist()
    bounds = VideoLimits(limits.upload_seconds, limits.upload_side)
    return read_frames(path, numbers, size=wanted.size, resize_mode="crop", limits=bounds), numbers


def _check_file(path: Path, limits: SpaceLimits) -> None:
    size = path.stat().st_size
    if size == 0:
        raise Refused("The file is empty (0 bytes); give a video file.")
    if size > limits.upload_bytes:
        raise Refused(f"The file has {size / 2**20:.0f} MB; at most {limits.upload_bytes / 2**20:.0f} MB are taken.")
    with path.open("rb") as file:
        head = file.read(16)
    if not any(head[offset : offset + len(magic)] == magic for offset, magic in _CONTAINERS.values()):
        raise Refused(f"This is no video file of a kind that is taken ({', '.join(_CONTAINERS)}).")


def _count_packets(path: Path, limits: SpaceLimits) -> tuple[int, int]:
    """How many frames to expect, and their shorter side, from the header and the packets alone; nothing is decoded.

    Raises:
        Refused: A limit is passed, or the file is cut off.
        ValueError: It is no video that can be decoded.
    """
    with open_video(path) as (container, stream):
        _check_header(container, stream, limits)
        count = 0
        try:
            for packet in container.demux(stream):
                count += packet.size > 0
                if count > limits.upload_frames:
                    raise _too_many(f"more than {limits.upload_frames}", limits)
        except av.FFmpegError as error:
            raise Refused(f"The video is damaged or cut off behind frame {count}; copy or export it again.") from error
        if count < stream.frames and not (container.format.name == "avi" and is_whole_avi(path)):
            raise Refused(f"The video is cut off: {count} of {stream.frames} frames are there; copy or export it again.")
        pixels = stream.width * stream.height
        if pixels * count > limits.upload_pixels:
            raise Refused(
                f"Decoding {count} frames of {stream.width} x {stream.height} pixels is too much here; "
                "shorten the video or scale it down."
            )
        return count, min(stream.width, stream.height)


def _check_header(container: Any, stream: Any, limits: SpaceLimits) -> None:
    if max(stream.width, stream.height) > limits.upload_side or min(stream.width, stream.height) < 16:
        raise Refused(
            f"The video has {stream.width} x {stream.height} pixels; each side must lie between 16 and {limits.upload_side}."
        )
    seconds = [float(stream.duration * stream.time_base)] if stream.duration is not None and stream.time_base else []
    seconds += [container.duration / av.time_base] if container.duration is not None else []
    if seconds and max(seconds) > limits.upload_seconds:
        raise Refused(f"The video is {max(seconds):.0f} seconds long; at most {limits.upload_seconds:.0f} are taken.")
    if stream.frames > limits.upload_frames:
        raise _too_many(str(stream.frames), limits)


def _too_many(count: str, limits: SpaceLimits) -> Refused:
    return Refused(f"The video has {count} frames; at most {limits.upload_frames} are taken.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
