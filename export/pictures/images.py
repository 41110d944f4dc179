"""Frames as PNG files, named as the camera files refer to them."""

import io
from functools import partial

import numpy as np
from PIL import Image

from jog3r.export.files import Content
from jog3r.export.scene import Scene

__all__ = ["frame_name", "frame_pngs", "png_bytes"]


def png_bytes(image: np.ndarray) -> bytes:
    """PNG of (H, W, 3) uint8."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def frame_name(index: int) -> str:
    """File name of frame number `index` (from 0): frame_00001.png for the first; the order of the names is that of the frames."""
    return f"frame_{index + 1:05d}.png"


def frame_pngs(scene: Scene, folder: str) -> dict[str, Content]:
    """`{folder/frame_00001.png: content}` of the frames whose pose is known, named by their numbers in the video.

    The contents are calls that give the bytes: a long video in full size need not be in memory at once.
    """
    known = np.flatnonzero(scene.pose_known)
    return {f"{folder}/{frame_name(scene.frame_index[place])}": partial(png_bytes, scene.frames[place]) for place in known}
