"""How sure the cameras of a solution are: the covariance of bundle adjustment, points eliminated."""

from dataclasses import dataclass

import numpy as np

from jog3r.geometry.camera_metrics import direction_angle_deg, rotation_angle_deg
from jog3r.sfm.lens import bending_of, bent
from jog3r.sfm.matching.tracks import Tracks
from jog3r.sfm.solving.adjust import LEAST_NOISE_PX, OBSERVATIONS_PER_FACT, euclidean, fitting
from jog3r.sfm.solving.judge import AS_LIKELY, Verdict
from jog3r.sfm.solving.prior import FocalPrior
from jog3r.sfm.solving.solution import ROBUST_PX

UNCERTAIN_DEG = (1.0, 10.0)  # of rotation and direction: more is flagged
MAX_FRAMES = 400  # that take part: the reduced equations are dense
_POINTS, _POINTS_A_FRAME = 600, 25  # that take part, drawn: at least the first; the more, the better long videos hang together
_MAX_PAIRS, _PAIRS_AT_ONCE = 2_000_000, 200_000  # of observations of one point; each takes a kilobyte while it is added


@dataclass(frozen=True)
class Uncertainty:
    """Standard deviations of F cameras with respect to the first, the focal length's uncertainty included."""

    rotation_deg: np.ndarray
    """(F,) of the least certain axis; 0 for the first frame, inf for frames without a camera."""
    direction_deg: np.ndarray
    """(F,) of the direction of the offset from the first camera; inf where the offset is zero."""
    focal: float
    """Of the logarithm of the focal length, about its relative error, pixels taken for square; 0 if it is given."""


def camera_uncertainty(tracks: Tracks, verdict: Verdict, prior: FocalPrior) -> Uncertainty:
    """Uncertainty of all cameras; of a long video that of some frames, and for the others their nearest neighbour's."""
    solution, count = verdict.solution, tracks.num_frames
    known = np.flatnonzero(solution.known)
    rotation, direction = np.full(count, np.inf), np.full(count, np.inf)
    centres = np.linalg.inv(solution.world_to_camera)[:, :3, 3]
    turning = not centres[known].any()  # all points are directions then
    frames = known[np.unique(np.linspace(0, len(known) - 1, min(len(known), MAX_FRAMES)).round().astype(int))]
    used, points = fitting(tracks, verdict.points, (verdict.distance < ROBUST_PX) & np.isin(tracks.frame, frames))
    drawn = np.random.default_rng(0).permutation(used.num_points)[: max(_POINTS, _POINTS_A_FRAME * len(frames))]
    chosen = np.zeros(used.num_points, bool)
    chosen[drawn[np.cumsum(used.length[drawn] ** 2) <= _MAX_PAIRS]] = True
    share = chosen.mean() if len(chosen) else 1.0
    points, used = points[chosen, :3] if turning else euclidean(points[chosen]), used.select(chosen[used.point])
    if not used.num_points:
        return Uncertainty(rotation, direction, prior.spread)
    place = np.full(count, -1)
    place[frames] = np.arange(len(frames))
    covariance = _covariance(used, points, verdict, prior, place, share)
    last = 6 * len(frames)
    sigma = [_standard_deviations(covariance[6 * k : 6 * k + 6, 6 * k : 6 * k + 6], centres[f]) for k, f in enumerate(frames)]
    nearest = np.abs(known[:, None] - frames).argmin(1)
    rotation[known], direction[known] = np.array(sigma)[nearest].T
    rotation[known[0]] = direction[known[0]] = 0.0
    focal = 0.0 if prior.known else float(np.sqrt(max(covariance[last, last], 0.0)))
    return Uncertainty(rotation, direction, focal)


def rivals_disagree(trials: list[Verdict]) -> np.ndarray:
    """(F, 2) bool: another beginning ended in cameras about as likely as the best, in which this frame is turned; lies elsewhere.

    Args:
        trials: all beginnings, the winner first.
    """
    best = trials[0].solution.rebased()
    differs = np.zeros((len(best.known), 2), bool)
    if not best.world_to_camera[best.known, :3, 3].any():
        return differs  # a camera that only turns was preferred to likelier ones
    centres = np.linalg.inv(best.world_to_camera)[:, :3, 3]
    for trial in trials[1:]:
        other = trial.solution
        if trial.cost > trials[0].cost + AS_LIKELY or other.known.argmax() != best.known.argmax():
            continue
        other, both = other.rebased(), best.known & other.known
        turned = rotation_angle_deg(best.world_to_camera[:, :3, :3], other.world_to_camera[:, :3, :3])
        moved = direction_angle_deg(centres, np.linalg.inv(other.world_to_camera)[:, :3, 3])
        differs |= both[:, None] & (np.stack([turned, moved], 1) > UNCERTAIN_DEG)
    return differs


def _standard_deviations(covariance: np.ndarray, offset: np.ndarray) -> tuple[float, float]:
    """Degrees of rotation and of direction from the covariance (6, 6) of turn and centre."""
    length = np.linalg.norm(offset)
    turn = float(np.sqrt(max(np.linalg.eigvalsh(covariance[:3, :3])[-1], 0)))
    if length < 1e-12:
        return np.degrees(turn), np.inf
    across = np.eye(3) - np.outer(offset, offset) / length**2
    side = float(np.sqrt(max(np.linalg.eigvalsh(across @ covariance[3:, 3:] @ across)[-1], 0)))
    return np.degrees(turn), np.degrees(side / length)


