"""Frames as PNG files, named as the camera files refer to them."""

import io

import numpy as np
from PIL import Image

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


def frame_pngs(scene: Scene, folder: str) -> dict[str, bytes]:
    """`{folder/frame_00001.png: bytes}` of a scene's frames, named by their numbers in the video."""
    numbered = zip(scene.frame_index, scene.frames, strict=True)
    return {f"{folder}/{frame_name(index)}": png_bytes(frame) for index, frame in numbered}
