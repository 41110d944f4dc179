"""One component of a pipeline, loaded whole or refused: never completed with noise."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError

__all__ = ["TEXT_ENCODER_OPTIONS", "load_whole"]

# transformers reports a wrong shape only if told to go on; a file may hold the decoder, too
TEXT_ENCODER_OPTIONS = {"leftovers": True, "ignore_mismatched_sizes": True, "dtype": "auto"}


def load_whole(kind: Any, source: str | Path, what: str, *, leftovers: bool = False, **options: Any) -> Any:
    """`kind.from_pretrained` that refuses what it would fill with noise (transformers) or leave without values (diffusers).

    Args:
        kind: a model class of diffusers or transformers.
        source: folder or hub repository.
        what: the component's name in errors.
        leftovers: allow weights that no layer takes.
        options: for `from_pretrained`, such as `subfolder`.

    Raises:
        ValueError: weights that are not all there, do not fit the config or are damaged.
    """
    try:
        loaded, report = kind.from_pretrained(source, output_loading_info=True, **options)
    except SafetensorError as error:
        raise ValueError(f"the {what} of {str(source)!r}: a file of weights is damaged or cut off ({error})") from error
    except ValueError as error:
        raise ValueError(f"the {what} of {str(source)!r} cannot be loaded: {error}") from error
    mismatched = [key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]]
    unexpected = [] if leftovers else report["unexpected_keys"]
    faults = (report["missing_keys"], "are missing"), (mismatched, "have another shape than its config says")
    for names, fault in (*faults, (unexpected, "belong to no layer")):
        if names:
            raise ValueError(f"the {what} of {str(source)!r}: {len(names)} weights {fault}, such as {min(names)!r}")
    return loaded
