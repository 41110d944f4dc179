"""Where training clips come from: one place, or several with weights, as recipes and command lines name them."""

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from jog3r.data.option_checks import check_least, check_options_of, from_mapping, places_as_text
from jog3r.data.source_options import SOURCE_OPTIONS, SourceOptions

__all__ = ["HALVES", "DataPlace", "WeightedPlace", "name_of", "named_errors", "read_places"]

HALVES = ("generation", "reconstruction")  # of a training step, in the order of its clips
_LEAST = {1: ("open_shards",), 0: ("first_clip", "stream_retries")}
_PREPARED = ("edge_threshold", "agreement_threshold", "max_missing_share", "reverse_probability")
_DEPTH = ("depth", "assume_metric", "max_depth", "align_scale")
_DRAWN = ("first_clip", "procedural_style")
_OPTIONS = {  # what each kind of clips takes; to the other the option would mean nothing, so it is refused
    "procedural": _DRAWN,
    "cache": ("cache_dir", *_PREPARED),
    "videos": (*(field.name for field in dataclasses.fields(SourceOptions) if field.name not in _DRAWN), *_PREPARED, *_DEPTH),
    "stream": ("dataset", "dataset_revision", "open_shards", "stream_retries", *_PREPARED),
}
_WORDS = {  # the options that a place written as one text gives behind its kind
    "procedural": ("procedural_style",),
    "cache": ("cache_dir",),
    "videos": ("source", "frames"),
    "stream": ("dataset",),
}


