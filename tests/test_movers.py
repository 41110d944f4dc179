"""Objects that move by themselves: found, told from noise, and harmless where there are none."""

import pytest
import registration_scenes
import torch
from registration_scenes import make_scene
from torch import Tensor

from jog3r import register_pointmaps
from jog3r.geometry.cameras import invert, rotation_angle_deg
from jog3r.geometry.registration.checks import check_inputs
from jog3r.geometry.registration.joint_fit.movers import Maps, cut_between_kinds, find_movers
from jog3r.geometry.registration.joint_fit.samples import sample_rays, take_samples


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def second_maps(scene: registration_scenes.Scene) -> tuple[Maps, Tensor]:
    """What `find_movers` takes: maps at the true focal, and true poses in the unit of the samples."""
    data, masks = check_inputs(*scene.inputs)
    samples = take_samples(data, *masks, 4096)
    second = slice(samples.num_pairs, None)
    rays = sample_rays(samples, scene.intrinsics, samples.frame[second])
    relative = invert(scene.poses)[scene.pairs[:, 1]] @ scene.poses[scene.pairs[:, 0]]
    relative[:, :3, 3] *= (scene.pair_scale / samples.unit)[:, None]
    return Maps(samples.points[second], samples.valid[second], samples.confidence[second], rays, samples.grid), relative


def moved_pixels(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Filled by `make_scene` with the masks (P, N) of moved pixels of first and second maps."""
    masks: list[Tensor] = []
    plain = registration_scenes._move_object

    def recorded(points: Tensor, *rest: object) -> Tensor:
        moved = plain(points, *rest)
        masks.append((moved != points).any(-1).flatten(1))
        return moved

    monkeypatch.setattr(registration_scenes, "_move_object", recorded)
    return masks


@pytest.mark.parametrize("seed", range(3))
def test_moving_pixels_are_found_and_others_left_alone(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    masks = moved_pixels(monkeypatch)
    scene = make_scene(height=48, width=48, num_frames=8, moving=0.25, noise=0.01, seed=seed)
    moving, poses = find_movers(*second_maps(scene))
    assert moving is not None
    assert float(moving[masks[1]].float().mean()) > 0.6
    # Local means reach four pixels beyond the object's edge.
    near = torch.nn.functional.max_pool2d(masks[1].float().unflatten(1, (48, 48)), 9, stride=1, padding=4).flatten(1) > 0
    assert float(moving[~near].float().mean()) < 0.15
    assert float(rotation_angle_deg(poses[:, :3, :3] @ scene.poses[1:, :3, :3]).mean()) < 1.0


@pytest.mark.parametrize("path", ["lateral", "orbit", "dolly", "handheld", "turn"])
def test_nothing_moves_in_a_still_scene(path: str) -> None:
    maps, poses = second_maps(make_scene(height=48, width=48, num_frames=6, path=path, noise=0.03))
    moving, same = find_movers(maps, poses)
    assert moving is None and torch.equal(same, poses)


@pytest.mark.parametrize("path", ["lateral", "handheld"])
@pytest.mark.parametrize("confidence", ["constant", "inverted"])
def test_noisy_regions_that_confidences_conceal_cost_few_pixels(path: str, confidence: str) -> None:
    scene = make_scene(height=48, width=48, num_frames=6, path=path, confidence=confidence, noise=0.03)
    moving, poses = find_movers(*second_maps(scene))
    assert moving is None or float(moving.float().mean()) < 0.1
    assert float(rotation_angle_deg(poses[:, :3, :3] @ scene.poses[1:, :3, :3]).mean()) < 1.5


def test_small_maps_are_not_searched() -> None:
    scene = make_scene(height=7, width=9, num_frames=4, moving=0.3)
    assert find_movers(*second_maps(scene))[0] is None


def test_two_kinds_of_squares_are_cut_where_they_are_equally_likely() -> None:
    small, large = torch.empty(4, 3000).exponential_(1.0), torch.empty(4, 1000).exponential_(0.1)
    cut = cut_between_kinds(torch.cat((small, large), 1), torch.ones(4, 4000, dtype=torch.bool))
    # Where 3 exp(-s) = exp(-s / 10) / 10.
    assert cut == pytest.approx(3.78, rel=0.1)
    assert cut_between_kinds(small, torch.ones_like(small, dtype=torch.bool)) is None
    assert cut_between_kinds(small, torch.zeros_like(small, dtype=torch.bool)) is None
    assert cut_between_kinds(torch.zeros(2, 1000), torch.ones(2, 1000, dtype=torch.bool)) is None


@pytest.mark.parametrize("seed", range(3))
def test_movers_cost_little_accuracy(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Against the same scene with the moving pixels masked by hand."""
    masks = moved_pixels(monkeypatch)
    scene = make_scene(height=48, width=48, num_frames=8, moving=0.25, noise=0.01, seed=seed)
    known = list(scene.inputs)
    for slot, mask in ((1, masks[0]), (3, masks[1])):
        known[slot] = torch.where(mask.unflatten(1, (48, 48)), 0.0, known[slot])

    def rotation_error(inputs: tuple) -> float:
        result = register_pointmaps(*inputs)
        assert result.converged
        return float(rotation_angle_deg(result.poses[1:, :3, :3].double().transpose(1, 2) @ scene.poses[1:, :3, :3]).mean())

    assert rotation_error(scene.inputs) < rotation_error(tuple(known)) + 0.5
