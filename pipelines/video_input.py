"""A given video, in any of the forms the pipeline accepts, to one tensor; and back to the form asked for.

Letters: B clips, F frames, H W pixels.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from jog3r.data.recordings.pictures import rgb_array
from jog3r.data.video import read_video

MAX_FRAMES = 64  # a video of more frames is refused unless the model was made for as many


def load_frames(video: Any, max_frames: int = MAX_FRAMES) -> Tensor:
    """Bring a video to (B, F, 3, H, W) float32 RGB in 0..1.

    Args:
        video: path of whatever `jog3r.data.video.read_video` reads; list of PIL images of any mode (or a list of such lists),
            see `jog3r.data.recordings.pictures.rgb_array`; array or tensor (F, H, W, 3), (B, F, H, W, 3), (F, 3, H, W) or
            (B, F, 3, H, W), uint8 in 0..255 or floating point in 0..1.
        max_frames: longer videos are refused.

    Raises:
        ValueError: the file is missing, empty, damaged or no video; a shape or value range is none of the above; fewer than 2 or
            more than `max_frames` frames. The message says what was given.
        TypeError: `video` is none of the above.
    """
    if isinstance(video, str | os.PathLike):
        video = read_video(video, max_frames=max_frames).frames
    frames = _channels_second(_as_tensor(video))
    num_frames = frames.shape[1]
    if num_frames < 2:
        raise ValueError(f"cameras need at least 2 frames, the video has {num_frames}")
    if num_frames > max_frames:
        raise ValueError(too_many_frames(num_frames, max_frames))
    return _unit_range(frames)


def too_many_frames(num_frames: int | str, max_frames: int) -> str:
    """The refusal of a video that is too long."""
    return (
        f"the video has {num_frames} frames, more than the {max_frames} that fit; cut it (video[:{max_frames}]) or subsample it "
        "(video[::2]), on the command line with --start/--stop or --stride"
    )


def resize(frames: Tensor, height: int, width: int) -> Tensor:
    """Stretch (B, F, 3, h, w) to (B, F, 3, height, width), antialiased. Intrinsics then refer to the new size."""
    if frames.shape[-2:] == (height, width):
        return frames
    flat = functional.interpolate(
        frames.flatten(0, 1), size=(height, width), mode="bilinear", align_corners=False, antialias=True
    )  # (B*F, 3, height, width)
    return flat.unflatten(0, frames.shape[:2])


def _as_tensor(video: Any) -> Tensor:
    """Lists of images, arrays and tensors to one tensor, its layout unchanged."""
    if isinstance(video, Tensor):
        return video
    if isinstance(video, np.ndarray):
        return torch.from_numpy(np.require(video, requirements=["C", "W"]))  # torch warns of memory that is not writable
    if not isinstance(video, Sequence):
        raise TypeError(f"video must be a path, a list of PIL images, an array or a tensor, got {type(video).__name__}")
    if len(video) == 0:
        raise ValueError("the video is an empty list; give at least 2 frames")
    if isinstance(video[0], str | os.PathLike):
        raise TypeError(
            f"the video is a list of {type(video[0]).__name__}, {str(video[0])!r} the first; open the images: "
            "video=[PIL.Image.open(path) for path in paths]"
        )
    if isinstance(video[0], Image.Image):
        items = [torch.from_numpy(np.array(rgb_array(_as_image(frame)))) for frame in video]
    else:
        items = [_as_tensor(item) for item in video]
    shapes = sorted({tuple(item.shape) for item in items})
    if len(shapes) > 1:
        raise ValueError(f"all frames (and clips) of a video must have one size, got {shapes[0]} and {shapes[1]}")
    return torch.stack(items)


def _as_image(frame: Any) -> Image.Image:
    if not isinstance(frame, Image.Image):
        raise TypeError(f"a list of PIL images holds a {type(frame).__name__}")
    return frame


def _channels_second(frames: Tensor) -> Tensor:
    """Any accepted layout to (B, F, 3, H, W)."""
    if frames.ndim == 4:
        frames = frames[None]
    if frames.ndim != 5 or 3 not in (frames.shape[-1], frames.shape[2]):
        raise ValueError(
            f"video must have shape (F, H, W, 3), (B, F, H, W, 3), (F, 3, H, W) or (B, F, 3, H, W), got {tuple(frames.shape)}"
        )
    if frames.numel() == 0:
        raise ValueError(f"the video is empty: shape {tuple(frames.shape)}")
    return frames.permute(0, 1, 4, 2, 3) if frames.shape[-1] == 3 else frames


def _unit_range(frames: Tensor) -> Tensor:
    if frames.dtype == torch.uint8:
        return frames.float() / 255
    if not frames.is_floating_point():
        raise ValueError(f"video must be uint8 in 0..255 or floating point in 0..1, got {frames.dtype}")
    if not frames.isfinite().all():
        raise ValueError("the video holds NaN or infinite values")
    low, high = float(frames.min()), float(frames.max())
    if low < 0 or high > 1:
        raise ValueError(f"a floating-point video must lie in 0..1, got {low:g}..{high:g}; divide 8-bit values by 255")
    return frames.float()
