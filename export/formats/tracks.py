"""Points seen in several frames, found by projecting each frame's points into the others.

There is no feature matching here: that a point of one frame is the same surface point in another is read off the two frames'
depth. Observations in the other frames are therefore projections, exact to the cameras by construction.
"""

import numpy as np
import torch
from torch import Tensor

from jog3r.export.point_tracks import Tracks, project_each
from jog3r.export.scene import Scene
from jog3r.geometry.depth_maps import sample_depth

__all__ = ["build_tracks"]


def build_tracks(
    scene: Scene,
    *,
    max_points: int = 50_000,
    min_length: int = 2,
    depth_tolerance: float = 0.02,
    min_confidence_quantile: float = 0.1,
    max_gap: int = 16,
) -> Tracks:
    """Points with the frames that see them, each surface point once.

    Frame by frame: its pixels that no earlier point covers become points; another frame sees one if the point projects into its
    image and its own depth there agrees. The pixels seen that way count as covered.

    Args:
        scene: A scene with pointmaps.
        max_points: Even random choice of at most that many (always the same choice).
        min_length: Frames that have to see a point.
        depth_tolerance: Largest relative difference between a point's depth in a frame and that frame's own depth.
        min_confidence_quantile: Share of the least sure pixels left out, on both sides.
        max_gap: Frames further apart than this are not compared, which keeps the time linear in the frames.

    Returns:
        The tracks.

    Raises:
        ValueError: No point is seen by `min_length` frames, or no pointmaps.
    """
    seen = scene.valid_pixels(min_confidence_quantile=min_confidence_quantile)
    covered = ~seen
    maps = torch.tensor(scene.depth), torch.from_numpy(seen)
    points: list[np.ndarray] = []
    colors: list[np.ndarray] = []
    observed: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    total = 0
    for source in range(scene.num_frames):
        y, x = np.nonzero(~covered[source])
        world = scene.pointmaps[source, y, x].astype(np.float64)
        others = np.arange(max(0, source - max_gap), min(scene.num_frames, source + max_gap + 1))
        own = (np.arange(len(y)), np.full(len(y), source), np.stack([x, y], -1).astype(np.float64))
        found = [own, _observe(scene, others[others != source], world, maps, depth_tolerance)]
        point, frame, xy = (np.concatenate(parts) for parts in zip(*found, strict=True))
        # Only what became a point covers the pixels that see it.
        kept = np.bincount(point, minlength=len(y)) >= min_length
        point, frame, xy = point[kept[point]], frame[kept[point]], xy[kept[point]]
        pixel = xy.round().astype(np.int64)
        covered[frame, pixel[:, 1], pixel[:, 0]] = True
        number = np.cumsum(kept) - 1 + total
        observed.append((number[point], frame, xy))
        total += int(kept.sum())
        points.append(world[kept])
        colors.append(scene.frames[source, y[kept], x[kept]])
    return _choose(scene, np.concatenate(points), np.concatenate(colors), observed, max_points, min_length)


def _observe(
    scene: Scene, others: np.ndarray, world: np.ndarray, maps: tuple[Tensor, Tensor], tolerance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which of the points (N, 3) the other frames (K,) see, by all frames' depth (F, H, W) and where it counts.

    Returns:
        Indices of points (M,), of frames (M,), pixels (M, 2).
    """
    height, width = scene.size
    found = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 2)))]
    for other in others:  # one by one: all points in all frames may be thirty million
        frame = np.full(len(world), other)
        xy, z = project_each(world, frame, scene.poses, scene.intrinsics)
        with np.errstate(invalid="ignore"):
            inside = (z > 0) & (xy > -0.5).all(1) & (xy < [width - 0.5, height - 0.5]).all(1)
        point, frame, xy, z = np.flatnonzero(inside), frame[inside], xy[inside], z[inside]
        # A still camera sees points exactly on its pixels: those beside a hole stay.
        own = sample_depth(*maps, torch.from_numpy(xy), torch.from_numpy(frame), spare_unweighted=True).numpy()
        with np.errstate(invalid="ignore"):
            agrees = np.abs(own / z - 1) < tolerance
        found.append((point[agrees], frame[agrees], xy[agrees]))
    points, frames, places = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return points, frames, places


def _choose(scene: Scene, points: np.ndarray, colors: np.ndarray, observed: list, max_points: int, min_length: int) -> Tracks:
    if not len(points):
        raise ValueError(
            f"no point is seen by {min_length} frames: their depths disagree; check the poses, or give build_tracks a larger "
            "depth_tolerance"
        )
    kept = np.ones(len(points), bool)
    if len(points) > max_points:
        kept[:] = False
        kept[np.random.default_rng(0).choice(len(points), max_points, replace=False)] = True
    point, frame, xy = (np.concatenate(parts) for parts in zip(*observed, strict=True))
    point, frame, xy = point[kept[point]], frame[kept[point]], xy[kept[point]]
    point = (np.cumsum(kept) - 1)[point]
    points, colors = points[kept], colors[kept]
    return Tracks.measured(points, colors, (point, frame, xy), scene.poses, scene.intrinsics)
