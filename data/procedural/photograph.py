"""What a camera and a file make of a rendered clip: light, colours, blur, noise, JPEG."""

import io

import numpy as np
from PIL import Image

from jog3r.data.procedural.scene_grammar import Draw

__all__ = ["photograph"]

_GREY = np.full((3, 3), 1 / 3, np.float32)


def photograph(frames: np.ndarray, draw: Draw) -> np.ndarray:
    """Frames (F, H, W, 3) uint8 as one camera might have taken them, with one set of settings for the clip.

    Exposure drifts over the clip; colours get a cast and another saturation; corners darken; sharpness, noise and the quality of
    the file vary.
    """
    light = np.square(frames.astype(np.float32) / 255)  # about linear
    cast = np.diag(np.array([draw.uniform(0.75, 1.25) for _ in range(3)], np.float32))
    saturation = np.float32(draw.uniform(0.1, 1.1))
    light = light @ (cast @ (saturation * np.eye(3, dtype=np.float32) + (1 - saturation) * _GREY))
    gain = draw.uniform(0.5, 1.4) * (1 + draw.uniform(-0.25, 0.25) * np.linspace(0, 1, len(frames)))
    light *= gain.astype(np.float32)[:, None, None, None] * _vignette(frames.shape[1:3], draw.uniform(0.0, 0.5))
    if draw.chance(0.6):
        light = _blurred(light, draw.uniform(0.2, 0.9) * frames.shape[2] / 64)
    picture = np.clip(light, 0, 1) ** np.float32(1 / draw.uniform(1.7, 2.4))
    noise = draw.uniform(0.0, 0.04) if draw.chance(0.7) else 0.0
    # the sum of three uniform numbers is nearly normal; numpy keeps uniform ones stable between versions
    picture += np.float32(2 * noise) * (sum(draw.array(*picture.shape).astype(np.float32) for _ in range(3)) - np.float32(1.5))
    pixels = (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
    return _compressed(pixels, int(draw.uniform(30, 95))) if draw.chance(0.5) else pixels


def _vignette(size: tuple[int, int], strength: float) -> np.ndarray:
    """(H, W, 1) brightness, 1 at the centre and 1 - strength in the corners."""
    y, x = (np.linspace(-1, 1, side, dtype=np.float32) for side in size)
    return 1 - np.float32(strength / 2) * (x**2 + y[:, None] ** 2)[..., None]


def _blurred(values: np.ndarray, sigma: float) -> np.ndarray:
    """(F, H, W, 3) under a Gaussian of `sigma` pixels; edges are repeated."""
    reach = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / sigma)).astype(np.float32)
    kernel /= kernel.sum()
    for axis in (1, 2):
        padded = np.pad(values, [(reach, reach) if a == axis else (0, 0) for a in range(4)], mode="edge")
        count = values.shape[axis]
        values = sum(weight * padded.take(range(k, k + count), axis) for k, weight in enumerate(kernel))
    return values


def _compressed(frames: np.ndarray, quality: int) -> np.ndarray:
    """Frames (F, H, W, 3) uint8 through JPEG files."""
    files = [io.BytesIO() for _ in frames]
    for frame, file in zip(frames, files, strict=True):
        Image.fromarray(frame).save(file, "JPEG", quality=quality)
    return np.stack([np.asarray(Image.open(file)) for file in files])
