"""Loop 2: scores from stored predictions and true clips. Nothing here runs a model, but for an optional feature network."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from jog3r.data import Clip
from jog3r.evaluation.baselines import constant_poses, forward_poses, shuffled_pairs
from jog3r.evaluation.caption_checks import NUM_SHUFFLES as CAPTION_SHUFFLES
from jog3r.evaluation.caption_checks import DetectedColours, agreement_counts, classify_motion, detect_colours
from jog3r.evaluation.consistency import FeatureFunction, met3r_self, warp_error
from jog3r.evaluation.statistics.distances import DISTANCES, distance_figure, floor_figures
from jog3r.evaluation.statistics.intervals import Figure, figure, quotient
from jog3r.evaluation.statistics.per_clip import Samples
from jog3r.evaluation.statistics.pose_figures import pose_figures
from jog3r.geometry.camera_metrics import PoseErrors, failed_pose_errors, masks_of_bins, pose_errors
from jog3r.geometry.cameras import transform, unproject
from jog3r.geometry.registration.degeneracy import pose_known

METHODS = ("model", "constant pose", "always forward")
RELATIVES: tuple[Literal["first", "all"], ...] = ("first", "all")
BASELINE: Literal["baseline"] = "baseline"
MOTION: Literal["motion_deg"] = "motion_deg"
NUM_BINS = 4
_DELTA = 1.25  # the field's share of good depth
WARP_QUOTIENT = "warp error over no-warp error"  # in `Samples`
NUM_SHUFFLES = 5

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Items:
    """What is scored: predictions in order, clip by clip; a clip may have several, one a seed.

    Attributes:
        names: of the videos, which intervals draw: windows of one video are not independent.
        owners: which clip each prediction is of.
        videos: which video each clip is of; None: each is of its own.
    """

    names: Sequence[str]
    owners: Sequence[int]
    videos: Sequence[int] | None = None

    @property
    def drawn(self) -> list[int]:
        """Which video each prediction is of."""
        return [owner if self.videos is None else self.videos[owner] for owner in self.owners]

    def of_clips(self, count: int) -> Sequence[int]:
        """Which video each of the first `count` clips is of."""
        return range(count) if self.videos is None else self.videos[:count]

    @classmethod
    def one_each(cls, count: int) -> "Items":
        """A prediction a clip, clips named by number."""
        return cls([str(k) for k in range(count)], range(count))


def score_v2c(predictions: Sequence[Arrays], clips: Sequence[Clip], items: Items | None = None) -> dict[str, Any]:
    """Pose figures of predicted cameras beside the two baselines, overall and in bins, and geometry figures.

    Predictions and clips are read one by one, so that they may be many.

    Args:
        predictions: `poses (F,4,4)` of each clip, optionally `intrinsics (F,3,3)` and `depth (F,H,W)`, or `error`; optionally
            `degenerate` (F,), see `Registration.degenerate`: pairs with a frame that has no pose count as 180 degrees.
        clips: the true ones, in the same order.
        items: whose they are; windows of one video are one clip of the intervals. None: a clip each.

    Returns:
        Tables of figures with intervals over clips, and `samples`, what each clip contributed.
    """
    items = Items.one_each(len(clips)) if items is None else items
    samples = Samples(items.names)
    errors: dict[str, dict[str, list[PoseErrors]]] = {r: {name: [] for name in METHODS} for r in RELATIVES}
    geometry: list[tuple[float, float, float]] = []
    for prediction, clip in zip(predictions, clips, strict=True):
        true = clip.poses
        for relative in RELATIVES:
            found = _prediction_errors(prediction, true, relative)
            still, ahead = (pose_errors(make(len(true)), true, relative) for make in (constant_poses, forward_poses))
            for name, error in zip(METHODS, (found, still, ahead), strict=True):
                errors[relative][name].append(error)
        geometry.append(_geometry_errors(prediction, clip))
    result: dict[str, Any] = {"samples": samples}
    for relative in RELATIVES:
        result[relative] = {
            name: samples.add_poses(f"{relative}/{name}", found, items.drawn) for name, found in errors[relative].items()
        }
    for key, by in (("by_baseline", BASELINE), ("by_motion", MOTION)):
        result[key] = {name: _by_bin(found, by, items.drawn) for name, found in errors["first"].items()}
    result["ratios"] = {
        "rotation_over_constant": _over(samples, "rotation_deg", "first/model", "first/constant pose"),
        "translation_over_forward": _over(samples, "translation_deg", "first/model", "first/always forward"),
    }
    focal, depth, close = np.array(geometry).T
    failed = sum(error.failed for error in errors["first"]["model"])
    result["geometry"] = {
        "focal error %": samples.add_means("geometry", "focal error %", focal, items.drawn),
        "depth AbsRel % (one scale a clip)": samples.add_means("geometry", "depth AbsRel %", depth, items.drawn),
        "depth delta < 1.25 %": samples.add_means("geometry", "depth delta < 1.25 %", close, items.drawn),
        "N": len(geometry) - failed,
        "failed": failed,
    }
    return result


def _prediction_errors(prediction: Arrays, true_poses: np.ndarray, relative: Literal["first", "all"]) -> PoseErrors:
    if "error" in prediction:
        return failed_pose_errors(true_poses, relative)
    return pose_errors(prediction["poses"], true_poses, relative, known=known_poses(prediction))


def _by_bin(errors: Sequence[PoseErrors], by: Literal["baseline", "motion_deg"], owners: Sequence[int]) -> list[dict[str, Any]]:
    """Figures of each bin; edges are quantiles of the true `by`, the same for every method."""
    return [
        {"bin": name, **pose_figures([errors[k].select(mask) for k, mask in masks.items()], [owners[k] for k in masks])}
        for name, masks in masks_of_bins(errors, _quantile_edges(errors, by), by)
    ]


def _over(samples: Samples, name: str, above: str, below: str) -> Figure:
    """A figure of one table over that of another, with the interval of the quotient on the same clips."""
    parts = (samples.statistics(path)[name] for path in (above, below))
    return figure(quotient(*parts), len(samples.clips))


def score_closed_loop(
    predictions: Sequence[Arrays], items: Items | None = None, samples: Samples | None = None
) -> dict[str, Any]:
    """Cameras of T2V+C against V2C of the same generated video, beside strangers' cameras and a camera that stands still.

    Args:
        predictions: `poses` (T2V+C) and `v2c_poses` of each clip, or `error`; optionally `degenerate` and `v2c_degenerate`.
            Failed clips and pairs with a frame that has no pose count as 180 degrees in both rows.
        items: whose they are; None: a clip each.
        samples: where contributions are kept; None: nowhere.
    """
    kept = ("error", "poses", "v2c_poses", "degenerate", "v2c_degenerate")
    cameras = [{name: item[name] for name in kept if name in item} for item in predictions]
    count = len(cameras)
    items = Items.one_each(count) if items is None else items
    samples = Samples(items.names) if samples is None else samples
    num_frames = next((len(item["poses"]) for item in cameras if "error" not in item), 2)
    own = [_loop_errors(item, item, num_frames) for item in cameras]
    strange: list[PoseErrors] = []
    if len(items.names) >= 2:
        for seed in range(NUM_SHUFFLES):
            partner = _strangers(items, seed)
            strange += [_loop_errors(cameras[k], cameras[partner[k]], num_frames) for k in range(count)]
    still = [
        item if "error" in item else {"poses": constant_poses(num_frames), "v2c_poses": item["v2c_poses"]} for item in cameras
    ]
    rows = {
        "own video": samples.add_poses("closed_loop/own video", own, items.drawn),
        "constant pose": samples.add_poses(
            "closed_loop/constant pose",
            [_loop_errors(a, b, num_frames) for a, b in zip(still, cameras, strict=True)],
            items.drawn,
        ),
    }
    ratio: float = float("nan")
    if strange:
        rows["shuffled pairs"] = samples.add_poses("closed_loop/shuffled pairs", strange, [*items.drawn] * NUM_SHUFFLES)
        ratio = _over(samples, "rotation_deg", "closed_loop/own video", "closed_loop/shuffled pairs")
    return {"shuffled pairs": {}, **rows, "rotation_over_shuffled": ratio}


def _strangers(items: Items, seed: int) -> np.ndarray:
    """For each prediction one of another video: the one at the same place among the other's, or its last."""
    of_video: dict[int, list[int]] = {}
    for k, owner in enumerate(items.drawn):
        of_video.setdefault(owner, []).append(k)
    partner = shuffled_pairs(len(of_video), seed)
    found = []
    for k, owner in enumerate(items.drawn):
        others = of_video[partner[owner]]
        found.append(others[min(of_video[owner].index(k), len(others) - 1)])
    return np.array(found)


