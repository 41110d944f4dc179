"""The paper's claims as paired differences between rows of the study (study.py), and what the numbers say to each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from study_measure import CAMERAS, FEATURES, VARIED, as_samples

from jog3r.evaluation.statistics.compare import HIGHER_IS_BETTER
from jog3r.evaluation.statistics.distances import distance_difference, distance_figure, kernel
from jog3r.evaluation.statistics.intervals import Figure, Statistic, difference, figure, quotient

# Of a camera that always moves ahead, and of cameras of other videos; intervals' better ends in the bundled model's card.
CHANCE_MAA, CHANCE_AGREEMENT = 10.8, 10.3
Results = Mapping[tuple[str, int], Mapping[str, Any]]  # (row, seed) -> tables of the run

# Figures by name: table, its key, digits, unit. "kernel" and "warp ratio" are computed here.
MAA, ROTATION = (CAMERAS, "maa@30"), (CAMERAS, "rotation_deg")
MAA_VARIED = (VARIED, "maa@30")
MOVES, WARP_RATIO = ("renderer", "moves as the scene %"), ("renderer", "warp ratio")
KERNEL = (FEATURES, "kernel distance")
AGREEMENT = ("agreement", "rotation_deg")
MOTION = ("reader", "motion")


@dataclass(frozen=True)
class Claim:
    """One claim of the paper.

    Attributes:
        text: what is claimed.
        paper: the numbers that it rests on.
        first, second: rows; the difference is first minus second.
        figure: what of.
        expected: how the first differs from the second: "more", "less" or "same", by less than `margin`.
        margin: of "same".
        unit: of the figure.
        chance: of "same": that two rows are alike says something only where both are better than this.
    """

    text: str
    paper: str
    first: str
    second: str
    figure: tuple[str, str]
    expected: Literal["more", "less", "same"]
    margin: float = 0.0
    unit: str = ""
    chance: float = 0.0


CLAIMS = (
    Claim(
        "Features of a frozen generator know less of 3D than trained ones: the head alone finds worse cameras than with "
        "reconstruction training.",
        "mAA@30 38.4 and 49.5", "frozen", "reconstruction", MAA, "less", unit="points of mAA@30",
    ),
    Claim(
        "Joint training finds better cameras than the head on the frozen generator.",
        "47.3 and 38.4", "joint", "frozen", MAA, "more", unit="points of mAA@30",
    ),
    Claim(
        "Joint training costs the cameras next to nothing against reconstruction alone (within 5 points).",
        "47.3 and 49.5", "joint", "reconstruction", MAA, "same", 5.0, "points of mAA@30", CHANCE_MAA,
    ),
    Claim(
        "In domain joint training is as good as a DUSt3R trained from scratch (within 5 points).",
        "47.3 and 47.5", "joint", "dust3r", MAA, "same", 5.0, "points of mAA@30", CHANCE_MAA,
    ),
    Claim(
        "Out of domain (here: varied scenes) it is better than that DUSt3R.",
        "34.2 and 19.7", "joint", "dust3r", MAA_VARIED, "more", unit="points of mAA@30",
    ),
    Claim(
        "Joint training makes videos more consistent than training on generation alone.",
        "MEt3R 0.074 and 0.091", "joint", "generation", MOVES, "more", unit="points of `moves as the scene`",
    ),
    Claim(
        "Joint training makes videos more consistent than the pre-trained generator's.",
        "MEt3R 0.074 and 0.082", "joint", "frozen", MOVES, "more", unit="points of `moves as the scene`",
    ),
    Claim(
        "Reconstruction training alone makes them more consistent, too.",
        "MEt3R 0.077 and 0.082", "reconstruction", "frozen", MOVES, "more", unit="points of `moves as the scene`",
    ),
    Claim(
        "Training on generation alone makes them less consistent.",
        "MEt3R 0.091 and 0.082", "generation", "frozen", MOVES, "less", unit="points of `moves as the scene`",
    ),
    Claim(
        "Videos of joint training are nearer to real ones than those of training on generation alone.",
        "FID 79.9 and 88.0, but FVD 1743 and 1441", "joint", "generation", KERNEL, "less", unit="of kernel distance",
    ),
    Claim(
        "Videos of joint training are nearer to real ones than the pre-trained generator's.",
        "FID 79.9 and 115.4", "joint", "frozen", KERNEL, "less", unit="of kernel distance",
    ),
    Claim(
        "Reconstruction training alone does not spoil the videos: they are nearer to real ones than the pre-trained "
        "generator's.",
        "FID 94.5 and 115.4", "reconstruction", "frozen", KERNEL, "less", unit="of kernel distance",
    ),
    Claim(
        "One network does both: the cameras that come with its videos fit as well as those that a second model finds in the "
        "videos of a generator (within 1 degree of rotation, against an outside reader).",
        "not measured", "joint", "two_stage", AGREEMENT, "same", 1.0, "degrees", CHANCE_AGREEMENT,
    ),
    Claim(
        "An earlier tap finds better cameras.", "block 20: 53.4, block 26: 47.3 (mAA@30)", "tap_middle", "joint", MAA, "more",
        unit="points of mAA@30",
    ),
    Claim(
        "One decoder over all frames is as good as pairs (within 5 points).", "equal, by its words", "global", "joint", MAA,
        "same", 5.0, "points of mAA@30", CHANCE_MAA,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What the study says to a claim.

    Attributes:
        word: "supported", "contradicted", "undecided" or "not run yet".
        difference: first minus second, over the clips of all common seeds; None: not run yet.
        seeds: the difference of each common seed alone.
    """

    word: str
    difference: Figure | None = None
    seeds: tuple[float, ...] = ()


