"""Depth aligned to sparse points: known scale, shift and bends are found, wrong points and frames are told apart."""

import numpy as np
import pytest

from jog3r.data import procedural_clip
from jog3r.geometry.cameras import transform, unproject
from jog3r.sfm.depth_alignment import MIN_POINTS, align_depth

FRAMES, HEIGHT, WIDTH = 4, 48, 64
CLIP = procedural_clip(5, split="test", num_frames=FRAMES, height=HEIGHT, width=WIDTH)
Z = CLIP.depth.astype(np.float64)


def sparse(count: int = 80, noise: float = 0.0, outliers: float = 0.0, seed: int = 0):
    """World points of random valid pixels, each seen in the frame it is taken from: points, (point, frame, xy)."""
    import torch

    random = np.random.default_rng(seed)
    frame, y, x = (index.reshape(-1) for index in np.nonzero(CLIP.valid))
    chosen = np.concatenate([random.choice(np.flatnonzero(frame == one), count, replace=False) for one in range(FRAMES)])
    frame, y, x = frame[chosen], y[chosen], x[chosen]
    depth = CLIP.depth * (1 + noise * random.normal(size=CLIP.depth.shape))
    wrong = random.random(CLIP.depth.shape) < outliers
    depth = np.where(wrong, depth * random.uniform(0.2, 3, depth.shape), depth)
    maps = [torch.from_numpy(array.astype(np.float64)) for array in (depth, CLIP.intrinsics, CLIP.poses)]
    world = transform(maps[2], unproject(maps[0], maps[1])).numpy()
    return world[frame, y, x], (np.arange(len(frame)), frame, np.stack([x, y], 1).astype(np.float64))


def relative_error(aligned) -> np.ndarray:
    """(F,) median over the pixels."""
    return np.array([np.median(np.abs(np.log(aligned.depth[f] / Z[f]))[CLIP.valid[f]]) for f in range(FRAMES)])


@pytest.mark.parametrize("inverse", [False, True])
def test_scale_and_shift_of_each_frame_are_found_among_wrong_points(inverse: bool) -> None:
    scale, shift = np.array([0.3, 2.0, 7.0, 0.05]), np.array([0.1, -0.2, 0.0, 0.4])
    wanted = 1 / Z if inverse else Z
    given = (wanted - (shift * wanted.mean())[:, None, None]) / scale[:, None, None]
    valid = CLIP.valid if inverse else CLIP.valid & (given > 0)
    aligned = align_depth(given, *sparse(noise=0.01, outliers=0.3), CLIP.poses, inverse=inverse, valid=valid)
    assert aligned.aligned.all() and (aligned.num_points > 20).all()
    np.testing.assert_allclose(aligned.scale, scale, rtol=0.03)
    assert relative_error(aligned).max() < 0.01
    assert (aligned.error < 0.05).all()


def test_the_sky_of_relative_depth_has_no_made_up_distance() -> None:
    """Disparity zero, and what the line adds to it: as near to nothing as its noise."""
    sky = np.zeros_like(CLIP.valid)
    sky[:, :6] = True
    for shift in (1e-4, -1e-4):
        given = np.where(sky, 0, 1 / Z - shift)
        points, seen = sparse()
        kept = seen[2][:, 1] >= 8  # no point on it
        seen = tuple(part[kept] for part in seen)
        aligned = align_depth(given, points[seen[0]], (np.arange(kept.sum()), *seen[1:]), CLIP.poses, inverse=True)
        assert (aligned.depth[sky] == 0).all() and (aligned.confidence[sky] == 0).all()
        below = CLIP.valid & ~sky
        assert (aligned.depth[below] > 0).mean() > 0.97


