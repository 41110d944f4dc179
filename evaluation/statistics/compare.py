"""`jog3r evaluate compare A B`: figures of two runs on the same clips, and what they differ by."""

from pathlib import Path
from typing import Any

import numpy as np

from jog3r.evaluation.report import SCATTER, Block, Heading, Table
from jog3r.evaluation.statistics.distances import DISTANCES, distance_difference, distance_figure, has_any
from jog3r.evaluation.statistics.intervals import Figure, Statistic, difference, figure, paired_ratios
from jog3r.evaluation.statistics.per_clip import Samples, load_samples

HIGHER_IS_BETTER = (
    *(
        "rra@5",
        "rta@5",
        "rta_folded@5",
        "rra@15",
        "rta@15",
        "rta_folded@15",
        "depth delta < 1.25 %",
        "maa@30",
        "maa_folded@30",
        "auc@30",
    ),
    *("registered %", "placed %", "all placed %", "inliers a frame", "inlier share %", "points", "track length"),
    "moves as the scene %",
    *("wall", "floor", "motion", "object_precision", "object_recall", "object_f1", "agreement"),
)
NO_SIDE = (
    "visibility",
    "visible share",
    "overlapping pairs %",
    "frame_difference",
    "flow_px",
    "motion: frame difference",
    "no-warp error",
)  # neither direction is better
OF_NO_MODEL = ("constant pose", "always forward", "shuffled pairs", "chance", "real as rendered", "rendered, true")


def compare_runs(first: str | Path, second: str | Path) -> dict[str, Any]:
    """Paired differences, first minus second, of every figure that both runs have, over the clips that both have.

    Args:
        first, second: folders that `jog3r evaluate` wrote.

    Returns:
        By task: `clips` in common, `left_out` of each, `not_compared`, a line for each table or figure that two networks or
        judges measured, `tables`: by path and figure `first`, `second` and `difference` with
        intervals on the same draws of the clips that have the figure in both, and `verdict`: "first", "second" (is better: the
        interval leaves zero out), "undecided", or "-" where neither direction is better.

    Raises:
        ValueError: no results, no task or clip in common, or other frames or another caption of a clip.
    """
    runs = [load_samples(Path(folder)) for folder in (first, second)]
    tasks = [task for task in runs[0] if task in runs[1]]
    if not tasks:
        raise ValueError(f"{first} and {second} have no task in common: {', '.join(runs[0])} and {', '.join(runs[1])}")
    return {
        "first": str(first),
        "second": str(second),
        **{task: _compare_task(task, runs[0][task], runs[1][task]) for task in tasks},
    }


def compare_blocks(result: dict[str, Any]) -> list[Block]:
    """Report of what `compare_runs` returns."""
    parts: list[Block] = [
        Heading(1, f"{result['first']} (first) against {result['second']} (second)"),
        "Difference: first minus second, paired, with its 95 % interval over the clips that have the figure in both runs (n); "
        "cameras that were not found count as wrong. Many figures are compared: of twenty that do not differ one is called "
        "decided by chance.",
    ]
    columns = {"first": "first", "second": "second", "difference": "difference", "verdict": "better"}
    for task, found in result.items():
        if task in ("first", "second"):
            continue
        parts += [
            Heading(2, task),
            f"{found['clips']} clips in common; left out: {found['left_out'][0]} and {found['left_out'][1]}.",
        ]
        parts += ["Not compared:\n" + "\n".join(f"- {line}" for line in found["not_compared"])] if found["not_compared"] else []
        for path, rows in found["tables"].items():
            parts += [Heading(3, path), *([SCATTER] if set(rows) & set(DISTANCES) else []), Table(rows, columns, "figure")]
    return parts


def _compare_task(task: str, first: Samples, second: Samples) -> dict[str, Any]:
    there = set(second.clips)
    common = [name for name in first.clips if name in there]
    if not common:
        raise ValueError(
            f"{task}: the runs have no clip in common, {first.clips[:1]} and {second.clips[:1]} are their first ones"
        )
    left_out = [len(samples.clips) - len(common) for samples in (first, second)]
    first, second = first.select(common), second.select(common)
    if task == "v2c":
        _check_same_frames(first, second)
    _check_same_captions(first, second)
    others = _measured_by_others(first, second)
    tables: dict[str, dict[str, dict[str, Any]]] = {}
    for path in first.tables():
        if path.rpartition("/")[2] in OF_NO_MODEL or path not in second.tables() or (path, "") in others:
            continue
        rows = _compare_table(path, first, second)
        tables[path] = {name: row for name, row in rows.items() if (path, name) not in others}
    for network, (own, real) in first.features.items():
        if network in second.features:
            other, other_real = second.features[network]
            count = min(own.shape[1], other.shape[1])  # of a run with more videos of each caption the first ones
            found = _compare_sets(own[:, :count], real, other[:, :count], other_real)
            tables |= {} if found is None else {network: found}
    lines = [
        f"{path}{f': {name}' * bool(name)}: the first is by {a}, the second by {b}" for (path, name), (a, b) in others.items()
    ]
    return {"clips": len(common), "left_out": left_out, "not_compared": lines, "tables": tables}


