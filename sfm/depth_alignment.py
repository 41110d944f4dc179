"""Depth of a network brought to the unit of sparse points: scale and shift frame by frame, a smooth field, and what it is worth.

Letters: F frames, H W pixels, N points, M observations.
"""

from dataclasses import dataclass

import numpy as np
import torch

from jog3r.geometry.depth_maps import sample_depth

__all__ = ["MIN_POINTS", "AlignedDepth", "align_depth"]

MIN_POINTS = 8  # of a frame, fewer say nothing of its scale and shift
_HYPOTHESES = 256  # pairs of points that a line is drawn through
_TRUNCATION = 0.2  # of relative errors while the best of them is sought
_ROUNDS = 10  # of reweighting
_LEAST_SCALE = 0.005  # relative error below which weights make no difference
_FARTHEST = 0.3  # of the least inverse depth of a point: relative depth below it is not believed
_FIELD_WIDTH = 1 / 12  # of the longer side: how far a point speaks for its neighbourhood
_FIELD_PRIOR = 1.0  # points that the field would have to overrule
_FIELD_NODES = 24  # along the longer side
_FIELD_GAIN = 0.9  # of the error at points left out: a field that gains less is left away


@dataclass(frozen=True)
class AlignedDepth:
    """Depth of F frames in the unit of the points."""

    depth: np.ndarray
    """(F, H, W) float32 z; 0 where there is none."""
    confidence: np.ndarray
    """(F, H, W) float32: 1 / relative error to expect, from the residuals near by; 0 where there is no depth."""
    scale: np.ndarray
    """(F,) factors of the given depth (or inverse depth); 0 for a frame that could not be aligned."""
    shift: np.ndarray
    """(F,) added to it after the scale."""
    error: np.ndarray
    """(F,) median relative error at the points; NaN for a frame that could not be aligned."""
    num_points: np.ndarray
    """(F,) points that speak for each frame."""

    @property
    def aligned(self) -> np.ndarray:
        """(F,) bool: frames that have depth."""
        return np.asarray(self.scale > 0)


