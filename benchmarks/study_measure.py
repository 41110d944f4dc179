"""What one run of the study (study.py) is worth: cameras, videos, and what outsiders say of them, clip by clip as JSON values."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from study_runs import Scale
from transformers import ViTConfig, ViTModel

from jog3r import Jog3rPipeline, tiny_checkpoint
from jog3r.data.files import replace_folder
from jog3r.evaluation.caption_checks import classify_motion, parse_caption
from jog3r.evaluation.clips.clip_sets import ProceduralClips
from jog3r.evaluation.evaluate import run_evaluation
from jog3r.evaluation.exporting import NetworkCameras
from jog3r.evaluation.judges.sanity import SANITY_ROWS
from jog3r.evaluation.scoring import known_poses
from jog3r.evaluation.statistics.per_clip import Samples, load_samples
from jog3r.evaluation.statistics.pose_figures import PairErrors
from jog3r.evaluation.tasks import Plan, video_to_cameras
from jog3r.geometry.camera_metrics import failed_pose_errors, pose_errors
from jog3r.pipelines.loading.any_pipeline import load_pipeline

# Tables of `jog3r evaluate` that are kept, under the names that the study gives them.
CAMERAS, VARIED = "cameras", "cameras, varied scenes"
VIDEOS = {"closed_loop/own video": "closed loop", "captions/generated": "captions", "judge/redrawn": "renderer"}
CEILING = {  # of real clips: the same for all runs
    "captions/real through the VAE": "captions", "judge/real through the VAE": "renderer, through the VAE",
    **{f"judge/{name}": f"renderer, {name}" for name in SANITY_ROWS},
}  # fmt: skip
FEATURES = "features"  # of generated videos: a vector a clip
REGISTRATION = {"method": "fast"}


def random_network(folder: Path) -> Path:
    """A small vision transformer of random weights, the fixed eye of the kernel distance; wide ones, so that pictures matter."""
    if not folder.is_dir():
        torch.manual_seed(0)
        config = ViTConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=64, patch_size=8,
            initializer_range=0.3,
        )  # fmt: skip
        replace_folder(folder, ViTModel(config).save_pretrained)
    return folder


def measure_cameras(model: Path, out: Path, scale: Scale, read_at: float | None = None) -> dict[str, Any]:
    """Video to cameras on the test split, and on varied scenes, which nothing was trained on."""
    pipe: Any = load_pipeline(str(model), with_text=False)
    pipe.set_progress_bar_config(disable=True)
    call: dict[str, Any] = {"registration_kwargs": REGISTRATION}
    if read_at is not None:
        call["reconstruction_timestep"] = read_at
    found: dict[str, Any] = {}
    for style, count, name in (("rooms", scale.test_clips, CAMERAS), ("varied", scale.varied_clips, VARIED)):
        clips = ProceduralClips("test", 0, count, scale.frames, scale.size, scale.size, style)
        result = video_to_cameras(NetworkCameras(pipe, call), clips, out / style, Plan()) or {}
        found |= as_values(result["samples"], {"first/model": name})
    return found


def measure_videos(model: Path, out: Path, scale: Scale, ceiling: bool) -> dict[str, Any]:
    """Text to video with cameras: captions, closed loop, the renderer as judge, features for the kernel distance."""
    run_evaluation(
        task="t2vc", model=str(model), out=str(out), videos=scale.captions, num_frames=scale.frames, height=scale.size,
        width=scale.size, num_inference_steps=scale.sampling_steps, judge="renderer", sanity_clips=min(8, scale.captions),
        features=str(random_network(out.parents[1] / "random_network")), batch_size=8,
    )  # fmt: skip
    samples = load_samples(out)["t2vc"]
    return as_values(samples, CEILING if ceiling else VIDEOS) | {FEATURES: _features(samples, real=ceiling)}


def measure_with_reader(videos: Path, scale: Scale, model: Path | None) -> dict[str, Any]:
    """What the bundled model, an outsider to all rows, reads in generated videos.

    Args:
        videos: the folder of their `.npz`, with cameras of text to video with cameras.
        scale: of the study.
        model: whose V2C of the videos is compared instead of these cameras (two stages); None: none.

    Returns:
        "motion": whether the camera moves as the caption says; "agreement": the model's cameras against the reader's.
    """
    reader = NetworkCameras(_quiet(Jog3rPipeline.from_pretrained(tiny_checkpoint())), {"registration_kwargs": REGISTRATION})
    second = None
    if model is not None:
        second = NetworkCameras(_quiet(load_pipeline(str(model), with_text=False)), {"registration_kwargs": REGISTRATION})
    followed, errors = [], []
    for number in range(scale.captions):
        with np.load(videos / f"{number:06d}.npz") as stored:
            item = dict(stored)
        followed.append(0.0)
        if "error" in item:
            errors.append(failed_pose_errors(np.tile(np.eye(4), (scale.frames, 1, 1))))
            continue
        seen = reader.find([item["frames"]], [number])[0]
        own = item if second is None else second.find([item["frames"]], [number])[0]
        known = known_poses(seen)
        if known.all() and classify_motion(seen["poses"]) == parse_caption(str(item["caption"]))["motion"]:
            followed[-1] = 100.0
        errors.append(pose_errors(own["poses"], seen["poses"], known=known & known_poses(own)))
    samples = Samples([str(number) for number in range(scale.captions)])
    samples.add_means("reader", "motion", followed, range(scale.captions))
    samples.add_poses("agreement", errors, range(scale.captions))
    return as_values(samples, {"reader": "reader", "agreement": "agreement"})


def as_values(samples: Samples, names: Mapping[str, str]) -> dict[str, Any]:
    """Tables of samples as JSON values: of cameras the two errors of each pair, clip by clip; of others sums over weights."""
    found: dict[str, Any] = {}
    for path, name in names.items():
        if path in samples.pairs:
            table = samples.pairs[path]
            found[name] = {
                part: [_rounded(getattr(table, part)[table.clip == clip], 1) for clip in range(table.num_clips)]
                for part in ("rotation", "translation")
            }
        elif path in samples.ratios:
            found[name] = {key: [_rounded(top, 2), _rounded(bottom, 2)] for key, (top, bottom) in samples.ratios[path].items()}
    return found


def as_samples(runs: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Samples:
    """Tables of several runs (seeds) on the same clips as one: each clip holds what all runs contributed to it.

    Args:
        runs: of each run its tables, as `as_values` gives them.
        names: of the tables that are wanted; those that no run has are left out.
    """
    count = 0
    pairs: dict[str, PairErrors] = {}
    ratios: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for name in names:
        tables = [run[name] for run in runs if name in run]
        if tables and "rotation" in tables[0] and "translation" in tables[0]:
            pairs[name] = _pairs(tables)
            count = pairs[name].num_clips
        elif tables:
            sums = {key: [np.sum([table[key][part] for table in tables], axis=0) for part in (0, 1)] for key in tables[0]}
            ratios[name] = {key: (top, bottom) for key, (top, bottom) in sums.items()}
            count = len(next(iter(ratios[name].values()))[0])
    samples = Samples([str(number) for number in range(count)])
    samples.pairs, samples.ratios = pairs, ratios
    return samples


def _pairs(tables: Sequence[Mapping[str, Any]]) -> PairErrors:
    """Errors of the pairs of several runs; null is a direction that does not exist."""
    arrays: dict[str, list[np.ndarray]] = {"rotation": [], "translation": [], "clip": []}
    for table in tables:
        for clip, (rotation, translation) in enumerate(zip(table["rotation"], table["translation"], strict=True)):
            arrays["rotation"].append(np.array(rotation, dtype=np.float64))
            arrays["translation"].append(np.array(translation, dtype=np.float64))
            arrays["clip"].append(np.full(len(rotation), clip))
    rotation, translation, clips = (np.concatenate(parts) for parts in arrays.values())
    folded = np.minimum(translation, 180 - translation)
    return PairErrors(rotation, translation, folded, np.ones(len(clips), dtype=bool), clips, len(tables[0]["rotation"]))


def _features(samples: Samples, real: bool) -> list[list[float | None]]:
    """Of each clip the vector of the random network."""
    (pair,) = samples.features.values()
    return [_rounded(vector.ravel(), 3) for vector in pair[int(real)]]


def _rounded(values: np.ndarray, digits: int) -> list[float | None]:
    return [None if not np.isfinite(value) else round(float(value), digits) for value in values]


def _quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe
