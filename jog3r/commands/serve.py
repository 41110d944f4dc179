"""`jog3r serve`: the demo in a browser."""

import argparse
import importlib.util

from jog3r.commands.options import port
from jog3r.commands.output_folder import UsageError


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--model", default=None, help="folder or hub repository (default: JOG3R_MODEL, else the bundled one)")
    parser.add_argument("--compare", default=None, help="second model to compare (default: JOG3R_COMPARE_MODEL, else none)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=port, default=7860, help="port to listen on (default 7860)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> str:
    """Serve the Space, until interrupted."""
    if importlib.util.find_spec("gradio") is None:
        raise UsageError("the Space needs gradio: pip install '.[demo]' in the checkout of jog3r")
    from spaces_app import main  # takes seconds, which --help should not

    try:
        main(options.model, options.compare, options.host, options.port)
    except OSError as error:  # a repository that is not there, a port that is taken
        raise UsageError(str(error)) from error
    return "stopped"
