"""Maps of z: between their pixels, and at the edges of things.

Letters: F frames, H W pixels. Pixel centres lie at integers, (0, 0) at the top left.

There are two tests for edges because neither does the other's work:

- `away_from_jumps` compares neighbours, by ln z. It endures noise, but takes grazing floors and walls, where z grows by a tenth
  from one pixel to the next, for edges. Training uses it: its depth is estimated, and a floor that is left out costs little.
- `away_from_bends` looks for bends of 1/z, which is linear on any plane however slanted, so floors stay. But a second difference
  of noise is larger than a first one. Export uses it: there a missing floor is a hole that everybody sees.

`tests/test_depth_maps.py` shows both: on a grazing plane jumps cut what bends keep, and with 3 % of noise the other way round.
"""

import torch
from torch import Tensor

__all__ = ["away_from_bends", "away_from_jumps", "sample_depth"]


# Two other samplers stay, as they mean something else: `reprojection` carries colours, depth and mask of whole images together,
# linear in each, so it is linear in z; `data.camera_formats.lenses` does the like for bytes and takes the nearest depth.
def sample_depth(
    depth: Tensor,  # (H, W) or (F, H, W)
    valid: Tensor,  # as depth
    pixels: Tensor,  # (..., 2)
    frames: Tensor | None = None,  # (...)
    *,
    inverse: bool = True,
    spare_unweighted: bool = False,
) -> Tensor:
    """Depth between the pixels, bilinear; what lies outside of the image gets the value at its border.

    Args:
        depth: z; with `inverse` False, any value.
        valid: bool, where the depth is known; elsewhere it may hold anything.
        pixels: (x, y).
        frames: index of the map for each of `pixels`, if there are several.
        inverse: interpolate 1/z, which is exact on planes; False interpolates the value itself.
        spare_unweighted: a neighbour of weight 0 may be unknown: exactly on a pixel, that pixel alone counts. False needs all
            four to be known.

    Returns:
        (...) values; NaN where a pixel that is needed is unknown.
    """
    height, width = depth.shape[-2:]
    x, y = pixels[..., 0].clamp(0, width - 1), pixels[..., 1].clamp(0, height - 1)
    left, top = x.floor().long().clamp(max=max(width - 2, 0)), y.floor().long().clamp(max=max(height - 2, 0))
    right, low = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    across, down = x - left, y - top
    map_of_each = () if frames is None else (frames,)
    known = torch.ones_like(left, dtype=torch.bool)

    def corner(row: Tensor, column: Tensor, weightless: Tensor) -> Tensor:
        here = valid[(*map_of_each, row, column)]
        known.logical_and_(here | weightless if spare_unweighted else here)
        value = depth[(*map_of_each, row, column)]
        if inverse:
            value = 1 / torch.where(here, value, torch.ones_like(value))
        return torch.where(here, value, torch.zeros_like(value))

    no_left, no_right, no_top, no_low = across == 1, across == 0, down == 1, down == 0
    upper = corner(top, left, no_left | no_top) * (1 - across) + corner(top, right, no_right | no_top) * across
    lower = corner(low, left, no_left | no_low) * (1 - across) + corner(low, right, no_right | no_low) * across
    value = upper * (1 - down) + lower * down
    if inverse:
        value = 1 / torch.where(known, value, torch.ones_like(value))
    return torch.where(known, value, torch.nan)


def away_from_jumps(depth: Tensor, valid: Tensor, threshold: float = 0.1) -> Tensor:
    """Valid pixels none of whose four valid neighbours differs by more than `threshold` in ln z.

    Estimated depth smears across edges: points between foreground and background lie in mid-air. This test endures noise and cuts
    grazing floors; `away_from_bends` does the opposite.

    Args:
        depth: (..., H, W) z.
        valid: (..., H, W) bool.
        threshold: difference of the logarithms; 0.1 is a jump of about 10 %.

    Returns:
        (..., H, W) bool.

    Raises:
        ValueError: a threshold that is not positive.
    """
    if not threshold > 0:
        raise ValueError(f"threshold must be positive, got {threshold}")
    log = torch.where(valid, depth, torch.ones_like(depth)).log()
    jump_down = ((log[..., 1:, :] - log[..., :-1, :]).abs() > threshold) & valid[..., 1:, :] & valid[..., :-1, :]
    jump_right = ((log[..., :, 1:] - log[..., :, :-1]).abs() > threshold) & valid[..., :, 1:] & valid[..., :, :-1]
    edge = torch.zeros_like(valid)
    edge[..., 1:, :] |= jump_down
    edge[..., :-1, :] |= jump_down
    edge[..., :, 1:] |= jump_right
    edge[..., :, :-1] |= jump_right
    return valid & ~edge


def away_from_bends(depth: Tensor, valid: Tensor, tolerance: float = 0.1) -> Tensor:
    """Valid pixels at which 1/z does not bend: points beside a jump of depth would fly between front and back in a cloud.

    1/z is linear in the pixels of any plane, so its second difference tells a jump from a slope: grazing walls and floors stay,
    which `away_from_jumps` cuts. With 3 % of noise in the depth this test cuts a third of all pixels, that one a fifth.

    Args:
        depth: (..., H, W) z.
        valid: (..., H, W) bool; pixels whose neighbour in a line is not valid stay, so the rim of a hole is kept.
        tolerance: second difference of 1/z, relative to 1/z, above which a pixel is at an edge.

    Returns:
        (..., H, W) bool.

    Raises:
        ValueError: a tolerance that is not positive.
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, got {tolerance}")
    inverse = torch.where(valid, 1 / torch.where(valid, depth, torch.ones_like(depth)), torch.nan)
    kept = valid.clone()
    # A neighbour without depth makes the bend NaN, which compares False.
    kept[..., 1:-1, :] &= ~(inverse.diff(n=2, dim=-2).abs() / inverse[..., 1:-1, :] > tolerance)
    kept[..., :, 1:-1] &= ~(inverse.diff(n=2, dim=-1).abs() / inverse[..., :, 1:-1] > tolerance)
    return kept