def test_exact_depth_stays_exact() -> None:
    aligned = align_depth(CLIP.depth, *sparse(), CLIP.poses, valid=CLIP.valid)
    np.testing.assert_allclose(aligned.depth[CLIP.valid], CLIP.depth[CLIP.valid], rtol=1e-4)
    assert (aligned.depth[~CLIP.valid] == 0).all() and (aligned.confidence[~CLIP.valid] == 0).all()
    assert (aligned.confidence[CLIP.valid] > 90).all()


def test_a_bend_that_varies_over_the_image_is_corrected_and_noise_is_not_followed() -> None:
    across = np.exp(0.3 * np.sin(np.linspace(0, np.pi, WIDTH)) + 0.2 * np.linspace(-1, 1, HEIGHT)[:, None] ** 2)
    points = sparse(count=200, noise=0.01)
    bent = align_depth(CLIP.depth * across, *points, CLIP.poses, valid=CLIP.valid)
    assert relative_error(bent).max() < 0.04
    noisy = CLIP.depth * np.exp(np.random.default_rng(0).normal(0, 0.1, CLIP.depth.shape))
    followed = align_depth(noisy, *points, CLIP.poses, valid=CLIP.valid)
    # Only scale and shift are changed: what is left to the noisy depth is a line.
    for frame in range(FRAMES):
        line = followed.scale[frame] * noisy[frame] + followed.shift[frame]
        np.testing.assert_allclose(followed.depth[frame][CLIP.valid[frame]], line[CLIP.valid[frame]], rtol=1e-5)


def test_confidence_falls_where_depth_contradicts_the_points() -> None:
    wrong = CLIP.depth.copy()
    wrong[:, :, WIDTH // 2 :] *= np.exp(np.random.default_rng(1).normal(0, 0.3, wrong[:, :, WIDTH // 2 :].shape))
    confidence = align_depth(wrong, *sparse(count=300), CLIP.poses, valid=CLIP.valid).confidence
    assert np.median(confidence[:, :, WIDTH * 3 // 4 :]) < 0.3 * np.median(confidence[:, :, : WIDTH // 4])


def test_frames_without_enough_points_have_no_depth() -> None:
    points, (point, frame, xy) = sparse()
    kept = (frame != 2) | (np.cumsum(frame == 2) < MIN_POINTS)
    aligned = align_depth(CLIP.depth, points, (point[kept], frame[kept], xy[kept]), CLIP.poses, valid=CLIP.valid)
    assert aligned.aligned.tolist() == [True, True, False, True]
    assert (aligned.depth[2] == 0).all() and (aligned.confidence[2] == 0).all() and np.isnan(aligned.error[2])
    nothing = align_depth(CLIP.depth, points, (point[:0], frame[:0], xy[:0]), CLIP.poses)
    assert not nothing.aligned.any() and nothing.num_points.tolist() == [0] * FRAMES


def test_depth_that_runs_the_other_way_is_not_turned_around() -> None:
    aligned = align_depth(5 - 0.2 * CLIP.depth, *sparse(), CLIP.poses)
    assert not aligned.aligned.any() or (aligned.error[aligned.aligned] > 0.1).all()


def test_points_outside_of_the_maps_and_behind_the_camera_do_not_count() -> None:
    points, (point, frame, xy) = sparse()
    far = xy + [WIDTH, 0]
    assert not align_depth(CLIP.depth, points, (point, frame, far), CLIP.poses).num_points.any()
    behind = np.stack([CLIP.poses[f, :3, 3] - 2 * CLIP.poses[f, :3, 2] for f in frame])
    assert not align_depth(CLIP.depth, behind, (point, frame, xy), CLIP.poses).num_points.any()


def test_shapes_that_do_not_fit_are_refused() -> None:
    points, observations = sparse()
    with pytest.raises(ValueError, match=r"need depth \(F, H, W\) and poses"):
        align_depth(CLIP.depth[0], points, observations, CLIP.poses)
    with pytest.raises(ValueError, match=r"need points \(N, 3\)"):
        align_depth(CLIP.depth, points[:, :2], observations, CLIP.poses)
