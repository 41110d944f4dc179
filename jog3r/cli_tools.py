"""`jog3r convert`, `evaluate` and `serve`: thin ways to what other folders do."""

import argparse
import dataclasses
import importlib.util
import inspect
import json
import runpy
import textwrap
import typing
from pathlib import Path
from typing import Any

from jog3r import tiny_checkpoint
from jog3r.cli_files import OutputFolder, UsageError

# What `jog3r convert` makes of one original file -> the function of jog3r.models.convert; None is the whole pipeline.
CONVERSIONS = {
    "opensora": None,
    "opensora-transformer": "inspect_opensora",
    "dust3r-head": "inspect_dust3r_head",
    "dust3r": "inspect_dust3r_baseline",
}
PIPELINE_FOLDERS = ("vae", "text_encoder", "tokenizer", "transformer", "pointmap_head", "scheduler")
PARTS = ("vae", "text_encoder", "tokenizer", "dust3r")  # of the whole pipeline


def run_convert(options: argparse.Namespace) -> str:
    """`jog3r convert`: a folder with conversion.json, which says what became of every weight."""
    config = dict(_parse_setting(text) for text in options.set)
    parts = {name: getattr(options, name) for name in PARTS if getattr(options, name) is not None}
    is_pipeline = CONVERSIONS[options.kind] is None
    with OutputFolder(options.out, options.overwrite, PIPELINE_FOLDERS if is_pipeline else ()) as folder:
        try:
            if is_pipeline:
                from jog3r.pipelines.assemble import write_opensora_pipeline

                report, trained = write_opensora_pipeline(options.file, folder, **parts, **config)["transformer"], False
            else:
                if parts:
                    raise UsageError(f"--{next(iter(parts))} belongs to `convert opensora`, the whole pipeline")
                report, trained = _convert_model(CONVERSIONS[options.kind], options.file, config, folder)
        except (FileNotFoundError, TypeError) as error:
            raise UsageError(str(error)) from error
        written = {path.name for path in folder.iterdir()}
    text = f"{options.out}: {report['model']}, {report['parameters']} parameters, {len(report['ignored'])} weights ignored"
    if old := sorted({path.name for path in options.out.iterdir()} - written):
        text += f"\nnote: was there before and stays: {', '.join(old)}"
    if trained:
        return text
    from jog3r.pipelines.model_card import UNTRAINED_HEAD

    return f"{text}\nnote: {UNTRAINED_HEAD}"


def _convert_model(function: str | None, file: Path, config: dict[str, Any], folder: Path) -> tuple[dict[str, Any], bool]:
    """Save the model; returns the report, and whether the model is trained as it is."""
    from jog3r import Dust3rBaseline, Dust3rPipeline
    from jog3r.models import convert

    conversion = getattr(convert, str(function))(file, **config)
    model = conversion.load()
    if isinstance(model, Dust3rBaseline):  # as a pipeline: `jog3r evaluate v2c` and the training take it
        Dust3rPipeline(model).save_pretrained(folder)
    else:
        model.save_pretrained(folder)
    report: dict[str, Any] = conversion.report()
    (folder / "conversion.json").write_text(json.dumps(report, indent=1) + "\n")
    return report, bool(getattr(model.config, "trained", True))


def _parse_setting(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise UsageError(f"--set wants NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value  # a word, such as pairwise


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


def run_evaluate(options: argparse.Namespace) -> str:
    """`jog3r evaluate`: returns the report."""
    from jog3r.evaluation.evaluate import EvaluationOptions, run_evaluation

    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(EvaluationOptions)}
    values["model"] = values["model"] or tiny_checkpoint()
    try:
        return str(run_evaluation(**values)["markdown"])
    except OSError as error:
        raise UsageError(str(error)) from error


def run_serve(options: argparse.Namespace) -> str:
    """`jog3r serve`: the Space, until interrupted."""
    script = Path(__file__).resolve().parent.parent / "spaces_app.py"
    if not script.is_file():
        raise UsageError("spaces_app.py is not part of this installation; run it from a checkout of the repository")
    if importlib.util.find_spec("gradio") is None:
        raise UsageError("the Space needs gradio: pip install '.[demo]' in the checkout of jog3r")
    try:
        runpy.run_path(str(script), run_name="jog3r_space")["main"](
            model=options.model, compare=options.compare, host=options.host, port=options.port
        )
    except OSError as error:  # a repository that is not there, a port that is taken
        raise UsageError(str(error)) from error
    return "stopped"


def run_view(options: argparse.Namespace) -> str:
    """`jog3r view`: the interactive viewer, until interrupted."""
    from jog3r.export.viewer import view_scene

    view_scene(options.directory, host=options.host, port=options.port)
    return "stopped"
