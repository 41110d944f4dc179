"""A lens that bends straight lines: the division model of one coefficient (Fitzgibbon, CVPR 2001; COLMAP's SIMPLE_DIVISION).

With slopes s = (pixel - principal point) / focal length, a lens of distortion k shows at s what a pinhole shows at
s / (1 + k |s|^2): k < 0 is a barrel (wide lenses), k > 0 a cushion. It is the same number at every picture size.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch.nn import functional

__all__ = ["LEAST_STRETCH", "bending_of", "bent", "stretch", "undistorted_images", "undistorted_pixels"]


LEAST_STRETCH = 0.2  # at the border of the picture: a lens that bends more is no lens


def stretch(slopes: np.ndarray, distortion: float) -> np.ndarray:
    """(..., 1): a pinhole's slopes are those (..., 2) of the lens divided by this; not positive where the lens sees nothing."""
    return 1 + distortion * (slopes**2).sum(-1, keepdims=True)


def bent(slopes: np.ndarray, distortion: float) -> np.ndarray:
    """Slopes (..., 2) of the lens from those of a pinhole; what a cushion cannot show is put where its picture ends."""
    if not distortion:
        return slopes
    root = np.sqrt(np.maximum(1 - 4 * distortion * (slopes**2).sum(-1, keepdims=True), 0))
    return slopes * (2 / (1 + root))


def bending_of(slopes: np.ndarray, distortion: float) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives of `bent` by the slopes (M, 2, 2) and by the distortion (M, 2), at slopes (M, 2) of a pinhole."""
    square = (slopes**2).sum(-1)
    root = np.sqrt(np.maximum(1 - 4 * distortion * square, 1e-6))
    factor = 2 / (1 + root)
    steepness = factor**2 / root  # of the factor by the distortion is this times |s|^2, by |s|^2 this times the distortion
    outer = slopes[:, :, None] * slopes[:, None]  # (M, 2, 2)
    by_slopes = factor[:, None, None] * np.eye(2) + 2 * distortion * steepness[:, None, None] * outer
    return by_slopes, slopes * (steepness * square)[:, None]


def undistorted_pixels(xy: np.ndarray, intrinsics: np.ndarray, distortion: float) -> np.ndarray:
    """Where a pinhole with the same intrinsics (..., 3, 3) sees what the lens shows at pixels (..., 2)."""
    slopes = _slopes(xy, intrinsics)
    return _pixels(slopes / stretch(slopes, distortion), intrinsics)


def undistorted_images(
    images: Iterable[np.ndarray], intrinsics: np.ndarray, distortion: float, *, nearest: bool = False
) -> Iterator[np.ndarray]:
    """Frames or maps as a pinhole with the same intrinsics sees them; the border's values go on where the lens saw nothing.

    Args:
        images: (H, W, C) each, uint8 or floating point, one after the other.
        intrinsics: (F, 3, 3) in their pixels.
        distortion: of the lens that made them.
        nearest: take the nearest pixel instead of a mean of four.
    """
    grid, last, mode = None, None, "nearest" if nearest else "bilinear"
    for image, matrix in zip(images, intrinsics, strict=True):
        if grid is None or (matrix != last).any():
            grid, last = _sampling_grid(image.shape[0], image.shape[1], matrix, distortion), matrix
        values = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()  # (C, H, W)
        seen = functional.grid_sample(values[None], grid, mode=mode, padding_mode="border", align_corners=True)[0]
        result = seen.permute(1, 2, 0).numpy()
        yield np.asarray(result.round() if image.dtype == np.uint8 else result, image.dtype)


def _sampling_grid(height: int, width: int, intrinsics: np.ndarray, distortion: float) -> torch.Tensor:
    """(1, H, W, 2): where the lens shows what a pinhole's pixels see, -1..1 from the first pixel's centre to the last's."""
    xy = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)  # (H, W, 2)
    shown = _pixels(bent(_slopes(xy, intrinsics), distortion), intrinsics)
    return torch.from_numpy(2 * shown / [max(width - 1, 1), max(height - 1, 1)] - 1).float()[None]


def _slopes(xy: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    y = (xy[..., 1] - intrinsics[..., 1, 2]) / intrinsics[..., 1, 1]
    return np.stack([(xy[..., 0] - intrinsics[..., 0, 2] - intrinsics[..., 0, 1] * y) / intrinsics[..., 0, 0], y], -1)


def _pixels(slopes: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    x = (slopes * intrinsics[..., 0, :2]).sum(-1) + intrinsics[..., 0, 2]
    return np.stack([x, slopes[..., 1] * intrinsics[..., 1, 1] + intrinsics[..., 1, 2]], -1)
