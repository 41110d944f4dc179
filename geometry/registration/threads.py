"""How torch computes inside: threads for small tensors, and no lower precision than the tensors have."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

# Numbers in the largest tensors of one kind, up to which several threads gain nothing.
_SMALL = 1 << 17


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No autocast inside, and on CUDA no TF32: they would lose the cameras, and autocast mixes dtypes that do not go together."""
    matmul: Any = torch.backends.cuda.matmul
    name, full = ("fp32_precision", "ieee") if hasattr(matmul, "fp32_precision") else ("allow_tf32", False)  # before torch 2.9
    before = getattr(matmul, name)
    try:
        if device.type == "cuda":
            setattr(matmul, name, full)
        if not torch.is_autocast_enabled(device.type):
            yield
            return
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        if device.type == "cuda":
            setattr(matmul, name, before)


@contextmanager
def one_thread_if_small(numbers: int, device: torch.device) -> Iterator[None]:
    """Let torch use one thread of the CPU inside, if tensors have at most 131,072 numbers.

    Thousands of operations that take microseconds each wait for the slowest thread every time: no gain on an idle machine, and on
    a busy one, where threads lose their core while the others spin, a hundred times the time. Torch keeps the number per thread:
    other running threads keep theirs.

    Args:
        numbers: in the largest tensors of one kind.
        device: where they are; elsewhere than on the CPU nothing is changed.
    """
    before = torch.get_num_threads()
    if device.type != "cpu" or numbers > _SMALL or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
