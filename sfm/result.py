"""From the judged solutions to the result in the video's own pixels."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from jog3r.geometry.cameras import so3_exp, so3_log
from jog3r.geometry.registration.degeneracy import NO_OVERLAP, NO_PARALLAX, PLANAR_SCENE, POOR_FIT, TOO_FEW_POINTS
from jog3r.sfm.checks import Given
from jog3r.sfm.frames import Grid, rgb_frame
from jog3r.sfm.matching.tracks import Tracks
from jog3r.sfm.solving.judge import AS_GIVEN, Verdict
from jog3r.sfm.solving.planar import scene_is_planar
from jog3r.sfm.solving.second_motion import MOVING_OBJECTS, TWO_MOTIONS
from jog3r.sfm.solving.solution import ROBUST_PX, Solution
from jog3r.sfm.solving.uncertainty import UNCERTAIN_DEG, Uncertainty, camera_uncertainty, rivals_disagree
from jog3r.sfm.tracked_cameras import Candidate, PointTracks, TrackedCameras, empty_tracks

UNCERTAIN = "uncertain"  # the pictures leave more than 1 degree of rotation or 10 of direction open (see `UNCERTAIN_DEG`)
MIN_FEATURES = 30  # of a frame, less is "too few points"
_MIN_ANGLE_DEG = 0.5  # of a point's lines of sight; what is seen under less is not returned as a point
_NO_DIRECTION_DEG = 19.1  # the offset is under three of its standard deviations
_LEAST_INLIERS = 0.5


def finish(
    video: Sequence[Any],
    grid: Grid,
    features: np.ndarray,
    tracks: Tracks,
    solved: tuple[Verdict | None, list[Verdict]],
    given: Given,
    interpolate: bool,
    two_motions: bool = False,
) -> TrackedCameras:
    """The best solution as a result; the network's cameras if there is none.

    Args:
        video: the frames.
        grid: of them.
        features: (F,) number of features of each frame.
        tracks: the evidence.
        solved: the winner and all beginnings, from `solve`.
        given: the caller's knowledge.
        interpolate: fill in poses of frames that are not registered.
        two_motions: much of the pictures moves otherwise than the solution says.

    Raises:
        ValueError: there is no solution and no network's.
    """
    best, trials = solved
    candidates = tuple(_candidate(verdict, grid) for verdict in trials)
    if best is not None and best.solution.name == AS_GIVEN:
        return network_result(grid, given, "the network's cameras explain the tracks better than any adjusted ones", candidates)
    if best is None or not _believable(tracks, best):
        why = why_not(features, tracks)
        if given.initial is None:
            raise ValueError(f"no cameras from tracks: {why}")
        return network_result(grid, given, f"tracks cannot tell: {why}", candidates)
    if two_motions and given.initial is not None:
        return network_result(grid, given, f"tracks cannot tell: {TWO_MOTIONS}", candidates)
    uncertainty = camera_uncertainty(tracks, best, given.focal_prior(grid))
    degenerate = _degenerate(features, tracks, (best, trials), uncertainty)
    reason = _reason(candidates)
    if two_motions:
        moving = (f"{words}, {MOVING_OBJECTS}" if words else MOVING_OBJECTS for words in degenerate)
        degenerate, reason = tuple(moving), f"{reason}; {TWO_MOTIONS}"
    found = _tracked(video, grid, tracks, best, interpolate)
    lens = {"focal_uncertainty": uncertainty.focal, "distortion": given.distortion or best.solution.distortion}
    return replace(found, degenerate=degenerate, reason=reason, candidates=candidates, **lens)


def _believable(tracks: Tracks, verdict: Verdict) -> bool:
    """Whether at least two frames have cameras and most of what they see agrees."""
    inliers, seen = verdict.distance < ROBUST_PX, verdict.solution.known[tracks.frame]
    frames = np.unique(tracks.frame[inliers])
    return len(frames) >= 2 and inliers.sum() >= MIN_FEATURES and inliers.sum() >= _LEAST_INLIERS * seen.sum()


def why_not(features: np.ndarray, tracks: Tracks) -> str:
    """The likeliest reason in words for a video without any solution."""
    if np.median(features) < MIN_FEATURES:
        return (
            f"half of the frames have fewer than {MIN_FEATURES} features (median {np.median(features):.0f}): too little texture"
        )
    if not tracks.num_points:
        return "no two frames have features in common: is it one continuous shot of a scene at rest?"
    return f"the {tracks.num_points} points that frames have in common do not fit one rigid scene"


def network_result(grid: Grid, given: Given, reason: str, candidates: tuple[Candidate, ...]) -> TrackedCameras:
    """The cameras of `initial` in the video's pixels, without points; with the focal length and the aspect that are given."""
    initial = given.initial
    if initial is None:
        raise ValueError("there are no cameras of a network")
    count = len(initial.poses)
    intrinsics = np.tile(np.eye(3), (count, 1, 1))
    focals = initial.focals if given.focal_px is None else np.full((count, 2), given.focal_px)
    if given.focal_px is not None or given.pixel_aspect is not None:
        focals = focals[:, :1] * [1.0, given.pixel_aspect or 1.0]
    intrinsics[:, [0, 1], [0, 1]] = focals
    intrinsics[:, :2, 2] = grid.width / 2, grid.height / 2
    if given.intrinsics is not None:
        intrinsics = given.intrinsics
    return TrackedCameras(
        poses=_float(initial.poses),
        intrinsics=_float(intrinsics),
        width=grid.width,
        height=grid.height,
        registered=torch.from_numpy(initial.known),
        degenerate=initial.degenerate,
        num_inliers=torch.zeros(count, dtype=torch.int64),
        reprojection_px=torch.full((count,), torch.nan),
        points=torch.zeros(0, 3),
        point_colors=torch.zeros(0, 3, dtype=torch.uint8),
        tracks=empty_tracks(),
        chosen="network",
        reason=reason,
        candidates=candidates,
    )


