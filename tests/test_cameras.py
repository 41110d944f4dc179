"""Cameras: known values of the conventions, inverses, and rotations at their awkward angles."""

import math

import numpy as np
import pytest
import torch

from jog3r.geometry import cameras, similarity
from jog3r.geometry.cameras import (
    compose,
    hat,
    intrinsics_from_focal,
    invert,
    nearest_rotation,
    pixel_grid,
    pixel_rays,
    pose_from,
    project,
    quaternion_wxyz_from_rotation,
    relative_poses,
    rotation_angle_deg,
    rotation_from_quaternion_wxyz,
    so3_exp,
    so3_log,
    transform,
    umeyama_sim3,
    unproject,
)
from jog3r.geometry.pointmaps import mean_distance, pointmaps_in_first_camera
from jog3r.geometry.pose_graph import chain_nodes
from jog3r.geometry.registration.other_inputs import register_world_pointmaps, registration_from_depth
from jog3r.geometry.reprojection import seen_from_first
from jog3r.geometry.windows import WindowGeometry


def random_poses(*shape: int) -> torch.Tensor:
    return pose_from(so3_exp(torch.randn(*shape, 3, dtype=torch.float64)), torch.randn(*shape, 3, dtype=torch.float64))


def test_pixel_centres_are_integers_and_the_principal_point_is_half_the_size() -> None:
    grid = pixel_grid(4, 6)
    assert grid.shape == (4, 6, 2)
    assert grid[0, 0].tolist() == [0, 0] and grid[3, 5].tolist() == [5, 3]
    intrinsics = intrinsics_from_focal(torch.tensor(10.0), 4, 6)
    assert intrinsics.tolist() == [[10, 0, 3], [0, 10, 2], [0, 0, 1]]
    # The pixel at the principal point looks along the axis.
    assert pixel_rays(intrinsics, 4, 6)[2, 3].tolist() == [0, 0, 1]


def test_axes_are_right_down_forward() -> None:
    intrinsics = intrinsics_from_focal(torch.tensor(10.0), 4, 6)
    assert project(torch.tensor([1.0, 0.5, 5.0]), intrinsics).tolist() == [3 + 2, 2 + 1]


def test_project_inverts_unproject_with_non_square_pixels() -> None:
    intrinsics = torch.tensor([[30.0, 0, 4], [0, 25, 3.5], [0, 0, 1]], dtype=torch.float64).expand(2, 3, 3)
    depth = 1 + torch.rand(2, 5, 7, dtype=torch.float64)
    points = unproject(depth, intrinsics)
    torch.testing.assert_close(points[..., 2], depth)
    torch.testing.assert_close(project(points, intrinsics), pixel_grid(5, 7, dtype=torch.float64).expand(2, 5, 7, 2))


def test_poses_are_camera_to_world() -> None:
    pose = pose_from(torch.eye(3), torch.tensor([1.0, 2.0, 3.0]))
    assert transform(pose, torch.zeros(3)).tolist() == [1, 2, 3]  # the camera's centre


@pytest.mark.parametrize("points_shape", [(2, 3, 3), (2, 3, 5, 3), (2, 3, 4, 5, 3)])
def test_transform_matches_the_plain_formula(points_shape: tuple[int, ...]) -> None:
    poses = random_poses(2, 3)
    points = torch.randn(*points_shape, dtype=torch.float64)
    shape = (2, 3, *[1] * (len(points_shape) - 3))
    plain = (poses[..., :3, :3].reshape(*shape, 3, 3) @ points[..., None])[..., 0] + poses[..., :3, 3].reshape(*shape, 3)
    torch.testing.assert_close(transform(poses, points), plain)


def test_invert_compose_and_relative_poses() -> None:
    poses = random_poses(3, 4)
    identity = torch.eye(4, dtype=torch.float64).expand(3, 4, 4, 4)
    torch.testing.assert_close(compose(invert(poses), poses), identity)
    relative = relative_poses(poses)
    torch.testing.assert_close(relative[:, 0], identity[:, 0])
    torch.testing.assert_close(compose(poses[:, :1], relative), poses)


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-6, 1e-3, 1.0, 3.0, math.pi - 1e-7])
def test_so3_log_inverts_exp_at_all_angles(angle: float) -> None:
    axis = torch.nn.functional.normalize(torch.randn(50, 3, dtype=torch.float64), dim=-1)
    vector = angle * axis
    torch.testing.assert_close(so3_log(so3_exp(vector)), vector, atol=1e-8, rtol=1e-8)


