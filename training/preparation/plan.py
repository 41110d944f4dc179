"""What a preparation is going to do, as far as it is data: numbers of captions, names of models, and how much is expected."""

from pathlib import Path
from typing import Any

from jog3r.data.cache import part_name
from jog3r.data.source import ClipSource
from jog3r.training.preparation.survey import Survey, cache_bytes, free_bytes

__all__ = ["expectation", "model_names", "number_captions", "summary"]


def number_captions(source: ClipSource, lower: bool = True) -> tuple[list[tuple[int, int]], list[str]]:
    """Caption numbers (forward, backward) of every video, and the distinct texts in order of first use.

    With `lower` they come in small letters, as OpenSora's text encoder reads them. A video without caption gets (-1, -1); it is
    skipped, with its reason, when it is its turn.
    """
    numbers: dict[str, int] = {}
    ids = []
    for index in range(len(source.names)):
        try:
            pair = source.captions(index)
        except ValueError:
            ids.append((-1, -1))
            continue
        forward, backward = (numbers.setdefault((text.lower() if lower else text).strip(), len(numbers)) for text in pair)
        ids.append((forward, backward))
    return ids, list(numbers)


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
    videos, num_frames = survey.looked_at - len(survey.missing), survey.num_frames
    untold = f", beside those of {survey.num_untold} videos of which only reading tells" if survey.num_untold else ""
    if windows := plan.get("windows"):
        num_frames, untold = videos * windows["per_video"] * windows["num_frames"], ""
    size = cache_bytes(num_frames, tuple(plan["latent_shape"]), (plan["height"], plan["width"])) / 1e9
    hours = num_frames * seconds_a_frame / 3600 / processes
    return (
        f"to do: {videos} videos, {num_frames} frames{untold}; at most {size:.2f} GB "
        f"beside the captions ({free_bytes(folder) / 1e9:.2f} GB are free); about {hours:.2f} hours at {seconds_a_frame:.3f} s a "
        f"frame for VAE and depth, processes: {processes}"
    )


def summary(clips: list[dict[str, Any]], captions: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the report and the manifest say of the shards, whose indices these are, in their order."""
    videos = {part_name("clips", number): part["videos"] for number, part in enumerate(clips) if part["bytes"]}
    kept = ("name", "num_frames", "caption_ids")  # what training reads; the rest is for the report
    facts = [{name: value for name, value in video.items() if name not in kept[1:]} for part in videos.values() for video in part]
    shards = {part_name("clips", number): part for number, part in enumerate(clips)}
    shards |= {part_name("captions", number): part for number, part in enumerate(captions)}
    return {"depth_and_cameras": facts}, {
        "clips": {part: [{name: video[name] for name in kept} for video in content] for part, content in videos.items()},
        "files": {
            f"{name}.parquet": {"bytes": part["bytes"], "sha256": part["sha256"]}
            for name, part in shards.items()
            if part["bytes"]
        },
    }
