"""Figures of the model card: tables from what `jog3r evaluate` wrote, so that card and measurement cannot differ."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jog3r.data.files import write_json, write_text

__all__ = ["FIGURES", "fill_card", "figures_of", "without_figures", "write_figures"]

FIGURES = "evaluation.json"
_BEGIN, _END = "<!-- figures of evaluation.json -->", "<!-- end of the figures -->"
_KEPT = {"v2c": ("settings", "first", "ratios", "geometry"), "t2vc": ("settings", "closed_loop", "captions", "consistency")}
_CAMERAS = {  # columns of the table of cameras
    "rotation_deg": "rotation deg", "rotation_median_deg": "median", "translation_deg": "translation deg, unfolded",
    "translation_median_deg": "median", "rra@5": "RRA@5 %", "rta@5": "RTA@5 %", "maa@30": "mAA@30 %",
}  # fmt: skip
_CAPTIONS = {"wall": "wall colour %", "floor": "floor colour %", "object_f1": "object colours F1 %", "motion": "camera motion %"}
_OWN, _OTHERS, _REAL = "generated, motion by V2C", "chance (other captions)", "real clips through the VAE, motion by V2C"
_WARPED, _WARPED_REAL = "generated, geometry of V2C", "real through the VAE, geometry of V2C"


def figures_of(runs: Mapping[str, Path]) -> dict[str, Any]:
    """What the card tells of `results.json` of several runs of `jog3r evaluate`, by the runs' names.

    Args:
        runs: folders; "one pass" is of task all, "both directions" of task v2c.
    """
    found: dict[str, Any] = {}
    for name, folder in runs.items():
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        kept = {task: {key: results[task][key] for key in keys} for task, keys in _KEPT.items() if task in results}
        found[name] = {"jog3r": results["jog3r"], **kept}
    return found


def write_figures(bundle: Path, figures: Mapping[str, Any]) -> None:
    """Write `evaluation.json` and its tables in the card of a model folder."""
    card = bundle / "README.md"
    filled = fill_card(card.read_text(encoding="utf-8") if card.is_file() else "", figures)
    write_json(bundle / FIGURES, figures)
    write_text(card, filled)


def fill_card(card: str, figures: Mapping[str, Any]) -> str:
    """A card with the tables between the two marks, or behind its end where it has none."""
    tables = f"{_BEGIN}\n\n{_tables(figures)}\n\n{_END}"
    if _BEGIN not in card:
        return f"{card.rstrip()}\n\n## Measured quality\n\n{tables}\n".lstrip()
    before, _, rest = card.partition(_BEGIN)
    return before + tables + rest.partition(_END)[2]


def without_figures(card: str) -> str:
    """A card that tells no figures until they are measured: those between its marks are of other weights."""
    before, begin, rest = card.partition(_BEGIN)
    return f"{before}{begin}\n\nNot measured yet.\n\n{_END}{rest.partition(_END)[2]}" if begin else card


def _tables(figures: Mapping[str, Any]) -> str:
    one = figures["one pass"]
    cameras, videos = one["v2c"], one["t2vc"]
    poses = {f"this model, {name}": run["v2c"]["first"]["model"] for name, run in figures.items()}
    poses |= {name: cameras["first"][name] for name in ("constant pose", "always forward")}
    rows = [[name, *(_cell(row.get(key)) for key in _CAMERAS)] for name, row in poses.items()]
    clips, captions, steps = cameras["settings"]["N"], videos["settings"]["N"], videos["settings"]["num_inference_steps"]
    still, forward = (_cell(cameras["ratios"][key]) for key in ("rotation_over_constant", "translation_over_forward"))
    focal, depth = (_cell(cameras["geometry"][key]) for key in ("focal error %", "depth AbsRel % (one scale a clip)"))
    parts = [
        f"Video to cameras, pairs (frame 1, frame f) of {clips} held-out clips; in brackets 95 % intervals over clips:",
        _table(["method", *_CAMERAS.values()], rows),
        f"In one pass the rotation error is {still} times the constant pose's,\nthe translation error {forward} times the "
        f"always-forward camera's. Focal length within {focal} %, depth AbsRel {depth} %.",
        f"Text to video with cameras, {captions} held-out captions, {steps} steps, V2C in one pass:",
        _table(["", "model", "baseline", "ceiling (real clips through the VAE)"], _video_rows(videos)),
    ]
    return "\n\n".join(parts)


def _video_rows(videos: Mapping[str, Any]) -> list[list[str]]:
    loop, captions, consistency = videos["closed_loop"], videos["captions"], videos["consistency"]
    rows = [
        [f"closed loop, {title}", _cell(loop["own video"][key]), f"{_cell(loop['shuffled pairs'].get(key))} (shuffled pairs)", ""]
        for key, title in (("rotation_deg", "rotation deg"), ("translation_deg", "translation deg, unfolded"))
    ]
    rows += [
        [f"{title} followed", *(_cell(captions[row][key]) for row in (_OWN, _OTHERS, _REAL))] for key, title in _CAPTIONS.items()
    ]
    warped = [_cell(consistency[row]["warp_ratio"]) for row in (_WARPED, _WARPED_REAL)]
    return [*rows, ["warping error over no-warp error", warped[0], "1", warped[1]]]


def _cell(figure: Any) -> str:
    """`2.29 [2.10, 2.50]` of a figure of `results.json`; a dash where there is none."""
    value, low, high = (figure[key] for key in ("value", "low", "high")) if isinstance(figure, Mapping) else (figure, None, None)
    if value is None:
        return "-"
    return f"{value:.2f}" if low is None or high is None else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])
