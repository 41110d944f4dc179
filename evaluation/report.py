"""Results as Markdown tables and JSON. Numbers of different protocols never share a column."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

POSE_COLUMNS = {
    "rotation_deg": "rot deg",
    "rotation_median_deg": "rot median",
    "translation_deg": "trans deg (unfolded)",
    "translation_median_deg": "trans median",
    "translation_folded_deg": "trans folded",
    "rra@5": "RRA@5 %",
    "rta@5": "RTA@5 %",
    "maa@30": "mAA@30 % (min of RRA, RTA)",
    "auc@30": "AUC@30 % (max per pair)",
    "num_failed": "failed",
    "num_failed_pairs": "failed pairs",
    "num_undefined": "no direction",
}
CAPTION_COLUMNS = {
    "wall": "wall %",
    "floor": "floor %",
    "object_f1": "object colours F1 %",
    "object_precision": "precision %",
    "object_recall": "recall %",
    "motion": "camera motion %",
}
CONSISTENCY_COLUMNS = {
    "met3r_self": "met3r_self",
    "visibility": "visible share",
    "frame_difference": "motion: frame difference (0..255)",
    "flow_px": "motion: flow px",
    "warp_ratio": "warp / no-warp error",
    "N": "N",
    "failed": "failed",
}


def table(rows: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str], first: str = "") -> str:
    """A Markdown table: one row a key of `rows`, the columns named; what a row lacks is a dash."""
    lines = [f"| {first} | {' | '.join(columns.values())} |", f"|---|{'---|' * len(columns)}"]
    lines += [f"| {name} | {' | '.join(number(row.get(key)) for key in columns)} |" for name, row in rows.items()]
    return "\n".join(lines)


def number(value: Any) -> str:
    """Three or so digits; a dash for nothing and for NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"
    return str(value)


def as_json(value: Any) -> Any:
    """Results as JSON values: numpy numbers as plain ones, NaN and infinity (no figure) as null, which JSON has no words for."""
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    value = value.item() if hasattr(value, "item") else float(value)
    return value if not isinstance(value, float) or math.isfinite(value) else None


def header(settings: Mapping[str, Any]) -> str:
    """The settings as one line of `name value` pairs."""
    return ", ".join(f"{name} {number(value)}" for name, value in settings.items())


def v2c_report(result: Mapping[str, Any]) -> str:
    """Markdown of what `evaluate_v2c` returns."""
    parts = ["## Video to cameras", header(result["settings"])]
    for relative, title in (("first", "pairs (first frame, frame f)"), ("all", "all pairs of frames")):
        parts += [f"### {title}", table(result[relative], POSE_COLUMNS, "method")]
    ratios = result["ratios"]
    parts.append(
        f"Rotation error over the constant pose's: {number(ratios['rotation_over_constant'])}; "
        f"unfolded translation error over the always-forward camera's: {number(ratios['translation_over_forward'])}."
    )
    columns = {"num_pairs": "pairs", **POSE_COLUMNS}
    for key, title in (
        ("by_baseline", "by length of the true baseline"),
        ("by_motion", "by angle of the true rotation, degrees"),
    ):
        by_bin = zip(*result[key].values(), strict=True)  # every method has the same pairs, and so the same bins
        rows = {f"{row['bin']}, {name}": row for bin_rows in by_bin for name, row in zip(result[key], bin_rows, strict=True)}
        parts += [f"### {title}", table(rows, columns, "bin, method")]
    parts += ["### geometry", table({"model": result["geometry"]}, {key: key for key in result["geometry"]})]
    return "\n\n".join(parts) + _errors(result["errors"])


def t2vc_report(result: Mapping[str, Any]) -> str:
    """Markdown of what `evaluate_t2vc` returns."""
    parts = ["## Text to video with cameras", header(result["settings"])]
    loop = result["closed_loop"]
    parts += [
        "### closed loop: cameras of T2V+C against V2C of the same generated video",
        table({key: loop[key] for key in ("own video", "shuffled pairs", "constant pose")}, POSE_COLUMNS, "pairing"),
        f"Rotation error, own video over shuffled pairs: {number(loop['rotation_over_shuffled'])}.",
    ]
    if result["captions"]:
        parts += ["### captions followed", table(result["captions"], CAPTION_COLUMNS, "video")]
    parts += ["### consistency", table(result["consistency"], CONSISTENCY_COLUMNS, "video and geometry")]
    for network, rows in result["distributions"].items():
        columns = {key: key for row in rows.values() for key in row}
        parts += [f"### distance to real clips through the VAE: {network}", table(rows, columns, "metric")]
    return "\n\n".join(parts) + _errors(result["errors"])


def _errors(errors: Sequence[str]) -> str:
    return "\n" if not errors else "\n\nFailed clips and frames (from 0):\n" + "\n".join(f"- {line}" for line in errors) + "\n"
