"""Camera errors: rotation and translation direction between relative poses, and the figures the field prints from them.

Letters: F frames of a clip, P pairs of frames. Angles are in degrees, shares in percent.

Relative pose of a pair (i, j): the pose of camera j in camera i's frame, inv(C_i) @ C_j with C camera-to-world. This is what
VGGT compares (w2c_i @ inv(w2c_j)). PoseDiffusion compares the other direction, the transform that takes points of camera i to
camera j, whose translation lives in camera j's frame: rotation errors are the same, translation errors differ wherever the
rotation is wrong. With `relative="first"` i is always the first frame.

Translation has no scale here, only a direction:
- `translation_deg` is the angle between the two directions, 0 to 180: an opposite translation is wrong by 180.
- `translation_folded_deg` is min(e, 180 - e), as VGGT and PoseDiffusion print it: an opposite translation counts as right.
- A zero translation has no direction: both are NaN. NaN is never below a threshold, and counts as 90 (chance level, what VGGT's
  and PoseDiffusion's code give it) in means and medians, so that a method cannot gain by answering "no motion".
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias

import numpy as np
import torch

from jog3r.geometry.pose_checks import pose_fault

ArrayLike: TypeAlias = np.ndarray | torch.Tensor | Sequence
THRESHOLDS = range(1, 31)  # degrees, of maa@30 and auc@30
CHANCE_DEG = 90.0  # mean angle to a random direction; the value of an undefined one in means
_ABSOLUTE_FLOOR = 1e-12
_VGGT_EPSILON = 1e-15


@dataclass(frozen=True)
class PoseErrors:
    """Errors of one clip, one entry a pair of frames; read as attributes or by name (`errors["rotation_deg"]`).

    Attributes:
        rotation_deg (P,): geodesic angle between the relative rotations, 0 to 180.
        translation_deg (P,): angle between the relative translations, 0 to 180; NaN where one of them is zero.
        translation_folded_deg (P,): the same with the sign ignored, 0 to 90; NaN likewise.
        baseline (P,): length of the true relative translation, in the unit of the true poses; 0 where it counts as zero.
        motion_deg (P,): angle of the true relative rotation.
        failed: the clip has no prediction; every error is the worst possible.
        failed_pair (P,): bool, a frame of the pair has no predicted pose; its errors are the worst possible. None: no pair.
    """

    rotation_deg: np.ndarray
    translation_deg: np.ndarray
    translation_folded_deg: np.ndarray
    baseline: np.ndarray
    motion_deg: np.ndarray
    failed: bool = False
    failed_pair: np.ndarray | None = None

    def keys(self) -> Iterator[str]:
        """Names of the fields, so that `dict(errors)` works."""
        return iter(field.name for field in fields(self))

    def __getitem__(self, name: str) -> Any:
        """A field by its name."""
        if name not in set(self.keys()):
            raise KeyError(name)
        return getattr(self, name)

    def select(self, mask: np.ndarray) -> "PoseErrors":
        """The pairs where `mask` (P,) is true."""
        arrays = {name: self[name][mask] for name in self.keys() if name != "failed" and self[name] is not None}
        return PoseErrors(**arrays, failed=self.failed)


def pose_errors(
    poses: ArrayLike,
    true_poses: ArrayLike,
    relative: Literal["first", "all"] = "first",
    known: ArrayLike | None = None,
) -> PoseErrors:
    """Errors of predicted camera-to-world poses against the true ones; global frame and scale of either do not matter.

    Args:
        poses (F,4,4): predicted, camera-to-world, numpy or torch; computed in float64.
        true_poses (F,4,4): true, camera-to-world.
        relative: "first": the F-1 pairs (0, f); "all": the F(F-1)/2 pairs i < j.
        known (F,): bool, False for frames without a predicted pose, whatever stands in `poses` for them: their pairs count as 180
            degrees (90 folded), never as chance. None: all are known.

    Raises:
        ValueError: shapes that differ or are not (F,4,4) with F >= 2, numbers that are not finite, matrices that are not poses.
            A clip for which there is no prediction goes through `failed_pose_errors`.
    """
    predicted, true = _checked_poses(poses, "poses"), _checked_poses(true_poses, "true_poses")
    if predicted.shape != true.shape:
        raise ValueError(f"poses {predicted.shape} and true_poses {true.shape} differ in their number of frames")
    relative_predicted, relative_true = relative_poses(predicted, relative), relative_poses(true, relative)
    rotation = rotation_angle_deg(relative_predicted[:, :3, :3], relative_true[:, :3, :3])  # (P,)

    predicted_zero = _is_zero(relative_predicted, predicted, relative, _resolution(poses))
    true_zero = _is_zero(relative_true, true, relative, _resolution(true_poses))
    translation = direction_angle_deg(relative_predicted[:, :3, 3], relative_true[:, :3, 3])
    translation[predicted_zero | true_zero] = np.nan
    folded = _folded(translation, relative_predicted[:, :3, 3], relative_true[:, :3, 3])
    lost = _lost_pairs(known, len(true), relative)
    return PoseErrors(
        rotation_deg=np.where(lost, 180.0, rotation),
        translation_deg=np.where(lost, 180.0, translation),
        translation_folded_deg=np.where(lost, 90.0, folded),
        baseline=np.where(true_zero, 0.0, np.linalg.norm(relative_true[:, :3, 3], axis=-1)),
        motion_deg=rotation_angle_deg(relative_true[:, :3, :3], np.eye(3)),
        failed_pair=lost,
    )


def failed_pose_errors(true_poses: ArrayLike, relative: Literal["first", "all"] = "first") -> PoseErrors:
    """Errors of a clip without a prediction: 180 degrees everywhere (90 folded, the worst there is), never left out."""
    reference = pose_errors(true_poses, true_poses, relative)
    worst = np.full_like(reference.rotation_deg, 180.0)
    lost = np.ones(len(worst), dtype=bool)
    return PoseErrors(worst, worst.copy(), worst / 2, reference.baseline, reference.motion_deg, failed=True, failed_pair=lost)


def pose_metrics(errors: Sequence[PoseErrors | Mapping]) -> dict[str, float | int]:
    """Figures over all pairs of all clips given; every pair has the same weight.

    Returns:
        `rotation_deg`, `translation_deg` (unfolded), `translation_folded_deg` and their `..._median_deg`: means and medians, an
        undefined translation counting as 90; `translation_defined_deg`: mean over the pairs whose true translation is not zero.
        `rra@5`, `rta@5`, `rra@15`, `rta@15`: percent of all pairs strictly below 5 or 15 degrees; `maa@30`: mean over t = 1..30
        of min(RRA@t, RTA@t), the paper's wording. All use the UNFOLDED translation; `rta_folded@5`, `rta_folded@15` (DUSt3R's
        and VGGSfM's RTA@15) and `maa_folded@30` are theirs with the folded one.
        `auc@30`: mean over t = 1..30 of the percent of pairs whose max(rotation, folded translation) is below t, VGGT's AUC.
        `num_clips`, `num_failed`, `num_pairs`, `num_failed_pairs` (those of failed clips and of frames without a pose), and
        `num_undefined`, the pairs without a translation direction.

    Raises:
        ValueError: no clip, or no pair, given.
        TypeError: entries that are not what `pose_errors` returns.
    """
    clips = [_as_errors(item) for item in errors]
    if not clips or sum(len(clip.rotation_deg) for clip in clips) == 0:
        raise ValueError("pose_metrics needs at least one clip with one pair of frames; got none")
    rotation = np.concatenate([clip.rotation_deg for clip in clips])
    translation = np.concatenate([clip.translation_deg for clip in clips])
    folded = np.concatenate([clip.translation_folded_deg for clip in clips])
    has_direction = np.concatenate([clip.baseline for clip in clips]) > 0
    translation_counted, folded_counted = _counted(translation), _counted(folded)
    return {
        "rotation_deg": float(rotation.mean()),
        "rotation_median_deg": float(np.median(rotation)),
        "translation_deg": float(translation_counted.mean()),
        "translation_median_deg": float(np.median(translation_counted)),
        "translation_folded_deg": float(folded_counted.mean()),
        "translation_folded_median_deg": float(np.median(folded_counted)),
        "translation_defined_deg": float(translation_counted[has_direction].mean()) if has_direction.any() else float("nan"),
        "rra@5": _percent_below(rotation, 5),
        "rra@15": _percent_below(rotation, 15),
        "rta@5": _percent_below(translation, 5),
        "rta@15": _percent_below(translation, 15),
        "rta_folded@5": _percent_below(folded, 5),
        "rta_folded@15": _percent_below(folded, 15),
        "maa@30": mean_average_accuracy(rotation, translation),
        "maa_folded@30": mean_average_accuracy(rotation, folded),
        "auc@30": area_under_accuracy(rotation, folded),
        "num_clips": len(clips),
        "num_failed": sum(clip.failed for clip in clips),
        "num_pairs": len(rotation),
        "num_failed_pairs": sum(int(clip.failed_pair.sum()) for clip in clips if clip.failed_pair is not None),
        "num_undefined": int(np.isnan(translation).sum()),
    }


def pose_metrics_by_bin(
    errors: Sequence[PoseErrors], edges: Sequence[float], by: Literal["baseline", "motion_deg"] = "baseline"
) -> list[dict[str, float | int | str]]:
    """`pose_metrics` of the pairs whose true `by` lies in [edges[k], edges[k+1]); the last is closed, empty ones are left out.

    Short clips have tiny baselines, where the direction is noise: a mean over everything hides it.

    Raises:
        ValueError: edges that do not rise, an unknown `by`, no clip.
    """
    if by not in ("baseline", "motion_deg"):
        raise ValueError(f'by must be "baseline" or "motion_deg", got {by!r}')
    if len(edges) < 2 or any(b <= a for a, b in zip(edges, edges[1:], strict=False)):
        raise ValueError(f"bin edges must rise and be at least two, got {list(edges)}")
    return [
        {"bin": name, **pose_metrics([errors[k].select(mask) for k, mask in masks.items()])}
        for name, masks in masks_of_bins(errors, edges, by)
    ]


def masks_of_bins(
    errors: Sequence[PoseErrors], edges: Sequence[float], by: Literal["baseline", "motion_deg"]
) -> Iterator[tuple[str, dict[int, np.ndarray]]]:
    """Each bin of `pose_metrics_by_bin` that is not empty: its name, and the mask (P,) of its pairs for each clip with any."""
    for k, (low, high) in enumerate(zip(edges, edges[1:], strict=False)):
        last = k == len(edges) - 2
        masks = [(clip[by] >= low) & ((clip[by] <= high) if last else (clip[by] < high)) for clip in errors]
        inside = {number: mask for number, mask in enumerate(masks) if mask.any()}
        if inside:
            yield f"{by} {low:g} to {high:g}", inside


def relative_poses(poses: np.ndarray, relative: Literal["first", "all"] = "first") -> np.ndarray:
    """Poses (P,4,4) of camera j in camera i, inv(C_i) @ C_j, of camera-to-world poses (F,4,4); pairs as in `frame_pairs`."""
    i, j = frame_pairs(len(poses), relative)
    rotation_i = poses[i, :3, :3].swapaxes(-1, -2)  # (P,3,3), world to camera
    result = np.tile(np.eye(4), (len(i), 1, 1))
    result[:, :3, :3] = rotation_i @ poses[j, :3, :3]
    result[:, :3, 3] = (rotation_i @ (poses[j, :3, 3] - poses[i, :3, 3])[..., None])[..., 0]
    return result


def frame_pairs(num_frames: int, relative: Literal["first", "all"]) -> tuple[np.ndarray, np.ndarray]:
    """Frame numbers (P,), (P,) of the pairs: (0, f), or all i < j in row order."""
    if relative == "first":
        return np.zeros(num_frames - 1, dtype=int), np.arange(1, num_frames)
    if relative == "all":
        i, j = np.triu_indices(num_frames, k=1)
        return i, j
    raise ValueError(f'relative must be "first" or "all", got {relative!r}')


def rotation_angle_deg(rotation_a: np.ndarray, rotation_b: np.ndarray) -> np.ndarray:
    """Angle (...) between rotation matrices (...,3,3); exact also near 0 and 180, where the arc cosine of the trace is not."""
    difference = np.swapaxes(rotation_a, -1, -2) @ rotation_b
    skew = difference - np.swapaxes(difference, -1, -2)
    sine = np.sqrt(skew[..., 2, 1] ** 2 + skew[..., 0, 2] ** 2 + skew[..., 1, 0] ** 2) / 2
    cosine = (np.trace(difference, axis1=-2, axis2=-1) - 1) / 2
    return np.degrees(np.arctan2(sine, cosine))


def direction_angle_deg(vector_a: np.ndarray, vector_b: np.ndarray) -> np.ndarray:
    """Angle (...) between vectors (...,3), 0 to 180; zero vectors give 0, the caller masks them."""
    sine = np.linalg.norm(np.cross(vector_a, vector_b), axis=-1)
    return np.degrees(np.arctan2(sine, (vector_a * vector_b).sum(axis=-1)))


def _folded(angle_deg: np.ndarray, vector_a: np.ndarray, vector_b: np.ndarray) -> np.ndarray:
    """min(e, 180 - e), equal to VGGT's figure also for very short vectors.

    VGGT divides by norm + 1e-15, which widens the angle of vectors shorter than about 1e-6; everywhere else it is invisible.
    """
    length_a, length_b = np.linalg.norm(vector_a, axis=-1), np.linalg.norm(vector_b, axis=-1)
    shrink = length_a / (length_a + _VGGT_EPSILON) * length_b / (length_b + _VGGT_EPSILON)
    widened = np.degrees(np.arccos(np.abs(np.cos(np.radians(angle_deg))) * shrink))
    return np.where(shrink < 1 - 1e-11, widened, np.minimum(angle_deg, 180.0 - angle_deg))


def mean_average_accuracy(rotation_deg: np.ndarray, translation_deg: np.ndarray) -> float:
    """Mean over t = 1..30 of min(RRA@t, RTA@t), percent: each accuracy is counted over all pairs, then the lower one is taken."""
    return float(np.mean([min(_percent_below(rotation_deg, t), _percent_below(translation_deg, t)) for t in THRESHOLDS]))


def area_under_accuracy(rotation_deg: np.ndarray, folded_deg: np.ndarray) -> float:
    """VGGT's AUC@30, percent: mean over t = 1..30 of the share of pairs with max(rotation, folded translation) < t (<= 30)."""
    worst = np.maximum(rotation_deg, folded_deg)  # NaN stays NaN, never below a threshold
    below = [np.mean(worst <= t) if t == THRESHOLDS[-1] else np.mean(worst < t) for t in THRESHOLDS]
    return float(100 * np.mean(below))