def _compare_table(path: str, first: Samples, second: Samples) -> dict[str, dict[str, Any]]:
    """Each figure of a table that both have, over the clips that have it in both: a run must not win by failing on hard clips."""
    if path in first.pairs or path.startswith("captions/"):  # a failed clip counts there, and a caption may ask for nothing
        mine, theirs = first.statistics(path), second.statistics(path)
        return {name: _compare(name, mine[name], theirs[name], len(first.clips)) for name in mine if name in theirs}
    figures, others = first.ratios[path], second.ratios[path]
    pairs = {name: paired_ratios(figures[name], others[name]) for name in figures if name in others}
    return {name: _compare(name, *pair) for name, pair in pairs.items() if pair[2]}


def _check_same_frames(first: Samples, second: Samples) -> None:
    """Clips are known by their names, and windows of another stride or length have the same: their true motions tell them apart.

    Raises:
        ValueError: naming a clip of which the runs saw other frames.
    """
    for path in ("first/constant pose", "all/constant pose"):  # whose errors are the true motions
        if path not in first.pairs or path not in second.pairs:
            continue
        tables = first.pairs[path], second.pairs[path]
        for number, name in enumerate(first.clips):
            mine, theirs = (table.rotation[table.clip == number] for table in tables)
            if mine.shape != theirs.shape or not np.allclose(mine, theirs, rtol=0, atol=0.01):
                raise ValueError(f"the runs saw other frames of {name!r}: evaluate both with the same --clip_list")


def _check_same_captions(first: Samples, second: Samples) -> None:
    """Videos of other captions are other videos.

    Raises:
        ValueError: naming a clip whose captions differ.
    """
    if first.asked is None or second.asked is None:
        return
    if (differ := np.flatnonzero(first.asked != second.asked)).size:
        raise ValueError(
            f"the runs made videos of other captions of {first.clips[differ[0]]!r} ({differ.size} clips differ): "
            "evaluate both with the same captions"
        )


def _measured_by_others(first: Samples, second: Samples) -> dict[tuple[str, str], tuple[str, str]]:
    """By table and figure, as in `Samples.measured_by`: the two networks or judges, where they are not the same one."""
    both = {key: (by, second.measured_by[key]) for key, by in first.measured_by.items() if key in second.measured_by}
    return {key: pair for key, pair in both.items() if pair[0] != pair[1]}


def _compare(name: str, first: Statistic, second: Statistic, n: int) -> dict[str, Any]:
    found = figure(difference(first, second), n)
    return {"first": figure(first, n), "second": figure(second, n), "difference": found, "verdict": verdict(name, found)}


def verdict(name: str, found: Figure) -> str:
    """Which of the two is better by a difference first minus second: its interval must leave zero out."""
    if name in NO_SIDE:
        return "-"
    if not (found.low > 0 or found.high < 0):
        return "undecided"
    return "first" if (found.low > 0) == (name in HIGHER_IS_BETTER) else "second"


def _compare_sets(
    first: np.ndarray, real: np.ndarray, second: np.ndarray, second_real: np.ndarray
) -> dict[str, dict[str, Any]] | None:
    """Distances of each run to its own real clips, all over the clips that both runs have; None below four of them."""
    rows = {}
    first, second = (_where(has_any(first) & has_any(second), one) for one in (first, second))
    real, second_real = (_where(has_any(real) & has_any(second_real), one) for one in (real, second_real))
    for name, distance in DISTANCES.items():
        found = distance_difference(distance, first, second, real, second_real)
        if found.n < 4:
            return None
        rows[name] = {
            "first": distance_figure(distance, first, real),
            "second": distance_figure(distance, second, second_real),
            "difference": found,
            "verdict": verdict(name, found),
        }
    return rows


def _where(both: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Features (N,K,D) of the clips of `both` (N,); NaN of the others."""
    return np.where(both[:, None, None], features, np.nan)
