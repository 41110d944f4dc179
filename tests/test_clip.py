"""Clip: what it refuses, and that batching, reversal and mirroring keep the geometry true."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from jog3r.data.clip import Clip, mirror, reverse
from jog3r.data.procedural import procedural_clip


def small_clip(num_frames: int = 2, height: int = 3, width: int = 4, **changes) -> Clip:
    intrinsics = np.tile(np.array([[5, 0, width / 2], [0, 5, height / 2], [0, 0, 1]], np.float32), (num_frames, 1, 1))
    values = {
        "frames": np.arange(num_frames * height * width * 3, dtype=np.uint8).reshape(num_frames, height, width, 3),
        "depth": np.ones((num_frames, height, width), np.float32),
        "valid": np.ones((num_frames, height, width), bool),
        "poses": np.tile(np.eye(4, dtype=np.float32), (num_frames, 1, 1)),
        "intrinsics": intrinsics,
        "caption": "a room",
    }
    return Clip(**{**values, **changes})


def reprojection_errors(clip: Clip, source: int, target: int) -> np.ndarray:
    """Relative depth differences where pixels of one frame land in another; inverse depth is linear on planes."""
    height, width = clip.size
    k, kt = clip.intrinsics[source].astype(float), clip.intrinsics[target].astype(float)
    y, x = np.mgrid[:height, :width]
    rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(k).T
    points = rays * clip.depth[source][..., None].astype(float)
    world = points @ clip.poses[source, :3, :3].T + clip.poses[source, :3, 3]
    local = (world - clip.poses[target, :3, 3]) @ clip.poses[target, :3, :3]
    pixels = local @ kt.T
    u, v = pixels[..., 0] / pixels[..., 2], pixels[..., 1] / pixels[..., 2]
    inside = (local[..., 2] > 0) & (u >= 0) & (v >= 0) & (u < width - 1) & (v < height - 1)
    u, v, z = u[inside], v[inside], local[..., 2][inside]
    j, i = np.floor(u).astype(int), np.floor(v).astype(int)
    a, b, inverse = u - j, v - i, 1.0 / clip.depth[target].astype(float)
    top = inverse[i, j] * (1 - a) + inverse[i, j + 1] * a
    bottom = inverse[i + 1, j] * (1 - a) + inverse[i + 1, j + 1] * a
    return np.abs((top * (1 - b) + bottom * b) * z - 1.0)


def test_a_consistent_clip_is_accepted_and_tells_its_size():
    clip = small_clip()
    assert clip.num_frames == 2
    assert clip.size == (3, 4)
    assert clip.attributes == {}


@pytest.mark.parametrize(
    ("field", "value", "error", "message"),
    [
        ("frames", np.zeros((2, 3, 4, 3), np.float32), TypeError, "frames must have dtype uint8, got float32"),
        ("frames", torch.zeros(2, 3, 4, 3, dtype=torch.uint8), TypeError, "frames must be a numpy array, got Tensor"),
        ("frames", np.zeros((2, 3, 3, 4), np.uint8), ValueError, r"frames must have shape \(F, H, W, 3\)"),
        ("frames", np.zeros((0, 3, 4, 3), np.uint8), ValueError, "at least one frame"),
        ("depth", np.ones((2, 3, 4)), TypeError, "depth must have dtype float32, got float64"),
        ("depth", np.ones((2, 4, 3), np.float32), ValueError, r"depth must have shape \(2, 3, 4\)"),
        ("depth", np.full((2, 3, 4), np.nan, np.float32), ValueError, "depth holds NaN"),
        ("depth", np.zeros((2, 3, 4), np.float32), ValueError, "depth must be positive"),
        ("valid", np.ones((2, 3, 4), np.uint8), TypeError, "valid must have dtype bool, got uint8"),
        ("poses", np.zeros((2, 3, 4), np.float32), ValueError, r"poses must have shape \(2, 4, 4\)"),
        ("poses", np.zeros((2, 4, 4), np.float32), ValueError, "must be the identity"),
        ("poses", np.full((2, 4, 4), np.inf, np.float32), ValueError, "poses holds NaN or infinity"),
        ("intrinsics", np.zeros((2, 3, 3), np.float32), ValueError, "positive focal lengths"),
        ("caption", None, TypeError, "caption must be a str, got NoneType"),
    ],
)
def test_refuses(field, value, error, message):
    with pytest.raises(error, match=message):
        small_clip(**{field: value})


def test_zero_depth_is_fine_where_it_is_not_valid():
    small_clip(depth=np.zeros((2, 3, 4), np.float32), valid=np.zeros((2, 3, 4), bool))


@pytest.mark.parametrize("change", [reverse, mirror])
@pytest.mark.parametrize("index", [0, 2, 15])
def test_changed_clips_still_reproject(change, index):
    clip = change(procedural_clip(index, num_frames=4, height=48, width=64))
    for source, target in ((0, 3), (3, 0), (0, 1)):
        assert np.median(reprojection_errors(clip, source, target)) < 1e-5


def test_a_mirrored_clip_does_not_reproject_with_the_unmirrored_principal_point():
    clip = procedural_clip(1, num_frames=4)
    wrong = replace(mirror(clip), intrinsics=clip.intrinsics)
    assert np.median(reprojection_errors(wrong, 0, 3)) > 1e-4


@pytest.mark.parametrize("change", [reverse, mirror])
def test_twice_is_the_clip_again(change):
    clip = procedural_clip(3, num_frames=4, height=20, width=32)
    again = change(change(clip))
    for name in ("frames", "depth", "valid", "intrinsics"):
        assert np.array_equal(getattr(again, name), getattr(clip, name))
    np.testing.assert_allclose(again.poses, clip.poses, atol=1e-6)
    assert (again.caption, again.attributes) == (clip.caption, clip.attributes)


def test_reverse_and_mirror_change_the_motion_in_words_and_truth():
    clip = procedural_clip(0, num_frames=2, height=8, width=8)
    assert clip.caption.endswith("the camera turns right")
    assert reverse(clip).caption.endswith("the camera turns left")
    assert reverse(clip).attributes["motion"] == mirror(clip).attributes["motion"] == "turns left"
    assert clip.attributes["motion"] == "turns right"


def test_forward_is_reversed_but_not_mirrored():
    clip = small_clip(caption="a room, the camera moves forward, slowly", attributes={"motion": "moves forward"})
    assert reverse(clip).caption == "a room, the camera moves backward, slowly"
    assert mirror(clip).caption == clip.caption


def test_a_caption_without_known_motion_is_mirrored_but_not_reversed():
    clip = small_clip(caption="a door on the left")
    assert reverse(clip).caption == "a door on the left"
    assert mirror(clip).caption == "a door on the right"


def test_mirror_moves_pixels_and_principal_point_together():
    clip = small_clip()
    mirrored = mirror(clip)
    assert np.array_equal(mirrored.frames[:, :, 0], clip.frames[:, :, 3])
    assert mirrored.intrinsics[0, 0, 2] == 4 - 1 - 2
    assert mirrored.intrinsics[0, 1, 2] == clip.intrinsics[0, 1, 2]


def test_a_single_frame_is_reversed_into_an_array_that_torch_takes():
    clip = reverse(procedural_clip(0, num_frames=1, height=16, width=16))
    assert torch.from_numpy(clip.frames).shape == (1, 16, 16, 3) and torch.from_numpy(clip.depth).shape == (1, 16, 16)
