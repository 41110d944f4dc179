"""Pointmaps: what frame 1 sees of the others, and the scale that the contract fixes."""

import pytest
import torch

from jog3r.geometry.cameras import intrinsics_from_focal, invert, pose_from, project, so3_exp, transform, unproject
from jog3r.geometry.pointmaps import mean_distance, normalise_scale, pointmaps_in_first_camera


def clip(batch: int = 2, frames: int = 3, height: int = 4, width: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    depth = 2 + torch.rand(batch, frames, height, width, dtype=torch.float64)
    intrinsics = intrinsics_from_focal(5 + torch.rand(batch, frames, dtype=torch.float64), height, width)
    poses = pose_from(so3_exp(0.2 * torch.randn(batch, frames, 3, dtype=torch.float64)), torch.randn(batch, frames, 3).double())
    return depth, intrinsics, poses


def test_frame_1_is_unprojected_and_the_world_does_not_matter() -> None:
    depth, intrinsics, poses = clip()
    maps = pointmaps_in_first_camera(depth, intrinsics, poses)
    torch.testing.assert_close(maps[:, 0], unproject(depth, intrinsics)[:, 0])
    elsewhere = pose_from(so3_exp(torch.randn(3, dtype=torch.float64)), torch.randn(3, dtype=torch.float64))
    torch.testing.assert_close(pointmaps_in_first_camera(depth, intrinsics, elsewhere @ poses), maps)


def test_points_project_back_to_their_pixels() -> None:
    depth, intrinsics, poses = clip()
    maps = pointmaps_in_first_camera(depth, intrinsics, poses)
    own = transform(invert(invert(poses[:, :1]) @ poses), maps)
    pixels = project(own, intrinsics)
    assert pixels[0, 2, 1, 3].tolist() == pytest.approx([3, 1])
    torch.testing.assert_close(own[..., 2], depth)


def test_pointmaps_are_differentiable_in_depth() -> None:
    depth, intrinsics, poses = clip(batch=1)
    depth.requires_grad_()
    pointmaps_in_first_camera(depth, intrinsics, poses).sum().backward()
    assert torch.isfinite(depth.grad).all() and depth.grad.abs().sum() > 0


def test_mean_distance_ignores_invalid_points_even_nan() -> None:
    points = torch.tensor([[[3.0, 0, 4], [float("nan"), 0, 0]]])  # (1, 2, 3)
    assert float(mean_distance(points, torch.tensor([[True, False]]))) == 5
    assert float(mean_distance(points, torch.tensor([[False, False]]))) == 1


def test_normalised_scale_makes_frame_1_one_away() -> None:
    depth, intrinsics, poses = clip()
    maps = pointmaps_in_first_camera(depth, intrinsics, poses)
    valid = torch.rand(depth.shape) > 0.3
    scaled, scaled_poses, factor = normalise_scale(maps, poses, valid)
    torch.testing.assert_close(mean_distance(scaled[:, 0], valid[:, 0]), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(scaled, maps * factor[:, None, None, None, None])
    torch.testing.assert_close(scaled_poses[..., :3, 3], poses[..., :3, 3] * factor[:, None, None])
    torch.testing.assert_close(scaled_poses[..., :3, :3], poses[..., :3, :3])


def test_mismatched_leading_dimensions_are_refused() -> None:
    depth, intrinsics, poses = clip()
    with pytest.raises(ValueError, match="leading dimensions"):
        pointmaps_in_first_camera(depth, intrinsics, poses[:, :2])