def judge_claim(claim: Claim, results: Results) -> Verdict:
    """The claim's verdict over the seeds that both rows have."""
    seeds = common_seeds(results, claim.first, claim.second, claim.figure[0])
    if not seeds:
        return Verdict("not run yet")
    whole = paired(results, claim.first, claim.second, claim.figure, seeds)
    alone = tuple(float(paired(results, claim.first, claim.second, claim.figure, [seed])) for seed in seeds)
    word = word_of(whole, alone, claim.expected, claim.margin)
    if claim.expected == "same" and not all(
        better_than(value_of(results, row, claim.figure, seeds), claim) for row in (claim.first, claim.second)
    ):
        word = "undecided"
    return Verdict(word, whole, alone)


def better_than(value: Figure, claim: Claim) -> bool:
    """Whether a row's figure, its interval included, is better than chance."""
    return value.low > claim.chance if claim.figure[1] in HIGHER_IS_BETTER else value.high < claim.chance


def word_of(whole: Figure, seeds: Sequence[float], expected: str, margin: float = 0.0) -> str:
    """Supported or contradicted where the interval lies on one side, and every seed with it; else undecided.

    Args:
        whole: the difference with its interval over clips, which knows nothing of other seeds.
        seeds: the difference of each.
        expected: "more": above 0; "less": below 0; "same": between -margin and margin.
        margin: of "same".
    """
    if not (np.isfinite(whole.low) and np.isfinite(whole.high)):
        return "undecided"
    if expected == "same":
        if -margin < whole.low and whole.high < margin and all(abs(value) < margin for value in seeds):
            return "supported"
        outside = whole.low > margin or whole.high < -margin
        return "contradicted" if outside and all(value * whole > 0 and abs(value) > margin for value in seeds) else "undecided"
    side = 1 if whole.low > 0 else -1 if whole.high < 0 else 0
    if side == 0 or any(value * side <= 0 for value in seeds):
        return "undecided"
    return "supported" if (side > 0) == (expected == "more") else "contradicted"


def common_seeds(results: Results, first: str, second: str, table: str) -> list[int]:
    """Seeds of which both rows have the table."""
    seeds = sorted(seed for row, seed in results if row == first)
    return [seed for seed in seeds if all((row, seed) in results and table in results[row, seed] for row in (first, second))]


def paired(results: Results, first: str, second: str, name: tuple[str, str], seeds: Sequence[int]) -> Figure:
    """A figure of one row minus that of another on the same clips, with its 95 % interval; a clip counts with all its seeds."""
    if name == KERNEL:
        pair = [features(results, row, seeds) for row in (first, second)]
        sound = np.isfinite(np.concatenate(pair, axis=1)).all((1, 2))  # captions that failed in no run
        return distance_difference(kernel, pair[0][sound], pair[1][sound], real(results))
    mine, theirs = (statistic_of(results, row, name, seeds) for row in (first, second))
    return figure(difference(mine[0], theirs[0]), mine[1])


def value_of(results: Results, row: str, name: tuple[str, str], seeds: Sequence[int]) -> Figure:
    """A figure of a row over some of its seeds, with its interval over clips."""
    if name == KERNEL:
        found = features(results, row, seeds)
        return distance_figure(kernel, found[np.isfinite(found).all((1, 2))], real(results))
    return figure(*statistic_of(results, row, name, seeds))


def statistic_of(results: Results, row: str, name: tuple[str, str], seeds: Sequence[int]) -> tuple[Statistic, int]:
    """A figure as a function of how often each clip counts, and the number of clips."""
    table, key = name
    samples = as_samples([results[row, seed] for seed in seeds], [table])
    statistics = samples.statistics(table)
    if name == WARP_RATIO:  # of sums: a clip that hardly moves would rule a mean of quotients
        return quotient(statistics["warp error"], statistics["no-warp error"]), len(samples.clips)
    return statistics[key], len(samples.clips)


def features(results: Results, row: str, seeds: Sequence[int]) -> np.ndarray:
    """(N,S,D) of the videos of a row, those of one caption beside each other; NaN where a video failed."""
    return np.stack([np.array(results[row, seed][FEATURES], dtype=np.float64) for seed in seeds], axis=1)


def real(results: Results) -> np.ndarray:
    """(N,1,D) of real clips through the VAE, which the first run measured."""
    found = np.array(results["real", 0][FEATURES], dtype=np.float64)[:, None]
    return found[np.isfinite(found).all((1, 2))]
