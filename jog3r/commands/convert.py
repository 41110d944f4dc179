"""`jog3r convert`: original OpenSora or DUSt3R weights to a folder of this package."""

import argparse
import json
from pathlib import Path
from typing import Any

from jog3r.commands.options import option
from jog3r.commands.output_folder import OutputFolder, UsageError

# What `jog3r convert` makes of one original file -> the model's class in jog3r; None is the whole pipeline.
CONVERSIONS = {
    "opensora": None,
    "opensora-transformer": "Jog3rTransformer3DModel",
    "dust3r-head": "Pointmap3DHead",
    "dust3r": "Dust3rBaseline",
}
PIPELINE_FOLDERS = ("vae", "text_encoder", "tokenizer", "transformer", "pointmap_head", "scheduler")
PARTS = ("vae", "text_encoder", "tokenizer", "dust3r")  # of the whole pipeline


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "kind", choices=tuple(CONVERSIONS), help="opensora: a whole pipeline around its transformer; else one model"
    )
    parser.add_argument("file", type=Path, help="original checkpoint (.pth or .safetensors)")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write; must not exist")
    parser.add_argument("--overwrite", action="store_true", help="replace files and folders of the same name in an existing DIR")
    for name in PARTS:
        what = "DUSt3R checkpoint to start the head from" if name == "dust3r" else "folder or hub repository"
        option(parser, name, default=None, help=f"of the whole pipeline: {what}")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="config that weights cannot tell, such as space_scale=1.0",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> str:
    """Write a folder with conversion.json, which says what became of every weight."""
    config = dict(_parse_setting(text) for text in options.set)
    parts = {name: getattr(options, name) for name in PARTS if getattr(options, name) is not None}
    is_pipeline = CONVERSIONS[options.kind] is None
    inputs = [options.file, *map(Path, parts.values())]
    with OutputFolder(options.out, options.overwrite, PIPELINE_FOLDERS if is_pipeline else (), inputs) as folder:
        try:
            if is_pipeline:
                from jog3r.pipelines.loading.assemble import write_opensora_pipeline

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
    from jog3r.pipelines.loading.model_card import UNTRAINED_HEAD

    return f"{text}\nnote: {UNTRAINED_HEAD}"


def _convert_model(name: str | None, file: Path, config: dict[str, Any], folder: Path) -> tuple[dict[str, Any], bool]:
    """Save the model; returns the report, and whether the model is trained as it is."""
    import jog3r
    from jog3r import Dust3rBaseline, Dust3rPipeline
    from jog3r.models.conversion.convert import INSPECTIONS

    conversion = INSPECTIONS[str(name)](getattr(jog3r, str(name)), file, **config)
    model = conversion.load()
    if isinstance(model, Dust3rBaseline):  # as a pipeline: `jog3r evaluate v2c` and the training take it
        Dust3rPipeline(model).save_pretrained(folder)
    else:
        model.save_pretrained(folder)
        (folder / "README.md").write_text(model.card(), encoding="utf-8")
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
