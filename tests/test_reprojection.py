"""Frames seen from the first frame, and the maps drawn of it."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from jog3r.data import procedural_clip
from jog3r.export.pictures.consistency import consistency_maps, consistency_picture
from jog3r.export.scene import Scene
from jog3r.geometry.reprojection import inside_image, seen_from_first


def _plane(num_frames: int, shift: float, size: int = 16) -> tuple[torch.Tensor, ...]:
    """Depth 2 everywhere, cameras moving right by `shift` a frame, focal length 10: pictures move left by 5 `shift` pixels."""
    depth = torch.full((num_frames, size, size), 2.0)
    poses = torch.eye(4).repeat(num_frames, 1, 1)
    poses[:, 0, 3] = shift * torch.arange(num_frames)
    intrinsics = torch.tensor([[10.0, 0, 8], [0, 10, 8], [0, 0, 1]]).repeat(num_frames, 1, 1)
    return depth, poses, intrinsics


def test_a_sideways_move_over_a_plane_is_a_shift_of_whole_pixels():
    depth, poses, intrinsics = _plane(3, 0.2)
    columns = torch.arange(16.0).expand(3, 1, 16, 16)
    carried, seen = seen_from_first(columns, depth, poses, intrinsics)
    assert carried.shape == (2, 1, 16, 16) and seen.dtype == torch.bool
    for f in (1, 2):
        torch.testing.assert_close(carried[f - 1, 0][seen[f - 1]], (columns[0, 0] - f)[seen[f - 1]])
        assert seen[f - 1, :, f:].all() and not seen[f - 1, :, :f].any()


def test_hidden_unknown_and_backward_points_are_not_seen():
    depth, poses, intrinsics = _plane(2, 0.0)
    values = torch.zeros(2, 3, 16, 16)
    hiding = depth.clone()
    hiding[1, :, :8] = 1.0
    assert not seen_from_first(values, hiding, poses, intrinsics)[1][0, :, :7].any()
    known = torch.ones(2, 16, 16, dtype=torch.bool)
    known[0, 3, 3] = known[1, 5, 5] = False
    seen = seen_from_first(values, depth, poses, intrinsics, known)[1][0]
    assert not seen[3, 3] and not seen[5, 5] and int((~seen).sum()) == 2
    turned = poses.clone()
    turned[1, :3, :3] = torch.diag(torch.tensor([-1.0, 1.0, -1.0]))
    assert not seen_from_first(values, depth, turned, intrinsics)[1].any()


def test_inside_image_ends_at_the_pixel_centres():
    pixels = torch.tensor([[0.0, 0.0], [3.0, 1.0], [3.01, 1.0], [-0.01, 0.0], [1.0, 1.01]])
    assert inside_image(pixels, 2, 4).tolist() == [True, True, False, False, False]


def _scene(index: int = 9) -> Scene:
    clip = procedural_clip(index, split="test", num_frames=6)
    return Scene.from_depth(clip.frames, clip.depth, clip.poses, clip.intrinsics, valid=clip.valid)


def test_true_geometry_is_consistent_and_wrong_cameras_are_not():
    scene = _scene()
    true = consistency_maps(scene)
    assert true.difference.shape == true.seen.shape == (5, 64, 64) and true.seen.mean() > 0.3
    still = Scene.from_depth(scene.frames, scene.depth, np.tile(np.eye(4), (6, 1, 1)), scene.intrinsics)
    assert true.mean < 0.7 * consistency_maps(still).mean


def test_the_picture_of_the_maps_opens():
    picture, dark = (Image.open(io.BytesIO(consistency_picture(_scene(), dark=dark))) for dark in (False, True))
    assert picture.width > 600 and np.asarray(picture).std() > 20
    assert picture.size == dark.size and min(picture.getpixel((0, 0))) > 220 and max(dark.getpixel((0, 0))) < 40


def test_consistency_needs_geometry_and_two_frames():
    scene = _scene()
    with pytest.raises(ValueError, match="pointmaps"):
        consistency_maps(Scene(scene.frames, scene.poses, scene.intrinsics))
    with pytest.raises(ValueError, match="2 frames"):
        consistency_maps(Scene.from_depth(scene.frames[:1], scene.depth[:1], scene.poses[:1], scene.intrinsics[:1]))