def _percent_below(values: np.ndarray, threshold: float) -> float:
    return float(100 * np.mean(values < threshold))


def _counted(translation: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(translation), CHANCE_DEG, translation)


def _lost_pairs(known: ArrayLike | None, num_frames: int, relative: Literal["first", "all"]) -> np.ndarray:
    """(P,) bool: a frame of the pair has no pose."""
    i, j = frame_pairs(num_frames, relative)
    if known is None:
        return np.zeros(len(i), dtype=bool)
    mask = np.asarray(known, dtype=bool)
    if mask.shape != (num_frames,):
        raise ValueError(f"known must have shape ({num_frames},) to go with the poses, got {mask.shape}")
    return ~(mask[i] & mask[j])


def _is_zero(relative: np.ndarray, poses: np.ndarray, pairs: Literal["first", "all"], resolution: float) -> np.ndarray:
    """(P,) bool: the relative translation is zero, or no longer than what rounding makes of two equal positions."""
    i, j = frame_pairs(len(poses), pairs)
    centre = np.linalg.norm(poses[:, :3, 3], axis=-1)
    floor = np.minimum(centre[i], centre[j]) * resolution + _ABSOLUTE_FLOOR
    return np.linalg.norm(relative[:, :3, 3], axis=-1) <= floor


def _resolution(poses: ArrayLike) -> float:
    """Relative rounding error of the coordinates as they were given."""
    if isinstance(poses, torch.Tensor):
        return 4 * torch.finfo(poses.dtype).eps if poses.is_floating_point() else 0.0
    kind: Any = np.asarray(poses).dtype
    return 4 * float(np.finfo(kind).eps) if np.issubdtype(kind, np.floating) else 0.0


