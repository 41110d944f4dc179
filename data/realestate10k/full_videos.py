"""Clips of RealEstate10K out of copies of the full videos: the frames at the times of a camera file.

Letters: F frames, H W pixels.
"""

from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import numpy as np

from jog3r.data.local_files import visible_files
from jog3r.data.realestate10k.lists import VIDEO_SUFFIXES
from jog3r.data.recordings.resizing import fit_frame, square_size
from jog3r.data.recordings.shots import Shot, VideoLimits
from jog3r.data.recordings.video_file import VideoFile

__all__ = ["find_videos", "frames_at", "video_id"]

_LIMITS = VideoLimits(max_seconds=86_400.0, max_side=8192)  # what is cut out is short; the videos may be whole days


def video_id(url: str) -> str:
    """The video of a camera file's first line: `v` of https://www.youtube.com/watch?v=ID, else the last part of the address.

    Raises:
        ValueError: the address names none.
    """
    parts = urlparse(url)
    found = parse_qs(parts.query).get("v", [parts.path.rsplit("/", 1)[-1]])[0]
    if not found:
        raise ValueError(f"its first line names no video: {url!r}")
    return found


def find_videos(folder: str | PathLike[str]) -> dict[str, Path]:
    """Video files by what they may be asked for: their stem, and the `ID` of `title [ID].mp4`, as yt-dlp names them.

    Raises:
        ValueError: no such folder, or two files of one video.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is no folder; give the folder of the full videos")
    found: dict[str, Path] = {}
    for path in visible_files(folder, VIDEO_SUFFIXES):
        name = path.stem[:-1].rpartition("[")[2] if path.stem.endswith("]") else path.stem
        if name in found:
            raise ValueError(f"{str(folder)!r} holds two files of the video {name!r}: {found[name].name!r} and {path.name!r}")
        found[name] = path
    return found


def frames_at(path: str | PathLike[str], times: np.ndarray, short_side: int | None = None) -> np.ndarray:
    """The frames that a video shows nearest to these times, each at most half a frame away and none twice.

    Args:
        path: a video file; times count from its first frame.
        times: (F,) increasing, in microseconds.
        short_side: length in pixels that frames with a longer short side are reduced to; None keeps their own size.

    Returns:
        (F, H, W, 3) uint8 RGB with square pixels and even sides.

    Raises:
        ValueError: no video, a damaged one, one that ends early, or one whose frames do not lie where the times are.
    """
    video = VideoFile(Path(path), _LIMITS)
    wanted = np.asarray(times, dtype=np.float64) * 1e-6
    frames: list[np.ndarray] = []
    for shot in _nearest(video, wanted):
        frames.append(_picture(shot, short_side))
        if frames[-1].shape != frames[0].shape:
            raise ValueError(f"{str(path)!r} changes its size from {frames[0].shape[:2]} to {frames[-1].shape[:2]} (H, W)")
    return np.stack(frames)


def _nearest(video: VideoFile, wanted: np.ndarray) -> Iterator[Shot]:
    """The shot nearest to each of the times in seconds, which count from the first frame."""
    frame_seconds, before, taken = 1 / video.fps, None, None
    start = next(iter(video.shots())).time
    shots = video.shots(since=start + max(0.0, wanted[0] - frame_seconds))
    shot = next(shots, None)
    for time in wanted + start:
        while shot is not None and shot.time < time:
            before, shot = shot, next(shots, None)
        near = [one for one in (before, shot) if one is not None]
        best = min(near, key=lambda one: abs(one.time - time), default=None)
        if best is None or abs(best.time - time) > 0.5 * frame_seconds + 2e-3:
            last = f"; it ends at {before.time - start:.3f} s" if shot is None and before is not None else ""
            raise ValueError(f"{str(video.path)!r} shows no frame at {time - start:.3f} s{last}")
        if best is taken:
            raise ValueError(
                f"{str(video.path)!r} shows one frame for two cameras, the second at {time - start:.3f} s: its {video.fps:.4g} "
                "frames a second are fewer than the camera file's; take a copy at the original rate"
            )
        taken = best
        yield best


def _picture(shot: Shot, short_side: int | None) -> np.ndarray:
    """(H, W, 3) uint8 with square pixels and even sides, which H.264 needs: a last row that is repeated would move the centre."""
    frame = shot.picture()
    height, width = square_size(*frame.shape[:2], shot.aspect)
    scale = 1.0 if short_side is None else min(1.0, short_side / min(height, width))
    even = (2 * max(1, round(height * scale / 2)), 2 * max(1, round(width * scale / 2)))
    return fit_frame(frame, shot.aspect, even, "stretch")
