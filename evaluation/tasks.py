"""The tasks of an evaluation: video to cameras, and text to video with cameras; each exports, then scores."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from jog3r import __version__
from jog3r.data import Clip
from jog3r.evaluation import scoring
from jog3r.evaluation.caption_checks import parse_caption
from jog3r.evaluation.clips.clip_sets import ClipSet
from jog3r.evaluation.clips.given_cameras import GivenCameras
from jog3r.evaluation.exporting import NetworkCameras, TrackCameras, cameras_of_clips, export, geometry_arrays, readable, to_uint8
from jog3r.evaluation.judges.judging import Judge, JudgedRow, judge_rows, sanity_rows
from jog3r.evaluation.judges.renderer_judge import RendererJudge, redraw
from jog3r.evaluation.networks.features import FeatureNetwork
from jog3r.evaluation.networks.i3d import VideoFeatures
from jog3r.evaluation.networks.text_network import TextNetwork
from jog3r.evaluation.networks.torchscript import PictureNetwork, ScriptedVideoNetwork
from jog3r.evaluation.predictions import Predictions, StoredPredictions, item_key, pipeline_hash
from jog3r.evaluation.processes import Processes
from jog3r.evaluation.statistics.distances import by_video
from jog3r.evaluation.statistics.per_clip import Samples

__all__ = ["DistanceNetwork", "Plan", "text_to_video", "video_to_cameras"]

logger = logging.getLogger(__name__)
# between the seeds of one caption; the first keeps seed + k. Keys of windows lie a million apart: there the step leads past them
_NEXT_SEED, _NEXT_SEED_OF_WINDOWS = 1_000_003, 1_000_000_000_003

Arrays = dict[str, np.ndarray]
DistanceNetwork: TypeAlias = FeatureNetwork | VideoFeatures | PictureNetwork | ScriptedVideoNetwork


@dataclass(frozen=True)
class Plan:
    """How an evaluation is carried out.

    Attributes:
        seed: clip k uses seed + k.
        seeds: videos of each caption.
        batch_size: clips at once.
        sampling: arguments of the text-to-video call.
        features: feature network for `met3r_self` and a distance to real clips; None: colours, no distance.
        networks: further ones, for distances alone: Inception, I3D.
        text_network: for the agreement of videos with their captions; None: none.
        processes: those that share the work.
        judge: looks at generated videos.
        sanity_clips: real clips on which the judge is judged.
    """

    seed: int = 0
    seeds: int = 1
    batch_size: int = 1
    sampling: Mapping[str, Any] = field(default_factory=dict)
    features: FeatureNetwork | None = None
    networks: Sequence[DistanceNetwork] = ()
    text_network: TextNetwork | None = None
    processes: Processes = field(default_factory=Processes)
    judge: Judge | None = None
    sanity_clips: int = 8


@dataclass(frozen=True)
class _Video:
    """A video to be made: the place of its caption, the number of that for good, and which of the caption's videos it is."""

    caption: int
    number: int
    repeat: int
    next_seed: int = _NEXT_SEED

    @property
    def key(self) -> str:
        """Name of its file."""
        return item_key(self.number, self.repeat)

    @property
    def seed(self) -> int:
        """To be added to the evaluation's."""
        return self.number + self.next_seed * self.repeat


def videos_of(numbers: Sequence[int], repeats: int, several_windows: bool) -> list[_Video]:
    """`repeats` videos of each caption, no two with one key or one seed; `numbers` of the captions as `ClipSet.keys`."""
    step = _NEXT_SEED_OF_WINDOWS if several_windows else _NEXT_SEED
    return [_Video(k, number, repeat, step) for k, number in enumerate(numbers) for repeat in range(repeats)]


def video_to_cameras(
    method: NetworkCameras | TrackCameras | GivenCameras, clips: ClipSet, out: str | Path, plan: Plan
) -> dict[str, Any] | None:
    """Cameras of clips against the true ones; what `evaluate_v2c` returns. None in all processes but the first."""
    predictions: Sequence[Arrays]
    config: dict[str, Any] = {"task": "v2c", "jog3r": __version__, "seed": plan.seed, "clips": clips.describe()}
    if isinstance(method, GivenCameras):
        config |= {"cameras": "given predictions", "call": {}, "predictions": method.place}
        store = Predictions(out, config)
        clips, kept = readable(clips, range(len(clips)))
        predictions = given = method.of(kept)
        given.check()
        store.keep_config()
    else:
        config |= method.describe()
        store = Predictions(out, config)
        keys = [item_key(key) for key in clips.keys]
        # tracks may fail alike on clips that have nothing to follow; a network that does was called wrongly
        strict = isinstance(method, NetworkCameras)
        predict = cameras_of_clips(method, clips, plan.seed)
        export(store, keys, predict, "video to cameras", plan.processes, plan.batch_size if strict else 1, strict)
        plan.processes.wait()
        clips, kept = readable(clips, [k for k, key in enumerate(keys) if store.missing([key])])
        predictions = store.stored([keys[k] for k in kept])
    if not plan.processes.first:
        return None
    result = scoring.score_v2c(predictions, clips, scoring.Items(clips.videos, range(len(clips)), clips.owners))
    result["settings"] = _settings(config, clips)
    result["errors"] = [*error_lines(predictions, clips.names), *(f"left out: {line}" for line in clips.left_out)]
    result["timings"] = _timings(predictions)
    return result


