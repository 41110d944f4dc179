"""Results of other models that are no pairwise pointmaps: depth with cameras, and pointmaps in one world. Both become a
`Registration`, in the same world (camera of frame 1), axes and scale as ours.

Letters: F frames, H W pixels, P = F - 1 pairs.
"""

import math

import torch
from torch import Tensor

from jog3r.geometry.cameras import check_tensors, invert, pixel_grid, transform, unproject
from jog3r.geometry.pointmaps import normalise_scale
from jog3r.geometry.registration.checks import check_in_pixels, check_intrinsics, check_poses
from jog3r.geometry.registration.register import Registration, register_pointmaps
from jog3r.geometry.robust import weighted_median

MAX_PIXEL_ERROR = 0.05  # median, of the longer side: points farther from their pixels are not in the camera of frame 1
MAX_TESTED = 4096  # pixels of frame 1


@torch.no_grad()
def registration_from_depth(depth: Tensor, intrinsics: Tensor, poses: Tensor, confidence: Tensor | None = None) -> Registration:
    """Depth and cameras of any model as a `Registration`; nothing is solved for.

    Args:
        depth: (F, H, W) z in each camera, in the unit of `poses`; 0, negative or non-finite marks pixels without depth.
        intrinsics: (3, 3) or (F, 3, 3) in pixels of the depth, first pixel's centre at 0.
        poses: (F, 4, 4) camera-to-world, in any world.
        confidence: (F, H, W) >= 0; None is 1 everywhere.

    Raises:
        TypeError: depth or confidence that is no torch tensor.
        ValueError: shapes that do not fit each other, no depth in frame 1, or cameras that are none.
    """
    check_tensors(depth=depth, confidence=depth if confidence is None else confidence)
    if depth.dim() != 3 or 0 in depth.shape:
        raise ValueError(f"depth must have shape (F, H, W) with no empty dimension, got {tuple(depth.shape)}")
    num_frames = depth.shape[0]
    intrinsics = check_intrinsics(intrinsics, num_frames, depth.device)
    check_in_pixels("intrinsics", float(intrinsics[:, 0, 0].min()), (depth.shape[1], depth.shape[2]))
    poses = check_poses(poses, num_frames, depth.device)
    confidence = _confidence(confidence, depth.shape, depth.device)
    depth = _real("depth", depth).double()
    valid = depth.isfinite() & (depth > 0) & (confidence > 0)
    if not bool(valid[0].any()):
        raise ValueError("depth of frame 1 must have valid pixels, they fix the scale; got none that is finite and positive")
    depth = torch.where(valid, depth, 0.0)
    world, poses, unit = normalise_scale(transform(poses, unproject(depth, intrinsics)), poses, valid)
    return Registration(
        poses=poses.float(),
        intrinsics=intrinsics.float(),
        depth=(depth * unit).float(),
        pointmaps=world.float(),
        confidence=torch.where(valid, confidence, 0.0),
        pair_scale=torch.zeros(0, device=depth.device),
        energy=math.nan,
        converged=True,
        num_iterations=0,
        degenerate=("",) * num_frames,
        pose_covariance=torch.full((num_frames, 6, 6), torch.nan, device=depth.device),
    )


