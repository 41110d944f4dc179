"""`jog3r evaluate`: held-out clips: cameras against the truth, captions against videos."""

import argparse

from jog3r import tiny_checkpoint
from jog3r.commands.options import field_options, given_fields
from jog3r.commands.output_folder import UsageError
from jog3r.commands.running import quiet_libraries


def arguments(parser: argparse.ArgumentParser) -> None:
    """The task, and one option for each other field of `EvaluationOptions`."""
    from jog3r.evaluation.evaluate import EvaluationOptions

    parser.add_argument("task", choices=("v2c", "t2vc", "all"), help="cameras of videos, generated videos, or both")
    field_options(parser, EvaluationOptions, leave_out=("task",))
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> str:
    """Returns the report."""
    from jog3r.evaluation.evaluate import EvaluationOptions, run_evaluation

    quiet_libraries()
    values = given_fields(options, EvaluationOptions)
    try:
        return str(run_evaluation(**{"model": tiny_checkpoint()} | values)["markdown"])
    except OSError as error:
        raise UsageError(str(error)) from error
