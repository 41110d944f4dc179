"""What `--help` prints: the options of a configuration with the comments that stand beside them in its source."""

import ast
import dataclasses
import inspect
import io
import textwrap
import tokenize
import types
import typing
from typing import Any

__all__ = ["describe_options", "option_texts"]

_KINDS = {int: "INTEGER", float: "NUMBER", str: "TEXT", bool: "true|false", tuple: "LIST"}


def option_texts(cls: type) -> dict[str, str]:
    """The comment at the end of each field of the dataclass `cls`, by name; "" where there is none."""
    return {name: text for name, _, text in _fields_with_comments(cls)}


def describe_options(cls: type) -> str:
    """All options of the dataclass `cls` for its command line: section by section, with values, comment and default."""
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    lines = [
        inspect.cleandoc(cls.__doc__ or ""),
        "",
        *_entry("--config FILE", "yaml file of options; those given here override it"),
    ]
    for name, section, text in _fields_with_comments(cls):
        if section:
            lines += ["", f"{section}:"]
        default = fields[name].default
        note = "must be given" if default is dataclasses.MISSING else f"default: {_shown(default)}"
        lines += _entry(f"--{name} {_values(hints[name])}", f"{text} ({note})" if text else f"({note})")
    return "\n".join(lines) + "\n"


def _fields_with_comments(cls: type) -> list[tuple[str, str, str]]:
    """Of each field, in their order: name, comment of a line of its own above it, comment at its end."""
    found: dict[str, tuple[str, str, str]] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            found |= {entry[0]: entry for entry in _own_fields(base)}  # a field that a subclass states anew keeps its place
    return list(found.values())


def _own_fields(cls: type) -> list[tuple[str, str, str]]:
    """Those that stand in the class itself."""
    source = textwrap.dedent(inspect.getsource(cls))
    comments = {
        token.start[0]: (token.string.lstrip("# "), token.line.lstrip().startswith("#"))
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    names = {field.name for field in dataclasses.fields(cls)}
    [definition] = ast.parse(source).body
    found = []
    for node in definition.body if isinstance(definition, ast.ClassDef) else ():
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id in names:
            above, alone = comments.get(node.lineno - 1, ("", False))
            text, _ = comments.get(node.end_lineno or node.lineno, ("", False))
            found.append((node.target.id, above if alone else "", text))
    return found


def _values(hint: Any) -> str:
    """What may stand behind an option of type `hint`."""
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union else (hint,)
    [kind, *_] = [part for part in parts if part is not type(None)]
    if typing.get_origin(kind) is typing.Literal:
        return "|".join(str(value) for value in typing.get_args(kind))
    return _KINDS[typing.get_origin(kind) or kind]


def _shown(default: Any) -> str:
    """A default as one would give it: as yaml writes it."""
    if default is None:
        return "null"
    if isinstance(default, bool):
        return str(default).lower()
    return str(list(default)) if isinstance(default, tuple) else str(default)


def _entry(option: str, text: str) -> list[str]:
    return [f"  {option}", *textwrap.wrap(text, 110, initial_indent=" " * 6, subsequent_indent=" " * 6)]
