"""Results as tables for Markdown and LaTeX, and as JSON. Numbers of different protocols never share a column."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jog3r.evaluation.predictions import write_text
from jog3r.evaluation.statistics.intervals import Figure

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
    "without score": "without score",
    "failed": "failed",
}
TEXT_COLUMNS = {"agreement": "100 x mean cosine over frames", "N": "N", "failed": "failed"}
INTERVALS = "In brackets: 95 % intervals over clips."
SCATTER = (
    "In brackets beside a distance: value -/+ 1.96 standard deviations of its scatter at this number of clips, which is no "
    "confidence interval."
)


@dataclass(frozen=True)
class Heading:
    """A heading; 1 is the title."""

    level: int
    text: str


@dataclass(frozen=True)
class Table:
    """One row a key of `rows`, the columns named; what a row lacks is a dash."""

    rows: Mapping[str, Mapping[str, Any]]
    columns: Mapping[str, str]
    first: str = ""

    def cells(self) -> list[list[str]]:
        """Head and rows as texts."""
        head = [self.first, *self.columns.values()]
        return [head, *([name, *(cell(row.get(key)) for key in self.columns)] for name, row in self.rows.items())]


class Printed(float):
    """A number as somebody printed it, with its `decimals`."""

    decimals: int

    def __new__(cls, value: float, decimals: int) -> "Printed":
        """`value`, which has no more digits than these."""
        self = super().__new__(cls, value)
        self.decimals = decimals
        return self


Block = Heading | Table | str


def write_report(out: str | Path | None, name: str, result: Mapping[str, Any], blocks: Sequence[Block]) -> str:
    """Write `NAME.json`, `NAME.md` and `NAME.tex` into the folder `out`, if there is one; returns the Markdown."""
    text = markdown(blocks)
    if out is not None:
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        contents = {"json": json.dumps(as_json(result), indent=2, allow_nan=False) + "\n", "md": text, "tex": latex(blocks)}
        for suffix, content in contents.items():
            write_text(folder / f"{name}.{suffix}", content)
    return text


def markdown(blocks: Sequence[Block]) -> str:
    """A report as Markdown."""
    return "\n\n".join(_markdown_block(block) for block in blocks) + "\n"


def latex(blocks: Sequence[Block]) -> str:
    """A report as LaTeX: sections, paragraphs and plain `tabular`s, nothing to load."""
    return "\n\n".join(_latex_block(block) for block in blocks) + "\n"


def table(rows: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str], first: str = "") -> str:
    """A Markdown table."""
    return _markdown_block(Table(rows, columns, first))


def cell(value: Any) -> str:
    """A number, with its interval where it has one."""
    if isinstance(value, Figure) and math.isfinite(value.low):
        return f"{number(float(value))} [{number(value.low)}, {number(value.high)}]"
    return number(value)


def number(value: Any) -> str:
    """Three or so digits; a dash for nothing and for NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, Printed):
        return f"{value:.{value.decimals}f}"
    if not isinstance(value, float):
        return str(value)
    if 0 < abs(value) < 0.1:
        return f"{value:#.3g}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) >= 1 else f"{value + 0.0:.3f}"  # -0 is 0


def as_json(value: Any) -> Any:
    """Results as JSON values: numpy numbers as plain ones, figures with their interval, NaN and infinity (no figure) as null."""
    if isinstance(value, Figure):
        return as_json(value.to_dict())
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    value = value.item() if hasattr(value, "item") else float(value)
    return value if not isinstance(value, float) or math.isfinite(value) else None


def from_json(value: Any) -> Any:
    """Results as they were before `as_json`, as far as they are printed."""
    if isinstance(value, Mapping) and value.keys() == {"value", "low", "high", "n"}:
        return Figure(*(math.nan if value[name] is None else value[name] for name in ("value", "low", "high")), value["n"])
    if isinstance(value, Mapping):
        return {key: from_json(item) for key, item in value.items()}
    return [from_json(item) for item in value] if isinstance(value, list) else value


def header(settings: Mapping[str, Any]) -> str:
    """The settings as one line of `name value` pairs; what decides a result is not rounded."""
    return ", ".join(f"{name} {f'{value:g}' if isinstance(value, float) else number(value)}" for name, value in settings.items())


