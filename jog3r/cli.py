"""The command `jog3r`: arguments in, one clear line and an exit code out. The work is done in `cli_tasks` and `cli_tools`.

Exit codes: 0 done, 2 bad usage or input (one line on stderr), 1 anything else.
"""

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jog3r.cli_files import PartlyDone, UsageError

COMMANDS = {
    "generate": "a video with its cameras and point cloud, from a prompt",
    "reconstruct": "cameras and point cloud of a video",
    "convert": "original OpenSora or DUSt3R weights to a folder of this package",
    "prepare": "latents, depth and caption embeddings of a data set, computed once",
    "evaluate": "held-out clips: cameras against the truth, captions against videos",
    "view": "results of generate or reconstruct in an interactive 3D viewer",
    "serve": "the demo in a browser",
}


class _OneLineParser(argparse.ArgumentParser):
    """Usage errors in one line."""

    def error(self, message: str) -> None:  # type: ignore[override]  # raises, as argparse's does not return either
        raise UsageError(f"{message} (see `{self.prog} --help`)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    verbose = "--verbose" in arguments
    try:
        parser = build_parser(arguments[0] if arguments else None)
        options = parser.parse_args(arguments)
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
    except KeyboardInterrupt:
        return _fail(1, "interrupted", verbose)
    return 0


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser; only the arguments of `command` are filled in, so that no other command's modules are imported."""
    parser = _OneLineParser(prog="jog3r", description="Text to video with cameras, and video to cameras (JOG3R).")
    parser.add_argument("--version", action="version", version=_version())
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_OneLineParser)
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        subparser.add_argument("--verbose", action="store_true", help="show tracebacks")
        if name == command:
            _ARGUMENTS[name](subparser)
    return parser


def _version() -> str:
    from jog3r import __version__

    return f"jog3r {__version__}"


def _option(parser: argparse.ArgumentParser, name: str, **settings: Any) -> None:
    """`--name`, also with dashes for underscores."""
    names = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
    parser.add_argument(*names, dest=name, **settings)


def _output_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write; must not exist")
    parser.add_argument("--overwrite", action="store_true", help="replace files and folders of the same name in an existing DIR")
    parser.add_argument(
        "--export", nargs="+", default=[], metavar="NAME", help="also: colmap nerfstudio tum kitti npz splat blender"
    )
    parser.add_argument("--model", default=None, help="folder or hub repository (default: the bundled tiny checkpoint)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same result (default 0)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default cpu)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the networks (default float32)"
    )
    parser.add_argument(
        "--offload", action="store_true", help="hold on the device only the network at work: less of its memory, slower"
    )
    parser.add_argument("--registration", choices=("fast", "reference"), default="fast", help="how cameras are solved for")
    _option(
        parser, "reconstruction_timestep", type=float, default=None, metavar="T", help="noise level at which features are read"
    )
    for name in ("height", "width"):
        parser.add_argument(f"--{name}", type=int, default=None, metavar="PIXELS", help="default: what the model was made for")


def _generate_arguments(parser: argparse.ArgumentParser) -> None:
    from jog3r.cli_tasks import run_generate

    example = "a room with blue walls and a brown floor, with a red sofa, the camera moves forward"
    parser.add_argument("prompt", help=f"what to show, for example '{example}'")
    _output_options(parser)
    parser.add_argument("--task", choices=("t2v+c", "t2v"), default="t2v+c", help="with cameras (default) or the video alone")
    _option(parser, "num_frames", type=int, default=None, help="default: what the model was made for")
    _option(parser, "num_inference_steps", type=int, default=30, help="sampling steps (default 30)")
    _option(parser, "guidance_scale", type=float, default=None, help="how closely to follow the prompt (default: the pipeline's)")
    _option(parser, "negative_prompt", default=None, help="what to steer away from")
    parser.add_argument("--fps", type=float, default=8.0, help="frames per second written to the video (default 8)")
    parser.set_defaults(run=run_generate)


