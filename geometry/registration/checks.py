"""What `register_pointmaps` refuses, and which pixels it counts as valid."""

import math
from dataclasses import dataclass, replace
from numbers import Integral, Real

import torch
from torch import Tensor

from jog3r.geometry.cameras import check_tensors, intrinsics_from_focal, relative_poses
from jog3r.geometry.pose_checks import pose_fault
from jog3r.geometry.registration.energy import Pairwise


def check_inputs(
    anchor_pointmaps: Tensor, anchor_confidence: Tensor, pointmaps: Tensor, confidence: Tensor, pairs: Tensor, num_frames: int
) -> tuple[Pairwise, tuple[Tensor, Tensor]]:
    """The inputs, tensors of any real dtype, as float32 with invalid pixels blanked, and the masks of valid pixels.

    A pixel is valid if its point is finite and not the origin and its confidence is finite and positive. Blanked pixels have the
    point (0, 0, 0) and confidence 1, which weighs nothing in DUSt3R's objective.

    Returns:
        data, and the masks (anchor_valid, valid), each (P, H, W) bool.
    """
    named = {
        "anchor_pointmaps": anchor_pointmaps,
        "anchor_confidence": anchor_confidence,
        "pointmaps": pointmaps,
        "confidence": confidence,
        "pairs": pairs,
    }
    check_tensors(**{name: value for name, value in named.items() if name != "pairs"})
    check_tensors(pairs=pairs)
    if pointmaps.dim() != 4 or pointmaps.shape[-1] != 3 or 0 in pointmaps.shape:
        raise ValueError(f"pointmaps must have shape (P, H, W, 3) with no empty dimension, got {tuple(pointmaps.shape)}")
    for name, shape in (
        ("anchor_pointmaps", pointmaps.shape),
        ("anchor_confidence", pointmaps.shape[:3]),
        ("confidence", pointmaps.shape[:3]),
        ("pairs", (pointmaps.shape[0], 2)),
    ):
        if tuple(named[name].shape) != tuple(shape):
            raise ValueError(f"{name} must have shape {tuple(shape)} to go with pointmaps, got {tuple(named[name].shape)}")
    for name, value in named.items():
        if value.is_complex():
            raise ValueError(f"{name} must hold real numbers, got {value.dtype}")
    pairs = _check_pairs(pairs, num_frames).to(pointmaps.device)
    anchors, anchor_weight, anchor_valid = _blank(anchor_pointmaps, anchor_confidence, "anchor_confidence")
    points, weight, valid = _blank(pointmaps, confidence, "confidence")
    if not (anchor_valid.any() and valid.any()):
        raise ValueError("no pixel is valid in anchor_pointmaps or in pointmaps: all are NaN, inf, zero or have confidence 0")
    return Pairwise(anchors, anchor_weight, points, weight, pairs), (anchor_valid, valid)


def _check_pairs(pairs: Tensor, num_frames: int) -> Tensor:
    if not isinstance(num_frames, Integral) or isinstance(num_frames, bool) or num_frames < 1:
        raise ValueError(f"num_frames must be a positive integer, got {num_frames!r}")
    if pairs.dtype.is_floating_point or pairs.dtype.is_complex or pairs.dtype == torch.bool:
        raise ValueError(f"pairs must hold integers (frame indices from 0), got {pairs.dtype}")
    pairs = pairs.long()
    low, high = int(pairs.min()), int(pairs.max())
    if low < 0 or high >= num_frames:
        raise ValueError(f"pairs must hold frame indices in [0, {num_frames - 1}], got indices from {low} to {high}")
    if bool((pairs[:, 0] == pairs[:, 1]).any()):
        raise ValueError("a pair must join two different frames, got a frame paired with itself")
    return pairs


def _blank(points: Tensor, confidence: Tensor, name: str) -> tuple[Tensor, Tensor, Tensor]:
    points, confidence = points.detach().float(), confidence.detach().float()
    if bool((confidence < 0).any()):
        raise ValueError(f"{name} must be >= 0, got a minimum of {float(confidence[confidence < 0].min()):.4g}")
    # Beyond these sizes a square leaves the range of float32: as meaningless as inf. NaN passes no comparison.
    x, y, z = points.abs().unbind(-1)
    size = torch.maximum(torch.maximum(x, y), z)
    valid = (size > 1e-15) & (size < 1e15) & (confidence > 0) & (confidence < torch.inf)
    if bool(valid.all()):
        return points, confidence, valid
    return torch.where(valid[..., None], points, 0.0), torch.where(valid, confidence, 1.0), valid


WIDEST_VIEW_DEG = 160.0  # of a camera without distortion


