"""MEt3R in both forms, the splatting under it, motion and warp error: parity, known values, refusals."""

import numpy as np
import pytest
import torch

from jog3r.data import procedural_clip
from jog3r.evaluation import met3r_pairs, met3r_self, video_motion, warp_error
from jog3r.evaluation.consistency import as_video
from jog3r.evaluation.scoring import score_consistency
from jog3r.evaluation.splatting import splat_points
from jog3r.geometry.cameras import transform, unproject


@pytest.fixture(scope="module")
def clip():
    return procedural_clip(3, split="train", num_frames=5, height=48, width=64)


@pytest.fixture(scope="module")
def pointmaps(clip):
    depth, intrinsics, poses = (torch.from_numpy(x) for x in (clip.depth, clip.intrinsics, clip.poses))
    return transform(poses, unproject(depth, intrinsics))


# ---- splatting


def test_one_point_is_a_parabola():
    splat = splat_points(torch.tensor([[2.25, 1.0]]), torch.tensor([3.0]), torch.tensor([[8.0]]), 3, 5, radius_px=1.5)
    assert splat.values[1, 2, 0] == pytest.approx(8 * (1 - 0.25**2 / 2.25))
    assert splat.values[0, 3, 0] == pytest.approx(8 * (1 - (0.75**2 + 1) / 2.25))
    assert splat.coverage[1, 2] == pytest.approx(1 - 0.25**2 / 2.25)
    assert splat.depth[1, 2] == 3.0
    assert not splat.hit[1, 4]
    assert splat.depth[1, 4] == torch.inf


def test_near_points_cover_far_ones_front_to_back():
    pixels = torch.tensor([[1.0, 1.0], [1.5, 1.0]])
    splat = splat_points(pixels, torch.tensor([2.0, 1.0]), torch.tensor([[10.0], [20.0]]), 3, 3, radius_px=1.0)
    front, behind = 0.75, 1.0  # the nearer point is half a pixel away
    assert splat.values[1, 1, 0] == pytest.approx(20 * front + 10 * behind * (1 - front))
    assert splat.depth[1, 1] == 1.0


def test_points_per_pixel_and_points_behind_the_camera():
    pixels = torch.zeros(4, 2)
    values, depth = torch.eye(4), torch.tensor([3.0, 1.0, -1.0, 2.0])
    splat = splat_points(pixels + 0.5, depth, values, 1, 1, radius_px=1.0, points_per_pixel=2)
    assert (splat.values[0, 0] > 0).tolist() == [False, True, False, True]


def test_splatting_refuses():
    with pytest.raises(ValueError, match="radius_px > 0"):
        splat_points(torch.zeros(1, 2), torch.ones(1), torch.ones(1, 1), 2, 2, radius_px=0)
    with pytest.raises(ValueError, match="must agree"):
        splat_points(torch.zeros(2, 2), torch.ones(1), torch.ones(1, 1), 2, 2, radius_px=1)


# ---- the public package's score


@pytest.mark.parametrize("name", ["met3r_64", "met3r_64_radius", "met3r_48x64", "met3r_128"])
def test_pairs_equal_the_package(parity, name):
    info, tensors = parity(name)
    for version, prefix in (("1.0.1", "out"), ("1.0", "out_v1")):
        result = met3r_pairs(
            tensors["in.feat"],
            tensors["in.pts"],
            tensors["in.conf"],
            upsampling=info["case"]["up"],
            radius_ndc=info["raster"]["radius"],
            version=version,
        )
        torch.testing.assert_close(result.score, tensors[f"{prefix}.score"], atol=1e-5, rtol=0)
    torch.testing.assert_close(result.focal_ndc, tensors["out.focal_ndc"][::2], atol=1e-5, rtol=0)
    assert int((result.overlap_mask != tensors["out.overlap_mask"].bool()).sum()) <= 3
    result = met3r_pairs(
        tensors["in.feat"],
        tensors["in.pts"],
        tensors["in.conf"],
        upsampling=info["case"]["up"],
        radius_ndc=info["raster"]["radius"],
    )
    assert float((result.score_map - tensors["out.score_map"]).abs().max()) < 5e-4


def test_pairs_refuse():
    good = torch.ones(1, 2, 3, 4, 4), torch.ones(1, 2, 8, 8, 3), torch.ones(1, 2, 8, 8)
    with pytest.raises(ValueError, match=r"'2\.0'"):
        met3r_pairs(*good, version="2.0")
    with pytest.raises(ValueError, match="features"):
        met3r_pairs(good[0][:, :1], *good[1:])
    with pytest.raises(ValueError, match="confidence"):
        met3r_pairs(*good[:2], good[2][..., :4])


