"""Frames brought to another size, with the cameras in step. Pixel centres lie at integer coordinates, as everywhere in jog3r."""

import numpy as np
from PIL import Image

__all__ = ["fit_frame", "resize_frames"]


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
    check_size(height, width, mode)
    box = _crop_box(frames.shape[1], frames.shape[2], height, width, mode)
    resized = np.stack([_resize_image(frame, height, width, box) for frame in frames])
    left, top, right, bottom = box
    scale_x, scale_y = width / (right - left), height / (bottom - top)
    # The box is in edge coordinates (first pixel from 0 to 1), ours are half a pixel less: shift, scale, shift back.
    transform = np.array([[scale_x, 0, (0.5 - left) * scale_x - 0.5], [0, scale_y, (0.5 - top) * scale_y - 0.5], [0, 0, 1]])
    return resized, transform


def check_size(height: int, width: int, mode: str) -> None:
    """Refuse a size or mode that `resize_frames` cannot bring frames to, with `ValueError`."""
    if height < 1 or width < 1:
        raise ValueError(f"the new size must be at least 1 x 1 pixels, got height {height}, width {width}")
    if mode not in ("stretch", "crop"):
        raise ValueError(f"resize mode must be 'stretch' or 'crop', got {mode!r}")


def square_size(height: int, width: int, aspect: float) -> tuple[int, int]:
    """Height and width at which pixels of this aspect (width / height) become square; the finer direction is kept."""
    return (height, max(1, round(width * aspect))) if aspect >= 1 else (max(1, round(height / aspect)), width)


def fit_frame(frame: np.ndarray, aspect: float, size: tuple[int, int] | None, mode: str) -> np.ndarray:
    """A frame (H, W, 3) uint8 whose pixels have `aspect` (width / height): with square pixels, and of `size` if given.

    Both in one step, so that nothing is resampled twice.
    """
    height, width = frame.shape[:2]
    square = square_size(height, width, aspect)
    new_height, new_width = square if size is None else size
    if (new_height, new_width) == (height, width) == square:
        return frame
    left, top, right, bottom = _crop_box(*square, new_height, new_width, mode)
    scale_x, scale_y = width / square[1], height / square[0]
    return _resize_image(frame, new_height, new_width, (left * scale_x, top * scale_y, right * scale_x, bottom * scale_y))


def _crop_box(old_height: int, old_width: int, height: int, width: int, mode: str) -> tuple[float, float, float, float]:
    """The part of the old image that is shown: (left, top, right, bottom) in edge coordinates."""
    if mode == "stretch":
        return 0.0, 0.0, float(old_width), float(old_height)
    zoom = min(old_width / width, old_height / height)
    left, top = max(0.0, (old_width - zoom * width) / 2), max(0.0, (old_height - zoom * height) / 2)  # rounding may pass the edge
    return left, top, left + zoom * width, top + zoom * height


def _resize_image(frame: np.ndarray, height: int, width: int, box: tuple[float, float, float, float]) -> np.ndarray:
    right, bottom = min(box[2], frame.shape[1]), min(box[3], frame.shape[0])  # rounding may pass the edge
    resized = Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS, box=(box[0], box[1], right, bottom))
    return np.asarray(resized)
