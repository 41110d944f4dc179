"""`jog3r prepare`: latents, depth and caption embeddings of a data set, computed once."""

import argparse
import dataclasses
import json
import logging
import typing
from pathlib import Path

from jog3r import tiny_checkpoint
from jog3r.commands.output_folder import UsageError


def arguments(parser: argparse.ArgumentParser) -> None:
    """`--config FILE` and one option for each field of `PrepareConfig`."""
    from jog3r.training.option_help import option_texts
    from jog3r.training.preparation.prepare_config import PrepareConfig

    parser.add_argument(
        "--config", default=None, type=Path, metavar="FILE", help="yaml file of options, overridden by those given"
    )
    texts = option_texts(PrepareConfig)
    hints = typing.get_type_hints(PrepareConfig)
    for field in dataclasses.fields(PrepareConfig):
        choices = typing.get_args(hints[field.name]) if typing.get_origin(hints[field.name]) is typing.Literal else None
        names = dict.fromkeys((f"--{field.name}", f"--{field.name.replace('_', '-')}"))
        if field.name == "model":
            text = "pipeline folder or hub repository (default: the bundled tiny checkpoint)"
        elif field.default is dataclasses.MISSING:
            text = "folder to write; an unfinished one is gone on with"
        else:
            text = f"{texts[field.name]} (default: {field.default})".lstrip().replace("%", "%%")
        parser.add_argument(
            *names, dest=field.name, default=None, choices=choices, metavar=None if choices else "VALUE", help=text
        )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> str:
    """Prepare a cache; returns what became of it."""
    from jog3r.training.config import load_config
    from jog3r.training.preparation.prepare_config import PrepareConfig
    from jog3r.training.prepare import prepare

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(PrepareConfig)}
    words = [] if options.config is None else ["--config", str(options.config)]
    for name, value in values.items():
        words += [] if value is None else [f"--{name}={value}"]
    if options.model is None and options.config is None:
        words += [f"--model={tiny_checkpoint()}"]
    try:
        directory = prepare(load_config(PrepareConfig, words))
    except OSError as error:
        raise UsageError(str(error)) from error
    report = directory / "report.json"
    if not (directory / "manifest.json").is_file():
        return f"{directory}: this process's share is done, others are not"
    counts = json.loads(report.read_text(encoding="utf-8"))
    return f"{directory}: {counts['videos']} videos, {counts['frames']} frames, {counts['skipped']} skipped (report.json)"
