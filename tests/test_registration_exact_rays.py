"""register_pointmaps on maps made from depth and cameras: exact rays, exact depth, quantised maps; steps lower the objective."""

import math

import pytest
import torch
from registration_exact_rays import KINDS, make_case, path_error
from registration_scenes import make_scene

from jog3r import register_pointmaps
from jog3r.data import procedural_clip
from jog3r.geometry.cameras import so3_exp
from jog3r.geometry.pointmaps import pointmaps_in_first_camera
from jog3r.geometry.registration.checks import check_inputs
from jog3r.geometry.registration.joint_fit.depth_agreement import excess_variance
from jog3r.geometry.registration.joint_fit.noise import estimate_noise
from jog3r.geometry.registration.joint_fit.normal_equations import Assembler, Layout
from jog3r.geometry.registration.joint_fit.samples import take_samples
from jog3r.geometry.registration.joint_fit.tree import State, first_intrinsics, first_state


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


# Percent of the path. Noise of the first frame's depth tells the pairs' scales to 0.05 / sqrt(1024 pixels) = 0.16 % at best.
LIMITS = {"exact depth": 14.0, "exact zeros": 1.2, "smooth depth noise": 1.2}


@pytest.mark.parametrize("kind", KINDS)
def test_cameras_are_right_however_exact_the_maps_are(kind: str) -> None:
    for noise in (0.0, 0.05):
        case = make_case(0, noise, 0, kind)
        result = register_pointmaps(*case.inputs)
        assert path_error(result, case.poses) < (LIMITS.get(kind, 0.5) if noise else 0.1)
        assert result.converged and not any(result.degenerate) and float(result.depth.max()) < 2


@pytest.mark.parametrize("index", [1, 3])
@pytest.mark.parametrize("noise", [0.001, 0.01, 0.02])
def test_depth_noise_on_exact_rays_hardly_moves_the_cameras(index: int, noise: float) -> None:
    for seed in (0, 1):
        case = make_case(index, noise, seed)
        for given in ({}, {"focal_px": case.focal_px[0]}, {"smoothness": None}):
            assert path_error(register_pointmaps(*case.inputs, **given), case.poses) < 0.05 + 10 * noise


def test_the_fast_method_is_no_worse_than_the_reference() -> None:
    case = make_case(3, 0.05, 2)
    slow = register_pointmaps(*case.inputs, method="reference")
    assert path_error(register_pointmaps(*case.inputs), case.poses) < 1.1 * path_error(slow, case.poses) + 0.3


def test_a_fit_that_is_worse_than_the_start_is_flagged() -> None:
    """Here the caller asks for a path that the pointmaps contradict."""
    scene = make_scene(height=40, width=48, num_frames=6)
    result = register_pointmaps(*scene.inputs, smoothness=None, smoothness_translation=1e8)
    assert sum("poor fit" in words for words in result.degenerate) >= 3
    assert not any(register_pointmaps(*scene.inputs, smoothness=None, smoothness_translation=1.0).degenerate)


def test_a_zoom_is_a_poor_fit_for_one_focal_length_and_none_for_one_a_frame() -> None:
    clip = procedural_clip(1, split="test", num_frames=8, height=48, width=64)
    intrinsics = torch.from_numpy(clip.intrinsics).clone()
    intrinsics[:, 0, 0] *= torch.linspace(1, 1.6, 8)
    intrinsics[:, 1, 1] *= torch.linspace(1, 1.6, 8)
    points = pointmaps_in_first_camera(torch.from_numpy(clip.depth), intrinsics, torch.from_numpy(clip.poses))
    valid = torch.from_numpy(clip.valid).float()
    pairs = torch.tensor([[0, frame] for frame in range(1, 8)])
    maps = (points[:1].repeat(7, 1, 1, 1), valid[:1].repeat(7, 1, 1), points[1:], valid[1:], pairs, 8)
    assert sum("poor fit" in words for words in register_pointmaps(*maps).degenerate) >= 6
    apart = register_pointmaps(*maps, shared_focal=False)
    assert not any("poor fit" in words for words in apart.degenerate)
    torch.testing.assert_close(apart.intrinsics[:, 0, 0].double(), intrinsics[:, 0, 0].double(), rtol=0.02, atol=0)


# --- the objective -------------------------------------------------------------------------------------------------------


