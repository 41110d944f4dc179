"""One judge for all beginnings: how well all tracks can be explained by a solution's cameras.

Every track is triangulated anew under the cameras on trial, so that no solution is judged by points it chose itself. An
observation costs its squared distance from its point's projection, at most that of 2 pixels; one in a frame without a camera, or
behind it, costs the most. Observations of one point are not independent (`OBSERVATIONS_PER_FACT`): this weighs the pictures
against the prior of the focal length. Where a part of the picture is crowded with features each counts less: what fills more of
the picture is the scene, not what has the sharper texture.
"""

from dataclasses import dataclass

import numpy as np

from jog3r.sfm.matching.tracks import Tracks
from jog3r.sfm.solving.adjust import LEAST_NOISE_PX, NOISE_PX, OBSERVATIONS_PER_FACT
from jog3r.sfm.solving.prior import FocalPrior
from jog3r.sfm.solving.solution import ROBUST_PX, Solution, reprojection, triangulate

_SAME_VARIANCE = 1.25
AS_LIKELY = 5.0  # difference of costs, which are logarithms of likelihoods: 1 to 150
AS_GIVEN = "network as given"  # name of the solution that is the network's, not adjusted


@dataclass(frozen=True)
class Verdict:
    """A solution as the tracks see it; M observations of N points."""

    solution: Solution
    points: np.ndarray
    """(N, 4) homogeneous, in the solution's world."""
    distance: np.ndarray
    """(M,) work pixels; inf where the frame has no camera or the point lies behind it."""
    cost: float
    inlier_share: float
    """Of all observations, by the part of the picture that they stand for: within 2 pixels."""
    angles_deg: np.ndarray
    """(N,) largest angle between the first and any other line of sight of each point."""

    @property
    def angle_deg(self) -> float:
        """Median angle of the points that are seen twice."""
        seen = self.angles_deg > 0
        return float(np.median(self.angles_deg[seen])) if seen.any() else 0.0


def judge(tracks: Tracks, solution: Solution, prior: FocalPrior) -> Verdict:
    """Triangulate all tracks under the solution's cameras and weigh what they say."""
    points = triangulate(tracks, solution)
    distance = reprojection(tracks, solution, points)
    # A point has three unknowns of its own: of n observations (2n numbers) a share of 1 - 1.5 / n can disagree at all.
    balance = area_balance(tracks)
    weight = balance * (1 - 1.5 / tracks.length)[tracks.point]
    squared = np.minimum(distance / NOISE_PX, ROBUST_PX / NOISE_PX) ** 2
    cost = float((weight * squared).sum()) / (2 * OBSERVATIONS_PER_FACT) + prior.cost(solution.focal)
    inliers = distance < ROBUST_PX
    return Verdict(
        solution, points, distance, cost, float((balance * inliers).mean()), _angles(tracks, solution, points, inliers)
    )


def area_balance(tracks: Tracks) -> np.ndarray:
    """(M,) weights with mean 1: less for an observation where its frame has more of them than most parts of the picture."""
    number, _ = tracks.parts()
    count = np.bincount(number)
    usual = float(np.median(count[count > 0]))
    weight = 1 / np.maximum(count[number], usual)
    return weight / weight.mean()


def motion_is_noise(tracks: Tracks, turning: Verdict, moving: Verdict) -> bool:
    """Whether a camera that only turns explains the tracks as well as one that moves, given how much more the latter can fit.

    Compares the variances of the residuals: squared residuals over the numbers observed less those estimated, two for a point's
    direction and three for a turn, three for a point and six for a moving camera.
    """
    if moving.solution is turning.solution:
        return True
    both = turning.solution.known & moving.solution.known
    if both.sum() < moving.solution.known.sum():
        return False
    here = both[tracks.frame]
    observed, points, frames = 2 * int(here.sum()), len(np.unique(tracks.point[here])), int(both.sum())
    variances = []
    for verdict, unknowns in ((turning, 2 * points + 3 * frames), (moving, 3 * points + 6 * frames)):
        squared = np.minimum(verdict.distance[here], ROBUST_PX) ** 2
        variances.append(LEAST_NOISE_PX**2 + float(squared.sum()) / max(observed - unknowns, 1))
    return variances[0] <= _SAME_VARIANCE * variances[1]


def _angles(tracks: Tracks, solution: Solution, points: np.ndarray, inliers: np.ndarray) -> np.ndarray:
    centres = np.linalg.inv(solution.world_to_camera)[:, :3, 3]
    homogeneous = points[tracks.point]
    rays = homogeneous[:, :3] - homogeneous[:, 3:] * centres[tracks.frame]
    rays = (rays / np.maximum(np.linalg.norm(rays, axis=1, keepdims=True), 1e-12))[inliers]
    point, first, group = np.unique(tracks.point[inliers], return_index=True, return_inverse=True)
    sine = np.linalg.norm(np.cross(rays, rays[first][group]), axis=1)
    angles = np.zeros(tracks.num_points)
    np.maximum.at(angles, point[group], np.degrees(np.arctan2(sine, (rays * rays[first][group]).sum(1))))
    return angles
