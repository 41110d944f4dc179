"""Which depth is believed when pointmaps are made of it, and the scale between depth and cameras."""

import math

import pytest
import torch

from jog3r.data.procedural import procedural_clip
from jog3r.training.preparation.depth_masks import (
    DepthChecks,
    agreement_mask,
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
    for checks in (DepthChecks(agreement_threshold=0.0), DepthChecks(agreement_threshold=math.nan), DepthChecks(-1.0)):
        with pytest.raises(ValueError, match="threshold must be positive"):
            checks.apply(*geometry)


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


def _sphere(pan_deg: float, num_frames: int = 17, size: int = 48) -> tuple[torch.Tensor, ...]:
    """Exact depth in a sphere of radius 3 whose middle a camera of 60 degrees passes by 0.5 while it turns."""
    focal = size / 2 / math.tan(math.radians(30))
    poses, depth = torch.eye(4).repeat(num_frames, 1, 1), []
    rows, columns = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij")
    rays = torch.stack([(columns - size / 2) / focal, (rows - size / 2) / focal, torch.ones(size, size)], -1)  # (H, W, 3)
    for pose, time in zip(poses, torch.linspace(-0.5, 0.5, num_frames).tolist(), strict=True):
        sine, cosine = math.sin(math.radians(pan_deg) * time), math.cos(math.radians(pan_deg) * time)
        pose[:3, :3] = torch.tensor([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])
        pose[0, 3] = 0.5 * time
        world = rays @ pose[:3, :3].T
        a, b, c = (world * world).sum(-1), (world * pose[:3, 3]).sum(-1), (0.5 * time) ** 2 - 9
        depth.append(((b * b - a * c).sqrt() - b) / a)
    intrinsics = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]]).expand(num_frames, 3, 3)
    return torch.stack(depth), torch.ones(num_frames, size, size, dtype=torch.bool), intrinsics, poses


@pytest.mark.parametrize("pan_deg", [10, 75, 90, 300])
def test_a_camera_that_turns_away_has_the_scale_of_one_that_does_not(pan_deg: float) -> None:
    assert pose_scale(*_sphere(pan_deg)) == pytest.approx(1, rel=0.02)


def test_unknown_pixels_are_no_lack_of_overlap() -> None:
    depth, valid, intrinsics, poses = _sphere(10)
    valid[:, 8:] = False  # a sixth of the pixels is left
    assert pose_scale(depth, valid, intrinsics, poses) == pytest.approx(1, rel=0.02)


def test_frames_that_see_nothing_of_each_other_have_no_scale() -> None:
    with pytest.raises(ValueError, match="too little of a frame is seen in others"):
        pose_scale(*_sphere(90, num_frames=2))
    with pytest.raises(ValueError, match="too little of a frame is seen in others"):
        pose_scale(*_sphere(1100))  # neighbours at 1/16 of the path are 69 degrees apart
