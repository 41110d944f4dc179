"""Where strong corners of one picture are found in another: matches that owe nothing to cameras or depth."""

import numpy as np
import torch
from torch.nn.functional import conv2d

HALF = 5  # of a patch


def corner_matches(
    first: np.ndarray,  # (H, W, 3) uint8
    second: np.ndarray,
    radius: int = 20,
    cell: int = 16,
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 2) of the strongest corner of each cell and of its best match within `radius`, by normalised correlation."""
    gray = [torch.from_numpy(image.astype(np.float64).mean(-1)) for image in (first, second)]
    strength = _corner_strength(gray[0])
    border = radius + HALF
    height, width = gray[0].shape
    starts, ends = [], []
    for top in range(border, height - border - cell, cell):
        for left in range(border, width - border - cell, cell):
            here = strength[top : top + cell, left : left + cell]
            v, u = top + int(here.argmax()) // cell, left + int(here.argmax()) % cell
            if here.max() < 20:
                continue
            patch = gray[0][v - HALF : v + HALF + 1, u - HALF : u + HALF + 1]
            area = gray[1][v - border : v + border + 1, u - border : u + border + 1]
            score = _correlation(area, patch)
            if score.max() > 0.95:
                dv, du = divmod(int(score.argmax()), score.shape[1])
                starts.append((u, v))
                ends.append((u + du - radius, v + dv - radius))
    return np.array(starts, float).reshape(-1, 2), np.array(ends, float).reshape(-1, 2)


def _corner_strength(gray: torch.Tensor) -> torch.Tensor:
    """The smaller eigenvalue of the structure tensor (Shi and Tomasi)."""
    dy, dx = torch.gradient(gray)
    box = torch.ones(1, 1, 7, 7, dtype=gray.dtype) / 49
    xx, yy, xy = (conv2d(product[None, None], box, padding=3)[0, 0] for product in (dx * dx, dy * dy, dx * dy))
    return (xx + yy) / 2 - (((xx - yy) / 2) ** 2 + xy**2).sqrt()


def _correlation(area: torch.Tensor, patch: torch.Tensor) -> torch.Tensor:
    centred = patch - patch.mean()
    ones = torch.ones_like(patch)[None, None]
    product, sums, squares = (
        conv2d(values[None, None], kernel)[0, 0]
        for values, kernel in ((area, centred[None, None]), (area, ones), (area**2, ones))
    )
    spread = (squares - sums**2 / patch.numel()).clamp(min=1e-9) * (centred**2).sum()
    return product / (spread.sqrt() + 1e-9)