def assembled(graph: str) -> tuple[Assembler, State]:
    scene = make_scene(height=24, width=32, num_frames=4, graph=graph)
    data, masks = check_inputs(*scene.inputs)
    samples = take_samples(data, *masks, 4096)
    state, samples = first_state(samples, first_intrinsics(samples, scene.intrinsics, True, data.size), 4, None)
    return Assembler(samples, Layout(4, samples.num_pairs, True), 4), state


def moved(state: State, step: torch.Tensor, layout: Layout) -> State:
    """The state after a step of all unknowns, as the layout orders them."""
    moves = step[: layout.scales].unflatten(0, (-1, 6))
    poses, intrinsics = state.poses.clone(), state.intrinsics.clone()
    poses[:, :3, :3] = so3_exp(moves[:, :3]) @ poses[:, :3, :3]
    poses[:, :3, 3] += moves[:, 3:]
    intrinsics[:, [0, 1], [0, 1]] *= step[layout.focals :].exp()
    return State(poses, intrinsics, state.pair_scale * step[layout.scales : layout.focals].exp(), state.reached)


@pytest.mark.parametrize("graph", ["star", "window"])
def test_the_gradient_is_half_the_slope_of_the_objective(graph: str) -> None:
    assembler, state = assembled(graph)
    system = assembler.assemble(state, learn=True)
    assert assembler.value(state) == pytest.approx(float(system.value), rel=1e-5)
    rng = torch.Generator().manual_seed(0)
    for _ in range(5):
        direction = torch.randn(assembler.layout.size, dtype=torch.float64, generator=rng)
        length = 3 / float((direction @ system.normal @ direction).sqrt())  # three standard deviations
        ahead, behind = (assembler.value(moved(state, sign * length * direction, assembler.layout)) for sign in (1, -1))
        slope, curvature = (ahead - behind) / (2 * length), (ahead + behind - 2 * float(system.value)) / length**2
        assert slope / 2 == pytest.approx(float(system.gradient @ direction), rel=0.1, abs=0.1 / length)
        assert curvature / 2 == pytest.approx(float(direction @ system.normal @ direction), rel=0.2)


def test_points_behind_a_camera_raise_the_objective() -> None:
    assembler, state = assembled("star")
    system = assembler.assemble(state, learn=True)
    turned = state.poses.clone()
    turned[2, :3, :3] = turned[2, :3, :3] @ so3_exp(torch.tensor([0, math.pi, 0], dtype=torch.float64))
    assert assembler.value(State(turned, state.intrinsics, state.pair_scale, state.reached)) > 10 * float(system.value)


# --- the noise -----------------------------------------------------------------------------------------------------------


def test_excess_variance_tells_noisy_maps_from_exact_ones() -> None:
    rng = torch.Generator().manual_seed(0)
    depth = torch.randn(1, 2000, generator=rng).repeat(6, 1)
    precision = torch.full_like(depth, 1e8)
    assert torch.equal(excess_variance(depth, precision), torch.ones(6))
    noise = torch.randn(6, 2000, generator=rng) * 1e-4
    torch.testing.assert_close(excess_variance(depth + noise, precision), torch.ones(6), atol=0.2, rtol=0)
    torch.testing.assert_close(excess_variance(depth + 20 * noise, precision), torch.full((6,), 400.0), rtol=0.2, atol=0)
    noise[:] = 0
    noise[2] = torch.randn(2000, generator=rng) * 1e-2  # half of the difference to exact maps' is all that shows of it
    found = excess_variance(depth + noise, precision)
    assert found[2] == pytest.approx(5000, rel=0.2) and found[[0, 1, 3, 4, 5]].tolist() == [1.0] * 5


def test_excess_variance_without_pixels_in_common_is_one() -> None:
    precision = torch.ones(2, 100)
    precision[0, :50] = precision[1, 50:] = 0
    assert excess_variance(torch.randn(2, 100), precision).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("size", [0.0, 1e-8, 1e-6])
def test_the_noise_model_never_believes_in_exact_points(size: float) -> None:
    rng = torch.Generator().manual_seed(0)
    residual = size * torch.randn(2, 2, 1024, generator=rng).cumsum(-1)  # rounding errors are alike nearby, too
    noise = estimate_noise(residual, torch.full((2, 1024), 3.0), torch.full((2, 1024), 2.0), (32, 32))
    torch.testing.assert_close(noise.level, torch.full((2,), 1.5e-3), rtol=0.2, atol=0)
    assert noise.share < 0.1 and bool(torch.isfinite(noise.smooth_std).all())
