"""The evaluation command: loop 1 exports predictions, loop 2 scores them; tables in Markdown and JSON.

    run_evaluation(task="v2c" | "t2vc" | "all", model="folder or hub id", out="folder", clips=200, captions=64, ...)

is what `jog3r evaluate` calls; every keyword is a field of `EvaluationOptions`, an unknown one is refused. It returns the results
(a dict; `"markdown"` is the report to print) and writes, under `out`:

    v2c/config.json, v2c/000000.npz ...    cameras of held-out procedural clips
    t2vc/config.json, t2vc/000000.npz ...  generated videos with their cameras, and V2C of the same videos
    real/config.json, real/000000.npz ...  the real clips of the same captions through the VAE, and V2C of them (the ceiling)
    results.json, results.md, results.tex  figures with 95 % intervals over clips
    per_clip.npz                           what each clip contributed, for `jog3r evaluate compare`
    timings.json                           seconds, which differ from run to run

Started again with the same options it makes only what is missing; with other options that change predictions it refuses. Clip k
is drawn and sampled with its own seed, `seed + k`: results do not depend on the number of clips or on interruptions.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tqdm.auto import tqdm

from jog3r import __version__
from jog3r.data import Clip
from jog3r.data.procedural import procedural_caption
from jog3r.evaluation import report, scoring
from jog3r.evaluation.caption_checks import parse_caption
from jog3r.evaluation.networks.features import FeatureNetwork, load_features
from jog3r.evaluation.networks.i3d import MIN_FRAMES, VideoFeatures, load_i3d
from jog3r.evaluation.predictions import TEXT_PARTS, Predictions, ProceduralClips, describe_clips, pipeline_hash, write_text
from jog3r.evaluation.statistics.per_clip import Samples, save_samples

logger = logging.getLogger(__name__)

TASKS = ("v2c", "t2vc", "all")
_FEW = 3  # clips that must all fail alike, and first of all, before the call is taken to be wrong


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of `run_evaluation`; checked when made."""

    task: str  # "v2c", "t2vc" or "all"
    model: str  # folder or hub repository of a pipeline
    out: str  # output folder; an earlier one of the same options is resumed
    clips: int = 200  # N of video to cameras
    captions: int = 64  # N of text to video with cameras
    split: Literal["validation", "test"] = "test"  # of the procedural clips; "train" is refused
    first: int = 0  # index of the first clip and caption in the split
    seed: int = 0  # clip k uses seed + k
    num_frames: int | None = None  # None: what the model was made for
    height: int | None = None  # None: what the model was made for
    width: int | None = None  # None: what the model was made for
    num_inference_steps: int = 30  # of the sampling
    guidance_scale: float | None = None  # None: the pipeline's default
    registration: Literal["fast", "reference"] = "fast"  # how cameras are solved for
    smoothness_focal: float = 0.0  # weight of the paper's temporal term of focal lengths, see docs/registration.md
    smoothness_translation: float = 0.0  # weight of the paper's temporal term of translations, see docs/registration.md
    focal_per_frame: bool = False  # a focal length for each frame, not one for all
    both_directions: bool = False  # video to cameras reads each video backwards, too (see `Jog3rPipeline.__call__`)
    features: str | None = None  # folder or hub id of a feature network (DINO); None: met3r_self on colours, no distances with it
    features_sha256: str | None = None  # pinned hash of its weights; a must for a hub id
    fvd: str | None = None  # weights file of I3D; None: no FVD
    fvd_sha256: str | None = None  # pinned hash of that file
    device: str = "cpu"  # where the pipeline runs

    def __post_init__(self) -> None:
        """Turn paths into texts, and refuse what cannot work, also across fields."""
        for name in ("model", "out", "features", "fvd"):
            if isinstance(value := getattr(self, name), os.PathLike):
                object.__setattr__(self, name, os.fspath(value))
        if self.task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, got {self.task!r}")
        if self.registration not in ("fast", "reference"):
            raise ValueError(f"registration must be fast or reference, got {self.registration!r}")
        if min(self.smoothness_focal, self.smoothness_translation) < 0:
            raise ValueError(f"smoothness weights must be >= 0, got {self.smoothness_focal} and {self.smoothness_translation}")
        if self.smoothness_focal > 0 and not self.focal_per_frame:
            raise ValueError("smoothness_focal does nothing with one focal length for all frames: add focal_per_frame")
        if self.split not in ("validation", "test"):
            raise ValueError(f"evaluation is for held-out clips: split must be validation or test, got {self.split!r}")
        if self.clips < 1 or self.captions < 2:
            raise ValueError(
                f"need at least 1 clip and 2 captions (for the shuffled baseline), got {self.clips} and {self.captions}"
            )
        for name in ("features", "fvd"):
            if getattr(self, f"{name}_sha256") is not None and getattr(self, name) is None:
                raise ValueError(f"{name}_sha256 is given without {name}: name the feature network too")
        if Path(self.out).is_file():
            raise NotADirectoryError(f"{self.out} is a file; give a folder")

    def registration_kwargs(self) -> dict[str, Any]:
        """Arguments of `register_pointmaps`; what was left at its default is not named, so that older predictions still fit."""
        named = {name: getattr(self, name) for name in ("smoothness_focal", "smoothness_translation") if getattr(self, name)}
        return {"method": self.registration, **named, **({"shared_focal": False} if self.focal_per_frame else {})}


