"""`jog3r view`: results of generate, reconstruct or register in an interactive 3D viewer."""

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("directory", type=Path, metavar="DIR", help="folder that generate, reconstruct or register wrote")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on (default 8080)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> str:
    """Serve the interactive viewer, until interrupted."""
    from jog3r.export.viewer import view_scene

    view_scene(options.directory, host=options.host, port=options.port)
    return "stopped"