def score_captions(
    generated: Sequence[Arrays],
    real: Sequence[Arrays],
    clips: Sequence[Clip],
    attributes: Sequence[Mapping[str, Any]],
    items: Items,
    samples: Samples,
) -> dict[str, dict[str, Any]]:
    """Rows of the caption table: generated videos, chance, real clips through the VAE (ceiling) and as rendered.

    Args:
        generated: `frames` uint8 and `v2c_poses` of each item, or `error`.
        real: `frames` after the VAE and `v2c_poses` of the real clips; empty without real clips.
        clips: the real clips, in the same order; empty likewise.
        attributes: what each caption asks for, a clip each.
        items: whose the generated ones are.
        samples: where contributions are kept.
    """

    def row(name: str, found: tuple[list, list], asked: Sequence[Mapping[str, Any]], owners: Sequence[int]) -> dict[str, Any]:
        counts = agreement_counts(*found, asked, range(len(asked)))
        return _caption_row(samples, name, counts, owners)

    asked = [attributes[owner] for owner in items.owners]
    detected = _detect(generated)
    rows = {"generated, motion by V2C": row("generated", detected, asked, items.drawn)}
    if len(items.names) >= 2:  # else there are no other captions
        tables = [agreement_counts(*detected, asked, _strangers(items, seed)) for seed in range(CAPTION_SHUFFLES)]
        by_chance = {name: np.sum([table[name] for table in tables], axis=0) for name in tables[0]}
        rows["chance (other captions)"] = _caption_row(samples, "chance", by_chance, items.drawn)
    if real:
        owners = items.of_clips(len(clips))
        rows["real clips through the VAE, motion by V2C"] = row("real through the VAE", _detect(real), attributes, owners)
    if real and all(clip.valid.any() for clip in clips):  # whose depth tells how far a camera moves
        exact = [(detect_colours(clip.frames), classify_motion(clip.poses, _mean_distance(clip))) for clip in clips]
        rendered = ([colours for colours, _ in exact], [motion for _, motion in exact])
        rows["real clips as rendered, true motion"] = row("real as rendered", rendered, attributes, owners)
    return rows


