"""Several beginnings, one judge: which cameras explain the tracks best.

A mapper builds a scene from two frames on, and goes wrong where the first two show little parallax or the focal length is far
off. Bundle adjustment from a camera that only turns finds small motions of any direction, and fails where frames share little
with the first. A network knows the focal length and what a scene looks like, and nothing to the pixel. Each is adjusted over the
same tracks under the same prior; the judge asks the tracks.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from jog3r.sfm.matching.features import EXHAUSTIVE_FRAMES, Matches
from jog3r.sfm.matching.tracks import Tracks
from jog3r.sfm.solving.adjust import Freedom, adjust
from jog3r.sfm.solving.judge import AS_GIVEN, Verdict, judge, motion_is_noise
from jog3r.sfm.solving.mapping import run_mapper
from jog3r.sfm.solving.prior import FocalPrior
from jog3r.sfm.solving.resection import add_frames
from jog3r.sfm.solving.rotation import rotating_camera
from jog3r.sfm.solving.solution import ROBUST_PX, Solution

TRIAL_SEEN = 300  # points that a frame sees on average in the tracks on which beginnings are tried, at most
LEAST_CONFIRMED = 50  # observations that three frames confirm, of a frame that can do without others
# Focal length of the mapper in likeliest ones, and whether it is free from the start; bundle adjustment frees it in any case.
_OTHER_MAPPERS = ((0.7, False), (1.4, False), (1.0, True))
_AGREE = 1.03  # costs of two beginnings that found the same
_GOOD_SHARE = 0.9
_MOST_OF_IT = 0.8  # share below which the rest of the picture is asked as well
_FIRST_SHOT = 0.3
_ASPECT_GAIN = 10.0  # fall of the cost for which frames are believed to be stretched
_ASPECTS = (0.5, 2.0)


def solve(
    matches: Matches,
    tracks: Tracks,
    prior: FocalPrior,
    network: Solution | None,
    aspect_open: bool,
    seed: int,
    check: Callable[[], object] = lambda: None,
) -> tuple[Verdict | None, list[Verdict]]:
    """All beginnings, adjusted and judged.

    Args:
        matches: verified.
        tracks: that they make up.
        prior: of the focal length.
        network: cameras of a network, one more beginning.
        aspect_open: whether frames may be found to be stretched.
        seed: of all draws.
        check: is called before each beginning is mapped or adjusted, and at the end; what it raises ends the work.

    Returns:
        The winner, finished over all tracks, None if no two frames have enough in common; and all beginnings, best first, as
        judged on some of the tracks.
    """
    if not tracks.num_points:
        return None, []
    sure = tracks.confirmed(LEAST_CONFIRMED)
    some = sure.limited(TRIAL_SEEN, seed)
    trials = _try_beginnings(matches, some, prior, network, seed, check)
    if not trials:
        return None, []
    check()
    return judge(tracks, _finish(sure, some, trials[0], prior, aspect_open), prior), trials


def _try_beginnings(
    matches: Matches, tracks: Tracks, prior: FocalPrior, network: Solution | None, seed: int, check: Callable[[], object]
) -> list[Verdict]:
    def adjusted(solution: Solution) -> Verdict:
        check()
        return judge(tracks, adjust(tracks, solution, prior), prior)

    def mapped(factor: float, free: bool) -> list[Verdict]:
        name = f"mapper at {factor} x the likeliest focal length" if factor != 1 else "mapper"
        name = "mapper, any focal length" if free else name
        check()
        return [adjusted(solution) for solution in run_mapper(matches, prior.focal * factor, free, seed, name)]

    verdicts = mapped(1.0, False)  # held: at the given focal length, or the likeliest
    turning = rotating_camera(tracks, prior)
    if turning is not None:
        verdicts.append(judge(tracks, turning, prior))
        if tracks.num_frames <= EXHAUSTIVE_FRAMES or not _settled(verdicts):
            verdicts.append(adjusted(_named(turning, "small motion")))
    if network is not None:
        square = replace(network, focal=prior.focal, aspect=1.0)
        verdicts += [judge(tracks, _named(network, AS_GIVEN), prior), adjusted(square)]
    if turning is not None and not _settled(verdicts):
        verdicts.append(adjusted(_advancing(turning)))
    for factor, free in () if prior.known else _OTHER_MAPPERS:
        if not _settled(verdicts):
            verdicts += mapped(factor, free)
    verdicts.sort(key=lambda verdict: verdict.cost)
    if verdicts and verdicts[0].inlier_share < _MOST_OF_IT:
        verdicts += _rest_of_the_picture(tracks, verdicts[0], prior)
        verdicts.sort(key=lambda verdict: verdict.cost)
    verdicts = sorted(verdicts, key=lambda verdict: not _has_first_shot(verdict, verdicts[0]))  # stable
    still = next((verdict for verdict in verdicts if verdict.solution is turning), None)
    if still is not None and motion_is_noise(tracks, still, verdicts[0]):
        verdicts.remove(still)
        verdicts.insert(0, still)
    return verdicts


def _rest_of_the_picture(tracks: Tracks, best: Verdict, prior: FocalPrior) -> list[Verdict]:
    """What the tracks say that the best solution does not explain: it may have followed an object that moves by itself."""
    inliers = best.distance < ROBUST_PX
    explained = np.bincount(tracks.point[inliers], minlength=tracks.num_points) * 2 > tracks.length
    rest = tracks.select(~explained[tracks.point])
    turning = rotating_camera(rest, prior)
    if turning is None:
        return []
    found = [adjust(rest, _named(beginning, "rest of the picture"), prior) for beginning in (turning, _advancing(turning))]
    return [judge(tracks, adjust(tracks, solution, prior, rounds=2), prior) for solution in found]


def _has_first_shot(verdict: Verdict, best: Verdict) -> bool:
    """Whether the solution has frame 1, and enough frames to be preferred to a larger one that has not: the first shot of two."""
    known = verdict.solution.known
    return bool(known[0]) and known.sum() >= max(2, _FIRST_SHOT * best.solution.known.sum())


def _settled(verdicts: list[Verdict]) -> bool:
    """Whether two beginnings found the same good cameras of all frames; of a long video, which shows more, whether one did."""
    best = sorted(verdicts, key=lambda verdict: verdict.cost)[:2]
    if best and len(best[0].solution.known) > EXHAUSTIVE_FRAMES:
        best = best[:1]
    return (
        bool(best)
        and best[-1].cost <= _AGREE * best[0].cost
        and all(verdict.inlier_share >= _GOOD_SHARE and bool(verdict.solution.known.all()) for verdict in best)
    )


def _finish(tracks: Tracks, some: Tracks, verdict: Verdict, prior: FocalPrior, aspect_open: bool) -> Solution:
    """The winner over all tracks: frames it lacks, other pixel aspects, a last adjustment."""
    solution = verdict.solution
    if not solution.world_to_camera[solution.known, :3, 3].any() or solution.name == AS_GIVEN:
        return solution
    if not solution.known.all():
        solution = add_frames(some, verdict)
        solution = adjust(some, solution, prior) if solution is not verdict.solution else solution
    if aspect_open:
        solution = _try_aspect(some, solution, prior)
    return adjust(tracks, solution, prior, Freedom(aspect=solution.aspect != 1), rounds=2)


def _try_aspect(tracks: Tracks, solution: Solution, prior: FocalPrior) -> Solution:
    square = judge(tracks, adjust(tracks, solution, prior, rounds=1), prior)
    free = judge(tracks, adjust(tracks, solution, prior, Freedom(aspect=True), rounds=2), prior)
    plausible = _ASPECTS[0] < free.solution.aspect < _ASPECTS[1]
    return free.solution if plausible and free.cost < square.cost - _ASPECT_GAIN else square.solution


def _named(solution: Solution, name: str) -> Solution:
    return replace(solution, name=name)


def _advancing(turning: Solution) -> Solution:
    """The turning camera, moving straight ahead as well."""
    cameras = turning.world_to_camera.copy()
    cameras[:, 2, 3] -= 0.02 * np.arange(len(cameras))
    return replace(turning, name="forward motion", world_to_camera=cameras)
