"""Residuals of registration and their derivatives.

Two kinds of terms make up the fast method's objective. Across the ray: a point of frame j, carried into camera j, must lie on the
ray of its pixel; the free depth along the ray is thereby eliminated. Along the ray: where several maps show the same frame, their
log depths must agree up to the pairs' log scales; the common depth is eliminated by its weighted mean.

M maps, N sampled pixels. A map's "relative pose" is host camera -> own camera, in the length unit of its pair. Its six columns
are a rotation vector w and a translation v acting from the left: y -> y + w x y + v.
"""

import torch
from torch import Tensor

from jog3r.geometry.cameras import hat


def local_points(points: Tensor, relative: Tensor) -> Tensor:
    """Points (M, 3, N) carried by relative poses (M, 4, 4) into the cameras of their own frames."""
    relative = relative.to(points.dtype)
    return torch.baddbmm(relative[:, :3, 3:], relative[:, :3, :3], points)


def distance_along(local: Tensor, rays: Tensor) -> Tensor:
    """Distances (M, N) of points (M, 3, N) along rays (M or 1, 3, N), in units of the rays' lengths; < 0 behind the camera."""
    return (local * rays).sum(1) / rays.square().sum(1)


def across_ray(local: Tensor, along: Tensor, rays: Tensor, basis: Tensor, pose_columns: bool) -> Tensor:
    """Offsets of points across the rays, and their derivatives.

    Args:
        local: points (M, 3, N) in the cameras of their own frames, from which the offsets are taken.
        along: (M, N) their distances along the rays in units of the rays' lengths, or less noisy versions of these; the
            derivatives are taken at the points of the rays there.
        rays: (M or 1, 3, N) with z = 1.
        basis: (M or 1, 2, 3, N) unit vectors perpendicular to each ray.
        pose_columns: whether the derivatives by w and v are wanted.

    Returns:
        columns (M, C, 2, N): derivatives by w, v (if wanted), log focal, then the residual itself.
    """
    count = 8 if pose_columns else 2
    columns = local.new_empty(local.shape[0], count, 2, local.shape[2])
    for axis in range(2):
        direction = basis[:, axis]  # (., 3, N)
        torch.sum(local * direction, 1, out=columns[:, -1, axis])
        # A longer focal turns the ray towards the axis, so that the point seems to lie further out.
        torch.mul(along, (direction[:, :2] * rays[:, :2]).sum(1), out=columns[:, -2, axis])
        if pose_columns:
            lever = torch.linalg.cross(rays, direction, dim=1)  # (., 3, N)
            torch.mul(along[:, None], lever, out=columns[:, :3, axis])
            columns[:, 3:6, axis] = direction
    return columns


def log_depth_columns(local: Tensor) -> tuple[Tensor, Tensor]:
    """Log depth (M, N) of local points (M, 3, N) and its derivatives (M, 7, N) by w, v, log scale; depths clamped above 0."""
    x, y, z = local.unbind(1)
    z = z.clamp(min=1e-9)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return z.log(), torch.stack((y / z, -x / z, zero, zero, zero, 1 / z, one), dim=1)


def along_ray(log_depth: Tensor, weights: Tensor, columns: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """Normal equations of the agreement of m maps on one frame's log depth, which is eliminated.

    Args:
        log_depth: (m, N) of each map, in the unit of the world.
        weights: (m, N) inverse variances, 0 where a map says nothing.
        columns: (c, N) derivatives of the log depths; each belongs to one map.
        owner: (c,) which map (0..m-1).

    Returns:
        normal (c, c) and gradient (c,).
    """
    total = weights.sum(0).clamp(min=1e-30)  # (N,)
    residual = log_depth - (weights * log_depth).sum(0) / total  # (m, N)
    weighted = columns * weights[owner]  # (c, N)
    same = (owner[:, None] == owner).to(columns)
    normal = same * (weighted @ columns.T) - (weighted / total) @ weighted.T
    return normal, (weighted * residual[owner]).sum(1)


def pose_chain(poses: Tensor, frame: Tensor, relative: Tensor, pair_scale: Tensor) -> Tensor:
    """Derivatives (M, 6, 13) of the relative poses' (w, v) by the two poses and the log scale of the pair.

    The first six unknowns are a rotation vector and a translation of the host's pose in world axes (R -> exp(w) R, t -> t + v),
    then the same of the own frame's, then the log of `pair_scale`.
    """
    world_to_own = poses[frame][:, :3, :3].transpose(1, 2)  # (M, 3, 3)
    zero = torch.zeros_like(world_to_own)
    scaled = world_to_own / pair_scale[:, None, None]
    offset = relative[:, :3, 3]  # host's centre in the own camera, pair unit
    # Turning the host moves points about the host's centre, which sits at `offset`; turning the own camera moves all about it.
    host_rows = torch.cat((torch.cat((world_to_own, zero), 2), torch.cat((hat(offset) @ world_to_own, scaled), 2)), 1)
    own_rows = torch.cat((torch.cat((-world_to_own, zero), 2), torch.cat((zero, -scaled), 2)), 1)
    scale_column = torch.cat((torch.zeros_like(offset), -offset), 1)[..., None]  # (M, 6, 1)
    return torch.cat((host_rows, own_rows, scale_column), 2)