def _reconstruct_arguments(parser: argparse.ArgumentParser) -> None:
    from jog3r.cli_long import long_video_arguments
    from jog3r.cli_tasks import run_reconstruct

    parser.add_argument("video", type=Path, help="video file, or folder of images; for more than 64 frames add --window 16")
    _output_options(parser)
    parser.add_argument("--start", type=int, default=0, help="first frame (default 0)")
    parser.add_argument("--stop", type=int, default=None, help="frame to stop before (default: the end)")
    parser.add_argument("--stride", type=int, default=1, help="take every N-th frame (default 1)")
    parser.add_argument(
        "--resize",
        choices=("crop", "stretch"),
        default="crop",
        help="to the model's size: the centre in its aspect ratio (default; pixels stay square), or all of the frame stretched",
    )
    _option(
        parser, "true_cameras", type=Path, default=None, metavar="FILE", help="RealEstate10K or cameras.json: print the errors"
    )
    _option(parser, "both_directions", action="store_true", help="read the video backwards, too: twice the time, smaller errors")
    long_video_arguments(parser)
    parser.set_defaults(run=run_reconstruct)


def _convert_arguments(parser: argparse.ArgumentParser) -> None:
    from jog3r.cli_tools import CONVERSIONS, PARTS, run_convert

    parser.add_argument(
        "kind", choices=tuple(CONVERSIONS), help="opensora: a whole pipeline around its transformer; else one model"
    )
    parser.add_argument("file", type=Path, help="original checkpoint (.pth or .safetensors)")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write; must not exist")
    parser.add_argument("--overwrite", action="store_true", help="replace files and folders of the same name in an existing DIR")
    for name in PARTS:
        what = "DUSt3R checkpoint to start the head from" if name == "dust3r" else "folder or hub repository"
        _option(parser, name, default=None, help=f"of the whole pipeline: {what}")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="config that weights cannot tell, such as space_scale=1.0"
    )
    parser.set_defaults(run=run_convert)


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    from jog3r.cli_tools import evaluation_options, run_evaluate

    parser.add_argument("task", choices=("v2c", "t2vc", "all"), help="cameras of videos, generated videos, or both")
    for name, settings in evaluation_options().items():
        _option(parser, name, **settings)
    parser.set_defaults(run=run_evaluate)


def _serve_arguments(parser: argparse.ArgumentParser) -> None:
    from jog3r.cli_tools import run_serve

    parser.add_argument("--model", default=None, help="folder or hub repository (default: JOG3R_MODEL, else the bundled one)")
    parser.add_argument("--compare", default=None, help="second model to compare (default: JOG3R_COMPARE_MODEL, else none)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on (default 7860)")
    parser.set_defaults(run=run_serve)


def _prepare_arguments(parser: argparse.ArgumentParser) -> None:
    from jog3r.cli_prepare import prepare_arguments

    prepare_arguments(parser)


def _view_arguments(parser: argparse.ArgumentParser) -> None:
    from jog3r.cli_tools import run_view

    parser.add_argument("directory", type=Path, metavar="DIR", help="folder that generate or reconstruct wrote")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on (default 8080)")
    parser.set_defaults(run=run_view)


_ARGUMENTS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "generate": _generate_arguments,
    "reconstruct": _reconstruct_arguments,
    "convert": _convert_arguments,
    "prepare": _prepare_arguments,
    "evaluate": _evaluate_arguments,
    "view": _view_arguments,
    "serve": _serve_arguments,
}


def _raised_here(error: BaseException) -> bool:
    """Whether the innermost frame of the error lies in this package."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__")).split(".")[0] == "jog3r"


def _fail(code: int, error: BaseException | str, verbose: bool) -> int:
    if verbose and isinstance(error, BaseException):
        traceback.print_exception(error)
    print(f"jog3r: {' '.join(str(error).split())}", file=sys.stderr)
    return code