def text_to_video(
    pipeline: Any, captions: Sequence[str], clips: ClipSet | None, out: str | Path, plan: Plan, call: dict[str, Any]
) -> dict[str, Any] | None:
    """Videos from captions; what `evaluate_t2vc` returns. None in all processes but the first.

    Args:
        pipeline: a `Jog3rPipeline`.
        captions: one a clip.
        clips: the real ones; None: there are none.
        out: folder; predictions go to its `t2vc` and `real`.
        plan: how.
        call: arguments of both calls; `both_directions` goes to V2C alone.
    """
    sampling, method = dict(plan.sampling), NetworkCameras(pipeline, call)
    common = {"jog3r": __version__, "weights": pipeline_hash(pipeline), "seed": plan.seed, "call": call}
    # Captions of a source follow from its clips, so that more can be added; others are listed.
    given = list(captions) if clips is None or not clips.has_captions else clips.describe()
    config = {"task": "t2vc", **common, "sampling": sampling, "captions": given}
    store = Predictions(Path(out) / "t2vc", config)
    windows = clips is not None and clips.several_windows
    videos = videos_of(range(len(captions)) if clips is None else clips.keys, plan.seeds, windows)
    arguments = {**sampling, **{k: v for k, v in call.items() if k != "both_directions"}}

    def generate(batch: Sequence[int]) -> list[Arrays]:
        texts = [captions[videos[item].caption] for item in batch]
        return _generate(method, texts, [plan.seed + videos[item].seed for item in batch], arguments)

    export(store, [video.key for video in videos], generate, "text to video with cameras", plan.processes, plan.batch_size)
    real: Sequence[Arrays] = []
    of_real = None if clips is None else Predictions(Path(out) / "real", {"task": "real", **common, "clips": clips.describe()})
    if clips is not None and of_real is not None:
        _export_real(method, clips, of_real, plan)
    judge, redrawn = plan.judge, None
    if isinstance(judge, RendererJudge) and clips is not None:
        judge = replace(judge, clips=clips)
        redrawn = _export_redrawn(
            pipeline, clips, judge.level, Predictions(Path(out) / "redrawn", {**config, **judge.describe()}), plan
        )
    plan.processes.wait()
    if clips is not None and of_real is not None:
        real_keys = [item_key(key) for key in clips.keys]
        clips, kept = readable(clips, [k for k, key in enumerate(real_keys) if of_real.missing([key])])
        real = of_real.stored([real_keys[k] for k in kept])
        if len(kept) < len(captions):  # what a caption without its real clip was given is not scored either
            captions, place = [captions[k] for k in kept], {k: place for place, k in enumerate(kept)}
            videos = [replace(video, caption=place[video.caption]) for video in videos if video.caption in place]
    generated = store.stored([video.key for video in videos])
    owners = [video.caption for video in videos]
    names = [str(k) for k in range(len(captions))] if clips is None else clips.names
    items = scoring.Items(names, owners) if clips is None else scoring.Items(clips.videos, owners, clips.owners)
    judged = None
    if judge is not None:
        row = _row_of_videos(videos, generated, redrawn, items, windows)
        rows = [row, *_rows_of_clips(real, clips, items, plan.sanity_clips)]
        judged = judge_rows(judge, rows, items.names, Path(out) / "judge", {"videos": config}, plan.processes)
    if not plan.processes.first:
        return None
    _check_captions(generated, [captions[k] for k in owners])
    result = _score(generated, real, clips, captions, items, plan)
    result["settings"] = {
        **_settings(config, clips, len(captions)),
        **({} if plan.seeds == 1 else {"videos a caption": plan.seeds}),
        **sampling,
        "features": "colours" if plan.features is None else plan.features.name,
    }
    labels = [names[video.caption] + (f" seed {video.repeat}" if video.repeat else "") for video in videos]
    left_out = [] if clips is None else [f"left out: {line}" for line in clips.left_out]
    result["errors"] = [*error_lines(generated, labels), *left_out]
    result["timings"] = _timings(generated)
    if judged is not None:
        result["judge"], judge_samples = judged
        result["samples"].add_all("judge", judge_samples)
    return result


