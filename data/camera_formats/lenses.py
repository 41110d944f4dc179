"""Undoing a lens: where each pixel of a pinhole's picture lies in the picture that the lens made. Letters: H W pixels."""

import numpy as np

__all__ = ["Straightener", "undistortion_grid"]


class Straightener:
    """Undistorts frame after frame; the last grid is kept, as the frames of a video share their lens."""

    def __init__(self) -> None:
        self._key: tuple[bytes, ...] | None = None
        self._grid = np.zeros((0, 0, 2))

    def __call__(
        self, image: np.ndarray, depth: np.ndarray, intrinsics: np.ndarray, distortion: np.ndarray, fisheye: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Picture (H, W, 3) uint8 and depth (H, W) as a pinhole with the same intrinsics sees them; see `undistortion_grid`."""
        if not fisheye and not distortion.any():
            return image, depth
        key = (intrinsics.tobytes(), distortion.tobytes(), repr((image.shape, fisheye)).encode())
        if key != self._key:
            self._key, self._grid = key, undistortion_grid(intrinsics, distortion, *image.shape[:2], fisheye=fisheye)
        return _bilinear(image, self._grid), _nearest(depth, self._grid)


def undistortion_grid(
    intrinsics: np.ndarray, distortion: np.ndarray, height: int, width: int, *, fisheye: bool = False
) -> np.ndarray:
    """Where each pixel of the undistorted image lies in the distorted one, (H, W, 2) as (column, row).

    The image keeps its intrinsics. The models are OpenCV's, on normalised coordinates (documentation of its modules "calib3d" and
    "fisheye"): Brown-Conrady with a rational radial part, or the angle from the axis times a polynomial of it.

    Args:
        intrinsics: (3, 3) in pixels, pixel centres at integers.
        distortion: k1 k2 p1 p2 k3 k4 k5 k6, of a fisheye lens k1 k2 k3 k4; those behind the last given are 0.
        height, width: H and W.
        fisheye: which of the two models.
    """
    k = np.zeros(8)
    k[: len(distortion)] = distortion
    x, y = np.meshgrid(
        (np.arange(width) - intrinsics[0, 2]) / intrinsics[0, 0], (np.arange(height) - intrinsics[1, 2]) / intrinsics[1, 1]
    )
    square = x * x + y * y
    if fisheye:
        radius = np.sqrt(square)
        angle = np.arctan(radius)
        bent = angle * (1 + np.polyval([k[3], k[2], k[1], k[0], 0], angle**2))
        radial = np.divide(bent, radius, out=np.ones_like(radius), where=radius > 0)
        distorted_x, distorted_y = x * radial, y * radial
    else:
        p1, p2 = k[2], k[3]
        radial = np.polyval([k[4], k[1], k[0], 1], square) / np.polyval([k[7], k[6], k[5], 1], square)
        distorted_x = x * radial + 2 * p1 * x * y + p2 * (square + 2 * x * x)
        distorted_y = y * radial + p1 * (square + 2 * y * y) + 2 * p2 * x * y
    columns = intrinsics[0, 0] * distorted_x + intrinsics[0, 2]
    rows = intrinsics[1, 1] * distorted_y + intrinsics[1, 2]
    return np.stack([columns, rows], -1)


def _bilinear(image: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """uint8 image at grid positions; the border's colour goes on outside, as cameras rarely show much of it."""
    height, width = image.shape[:2]
    columns, rows = np.clip(grid[..., 0], 0, width - 1), np.clip(grid[..., 1], 0, height - 1)
    left, top = np.minimum(columns.astype(int), width - 2), np.minimum(rows.astype(int), height - 2)
    right_share, low_share = (columns - left)[..., None], (rows - top)[..., None]
    upper = image[top, left] * (1 - right_share) + image[top, left + 1] * right_share
    lower = image[top + 1, left] * (1 - right_share) + image[top + 1, left + 1] * right_share
    return np.rint(upper * (1 - low_share) + lower * low_share).astype(np.uint8)


def _nearest(depth: np.ndarray, grid: np.ndarray) -> np.ndarray:
    columns, rows = np.rint(grid[..., 0]).astype(int), np.rint(grid[..., 1]).astype(int)
    inside = (columns >= 0) & (columns < depth.shape[1]) & (rows >= 0) & (rows < depth.shape[0])
    return np.where(inside, depth[np.where(inside, rows, 0), np.where(inside, columns, 0)], 0)