# ---- JOG3R's score


def test_true_geometry_scores_better_than_wrong_geometry(clip, pointmaps):
    right = met3r_self(clip.frames, pointmaps, clip.intrinsics)
    still = met3r_self(clip.frames, pointmaps[:1].expand_as(pointmaps), clip.intrinsics)  # as if the camera had not moved
    assert right.score < 0.5 * still.score
    assert right.per_frame.shape == right.visibility.shape == (4,)
    assert 0.2 < right.visibility.min() <= right.visibility.max() <= 1


def test_a_frozen_video_wins_and_motion_tells(clip, pointmaps):
    frames = np.repeat(clip.frames[:1], 5, axis=0)
    frozen = met3r_self(frames, pointmaps[:1].expand_as(pointmaps), clip.intrinsics)
    assert frozen.score < 1e-2
    assert frozen.motion["frame_difference"] == 0
    assert frozen.motion["flow_px"] < 1e-3
    moving = met3r_self(clip.frames, pointmaps, clip.intrinsics)
    assert moving.motion["frame_difference"] > 1
    assert moving.motion["flow_px"] > 1


def test_black_equals_black_and_brightness_counts(clip, pointmaps):
    still = pointmaps[:1].expand_as(pointmaps)
    barred = np.repeat(clip.frames[:1], 5, axis=0)
    barred[:, :12], barred[:, -12:] = 0, 0  # a film with black bars above and below
    assert met3r_self(barred, still, clip.intrinsics).score < 1e-2
    dimmed = np.repeat(clip.frames[:1], 5, axis=0)
    dimmed[1:] //= 2
    assert met3r_self(dimmed, still, clip.intrinsics).score > 1e-2


def test_unknown_depth_is_not_splatted_in_front_of_everything(clip, pointmaps):
    """Pixels of depth 0 have their point at their camera's centre, which a walk forward brings before frame 1's camera."""
    frames = np.repeat(clip.frames[:1], 2, axis=0)
    points = pointmaps[:1].expand(2, -1, -1, -1).clone()
    known = torch.ones(points.shape[:3], dtype=torch.bool)
    known[1, :, ::2] = False
    points[1, :, ::2] = torch.tensor([0.0, 0.0, 0.1])
    result = met3r_self(frames, points, clip.intrinsics[:2], valid=known)
    assert result.score < 1e-2 and result.motion["flow_px"] < 1e-3
    assert met3r_self(frames, points, clip.intrinsics[:2]).motion["flow_px"] > 1
    with pytest.raises(ValueError, match="valid must have shape"):
        met3r_self(frames, points, clip.intrinsics[:2], valid=known[:1])


def test_evaluation_leaves_unknown_depth_and_unknown_poses_out(clip):
    poses = np.tile(np.eye(4, dtype=np.float32), (5, 1, 1))
    poses[1:, 2, 3] = 0.3  # forwards: the cameras' centres are seen by frame 1, in front of everything
    geometry = {"depth": clip.depth, "poses": poses, "intrinsics": clip.intrinsics}
    item = {"frames": np.repeat(clip.frames[:1], 5, axis=0), **geometry, **{f"v2c_{name}": geometry[name] for name in geometry}}
    holed, lost = dict(item), dict(item)
    holed["depth"] = clip.depth.copy()
    holed["depth"][1:, :, ::3] = 0
    lost["degenerate"] = np.array(["", "no overlap", "no overlap", "", ""])
    whole, other, rest = (score_consistency([one], [], [], None)["generated, geometry of T2V+C"] for one in (item, holed, lost))
    assert other["flow_px"] == pytest.approx(whole["flow_px"], rel=0.1) and np.isfinite(rest["flow_px"])
    assert other["met3r_self"] < 1.5 * whole["met3r_self"]
    assert rest["visibility"] == pytest.approx(whole["visibility"] / 2, rel=0.2)  # of two frames nothing is seen
    assert (whole["N"], whole["failed"]) == (1, 0)