def _row_of_videos(
    videos: Sequence[_Video],
    generated: StoredPredictions,
    redrawn: StoredPredictions | None,
    items: scoring.Items,
    several_windows: bool,
) -> JudgedRow:
    """For a judge: what was made; of clips that were drawn anew, which have no cameras of the model, these."""
    # earlier verdicts on windows were filed by seeds that several videos shared
    content = {"verdicts": "by video"} if several_windows else {}
    numbers, keys = [video.seed for video in videos], [video.key for video in videos]
    if redrawn is None:
        made = JudgedRow("generated", lambda k: generated[k].get("frames"), items.drawn, generated, content)
    else:
        made = JudgedRow("redrawn", lambda k: redrawn[k].get("frames"), items.drawn)
    return replace(made, numbers=numbers, keys=keys)


def _rows_of_clips(real: Sequence[Arrays], clips: ClipSet | None, items: scoring.Items, sanity_clips: int) -> list[JudgedRow]:
    """For a judge: real clips, if there are any, through the same decoder, and the sanity rows."""
    if clips is None:
        return []
    count = min(len(clips), sanity_clips)
    name, owners = "real through the VAE", items.of_clips(len(real))
    decoded = JudgedRow(name, lambda k: real[k].get("frames"), owners, numbers=clips.keys)
    sanity = sanity_rows(lambda k: clips[k].frames, clips.keys[:count])
    return [decoded, *(replace(row, owners=items.of_clips(count)) for row in sanity)]


def _score(
    generated: StoredPredictions,
    real: Sequence[Arrays],
    clips: ClipSet | None,
    captions: Sequence[str],
    items: scoring.Items,
    plan: Plan,
) -> dict[str, Any]:
    """All tables."""
    samples = Samples(items.names)
    true: Sequence[Clip] = [] if clips is None else clips
    attributes = _attributes(captions)
    text = plan.text_network
    agreement = {} if text is None else scoring.score_text_agreement(generated, real, captions, text.agreement, items, samples)
    networks = [network for network in (plan.features, *plan.networks) if network is not None and real]
    samples.keep_captions(captions, items.of_clips(len(captions)))
    result = {
        "closed_loop": scoring.score_closed_loop(generated, items, samples),
        "captions": {} if attributes is None else scoring.score_captions(generated, real, true, attributes, items, samples),
        "text agreement": {} if text is None else {text.name: agreement},
        "consistency": scoring.score_consistency(generated, real, true, plan.features and plan.features.dense, items, samples),
        "distributions": {network.name: _distances(generated, real, network, items, samples) for network in networks},
        "samples": samples,
    }
    for path in samples.ratios:
        if path.startswith("text/") and text is not None:
            samples.measured_by[path, ""] = text.name
        elif path.startswith("consistency/"):
            samples.measured_by[path, "met3r_self"] = "colours" if plan.features is None else plan.features.name
    return result


def _generate(method: NetworkCameras, texts: list[str], seeds: list[int], arguments: dict[str, Any]) -> list[Arrays]:
    """A video of each text with its geometry, and what V2C finds in it."""
    started = time.perf_counter()
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    prompt, generator = (texts, generators) if len(texts) > 1 else (texts[0], generators[0])
    output = method.pipeline(prompt=prompt, task="t2v+c", generator=generator, output_type="np", **arguments)
    made = [{"frames": to_uint8(output.frames[place]), **geometry_arrays(output, place)} for place in range(len(texts))]
    seconds = np.array((time.perf_counter() - started) / len(texts))
    again = method.find([arrays["frames"] for arrays in made], seeds)
    return [
        {**arrays, "seconds": seconds, "caption": np.array(text), **{f"v2c_{name}": value for name, value in found.items()}}
        for arrays, text, found in zip(made, texts, again, strict=True)
    ]


def _export_real(method: NetworkCameras, clips: ClipSet, store: Predictions, plan: Plan) -> None:
    """Real clips through the VAE and back, and V2C of the clips themselves."""
    pipeline = method.pipeline

    def predict(batch: Sequence[int]) -> list[Arrays]:
        frames = [clips[k].frames for k in batch]
        with torch.no_grad():
            decoded = to_uint8(pipeline.through_vae(np.stack(frames), "np"))
        found = method.find(frames, [plan.seed + clips.keys[k] for k in batch])
        return [{"frames": decoded[place], **{f"v2c_{n}": v for n, v in arrays.items()}} for place, arrays in enumerate(found)]

    keys = [item_key(key) for key in clips.keys]
    export(store, keys, predict, "real clips", plan.processes, plan.batch_size)