def run_evaluation(**options: Any) -> dict[str, Any]:
    """Evaluate a model folder; see the top of this file.

    Raises:
        ValueError: an unknown option, a value that cannot work, or a folder made with another configuration.
        NotADirectoryError: `out` is a file.
    """
    known = [field.name for field in fields(EvaluationOptions)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"unknown evaluation option {', '.join(unknown)}; there are {', '.join(known)}")
    config = EvaluationOptions(**options)
    from jog3r.pipelines.loading.any_pipeline import load_pipeline  # here: it brings in diffusers and transformers

    features = None if config.features is None else load_features(config.features, config.features_sha256)
    fvd = None if config.fvd is None else load_i3d(config.fvd, config.fvd_sha256)
    pipeline = load_pipeline(config.model, with_text=config.task != "v2c")
    try:
        pipeline = pipeline.to(config.device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {config.device!r} cannot be used: {str(error).splitlines()[0]}") from error
    if config.task != "v2c" and not hasattr(pipeline, "transformer"):
        raise ValueError(f"{type(pipeline).__name__} generates nothing: evaluate it with task v2c, not {config.task}")
    if config.both_directions and not hasattr(pipeline, "transformer"):
        raise ValueError(f"{type(pipeline).__name__} sees pairs of images: both_directions would change nothing")
    pipeline.set_progress_bar_config(disable=True)
    size = pipeline.output_size(config.num_frames, config.height, config.width)
    if fvd is not None and config.task != "v2c" and size[0] < MIN_FRAMES:
        raise ValueError(
            f"FVD needs clips of at least {MIN_FRAMES} frames, these have {size[0]}: raise num_frames or leave out fvd"
        )
    out = Path(config.out)
    call: dict[str, Any] = {"registration_kwargs": config.registration_kwargs()}
    if config.both_directions:
        call["both_directions"] = True
    results: dict[str, Any] = {"model": config.model, "jog3r": __version__, "torch": torch.__version__}
    blocks: list[report.Block] = [report.Heading(1, f"Evaluation of {config.model}")]
    if config.task in ("v2c", "all"):
        clips = ProceduralClips(config.split, config.first, config.clips, *size)
        results["v2c"] = evaluate_v2c(pipeline, clips, out / "v2c", seed=config.seed, **call)
        blocks += report.v2c_blocks(results["v2c"])
    if config.task in ("t2vc", "all"):
        real = ProceduralClips(config.split, config.first, config.captions, *size)
        captions = [procedural_caption(config.first + k, config.split) for k in range(config.captions)]
        sampling: dict[str, Any] = {"num_inference_steps": config.num_inference_steps}
        sampling.update(dict(zip(("num_frames", "height", "width"), size, strict=True)))
        if config.guidance_scale is not None:
            sampling["guidance_scale"] = config.guidance_scale
        results["t2vc"] = evaluate_t2vc(
            pipeline, captions, out, real, seed=config.seed, features=features, fvd=fvd, sampling=sampling, **call
        )
        blocks += report.t2vc_blocks(results["t2vc"])
    return write_results(results, blocks, out)


def write_results(results: dict[str, Any], blocks: Sequence[report.Block], out: Path) -> dict[str, Any]:
    """Write what a run found; returns the results with the report as `markdown`."""
    tasks = [name for name, value in results.items() if isinstance(value, dict)]
    save_samples(out, {task: results[task]["samples"] for task in tasks})
    timings = {task: results[task].pop("timings") for task in tasks}
    write_text(out / "timings.json", json.dumps(report.as_json(timings), indent=2) + "\n")
    kept = {
        name: {k: v for k, v in value.items() if k != "samples"} if name in tasks else value for name, value in results.items()
    }
    write_text(out / "results.json", json.dumps(report.as_json(kept), indent=2, allow_nan=False) + "\n")
    results["markdown"] = report.markdown(blocks)
    write_text(out / "results.md", results["markdown"])
    write_text(out / "results.tex", report.latex(blocks))
    return results


def evaluate_v2c(pipeline: Any, clips: Sequence[Clip], out: str | Path, *, seed: int = 0, **call: Any) -> dict[str, Any]:
    """Cameras of clips by `task="v2c"`, against the true ones, beside the constant-pose and always-forward baselines.

    Args:
        pipeline: a `Jog3rPipeline`.
        clips: with true poses; `ProceduralClips` draws them when needed.
        out: folder of the predictions; resumed if it holds some of the same configuration.
        seed: clip k uses seed + k.
        call: further arguments of the pipeline's call, JSON values.

    Returns:
        `settings`, `first` and `all` (figures by method, for pairs with the first frame and for all pairs), `by_baseline`,
        `by_motion`, `ratios`, `geometry`, `errors`, `timings`, `samples` (what each clip contributed). A figure is a `Figure`, a
        number with `low`, `high` and `n`.
    """
    # no text is read: with or without a text encoder the predictions are the same
    config = {"task": "v2c", **_common_config(pipeline, seed, call, TEXT_PARTS), "clips": describe_clips(clips)}
    store = Predictions(out, config)

    def predict(k: int) -> dict[str, np.ndarray]:
        return _cameras(pipeline, clips[k].frames, seed + k, call)

    _export(store, len(clips), predict, "video to cameras")
    predictions = store.stored(len(clips))
    result = scoring.score_v2c(predictions, clips)
    result["settings"] = _settings(config, len(clips))
    result["errors"] = _error_lines(predictions)
    result["timings"] = _timings(predictions)
    return result


def evaluate_t2vc(
    pipeline: Any,
    captions: Sequence[str],
    out: str | Path,
    real_clips: Sequence[Clip] | None = None,
    *,
    seed: int = 0,
    features: FeatureNetwork | None = None,
    fvd: VideoFeatures | None = None,
    sampling: Mapping[str, Any] | None = None,
    **call: Any,
) -> dict[str, Any]:
    """Videos with cameras from captions: closed loop, captions followed, consistency, distance to real clips.

    Args:
        pipeline: a `Jog3rPipeline`.
        captions: at least two; only those of the procedural grammar can be checked for being followed.
        out: folder; predictions go to its `t2vc` and `real`.
        real_clips: the real clips of the same captions: the ceiling of every row.
        seed: caption k uses seed + k, for sampling and for V2C.
        features: feature network for `met3r_self` and a distance to real clips; None: colours, no distance.
        fvd: I3D, for FVD.
        sampling: arguments of the text-to-video call.
        call: arguments of both calls; `both_directions` goes to V2C alone.

    Returns:
        `settings`, `closed_loop`, `captions`, `consistency`, `distributions`, `errors`, `timings`, `samples`.
    """
    if len(captions) < 2 or (real_clips is not None and len(real_clips) != len(captions)):
        raise ValueError(
            f"need at least 2 captions and one real clip for each or none, got {len(captions)} captions"
            f" and {None if real_clips is None else len(real_clips)} clips"
        )
    sampling = dict(sampling or {})
    t2vc_call = {name: value for name, value in call.items() if name != "both_directions"}
    common = _common_config(pipeline, seed, call)
    config = {"task": "t2vc", **common, "sampling": sampling, "captions": _described_captions(captions, real_clips)}
    store = Predictions(Path(out) / "t2vc", config)

    def generate(k: int) -> dict[str, np.ndarray]:
        started = time.perf_counter()
        output = pipeline(
            prompt=captions[k], task="t2v+c", generator=_seeded(seed + k), output_type="np", **sampling, **t2vc_call
        )
        frames = _to_uint8(output.frames[0])
        arrays: dict[str, np.ndarray] = {
            "frames": frames,
            "seconds": np.array(time.perf_counter() - started),
            **_geometry(output),
        }
        again = _cameras(pipeline, frames, seed + k, call)
        arrays.update({f"v2c_{name}": value for name, value in again.items()})
        return arrays

    _export(store, len(captions), generate, "text to video with cameras")
    generated = store.stored(len(captions))
    clips: Sequence[Clip] = [] if real_clips is None else real_clips
    real: Sequence[Mapping] = [] if real_clips is None else _export_real(pipeline, real_clips, Path(out) / "real", seed, call)
    attributes = _attributes(captions)
    items = scoring.Items.one_each(len(captions))
    samples = Samples(items.names)
    return {
        "settings": {
            **_settings(config, len(captions)),
            **sampling,
            "features": "colours" if features is None else features.name,
        },
        "closed_loop": scoring.score_closed_loop(generated, items, samples),
        "captions": {} if attributes is None else scoring.score_captions(generated, real, clips, attributes, items, samples),
        "consistency": scoring.score_consistency(generated, real, clips, features and features.dense, items, samples),
        "distributions": {
            network.name: _distances(generated, real, network, samples)
            for network in (features, fvd)
            if network is not None and real
        },
        "errors": _error_lines(generated),
        "timings": _timings(generated),
        "samples": samples,
    }


def _export_real(
    pipeline: Any, clips: Sequence[Clip], folder: Path, seed: int, call: Mapping[str, Any]
) -> Sequence[dict[str, np.ndarray]]:
    """Real clips through the VAE and back, and V2C of the clips themselves."""
    store = Predictions(folder, {"task": "real", **_common_config(pipeline, seed, call), "clips": describe_clips(clips)})

    def predict(k: int) -> dict[str, np.ndarray]:
        with torch.no_grad():
            latents = pipeline.encode_video(pipeline.prepare_video(clips[k].frames, None, None))
            frames = _to_uint8(pipeline.decode_latents(latents, "np")[0])
        cameras = _cameras(pipeline, clips[k].frames, seed + k, call)
        return {"frames": frames, **{f"v2c_{name}": value for name, value in cameras.items()}}

    _export(store, len(clips), predict, "real clips")
    return store.stored(len(clips))


def _export(store: Predictions, count: int, predict: Callable[[int], dict[str, np.ndarray]], title: str) -> None:
    """Loop 1: make and store what is missing. A clip whose geometry breaks down is stored as failed, with the reason.

    In an empty folder early failures are stored only once a clip succeeds. If the first few fail alike, the call is wrong:
    the error is raised and nothing is stored.
    """
    missing = store.missing(range(count))
    held: dict[int, dict[str, np.ndarray]] = {}
    works = len(missing) < count
    for k in tqdm(missing, desc=title, unit="clip", initial=count - len(missing), total=count, disable=not missing):
        try:
            arrays = predict(k)
            broken = [name for name in ("poses", "v2c_poses") if name in arrays and not np.isfinite(arrays[name]).all()]
            if broken:
                arrays = {"error": np.array(f"{', '.join(broken)} not finite")}
        except (ValueError, ArithmeticError, torch.linalg.LinAlgError) as error:
            if not works:
                held[k] = {"error": np.array(str(error))}
                if len(held) == min(_FEW, count) and len({str(item["error"]) for item in held.values()}) == 1:
                    raise
            logger.warning("%s: clip %d failed: %s", title, k, error)
            arrays = {"error": np.array(str(error))}
            if not works and len(held) < min(_FEW, count):
                continue
        works = True
        for index, failure in {**held, k: arrays}.items():
            store.save(index, failure)
        held.clear()


def _cameras(pipeline: Any, frames: np.ndarray, seed: int, call: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """V2C of one clip (F,H,W,3) uint8: poses, intrinsics, depth, seconds."""
    started = time.perf_counter()
    output = pipeline(video=frames, task="v2c", generator=_seeded(seed), output_type="np", **call)
    return {**_geometry(output), "seconds": np.array(time.perf_counter() - started)}


def _geometry(output: Any) -> dict[str, np.ndarray]:
    """Cameras and depth of the only clip, and per frame why its pose deserves no trust."""
    arrays = {name: getattr(output, name)[0].float().cpu().numpy() for name in ("poses", "intrinsics", "depth")}
    return {**arrays, "degenerate": np.array(output.registration[0].degenerate)}


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _to_uint8(frames: np.ndarray) -> np.ndarray:
    return (np.asarray(frames) * 255).round().clip(0, 255).astype(np.uint8)


def _attributes(captions: Sequence[str]) -> list[dict[str, Any]] | None:
    """What the captions ask for; None (with a warning) if one of them is not of the procedural grammar."""
    try:
        return [parse_caption(caption) for caption in captions]
    except ValueError as error:
        logger.warning("captions are not checked for being followed: %s", error)
        return None


def _distances(
    generated: Sequence[Mapping], real: Sequence[Mapping], network: FeatureNetwork | VideoFeatures, samples: Samples
) -> dict[str, Any]:
    """Both sets went through the same decoder: real clips as the VAE gives them back."""
    sets = [[None if "error" in item else network.clip(item["frames"]) for item in items] for items in (generated, real)]
    counts = [sum(found is not None for found in features) for features in sets]
    if min(counts) < 2:
        return {}
    blank = np.full_like(next(found for found in sets[0] if found is not None), np.nan)
    own, true = (np.stack([blank if found is None else found for found in features]) for features in sets)
    samples.features[network.name] = (own[:, None], true[:, None])
    rows = scoring.score_distributions(*(features[np.isfinite(features).all(1)] for features in (own, true)))
    failed = len(generated) - counts[0]
    return {name: {**row, "failed": 0 if "floor, " in name else failed} for name, row in rows.items()}


def _timings(predictions: Sequence[Mapping[str, np.ndarray]]) -> dict[str, float]:
    seconds = [float(item["seconds"]) for item in predictions if "seconds" in item]
    return {"seconds a clip (median)": float(np.median(seconds)) if seconds else float("nan")}


def _common_config(pipeline: Any, seed: int, call: Mapping[str, Any], without: Sequence[str] = ()) -> dict[str, Any]:
    return {"jog3r": __version__, "weights": pipeline_hash(pipeline, without), "seed": seed, "call": dict(call)}


def _described_captions(captions: Sequence[str], clips: Sequence[Clip] | None) -> Any:
    """Procedural captions follow from their clips, so that more can be added; others are listed."""
    return describe_clips(clips) if isinstance(clips, ProceduralClips) else list(captions)


def _settings(config: Mapping[str, Any], count: int) -> dict[str, Any]:
    source = config.get("clips", config.get("captions"))
    described = {key: value for key, value in source.items() if key != "sha256"} if isinstance(source, dict) else {}
    described |= {"V2C": "both directions"} if config["call"].get("both_directions") else {}
    registration = config["call"].get("registration_kwargs", {})
    described |= {f"registration {name}": value for name, value in registration.items() if (name, value) != ("method", "fast")}
    return {"N": count, **described, "seed": config["seed"], "weights": config["weights"], "jog3r": config["jog3r"]}


def _error_lines(predictions: Sequence[Mapping[str, np.ndarray]]) -> list[str]:
    """Clips without a prediction, and frames without a pose."""
    lines = []
    for k, item in enumerate(predictions):
        if "error" in item:
            lines.append(f"clip {k}: {item['error']}")
        for prefix, title in (("", ""), ("v2c_", "V2C: ")):
            lost = np.flatnonzero(~scoring.known_poses(item, prefix)).tolist()
            if lost:
                words = sorted({str(item[f"{prefix}degenerate"][frame]) for frame in lost})
                lines.append(f"clip {k}: {title}no pose for frames {', '.join(map(str, lost))} ({'; '.join(words)})")
    return lines