@torch.no_grad()
def register_world_pointmaps(
    pointmaps: Tensor, confidence: Tensor | None = None, *, poses: Tensor | None = None, intrinsics: Tensor | None = None
) -> Registration:
    """Cameras of pointmaps that all lie in one world, through the star of pairs (1, f).

    Args:
        pointmaps: (F, H, W, 3) world points of each frame's pixels.
        confidence: (F, H, W) >= 0; None is 1 everywhere.
        poses: (F, 4, 4) camera-to-world, if known: they are kept. None: the world must be the camera of frame 1.
        intrinsics: (3, 3) or (F, 3, 3) in pixels, if known.

    Raises:
        TypeError: pointmaps or confidence that are no torch tensors.
        ValueError: as `register_pointmaps`; fewer than two frames; or no poses and a world that is not the camera of frame 1.
    """
    check_tensors(pointmaps=pointmaps, confidence=pointmaps if confidence is None else confidence)
    if pointmaps.dim() != 4 or pointmaps.shape[-1] != 3 or len(pointmaps) < 2:
        raise ValueError(f"pointmaps must have shape (F, H, W, 3) with at least 2 frames, got {tuple(pointmaps.shape)}")
    num_frames = len(pointmaps)
    confidence = _confidence(confidence, pointmaps.shape[:3], pointmaps.device)
    pointmaps = _real("pointmaps", pointmaps)
    centre = None
    if intrinsics is not None:
        checked = check_intrinsics(intrinsics, num_frames, pointmaps.device)
        check_in_pixels("intrinsics", float(checked[:, 0, 0].min()), (pointmaps.shape[1], pointmaps.shape[2]))
        centre = checked[0, :2, 2]
    if poses is None:
        _check_first_camera(pointmaps[0], confidence[0], centre)
        points = pointmaps.float()
    else:
        poses = torch.as_tensor(poses, dtype=torch.float64, device=pointmaps.device)
        check_poses(poses, num_frames, pointmaps.device)
        points = transform(invert(poses[0]), pointmaps.double()).float()
    pairs = torch.stack([torch.zeros(num_frames - 1, dtype=torch.long), torch.arange(1, num_frames)], 1)
    return register_pointmaps(
        points[:1].expand(num_frames - 1, -1, -1, -1),
        confidence[:1].expand(num_frames - 1, -1, -1),
        points[1:],
        confidence[1:],
        pairs,
        num_frames,
        intrinsics=intrinsics,
        known_poses=poses,
    )


def _real(name: str, values: Tensor) -> Tensor:
    """Unsigned integers, such as a depth camera's millimetres, know no comparisons: as doubles they do."""
    if values.is_complex():
        raise ValueError(f"{name} must hold real numbers, got {values.dtype}")
    return values if values.is_floating_point() else values.double()


def _confidence(confidence: Tensor | None, shape: torch.Size, device: torch.device) -> Tensor:
    if confidence is None:
        return torch.ones(shape, device=device)
    if confidence.shape != shape:
        raise ValueError(f"confidence must have shape {tuple(shape)}, got {tuple(confidence.shape)}")
    confidence = _real("confidence", confidence)
    if not bool((confidence >= 0).all()):
        raise ValueError("confidence must be >= 0 in every pixel; 0 marks pixels without geometry")
    return confidence.float()


def _check_first_camera(points: Tensor, confidence: Tensor, centre: Tensor | None) -> None:
    """Refuse points (H, W, 3) that no camera at the origin, looking along z, sees at their pixels.

    Its principal point is `centre` (2,) in pixels, None: the picture's.
    """
    height, width = points.shape[:2]
    if centre is None:
        centre = torch.tensor([width / 2, height / 2], device=points.device)
    pixels = pixel_grid(height, width, device=points.device).flatten(0, 1) - centre  # (N, 2)
    step = max(1, len(pixels) // MAX_TESTED)
    points, pixels, weight = points.double().flatten(0, 1)[::step], pixels.double()[::step], confidence.flatten()[::step]
    usable = points.isfinite().all(-1) & (weight > 0)
    behind = ~(points[:, 2] > 0)
    slopes = points[:, :2] / torch.where(behind, 1.0, points[:, 2])[:, None]
    # A pixel at slope s from the centre says f = p / s; the far ones say it best.
    known = usable & ~behind
    focal = weighted_median(
        torch.where(known[:, None], pixels / slopes, 0.0).nan_to_num(0.0, 0.0, 0.0).T,
        torch.where(known[:, None], slopes.abs(), 0.0).nan_to_num(0.0, 0.0, 0.0).T,
    )
    error = (slopes * focal - pixels).norm(dim=-1)[known]
    share = float(known.sum() / usable.sum().clamp(min=1))
    limit = MAX_PIXEL_ERROR * max(height, width)
    if share < 0.9 or not bool((focal > 0).all()) or float(error.median()) > limit:
        raise ValueError(
            "pointmaps are not in the camera of frame 1: "
            + (f"{100 * share:.0f} % of its points lie in front of it" if share < 0.9 else "its points do not meet their pixels")
            + "; add poses (F, 4, 4) camera-to-world of the same world"
        )
