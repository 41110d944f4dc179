"""`jog3r evaluate`: held-out clips: cameras against the truth, captions against videos; two runs compared."""

import argparse
from pathlib import Path
from typing import Any

from jog3r import tiny_checkpoint
from jog3r.commands.options import field_options, given_fields
from jog3r.commands.output_folder import UsageError
from jog3r.commands.running import quiet_libraries

_TASKS = {
    "v2c": "cameras of videos",
    "t2vc": "generated videos with cameras",
    "all": "both",
    "list": "a clip list for --clip_list, to the file --out",
    "judge": "DIR ...: what --judge says of folders of videos",
    "compare": "A B: paired differences of two runs",
    "tables": "RUN ...: tables 1 and 2 of the paper with these runs beside",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """The task, its folders, and one option for each other field of `EvaluationOptions`."""
    from jog3r.evaluation.evaluate import EvaluationOptions

    parser.add_argument("task", choices=_TASKS, help="; ".join(f"{name}: {text}" for name, text in _TASKS.items()))
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="DIR", help="of compare and tables: what earlier runs wrote; of judge: videos"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="output folder, an earlier one of the same options is resumed; of list: a file"
    )
    parser.add_argument(
        "--cameras",
        action=_FolderOrMethod,
        default=argparse.SUPPRESS,
        metavar="FOLDER|network|tracks",
        help="realestate10k: folder of camera files; network or tracks (may be given besides): as --cameras_from",
    )
    field_options(parser, EvaluationOptions, leave_out=("task", "out", "cameras", "judged"))
    parser.set_defaults(run=run)


class _FolderOrMethod(argparse.Action):
    """`--cameras` of `jog3r prepare` is a folder, that of `jog3r reconstruct` a method: both words are understood."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:  # noqa: ARG002  # argparse's
        setattr(namespace, "cameras_from" if values in ("network", "tracks") else "cameras", values)


def run(options: argparse.Namespace) -> str:
    """Returns the report."""
    from jog3r.evaluation.evaluate import EvaluationOptions, run_evaluation

    values = {name: value for name, value in given_fields(options, EvaluationOptions).items() if value is not None}
    try:
        if options.task in ("compare", "tables"):
            return _of_finished_runs(options.task, options.folders, values)
        if options.task == "judge":
            values["judged"] = tuple(map(str, options.folders))
        elif options.folders:
            raise UsageError(f"{options.task} takes no folders but those of options, got {options.folders[0]}")
        if options.out is None:
            raise UsageError("the following arguments are required: --out (see `jog3r evaluate --help`)")
        outside = "predictions" in values or "tracks" in (values.get("cameras_from"), values.get("cameras"))
        model = {} if outside or options.task in ("list", "judge") else {"model": tiny_checkpoint()}
        if model or values.get("judge", "sfm") != "sfm":
            quiet_libraries()  # it imports them, which takes seconds
        return str(run_evaluation(**model | values)["markdown"])
    except OSError as error:
        raise UsageError(str(error)) from error


def _of_finished_runs(task: str, folders: list[Path], values: dict[str, Any]) -> str:
    from jog3r.evaluation.report import write_report
    from jog3r.evaluation.statistics.compare import compare_blocks, compare_runs
    from jog3r.evaluation.statistics.paper_tables import paper_tables, tables_blocks

    _refuse_options(task, values)
    if task == "tables":
        tables = paper_tables(folders)
        return write_report(values.get("out"), "tables", tables, tables_blocks(tables))
    if len(folders) != 2:
        raise UsageError(f"compare takes two folders that `jog3r evaluate` wrote, got {len(folders)}")
    result = compare_runs(*folders)
    return write_report(values.get("out"), "compare", result, compare_blocks(result))


def _refuse_options(task: str, values: dict[str, Any]) -> None:
    """Options of evaluations mean nothing to what only reads their results."""
    unused = sorted(set(values) - {"task", "out"})
    if unused:
        raise UsageError(f"--{unused[0]} has no effect with {task}, which reads finished runs: leave it out")
