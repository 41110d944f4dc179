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
from jog3r.sfm.solving.judge import AS_GIVEN, AS_LIKELY, Verdict, judge, motion_is_noise
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
_LEAST_TURNING = 0.5  # share that a camera that only turns has to explain before a lens is asked for the rest
_LEAST_GAINS = {"distortion": AS_LIKELY, "aspect": 10.0}  # fall of the cost for which these are believed
_ASPECTS = (0.5, 2.0)


def solve(
    matches: Matches,
    tracks: Tracks,
    prior: FocalPrior,
    network: Solution | None,
    may: Freedom,
    seed: int,
    check: Callable[[], object] = lambda: None,
) -> tuple[Verdict | None, list[Verdict]]:
    """All beginnings, adjusted and judged.

    Args:
        matches: verified.
        tracks: that they make up.
        prior: of the focal length.
        network: cameras of a network, one more beginning.
        may: whether frames may be found to be stretched, or bent by a lens.
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
    trials = _try_beginnings(matches, some, prior, network, may.distortion, seed, check)
    if not trials:
        return None, []
    check()
    solution, trials = _finish(sure, some, trials, prior, may)
    return judge(tracks, solution, prior), trials


def _try_beginnings(
    matches: Matches,
    tracks: Tracks,
    prior: FocalPrior,
    network: Solution | None,
    lens: bool,
    seed: int,
    check: Callable[[], object],
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
    return verdicts if still is None else _still_first(tracks, verdicts, still, prior, lens)


def _still_first(tracks: Tracks, verdicts: list[Verdict], still: Verdict, prior: FocalPrior, lens: bool) -> list[Verdict]:
    """The camera that only turns comes first where moving explains no more; a lens may be what seems to be motion."""
    if motion_is_noise(tracks, still, verdicts[0]):
        return [still, *(verdict for verdict in verdicts if verdict is not still)]
    if not lens or still.inlier_share < _LEAST_TURNING:
        return verdicts
    turning = rotating_camera(tracks, prior, lens=True)
    if turning is None:
        return verdicts
    bent = judge(tracks, turning, prior)
    if bent.cost > still.cost - AS_LIKELY or not motion_is_noise(tracks, bent, verdicts[0]):
        return verdicts
    moving = judge(
        tracks, adjust(tracks, _named(turning, "small motion, distortion fitted"), prior, Freedom(distortion=True)), prior
    )
    first = [bent, moving] if motion_is_noise(tracks, bent, moving) else [moving, bent]
    return [*first, *verdicts]


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


def _finish(
    tracks: Tracks, some: Tracks, trials: list[Verdict], prior: FocalPrior, may: Freedom
) -> tuple[Solution, list[Verdict]]:
    """The winner over all tracks: frames it lacks, a lens, other pixel aspects, a last adjustment; and all that was tried."""
    solution = trials[0].solution
    if not solution.world_to_camera[solution.known, :3, 3].any() or solution.name == AS_GIVEN:
        return solution, trials
    if not solution.known.all():
        solution = add_frames(some, trials[0])
        solution = adjust(some, solution, prior) if solution is not trials[0].solution else solution
    freedom = Freedom()
    if may != freedom:
        solution, freedom, trials = _freed(some, solution, trials, prior, may)
    return adjust(tracks, solution, prior, freedom, rounds=2), trials


def _freed(
    tracks: Tracks, solution: Solution, trials: list[Verdict], prior: FocalPrior, may: Freedom
) -> tuple[Solution, Freedom, list[Verdict]]:
    """The solution with those intrinsics freed for which the tracks clearly ask, which these are, and all that was tried."""
    freedom = Freedom(distortion=solution.distortion != 0)
    best = judge(tracks, adjust(tracks, solution, prior, freedom, rounds=1), prior)
    for name, least_gain in _LEAST_GAINS.items():
        if not getattr(may, name) or getattr(freedom, name):
            continue
        freer = replace(freedom, **{name: True})
        beginning = _named(best.solution, f"{best.solution.name}, {name} fitted")
        tried = judge(tracks, adjust(tracks, beginning, prior, freer, rounds=2), prior)
        if _ASPECTS[0] < tried.solution.aspect < _ASPECTS[1] and tried.cost < best.cost - least_gain:
            best, freedom, trials = tried, freer, [tried, *trials]
        elif name == "distortion":  # if it is about as likely, it says how far the cameras can be trusted
            trials = [trials[0], tried, *trials[1:]]
    return best.solution, freedom, trials


def _named(solution: Solution, name: str) -> Solution:
    return replace(solution, name=name)


def _advancing(turning: Solution) -> Solution:
    """The turning camera, moving straight ahead as well."""
    cameras = turning.world_to_camera.copy()
    cameras[:, 2, 3] -= 0.02 * np.arange(len(cameras))
    return replace(turning, name="forward motion", world_to_camera=cameras)