def score_text_agreement(
    generated: Sequence[Arrays],
    real: Sequence[Arrays],
    captions: Sequence[str],
    agreement: Callable[[np.ndarray, str], float],
    items: Items,
    samples: Samples,
) -> dict[str, dict[str, Any]]:
    """Rows of the table of agreement with texts: generated videos, chance, real clips through the VAE.

    Args:
        generated: `frames` uint8 of each item, or `error`; the failed have no figure.
        real: `frames` after the VAE of the clip of each caption; empty without real clips.
        captions: one a clip.
        agreement: figure of a video's frames (F,H,W,3) and a caption.
        items: whose the generated ones are.
        samples: where contributions are kept.
    """

    def row(name: str, videos: Sequence[Arrays], texts: Sequence[str], owners: Sequence[int]) -> dict[str, Any]:
        values = [
            float("nan") if "error" in video else agreement(video["frames"], text)
            for video, text in zip(videos, texts, strict=True)
        ]
        figure = samples.add_means(f"text/{name}", "agreement", values, owners)
        return {"agreement": figure, "N": int(np.isfinite(values).sum()), "failed": int(np.isnan(values).sum())}

    asked = [captions[owner] for owner in items.owners]
    rows = {"generated": row("generated", generated, asked, items.drawn)}
    if len(items.names) >= 2:
        others = [captions[items.owners[k]] for k in _strangers(items, 0)]
        rows["chance (other captions)"] = row("chance", generated, others, items.drawn)
    if real:
        rows["real clips through the VAE"] = row("real through the VAE", real, captions, items.of_clips(len(real)))
    return rows


