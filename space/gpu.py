"""`gpu`: Hugging Face's ZeroGPU decorator where there is ZeroGPU, nothing elsewhere."""

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["gpu"]

Function = TypeVar("Function", bound=Callable[..., Any])


def gpu(duration: int | Callable[..., int]) -> Callable[[Function], Function]:
    """Book a GPU for each call on ZeroGPU, where the package `spaces` is installed.

    Args:
        duration: Seconds, or a function of the call's arguments that returns them.
    """
    try:
        import spaces
    except ImportError:
        return lambda function: function
    return spaces.GPU(duration=duration)
