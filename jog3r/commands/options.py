"""Options that several commands share."""

import argparse
import dataclasses
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "field_options",
    "given_fields",
    "option",
    "output_options",
    "registration_arguments",
    "registration_kwargs",
    "result_options",
]


def port(text: str) -> int:
    """A number of a TCP port, for argparse."""
    if not text.isdecimal() or int(text) >= 2**16:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to {2**16 - 1}, got {text!r}")
    return int(text)


def option(parser: argparse.ArgumentParser, name: str, **settings: Any) -> None:
    """`--name`, also with dashes for underscores."""
    names = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
    parser.add_argument(*names, dest=name, **settings)


def field_options(parser: argparse.ArgumentParser, cls: type, leave_out: Sequence[str] = (), as_words: bool = False) -> None:
    """One option for each field of the dataclass `cls`; its help is the comment beside the field, and the default.

    What is not given is not in the namespace either, and `cls` itself refuses other values than those of a `Literal`.

    Args:
        parser: of a command that takes the bundled tiny checkpoint if no `model` is given.
        cls: a dataclass.
        leave_out: fields that get no option.
        as_words: values stay words, which `load_config` reads; else a bool is a flag, and a field without default must be given.
    """
    from jog3r.training.option_help import option_texts

    texts, hints = option_texts(cls), typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if field.name in leave_out:
            continue
        required = field.default is dataclasses.MISSING and field.name != "model"
        default = "the bundled tiny checkpoint" if field.name == "model" else field.default
        text = texts[field.name] if required else f"{texts[field.name]} (default: {default})"
        kind, *others = typing.get_args(hints[field.name]) or (hints[field.name],)  # of `int | None` the first
        settings: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text.replace("%", "%%")}
        if typing.get_origin(hints[field.name]) is typing.Literal:
            settings["metavar"] = "|".join((kind, *others))
        elif as_words:
            settings["metavar"] = "VALUE"
        else:
            settings |= {"action": "store_true"} if kind is bool else {"type": kind, "required": required}
        option(parser, field.name, **settings)


def given_fields(options: argparse.Namespace, cls: type) -> dict[str, Any]:
    """Those values of a command line that are fields of the dataclass `cls`."""
    return {field.name: getattr(options, field.name) for field in dataclasses.fields(cls) if hasattr(options, field.name)}


def result_options(parser: argparse.ArgumentParser) -> None:
    """What every command that writes a folder of results takes."""
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write; must not exist")
    parser.add_argument("--overwrite", action="store_true", help="replace files and folders of the same name in an existing DIR")
    parser.add_argument(
        "--export",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="also: colmap nerfstudio tum kitti npz splat blender turntable",
    )


def registration_arguments(parser: argparse.ArgumentParser) -> None:
    """How pointmaps become cameras."""
    parser.add_argument("--registration", choices=("fast", "reference"), default="fast", help="how cameras are solved for")
    option(parser, "focal_per_frame", action="store_true", help="a focal length for each frame, for videos that zoom")


def registration_kwargs(options: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `register_pointmaps` that the options of `registration_arguments` stand for."""
    return {"method": options.registration, **({"shared_focal": False} if options.focal_per_frame else {})}


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
    registration_arguments(parser)
    option(
        parser, "reconstruction_timestep", type=float, default=None, metavar="T", help="noise level at which features are read"
    )
    for name in ("height", "width"):
        parser.add_argument(f"--{name}", type=int, default=None, metavar="PIXELS", help="default: what the model was made for")
