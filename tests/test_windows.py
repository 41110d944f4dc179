"""Windows of a long video: cutting, robust joining, blending."""

import math
from collections.abc import Iterator

import pytest
import torch
from long_video_scene import LoopWalk
from torch import Tensor

from jog3r.geometry.cameras import rotation_angle_deg, so3_exp, transform
from jog3r.geometry.similarity import fit_similarity, sim3, sim3_exp, sim3_parts
from jog3r.geometry.windows import (
    WindowGeometry,
    blend_depth,
    blend_poses,
    border_weights,
    check_windows,
    count_windows,
    iterate_windows,
    join_windows,
)

DOUBLE = torch.float64


def similarity() -> Tensor:
    return sim3_exp(torch.tensor([0.3, -0.5, 0.2, math.log(2.5), 0.7, -1.0, 0.4], dtype=DOUBLE))


def cloud(count: int = 500) -> tuple[Tensor, Tensor, Tensor]:
    source = torch.randn(count, 3, dtype=DOUBLE) + torch.tensor([0.0, 0, 4])
    return source, transform(similarity(), source), torch.ones(count, dtype=DOUBLE)


def test_fit_of_exact_points_is_exact() -> None:
    fit = fit_similarity(*cloud())
    torch.testing.assert_close(fit.transform, similarity(), atol=1e-9, rtol=0)
    assert fit.inlier_share == pytest.approx(1.0)


def test_forty_percent_of_wrong_points_change_little() -> None:
    source, target, weights = cloud(1000)
    target = target + 0.02 * torch.randn_like(target)
    clean = fit_similarity(source, target, weights)
    target[:400] += torch.tensor([3.0, 1, -2])  # a large object that moved, all together
    fit = fit_similarity(source, target, weights)
    torch.testing.assert_close(fit.transform, clean.transform, atol=0.03, rtol=0)
    assert fit.inlier_share == pytest.approx(0.6, abs=0.03)
    assert fit.residual == pytest.approx(0.02, rel=0.5)


def test_points_without_weight_or_finite_values_do_not_count() -> None:
    source, target, weights = cloud()
    source[0], target[1], target[2], weights[2] = torch.nan, torch.inf, 1e6, 0
    torch.testing.assert_close(fit_similarity(source, target, weights).transform, similarity(), atol=1e-9, rtol=0)


def test_scale_is_not_biased_by_noise() -> None:
    """A least-squares scale would be too small by the noise of the source: 4 % here, at every join."""
    scales = []
    for _ in range(20):
        source, target, weights = cloud(400)
        noisy = source + 0.2 * torch.randn_like(source), target + 0.2 * 2.5 * torch.randn_like(target)
        scales.append(float(sim3_parts(fit_similarity(*noisy, weights).transform)[0]))
    assert sum(scales) / 20 == pytest.approx(2.5, rel=0.01)


def test_fit_swaps_into_its_inverse() -> None:
    source, target, weights = cloud()
    target = target + 0.05 * torch.randn_like(target)
    there, back = fit_similarity(source, target, weights), fit_similarity(target, source, weights)
    torch.testing.assert_close(there.transform @ back.transform, torch.eye(4, dtype=DOUBLE), atol=2e-2, rtol=0)


def test_result_does_not_depend_on_the_order_of_points_or_the_unit_of_weights() -> None:
    source, target, weights = cloud()
    target = target + 0.05 * torch.randn_like(target)
    order = torch.randperm(len(source))
    first, second = fit_similarity(source, target, weights), fit_similarity(source[order], target[order], 7 * weights[order])
    torch.testing.assert_close(first.transform, second.transform, atol=1e-7, rtol=0)
    torch.testing.assert_close(first.information, second.information, rtol=1e-5, atol=1e-3)