def _checked_poses(poses: ArrayLike, name: str) -> np.ndarray:
    if isinstance(poses, torch.Tensor):
        poses = poses.detach().cpu().double().numpy()
    array = np.asarray(poses, dtype=np.float64)
    if array.ndim != 3 or array.shape[1:] != (4, 4) or len(array) < 2:
        raise ValueError(f"{name} must have shape (F,4,4) with at least 2 frames, got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} contains NaN or infinity; score a clip without a usable prediction with failed_pose_errors")
    fault = pose_fault(array)
    if fault is not None:
        raise ValueError(f"{name} must be rigid 4x4 poses (rotation, translation, last row 0 0 0 1); pose {fault[0]}: {fault[1]}")
    return array


def _as_errors(item: PoseErrors | Mapping) -> PoseErrors:
    if isinstance(item, PoseErrors):
        return item
    if not isinstance(item, Mapping):
        raise TypeError(f"pose_metrics takes a list of what pose_errors returns, got an entry of type {type(item).__name__}")
    missing = {"rotation_deg", "translation_deg", "translation_folded_deg"} - set(item)
    if missing:
        raise TypeError(f"pose_metrics takes a list of what pose_errors returns; an entry lacks {', '.join(sorted(missing))}")
    given = [name for name in item if name != "failed" and item[name] is not None]
    arrays = {name: np.asarray(item[name], dtype=bool if name == "failed_pair" else np.float64) for name in given}
    # A bare mapping of the three error arrays tells nothing about the true motion: directions that are defined stand for it.
    arrays.setdefault("baseline", np.where(np.isnan(arrays["translation_deg"]), 0.0, 1.0))
    arrays.setdefault("motion_deg", np.zeros_like(arrays["rotation_deg"]))
    return PoseErrors(**arrays, failed=bool(item.get("failed", False)))
