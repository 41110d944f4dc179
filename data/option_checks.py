"""Checks that the dataclasses of options of several scripts share."""

import dataclasses
import os
from typing import Any

__all__ = ["check_options_of", "places_as_text"]


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