def align_depth(
    depth: np.ndarray,
    points: np.ndarray,
    observations: tuple[np.ndarray, np.ndarray, np.ndarray],
    poses: np.ndarray,
    *,
    inverse: bool = False,
    valid: np.ndarray | None = None,
    seed: int = 0,
) -> AlignedDepth:
    """Scale, shift and a smooth correction of each frame's depth, robustly from the points that the frame sees.

    z = scale * depth + shift (or 1/z, for inverse depth), fitted to relative errors: the best of many lines through two points
    each, then weights by Geman and McClure. What remains varies smoothly over the image (a bent wall) and is corrected by the
    local mean of the logarithms, if that lowers the error at points left out.

    Args:
        depth: (F, H, W) z up to scale and shift, or with `inverse` inverse depth up to scale and shift.
        points: (N, 3) world points.
        observations: which points the frames see: `point` (M,), `frame` (M,), and `xy` (M, 2) in pixels of the depth, first
            pixel's centre at 0; those outside of the maps are left out.
        poses: (F, 4, 4) camera-to-world.
        inverse: see `depth`.
        valid: (F, H, W) bool, where the depth counts; None means where it is finite (and positive, unless inverse).
        seed: of the choice of pairs.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    point, frame, xy = observations
    if depth.ndim != 3 or poses.shape != (len(depth), 4, 4):
        raise ValueError(f"need depth (F, H, W) and poses (F, 4, 4), got {depth.shape} and {poses.shape}")
    if points.ndim != 2 or points.shape[1] != 3 or not len(point) == len(frame) == len(xy) or xy.shape[1:] != (2,):
        raise ValueError(f"need points (N, 3) and observations (M,), (M,), (M, 2), got {points.shape}, {xy.shape}")
    finite = np.isfinite(depth) & ((depth > 0) | inverse)
    valid = finite if valid is None else finite & valid
    world_to_camera = np.linalg.inv(poses.astype(np.float64))
    z = np.einsum("mj,mj->m", world_to_camera[frame, 2, :3], points[point].astype(np.float64)) + world_to_camera[frame, 2, 3]
    count, (height, width) = len(depth), depth.shape[1:]
    result = AlignedDepth(
        np.zeros(depth.shape, np.float32),
        np.zeros(depth.shape, np.float32),
        np.zeros(count),
        np.zeros(count),
        np.full(count, np.nan),
        np.zeros(count, np.int64),
    )
    for index in range(count):
        here = (frame == index) & (z > 0) & (xy > -0.5).all(1) & (xy < [width - 0.5, height - 0.5]).all(1)
        # The value itself, not its inverse: z is not known before scale and shift are.
        given = (np.array(depth[index], np.float64), np.array(valid[index], bool), np.array(xy[here], np.float64))
        value = sample_depth(*map(torch.from_numpy, given), inverse=False).numpy()
        known = np.isfinite(value)
        result.num_points[index] = known.sum()
        if known.sum() < MIN_POINTS:
            continue
        fit = _fit_frame(value[known], z[here][known], inverse, np.random.default_rng([seed, index]))
        if fit is not None:
            _fill(result, index, fit, (xy[here][known], value[known], z[here][known]), (depth[index], valid[index], inverse))
    return result


@dataclass(frozen=True)
class _Line:
    scale: float
    shift: float
    spread: float  # robust relative error of one point
    weight: np.ndarray  # (K,) of the points in the last step


def _fit_frame(value: np.ndarray, z: np.ndarray, inverse: bool, random: np.random.Generator) -> _Line | None:
    """The line with a positive scale that the points (K,) fit best; None if there is none."""
    # Residuals (scale * value + shift) * unit - 1 are relative errors, of z or of 1 / z.
    unit = z if inverse else 1 / z
    rows = np.stack([value, np.ones_like(value)], 1) * unit[:, None]  # (K, 2)
    first, second = random.integers(len(value), size=(2, _HYPOTHESES))
    gap = value[second] - value[first]
    usable = np.abs(gap) > 1e-9 * np.abs(value).max(initial=0)
    gap, first, second = gap[usable], first[usable], second[usable]
    scales = (1 / unit[second] - 1 / unit[first]) / gap
    # A depth that is right up to scale, and one that says nothing, are candidates as well.
    scales = np.concatenate([scales, [np.median(1 / (value * unit))] if not inverse else []])
    shifts = np.concatenate([1 / unit[first] - scales[: len(first)] * value[first], [0.0] if not inverse else []])
    scales, shifts = scales[scales > 0], shifts[scales > 0]
    if not len(scales):
        return None
    errors = np.abs(rows @ np.stack([scales, shifts]) - 1)  # (K, hypotheses)
    best = int(np.minimum(errors, _TRUNCATION).mean(0).argmin())
    line, weight = np.array([scales[best], shifts[best]]), np.ones(len(value))
    spread = _LEAST_SCALE
    for _ in range(_ROUNDS):
        residual = rows @ line - 1
        spread = max(1.4826 * float(np.median(np.abs(residual))), _LEAST_SCALE)
        weight = 1 / (1 + (residual / (2 * spread)) ** 2) ** 2
        scaled = rows * weight[:, None]
        line = np.linalg.lstsq(scaled.T @ rows, scaled.sum(0), rcond=None)[0]
    return _Line(float(line[0]), float(line[1]), spread, weight) if line[0] > 0 else None


def _fill(
    result: AlignedDepth,
    index: int,
    line: _Line,
    seen: tuple[np.ndarray, np.ndarray, np.ndarray],
    given: tuple[np.ndarray, np.ndarray, bool],
) -> None:
    """Depth and confidence of one frame from its line."""
    (xy, value, z), (depth, valid, inverse) = seen, given
    straight = line.scale * np.where(valid, depth, 1.0).astype(np.float64) + line.shift
    at_points = line.scale * value + line.shift
    usable = at_points > 0
    # Logarithm of the factor from the z that the line gives to that of the point.
    residual = np.log(z[usable] * at_points[usable]) if inverse else np.log(z[usable] / at_points[usable])
    places, weight, shape = xy[usable], line.weight[usable], depth.shape
    field = np.zeros(shape)
    if _field_helps(places, residual, weight, shape):
        field = _field(places, residual, weight, shape, _FIELD_PRIOR)
        residual = residual - _at(field, places)
    error = max(float(np.median(np.abs(residual))), 1e-4) if len(residual) else np.inf
    local = _field(places, np.minimum(np.abs(residual), 1.0) - error, np.ones(len(places)), shape, _FIELD_PRIOR) + error
    good = valid & (straight > 0)
    if inverse and usable.any():  # a sky's disparity is zero and some noise: what lies far behind all points is not known
        good &= straight > _FARTHEST * float((1 / z[usable]).min())
    z_of_line = 1 / np.where(good, straight, 1.0) if inverse else straight
    result.depth[index] = np.where(good, z_of_line * np.exp(field), 0)
    result.confidence[index] = np.where(good, 1 / np.maximum(local, _LEAST_SCALE), 0)
    result.scale[index], result.shift[index], result.error[index] = line.scale, line.shift, error


def _field_helps(places: np.ndarray, residual: np.ndarray, weight: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether a field from every other point is closer to the rest than none."""
    if len(places) < 4 * MIN_POINTS:
        return False
    order = np.lexsort((places[:, 0], places[:, 1]))
    before, after = [], []
    for kept in (0, 1):
        fit, test = order[kept::2], order[1 - kept :: 2]
        field = _field(places[fit], residual[fit], weight[fit], shape, _FIELD_PRIOR)
        before.append(np.abs(residual[test]))
        after.append(np.abs(residual[test] - _at(field, places[test])))
    return bool(np.median(np.concatenate(after)) < _FIELD_GAIN * np.median(np.concatenate(before)))


def _field(places: np.ndarray, values: np.ndarray, weight: np.ndarray, shape: tuple[int, ...], prior: float) -> np.ndarray:
    """(H, W) local mean of values (K,) at pixels (K, 2), drawn to 0 where points are few: on a grid, bilinear between."""
    longer = max(shape)
    rows, columns = (min(side, max(2, round(_FIELD_NODES * side / longer))) for side in shape)
    y, x = np.linspace(0, shape[0] - 1, rows), np.linspace(0, shape[1] - 1, columns)
    width = _FIELD_WIDTH * longer
    near_y = np.exp(-0.5 * ((y[:, None] - places[:, 1]) / width) ** 2)  # (rows, K)
    near_x = np.exp(-0.5 * ((x[:, None] - places[:, 0]) / width) ** 2)  # (columns, K)
    mean = (near_y * (weight * values)) @ near_x.T / ((near_y * weight) @ near_x.T + prior)
    down = np.stack([np.interp(np.arange(shape[0]), y, column) for column in mean.T], 1)  # (H, columns)
    return np.stack([np.interp(np.arange(shape[1]), x, row) for row in down])


def _at(image: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Values (K,) of the nearest pixels."""
    x, y = xy.round().astype(np.int64).T
    return np.asarray(image[y.clip(0, image.shape[0] - 1), x.clip(0, image.shape[1] - 1)])
