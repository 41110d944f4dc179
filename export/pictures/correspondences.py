"""Which pixel of one frame shows the same 3D point as which pixel of another: reciprocal nearest neighbours of pointmaps."""

import numpy as np
import torch

from jog3r.export.scene import Scene

__all__ = ["reciprocal_matches"]


def reciprocal_matches(
    scene: Scene, first: int = 0, last: int = -1, *, spacing: int = 1, min_confidence_quantile: float = 0.1
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of two frames whose 3D points are each other's nearest.

    Args:
        scene: A scene with pointmaps.
        first: Index of one frame.
        last: Index of the other; negative counts from the end.
        spacing: Only every `spacing`-th row and column of `first` is looked up (the search itself is over all pixels).
        min_confidence_quantile: Share of the least sure pixels left out.

    Returns:
        (M, 2) and (M, 2) int64, x and y in each frame, row by row of `first`. M may be 0: the frames share nothing.

    Raises:
        ValueError: No pointmaps, an index out of range, or the same frame twice.
    """
    count = scene.num_frames
    if not (-count <= first < count and -count <= last < count) or first % count == last % count:
        raise ValueError(f"need two different frames out of {count}, got {first} and {last}")
    if spacing < 1:
        raise ValueError(f"spacing must be at least 1, got {spacing}")
    seen = scene.valid_pixels(min_confidence_quantile=min_confidence_quantile)
    pixels, points = [], []
    for index in (first, last):
        y, x = np.nonzero(seen[index])
        pixels.append(np.stack([x, y], -1))
        points.append(torch.from_numpy(scene.pointmaps[index, y, x]))
    if not (len(pixels[0]) and len(pixels[1])):
        return np.zeros((0, 2), np.int64), np.zeros((0, 2), np.int64)
    asked = np.nonzero((pixels[0] % spacing == spacing // 2).all(1))[0]
    there = _nearest(points[0][asked], points[1])
    back = _nearest(points[1][there], points[0])
    mutual = back.numpy() == asked
    return pixels[0][asked[mutual]], pixels[1][there.numpy()[mutual]]


def _nearest(query: torch.Tensor, points: torch.Tensor, chunk: int = 512) -> torch.Tensor:
    """Index (Q,) of the nearest of `points` (N, 3) to each of `query` (Q, 3); memory bounded by the chunk."""
    found = [torch.cdist(part, points, compute_mode="donot_use_mm_for_euclid_dist").argmin(1) for part in query.split(chunk)]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.long)