def _tracked(video: Sequence[Any], grid: Grid, tracks: Tracks, verdict: Verdict, interpolate: bool) -> TrackedCameras:
    """The solution in pixels of the video, its flags and reason still empty."""
    solution = verdict.solution
    inliers = verdict.distance < ROBUST_PX
    points, kept = _finite_points(tracks, verdict, inliers)
    scene = tracks.select(kept)
    seen = np.unique(scene.point[scene.frame == int(np.flatnonzero(solution.known)[0])])
    distances = np.linalg.norm(points[seen] if len(seen) else points, axis=1)
    unit = float(distances.mean()) if len(distances) else float(np.linalg.norm(solution.world_to_camera[:, :3, 3], axis=1).max())
    unit = unit if unit > 0 else 1.0
    poses = np.linalg.inv(solution.world_to_camera)
    poses[solution.known.argmax()] = np.eye(4)
    poses[:, :3, 3] /= unit
    xy = grid.from_work(scene.xy, scene.frame)
    return TrackedCameras(
        poses=_float(fill_poses(poses, solution.known, interpolate)),
        intrinsics=_float(video_intrinsics(grid, solution)),
        width=grid.width,
        height=grid.height,
        registered=torch.from_numpy(solution.known.copy()),
        degenerate=("",) * tracks.num_frames,
        num_inliers=torch.from_numpy(np.bincount(tracks.frame[inliers], minlength=tracks.num_frames)),
        reprojection_px=_float(_median_error(tracks, verdict, inliers) * grid.width / grid.small_size[0]),
        points=_float(points / unit),
        point_colors=torch.from_numpy(_colors(video, scene, xy)),
        tracks=PointTracks(torch.from_numpy(scene.point), torch.from_numpy(scene.frame), torch.from_numpy(xy)),
        chosen="tracks",
        reason="",
        candidates=(),
    )


def video_intrinsics(grid: Grid, solution: Solution) -> np.ndarray:
    """(F, 3, 3) intrinsics in video pixels of a solution in the work grid."""
    work = np.diag([*solution.focals, 1.0])
    to_video = np.linalg.inv(grid.inverse_intrinsics) @ np.diag([1 / grid.focal_scale, 1 / grid.focal_scale, 1.0])
    return to_video @ work


def fill_poses(poses: np.ndarray, known: np.ndarray, interpolate: bool) -> np.ndarray:
    """Poses (F, 4, 4) with those of unknown frames copied from the nearest known one, or laid between their neighbours'."""
    filled, where = poses.copy(), np.flatnonzero(known)
    for frame in np.flatnonzero(~known):
        after = int(np.searchsorted(where, frame))
        if interpolate and 0 < after < len(where):
            low, high = where[after - 1], where[after]
            share = (frame - low) / (high - low)
            turn = so3_log(torch.from_numpy(poses[low, :3, :3].T @ poses[high, :3, :3]))
            filled[frame, :3, :3] = poses[low, :3, :3] @ so3_exp(share * turn).numpy()
            filled[frame, :3, 3] = (1 - share) * poses[low, :3, 3] + share * poses[high, :3, 3]
        else:
            filled[frame] = poses[where[np.abs(where - frame).argmin()]]
    return filled