def test_half_turns_have_a_logarithm_of_length_pi() -> None:
    for diagonal in ([1.0, -1, -1], [-1.0, 1, -1], [-1.0, -1, 1]):
        assert float(so3_log(torch.diag(torch.tensor(diagonal))).norm()) == pytest.approx(math.pi, rel=1e-6)


def test_so3_exp_is_a_rotation_and_differentiable_at_zero() -> None:
    rotation = so3_exp(torch.randn(20, 3, dtype=torch.float64))
    torch.testing.assert_close(rotation @ rotation.transpose(-1, -2), torch.eye(3, dtype=torch.float64).expand(20, 3, 3))
    quarter = so3_exp(torch.tensor([0.0, 0.0, math.pi / 2]))
    torch.testing.assert_close(quarter @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]), atol=1e-6, rtol=0)
    jacobian = torch.autograd.functional.jacobian(so3_exp, torch.zeros(3))
    torch.testing.assert_close(jacobian[..., 2], hat(torch.tensor([0.0, 0, 1])))


def test_quaternions_are_real_part_first_and_invert() -> None:
    assert quaternion_wxyz_from_rotation(torch.eye(3)).tolist() == [1, 0, 0, 0]
    rotation = random_poses(200)[:, :3, :3]
    quaternion = quaternion_wxyz_from_rotation(rotation)
    assert (quaternion[:, 0] >= 0).all()
    torch.testing.assert_close(rotation_from_quaternion_wxyz(3 * quaternion), rotation)


def test_rotation_angle_is_exact_where_acos_is_not() -> None:
    rotation = so3_exp(torch.tensor([1e-5, 0, 0], dtype=torch.float64))
    assert float(rotation_angle_deg(rotation)) == pytest.approx(math.degrees(1e-5), rel=1e-6)


def test_nearest_rotation_leaves_rotations_alone_and_never_mirrors() -> None:
    rotation = random_poses(5)[:, :3, :3]
    torch.testing.assert_close(nearest_rotation(2.5 * rotation), rotation)
    assert torch.linalg.det(nearest_rotation(-rotation)).min() > 0.99


def test_umeyama_finds_a_similarity_and_obeys_weights() -> None:
    source = torch.randn(2, 30, 3, dtype=torch.float64)
    rotation, translation = so3_exp(torch.randn(2, 3, dtype=torch.float64)), torch.randn(2, 3, dtype=torch.float64)
    target = 1.7 * source @ rotation.transpose(-1, -2) + translation[:, None]
    target[:, 0] += 100  # a gross error, weighted away
    weights = torch.ones(2, 30, dtype=torch.float64)
    weights[:, 0] = 0
    found = umeyama_sim3(source, target, weights)
    torch.testing.assert_close(found[0], torch.full((2,), 1.7, dtype=torch.float64))
    torch.testing.assert_close(found[1], rotation)
    torch.testing.assert_close(found[2], translation)
    rigid = umeyama_sim3(source, target, weights, with_scale=False)
    assert rigid[0].tolist() == [1, 1]
    torch.testing.assert_close(rigid[1], rotation)