def _export_redrawn(pipeline: Any, clips: ClipSet, level: float, store: Predictions, plan: Plan) -> StoredPredictions:
    """Clips that the model draws anew from a middle level of noise, for the renderer as judge."""

    def predict(batch: Sequence[int]) -> list[Arrays]:
        frames, captions = np.stack([clips[k].frames for k in batch]), [clips.caption(k) for k in batch]
        seeds = [plan.seed + clips.keys[k] for k in batch]
        return [{"frames": to_uint8(video)} for video in redraw(pipeline, frames, captions, seeds, level, dict(plan.sampling))]

    keys = [item_key(key) for key in clips.keys]
    export(store, keys, predict, "clips drawn anew", plan.processes, plan.batch_size)
    return store.stored(keys)


def _check_captions(generated: StoredPredictions, captions: Sequence[str]) -> None:
    for k, caption in enumerate(captions):
        made = generated.text(k, "caption")
        if made not in (None, caption):
            raise ValueError(
                f"prediction {generated.keys[k]} was made for the caption {made!r}, not for {caption!r}: give another folder"
            )


def _attributes(captions: Sequence[str]) -> list[dict[str, Any]] | None:
    """What the captions ask for; None (with a warning) if one of them is not of the procedural grammar."""
    try:
        return [parse_caption(caption) for caption in captions]
    except ValueError as error:
        logger.warning("captions are not checked for being followed: %s", error)
        return None


def _distances(
    generated: Sequence[Mapping], real: Sequence[Mapping], network: DistanceNetwork, items: scoring.Items, samples: Samples
) -> dict[str, Any]:
    """Both sets went through the same decoder: real clips as the VAE gives them back. A video counts with all its clips."""
    own, true = (
        [None if "error" in item else np.atleast_2d(network.clip(item["frames"])) for item in stored]
        for stored in (generated, real)
    )
    failed = sum(found is None for found in own)
    if len(own) - failed < 2 or sum(found is not None for found in true) < 2:
        return {}
    videos, count, seeds = items.of_clips(len(real)), len(items.names), len(generated) // len(real)
    by_seed = [by_video(own[seed::seeds], videos, count) for seed in range(seeds) if any(x is not None for x in own[seed::seeds])]
    samples.features[network.name] = (np.concatenate(by_seed, axis=1), by_video(true, videos, count))  # the first seed first
    if any(np.isfinite(features).all(-1).any(1).sum() < 2 for features in samples.features[network.name]):
        return {}
    rows = scoring.score_distributions(*samples.features[network.name])
    return {name: {**row, "failed": 0 if "floor, " in name else failed} for name, row in rows.items()}


def _settings(config: Mapping[str, Any], clips: ClipSet | None, count: int | None = None) -> dict[str, Any]:
    """What decides the figures, on one line."""
    described: dict[str, Any] = {} if clips is None else {k: v for k, v in clips.describe().items() if k != "sha256"}
    described |= {"V2C": "both directions"} if config["call"].get("both_directions") else {}
    registration = config["call"].get("registration_kwargs", {})
    described |= {f"registration {name}": value for name, value in registration.items() if (name, value) != ("method", "fast")}
    named = {name: config[name] for name in ("cameras", "weights") if name in config}
    described |= {"pixel_aspect": config["call"]["pixel_aspect"]} if "pixel_aspect" in config["call"] else {}
    numbers = {"N": count if clips is None else len(clips)}
    if clips is not None and len(clips.videos) != len(clips):
        numbers["videos"] = len(clips.videos)
    if clips is not None and clips.left_out:
        numbers["left out"] = len(clips.left_out)
    if clips is not None and clips.other_pixels:
        numbers["clips with other pixels than the list's"] = len(clips.other_pixels)
    return {**numbers, **described, "seed": config["seed"], **named, "jog3r": config["jog3r"]}


def _timings(predictions: Sequence[Mapping[str, np.ndarray]]) -> dict[str, float]:
    seconds = [float(item["seconds"]) for item in predictions if "seconds" in item]
    return {"seconds a clip (median)": float(np.median(seconds)) if seconds else float("nan")}


def error_lines(predictions: Sequence[Mapping[str, np.ndarray]], names: Sequence[str]) -> list[str]:
    """Clips without a prediction, and frames without a pose."""
    lines = []
    for name, item in zip(names, predictions, strict=True):
        if "error" in item:
            lines.append(f"clip {name}: {item['error']}")
        for prefix, title in (("", ""), ("v2c_", "V2C: ")):
            lost = np.flatnonzero(~scoring.known_poses(item, prefix)).tolist()
            if lost:
                words = sorted({str(item[f"{prefix}degenerate"][frame]) for frame in lost})
                lines.append(f"clip {name}: {title}no pose for frames {', '.join(map(str, lost))} ({'; '.join(words)})")
    return lines
