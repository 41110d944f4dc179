"""Judges at work: every video is looked at once, the verdicts are stored, then scored row by row with intervals over clips."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from jog3r import __version__
from jog3r.evaluation.consistency import video_motion
from jog3r.evaluation.exporting import export
from jog3r.evaluation.judges.network_judge import NetworkJudge
from jog3r.evaluation.judges.renderer_judge import RendererJudge
from jog3r.evaluation.judges.sanity import MIXED, SANITY_ROWS, sanity_video
from jog3r.evaluation.judges.track_judge import TrackJudge
from jog3r.evaluation.predictions import Predictions, StoredPredictions, item_key
from jog3r.evaluation.processes import Processes
from jog3r.evaluation.scoring import known_poses
from jog3r.evaluation.statistics.intervals import difference, figure, paired_ratios
from jog3r.evaluation.statistics.per_clip import Samples
from jog3r.geometry.camera_metrics import PoseErrors, failed_pose_errors, pose_errors

__all__ = ["Judge", "JudgedRow", "judge_rows", "sanity_rows"]

Judge: TypeAlias = TrackJudge | NetworkJudge | RendererJudge
_MOTION = "motion: frame difference"
_NO_VIDEO = "there is no video"


@dataclass(frozen=True)
class JudgedRow:
    """Videos that stand in one row of a judge's table.

    Attributes:
        name: of the row.
        load: frames (F,H,W,3) uint8 of a video by its number; None of one that was never made, which counts as failed.
        owners: whose each video is, places in the names of the clips.
        cameras: predictions whose `poses` and `degenerate` the judge's cameras are compared with; None: there are none.
        content: what decides the videos of this row beside what decides all, for restarts.
        numbers: of the videos for good, as `ClipSet.keys`: verdicts are seeded by them; None: their places.
        keys: names of the verdicts' files, where one number may have several videos; None: the numbers.
        variant: a name for what decides the videos and may change when clips are added; verdicts of each have their own folder.
    """

    name: str
    load: Callable[[int], np.ndarray | None]
    owners: Sequence[int]
    cameras: Sequence[Mapping[str, np.ndarray]] | None = None
    content: Mapping[str, Any] = field(default_factory=dict)
    numbers: Sequence[int] | None = None
    keys: Sequence[str] | None = None
    variant: str = ""

    def number(self, place: int) -> int:
        """Of the video at a place."""
        return place if self.numbers is None else self.numbers[place]

    def key(self, place: int) -> str:
        """Of the verdict on the video at a place."""
        return item_key(self.number(place)) if self.keys is None else self.keys[place]


def judge_rows(
    judge: Judge, rows: Sequence[JudgedRow], names: Sequence[str], folder: Path, content: Mapping[str, Any], processes: Processes
) -> tuple[dict[str, Any], Samples] | None:
    """Let the judge look at all videos.

    Args:
        judge: who looks.
        rows: what at.
        names: of the clips that rows' owners point to.
        folder: of the verdicts; resumed.
        content: what decides the videos, for restarts.
        processes: those that share the work.

    Returns:
        By row the figures, `agreement` with the cameras of rows that have any, `settings`, `in_order` (whether the sanity rows
        came out in the right order; None without them or for a judge that has no order), `differences` between rows, `errors`, a
        line for each video that the judge could not look at; and what each clip contributed. None in all processes but the first.
    """
    stored: dict[str, StoredPredictions] = {}
    for number, row in enumerate(rows):
        config = {
            "task": "judge",
            "jog3r": __version__,
            "verdicts": "by number",
            "row": row.name,
            **judge.describe(),
            **row.content,
            **content,
        }
        store = Predictions(folder / f"row{number}{row.variant}", config)
        keys = [row.key(k) for k in range(len(row.owners))]
        export(store, keys, _look(judge, row), f"{judge.name}: {row.name}", processes, strict=False)
        stored[row.name] = store.stored(keys)
    processes.wait()
    if not processes.first:
        return None
    samples = Samples(names)
    tables = {row.name: _row(samples, row, stored[row.name]) for row in rows}
    agreement = {row.name: _agreement(samples, row, stored[row.name]) for row in rows if row.cameras is not None}
    result = {"rows": tables, "agreement": agreement, "settings": judge.describe(), "in_order": _in_order(judge, tables)}
    samples.measured_by = {(path, ""): json.dumps(judge.describe(), sort_keys=True) for path in samples.tables()}
    result |= {"differences": row_differences(samples, [row.name for row in rows if row.name not in SANITY_ROWS])}
    refusals = [
        f"{row.name}, {names[owner]}: {item['error']}"
        for row in rows
        for owner, item in zip(row.owners, stored[row.name], strict=True)
        if "error" in item and str(item["error"]) != _NO_VIDEO
    ]
    return result | {"errors": refusals}, samples


def sanity_rows(load: Callable[[int], np.ndarray], numbers: Sequence[int]) -> list[JudgedRow]:
    """Rows on which the judge itself is judged, from real clips: `load` gives the frames of the one at a place."""
    count = len(numbers)

    def row(name: str) -> JudgedRow:
        mixed = name == MIXED  # a mixture of other clips is another video
        content = {"mixed of": list(numbers)} if mixed else {}
        variant = f"-of-{hashlib.sha256(str(list(numbers)).encode()).hexdigest()[:8]}" if mixed else ""
        found = JudgedRow(name, lambda k: sanity_video(name, k, count, load), range(count), content=content, numbers=numbers)
        return replace(found, variant=variant)

    return [row(name) for name in SANITY_ROWS]


def row_differences(samples: Samples, rows: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Each row minus the first one, paired, over the clips that both have."""
    found: dict[str, dict[str, Any]] = {}
    for name in rows[1:]:
        first, other = samples.ratios.get(rows[0], {}), samples.ratios.get(name, {})
        differences = {}
        for key in (key for key in first if key in other):
            *pair, count = paired_ratios(other[key], first[key])
            if count:
                differences[key] = figure(difference(*pair), count)
        found[f"{name} minus {rows[0]}"] = differences
    return found


