"""Frames as PNG files, named as the camera files refer to them."""

import io

import numpy as np
from PIL import Image

__all__ = ["frame_name", "frame_pngs", "png_bytes"]


def png_bytes(image: np.ndarray) -> bytes:
    """PNG of (H, W, 3) uint8."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def frame_name(index: int) -> str:
    """File name of frame `index` (from 0): frame_00001.png for the first; the order of the names is that of the frames."""
    return f"frame_{index + 1:05d}.png"


def frame_pngs(frames: np.ndarray, folder: str) -> dict[str, bytes]:
    """`{folder/frame_00001.png: bytes}` of frames (F, H, W, 3) uint8."""
    return {f"{folder}/{frame_name(index)}": png_bytes(frame) for index, frame in enumerate(frames)}
