"""The tables and verdicts of docs/study.md, written from the results of study.py between two marks."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from study_claims import (
    AGREEMENT,
    CLAIMS,
    KERNEL,
    MAA,
    MAA_VARIED,
    MOTION,
    MOVES,
    ROTATION,
    WARP_RATIO,
    Claim,
    Results,
    common_seeds,
    judge_claim,
    paired,
    value_of,
)  # fmt: skip
from study_measure import CAMERAS, VARIED
from study_runs import Scale

from jog3r.data.files import write_text
from jog3r.evaluation.report import cell, number, table
from jog3r.evaluation.statistics.intervals import Figure

BEGIN, END = "<!-- tables of study.py -->", "<!-- end of the tables -->"
MISSING = "not run yet"
TITLES = {
    "frozen": "frozen + head", "reconstruction": "reconstruction only", "generation": "generation only", "joint": "JOG3R (joint)",
    "two_stage": "two stages", "dust3r": "DUSt3R type, from scratch",
}  # fmt: skip
CAMERA_ROWS = ("frozen", "reconstruction", "joint", "dust3r")
CAMERA_FIGURES = {
    "rotation deg": ROTATION, "translation deg": (CAMERAS, "translation_deg"), "RRA@5 %": (CAMERAS, "rra@5"),
    "RTA@5 %": (CAMERAS, "rta@5"), "mAA@30 %": MAA, "varied scenes: rotation deg": (VARIED, "rotation_deg"),
    "varied scenes: mAA@30 %": MAA_VARIED,
}  # fmt: skip
VIDEO_ROWS = {
    "frozen": "pre-trained (cameras: frozen + head)",
    **{name: TITLES[name] for name in TITLES if name not in ("frozen", "dust3r")},
}
VIDEO_FIGURES = {
    "kernel distance": KERNEL, "moves as the scene %": MOVES, "warp / no-warp": WARP_RATIO, "wall %": ("captions", "wall"),
    "floor %": ("captions", "floor"), "object colours F1 %": ("captions", "object_f1"), "camera motion % (reader)": MOTION,
    "cameras against the reader: rotation deg": AGREEMENT, "translation deg": ("agreement", "translation_deg"),
    "closed loop: rotation deg": ("closed loop", "rotation_deg"),
}  # fmt: skip
ABLATIONS = {
    "tap_early": "tap behind block 2", "tap_middle": "tap behind block 4", "tap_fused": "blocks 2, 4 and 5 fused",
    "noise_5": "trained to read up to 5 % of the schedule, read at 5 %", "noise_10": "up to 10 % (the base), read at 10 %",
    "noise_30": "up to 30 %, read at 30 %", "noise_60": "up to 60 %, read at 60 %", "global": "one decoder over all frames",
    "lambda_0.1": "lambda 0.1", "lambda_10": "lambda 10", "all": "all weights trained",
    "balanced": "remedy: lambda that makes both gradients equally long at the start",
    "late": "remedy: lambda rises from 0 to 1 over the first half",
}  # fmt: skip


def read_results(folder: Path, scale: Scale) -> dict[tuple[str, int], dict[str, Any]]:
    """All results in a folder by row and seed.

    Raises:
        ValueError: one was made at another scale.
    """
    found = {}
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["scale"] != json.loads(json.dumps(asdict(scale))):
            raise ValueError(f"{path} was made at another scale, {result['scale']}: move it away")
        found[result["row"], result["seed"]] = result
    return found


def write_page(page: Path, results: Mapping[tuple[str, int], Mapping[str, Any]]) -> None:
    """Put the tables between the marks of the page.

    Raises:
        ValueError: it has no marks.
    """
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{page} has no place for the tables: write {BEGIN} and {END} into it")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    filled = f"{before}{BEGIN}\n\n{tables(results)}\n\n{END}{after}"
    write_text(page, filled)


def tables(results: Mapping[tuple[str, int], Mapping[str, Any]]) -> str:
    """All tables and verdicts as Markdown."""
    found: Results = {key: result["tables"] for key, result in results.items()}
    parts = [
        "### Verdicts", *(f"{place}. {sentence(claim, found)}" for place, claim in enumerate(CLAIMS, start=1)),
        "### Cameras", _rows(found, {row: TITLES[row] for row in CAMERA_ROWS}, CAMERA_FIGURES, CAMERAS, MAA),
        "### Videos", _video_rows(found),
        "### Ablations (one seed)", _ablations(found),
        "### Budgets", _budgets(results),
        "### Gradients", _gradients(results),
    ]  # fmt: skip
    return "\n\n".join(parts)


def sentence(claim: Claim, results: Results) -> str:
    """A claim, its verdict, and the difference that it rests on."""
    found = judge_claim(claim, results)
    if found.difference is None:
        return f"{claim.text} **{MISSING.capitalize()}** (paper: {claim.paper})."
    seeds = f"; by seed {', '.join(f'{value:+.2g}' for value in found.seeds)}" if len(found.seeds) > 1 else "; one seed"
    return f"{claim.text} **{found.word.capitalize()}**: {signed(found.difference)} {claim.unit}{seeds} (paper: {claim.paper})."


def signed(found: Figure) -> str:
    """A difference with its sign and interval."""
    return f"{'+' if found > 0 else ''}{cell(found)}"


def _rows(
    results: Results, titles: Mapping[str, str], columns: Mapping[str, tuple[str, str]], first: str, spread: tuple[str, str]
) -> str:
    """A row each with figures over all its seeds, and one figure seed by seed; `first` is the table that says what was run."""
    rows: dict[str, dict[str, str]] = {}
    for name, title in titles.items():
        seeds = common_seeds(results, name, name, first)
        rows[title] = dict.fromkeys([*columns, "by seed"], MISSING)
        if seeds:
            rows[title] = {column: _figure(results, name, figure) for column, figure in columns.items()}
            rows[title]["by seed"] = ", ".join(number(float(value_of(results, name, spread, [seed]))) for seed in seeds)
    spread_title = next(title for title, figure in columns.items() if figure == spread)
    return table(rows, {**{column: column for column in columns}, "by seed": f"{spread_title}, by seed"}, "row")


def _figure(results: Results, row: str, figure: tuple[str, str]) -> str:
    seeds = common_seeds(results, row, row, figure[0])
    return cell(value_of(results, row, figure, seeds)) if seeds else "-"


def _video_rows(results: Results) -> str:
    """Videos; two stages share those of generation only, which has no cameras of its own."""
    shown = {key: dict(found) for key, found in results.items()}
    for (row, seed), found in results.items():
        if row == "generation":
            kept = {name: value for name, value in found.items() if name not in ("agreement", "closed loop")}
            shown[row, seed] = kept
            if ("two_stage", seed) in shown:
                shown["two_stage", seed] = {**kept, **shown["two_stage", seed]}
    text = _rows(shown, VIDEO_ROWS, VIDEO_FIGURES, "renderer", MOVES)
    real = results.get(("real", 0))
    if real is None:
        return text
    names = [name for name in real if name.startswith("renderer, ")]
    judged = {
        name.removeprefix("renderer, "): {
            "moves": _figure(results, "real", (name, MOVES[1])), "warp": _figure(results, "real", (name, "warp error")),
            "no_warp": _figure(results, "real", (name, "no-warp error")),
        }
        for name in names
    }  # fmt: skip
    columns = {"moves": "moves as the scene %", "warp": "warp error", "no_warp": "no-warp error"}
    followed = ", ".join(f"{name} {_figure(results, 'real', ('captions', name))}" for name in ("wall", "floor", "object_f1"))
    title = "The renderer as judge of real clips, and of the rows on which it is judged itself:"
    read = f"Captions read off real clips through the VAE: {followed}."
    return "\n\n".join([text, title, table(judged, columns, "video"), read])


def _ablations(results: Results) -> str:
    """Each change beside the base, the joint row of the same seed."""
    rows = {}
    for name, title in {"joint": "base: JOG3R (joint), tap behind block 5, lambda 1, read at 2 %", **ABLATIONS}.items():
        row: dict[str, str] = {}
        for key, figure in (("rotation", ROTATION), ("maa", MAA), ("moves", MOVES)):
            seeds = common_seeds(results, name, "joint", figure[0])[:1]
            missing = MISSING if figure in (ROTATION, MAA) or (name, 0) not in results else ""
            row[key] = cell(value_of(results, name, figure, seeds)) if seeds else missing
            compared = bool(seeds) and name != "joint"
            row[f"{key} minus"] = signed(paired(results, name, "joint", figure, seeds)) if compared else ""
        rows[title] = row
    columns = {
        "rotation": "rotation deg", "maa": "mAA@30 %", "maa minus": "minus the base's", "moves": "moves as the scene %",
        "moves minus": "minus the base's",
    }  # fmt: skip
    return table(rows, columns, "change")


def _budgets(results: Mapping[tuple[str, int], Mapping[str, Any]]) -> str:
    rows = {}
    for name in dict.fromkeys(row for row, _ in results if row != "real"):
        runs = [result for (row, _), result in sorted(results.items()) if row == name]
        if runs[0]["of"] is not None:
            continue
        scale, losses = runs[0]["scale"], [run["losses"] for run in runs]
        clips = [scale["steps"] * batch * half for batch, half in zip(scale["batch"], runs[0]["halves"], strict=True)]
        rows[TITLES.get(name, ABLATIONS.get(name, name))] = {
            "seeds": len(runs), "steps": scale["steps"], "clips": f"{clips[0]} + {clips[1]}",
            "seconds": _mean([run["cpu_seconds_a_step"] for run in runs]),
            **{key: _mean([one.get(key) for one in losses]) for key in ("generation", "reconstruction")},
        }  # fmt: skip
    columns = {
        "seeds": "seeds done", "steps": "steps", "clips": "clips seen: generation + reconstruction", "seconds": "CPU s a step",
        "generation": "L_gen, last 50 steps", "reconstruction": "L_rec, last 50 steps",
    }  # fmt: skip
    return table(rows, columns, "row") if rows else MISSING.capitalize() + "."


def _mean(values: Sequence[float | None]) -> float | None:
    return None if None in values else float(np.mean([value for value in values if value is not None]))


def _gradients(results: Mapping[tuple[str, int], Mapping[str, Any]]) -> str:
    """Joint runs: at their start and end."""
    rows = {
        f"seed {seed}, {end}": values
        for (row, seed), result in sorted(results.items())
        if row == "joint"
        for end, values in result["gradients"].items()
    }
    columns = {
        "generation": "norm of the gradient of L_gen", "reconstruction": "of L_rec", "cosine": "cosine between them",
        "loss_generation": "L_gen", "loss_reconstruction": "L_rec",
    }  # fmt: skip
    return table(rows, columns, "joint run") if rows else MISSING.capitalize() + "."
