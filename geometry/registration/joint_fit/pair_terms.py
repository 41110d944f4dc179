"""Residuals of registration and their derivatives.

Two kinds of terms make up the fast method's objective. Across the ray: a point of frame j, carried into camera j, must lie on the
ray of its pixel; the free depth along the ray is thereby eliminated. Along the ray: where several maps show the same frame, their
log depths must agree up to the pairs' log scales; the common depth is eliminated by its weighted mean.

M maps, N sampled pixels. A map's "relative pose" is host camera -> own camera, in the length unit of its pair. Its six columns
are a rotation vector w and a translation v acting from the left: y -> y + w x y + v.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from jog3r.geometry.cameras import hat


def local_points(points: Tensor, relative: Tensor) -> Tensor:
    """Points (M, 3, N) carried by relative poses (M, 4, 4) into the cameras of their own frames."""
    relative = relative.to(points.dtype)
    return torch.baddbmm(relative[:, :3, 3:], relative[:, :3, :3], points)


@dataclass(frozen=True)
class Rays:
    """Rays through N pixels of m cameras, and what offsets from them need; m is 1 where all cameras are alike."""

    direction: Tensor  # (m, 3, N) with z = 1
    basis: Tensor  # (m, 2, 3, N) unit vectors perpendicular to each ray; near the axis they are x and y
    turn: Tensor  # (m, 3, 2, N) derivatives of the offsets, of a point at distance 1 along its ray, by w
    # (m, 2, N) and by the log focal: a longer one turns the ray towards the axis, the point seems to lie further out
    zoom: Tensor

    @classmethod
    def along(cls, direction: Tensor) -> "Rays":
        """Rays with these directions (m, 3, N)."""
        x, y, z = (direction / direction.square().sum(1, keepdim=True).sqrt()).unbind(1)
        shared = 1 / (1 + z)
        mixed = -x * y * shared
        basis = torch.stack((1 - x * x * shared, mixed, -x, mixed, 1 - y * y * shared, -y), dim=1).unflatten(1, (2, 3))
        turn = torch.linalg.cross(direction[:, None].expand_as(basis), basis, dim=2).transpose(1, 2)
        return cls(direction, basis, turn, (basis[:, :, :2] * direction[:, None, :2]).sum(2))

    def distances(self, local: Tensor) -> Tensor:
        """Distances (M, N) of points (M, 3, N) along the rays, in units of the rays' lengths; < 0 behind the camera."""
        return (local * self.direction).sum(1) / self.direction.square().sum(1)

    def offsets(self, local: Tensor) -> Tensor:
        """Offsets (M, 2, N) of points (M, 3, N) across the rays."""
        return (local[:, None] * self.basis).sum(2)

    def columns(self, local: Tensor, along: Tensor, *, pose: bool) -> Tensor:
        """Offsets of points across the rays, and their derivatives.

        Args:
            local: points (M, 3, N) in the cameras of their own frames, from which the offsets are taken.
            along: (M, N) their distances along the rays, or less noisy versions of these; the derivatives are taken at the points
                of the rays there.
            pose: whether the derivatives by w and v are wanted.

        Returns:
            columns (M, C, 2, N): derivatives by w, v (if wanted), log focal, then the offset itself.
        """
        columns = local.new_empty(local.shape[0], 8 if pose else 2, 2, local.shape[2])
        columns[:, -1] = self.offsets(local)
        torch.mul(along[:, None], self.zoom, out=columns[:, -2])
        if pose:
            torch.mul(along[:, None, None], self.turn, out=columns[:, :3])
            columns[:, 3:6] = self.basis.transpose(1, 2)
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