def _look(judge: Judge, row: JudgedRow) -> Callable[[Sequence[int]], list[dict[str, np.ndarray]]]:
    def look(batch: Sequence[int]) -> list[dict[str, np.ndarray]]:
        found = []
        for k in batch:
            frames = row.load(k)
            if frames is None:
                raise ValueError(_NO_VIDEO)
            motion = np.array(video_motion(frames)["frame_difference"])
            found.append({**judge.look(frames, row.number(k)), f"figure {_MOTION}": motion})
        return found

    return look


def _row(samples: Samples, row: JudgedRow, verdicts: StoredPredictions) -> dict[str, Any]:
    """Means over the clips; a video that was never made, or that the judge cannot look at, has no figures, and is counted."""
    items = [dict(item) for item in verdicts]
    names = dict.fromkeys(name for item in items for name in item if name.startswith("figure "))
    figures: dict[str, Any] = {}
    for name in names:
        values = [float(item.get(name, np.nan)) for item in items]
        figures[name.removeprefix("figure ")] = samples.add_means(row.name, name.removeprefix("figure "), values, row.owners)
    for name in dict.fromkeys(name for item in items for name in item if name.startswith("quotient ")):
        pairs = [tuple(item.get(name, (np.nan, np.nan))) for item in items]
        figures[name.removeprefix("quotient ")] = samples.add_quotient(
            row.name, name.removeprefix("quotient "), pairs, row.owners
        )
    errors = [str(item["error"]) for item in items if "error" in item]
    without = errors.count(_NO_VIDEO)
    counts = {"N": len(items), "without video": without, "not looked at": len(errors) - without}
    scores = [np.array([item[name] for name in names if name in item and _MOTION not in name]) for item in items]
    silent = sum("error" not in item and not np.isfinite(found).any() for item, found in zip(items, scores, strict=True))
    return {**figures, **counts, "without score": silent}


def _agreement(samples: Samples, row: JudgedRow, verdicts: StoredPredictions) -> dict[str, Any]:
    """Cameras of the row's model against the judge's; frames that either has no camera for count as 180 degrees."""
    errors: list[PoseErrors] = []
    # a failed one counts with as many pairs as a sound one has
    length = next((len(item["poses"]) for item in chain(row.cameras or (), verdicts) if "poses" in item), 2)
    for verdict, own in zip(verdicts, row.cameras or (), strict=True):
        if "error" in verdict or "error" in own:
            errors.append(failed_pose_errors(np.tile(np.eye(4), (length, 1, 1))))
        else:
            errors.append(pose_errors(own["poses"], verdict["poses"], known=known_poses(own) & known_poses(verdict)))
    return samples.add_poses(f"agreement, {row.name}", errors, row.owners)


def _in_order(judge: Judge, tables: Mapping[str, Mapping[str, Any]]) -> bool | None:
    """Whether real clips come before everything that only a fooled judge likes."""
    if not judge.order or not all(name in tables for name in SANITY_ROWS):
        return None
    real, *others = (tuple(float(tables[name][key]) for key in judge.order) for name in SANITY_ROWS)
    return all(real > other for other in others)
