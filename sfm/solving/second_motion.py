"""Whether the solution is that of the scene, or of an object that moves by itself before it.

An object may have more features than the scene behind it, and then its motion explains most of what was matched. But what moves
by itself seldom fills the border of the picture: where features there, of which three frames tell the same, contradict the
solution, the solution is not the scene's.
"""

import numpy as np

from jog3r.sfm.matching.tracks import Tracks
from jog3r.sfm.solving.solution import Solution, reprojection, triangulate

MOVING_OBJECTS = "moving objects"
TWO_MOTIONS = "moving objects: two motions explain these pictures"
TWO_MOTIONS_SHARE = 0.07  # of the border; a few hundredths of it are matched wrongly in any video
_LEAST_SEEN = 3  # tracks in a part that has a say
_FAR_PX = 3.0
_LEAST_CELLS = 0.5  # of a frame's border that contradict, on average


def contradicted_border(tracks: Tracks, solution: Solution) -> float:
    """Share of the border's parts in which most tracks contradict the solution.

    Args:
        tracks: not verified by any geometry (see `jog3r.sfm.matching.supported`).
        solution: cameras on trial.

    Returns:
        0..1; 0 where less than half a part of a frame's border contradicts.
    """
    tracks = tracks.select(solution.known[tracks.frame])
    if not tracks.num_points:
        return 0.0
    far = reprojection(tracks, solution, triangulate(tracks, solution)) > _FAR_PX
    number, edge = tracks.parts()
    number = number[edge]
    seen, wrong = np.bincount(number), np.bincount(number, far[edge])
    telling = seen >= _LEAST_SEEN
    against = telling & (wrong > 0.5 * seen)
    if against.sum() < _LEAST_CELLS * len(np.unique(tracks.frame)):
        return 0.0
    return float(against.sum() / telling.sum())


def has_two_motions(tracks: Tracks, solution: Solution) -> bool:
    """Whether so much of the border contradicts that the solution may be a moving object's."""
    return contradicted_border(tracks, solution) > TWO_MOTIONS_SHARE