def v2c_blocks(result: Mapping[str, Any]) -> list[Block]:
    """Report of what `evaluate_v2c` returns."""
    parts: list[Block] = [Heading(2, "Video to cameras"), header(result["settings"]), INTERVALS]
    for relative, title in (("first", "pairs (first frame, frame f)"), ("all", "all pairs of frames")):
        parts += [Heading(3, title), Table(result[relative], POSE_COLUMNS, "method")]
    ratios = result["ratios"]
    parts.append(
        f"Rotation error over the constant pose's: {cell(ratios['rotation_over_constant'])}; "
        f"unfolded translation error over the always-forward camera's: {cell(ratios['translation_over_forward'])}."
    )
    columns = {"num_pairs": "pairs", **POSE_COLUMNS}
    for key, title in (
        ("by_baseline", "by length of the true baseline"),
        ("by_motion", "by angle of the true rotation, degrees"),
    ):
        by_bin = zip(*result[key].values(), strict=True)  # every method has the same pairs, and so the same bins
        rows = {f"{row['bin']}, {name}": row for bin_rows in by_bin for name, row in zip(result[key], bin_rows, strict=True)}
        parts += [Heading(3, title), Table(rows, columns, "bin, method")]
    parts += [Heading(3, "geometry"), Table({"model": result["geometry"]}, {key: key for key in result["geometry"]})]
    return parts + _errors(result["errors"])


def t2vc_blocks(result: Mapping[str, Any]) -> list[Block]:
    """Report of what `evaluate_t2vc` returns."""
    loop = result["closed_loop"]
    parts: list[Block] = [
        Heading(2, "Text to video with cameras"),
        header(result["settings"]),
        INTERVALS,
        Heading(3, "closed loop: cameras of T2V+C against V2C of the same generated video"),
        Table({key: loop[key] for key in ("own video", "shuffled pairs", "constant pose")}, POSE_COLUMNS, "pairing"),
        f"Rotation error, own video over shuffled pairs: {cell(loop['rotation_over_shuffled'])}.",
    ]
    if result["captions"]:
        parts += [Heading(3, "captions followed"), Table(result["captions"], CAPTION_COLUMNS, "video")]
    for network, rows in result["text agreement"].items():
        parts += [Heading(3, f"agreement with the caption: {network}"), Table(rows, TEXT_COLUMNS, "video and caption")]
    parts += [Heading(3, "consistency"), Table(result["consistency"], CONSISTENCY_COLUMNS, "video and geometry")]
    for network, rows in result["distributions"].items():
        columns = {key: key for row in rows.values() for key in row}
        parts += [Heading(3, f"distance to real clips through the VAE: {network}"), SCATTER, Table(rows, columns, "metric")]
    parts += judge_blocks(result["judge"]) if "judge" in result else []
    return parts + _errors(result["errors"])


def judge_blocks(result: Mapping[str, Any]) -> list[Block]:
    """Report of what a judge found."""
    columns = {key: key for row in result["rows"].values() for key in row}
    parts: list[Block] = [
        Heading(3, f"outside judge: {result['settings']['judge']}"),
        header({name: value for name, value in result["settings"].items() if name != "judge"}),
        Table(result["rows"], columns, "video"),
    ]
    if result["in_order"] is not None:
        order = (
            "in the right order: real clips before" if result["in_order"] else "NOT in the right order: real clips are not before"
        )
        parts.append(f"The rows on which the judge is judged came out {order} shuffled, frozen and noise.")
    if result["agreement"]:
        parts += ["Cameras of the model against the judge's:", Table(result["agreement"], POSE_COLUMNS, "video")]
    if result["differences"]:
        parts += ["Paired differences over the clips that both rows have:", Table(result["differences"], columns, "rows")]
    if result["errors"]:
        parts.append("Videos that the judge could not look at:\n" + "\n".join(f"- {line}" for line in result["errors"]))
    return parts


def v2c_report(result: Mapping[str, Any]) -> str:
    """Markdown of what `evaluate_v2c` returns."""
    return markdown(v2c_blocks(result))


def t2vc_report(result: Mapping[str, Any]) -> str:
    """Markdown of what `evaluate_t2vc` returns."""
    return markdown(t2vc_blocks(result))


def _errors(errors: Sequence[str]) -> list[Block]:
    return ["Failed clips and frames (from 0):\n" + "\n".join(f"- {line}" for line in errors)] if errors else []


def _markdown_block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {block.text}"
    if isinstance(block, str):
        return block
    head, *rows = ([text.replace("|", "\\|") for text in line] for line in block.cells())
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def _latex_block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"\\{('section', 'subsection', 'subsubsection')[block.level - 1]}*{{{_escaped(block.text)}}}"
    if isinstance(block, str):
        return _escaped(block)
    head, *rows = ([_escaped(text) for text in line] for line in block.cells())
    # an interval is small print beside its number
    rows = [[re.sub(r" (\[.*\])$", r" {\\scriptsize \1}", text) for text in row] for row in rows]
    lines = [f"{' & '.join(row)} \\\\" for row in (head, *rows)]
    return "\n".join(
        [
            f"\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            "\\hline",
            lines[0],
            "\\hline",
            *lines[1:],
            "\\hline",
            "\\end{tabular}",
        ]
    )


def _escaped(text: str) -> str:
    """LaTeX's own characters as text."""
    return re.sub(r"[\\&%$#_{}~^|]", lambda found: _LATEX.get(found[0], f"\\{found[0]}"), text)


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}"}