def test_umeyama_of_one_place_is_finite() -> None:
    scale, rotation, translation = umeyama_sim3(torch.ones(5, 3), 3 * torch.ones(5, 3))
    assert float(scale) == 1 and torch.isfinite(rotation).all()
    torch.testing.assert_close(rotation @ torch.ones(3) + translation, 3 * torch.ones(3))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: pixel_rays(torch.zeros(3, 4), 2, 2), "intrinsics must end in"),
        (lambda: project(torch.zeros(5, 2), torch.eye(3)), "points must end in"),
        (lambda: invert(torch.zeros(3, 4)), "poses must end in"),
        (lambda: transform(torch.eye(4).expand(2, 3, 4, 4), torch.zeros(2, 3)), "fewer leading dimensions"),
        (lambda: project(torch.zeros(3), torch.eye(3).expand(2, 3, 3)), "fewer leading dimensions"),
        (lambda: umeyama_sim3(torch.zeros(4, 3), torch.zeros(5, 3)), "one shape"),
        (lambda: quaternion_wxyz_from_rotation(torch.zeros(4)), "rotation must end in"),
        (lambda: rotation_from_quaternion_wxyz(torch.zeros(3)), "quaternion must end in"),
    ],
)
def test_wrong_shapes_are_refused_by_name(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


ARRAYS = [
    lambda: cameras.pixel_rays(np.eye(3), 4, 4),
    lambda: cameras.unproject(np.ones((4, 4)), torch.eye(3)),
    lambda: cameras.project(torch.ones(3), np.eye(3)),
    lambda: cameras.transform(torch.eye(4), np.ones(3)),
    lambda: cameras.pose_from(np.eye(3), np.ones(3)),
    lambda: cameras.invert(np.eye(4)),
    lambda: cameras.compose(torch.eye(4), np.eye(4)),
    lambda: cameras.relative_poses([np.eye(4)]),
    lambda: cameras.hat([1.0, 0.0, 0.0]),
    lambda: cameras.so3_exp(np.ones(3)),
    lambda: cameras.rotation_angle_deg(np.eye(3)),
    lambda: cameras.rotation_from_quaternion_wxyz([1.0, 0.0, 0.0, 0.0]),
    lambda: cameras.nearest_rotation(np.eye(3)),
    lambda: cameras.umeyama_sim3(torch.ones(5, 3), np.ones((5, 3))),
    lambda: pointmaps_in_first_camera(np.ones((2, 4, 4)), np.eye(3), np.eye(4)),
    lambda: mean_distance(np.ones((4, 4, 3)), np.ones((4, 4), bool)),
    lambda: seen_from_first(
        torch.ones(2, 1, 4, 4), np.ones((2, 4, 4)), torch.eye(4).repeat(2, 1, 1), torch.eye(3).repeat(2, 1, 1)
    ),
    lambda: similarity.fit_similarity(np.ones((20, 3)), np.ones((20, 3)), np.ones(20)),
    lambda: similarity.sim3_log(np.eye(4)),
    lambda: chain_nodes([np.eye(4)]),
    lambda: WindowGeometry(np.eye(4)[None], torch.eye(3)[None], torch.ones(1, 4, 4), torch.ones(1, 4, 4)),
    lambda: registration_from_depth(np.ones((2, 4, 4)), np.eye(3), np.eye(4)),
    lambda: register_world_pointmaps(np.ones((2, 4, 4, 3))),
]


@pytest.mark.parametrize("call", ARRAYS)
def test_what_is_no_tensor_is_refused_by_type(call) -> None:
    with pytest.raises(TypeError, match="must be a torch tensor, got (ndarray|list); torch.as_tensor takes"):
        call()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_precision_stays_what_it_is(dtype: torch.dtype) -> None:
    points = torch.rand(30, 3).to(dtype)
    scale, rotation, translation = cameras.umeyama_sim3(points, points + 1)
    assert {scale.dtype, rotation.dtype, translation.dtype} == {dtype}
    torch.testing.assert_close(rotation, torch.eye(3, dtype=dtype), atol=0.05, rtol=0)
    frames = torch.ones(2, 1, 8, 8, dtype=dtype)
    intrinsics = cameras.intrinsics_from_focal(torch.tensor([8.0, 8.0], dtype=dtype), 8, 8)
    seen, mask = seen_from_first(frames, frames[:, 0], torch.eye(4, dtype=dtype).repeat(2, 1, 1), intrinsics)
    assert seen.dtype == dtype and bool(mask[0, 1:7, 1:7].all())


def test_whole_numbers_as_focal_keep_half_pixels() -> None:
    assert cameras.intrinsics_from_focal(50, 5, 5)[0].tolist() == [50.0, 0.0, 2.5]
    assert cameras.intrinsics_from_focal(np.array([50, 60]), 5, 5)[1, 1, 2] == 2.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_no_rotation_is_no_rotation_in_half_precision(dtype: torch.dtype) -> None:
    assert torch.equal(so3_exp(torch.zeros(3, dtype=dtype)), torch.eye(3, dtype=dtype))
    turn = torch.tensor([0.0, 0.0, 1e-3], dtype=dtype)
    torch.testing.assert_close(so3_exp(turn).double(), so3_exp(turn.double()), rtol=1e-2, atol=1e-5)
