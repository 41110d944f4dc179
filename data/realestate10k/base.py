"""What RealEstate10K's four shapes have in common: captions, resizing, thinning, and a clip out of cameras and frames."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from jog3r.data.clip import Clip
from jog3r.data.poses import rebase_poses
from jog3r.data.realestate10k.camera_files import CameraFile, pixel_intrinsics
from jog3r.data.realestate10k.lists import own_last_parts, read_captions
from jog3r.data.recordings.resizing import resize_frames
from jog3r.data.source import check_count, check_frame_step, check_resize_mode, list_hash, step_setting
from jog3r.data.video_stream import stream_video

__all__ = ["RealEstate10KSource", "stream_bytes"]

Item = TypeVar("Item")


class RealEstate10KSource:
    """A source of posed videos whose depth is unknown.

    Subclasses set `names` and write `_read` and, where they can, `_own_caption` and `_cameras`.

    Args:
        size: (H, W) to resize to; None leaves the frames as they are.
        captions: json of captions by clip, for clips without one of their own; see `read_captions`.
        resize_mode: "stretch" (the paper's squares) or "crop".
        default_caption: of clips that have none; None refuses them.
        frame_step: take every n-th frame, from the first.
    """

    names: Sequence[str]

    def __init__(
        self,
        size: tuple[int, int] | None,
        captions: str | PathLike[str] | None,
        resize_mode: str,
        default_caption: str | None,
        frame_step: int,
    ):
        check_resize_mode(resize_mode)
        check_frame_step(frame_step)
        self._listed = {} if captions is None else read_captions(captions)
        self._mode, self._default, self._step = resize_mode, default_caption, frame_step
        self.size = size

    def captions(self, index: int) -> tuple[str, str]:
        """The clip's caption, the same for both directions."""
        name = self.names[index]
        caption = self._own_caption(index)
        if caption is None:
            part = name.rpartition("/")[2]
            caption = self._listed.get(name, self._listed.get(part) if part in self._own_parts else None)
            caption = self._default if caption is None else caption
        if caption is None:
            raise ValueError(f"no caption for clip {name!r}")
        return caption, caption

    def expected_frames(self, index: int) -> int | None:
        """Frames that `load` will give by the camera file; None where it is not known before the video is read.

        Raises:
            ValueError: something of the clip is missing.
        """
        cameras = self._cameras(index)
        return None if cameras is None else check_count(self.names[index], len(range(0, len(cameras.timestamps), self._step)))

    def load(self, index: int) -> Clip:
        """The frames of a clip; `ValueError` if cameras or frames are missing, damaged or of different numbers."""
        name, caption = self.names[index], self.captions(index)[0]
        cameras, stream = self._read(index)
        count = len(cameras.timestamps)
        kept = len(range(0, count, self._step))
        if count < 2:
            raise ValueError(f"the camera file of {name!r} has {count} lines of cameras; a clip needs at least 2")
        check_count(name, kept)
        frames, intrinsics = self._resized(stream, cameras, name)
        unknown = np.zeros(frames.shape[:3], np.float32)
        attributes = {"name": name, "url": cameras.url}
        return Clip(frames, unknown, unknown > 0, rebase_poses(cameras.poses[:: self._step]), intrinsics, caption, attributes)

    def settings(self) -> dict[str, Any]:
        """Kind, list, resizing and thinning: the same for the same clips, however they are stored."""
        return {
            "kind": "realestate10k",
            "list_sha256": list_hash(self.names),
            "resize_mode": self._mode,
            **step_setting(self._step),
        }

    @cached_property
    def _own_parts(self) -> set[str]:
        return own_last_parts(self.names)

    def _own_caption(self, index: int) -> str | None:  # noqa: ARG002  # most shapes have none
        """The caption stored with the clip; None if it has none, `ValueError` if it is damaged."""
        return None

    def _cameras(self, index: int) -> CameraFile | None:  # noqa: ARG002  # not before the video, in some shapes
        """Cameras of a clip whose parts are all there, else `ValueError`; None where that costs as much as loading the clip."""
        return None

    def _read(self, index: int) -> tuple[CameraFile, Iterator[np.ndarray | None]]:
        """Cameras of a clip, and all its frames (H, W, 3) in order; those that `frame_step` drops may be None."""
        raise NotImplementedError  # each shape of the data set has its own

    def _every(self, items: Sequence[Item], read: Callable[[Item], np.ndarray]) -> Iterator[np.ndarray | None]:
        """The frames of `items`; those that `frame_step` drops are not read."""
        return (None if number % self._step else read(item) for number, item in enumerate(items))

    def _resized(self, stream: Iterator[np.ndarray | None], cameras: CameraFile, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Frames (F, H, W, 3) that `frame_step` keeps, resized, and their intrinsics (F, 3, 3)."""
        lines, count, shape, transform = len(cameras.timestamps), 0, None, None
        frames = []
        for count, frame in enumerate(stream, 1):
            if count > lines:
                raise ValueError(f"the video of {name!r} has more than {lines} frames, its camera file {lines} lines")
            if frame is None or (count - 1) % self._step:
                continue
            if shape not in (None, frame.shape):
                raise ValueError(f"frame {count - 1} of {name!r} is of another size than the first; frames must be of one size")
            shape = frame.shape
            if self.size is not None and frame.shape[:2] != self.size:
                [frame], transform = resize_frames(frame[None], *self.size, self._mode)
            frames.append(frame)
        if shape is None or count < lines:
            raise ValueError(f"the video of {name!r} has {count} frames, its camera file {lines} lines")
        normalised = cameras.normalised[:: self._step]
        if transform is None or self._mode == "stretch":  # fx and fy are in units of the sides, whatever these are
            return np.stack(frames), pixel_intrinsics(normalised, *frames[0].shape[:2])
        return np.stack(frames), pixel_intrinsics(normalised, shape[0], shape[1], transform)


def stream_bytes(content: bytes, name: str) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) uint8 of a video file's bytes; `name` is for messages."""
    with tempfile.TemporaryDirectory() as scratch:  # decoders want a file to seek in
        path = Path(scratch) / "video"
        path.write_bytes(content)
        try:
            yield from stream_video(path)
        except ValueError as error:
            raise ValueError(str(error).replace(repr(str(path)), f"the video of clip {name!r}")) from error
