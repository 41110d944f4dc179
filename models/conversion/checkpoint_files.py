"""Reading other people's checkpoint files: without running what they hold, without copying them into memory, strictly.

Both formats are mapped into memory: a tensor costs memory only where it is touched, and the system may drop it again.
"""

import argparse
import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

LAYOUTS = ("ema", "model", "state_dict")  # where weights may lie, best first; otherwise the file is the state dict itself

# What torch's restricted unpickler raises depends on which bytes are damaged; nothing of it is an error of ours.
_DAMAGE = (
    RuntimeError,
    pickle.UnpicklingError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    MemoryError,
    struct.error,
)


@dataclass
class Checkpoint:
    """The weights of a file.

    Args:
        path: of the file.
        layout: "ema", "model" or "state_dict" where the weights lie under that name, "plain" where they are the file.
        tensors: name -> tensor, mapped from the file.
        arguments: what the file's `args` entry says (DUSt3R stores its command line there); empty without one.
    """

    path: Path
    layout: str
    tensors: dict[str, torch.Tensor]
    arguments: dict[str, Any]


def read_checkpoint(path: str | Path, verify: bool = True) -> Checkpoint:
    """Map a `.safetensors` file or a `torch.save` file (`.pth`, `.pt`, `.ckpt`, `.bin`); code in it is never run.

    Args:
        path: of the file.
        verify: check the checksums of a `torch.save` archive (reads the file once; safetensors has none).

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for a file that is truncated, damaged, of another kind, holds code, or holds no weights.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint file at {path}")
    if path.suffix == ".safetensors":
        content: Any = _read_safetensors(path)
    else:
        if verify:
            _verify_archive(path)
        content = _read_torch(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dictionary of weights")
    layout, tensors = _find_weights(path, content)
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.layout != torch.strided:
            raise ValueError(
                f"{path}: {name} is a {tensor.layout} tensor of {tensor.dtype}, expected plain floating point weights"
            )
    return Checkpoint(path, layout, tensors, _arguments(content))


def check_finite(path: Path, name: str, tensor: torch.Tensor) -> None:
    """Refuse a weight with NaN or infinity in it, naming it."""
    if not torch.isfinite(tensor).all():
        bad = int((~torch.isfinite(tensor)).sum())
        raise ValueError(f"{path}: {name} has {bad} of {tensor.numel()} values that are NaN or infinite; the file is damaged")


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dictionary
    except (SafetensorError, *_DAMAGE) as error:
        raise ValueError(f"{path} is no readable safetensors file (truncated, damaged or of another kind): {error}") from error


def _read_torch(path: Path) -> Any:
    try:
        # DUSt3R stores its command line, a Namespace of plain values
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than weights, or is damaged; nothing in it was run. Save the state dict alone, with torch.save"
        ) from error
    except _DAMAGE as error:
        raise ValueError(
            f"{path} is no readable torch.save file (truncated, damaged or of another kind): {_first_line(error)}"
        ) from error


def _verify_archive(path: Path) -> None:
    """Compare the checksums of a zip archive; older `torch.save` files are no archives and have none."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, *_DAMAGE) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if damaged is not None:
        raise ValueError(f"{path} is damaged: {damaged!r} has another content than its checksum says")


def _find_weights(path: Path, content: Mapping) -> tuple[str, dict[str, torch.Tensor]]:
    for layout in LAYOUTS:
        if isinstance(content.get(layout), Mapping):
            tensors = content[layout]
            break
    else:
        layout, tensors = "plain", content
    strangers = [str(name) for name, value in tensors.items() if not isinstance(value, torch.Tensor) or not isinstance(name, str)]
    if strangers or not tensors:
        raise ValueError(
            f"{path} is not a checkpoint: neither a dictionary of weights nor one under {', '.join(LAYOUTS)}; "
            f"it holds {', '.join(strangers[:5]) or 'nothing'}"
        )
    if all(name.startswith("module.") for name in tensors):  # saved from a data-parallel wrapper
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return layout, dict(tensors)


def _arguments(content: Mapping) -> dict[str, Any]:
    arguments = content.get("args")
    if isinstance(arguments, argparse.Namespace):
        return vars(arguments)
    return dict(arguments) if isinstance(arguments, Mapping) else {}


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:300]
