"""Pointmaps: one 3D point per pixel, from depth and cameras, in the camera of frame 1, and their scale."""

import torch
from torch import Tensor

from jog3r.geometry.cameras import check_tensors, relative_poses, transform, unproject


def pointmaps_in_first_camera(depth: Tensor, intrinsics: Tensor, poses: Tensor) -> Tensor:
    """Pointmaps (..., F, H, W, 3) of all frames in the camera of the first frame.

    Args:
        depth: (..., F, H, W), the z of each point in its own camera. Invalid pixels pass through (0 gives the camera centre,
            NaN stays NaN): keep the mask beside the result.
        intrinsics: (..., F, 3, 3) in pixels of this resolution.
        poses: (..., F, 4, 4) camera-to-world, in any world.

    Returns:
        Points in the unit of `depth` and `poses`, which must be the same.
    """
    check_tensors(depth=depth, intrinsics=intrinsics, poses=poses)
    if depth.shape[:-2] != poses.shape[:-2] or depth.shape[:-2] != intrinsics.shape[:-2]:
        raise ValueError(
            "depth (..., F, H, W), intrinsics (..., F, 3, 3) and poses (..., F, 4, 4) must agree in leading dimensions, got "
            f"{tuple(depth.shape)}, {tuple(intrinsics.shape)}, {tuple(poses.shape)}"
        )
    return transform(relative_poses(poses), unproject(depth, intrinsics))


def mean_distance(points: Tensor, valid: Tensor) -> Tensor:
    """Mean distance to the origin over the valid points.

    Args:
        points: (..., H, W, 3).
        valid: (..., H, W) bool.

    Returns:
        (...,); 1 where no point is valid, so that dividing by it changes nothing.
    """
    check_tensors(points=points, valid=valid)
    distance = torch.where(valid, points.norm(dim=-1), points.new_zeros(()))
    count = valid.sum((-1, -2))
    mean = distance.sum((-1, -2)) / count.clamp(min=1)
    return torch.where((count > 0) & (mean > 0), mean, torch.ones_like(mean))


def normalise_scale(
    pointmaps: Tensor,  # (..., F, H, W, 3)
    poses: Tensor,  # (..., F, 4, 4)
    valid: Tensor,  # (..., F, H, W)
) -> tuple[Tensor, Tensor, Tensor]:
    """Fix the free scale: the mean distance of frame 1's valid points from its camera becomes 1.

    Args:
        pointmaps: points in the camera of frame 1.
        poses: camera-to-world with the camera of frame 1 as the world.
        valid: bool, which points count.

    Returns:
        pointmaps, poses and the factor (...,) by which lengths were multiplied.
    """
    check_tensors(pointmaps=pointmaps, poses=poses, valid=valid)
    factor = 1 / mean_distance(pointmaps[..., 0, :, :, :], valid[..., 0, :, :])
    scaled_poses = poses.clone()
    scaled_poses[..., :3, 3] = poses[..., :3, 3] * factor[..., None, None]
    return pointmaps * factor[..., None, None, None, None], scaled_poses, factor