def _detect(predictions: Sequence[Arrays]) -> tuple[list[DetectedColours], list[str | None]]:
    found = [(_colours(item), _motion(item)) for item in predictions]
    return [colours for colours, _ in found], [motion for _, motion in found]


def _caption_row(samples: Samples, name: str, counts: Mapping[str, np.ndarray], owners: Sequence[int]) -> dict[str, Figure]:
    n, clips = len(samples.clips), np.asarray(owners)
    return {
        key: samples.add_ratio(f"captions/{name}", key, *(np.bincount(clips, part, n) for part in (100 * top, bottom)))
        for key, (top, bottom) in counts.items()
    }


def score_consistency(
    generated: Sequence[Arrays],
    real: Sequence[Arrays],
    clips: Sequence[Clip],
    features: FeatureFunction | None,
    items: Items | None = None,
    samples: Samples | None = None,
) -> dict[str, dict[str, Any]]:
    """Rows of the consistency table; motion stands in every row. `features` as in `met3r_self`; None: colours.

    Rows with the true geometry stand where the clips have depth. `items` and `samples` as in `score_closed_loop`.
    """
    items = Items.one_each(len(generated)) if items is None else items
    samples = Samples(items.names) if samples is None else samples

    def row(name: str, views: Iterable[Mapping[str, np.ndarray] | None], owners: Sequence[int]) -> dict[str, Any]:
        return _consistency(samples, name, views, features, owners)

    rows = {
        "generated, geometry of T2V+C": row("T2V+C", (_view(item) for item in generated), items.drawn),
        "generated, geometry of V2C": row("V2C", (_view(item, "v2c_") for item in generated), items.drawn),
    }
    if real:
        owners = items.of_clips(len(real))
        rows["real through the VAE, geometry of V2C"] = row("real, V2C", (_view(item, "v2c_") for item in real), owners)
        if all(clip.valid.any() for clip in clips):
            rows["real through the VAE, true geometry"] = row(
                "real, true",
                (None if "error" in item else _true_view(clip, item["frames"]) for item, clip in zip(real, clips, strict=True)),
                owners,
            )
            rows["real as rendered, true geometry"] = row(
                "rendered, true", (_true_view(clip, clip.frames) for clip in clips), owners
            )
    return rows