def _covariance(
    tracks: Tracks, points: np.ndarray, verdict: Verdict, prior: FocalPrior, place: np.ndarray, share: float
) -> np.ndarray:
    """(6K + L, 6K + L) of turns and centres of K frames, the log focal length and the distortion of a lens that has some.

    The first frame is certain.
    """
    first, second = _pairs_of_observations(tracks)
    by_camera, by_point = _derivatives(tracks, points, verdict)
    poses = 6 * int(place.max() + 1)
    lens = np.arange(poses, poses + by_camera.shape[2] - 6)
    size = poses + len(lens)
    block = np.zeros((tracks.num_points, 3, 3))
    np.add.at(block, tracks.point, by_point.transpose(0, 2, 1) @ by_point)
    block += 1e-9 * np.trace(block, axis1=1, axis2=2)[:, None, None] * np.eye(3)
    mixed = by_camera.transpose(0, 2, 1) @ by_point  # (M, 6 + L, 3)
    solved = mixed @ np.linalg.inv(block)[tracks.point]
    places = np.concatenate(
        [6 * place[tracks.frame][:, None] + np.arange(6), np.broadcast_to(lens, (len(tracks.frame), len(lens)))], 1
    )
    total = np.zeros(size * size)
    own = by_camera.transpose(0, 2, 1) @ by_camera
    _add(total, size, places, places, own)
    for start in range(0, len(first), _PAIRS_AT_ONCE):
        one, two = (numbers[start : start + _PAIRS_AT_ONCE] for numbers in (first, second))
        _add(total, size, places[one], places[two], -solved[one] @ mixed[two].transpose(0, 2, 1))
    reduced = total.reshape(size, size)
    residual = np.minimum(verdict.distance[verdict.distance < ROBUST_PX], ROBUST_PX)
    variance = max(float((residual**2).mean()) / 2, LEAST_NOISE_PX**2) * OBSERVATIONS_PER_FACT * share
    reduced[poses, poses] += variance / prior.spread**2 if prior.spread > 0 else 1e12
    centres = np.linalg.inv(verdict.solution.world_to_camera)[:, :3, 3]
    scale = np.zeros(size)
    for frame in np.flatnonzero(place >= 0):
        scale[6 * place[frame] + 3 : 6 * place[frame] + 6] = centres[frame]
    diagonal = np.abs(reduced.diagonal())
    reduced += float(diagonal.max()) * np.outer(scale, scale) / max(float(scale @ scale), 1e-12)  # the scale of the world is free
    free = np.arange(6, size)
    inner = reduced[np.ix_(free, free)]
    inner += np.diag(1e-9 * np.abs(inner.diagonal()) + 1e-12)
    covariance = np.zeros((size, size))
    covariance[np.ix_(free, free)] = variance * np.linalg.inv(inner)
    return covariance


def _derivatives(tracks: Tracks, points: np.ndarray, verdict: Verdict) -> tuple[np.ndarray, np.ndarray]:
    """Of each observation by turn, centre, log focal length and distortion (M, 2, 6 + L), and by its point (M, 2, 3)."""
    solution = verdict.solution
    rotation = solution.world_to_camera[tracks.frame, :3, :3]
    local = np.einsum("mij,mj->mi", rotation, points[tracks.point]) + solution.world_to_camera[tracks.frame, :3, 3]
    x, y, z = local.T
    z = np.maximum(z, 1e-9)
    projection = np.zeros((len(x), 2, 3))
    projection[:, 0, 0] = projection[:, 1, 1] = 1 / z
    projection[:, 0, 2], projection[:, 1, 2] = -x / z**2, -y / z**2
    slopes, by_lens = local[:, :2] / z[:, None], []
    if solution.distortion:
        bending, by_distortion = bending_of(slopes, solution.distortion)
        projection, by_lens = bending @ projection, [(by_distortion * solution.focals)[:, :, None]]
        slopes = bent(slopes, solution.distortion)
    projection *= solution.focals[:, None]
    zero = np.zeros_like(x)
    cross = np.stack([zero, z, -y, -z, zero, x, y, -x, zero], 1).reshape(-1, 3, 3)  # -[X]x
    by_point = projection @ rotation
    by_focal = (slopes * solution.focals)[:, :, None]
    moves = solution.world_to_camera[solution.known, :3, 3].any()  # a camera that only turns sees directions, not points
    return np.concatenate([projection @ cross, -by_point * moves, by_focal, *by_lens], 2), by_point


def _pairs_of_observations(tracks: Tracks) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of both observations of all ordered pairs, each with itself included, that see one point."""
    length = tracks.length
    starts = np.concatenate([[0], np.cumsum(length)[:-1]])
    first = np.repeat(np.arange(len(tracks.point)), length[tracks.point])
    ends = np.cumsum(length[tracks.point])
    second = np.arange(len(first)) - np.repeat(ends - length[tracks.point], length[tracks.point]) + starts[tracks.point[first]]
    return first, second


def _add(total: np.ndarray, size: int, rows: np.ndarray, columns: np.ndarray, blocks: np.ndarray) -> None:
    """Add blocks (K, n, n) to a flat matrix at their rows and columns (K, n)."""
    index = (rows[:, :, None] * size + columns[:, None]).reshape(-1)
    total += np.bincount(index, blocks.reshape(-1), len(total))
