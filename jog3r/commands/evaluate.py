"""`jog3r evaluate`: held-out clips: cameras against the truth, captions against videos."""

import argparse
import dataclasses
import inspect
import textwrap
import typing
from typing import Any

from jog3r import tiny_checkpoint
from jog3r.commands.options import option
from jog3r.commands.output_folder import UsageError


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("task", choices=("v2c", "t2vc", "all"), help="cameras of videos, generated videos, or both")
    for name, settings in evaluation_options().items():
        option(parser, name, **settings)
    parser.set_defaults(run=run)


def evaluation_options() -> dict[str, dict[str, Any]]:
    """Arguments of the parser, one for each field of `EvaluationOptions` but the task."""
    from jog3r.evaluation.evaluate import EvaluationOptions

    settings: dict[str, dict[str, Any]] = {}
    texts = _attribute_texts(EvaluationOptions)
    hints = typing.get_type_hints(EvaluationOptions)
    for field in dataclasses.fields(EvaluationOptions):
        if field.name == "task":
            continue
        kind = next(kind for kind in (*typing.get_args(hints[field.name]), hints[field.name]) if kind is not type(None))
        required = field.default is dataclasses.MISSING and field.name != "model"
        default = None if field.default is dataclasses.MISSING else field.default
        if kind is bool:
            settings[field.name] = {"action": "store_true", "help": texts[field.name]}
            continue
        text = f"{texts[field.name]} (default: {default})"
        settings[field.name] = {"type": kind, "default": default, "required": required, "help": text}
    settings["split"]["metavar"] = "validation|test"  # no choices: the options check themselves, and say why
    settings["registration"]["metavar"] = "fast|reference"
    settings["model"]["help"] = "folder or hub repository (default: the bundled tiny checkpoint)"
    settings["out"]["help"] = "output folder; an earlier one of the same options is resumed"
    return settings


def _attribute_texts(cls: type) -> dict[str, str]:
    """What the docstring of a dataclass says of its attributes, by name."""
    _, _, attributes = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")
    texts: dict[str, str] = {}
    for line in textwrap.dedent(attributes).splitlines():
        names, colon, text = line.partition(":")
        if colon and not line.startswith(" "):
            texts |= dict.fromkeys(names.split(", "), text.strip().rstrip("."))
    return texts


def run(options: argparse.Namespace) -> str:
    """Returns the report."""
    from jog3r.evaluation.evaluate import EvaluationOptions, run_evaluation

    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(EvaluationOptions)}
    values["model"] = values["model"] or tiny_checkpoint()
    try:
        return str(run_evaluation(**values)["markdown"])
    except OSError as error:
        raise UsageError(str(error)) from error