def score_distributions(generated_features: np.ndarray, real_features: np.ndarray) -> dict[str, dict[str, Any]]:
    """Fréchet and kernel distance of features to real ones, with intervals, and the floor real against real at the same N.

    The floor splits the real clips, so it is at half their number; the distance of generated to real clips at that number stands
    beside it. Fewer than 4 clips have no interval and no floor. All is computed by `statistics.distances`.

    Args:
        generated_features (N,D) or (N,K,D): a vector a clip, or K of its frames, windows and seeds; NaN where there is none.
        real_features (N,D) or (N,K,D): likewise, of the real clips of the same captions.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name, distance in DISTANCES.items():
        rows[name] = {"distance": distance_figure(distance, generated_features, real_features)}
    for name, distance in DISTANCES.items():
        if (found := floor_figures(distance, generated_features, real_features)) is not None:
            short = name.split()[0]
            rows[f"{short} at the floor's N"], rows[f"{short} floor, real against real"] = ({"distance": one} for one in found)
    return rows


def _loop_errors(item: Arrays, other: Arrays, num_frames: int) -> PoseErrors:
    if "error" in item or "error" in other:  # as many pairs as a sound clip has: means go over pairs
        return failed_pose_errors(constant_poses(num_frames))
    return pose_errors(item["poses"], other["v2c_poses"], known=known_poses(item) & known_poses(other, "v2c_"))


def _colours(item: Arrays) -> DetectedColours:
    return DetectedColours(None, None, frozenset(), {}) if "error" in item else detect_colours(item["frames"])


def known_poses(item: Arrays, prefix: str = "") -> np.ndarray:
    """Mask (F,) of a prediction's frames that have a pose; without a word about it (other makers' predictions) all have."""
    flags = item.get(f"{prefix}degenerate")
    if flags is not None:
        return pose_known([str(words) for words in flags]).numpy()
    return np.ones(len(item.get(f"{prefix}poses", ())), dtype=bool)


def _motion(item: Arrays) -> str | None:
    if "error" in item or not known_poses(item, "v2c_").all():
        return None
    return classify_motion(item["v2c_poses"])


def _view(item: Arrays, prefix: str = "") -> dict[str, np.ndarray] | None:
    """Frames and geometry, None of a failed clip; frames without a pose have no depth here, so that their points lie nowhere."""
    if "error" in item:
        return None
    arrays = {name: item[f"{prefix}{name}"] for name in ("depth", "poses", "intrinsics")}
    arrays["depth"] = np.where(known_poses(item, prefix)[:, None, None], arrays["depth"], 0)
    return {"frames": item["frames"], **arrays}


def _true_view(clip: Clip, frames: np.ndarray) -> dict[str, np.ndarray]:
    return {"frames": frames, "depth": clip.depth, "poses": clip.poses, "intrinsics": clip.intrinsics}


def _consistency(
    samples: Samples,
    name: str,
    views: Iterable[Mapping[str, np.ndarray] | None],
    features: FeatureFunction | None,
    owners: Sequence[int],
) -> dict[str, Any]:
    """Means over the clips; those that failed (None), and those in which nothing was warped, are counted and have no figure."""
    rows: list[dict[str, float]] = []
    sound, warps = [], []
    for view, owner in zip(views, owners, strict=True):
        if view is None:
            continue
        depth, poses, intrinsics = (torch.as_tensor(view[name]).float() for name in ("depth", "poses", "intrinsics"))
        points = transform(poses, unproject(depth, intrinsics))  # (F,H,W,3), world = frame 1
        own = met3r_self(view["frames"], points, intrinsics, features, valid=depth > 0)
        warped = warp_error(view["frames"], depth, poses, intrinsics, valid=depth > 0)
        rows.append({"met3r_self": own.score, "visibility": float(own.visibility.mean()), **own.motion})
        warps.append((warped["warp"], warped["no_warp"]))
        sound.append(owner)
    path = f"consistency/{name}"
    figures = {key: samples.add_means(path, key, [row[key] for row in rows], sound) for key in rows[0]} if rows else {}
    if rows:
        figures["warp_ratio"] = samples.add_quotient(path, WARP_QUOTIENT, warps, sound)
    without = sum(not np.isfinite(row["met3r_self"]) for row in rows)
    return {**figures, "N": len(rows), "without score": without, "failed": len(owners) - len(rows)}


def _geometry_errors(prediction: Arrays, clip: Clip) -> tuple[float, float, float]:
    """Focal error, mean absolute relative error of depth after one scale, and pixels less than 1.25 times too far or too near.

    All in percent, over the frames that have a pose; NaN where it is unknown.
    """
    focal = depth = close = float("nan")
    there = np.zeros(0, bool) if "error" in prediction else known_poses(prediction)  # frames without a pose stand for nothing
    if there.any() and "intrinsics" in prediction:
        focal = float(np.abs(prediction["intrinsics"][there, 0, 0] / clip.intrinsics[there, 0, 0] - 1).mean())
    if there.any() and "depth" in prediction:
        known = clip.valid & (prediction["depth"] > 0) & there[:, None, None]
        if known.any():
            scale = np.median(clip.depth[known]) / np.median(prediction["depth"][known])
            relative = prediction["depth"][known] * scale / clip.depth[known]
            depth, close = float(np.abs(relative - 1).mean()), float((np.maximum(relative, 1 / relative) < _DELTA).mean())
    return 100 * focal, 100 * depth, 100 * close


def _mean_distance(clip: Clip) -> float:
    points = unproject(torch.from_numpy(clip.depth[0]), torch.from_numpy(clip.intrinsics[0]))
    return float(points.norm(dim=-1)[torch.from_numpy(clip.valid[0])].mean())


def _quantile_edges(errors: Sequence[PoseErrors], name: str) -> list[float]:
    values = np.concatenate([item[name] for item in errors])
    edges = np.unique(np.quantile(values, np.linspace(0, 1, NUM_BINS + 1)))
    return edges.tolist() if len(edges) > 1 else [float(edges[0]), float(edges[0]) + 1.0]
