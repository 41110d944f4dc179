"""What each clip contributed to every figure of a run, kept in `per_clip.npz` so that two runs can be compared clip by clip."""

import hashlib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np

from jog3r.data.files import NPZ_FAULTS, write_aside
from jog3r.evaluation.statistics.intervals import Figure, Statistic, figure_of_ratio, ratio, sums
from jog3r.evaluation.statistics.pose_figures import PairErrors, pose_figures
from jog3r.geometry.camera_metrics import PoseErrors

FILE_NAME = "per_clip.npz"
_PAIRS = [field.name for field in fields(PairErrors) if field.name != "num_clips"]
_BETWEEN = "|"  # path of a table, figure, part
_KINDS = ("generated", "real")


class Samples:
    """Contributions of N clips to tables of figures.

    A table has a path, such as "v2c/first/model"; it holds the errors of pairs of cameras, or sums whose ratio is a figure.
    """

    def __init__(self, clips: Sequence[str]) -> None:
        """`clips`: their names, in order; a table's clip k is `clips[k]`."""
        self.clips = [str(name) for name in clips]
        self.pairs: dict[str, PairErrors] = {}
        self.ratios: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
        self.features: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        """By network: of generated clips, the first seed first, and of real ones; each (N,K,D), NaN where there is none."""
        self.measured_by: dict[tuple[str, str], str] = {}
        """By path of a table and figure ("": all of it): the network or judge that the numbers are of."""
        self.asked: np.ndarray | None = None
        """(N,) a hash of the caption of each clip; None: there are none."""

    def add_poses(self, path: str, errors: Sequence[PoseErrors], clips: Sequence[int]) -> dict[str, Figure | float | int]:
        """Keep errors of cameras, one entry an item of clip `clips[k]`; returns their figures."""
        self.pairs[path] = PairErrors.of(errors, clips)
        return pose_figures(errors, clips)

    def add_means(self, path: str, name: str, values: Sequence[float], clips: Sequence[int]) -> Figure:
        """Keep a value an item; returns the mean over the finite ones."""
        owners = np.asarray(clips, dtype=np.int64)
        return self.add_ratio(path, name, *sums(np.asarray(values, dtype=np.float64), owners, len(self.clips)))

    def add_quotient(self, path: str, name: str, pairs: Sequence[tuple[float, float]], clips: Sequence[int]) -> Figure:
        """Keep two values an item; returns the sum of the first ones over that of the second, where both are finite.

        A mean of quotients would be that of the one item whose second value is nearly zero.
        """
        values = np.asarray(pairs, dtype=np.float64).reshape(-1, 2)
        finite = np.isfinite(values).all(1)
        owners = np.asarray(clips, dtype=np.int64)[finite]
        top, bottom = (np.bincount(owners, column, len(self.clips)) for column in values[finite].T)
        return self.add_ratio(path, name, top, bottom)

    def add_ratio(self, path: str, name: str, top: np.ndarray, bottom: np.ndarray) -> Figure:
        """Keep sums (N,) whose ratio over all clips is a figure; returns it."""
        self.ratios.setdefault(path, {})[name] = (top, bottom)
        return figure_of_ratio(top, bottom)

    def add_all(self, path: str, others: "Samples") -> None:
        """The tables of samples of the same clips, under `path`."""
        self.pairs |= {f"{path}/{name}": table for name, table in others.pairs.items()}
        self.ratios |= {f"{path}/{name}": figures for name, figures in others.ratios.items()}
        self.measured_by |= {(f"{path}/{name}", figure): by for (name, figure), by in others.measured_by.items()}

    def keep_captions(self, captions: Sequence[str], clips: Sequence[int]) -> None:
        """Keep what was asked for: captions, each of clip `clips[k]`."""
        texts: list[list[str]] = [[] for _ in self.clips]
        for caption, clip in zip(captions, clips, strict=True):
            texts[clip].append(caption)
        self.asked = np.array([hashlib.sha256("\n".join(text).encode()).hexdigest()[:16] for text in texts])

    def tables(self) -> list[str]:
        """Paths of all tables."""
        return [*self.pairs, *self.ratios]

    def statistics(self, path: str) -> dict[str, Statistic]:
        """The figures of a table as statistics of how often each clip counts."""
        if path in self.pairs:
            return self.pairs[path].statistics()
        return {name: ratio(*parts) for name, parts in self.ratios[path].items()}

    def select(self, clips: Sequence[str]) -> "Samples":
        """Those of the clips named, in that order."""
        places = {name: k for k, name in enumerate(self.clips)}
        chosen = np.array([places[name] for name in clips], dtype=np.int64)
        number = np.full(len(self.clips), -1)
        number[chosen] = np.arange(len(chosen))
        kept = Samples(clips)
        for path, table in self.pairs.items():
            mask = number[table.clip] >= 0
            arrays = {name: getattr(table, name)[mask] for name in _PAIRS}
            kept.pairs[path] = PairErrors(**arrays | {"clip": number[arrays["clip"]]}, num_clips=len(chosen))
        for path, figures in self.ratios.items():
            kept.ratios[path] = {name: (top[chosen], bottom[chosen]) for name, (top, bottom) in figures.items()}
        kept.features = {name: (own[chosen], real[chosen]) for name, (own, real) in self.features.items()}
        kept.measured_by = dict(self.measured_by)
        kept.asked = None if self.asked is None else self.asked[chosen]
        return kept

    def arrays(self) -> dict[str, np.ndarray]:
        """As arrays by name, for a file."""
        found: dict[str, np.ndarray] = {"clips": np.array(self.clips)}
        for path, table in self.pairs.items():
            for part in _PAIRS:
                value = getattr(table, part)
                found[_BETWEEN.join((path, "pairs", part))] = value.astype(np.float32) if value.dtype == np.float64 else value
        for path, figures in self.ratios.items():
            for name, parts in figures.items():
                found[_BETWEEN.join((path, name, "ratio"))] = np.stack(parts)
        for network, pair in self.features.items():
            for kind, values in zip(_KINDS, pair, strict=True):
                found[_BETWEEN.join((network, "features", kind))] = values.astype(np.float32)
        for (path, name), by in self.measured_by.items():
            found[_BETWEEN.join((path, name, "measured by"))] = np.array(by)
        if self.asked is not None:
            found["asked"] = self.asked
        return found

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Samples):
            return NotImplemented
        mine, theirs = self.arrays(), other.arrays()
        return mine.keys() == theirs.keys() and all(
            np.array_equal(mine[key], theirs[key], mine[key].dtype.kind == "f") for key in mine
        )


