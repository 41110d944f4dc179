"""The user's callback of a call: the tensors it is handed, and what is taken over from it."""

from collections.abc import Callable, Sequence
from typing import Any

from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from jog3r.pipelines.captions import CaptionBatch

Callback = Callable[..., dict[str, Any] | None]


def callback_inputs(callback: Callback | None, names: Sequence[str] | None) -> list[str]:
    """Which tensors a callback gets: the names given (None: none), or those that a callback of diffusers names itself."""
    if isinstance(callback, PipelineCallback | MultiPipelineCallbacks):
        return list(dict.fromkeys(callback.tensor_inputs))
    return list(names or [])


def bind_callback(
    pipe: Any, callback: Callback | None, names: Sequence[str], captions: CaptionBatch
) -> Callable[[int, Tensor, Tensor], Tensor] | None:
    """The user's callback as the sampling loop calls it: hands tensors out and takes changed ones in."""
    if callback is None:
        return None

    def on_step_end(step: int, t: Tensor, latents: Tensor) -> Tensor:
        tensors = {name: latents if name == "latents" else getattr(captions, name) for name in names}
        changed = callback(pipe, step, t, dict(tensors)) or {}
        own = {name: value for name, value in tensors.items() if name != "latents"}
        captions.update(own | {name: value for name, value in changed.items() if name in CaptionBatch.names})
        return changed.get("latents", latents)

    return on_step_end
