"""Whether all that is seen lies in one plane: then pose and focal length can stand in for each other."""

import numpy as np

from jog3r.sfm.matching.tracks import Tracks
from jog3r.sfm.solving.adjust import LEAST_NOISE_PX
from jog3r.sfm.solving.judge import Verdict
from jog3r.sfm.solving.solution import ROBUST_PX, Solution, reprojection

_RATIO = 1.5  # of the deviations, as in `jog3r.geometry.registration`
_MOST_POINTS, _LEAST_POINTS = 400, 20
_TRIALS = 50
_LEAST_ON_IT = 0.97  # of the observations


def scene_is_planar(tracks: Tracks, verdict: Verdict) -> bool:
    """Whether points in one plane explain the inliers as well as points anywhere, given how much more the latter can fit.

    False for a camera that only turns, to which everything could be a plane.
    """
    solution = verdict.solution
    if not solution.world_to_camera[solution.known, :3, 3].any():
        return False
    good = (verdict.distance < ROBUST_PX) & (verdict.angles_deg > 0)[tracks.point]
    count = np.bincount(tracks.point[good], minlength=tracks.num_points)
    kept = np.flatnonzero(count >= 2)
    kept = np.sort(np.random.default_rng(0).permutation(kept)[:_MOST_POINTS])
    if len(kept) < _LEAST_POINTS:
        return False
    used = tracks.select(good & np.isin(tracks.point, kept))
    points = verdict.points[kept]
    free = np.minimum(reprojection(used, solution, points), ROBUST_PX)
    flat = _best_plane(used, solution, points)
    numbers = 2 * len(used.point)
    variances = [
        LEAST_NOISE_PX**2 + float((distance**2).sum()) / max(numbers - unknowns, 1)
        for distance, unknowns in ((flat, 2 * len(kept) + 3), (free, 3 * len(kept)))
    ]
    return variances[0] <= _RATIO**2 * variances[1] and float((flat < ROBUST_PX).mean()) >= _LEAST_ON_IT


def _best_plane(tracks: Tracks, solution: Solution, points: np.ndarray) -> np.ndarray:
    """(M,) pixels, at most `ROBUST_PX`, between the observations and points moved along a line of sight to the best plane."""
    rng = np.random.default_rng(0)
    starts = np.searchsorted(tracks.point, np.arange(tracks.num_points))
    centre = np.linalg.inv(solution.world_to_camera)[tracks.frame[starts], :3, 3]
    best, least = np.full(len(tracks.point), ROBUST_PX), np.inf
    for trial in range(_TRIALS + 3):
        # Three points; at last, a few times, all that lie on the best plane found.
        chosen = rng.permutation(len(points))[:3] if trial < _TRIALS else np.unique(tracks.point[best < ROBUST_PX])
        if len(chosen) < 3:
            continue
        plane = np.linalg.svd(points[chosen])[2][-1]
        distance = np.minimum(reprojection(tracks, solution, _onto(points, centre, plane)), ROBUST_PX)
        if (cost := float((distance**2).sum())) < least:
            best, least = distance, cost
    return best


def _onto(points: np.ndarray, centre: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """Homogeneous points (N, 4) moved along the lines to their cameras' centres (N, 3) onto a plane (4,)."""
    way = points[:, :3] - points[:, 3:] * centre
    ahead = -(centre @ plane[:3] + plane[3])
    weight = way @ plane[:3]
    moved = np.concatenate([way * ahead[:, None] + centre * weight[:, None], weight[:, None]], 1)
    return moved * np.where(weight < 0, -1.0, 1.0)[:, None]