@dataclass
class DataPlace(SourceOptions):
    """Options of one place that training clips come from."""

    # data
    data: Literal["procedural", "cache", "stream", "videos"] = "procedural"  # scenes drawn as it goes, prepared, or a source
    cache_dir: str | None = None  # with data=cache: a folder that `jog3r prepare` filled, read at random
    dataset: str | None = None  # with data=stream: such a folder, OWNER/NAME of the hub, or another address
    dataset_revision: str | None = None  # of a repository of the hub: branch, tag or commit
    open_shards: int = 4  # with data=stream: that a worker takes its clips from in turn
    stream_retries: int = 6  # with data=stream: after a lost connection, 1, 2, 4, ... seconds apart
    depth: str = "dataset"  # with data=videos: its own, or a metric depth model of transformers (folder or hub repository)
    assume_metric: bool = False  # take `depth` for metric though it cannot be recognised as such
    max_depth: float = 1000.0  # with such a model: what is farther is unknown
    align_scale: bool = True  # with such a model: bring the cameras' translations to the unit of the depth
    edge_threshold: float | None = 0.1  # not of procedural scenes: relative depth step beside which depth is not believed
    agreement_threshold: float | None = None  # not of procedural scenes: relative disagreement with other frames
    max_missing_share: float = 0.05  # not of procedural scenes: of its list, videos that are missing, skipped or too short
    reverse_probability: float = 0.5  # not of procedural scenes: share of the clips that run backward

    def __post_init__(self) -> None:
        places_as_text(self)

    def check(self, *, captions: bool, depth: bool) -> None:
        """Refuse options that do not fit each other or what the clips are for.

        Args:
            captions: whether the generator learns from them.
            depth: whether the 3D head does.

        Raises:
            ValueError: they do not fit.
        """
        for data, place in (("cache", "cache_dir"), ("stream", "dataset")):
            if (self.data == data) != ((value := getattr(self, place)) is not None):
                raise ValueError(f"data={data} and {place} belong together, got data={self.data} and {place}={value!r}")
        for name in ("max_missing_share", "reverse_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share between 0 and 1, got {getattr(self, name)}")
        check_least(self, _LEAST)
        for name in ("edge_threshold", "agreement_threshold"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ValueError(f"{name} must be above 0 (or null), got {value}")
        check_options_of(self, "data", _OPTIONS)
        if captions and self.procedural_style == "varied":
            raise ValueError(
                "scenes of procedural_style=varied have no captions, from which the generator learns: read them with "
                "reconstruction_data, or set generation_batch=0"
            )
        if self.data == "videos":
            self._check_source(depth)

    def _check_source(self, depth: bool) -> None:
        if self.source == "procedural":
            raise ValueError("scenes drawn as it goes are data=procedural, got data=videos with source=procedural")
        check_options_of(self, "source", SOURCE_OPTIONS)
        if self.max_depth <= 0:
            raise ValueError(f"max_depth must be positive, got {self.max_depth:g}")
        if self.depth == "dataset" and (self.assume_metric or not self.align_scale or self.max_depth != 1000.0):
            raise ValueError("assume_metric, max_depth and align_scale are for a depth model: name one with the option depth")
        if self.depth != "dataset" and not depth:
            raise ValueError(f"nothing learns from depth here: leave out depth={self.depth}")
        if self.depth == "dataset" and self.source.startswith("realestate10k") and depth:
            raise ValueError(
                f"source={self.source} has no depth, from which the 3D head learns: name a metric depth model with the option "
                "depth, or set reconstruction_batch=0"
            )

    def label(self) -> str:
        """A short name, for people and logs: without the folders that a path of this machine leads through."""
        words = [value for name in _WORDS[self.data] if (value := getattr(self, name)) is not None]
        return " ".join([self.data, *words[:-1], *(name_of(word) for word in words[-1:])])


@dataclass(frozen=True)
class WeightedPlace:
    """A place and how often clips of it come: `weight` in the sum of all weights."""

    weight: Fraction
    place: DataPlace


def name_of(place: str) -> str:
    """A folder's own name; an address, or a data set of the hub, whole."""
    return Path(place).name if Path(place).is_absolute() or Path(place).exists() else place


@contextmanager
def named_errors(what: str) -> Iterator[None]:
    """Context in which a `ValueError` says what it is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error


def read_places(value: Any, option: str) -> tuple[WeightedPlace, ...]:
    """The places that an option lists.

    Args:
        value: one place or a list of places; a place is a text, "[WEIGHT] KIND [WHERE]", such as "procedural varied",
            "3 cache FOLDER", "stream OWNER/NAME" or "videos SOURCE FOLDER", or a mapping of `DataPlace`'s options and "weight".
            None is no place.
        option: its name, for errors.

    Raises:
        ValueError: that is no such list.
    """
    if value is None:
        return ()
    entries = value if isinstance(value, (list, tuple)) else [value]
    if not entries:
        raise ValueError(f"{option} lists no place: leave it away, or name one, such as `procedural rooms`")
    return tuple(_read_place(entry, option) for entry in entries)


def _read_place(entry: Any, option: str) -> WeightedPlace:
    with named_errors(f"{option}, {entry!r}"):
        if isinstance(entry, str):
            entry = _words_to_options(entry)
        if not isinstance(entry, dict):
            raise ValueError(f"a place is a text or a mapping of options, got {type(entry).__name__}")
        values = dict(entry)
        weight = _read_weight(values.pop("weight", 1))
        if "data" not in values:
            raise ValueError(f"a place needs the option data, one of {', '.join(_OPTIONS)}")
        return WeightedPlace(weight, from_mapping(DataPlace, values))


def _words_to_options(text: str) -> dict[str, Any]:
    """ "3 cache FOLDER" -> {"weight": "3", "data": "cache", "cache_dir": "FOLDER"}."""
    values: dict[str, Any] = {}
    words = text.split(maxsplit=1)
    if len(words) == 2 and words[0] not in _WORDS:
        values["weight"], text = words
    kind = (text.split() or [""])[0]
    if kind not in _WORDS:
        raise ValueError(f"a place begins with {', '.join(_WORDS)}, or with its weight and one of them, got {text!r}")
    return values | dict(zip(("data", *_WORDS[kind]), text.split(maxsplit=len(_WORDS[kind])), strict=False))


def _read_weight(value: Any) -> Fraction:
    """A number above 0, exact as it is written."""
    try:
        if isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError
        weight = Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"the weight of a place must be a number, got {value!r}") from None
    if weight <= 0:
        raise ValueError(f"the weight of a place must be above 0, got {value!r}")
    return weight
