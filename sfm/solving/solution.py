"""Cameras on trial, and points triangulated under them from all tracks alike."""

from dataclasses import dataclass, replace

import numpy as np

from jog3r.sfm.lens import bent, stretch
from jog3r.sfm.matching.tracks import Tracks

ROBUST_PX = 2.0  # observations farther from their point than this are taken for wrong


@dataclass(frozen=True)
class Solution:
    """Cameras of F frames in the work grid.

    Attributes:
        name: The beginning from which it was found.
        world_to_camera: (F, 4, 4) float64.
        known: (F,) bool, frames that have a camera.
        focal: Focal length in x, in work pixels.
        aspect: Focal length in y over that in x, 1 unless the clip is found to be stretched.
        distortion: Of the lens (`jog3r.sfm.lens`), 0 unless the clip is found to be bent.
    """

    name: str
    world_to_camera: np.ndarray
    known: np.ndarray
    focal: float
    aspect: float = 1.0
    distortion: float = 0.0

    @property
    def focals(self) -> np.ndarray:
        """(2,) focal lengths in x and y."""
        return np.array([self.focal, self.focal * self.aspect])

    def rebased(self) -> "Solution":
        """The same, its world the camera of the first known frame."""
        first = int(np.flatnonzero(self.known)[0])
        moved = self.world_to_camera @ np.linalg.inv(self.world_to_camera[first])
        moved[first] = np.eye(4)
        return replace(self, world_to_camera=moved)


def triangulate(tracks: Tracks, solution: Solution, rounds: int = 5) -> np.ndarray:
    """Homogeneous world points (N, 4) of all tracks under given cameras; w >= 0, 0 for a point at infinity; |(x, y, z)| = 1.

    Robust least squares on the reprojection error, outliers weighted down more and more; points that no known frame sees have
    w = 0 and any direction.
    """
    focal, cameras = solution.focals, solution.world_to_camera[tracks.frame, :3]  # (M, 3, 4)
    slopes = tracks.xy / focal
    pixel = stretch(slopes, solution.distortion)  # (M, 1), of a pinhole in those of the lens
    rays = slopes / pixel
    rows = rays[:, :, None] * cameras[:, 2:] - cameras[:, :2]  # (M, 2, 4)
    usable = solution.known[tracks.frame]
    weight = usable.astype(np.float64)
    points = np.zeros((tracks.num_points, 4))
    scale = 32.0
    for _ in range(rounds):
        points = _best_points(_normal_matrices(rows, weight, tracks), cameras, tracks, weight)
        projected = np.einsum("mij,mj->mi", cameras, points[tracks.point])
        depth = np.maximum(np.abs(projected[:, 2]), 1e-9)
        residual = np.linalg.norm(projected[:, :2] / depth[:, None] - rays, axis=1) * pixel[:, 0] * focal[0]
        robust = 1 / (1 + (residual / scale) ** 2) ** 2
        weight = usable * robust * (pixel[:, 0] / depth) ** 2
        scale = max(scale / 2, ROBUST_PX)
    return points


def reprojection(tracks: Tracks, solution: Solution, points: np.ndarray) -> np.ndarray:
    """(M,) work pixels between each observation and its point's projection; inf behind a camera or in an unknown frame."""
    projected = np.einsum("mij,mj->mi", solution.world_to_camera[tracks.frame, :3], points[tracks.point])
    front = (projected[:, 2] > 1e-12) & solution.known[tracks.frame]
    depth = np.where(front, projected[:, 2], 1.0)
    slopes = bent(projected[:, :2] / depth[:, None], solution.distortion)
    distance = np.linalg.norm(slopes * solution.focals - tracks.xy, axis=1)
    return np.where(front, distance, np.inf)


def _normal_matrices(rows: np.ndarray, weight: np.ndarray, tracks: Tracks) -> np.ndarray:
    """(N, 4, 4) sums of the weighted outer products of each point's rows."""
    outer = np.einsum("mki,mkj,m->mij", rows, rows, weight)
    normal = np.zeros((tracks.num_points, 4, 4))
    for i, j in zip(*np.triu_indices(4), strict=True):
        normal[:, i, j] = normal[:, j, i] = np.bincount(tracks.point, outer[:, i, j], tracks.num_points)
    return normal


def _best_points(normal: np.ndarray, cameras: np.ndarray, tracks: Tracks, weight: np.ndarray) -> np.ndarray:
    """(N, 4) best points with w >= 0 and (x, y, z) of unit length; where lines of sight part, the best direction at infinity.

    With w eliminated the camera centre itself, which solves the equations of a camera that only turns, is no solution.
    """
    side, corner = normal[:, :3, 3], normal[:, 3, 3]
    tiny = 1e-12 * max(float(corner.max(initial=0)), 1e-12)
    inverse = np.where(corner > tiny, 1 / np.maximum(corner, tiny), 0.0)
    points = np.empty((len(normal), 4))
    points[:, :3] = np.linalg.eigh(normal[:, :3, :3] - side[:, :, None] * side[:, None] * inverse[:, None, None])[1][:, :, 0]
    points[:, 3] = -(side * points[:, :3]).sum(1) * inverse
    points = _in_front(points, cameras, tracks, weight)
    behind = points[:, 3] < 0
    if behind.any():
        points[behind] = 0
        points[behind, :3] = np.linalg.eigh(normal[behind, :3, :3])[1][:, :, 0]
        points = _in_front(points, cameras, tracks, weight)
    return points


def _in_front(points: np.ndarray, cameras: np.ndarray, tracks: Tracks, weight: np.ndarray) -> np.ndarray:
    """The sign of each homogeneous point that puts it in front of most cameras."""
    depth = np.einsum("mj,mj->m", cameras[:, 2], points[tracks.point])
    votes = np.bincount(tracks.point, np.sign(depth) * (weight > 0), len(points))
    return points * np.where(votes < 0, -1.0, 1.0)[:, None]
