"""Loop 2: scores from stored predictions and true clips. Nothing here runs a model, but for an optional feature network."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch

from jog3r.data import Clip
from jog3r.evaluation.baselines import constant_poses, forward_poses, shuffled_pairs
from jog3r.evaluation.camera_metrics import PoseErrors, failed_pose_errors, pose_errors, pose_metrics, pose_metrics_by_bin
from jog3r.evaluation.caption_checks import DetectedColours, caption_following, classify_motion, detect_colours
from jog3r.evaluation.consistency import FeatureFunction, met3r_self, warp_error
from jog3r.evaluation.video_metrics import frechet_distance, kernel_distance, real_floor, spread_at_this_size
from jog3r.geometry.cameras import transform, unproject
from jog3r.geometry.registration.degeneracy import pose_known

RELATIVES: tuple[Literal["first", "all"], ...] = ("first", "all")
BASELINE: Literal["baseline"] = "baseline"
MOTION: Literal["motion_deg"] = "motion_deg"
NUM_BINS = 4
NUM_SHUFFLES = 5

Arrays = Mapping[str, np.ndarray]


def score_v2c(predictions: Sequence[Arrays], clips: Sequence[Clip]) -> dict[str, Any]:
    """Pose figures of predicted cameras beside the two baselines, overall and in bins, and geometry figures.

    Args:
        predictions: `poses (F,4,4)`, `intrinsics (F,3,3)`, `depth (F,H,W)` and `seconds` of each clip, or `error`; optionally
            `degenerate` (F,), see `Registration.degenerate`: pairs with a frame that has no pose count as 180 degrees.
        clips: the true ones, in the same order.
    """
    result: dict[str, Any] = {}
    for relative in RELATIVES:
        rows: dict[str, list[PoseErrors]] = {"model": [], "constant pose": [], "always forward": []}
        for prediction, clip in zip(predictions, clips, strict=True):
            true = clip.poses
            rows["model"].append(
                failed_pose_errors(true, relative)
                if "error" in prediction
                else pose_errors(prediction["poses"], true, relative, known=known_poses(prediction))
            )
            rows["constant pose"].append(pose_errors(constant_poses(len(true)), true, relative))
            rows["always forward"].append(pose_errors(forward_poses(len(true)), true, relative))
        result[relative] = {name: pose_metrics(errors) for name, errors in rows.items()}
        if relative == "first":
            for key, by in (("by_baseline", BASELINE), ("by_motion", MOTION)):
                edges = _quantile_edges(rows["model"], by)
                result[key] = {name: pose_metrics_by_bin(errors, edges, by) for name, errors in rows.items()}
    first = result["first"]
    result["ratios"] = {
        "rotation_over_constant": _ratio(first["model"], first["constant pose"], "rotation_deg"),
        "translation_over_forward": _ratio(first["model"], first["always forward"], "translation_deg"),
    }
    result["geometry"] = _geometry_figures(predictions, clips)
    return result


def score_closed_loop(predictions: Sequence[Arrays]) -> dict[str, Any]:
    """Cameras of T2V+C against V2C of the same generated video, beside strangers' cameras and a camera that stands still.

    Args:
        predictions: `poses` (T2V+C) and `v2c_poses` of each clip, or `error`; optionally `degenerate` and `v2c_degenerate`.
            Failed clips and pairs with a frame that has no pose count as 180 degrees in both rows.
    """
    count = len(predictions)
    num_frames = next((len(item["poses"]) for item in predictions if "error" not in item), 2)
    own = [_loop_errors(item, item, num_frames) for item in predictions]
    strange: list[PoseErrors] = []
    if count >= 2:
        for seed in range(NUM_SHUFFLES):
            partner = shuffled_pairs(count, seed)
            strange += [_loop_errors(predictions[k], predictions[partner[k]], num_frames) for k in range(count)]
    still = [
        item if "error" in item else {"poses": constant_poses(num_frames), "v2c_poses": item["v2c_poses"]} for item in predictions
    ]
    rows = {
        "own video": pose_metrics(own),
        "constant pose": pose_metrics([_loop_errors(a, b, num_frames) for a, b in zip(still, predictions, strict=True)]),
    }
    if strange:
        rows["shuffled pairs"] = pose_metrics(strange)
    ratio = _ratio(rows["own video"], rows["shuffled pairs"], "rotation_deg") if strange else float("nan")
    return {"shuffled pairs": {}, **rows, "rotation_over_shuffled": ratio}


def score_captions(
    generated: Sequence[Arrays], real: Sequence[Arrays], clips: Sequence[Clip], attributes: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, float]]:
    """Rows of the caption table: generated videos, chance, real clips through the VAE (ceiling) and as rendered.

    Args:
        generated: `frames` uint8 and `v2c_poses` of each clip, or `error`.
        real: `frames` after the VAE and `v2c_poses` of the real clips; empty without real clips.
        clips: the real clips, in the same order; empty likewise.
        attributes: what each caption asks for.
    """
    detected = caption_following([_colours(item) for item in generated], [_motion(item) for item in generated], attributes)
    rows = {"generated, motion by V2C": detected["followed"], "chance (other captions)": detected["chance"]}
    if real:
        true = [clip.attributes for clip in clips]
        ceiling = caption_following([_colours(item) for item in real], [_motion(item) for item in real], true)
        rows["real clips through the VAE, motion by V2C"] = ceiling["followed"]
        exact = [classify_motion(clip.poses, _mean_distance(clip)) for clip in clips]
        rows["real clips as rendered, true motion"] = caption_following([detect_colours(c.frames) for c in clips], exact, true)[
            "followed"
        ]
    return rows


def score_consistency(
    generated: Sequence[Arrays], real: Sequence[Arrays], clips: Sequence[Clip], features: FeatureFunction | None
) -> dict[str, dict[str, float]]:
    """Rows of the consistency table; motion stands in every row. `features` as in `met3r_self`; None: colours."""
    rows = {
        "generated, geometry of T2V+C": _consistency([None if "error" in item else _view(item) for item in generated], features),
        "generated, geometry of V2C": _consistency(
            [None if "error" in item else _view(item, "v2c_") for item in generated], features
        ),
    }
    if real:
        rows["real through the VAE, geometry of V2C"] = _consistency(
            [None if "error" in item else _view(item, "v2c_") for item in real], features
        )
        rows["real through the VAE, true geometry"] = _consistency(
            [
                None
                if "error" in item
                else {"frames": item["frames"], "depth": clip.depth, "poses": clip.poses, "intrinsics": clip.intrinsics}
                for item, clip in zip(real, clips, strict=True)
            ],
            features,
        )
        rows["real as rendered, true geometry"] = _consistency(
            [{"frames": c.frames, "depth": c.depth, "poses": c.poses, "intrinsics": c.intrinsics} for c in clips], features
        )
    return rows


def score_distributions(generated_features: np.ndarray, real_features: np.ndarray) -> dict[str, dict[str, Any]]:
    """Fréchet and kernel distance of pooled features (N,D) to real ones (M,D), their spread, and the floor real against real.

    The floor splits the real set, so it is at half its size: the distance of as many generated to as many real samples stands
    beside it. A Fréchet distance of fewer than 4 samples has no spread.
    """
    half = len(real_features) // 2
    kernel = kernel_distance(generated_features, real_features)
    size = min(len(generated_features), len(real_features))
    distance: dict[str, Any] = {"value": frechet_distance(generated_features, real_features), "N": size}
    if size >= 4:
        distance["std"] = spread_at_this_size(frechet_distance, generated_features, real_features, num_resamples=50).std
    rows: dict[str, dict[str, Any]] = {
        "Fréchet": distance,
        "kernel (KID)": {"value": kernel.value, "std": kernel.std, "N": kernel.num_samples},
    }
    if half >= 2:
        floor = real_floor(frechet_distance, real_features, half)
        at_half = frechet_distance(generated_features[:half], real_features[:half])
        rows["Fréchet at the floor's N"] = {"value": at_half, "N": half}
        rows["Fréchet floor, real against real"] = {"value": floor.value, "std": floor.std, "N": floor.num_samples}
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


def _view(item: Arrays, prefix: str = "") -> dict[str, np.ndarray]:
    """Frames and geometry; frames without a pose have no depth here, so that their points lie nowhere."""
    arrays = {name: item[f"{prefix}{name}"] for name in ("depth", "poses", "intrinsics")}
    arrays["depth"] = np.where(known_poses(item, prefix)[:, None, None], arrays["depth"], 0)
    return {"frames": item["frames"], **arrays}


def _consistency(views: Sequence[Mapping[str, np.ndarray] | None], features: FeatureFunction | None) -> dict[str, float]:
    """Means over the clips; None for a failed one, which is counted and has no figure."""
    sound = [view for view in views if view is not None]
    rows = []
    for view in sound:
        depth, poses, intrinsics = (torch.as_tensor(view[name]).float() for name in ("depth", "poses", "intrinsics"))
        points = transform(poses, unproject(depth, intrinsics))  # (F,H,W,3), world = frame 1
        own = met3r_self(view["frames"], points, intrinsics, features, valid=depth > 0)
        warped = warp_error(view["frames"], depth, poses, intrinsics, valid=depth > 0)
        rows.append(
            {"met3r_self": own.score, "visibility": float(own.visibility.mean()), **own.motion, "warp_ratio": warped["ratio"]}
        )
    figures = {key: _nanmean([row[key] for row in rows]) for key in rows[0]} if rows else {}
    return {**figures, "N": len(sound), "failed": len(views) - len(sound)}


def _geometry_figures(predictions: Sequence[Arrays], clips: Sequence[Clip]) -> dict[str, float]:
    """Focal error in percent; depth error (mean absolute relative, after one scale a clip) in percent; seconds a clip.

    Failed clips have none of these: they are counted beside them.
    """
    focal, depth, seconds = [], [], []
    for prediction, clip in zip(predictions, clips, strict=True):
        if "error" in prediction:
            continue
        focal.append(np.abs(prediction["intrinsics"][:, 0, 0] / clip.intrinsics[:, 0, 0] - 1).mean())
        known = clip.valid & (prediction["depth"] > 0)
        if known.any():
            scale = np.median(clip.depth[known]) / np.median(prediction["depth"][known])
            depth.append(np.abs(prediction["depth"][known] * scale / clip.depth[known] - 1).mean())
        seconds.append(float(prediction["seconds"]))
    return {
        "focal error %": 100 * _nanmean(focal),
        "focal error median %": 100 * float(np.median(focal)) if focal else float("nan"),
        "depth AbsRel % (one scale a clip)": 100 * _nanmean(depth),
        "seconds a clip (median)": float(np.median(seconds)) if seconds else float("nan"),
        "N": len(seconds),
        "failed": len(predictions) - len(seconds),
    }


def _mean_distance(clip: Clip) -> float:
    points = unproject(torch.from_numpy(clip.depth[0]), torch.from_numpy(clip.intrinsics[0]))
    return float(points.norm(dim=-1)[torch.from_numpy(clip.valid[0])].mean())


def _quantile_edges(errors: Sequence[PoseErrors], name: str) -> list[float]:
    values = np.concatenate([item[name] for item in errors])
    edges = np.unique(np.quantile(values, np.linspace(0, 1, NUM_BINS + 1)))
    return edges.tolist() if len(edges) > 1 else [float(edges[0]), float(edges[0]) + 1.0]


def _ratio(row: Mapping[str, Any], base: Mapping[str, Any], name: str) -> float:
    return float(row[name] / base[name]) if base[name] > 0 else float("nan")


def _nanmean(values: Sequence[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")