def test_everything_is_computed_where_the_geometry_lies(clip, pointmaps):
    """With another default device, tensors made without naming one are found out: as on a GPU, they do not mix."""
    given = [torch.from_numpy(array) for array in (clip.frames, clip.depth, clip.poses, clip.intrinsics)]
    features, confidence = torch.rand(1, 2, 3, 12, 16), torch.full((1, 2, 48, 64), 2.0)

    def figures():
        own = met3r_self(given[0], pointmaps, given[3])
        pairs = met3r_pairs(features, pointmaps[None, :2], confidence, radius_ndc=0.05)
        return own.score, own.motion, float(pairs.score), warp_error(*given, valid=given[1] > 0)

    expected = figures()
    with torch.device("meta"):
        assert figures() == expected


def test_occluded_points_do_not_count(clip, pointmaps):
    """Points behind frame 1's surface are not seen, whatever they carry."""
    behind = pointmaps.clone()
    behind[1:] *= 1.5
    result = met3r_self(clip.frames, behind, clip.intrinsics)
    assert result.visibility.max() < 0.35
    nothing = pointmaps.clone()
    nothing[1:] *= -1
    empty = met3r_self(clip.frames, nothing, clip.intrinsics)
    assert np.isnan(empty.score)
    assert (empty.visibility == 0).all()


def test_feature_functions_are_upsampled(clip, pointmaps):
    def cells(frames):
        return torch.nn.functional.avg_pool2d(frames, 8)

    assert 0 <= met3r_self(clip.frames, pointmaps, clip.intrinsics, features=cells).score < 0.1


def test_self_refuses(clip, pointmaps):
    with pytest.raises(ValueError, match="F >= 2"):
        met3r_self(clip.frames[:1], pointmaps[:1], clip.intrinsics[:1])
    with pytest.raises(ValueError, match="pointmaps"):
        met3r_self(clip.frames, pointmaps[:, :4], clip.intrinsics)
    with pytest.raises(ValueError, match=r"\(F,C,h,w\)"):
        met3r_self(clip.frames, pointmaps, clip.intrinsics, features=lambda frames: frames.mean((2, 3)))


# ---- motion and the outside judge


def test_warp_error_with_true_geometry_is_low(clip):
    right = warp_error(clip.frames, clip.depth, clip.poses, clip.intrinsics)
    assert right["ratio"] < 0.6
    assert 0.3 < right["visible"] <= 1
    wrong = warp_error(clip.frames, clip.depth, clip.poses[::-1].copy(), clip.intrinsics)
    assert wrong["warp"] > 1.5 * right["warp"]


def test_warp_error_of_an_exact_shift():
    """A plane at depth 4 and a camera that steps one pixel to the right: columns move left by exactly one pixel."""
    first = np.random.default_rng(0).integers(0, 255, (8, 9, 3), dtype=np.uint8)
    frames = np.stack([first[:, :-1], first[:, 1:]])
    poses = np.tile(np.eye(4, dtype=np.float32), (2, 1, 1))
    poses[1, 0, 3] = 0.5
    intrinsics = np.tile(np.array([[8.0, 0, 4], [0, 8.0, 4], [0, 0, 1]], np.float32), (2, 1, 1))
    result = warp_error(frames, np.full((2, 8, 8), 4.0, np.float32), poses, intrinsics)
    assert result["warp"] == pytest.approx(0, abs=1e-3)
    assert result["visible"] == pytest.approx(7 / 8)
    assert result["no_warp"] > 10


def test_warp_error_of_nothing_seen(clip):
    nowhere = warp_error(clip.frames, clip.depth, clip.poses, clip.intrinsics, valid=np.zeros_like(clip.valid))
    assert nowhere["visible"] == 0
    assert np.isnan(nowhere["ratio"])
    with pytest.raises(ValueError, match="depth"):
        warp_error(clip.frames, clip.depth[:2], clip.poses, clip.intrinsics)


def test_motion_without_geometry():
    frames = np.zeros((3, 2, 2, 3), np.uint8)
    frames[1:] = 51
    assert video_motion(frames) == {"frame_difference": pytest.approx(51)}


def test_as_video():
    frames = np.full((2, 4, 4, 3), 255, np.uint8)
    assert as_video(frames).shape == (2, 3, 4, 4)
    assert as_video(frames).max() == 1
    assert torch.equal(as_video(as_video(frames)), as_video(frames))
    with pytest.raises(ValueError, match=r"0\.\.1"):
        as_video(frames.astype(np.float32))
    with pytest.raises(ValueError, match=r"\(F,H,W,3\)"):
        as_video(frames[0])
