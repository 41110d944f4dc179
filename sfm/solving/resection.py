"""Frames that a solution lacks, found from the points that its other frames agree on."""

from dataclasses import replace

import numpy as np

from jog3r.sfm.colmap import load_pycolmap
from jog3r.sfm.matching.tracks import Tracks
from jog3r.sfm.solving.adjust import euclidean
from jog3r.sfm.solving.judge import Verdict
from jog3r.sfm.solving.solution import ROBUST_PX, Solution

MIN_INLIERS = 15  # observations that agree on a frame's camera
_MIN_SHARE = 0.3


def add_frames(tracks: Tracks, verdict: Verdict) -> Solution:
    """The solution with every frame whose camera follows from known points (pycolmap's absolute pose); itself if none does."""
    pycolmap = load_pycolmap()
    solution = verdict.solution
    inliers = verdict.distance < ROBUST_PX
    trusted = np.bincount(tracks.point[inliers], minlength=tracks.num_points) >= 3
    points = euclidean(verdict.points)
    fx, fy = solution.focals
    camera = pycolmap.Camera(model="PINHOLE", width=1, height=1, params=[fx, fy, 0, 0], camera_id=1)
    options = pycolmap.AbsolutePoseEstimationOptions()
    options.ransac.max_error = 2 * ROBUST_PX
    options.ransac.random_seed = 0
    cameras, known = solution.world_to_camera.copy(), solution.known.copy()
    for frame in np.flatnonzero(~known):
        here = (tracks.frame == frame) & trusted[tracks.point]
        if here.sum() < MIN_INLIERS:
            continue
        found = pycolmap.estimate_and_refine_absolute_pose(tracks.xy[here], points[tracks.point[here]], camera, options)
        if found is None or found["num_inliers"] < max(MIN_INLIERS, _MIN_SHARE * here.sum()):
            continue
        cameras[frame, :3], known[frame] = found["cam_from_world"].matrix(), True
    if known.sum() == solution.known.sum():
        return solution
    return replace(solution, world_to_camera=cameras, known=known)
