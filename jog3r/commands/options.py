"""Options that several commands share."""

import argparse
from pathlib import Path
from typing import Any

__all__ = ["option", "output_options", "result_options"]


def option(parser: argparse.ArgumentParser, name: str, **settings: Any) -> None:
    """`--name`, also with dashes for underscores."""
    names = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
    parser.add_argument(*names, dest=name, **settings)


def result_options(parser: argparse.ArgumentParser) -> None:
    """What every command that writes a folder of results takes."""
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write; must not exist")
    parser.add_argument("--overwrite", action="store_true", help="replace files and folders of the same name in an existing DIR")
    parser.add_argument(
        "--export", nargs="+", default=[], metavar="NAME", help="also: colmap nerfstudio tum kitti npz splat blender turntable"
    )


def output_options(parser: argparse.ArgumentParser) -> None:
    """What every command that runs a model and writes a folder of results takes."""
    result_options(parser)
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
    option(
        parser, "reconstruction_timestep", type=float, default=None, metavar="T", help="noise level at which features are read"
    )
    for name in ("height", "width"):
        parser.add_argument(f"--{name}", type=int, default=None, metavar="PIXELS", help="default: what the model was made for")