def _candidate(verdict: Verdict, grid: Grid) -> Candidate:
    solution = verdict.solution
    focal = float(video_intrinsics(grid, solution)[0, 0, 0])
    return Candidate(solution.name, verdict.cost, verdict.inlier_share, verdict.angle_deg, focal, int(solution.known.sum()))


def _reason(candidates: tuple[Candidate, ...]) -> str:
    best = candidates[0]
    return (
        f"begun from {best.name}: {best.inlier_share:.0%} of the observations within {ROBUST_PX:g} pixels where they were found, "
        f"median angle {best.angle_deg:.1f} degrees, {best.num_registered} frames; best of {len(candidates)} beginnings"
    )


def _finite_points(tracks: Tracks, verdict: Verdict, inliers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N', 3) points seen at least twice under more than a tiny angle, and the mask (M,) of their observations."""
    homogeneous = verdict.points
    finite = homogeneous[:, 3] > 1e-6
    points = homogeneous[:, :3] / np.where(finite, homogeneous[:, 3], 1.0)[:, None]
    good = finite & (verdict.angles_deg > _MIN_ANGLE_DEG) & (np.bincount(tracks.point[inliers], minlength=tracks.num_points) >= 2)
    return points[good], inliers & good[tracks.point]


def _degenerate(
    features: np.ndarray, tracks: Tracks, solved: tuple[Verdict, list[Verdict]], uncertainty: Uncertainty
) -> tuple[str, ...]:
    verdict, trials = solved
    known, inliers = verdict.solution.known, verdict.distance < ROBUST_PX
    rivals = rivals_disagree(trials)
    planar = scene_is_planar(tracks, verdict)
    seen = np.bincount(tracks.frame, minlength=tracks.num_frames)
    found = np.bincount(tracks.frame[inliers], minlength=tracks.num_frames)
    words = []
    for frame in range(tracks.num_frames):
        mine = []
        if not known[frame]:
            mine.append(TOO_FEW_POINTS if features[frame] < MIN_FEATURES else NO_OVERLAP)
        else:
            aimless = uncertainty.direction_deg[frame] > _NO_DIRECTION_DEG
            if aimless:
                mine.append(NO_PARALLAX)
            elif planar:
                mine.append(PLANAR_SCENE)
            turned, moved = rivals[frame]
            unsure = turned or uncertainty.rotation_deg[frame] > UNCERTAIN_DEG[0]
            if unsure or (not aimless and (moved or uncertainty.direction_deg[frame] > UNCERTAIN_DEG[1])):
                mine.append(UNCERTAIN)
            if found[frame] < _LEAST_INLIERS * seen[frame]:
                mine.append(POOR_FIT)
        words.append(", ".join(mine))
    return tuple(words)


def _median_error(tracks: Tracks, verdict: Verdict, inliers: np.ndarray) -> np.ndarray:
    errors = np.full(tracks.num_frames, np.nan)
    frames, distances = tracks.frame[inliers], verdict.distance[inliers]
    order = np.argsort(frames, kind="stable")
    seen, starts = np.unique(frames[order], return_index=True)
    for frame, values in zip(seen, np.split(distances[order], starts[1:]), strict=False):
        errors[frame] = np.median(values)
    return errors


def _colors(video: Sequence[Any], tracks: Tracks, xy: np.ndarray) -> np.ndarray:
    """(N, 3) uint8 of each point where it is seen first."""
    colors = np.zeros((tracks.num_points, 3), np.uint8)
    _, first = np.unique(tracks.point, return_index=True)
    for frame in np.unique(tracks.frame[first]).tolist():
        here = first[tracks.frame[first] == frame]
        image = np.asarray(rgb_frame(video, frame))
        column, row = np.rint(xy[here]).astype(np.int64).T
        colors[tracks.point[here]] = image[row.clip(0, image.shape[0] - 1), column.clip(0, image.shape[1] - 1)]
    return colors


def _float(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
