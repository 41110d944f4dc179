"""What a preparation is going to do, as far as it is data: numbers of captions, names of models, and how much is expected."""

import hashlib
from pathlib import Path
from typing import Any

from jog3r.data.source import ClipSource
from jog3r.training.preparation.survey import Survey, cache_bytes, free_bytes

__all__ = ["expectation", "hash_texts", "model_names", "number_captions"]


def number_captions(source: ClipSource) -> tuple[list[tuple[int, int]], list[str]]:
    """Caption numbers (forward, backward) of every video, and the distinct texts in order of first use.

    A video without caption gets (-1, -1); it is skipped, with its reason, when it is its turn.
    """
    numbers: dict[str, int] = {}
    ids = []
    for index in range(len(source.names)):
        try:
            pair = source.captions(index)
        except ValueError:
            ids.append((-1, -1))
            continue
        forward, backward = (numbers.setdefault(text.lower().strip(), len(numbers)) for text in pair)
        ids.append((forward, backward))
    return ids, list(numbers)


def hash_texts(texts: list[str]) -> str:
    """SHA-256 of texts in their order."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def model_names(models: dict[str, tuple[str, Any]]) -> dict[str, str]:
    """Names and, for the hub's, revisions of models: for people; the hashes in the plan are what is compared.

    Args:
        models: part -> folder or hub repository, and the model loaded from there.
    """
    names = {}
    for part, (place, model) in models.items():
        revision = getattr(model.config, "_commit_hash", None)
        name = Path(place).name if Path(place).exists() else place  # of a folder only its own name: the rest is this machine's
        names[part] = name if revision is None else f"{name}@{revision}"
    return names


def expectation(survey: Survey, plan: dict[str, Any], seconds_a_frame: float, processes: int, folder: Path) -> str:
    """Videos, frames, bytes and hours that a survey lets expect, in one line."""
    size = cache_bytes(survey.num_frames, tuple(plan["latent_shape"]), (plan["height"], plan["width"])) / 1e9
    untold = f", beside those of {survey.num_untold} videos of which only reading tells" if survey.num_untold else ""
    hours = survey.num_frames * seconds_a_frame / 3600 / processes
    return (
        f"to do: {survey.looked_at - len(survey.missing)} videos, {survey.num_frames} frames{untold}; at most {size:.2f} GB "
        f"beside the captions ({free_bytes(folder) / 1e9:.2f} GB are free); about {hours:.2f} hours at {seconds_a_frame:.3f} s a "
        f"frame for VAE and depth, processes: {processes}"
    )