def test_covariance_orders_directions_as_monte_carlo_does() -> None:
    source, _, weights = cloud(100)
    source[:, 0] *= 0.1  # a thin cloud: rotation about y and z is known from the other axes
    errors, predicted = [], None
    for _ in range(100):
        fit = fit_similarity(source, source + 0.02 * torch.randn_like(source), weights)
        scale, rotation, translation = sim3_parts(fit.transform)
        vector = 0.5 * torch.stack(
            (rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1])
        )
        errors.append(torch.cat((vector, scale.log()[None], translation)))
        predicted = torch.linalg.inv(fit.information).diagonal().sqrt()
    assert predicted is not None
    ratio = torch.stack(errors).std(0) / predicted
    # 64 of 100 points are taken for independent: predictions are larger by 1.25; Geman-McClure loses a little.
    assert float(ratio.amin()) > 0.6
    assert float(ratio.amax()) < 1.2


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (torch.zeros(50, 3), "one place"),
        (torch.linspace(0, 1, 50)[:, None] * torch.ones(3), "one line"),
        (torch.randn(10, 3), "at least 16 matched points"),
    ],
)
def test_fit_refuses_what_determines_nothing(points: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_similarity(points, points, torch.ones(len(points)))


def test_fit_refuses_shapes() -> None:
    with pytest.raises(ValueError, match=r"source and target must be \(N, 3\)"):
        fit_similarity(torch.zeros(20, 3), torch.zeros(20, 3), torch.zeros(19))


@pytest.mark.parametrize("count", [2, 5, 8, 9, 13, 14, 20, 21, 37])
@pytest.mark.parametrize(("window", "overlap"), [(8, 2), (8, 6), (5, 1), (2, 1)])
def test_windows_cover_every_frame_and_overlap(count: int, window: int, overlap: int) -> None:
    windows = list(iterate_windows(iter(range(count)), window, overlap))
    assert len(windows) == count_windows(count, window, overlap)
    assert sorted({frame for _, frames in windows for frame in frames}) == list(range(count))
    for start, frames in windows:
        assert frames == list(range(start, start + min(window, count)))
    for (first, frames), (second, _) in zip(windows[:-1], windows[1:], strict=True):
        assert first < second <= first + len(frames) - overlap


def test_stream_is_read_no_further_than_needed() -> None:
    read = []

    def stream() -> Iterator[int]:
        for index in range(100):
            read.append(index)
            yield index

    next(iterate_windows(stream(), 8, 2))
    assert len(read) == 8


@pytest.mark.parametrize(
    ("sizes", "kind", "message"),
    [
        ((4, 4, 1), ValueError, "overlap=4 and window=4"),
        ((4, 9, 1), ValueError, "overlap=9 and window=4"),
        ((1, 1, 1), ValueError, "window must be at least 2, got 1"),
        ((4, 0, 1), ValueError, "overlap must be at least 1, got 0"),
        ((4, 2, 0), ValueError, "stride must be at least 1, got 0"),
        ((4.0, 2, 1), TypeError, "window must be a whole number of frames, got 4.0"),
        ((4, True, 1), TypeError, "overlap must be a whole number of frames, got True"),
    ],
)
def test_sizes_that_make_no_windows_are_refused(sizes: tuple, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        check_windows(*sizes)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_frames_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"at least 2 frames, the video has {count}"):
        list(iterate_windows(range(count), 4, 2))


def test_join_of_exact_windows_is_exact() -> None:
    walk = LoopWalk(100)
    first, second = walk.reconstruct(list(range(8))), walk.reconstruct(list(range(5, 13)))
    fit = join_windows(first.frames(slice(5, 8)), second.frames(slice(0, 3)))
    torch.testing.assert_close(fit.transform.float(), first.poses[5], atol=1e-4, rtol=0)
    assert fit.residual < 1e-5


def test_join_refuses_other_frames_and_nothing_in_common() -> None:
    walk = LoopWalk(100, size=8)
    first, second = walk.reconstruct([0, 1, 2]), walk.reconstruct([1, 2])
    with pytest.raises(ValueError, match="same frames"):
        join_windows(first, second)
    blank = WindowGeometry(second.poses, second.intrinsics, torch.zeros_like(second.depth), second.confidence)
    with pytest.raises(ValueError, match="at least 16 matched points with a weight, got 0"):
        join_windows(blank, second)


def test_window_refuses_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"intrinsics must have shape \(2, 3, 3\)"):
        WindowGeometry(torch.zeros(2, 4, 4), torch.zeros(3, 3, 3), torch.zeros(2, 5, 6), torch.zeros(2, 5, 6))


def test_border_weights_fade() -> None:
    assert border_weights(5).tolist() == [1, 2, 3, 2, 1]


def test_blended_depth_is_the_weighted_mean_and_keeps_what_one_side_knows() -> None:
    old = torch.tensor([[[2.0, 2.0, 0.0, 0.0]]]), torch.tensor([[[1.0, 1.0, 0.0, 0.0]]])
    new = torch.tensor([[[4.0, 0.0, 3.0, 0.0]]]), torch.tensor([[[3.0, 0.0, 5.0, 0.0]]])
    depth, confidence = blend_depth(old, new, torch.tensor([0.5], dtype=DOUBLE))
    torch.testing.assert_close(depth, torch.tensor([[[3.5, 2.0, 3.0, 0.0]]]))
    torch.testing.assert_close(confidence, torch.tensor([[[2.0, 1.0, 5.0, 0.0]]]))


def test_blended_poses_meet_between_the_windows() -> None:
    turn = so3_exp(torch.tensor([0.0, 0.2, 0.0], dtype=DOUBLE))
    one, two = torch.eye(4, dtype=DOUBLE)[None], sim3(torch.ones(1, dtype=DOUBLE), turn[None], torch.ones(1, 3, dtype=DOUBLE))
    nodes = torch.eye(4, dtype=DOUBLE).repeat(2, 1, 1)
    weight = torch.ones(1, dtype=DOUBLE)
    blended = blend_poses([(0, one, weight), (0, two, 3 * weight)], nodes, 1)
    torch.testing.assert_close(blended[0, :3, 3], torch.full((3,), 0.75, dtype=DOUBLE))
    assert float(rotation_angle_deg(blended[0, :3, :3])) == pytest.approx(math.degrees(0.15), abs=1e-6)
