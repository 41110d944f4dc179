"""Which depth is believed when pointmaps are made of it, and the scale between depth and cameras."""

import pytest
import torch

from jog3r.data.procedural import procedural_clip
from jog3r.training.depth_checks import (
    DepthChecks,
    agreement_mask,
    away_from_edges,
    disagreement,
    known_depth,
    pose_scale,
)


@pytest.fixture(scope="module")
def geometry() -> tuple[torch.Tensor, ...]:
    clip = procedural_clip(2, "train", num_frames=6, height=48, width=48)
    return tuple(torch.from_numpy(getattr(clip, name)) for name in ("depth", "valid", "intrinsics", "poses"))


def test_sky_has_no_depth() -> None:
    depth = torch.tensor([0.0, -1.0, float("inf"), float("nan"), 2.0, 500.0])
    assert known_depth(depth).tolist() == [False, False, False, False, True, True]
    assert known_depth(depth, max_depth=100.0).tolist() == [False, False, False, False, True, False]


def test_both_sides_of_a_jump_are_edges_and_slopes_are_not() -> None:
    depth = torch.linspace(2.0, 2.2, 8).expand(6, 8).clone()
    depth[:, 4:] += 1.0
    valid = torch.ones(6, 8, dtype=torch.bool)
    assert (~away_from_edges(depth, valid)).nonzero()[:, 1].unique().tolist() == [3, 4]
    assert away_from_edges(depth, valid, threshold=2.0).all()
    valid[:, 4] = False  # beside the unknown nothing is known to jump
    assert torch.equal(away_from_edges(depth, valid), valid)
    assert (~away_from_edges(depth.T, torch.ones(8, 6, dtype=torch.bool))).nonzero()[:, 0].unique().tolist() == [3, 4]


def test_exact_depth_and_cameras_agree(geometry: tuple[torch.Tensor, ...]) -> None:
    depth, valid, intrinsics, poses = geometry
    error = disagreement(depth, valid, intrinsics, poses, 0, 3)
    seen = error.isfinite()
    assert seen.float().mean() > 0.5
    assert error[seen].median() < 1e-4  # on a plane 1/z is linear in the image, so that interpolation is exact
    still = torch.eye(4).expand_as(poses)
    assert disagreement(depth, valid, intrinsics, still, 0, 3).nanmedian() > 0.02
    assert disagreement(depth, torch.zeros_like(valid), intrinsics, poses, 0, 3).isnan().all()
    assert disagreement(depth, valid, intrinsics, poses, 0, 3, step=4).shape == (12, 12)


def test_pixels_that_a_neighbour_looks_through_go(geometry: tuple[torch.Tensor, ...]) -> None:
    depth, valid, intrinsics, poses = geometry
    assert agreement_mask(depth, valid, intrinsics, poses).float().mean() > 0.97
    floating = depth.clone()
    floating[2, 20:28, 20:28] *= 0.5  # in mid-air, before what both neighbours see
    kept = agreement_mask(floating, valid, intrinsics, poses)
    assert kept[2, 21:27, 21:27].float().mean() < 0.1
    assert kept[2].float().mean() > 0.9
    checks = DepthChecks(edge_threshold=0.1, agreement_threshold=0.1)
    kept = checks.apply(floating, valid, intrinsics, poses)
    assert not kept[2, 19:29, 19:29].all(0).any()
    assert torch.equal(DepthChecks(None, None).apply(floating, valid, intrinsics, poses), valid)
    for function in (lambda: agreement_mask(*geometry, threshold=0.0), lambda: away_from_edges(depth, valid, -1.0)):
        with pytest.raises(ValueError, match="threshold must be positive"):
            function()


@pytest.mark.parametrize("factor", [0.02, 0.4, 3.0])
def test_the_unit_of_the_path_is_brought_to_that_of_the_depth(geometry: tuple[torch.Tensor, ...], factor: float) -> None:
    depth, valid, intrinsics, poses = geometry
    scaled = poses.clone()
    scaled[:, :3, 3] *= factor
    assert pose_scale(depth, valid, intrinsics, scaled) == pytest.approx(1 / factor, rel=0.02)


def test_a_camera_that_stands_still_has_no_scale(geometry: tuple[torch.Tensor, ...]) -> None:
    depth, valid, intrinsics, poses = geometry
    assert pose_scale(depth, valid, intrinsics, torch.eye(4).expand_as(poses)) == 1.0
    assert pose_scale(depth, torch.zeros_like(valid), intrinsics, poses) == 1.0