@dataclass(frozen=True)
class Given:
    """What the caller fixed."""

    intrinsics: Tensor  # (F, 3, 3) float64; the focals mean something only if they are known
    focal_known: bool
    intrinsics_given: bool
    aspect_known: bool  # the ratios fy / fx of `intrinsics` are to be kept
    poses: Tensor | None  # (F, 4, 4) float64, the first the identity

    def clone(self) -> "Given":
        """The same in new tensors."""
        poses = None if self.poses is None else self.poses.clone()
        return replace(self, intrinsics=self.intrinsics.clone(), poses=poses)


def check_given(
    shape: tuple[int, int, int],
    device: torch.device,
    focal_px: float | Tensor | None = None,
    pixel_aspect: float | None = None,
    intrinsics: Tensor | None = None,
    known_poses: Tensor | None = None,
) -> Given:
    """Focals, intrinsics and poses that the caller gave of frames of a `shape` (F, H, W), checked."""
    num_frames, height, width = shape
    if focal_px is not None and intrinsics is not None:
        raise ValueError("give focal_px or intrinsics, not both")
    focals = torch.ones(num_frames, dtype=torch.float64, device=device)
    if focal_px is not None:
        focals = torch.as_tensor(focal_px, dtype=torch.float64, device=device)
        if focals.dim() == 0:
            focals = focals.expand(num_frames)
        if tuple(focals.shape) != (num_frames,) or not bool((torch.isfinite(focals) & (focals > 0)).all()):
            raise ValueError(f"focal_px must be a positive number or one per frame ({num_frames}), got {focal_px!r}")
        check_in_pixels("focal_px", float(focals.min()), (height, width))
    result = intrinsics_from_focal(focals, height, width)
    if pixel_aspect is not None:
        if intrinsics is not None:
            raise ValueError("give pixel_aspect or intrinsics, not both")
        if not isinstance(pixel_aspect, Real) or not (math.isfinite(pixel_aspect) and pixel_aspect > 0):
            raise ValueError(f"pixel_aspect is fy / fx, a positive number, got {pixel_aspect!r}")
        result[:, 1, 1] *= pixel_aspect
    if intrinsics is not None:
        result = check_intrinsics(intrinsics, num_frames, device)
        check_in_pixels("intrinsics", float(result[:, 0, 0].min()), (height, width))
    poses = None if known_poses is None else check_poses(known_poses, num_frames, device)
    focal_known = focal_px is not None or intrinsics is not None
    return Given(result, focal_known, intrinsics is not None, focal_known or pixel_aspect is not None, poses)


def check_intrinsics(intrinsics: Tensor, num_frames: int, device: torch.device) -> Tensor:
    """Given intrinsics as (F, 3, 3) float64.

    Raises:
        ValueError: not finite, of another shape than (3, 3) or (F, 3, 3), or focal lengths that are not positive.
    """
    result = torch.as_tensor(intrinsics, dtype=torch.float64, device=device)
    if result.dim() == 2:
        result = result.expand(num_frames, *result.shape)
    if tuple(result.shape) != (num_frames, 3, 3) or not bool(torch.isfinite(result).all()):
        raise ValueError(f"intrinsics must be finite, (3, 3) or ({num_frames}, 3, 3), got shape {tuple(result.shape)}")
    if not bool((result[:, [0, 1], [0, 1]] > 0).all()):
        raise ValueError("intrinsics must have positive focal lengths on their diagonal")
    return result


def check_in_pixels(name: str, focal: float, size: tuple[int, int]) -> None:
    """Refuse a focal length that is none in pixels of frames of `size` (H, W): a view of more than 160 degrees.

    Raises:
        ValueError: millimetres, or intrinsics in units of the picture; with the view that it would be.
    """
    view = 2 * math.degrees(math.atan(size[1] / 2 / focal))
    if view > WIDEST_VIEW_DEG:
        raise ValueError(
            f"{name} must be in pixels: {focal:.4g} in frames of {size[1]} x {size[0]} would be a view of {view:.0f} degrees; "
            "multiply intrinsics in units of the picture by its width and height, and millimetres by pixels / sensor width"
        )


def check_poses(known_poses: Tensor, num_frames: int, device: torch.device) -> Tensor:
    """Given camera-to-world poses as (F, 4, 4) float64, relative to the first.

    Raises:
        ValueError: not finite, of another shape, or not rigid.
    """
    poses = torch.as_tensor(known_poses, dtype=torch.float64, device=device)
    if tuple(poses.shape) != (num_frames, 4, 4) or not bool(torch.isfinite(poses).all()):
        raise ValueError(f"known_poses must be finite and ({num_frames}, 4, 4), got shape {tuple(poses.shape)}")
    fault = pose_fault(poses.detach().cpu().numpy())
    if fault is not None:
        raise ValueError(f"known_poses must be rigid camera-to-world transforms; pose {fault[0]}: {fault[1]}")
    return relative_poses(poses)
