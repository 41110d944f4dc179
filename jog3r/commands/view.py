"""`jog3r view`: results of generate, reconstruct or register in an interactive 3D viewer, served or as one HTML file."""

import argparse
from pathlib import Path

from jog3r.commands.options import port
from jog3r.commands.output_folder import UsageError


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("directory", type=Path, metavar="DIR", help="folder that generate, reconstruct or register wrote")
    parser.add_argument("--host", default=None, help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=port, default=None, help="port to listen on (default 8080)")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write one HTML file that shows it, below 5 MB, and serve nothing"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace FILE")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> str:
    """Serve the interactive viewer, until interrupted; or write it as a file."""
    if options.html is not None:
        from jog3r.export.player import write_page

        given = [name for name in ("host", "port") if getattr(options, name) is not None]
        if given:
            raise UsageError(f"--{given[0]} has no effect with --html, which serves nothing: leave one of the two out")
        if options.html.is_file() and not options.overwrite:
            raise UsageError(f"--html {str(options.html)!r} exists already; add --overwrite, or name another file")
        if not options.html.is_dir() and options.html.suffix.lower() not in (".html", ".htm"):
            raise UsageError(f"--html {str(options.html)!r} must end in .html: a browser would show it as text")
        try:
            path = write_page(options.directory, options.html, overwrite=options.overwrite)
        except OSError as error:
            raise UsageError(f"{str(options.html)!r} cannot be written: {error}") from error
        return f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)"
    if options.overwrite:
        raise UsageError("--overwrite is for --html FILE, which is not given")
    from jog3r.export.viewer import view_scene

    host = "127.0.0.1" if options.host is None else options.host
    view_scene(options.directory, host=host, port=8080 if options.port is None else options.port)
    return "stopped"
