"""DUSt3R's global-alignment objective (Wang et al., CVPR 2024, section 3.4), with which all methods here are compared.

Every pair e = (i, j) has two pointmaps, one of frame i and one of frame j, both in the camera of i. A similarity per pair carries
them to the world; depth, focal length and pose per frame say where the same pixels should lie. The energy is the mean over the
pixels of log(confidence) * distance, for the first maps plus for the second maps. The world's scale is fixed by asking the
geometric mean of the pair scales to be 0.5, otherwise everything could shrink to a point at no cost.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from jog3r.geometry.cameras import (
    intrinsics_from_focal,
    pose_from,
    quaternion_wxyz_from_rotation,
    rotation_from_quaternion_wxyz,
    transform,
    unproject,
)

BASE_SCALE = 0.5  # geometric mean of the pair scales
FOCAL_UNIT = 20.0  # the focal parameter is FOCAL_UNIT * log(focal_px): one optimiser step then moves it by 0.05 %


@dataclass(frozen=True)
class Pairwise:
    """Pairwise pointmaps: the data that registration explains (P pairs, H rows, W columns)."""

    anchor_pointmaps: Tensor  # (P, H, W, 3) frame i of pair (i, j), in camera i
    anchor_confidence: Tensor  # (P, H, W) >= 1
    pointmaps: Tensor  # (P, H, W, 3) frame j of pair (i, j), in camera i
    confidence: Tensor  # (P, H, W) >= 1
    pairs: Tensor  # (P, 2) int64

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the maps."""
        return self.pointmaps.shape[1], self.pointmaps.shape[2]

    def clone(self) -> "Pairwise":
        """The same in new tensors."""
        return Pairwise(*(getattr(self, field.name).clone() for field in fields(self)))

    def to(self, dtype: torch.dtype) -> "Pairwise":
        """The same with all floating-point maps in another precision."""
        return Pairwise(
            self.anchor_pointmaps.to(dtype),
            self.anchor_confidence.to(dtype),
            self.pointmaps.to(dtype),
            self.confidence.to(dtype),
            self.pairs,
        )


def alignment_energy(
    data: Pairwise,
    world_points: Tensor,  # (F, H, W, 3)
    pair_to_world: Tensor,  # (P, 4, 4)
) -> Tensor:
    """DUSt3R's objective of a state, a scalar.

    Args:
        data: the pairwise pointmaps; pixels with confidence 1 weigh nothing.
        world_points: where the state puts the pixels of each frame.
        pair_to_world: the state's similarity of each pair.
    """
    total = world_points.new_zeros(())
    area = data.confidence.numel()
    for maps, confidence, frames in (
        (data.anchor_pointmaps, data.anchor_confidence, data.pairs[:, 0]),
        (data.pointmaps, data.confidence, data.pairs[:, 1]),
    ):
        gap = world_points[frames] - transform(pair_to_world, maps)  # (P, H, W, 3)
        total = total + (confidence.clamp(min=1).log() * gap.norm(dim=-1)).sum() / area
    return total


@dataclass
class AlignmentParameters:
    """The unknowns in the parametrisation of DUSt3R's optimiser, whose steps depend on it (its quaternions are xyzw)."""

    im_poses: Tensor  # (F, 7) quaternion xyzw, signed log(1 + |t|)
    im_focals: Tensor  # (F, 1) or (1, 1) when shared: FOCAL_UNIT * log(focal_px)
    im_depthmaps: Tensor  # (F, H * W) log depth
    pw_poses: Tensor  # (P, 8) quaternion xyzw, signed log(1 + |t|), log scale
    free_scale: bool = True  # False when given poses fix the world's scale: then the pair scales are not normalised

    def tensors(self) -> list[Tensor]:
        """All parameters, for an optimiser."""
        return [self.im_poses, self.im_focals, self.im_depthmaps, self.pw_poses]

    def cam_to_world(self) -> Tensor:
        """Poses (F, 4, 4)."""
        return _pose_of(self.im_poses)

    def focals(self) -> Tensor:
        """Focal lengths (F,) in pixels."""
        return (self.im_focals[:, 0] / FOCAL_UNIT).exp().expand(self.im_poses.shape[0])

    def pair_scales(self) -> Tensor:
        """Scales (P,) whose geometric mean is BASE_SCALE, unless given poses fix the scale."""
        log_scale = self.pw_poses[:, 7]
        if not self.free_scale:
            return log_scale.exp()
        return (log_scale - log_scale.mean()).exp() * BASE_SCALE

    def pair_to_world(self) -> Tensor:
        """Similarities (P, 4, 4); the scale multiplies the translation too."""
        scale = torch.cat((self.pair_scales()[:, None].expand(-1, 3), torch.ones_like(self.pw_poses[:, :1])), dim=1)  # (P, 4)
        return _pose_of(self.pw_poses) * scale[:, :, None]

    def world_points(self, height: int, width: int) -> Tensor:
        """Points (F, H, W, 3)."""
        depth = self.im_depthmaps.exp().unflatten(1, (height, width))
        return transform(self.cam_to_world(), unproject(depth, intrinsics_from_focal(self.focals(), height, width)))


def objective(data: Pairwise, parameters: AlignmentParameters) -> Tensor:
    """The objective as a differentiable function of the optimiser's parameters."""
    return alignment_energy(data, parameters.world_points(*data.size), parameters.pair_to_world())


def signed_log1p(value: Tensor) -> Tensor:
    """sign(x) log(1 + |x|)."""
    return value.sign() * value.abs().log1p()


def signed_expm1(value: Tensor) -> Tensor:
    """Inverse of `signed_log1p`."""
    return value.sign() * value.abs().expm1()


def _pose_of(parameters: Tensor) -> Tensor:
    wxyz = parameters[:, [3, 0, 1, 2]]
    return pose_from(rotation_from_quaternion_wxyz(wxyz), signed_expm1(parameters[:, 4:7]))


def pose_parameters(poses: Tensor) -> Tensor:
    """Optimiser parameters (N, 7) of rigid poses (N, 4, 4)."""
    xyzw = quaternion_wxyz_from_rotation(poses[:, :3, :3])[:, [1, 2, 3, 0]]
    return torch.cat((xyzw, signed_log1p(poses[:, :3, 3])), dim=1)