def save_samples(folder: Path, tasks: dict[str, Samples]) -> None:
    """Write `per_clip.npz` of a run: the samples of each of its tasks."""
    arrays = {_BETWEEN.join((task, key)): value for task, samples in tasks.items() for key, value in samples.arrays().items()}

    def write(aside: Path) -> None:
        with aside.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # numpy types every name as allow_pickle

    folder.mkdir(parents=True, exist_ok=True)
    write_aside(folder / FILE_NAME, write)


def load_samples(folder: Path) -> dict[str, Samples]:
    """Samples of each task of a run.

    Raises:
        ValueError: the folder holds no `per_clip.npz`, or a damaged one.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise ValueError(f"{str(folder)!r} holds no {FILE_NAME}: give a folder that `jog3r evaluate` wrote")
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except NPZ_FAULTS as error:
        raise ValueError(f"{str(path)!r} cannot be read ({error}); start the evaluation again, which goes on fast") from error
    tasks: dict[str, Samples] = {}
    for key, value in arrays.items():
        task, _, rest = key.partition(_BETWEEN)
        if rest == "clips":
            tasks[task] = Samples(value.tolist())
    for key, value in arrays.items():
        task, *parts = key.split(_BETWEEN)
        if parts == ["asked"]:
            tasks[task].asked = value
        elif len(parts) == 3 and parts[2] == "measured by":
            tasks[task].measured_by[parts[0], parts[1]] = str(value)
        elif len(parts) == 3 and parts[1] == "pairs" and parts[2] == "clip":
            table = {name: arrays[_BETWEEN.join((task, parts[0], "pairs", name))] for name in _PAIRS}
            tasks[task].pairs[parts[0]] = PairErrors(**table, num_clips=len(tasks[task].clips))
        elif len(parts) == 3 and parts[2] == "ratio":
            tasks[task].ratios.setdefault(parts[0], {})[parts[1]] = (value[0], value[1])
        elif len(parts) == 3 and parts[1:] == ["features", _KINDS[0]]:
            tasks[task].features[parts[0]] = (value, arrays[_BETWEEN.join((task, parts[0], "features", _KINDS[1]))])
    return tasks
