"""`jog3r prepare`: latents, depth and caption embeddings of a data set, computed once."""

import argparse
import json
import logging
from pathlib import Path

from jog3r import tiny_checkpoint
from jog3r.commands.options import field_options, given_fields
from jog3r.commands.output_folder import UsageError


def arguments(parser: argparse.ArgumentParser) -> None:
    """`--config FILE` and one option for each field of `PrepareConfig`."""
    from jog3r.training.preparation.prepare_config import PrepareConfig

    parser.add_argument(
        "--config",
        default=None,
        type=Path,
        metavar="FILE",
        help="yaml file of options, the model among them; overridden by those given",
    )
    parser.add_argument(
        "--from_hub",
        default=None,
        metavar="OWNER/NAME[@REVISION]",
        help="copy a finished cache of the hub into --output_dir instead; no other option",
    )
    field_options(parser, PrepareConfig, as_words=True)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> str:
    """Prepare a cache; returns what became of it."""
    from jog3r.training.config import load_config
    from jog3r.training.preparation.prepare_config import PrepareConfig
    from jog3r.training.prepare import prepare

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.from_hub is not None:
        return _fetch(options)
    words = [f"--{name}={value}" for name, value in given_fields(options, PrepareConfig).items()]
    if options.config is not None:
        words += ["--config", str(options.config)]
    elif "model" not in options:
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


def _fetch(options: argparse.Namespace) -> str:
    """Copy a cache of the hub."""
    from jog3r.training.preparation.hub_copy import fetch_cache
    from jog3r.training.preparation.prepare_config import PrepareConfig

    given = given_fields(options, PrepareConfig)
    directory = given.pop("output_dir", None)
    if directory is None or given or options.config is not None:
        more = f", got {', '.join(given) or 'config'}" if directory is not None else ""
        raise UsageError(f"--from_hub takes --output_dir and nothing else{more}")
    try:
        manifest = fetch_cache(options.from_hub, directory)
    except OSError as error:
        raise UsageError(str(error)) from error
    return f"{directory}: {manifest['videos']} videos, {manifest['frames']} frames, copied from {options.from_hub}"
