"""The reference: DUSt3R's objective and gradients, the energies it reaches, the temporal terms, what it refuses."""

import pytest
import torch
from registration_scenes import make_scene
from torch import Tensor

from jog3r import register_pointmaps
from jog3r.geometry.cameras import pose_from, relative_poses, rotation_angle_deg, so3_exp
from jog3r.geometry.registration.energy import (
    BASE_SCALE,
    AlignmentParameters,
    Pairwise,
    alignment_energy,
    objective,
    pose_parameters,
    signed_expm1,
    signed_log1p,
)
from jog3r.geometry.registration.reference import ReferenceOptions, reference_alignment, spread_pixels, temporal_terms

NAMES = ("im_poses", "im_focals", "im_depthmaps", "pw_poses")
STAR = torch.tensor([(0, f) for f in range(1, 16)])


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def pairwise(tensors: dict[str, Tensor]) -> Pairwise:
    return Pairwise(*(tensors[f"in.{key}"].float() for key in ("pts1", "conf1", "pts2", "conf2")), STAR)


@pytest.mark.parametrize("name", ["reg_a", "reg_c"])
def test_objective_and_gradients_are_the_originals(parity, name: str) -> None:
    data, probe = pairwise(parity(name)[1]), parity(f"{name}_probe")[1]
    state = AlignmentParameters(*(probe[f"probe.param.{key}"].clone().requires_grad_() for key in NAMES))
    torch.testing.assert_close(state.cam_to_world(), probe["probe.cam2world"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(state.focals(), probe["probe.focals"], rtol=1e-6, atol=0)
    torch.testing.assert_close(state.pair_to_world(), probe["probe.pw_poses_scaled"], rtol=1e-5, atol=1e-6)
    loss = objective(data, state)
    torch.testing.assert_close(loss, probe["probe.loss"], rtol=1e-5, atol=0)
    for key, gradient in zip(NAMES, torch.autograd.grad(loss, state.tensors()), strict=True):
        true = probe[f"probe.grad.{key}"]
        assert float((gradient - true).norm() / true.norm()) < 1e-5, key


def test_runs_in_inference_mode() -> None:
    scene = make_scene(num_frames=4, height=16, width=20, noise=0.01)
    options = {"method": "reference", "max_iterations": 5}
    plain = register_pointmaps(*scene.inputs, **options)
    with torch.inference_mode():
        inside = register_pointmaps(*(value + 0 for value in scene.inputs[:5]), 4, focal_px=torch.tensor(20.0), **options)
        same = register_pointmaps(*(value + 0 for value in scene.inputs[:5]), 4, **options)
    assert torch.equal(same.poses, plain.poses) and torch.isfinite(inside.poses).all()


@pytest.mark.parametrize(("height", "width"), [(512, 384), (512, 512), (1024, 48), (16, 20), (2, 3)])
def test_pixels_of_the_start_are_spread_over_the_whole_picture(height: int, width: int) -> None:
    numbers = spread_pixels(height, width, 512)
    assert min(height * width, 400) <= len(numbers) <= 800
    for size, found in ((height, numbers // width), (width, numbers % width)):
        assert len(found.unique()) >= min(size, 4) and found.max() - found.min() > 0.6 * (size - 1)


def test_energy_with_given_poses_does_not_depend_on_their_unit() -> None:
    scene = make_scene(num_frames=5, height=24, width=30, noise=0.01)
    energies = []
    for unit in (1.0, 20.0):
        poses = scene.poses.clone()
        poses[:, :3, 3] *= unit
        for options in ({"method": "fast"}, {"method": "reference", "max_iterations": 100}):
            energies.append(register_pointmaps(*scene.inputs, known_poses=poses, **options).energy)
    assert max(energies) < 1.3 * min(energies)


@pytest.mark.parametrize("shared", [False, True])
def test_recorded_energy_and_errors_are_reached(parity, shared: bool) -> None:
    tensors, recorded = parity("reg_c")[1], parity("reg_c_dust3r")[0]
    data = pairwise(tensors)
    result = register_pointmaps(
        data.anchor_pointmaps,
        data.anchor_confidence,
        data.pointmaps,
        data.confidence,
        STAR,
        16,
        method="reference",
        shared_focal=shared,
    )
    assert result.energy < 1.005 * recorded["final_loss"]
    truth = relative_poses(tensors["gt.cam2world"].double())
    rotation = rotation_angle_deg(result.poses[:, :3, :3].double().transpose(1, 2) @ truth[:, :3, :3])[1:]
    assert float(rotation.mean()) < 1.1 * recorded["final_quality"]["rot_err_deg_mean"]
    assert result.num_iterations == 300 and result.converged
    assert float(result.pointmaps[0].norm(dim=-1).mean()) == pytest.approx(1, rel=1e-4)
    assert torch.isnan(result.pose_covariance).all()


@pytest.mark.parametrize("graph", ["star", "window"])
def test_energy_of_the_fast_method_is_the_objective_at_its_state(graph: str) -> None:
    scene = make_scene(height=12, width=16, num_frames=6, graph=graph)
    maps = list(scene.inputs)
    maps[3] = maps[3].clone()
    maps[3][1, :5] = 0  # invalid pixels do not count
    result = register_pointmaps(*maps, chunk_pairs=3)
    valid = [value.clamp(min=1) for value in (maps[1], maps[3])]
    data = Pairwise(maps[0], valid[0], maps[2], valid[1], scene.pairs)
    unit = BASE_SCALE / result.pair_scale.log().mean().exp()
    pair_to_world = result.poses[scene.pairs[:, 0]].clone()
    pair_to_world[:, :3, :3] *= result.pair_scale[:, None, None]
    pair_to_world[:, :3] *= unit
    again = alignment_energy(data, result.pointmaps * unit, pair_to_world)
    assert result.energy == pytest.approx(float(again), rel=1e-5)


def test_pixels_of_confidence_one_weigh_nothing() -> None:
    scene = make_scene(height=12, width=16, num_frames=3)
    data = Pairwise(*scene.inputs[:4], scene.pairs)
    quiet = Pairwise(
        data.anchor_pointmaps, torch.ones_like(data.confidence), data.pointmaps, torch.ones_like(data.confidence), data.pairs
    )
    assert float(alignment_energy(quiet, torch.randn(3, 12, 16, 3), torch.eye(4).expand(2, 4, 4))) == 0


def test_parametrisation_inverts() -> None:
    value = torch.linspace(-5, 5, 21, dtype=torch.float64)
    torch.testing.assert_close(signed_expm1(signed_log1p(value)), value)
    poses = pose_from(so3_exp(torch.randn(6, 3)), 3 * torch.randn(6, 3))
    state = AlignmentParameters(pose_parameters(poses), torch.zeros(6, 1), torch.zeros(6, 4), torch.zeros(5, 8))
    torch.testing.assert_close(state.cam_to_world(), poses, rtol=1e-4, atol=1e-5)
    assert float(state.pair_scales().log().mean().exp()) == pytest.approx(0.5)


def test_temporal_terms_are_the_papers_sums() -> None:
    centres = torch.tensor([[0.0, 0, 0], [1, 0, 0], [3, 0, 0]])
    poses = pose_from(torch.eye(3).expand(3, 3, 3), centres)
    focals = 20 * torch.tensor([[10.0], [12.0], [12.0]]).log()
    state = AlignmentParameters(pose_parameters(poses), focals, torch.zeros(3, 4), torch.zeros(2, 8))
    assert float(temporal_terms(state, ReferenceOptions(focal_smoothness=1.0))) == pytest.approx(4, rel=1e-4)
    assert float(temporal_terms(state, ReferenceOptions(translation_smoothness=1.0))) == pytest.approx(1 + 4 + 1, rel=1e-4)
    assert float(temporal_terms(state, ReferenceOptions())) == 0


def test_temporal_terms_shorten_the_path() -> None:
    scene = make_scene(height=16, width=16, num_frames=5)

    def length(weight: float) -> float:
        result = register_pointmaps(*scene.inputs, method="reference", smoothness_translation=weight, max_iterations=60)
        return float(result.poses[:, :3, 3].diff(dim=0).norm(dim=1).sum())

    assert length(10.0) < 0.8 * length(0.0)


def test_any_connected_graph_and_given_cameras() -> None:
    scene = make_scene(height=20, width=24, num_frames=5, graph="chain", noise=0.005, outliers=0.0)
    free = register_pointmaps(*scene.inputs, method="reference", max_iterations=80)
    assert float(rotation_angle_deg(free.poses[:, :3, :3].double().transpose(1, 2) @ scene.poses[:, :3, :3]).max()) < 4
    focal = float(scene.intrinsics[0, 0, 0])
    given = register_pointmaps(*scene.inputs, method="reference", max_iterations=80, known_poses=scene.poses, focal_px=focal)
    torch.testing.assert_close(given.intrinsics, scene.intrinsics.float())
    torch.testing.assert_close(given.poses[:, :3, :3], scene.poses[:, :3, :3].float(), atol=1e-5, rtol=0)
    ratio = given.poses[1:, :3, 3].norm(dim=1) / scene.poses[1:, :3, 3].norm(dim=1)
    torch.testing.assert_close(ratio, ratio[:1].expand(4).to(ratio), rtol=1e-4, atol=0)


def test_energy_falls_from_the_first_state() -> None:
    scene = make_scene(height=16, width=16, num_frames=4)
    _, history = reference_alignment(Pairwise(*scene.inputs[:4], scene.pairs), 4, ReferenceOptions(iterations=40))
    assert len(history) == 40 and history[-1] < history[0]


def test_what_the_reference_refuses() -> None:
    scene = make_scene(height=12, width=16, num_frames=4)
    maps = list(scene.inputs)
    with pytest.raises(ValueError, match="needs a connected pair graph"):
        register_pointmaps(*(value[:2] for value in maps[:5]), 4, method="reference")
    with pytest.raises(ValueError, match="takes focal_px, not intrinsics"):
        register_pointmaps(*maps, method="reference", intrinsics=scene.intrinsics)
    low = [maps[0], maps[1] / 100, maps[2], maps[3] / 100]
    with pytest.raises(ValueError, match="add 1 to yours"):
        register_pointmaps(*low, maps[4], 4, method="reference")
