"""The pixels that take part in the solve: a regular subset of all maps, in one layout for first and second maps of the pairs."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jog3r.geometry.cameras import pixel_grid
from jog3r.geometry.registration.energy import Pairwise
from jog3r.geometry.registration.joint_fit.distances import without_spikes
from jog3r.geometry.registration.joint_fit.pair_terms import Rays
from jog3r.geometry.robust import masked_median

_WORTH_THINNING = 2048  # pixels of a map, from which on a quarter of them tells the lesser things


@dataclass(frozen=True)
class Samples:
    """Sampled maps, float32 (M = 2 P maps: the first maps of all pairs, then the second; N = h * w pixels)."""

    points: Tensor  # (M, 3, N) in the camera of `host`
    size: Tensor  # (M, N) distance of the points, 1 where invalid
    confidence: Tensor  # (M, N)
    valid: Tensor  # (M, N) bool
    host: Tensor  # (M,) frame whose camera the points are in
    frame: Tensor  # (M,) frame whose pixels they are
    unit: Tensor  # (P,) length by which the pair's points were divided, so that they are about 1 from their camera
    pixels: Tensor  # (2, N) u, v, float64
    grid: tuple[int, int]  # h, w of the sampled grid

    @property
    def num_pairs(self) -> int:
        """P."""
        return self.points.shape[0] // 2

    @property
    def pairs(self) -> Tensor:
        """(P, 2)."""
        return self.frame.unflatten(0, (2, -1)).T

    def thinned(self, most: int) -> "Samples":
        """The same maps with every k-th pixel, k odd so that all columns take part; `grid` no longer describes the pixels."""
        step = 1
        while -(-self.points.shape[2] // step) > most:
            step += 2
        return self._picked(torch.arange(0, self.points.shape[2], step, device=self.points.device), (0, 0))

    def coarse(self) -> tuple["Samples", Tensor]:
        """The same maps with every second row and column, and which pixels (n,) these are; maps with few pixels stay whole."""
        index = torch.arange(self.points.shape[2], device=self.points.device)
        if len(index) < _WORTH_THINNING:
            return self, index
        index = index.unflatten(0, self.grid)[::2, ::2]
        return self._picked(index.flatten(), (index.shape[0], index.shape[1])), index.flatten()

    def without(self, second: Tensor, grid: tuple[int, int]) -> "Samples":
        """The same maps, pixels of the second maps invalid where a mask (P, n) of the coarse or the whole grid says so."""
        if grid != self.grid:  # every second row and column
            second = second.unflatten(1, grid).repeat_interleave(2, 1).repeat_interleave(2, 2)
            second = second[:, : self.grid[0], : self.grid[1]].flatten(1)
        return replace(self, valid=self.valid & ~torch.cat((torch.zeros_like(second), second)))

    def _picked(self, index: Tensor, grid: tuple[int, int]) -> "Samples":
        return Samples(
            self.points[:, :, index],
            self.size[:, index],
            self.confidence[:, index],
            self.valid[:, index],
            self.host,
            self.frame,
            self.unit,
            self.pixels[:, index],
            grid,
        )


def take_samples(data: Pairwise, anchor_valid: Tensor, valid: Tensor, max_pixels: int) -> Samples:
    """Every k-th pixel of every k-th row, k as small as `max_pixels` allows."""
    height, width = data.size
    step = 1
    while -(-height // step) * -(-width // step) > max_pixels:
        step += 1
    start = (step - 1) // 2
    rows, columns = slice(start, None, step), slice(start, None, step)
    grid = pixel_grid(height, width, dtype=torch.float64, device=data.pointmaps.device)[rows, columns]
    points = torch.cat((data.anchor_pointmaps[:, rows, columns], data.pointmaps[:, rows, columns])).flatten(1, 2)
    confidence = torch.cat((data.anchor_confidence[:, rows, columns], data.confidence[:, rows, columns])).flatten(1)
    mask = torch.cat((anchor_valid[:, rows, columns], valid[:, rows, columns])).flatten(1)
    points = points.transpose(1, 2).contiguous()  # (M, 3, N)
    first, second = data.pairs.T
    # Division first: squares of points in odd units would leave the range of float32.
    largest = points.abs().amax(1)  # (M, N)
    thin = slice(None, None, max(1, points.shape[2] // 1024))
    typical = masked_median(largest[:, thin], mask[:, thin]).unflatten(0, (2, -1))  # (2, P)
    unit = torch.where(typical[0] > 0, typical[0], typical[1])
    unit = torch.where(unit > 0, unit, 1.0)
    points = points / unit.repeat(2)[:, None, None]
    mask = mask & (largest < 1e6 * unit.repeat(2)[:, None]) & (largest > 1e-6 * unit.repeat(2)[:, None])
    points = torch.where(mask[:, None], points, 0.0)
    shape = (grid.shape[0], grid.shape[1])
    mask = without_spikes(points, mask, shape)
    return Samples(
        points,
        torch.where(mask, points.square().sum(1).sqrt(), 1.0),
        confidence,
        mask,
        torch.cat((first, first)),
        torch.cat((first, second)),
        unit.double(),
        grid.flatten(0, 1).T,
        shape,
    )


def sample_rays(samples: Samples, intrinsics: Tensor, frames: Tensor) -> Rays:
    """Rays through the sampled pixels of `frames` (m,); of one camera when all are alike."""
    if bool((intrinsics == intrinsics[:1]).all()):
        frames = frames[:1]
    own = intrinsics[frames]  # (m, 3, 3)
    xy = (samples.pixels - own[:, :2, 2:]) / torch.stack((own[:, 0, 0], own[:, 1, 1]), 1)[..., None]  # (m, 2, N)
    return Rays.along(torch.cat((xy, torch.ones_like(xy[:, :1])), dim=1).to(samples.points.dtype))
