"""Figures of cameras with intervals over clips: `pose_metrics`, each number a statistic of how often each clip counts.

Letters: N clips, P pairs of frames of all clips together, K levels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jog3r.evaluation.statistics.intervals import Figure, Statistic, figure, ratio
from jog3r.geometry.camera_metrics import CHANCE_DEG, THRESHOLDS, PoseErrors, pose_metrics

_MAX_LEVELS = 400  # of a median in resamples: more pairs than these are read at this many of their quantiles
_LAST = THRESHOLDS[-1]


@dataclass(frozen=True)
class PairErrors:
    """The errors of all pairs of N clips: arrays (P,), `clip` says whose a pair is."""

    rotation: np.ndarray
    translation: np.ndarray
    """Unfolded; NaN without a direction."""
    folded: np.ndarray
    moves: np.ndarray
    """Bool: the true translation is not zero."""
    clip: np.ndarray
    num_clips: int

    @classmethod
    def of(cls, errors: Sequence[PoseErrors], clips: Sequence[int] | None = None) -> "PairErrors":
        """Of what `pose_errors` gave for each item; `clips`: whose each item is, such as several seeds of one; None: one each."""
        owners = np.arange(len(errors)) if clips is None else np.asarray(clips, dtype=np.int64)
        counts = [len(item.rotation_deg) for item in errors]
        names = ("rotation_deg", "translation_deg", "translation_folded_deg", "baseline")
        rotation, translation, folded, baseline = (np.concatenate([item[name] for item in errors]) for name in names)
        return cls(rotation, translation, folded, baseline > 0, np.repeat(owners, counts), int(owners.max()) + 1)

    def statistics(self) -> dict[str, Statistic]:
        """One for each figure of `pose_metrics` that is no count."""
        count = self._sum(np.ones(len(self.clip)))
        counted, folded = (np.where(np.isnan(angle), CHANCE_DEG, angle) for angle in (self.translation, self.folded))
        found: dict[str, Statistic] = {}
        for name, values in (("rotation", self.rotation), ("translation", counted), ("translation_folded", folded)):
            found[f"{name}_deg"] = ratio(self._sum(values), count)
            found[f"{name}_median_deg"] = self._median(values)
        found["translation_defined_deg"] = ratio(self._sum(counted * self.moves), self._sum(self.moves))
        below = {name: self._below(getattr(self, name)) for name in ("rotation", "translation", "folded")}  # (N,30)
        for name, kind in (("rra", "rotation"), ("rta", "translation"), ("rta_folded", "folded")):
            for degrees in (5, 15):
                found[f"{name}@{degrees}"] = ratio(100 * below[kind][:, list(THRESHOLDS).index(degrees)], count)
        found["maa@30"] = _area_of_lower(below["rotation"], below["translation"], count)
        found["maa_folded@30"] = _area_of_lower(below["rotation"], below["folded"], count)
        both = self._below(np.maximum(self.rotation, self.folded), closed=True)
        found["auc@30"] = ratio(100 * both.mean(1), count)
        return found

    def _sum(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self.clip, values, self.num_clips)

    def _below(self, angle: np.ndarray, closed: bool = False) -> np.ndarray:
        """(N,30) how many pairs of each clip lie below each threshold; with `closed` the last one counts itself, as VGGT's."""
        masks = [angle <= t if closed and t == _LAST else angle < t for t in THRESHOLDS]
        return np.stack([self._sum(mask) for mask in masks], 1)

    def _median(self, values: np.ndarray) -> Statistic:
        levels = np.sort(values)
        if len(levels) > _MAX_LEVELS:
            levels = levels[np.linspace(0, len(levels) - 1, _MAX_LEVELS).round().astype(int)]
        levels = np.unique(levels)  # (K,)
        table = np.zeros((self.num_clips, len(levels)))
        np.add.at(table, (self.clip, np.searchsorted(levels, values)), 1)
        table = table.cumsum(1)  # (N,K) pairs up to each level

        def median(weights: np.ndarray) -> np.ndarray:
            reached = weights @ table  # (R,K)
            half = reached[:, -1:] / 2
            middle = (levels[(reached >= half).argmax(1)] + levels[(reached > half).argmax(1)]) / 2
            return np.where(half[:, 0] > 0, middle, np.nan)

        return median


def pose_figures(errors: Sequence[PoseErrors], clips: Sequence[int] | None = None) -> dict[str, Figure | float | int]:
    """`pose_metrics` with an interval over clips for all that is no count; values are exactly its values.

    Args:
        errors: of each item.
        clips: whose each item is; None: a clip each.
    """
    pairs = PairErrors.of(errors, _renumbered(clips))
    exact: Mapping[str, float | int] = pose_metrics(errors)
    found: dict[str, Figure | float | int] = dict(exact)
    for name, statistic in pairs.statistics().items():
        interval = figure(statistic, pairs.num_clips)
        found[name] = Figure(exact[name], interval.low, interval.high, interval.n)
    return found


def _renumbered(clips: Sequence[int] | None) -> list[int] | None:
    """0, 1, ... without gaps: a clip none of whose pairs lies in a bin is none of that bin's N."""
    return None if clips is None else np.unique(np.asarray(clips), return_inverse=True)[1].tolist()


def _area_of_lower(first: np.ndarray, second: np.ndarray, count: np.ndarray) -> Statistic:
    """Mean over thresholds of the lower of two accuracies, percent; tables (N,30) of pairs below each threshold."""

    def area(weights: np.ndarray) -> np.ndarray:
        lower = np.minimum(weights @ first, weights @ second)  # (R,30)
        total = weights @ count
        return np.divide(100 * lower.mean(1), total, out=np.full(len(total), np.nan), where=total > 0)

    return area
