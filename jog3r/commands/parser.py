"""The command `jog3r`: arguments in, one clear line and an exit code out. Each command has a module.

Exit codes: 0 done, 2 bad usage or input (one line on stderr), 1 anything else.
"""

import argparse
import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

from jog3r.commands.output_folder import PartlyDone, UsageError

# What is wrong outside of any program: permissions, names that are too long, links in a circle, full or broken disks.
OUTSIDE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP),
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),
}

COMMANDS = {
    "generate": "a video with its cameras and point cloud, from a prompt",
    "reconstruct": "cameras and point cloud of a video",
    "register": "cameras and point cloud of the depth or pointmaps that any model found",
    "convert": "original OpenSora or DUSt3R weights to a folder of this package",
    "cut": "clips out of your copies of full videos, at the times of RealEstate10K's camera files",
    "prepare": "latents, depth and caption embeddings of a data set, computed once",
    "evaluate": "held-out clips: cameras against the truth, captions against videos",
    "view": "results of generate, reconstruct or register in an interactive 3D viewer, or as one HTML file",
    "serve": "the demo in a browser",
}


class _OneLineParser(argparse.ArgumentParser):
    """Usage errors in one line."""

    stray = "put what belongs together, such as a prompt, in quotes"  # what to do with words that belong to nothing

    def error(self, message: str) -> None:  # type: ignore[override]  # raises, as argparse's does not return either
        words = message.startswith("unrecognized arguments") and "--" not in message
        raise UsageError(f"{message}{f'; {self.stray}' if words else ''} (see `{self.prog} --help`)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    verbose = "--verbose" in arguments
    try:
        parser = build_parser(arguments[0] if arguments else None)
        options = parser.parse_args([_local_name(argument) for argument in arguments])
        with _ended_by_signals():
            print(options.run(options))
    except UsageError as error:
        if isinstance(error, PartlyDone):
            print(error.report)
        return _fail(2, error, verbose)
    except (ValueError, ImportError) as error:
        # Ours are raised at the border, for the user; anybody else's is a defect that needs its traceback.
        if _raised_here(error):
            return _fail(2, error, verbose)
        traceback.print_exc()
        return 1
    except OSError as error:
        if error.errno not in OUTSIDE:
            raise
        place = "" if error.filename is None else f"{str(error.filename)!r}: "
        return _fail(2, f"{place}{error.strerror}", verbose)
    except KeyboardInterrupt:
        return _fail(1, "interrupted", verbose)
    return 0


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser; only the arguments of `command` are filled in, so that no other command's modules are imported."""
    parser = _OneLineParser(prog="jog3r", description="Text to video with cameras, and video to cameras (JOG3R).")
    if command == "evaluate":
        parser.stray = "folders come right behind the task"
    parser.add_argument("--version", action="version", version=_version())
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_OneLineParser)
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        subparser.add_argument("--verbose", action="store_true", help="show tracebacks")
        if name == command:
            import_module(f"jog3r.commands.{name}").arguments(subparser)
    return parser


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """A closed terminal and `kill` end a command as an error does: nothing half-written stays."""

    def end(number: int, _: object) -> None:
        for other in before:  # a second one, which closing terminals send, would break off the clearing up
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    names = ("SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.signal(number, end) for number in numbers if signal.getsignal(number) == signal.SIG_DFL}  # no nohup
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _local_name(argument: str) -> str:
    """`./-x.mp4` for `-x.mp4`: no option of ours has one hyphen and several letters, so a file of that name is meant."""
    is_file = argument.startswith("-") and not argument.startswith("--") and len(argument) > 2 and os.path.lexists(argument)
    return f"./{argument}" if is_file else argument


def _version() -> str:
    from jog3r import __version__

    return f"jog3r {__version__}"


def _raised_here(error: BaseException) -> bool:
    """Whether the innermost frame of the error lies in this package."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__")).split(".")[0] in ("jog3r", "spaces_app")


def _fail(code: int, error: BaseException | str, verbose: bool) -> int:
    if verbose and isinstance(error, BaseException):
        traceback.print_exception(error)
    print(f"jog3r: {' '.join(str(error).split())}", file=sys.stderr)
    return code
