"""Checks that the dataclasses of options of several scripts share."""

import dataclasses
import math
import os
import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

__all__ = ["check_least", "check_options_of", "from_mapping", "places_as_text"]

Config = TypeVar("Config")


def places_as_text(config: Any) -> None:
    """Turn paths (`pathlib.Path`) among the values of a configuration into texts: in Python both are given."""
    for field in dataclasses.fields(config):
        if isinstance(value := getattr(config, field.name), os.PathLike):
            setattr(config, field.name, os.fspath(value))


def check_options_of(config: Any, switch: str, options: dict[str, tuple[str, ...]]) -> None:
    """Refuse options that the chosen value of a switch has no use for.

    Args:
        config: a configuration, a dataclass.
        switch: name of the option that chooses, such as "data".
        options: for each of its values the names of the options that only some values use.

    Raises:
        ValueError: one of the others' options has another value than its default.
    """
    chosen = getattr(config, switch)
    for field in dataclasses.fields(config):
        takers = [taker for taker, names in options.items() if field.name in names]
        value = getattr(config, field.name)
        if takers and chosen not in takers and value != field.default:
            raise ValueError(f"{field.name}={value} means nothing to {switch}={chosen}; it is for {', '.join(takers)}")


def check_least(config: Any, least: dict[int, Sequence[str]]) -> None:
    """Refuse numbers of a configuration that are not finite, or too small.

    Args:
        config: a configuration.
        least: for each bound the names of the options, `config` may lack some, that must not be below it.
    """
    values = {name: value for name, value in vars(config).items() if isinstance(value, (int, float))}
    for name, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, got {value}")
    for bound, names in least.items():
        for name in names:
            if name in values and values[name] < bound:
                raise ValueError(f"{name} must be at least {bound}, got {values[name]}")


def from_mapping(cls: type[Config], values: dict[str, Any]) -> Config:
    """Build the dataclass `cls` from a mapping, refusing unknown names and wrong types."""
    types_by_name = typing.get_type_hints(cls)
    known = {entry.name for entry in dataclasses.fields(cls)}  # type: ignore[arg-type]  # cls is a dataclass
    unknown = sorted(str(name) for name in set(values) - known)  # yaml has other keys than texts
    if unknown:
        raise ValueError(f"unknown option {', '.join(unknown)}; {cls.__name__} knows {', '.join(sorted(known))}")
    missing = [
        entry.name
        for entry in dataclasses.fields(cls)  # type: ignore[arg-type]  # cls is a dataclass
        if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING and entry.name not in values
    ]
    if missing:
        raise ValueError(f"option {', '.join(missing)} must be given")
    return cls(**{name: _convert(name, value, types_by_name[name]) for name, value in values.items()})


def _convert(name: str, value: Any, wanted: Any) -> Any:
    """Check `value` against the annotation `wanted`; integers may stand for floats, lists for tuples."""
    options = (
        typing.get_args(wanted) if isinstance(wanted, types.UnionType) or typing.get_origin(wanted) is typing.Union else (wanted,)
    )
    if value is None and type(None) in options:
        return None
    for option in options:
        origin = typing.get_origin(option) or option
        if origin is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        if origin is float and isinstance(value, str):  # yaml 1.1 reads 3e-4 as a word
            try:
                return float(value)
            except ValueError:
                continue
        if origin is tuple and isinstance(value, (list, tuple)):
            return tuple(_convert(name, item, typing.get_args(option)[0]) for item in value)
        if origin is typing.Literal:
            if value is False and "no" in typing.get_args(option):  # yaml 1.1 reads `no` so
                return "no"
            if value in typing.get_args(option):
                return value
            raise ValueError(f"option {name} must be one of {typing.get_args(option)}, got {value!r}")
        if origin is int and isinstance(value, bool):
            continue
        if isinstance(origin, type) and isinstance(value, origin):
            return value
    raise ValueError(f"option {name} must be {wanted}, got {value!r} ({type(value).__name__})")
