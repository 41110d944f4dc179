"""register_pointmaps, fast: accuracy against truth and the reference, robustness, given cameras, degenerate inputs, refusals."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from fuzz_registration import run_case
from registration_scenes import Scene, make_scene
from torch import Tensor

from jog3r import Registration, register_pointmaps
from jog3r.geometry.cameras import pixel_rays, relative_poses, rotation_angle_deg, so3_log, umeyama_sim3
from jog3r.geometry.registration.checks import check_inputs
from jog3r.geometry.registration.joint_fit.samples import take_samples
from jog3r.geometry.registration.joint_fit.tree import first_state, unit_length
from jog3r.geometry.registration.threads import full_precision, one_thread_if_small


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def errors(poses: Tensor, truth: Tensor) -> tuple[float, float, float]:
    """Mean rotation error and translation-direction error (degrees) of frames 2.. in frame 1, ATE after Sim(3)."""
    poses, truth = relative_poses(poses.double()), relative_poses(truth.double())
    rotation = rotation_angle_deg(poses[1:, :3, :3].transpose(1, 2) @ truth[1:, :3, :3])
    a, b = poses[1:, :3, 3], truth[1:, :3, 3]
    direction = torch.rad2deg(torch.atan2(torch.linalg.cross(a, b).norm(dim=1), (a * b).sum(1)))
    scale, turn, shift = umeyama_sim3(poses[:, :3, 3], truth[:, :3, 3])
    gap = scale * poses[:, :3, 3] @ turn.T + shift - truth[:, :3, 3]
    return float(rotation.mean()), float(direction.mean()), float(gap.square().sum(1).mean().sqrt())


def small(**changes: object) -> Scene:
    return make_scene(**{"height": 40, "width": 48, "num_frames": 8, **changes})


# --- against the recorded reference ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["reg_a", "reg_b", "reg_c", "reg_d"])
def test_errors_are_at_most_half_of_the_recorded_reference(parity, name: str) -> None:
    _, tensors = parity(name)
    if name == "reg_d":
        tensors = {**tensors, **parity("reg_d_in2")[1]}
    quality = parity(f"{name}_dust3r")[0]["final_quality"]
    pairs = torch.tensor([(0, f) for f in range(1, 16)])
    maps = [tensors[f"in.{key}"].float() for key in ("pts1", "conf1", "pts2", "conf2")]
    result = register_pointmaps(*maps, pairs, 16)
    rotation, direction, trajectory = errors(result.poses, tensors["gt.cam2world"])
    assert rotation < 0.6 * quality["rot_err_deg_mean"]
    assert direction < 0.5 * quality["trans_angle_deg_mean"]
    assert trajectory < 0.25 * quality["ate_rmse_sim3"]
    assert float((result.intrinsics[0, 0, 0] / tensors["gt.focal"][0] - 1).abs()) < 0.01
    # The reference's own energy is nearly reached although its many free numbers may follow the noise.
    assert result.energy < 1.03 * parity(f"{name}_dust3r")[0]["final_loss"]
    assert result.converged and not any(result.degenerate)


# --- exact data ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", ["star", "chain", "window"])
@pytest.mark.parametrize("path", ["lateral", "orbit", "dolly"])
def test_exact_pointmaps_give_exact_cameras(graph: str, path: str) -> None:
    scene = small(noise=0.0, outliers=0.0, graph=graph, path=path)
    result = register_pointmaps(*scene.inputs)
    rotation, direction, trajectory = errors(result.poses, scene.poses)
    assert rotation < 0.01 and direction < 0.1 and trajectory < 1e-3
    torch.testing.assert_close(result.intrinsics, scene.intrinsics.float(), rtol=1e-4, atol=1e-3)
    unit = float(result.depth[0].mean() / scene.depth[0].mean())
    torch.testing.assert_close(result.depth, (scene.depth * unit).float(), rtol=2e-3, atol=1e-3)
    torch.testing.assert_close(result.pair_scale, (unit / scene.pair_scale).float(), rtol=2e-3, atol=0)
    assert result.energy < 2e-3


def squeezed(scene: Scene) -> tuple:
    """The inputs with every other column left out: as of frames that were squeezed to half their width."""
    *maps, pairs, count = scene.inputs
    return (*(value[:, :, ::2] for value in maps), pairs, count)


@pytest.mark.parametrize("noise", [0.0, 0.02])
@pytest.mark.parametrize("options", [{}, {"pixel_aspect": 2.0}])
def test_maps_of_stretched_frames_have_pixels_that_are_not_square(noise: float, options: dict) -> None:
    scene = small(noise=noise, outliers=0.0)
    plain, result = register_pointmaps(*scene.inputs), register_pointmaps(*squeezed(scene), **options)
    rotation, direction, _ = errors(result.poses, scene.poses)
    limits = [2 * error for error in errors(plain.poses, scene.poses)] if noise else (0.01, 0.1)
    assert rotation < limits[0] and direction < limits[1]
    truth = scene.intrinsics[0, 1, 1]
    assert float(result.intrinsics[0, 1, 1] / truth) == pytest.approx(1, abs=0.03 if noise else 1e-3)
    assert float(result.intrinsics[0, 0, 0] / truth) == pytest.approx(0.5, abs=0.02 if noise else 1e-3)


@pytest.mark.parametrize("seed", range(8))
def test_noise_does_not_make_square_pixels_oblong(seed: int) -> None:
    scene = small(seed=seed, noise=0.08, outliers=0.2, confidence="random")
    result = register_pointmaps(*scene.inputs)
    assert torch.equal(result.intrinsics[:, 0, 0], result.intrinsics[:, 1, 1])


def test_the_result_keeps_the_contract() -> None:
    scene = small()
    result = register_pointmaps(*scene.inputs)
    frames, height, width = scene.depth.shape
    shapes = {
        "poses": (frames, 4, 4),
        "intrinsics": (frames, 3, 3),
        "depth": (frames, height, width),
        "pointmaps": (frames, height, width, 3),
        "confidence": (frames, height, width),
        "pair_scale": (frames - 1,),
        "pose_covariance": (frames, 6, 6),
    }
    for name, shape in shapes.items():
        value = getattr(result, name)
        assert value.shape == shape and value.dtype == torch.float32, name
    torch.testing.assert_close(result.poses[0], torch.eye(4))
    assert result.intrinsics[0, :2, 2].tolist() == [width / 2, height / 2]
    assert float(result.pointmaps[0].norm(dim=-1)[result.confidence[0] > 0].mean()) == pytest.approx(1, rel=1e-4)
    assert isinstance(result.energy, float) and result.converged and result.num_iterations >= 2
    # Depth is along the ray of the returned camera.
    rays = pixel_rays(result.intrinsics, height, width)
    own = (result.pointmaps - result.poses[:, None, None, :3, 3])[..., None, :] @ result.poses[:, None, None, :3, :3]
    torch.testing.assert_close(own[..., 0, :], result.depth[..., None] * rays, atol=1e-5, rtol=1e-4)


def test_the_same_input_gives_the_same_result_and_inputs_stay_untouched() -> None:
    scene = small()
    before = [value.clone() for value in scene.inputs[:5]]
    first, second = register_pointmaps(*scene.inputs), register_pointmaps(*scene.inputs)
    assert torch.equal(first.poses, second.poses) and first.energy == second.energy
    assert all(torch.equal(a, b) for a, b in zip(before, scene.inputs[:5], strict=True))


def test_the_number_of_threads_is_left_as_it_was() -> None:
    torch.set_num_threads(2)
    other = ThreadPoolExecutor(1)
    assert other.submit(torch.get_num_threads).result() == 2
    maps = list(small().inputs)
    seen = []
    with one_thread_if_small(1000, torch.device("cpu")):
        seen += [torch.get_num_threads(), other.submit(torch.get_num_threads).result()]
    with one_thread_if_small(10**6, torch.device("cpu")):
        seen += [torch.get_num_threads()]
    assert seen == [1, 2, 2] and torch.get_num_threads() == 2
    register_pointmaps(*maps)
    assert torch.get_num_threads() == 2
    with pytest.raises(KeyError), one_thread_if_small(1000, torch.device("cpu")):
        raise KeyError
    assert torch.get_num_threads() == 2


def test_units_of_the_pairs_do_not_matter() -> None:
    scene = small()
    maps = list(scene.inputs)
    plain = register_pointmaps(*maps)
    factor = torch.logspace(-8, 8, len(maps[0]))[:, None, None, None]
    maps[0], maps[2] = maps[0] * factor, maps[2] * factor
    scaled = register_pointmaps(*maps)
    torch.testing.assert_close(scaled.poses, plain.poses, atol=1e-4, rtol=0)
    torch.testing.assert_close(scaled.pair_scale * factor.flatten(), plain.pair_scale, rtol=1e-3, atol=0)
    assert scaled.energy == pytest.approx(plain.energy, rel=1e-3)


def test_chunks_only_change_the_memory() -> None:
    scene = small(graph="window")
    whole, parts = register_pointmaps(*scene.inputs, chunk_pairs=64), register_pointmaps(*scene.inputs, chunk_pairs=5)
    assert errors(parts.poses, whole.poses.double())[0] < 0.15


# --- robustness ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("confidence", ["informative", "constant", "random", "inverted"])
def test_confidences_may_be_wrong(confidence: str) -> None:
    scene = small(confidence=confidence, outliers=0.1)
    rotation, direction, trajectory = errors(register_pointmaps(*scene.inputs).poses, scene.poses)
    assert rotation < 1.0 and direction < 8 and trajectory < 0.08


def test_moving_objects_on_a_third_of_each_frame() -> None:
    scene = small(moving=0.3, noise=0.01)
    rotation, direction, trajectory = errors(register_pointmaps(*scene.inputs).poses, scene.poses)
    assert rotation < 1.0 and direction < 10 and trajectory < 0.15


def test_nan_and_inf_pixels_are_ignored_whatever_their_confidence() -> None:
    scene = small()
    maps = list(scene.inputs)
    clean = register_pointmaps(*maps)
    for slot in (0, 2):
        maps[slot] = maps[slot].clone()
        maps[slot][torch.rand(maps[slot].shape[:3]) < 0.1] = float("nan")
        maps[slot][torch.rand(maps[slot].shape[:3]) < 0.1] = float("inf")
    result = register_pointmaps(*maps)
    assert all(torch.isfinite(getattr(result, name)).all() for name in ("poses", "depth", "pointmaps", "confidence"))
    rotation, _, trajectory = errors(result.poses, clean.poses)
    assert rotation < 1.0 and trajectory < 0.05


def test_a_smooth_camera_gains_from_the_motion_prior_and_a_jerky_one_does_not_lose() -> None:
    for path, gain in (("lateral", 1.0), ("handheld", 1.1)):
        plain, prior = 0.0, 0.0
        for seed in range(3):
            scene = small(path=path, seed=seed)
            plain += errors(register_pointmaps(*scene.inputs, smoothness=None).poses, scene.poses)[2]
            prior += errors(register_pointmaps(*scene.inputs).poses, scene.poses)[2]
        assert prior < gain * plain, path


def test_the_papers_terms_pull_the_path_together_as_their_weights_say() -> None:
    scene = small()

    def length(weight: float) -> float:
        poses = register_pointmaps(*scene.inputs, smoothness=None, smoothness_translation=weight).poses
        return float(poses[:, :3, 3].diff(dim=0).norm(dim=1).sum())

    assert length(1e2) == pytest.approx(length(0.0), rel=0.05)
    assert length(1e8) < 0.2 * length(0.0)


def test_the_focal_term_evens_out_focals() -> None:
    scene = small(num_frames=5)

    def spread(weight: float) -> float:
        result = register_pointmaps(*scene.inputs, shared_focal=False, smoothness_focal=weight)
        return float(result.intrinsics[:, 0, 0].diff().square().sum())

    assert spread(1e6) < 1e-2 * spread(0.0)


# --- given cameras -------------------------------------------------------------------------------------------------------


def test_given_focals_are_kept() -> None:
    scene = small()
    result = register_pointmaps(*scene.inputs, focal_px=40.0)
    assert result.intrinsics[:, 0, 0].tolist() == [40.0] * 8
    focals = torch.linspace(40, 47, 8)
    torch.testing.assert_close(register_pointmaps(*scene.inputs, focal_px=focals).intrinsics[:, 1, 1], focals)


def test_given_intrinsics_with_non_square_pixels() -> None:
    scene = make_scene(height=40, width=40, num_frames=6, noise=0.0, outliers=0.0)
    # Dropping every second column halves fx and moves the principal point.
    maps = [value[:, :, ::2] for value in scene.inputs[:4]]
    stretched = scene.intrinsics[0].clone()
    stretched[0] /= 2
    result = register_pointmaps(*maps, scene.pairs, 6, intrinsics=stretched)
    torch.testing.assert_close(result.intrinsics[3], stretched.float())
    rotation, direction, _ = errors(result.poses, scene.poses)
    assert rotation < 0.01 and direction < 0.1


def test_per_frame_focals_are_found() -> None:
    scene = small(noise=0.003, num_frames=5, graph="window", path="dolly")
    result = register_pointmaps(*scene.inputs, shared_focal=False)
    torch.testing.assert_close(result.intrinsics[:, 0, 0], scene.intrinsics[:, 0, 0].float(), rtol=0.05, atol=0)


def test_known_poses_are_kept_up_to_scale_and_world() -> None:
    scene = small()
    elsewhere = 3 * scene.poses
    elsewhere[:, :3, :3] = scene.poses[:, :3, :3]
    elsewhere[:, 3, 3] = 1
    result = register_pointmaps(*scene.inputs, known_poses=elsewhere)
    rotation, direction, trajectory = errors(result.poses, scene.poses)
    assert rotation < 1e-3 and direction < 1e-2 and trajectory < 1e-4
    assert result.pose_covariance.abs().max() == 0
    unit = float(result.poses[-1, :3, 3].norm() / scene.poses[-1, :3, 3].norm())
    relative = (result.depth[3] / (unit * scene.depth[3]).float()).log().abs().median()
    assert float(relative) < 0.1


# --- covariance ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{"smoothness": None}, {"smoothness": "auto"}])
def test_covariance_predicts_the_scatter_of_repeated_noise(changes: dict) -> None:
    """Mean squared Mahalanobis length over 6, 1 if the covariance is right, over 10 draws of scene and noise."""
    lengths = []
    for seed in range(10):
        scene = make_scene(seed=900 + seed, num_frames=6, height=48, width=48, noise=0.01)
        result = register_pointmaps(*scene.inputs, **changes)
        rays = pixel_rays(scene.intrinsics[0], 48, 48)
        unit = 1 / float((scene.depth[0][..., None] * rays).norm(dim=-1).mean())
        poses = result.poses.double()
        turn = so3_log(scene.poses[:, :3, :3] @ poses[:, :3, :3].transpose(1, 2))
        error = torch.cat((turn, scene.poses[:, :3, 3] * unit - poses[:, :3, 3]), 1)[1:]
        lengths.append((error[:, None] @ torch.linalg.inv(result.pose_covariance[1:].double()) @ error[..., None]).flatten() / 6)
    assert 0.4 < float(torch.cat(lengths).mean()) < 2.0


# --- degenerate inputs ---------------------------------------------------------------------------------------------------


def finite(result: Registration) -> bool:
    names = ("poses", "intrinsics", "depth", "pointmaps", "confidence", "pair_scale")
    return all(bool(torch.isfinite(getattr(result, name)).all()) for name in names) and math.isfinite(result.energy)


@pytest.mark.parametrize("path", ["still", "turn"])
def test_no_parallax_is_flagged(path: str) -> None:
    result = register_pointmaps(*small(path=path).inputs)
    assert finite(result)
    assert sum("no parallax" in words for words in result.degenerate[1:]) >= 5


def test_a_planar_scene_is_flagged_and_a_room_is_not() -> None:
    assert all("planar scene" in words for words in register_pointmaps(*small(flat=True).inputs).degenerate)
    assert not any(register_pointmaps(*small().inputs).degenerate)


def test_a_frame_without_overlap_says_so() -> None:
    scene = small()
    maps = list(scene.inputs)
    keep = [0, 1, 2, 4, 5, 6]  # frame 4 (index) is in no pair
    result = register_pointmaps(*(value[keep] for value in maps[:5]), 8)
    assert finite(result)
    assert result.degenerate[4] == "too few points" or "no overlap" in result.degenerate[4]
    torch.testing.assert_close(result.poses[4], torch.eye(4))
    assert torch.isinf(result.pose_covariance[4].diagonal()).all()
    assert not any(words for index, words in enumerate(result.degenerate) if index != 4)


def test_a_pair_apart_from_the_rest_has_no_overlap() -> None:
    scene = small(num_frames=6, graph="chain")
    keep = [0, 1, 3, 4]  # 0-1-2 and 3-4-5
    result = register_pointmaps(*(value[keep] for value in scene.inputs[:5]), 6)
    assert [("no overlap" in words) for words in result.degenerate] == [False, False, False, True, True, True]
    assert finite(result)


def test_a_map_without_enough_points_is_flagged() -> None:
    scene = small()
    maps = list(scene.inputs)
    maps[3] = maps[3].clone()
    maps[3][2] = 0
    result = register_pointmaps(*maps)
    assert result.degenerate[3] == "too few points" and finite(result)
    assert float(result.confidence[3].max()) == 0 and float(result.depth[3].max()) == 0


def test_noise_instead_of_points_is_a_poor_fit() -> None:
    scene = small()
    maps = list(scene.inputs)
    maps[2] = torch.randn_like(maps[2])
    result = register_pointmaps(*maps)
    assert finite(result) and all(any(w in words for w in ("poor fit", "no overlap")) for words in result.degenerate[1:])


def test_on_cuda_nothing_is_rounded_to_tf32() -> None:
    matmul, before = torch.backends.cuda.matmul, torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with full_precision(torch.device("cpu")):
            assert matmul.fp32_precision == "tf32"
        with pytest.raises(KeyError), full_precision(torch.device("cuda")):
            assert matmul.fp32_precision == "ieee"
            raise KeyError
        assert matmul.fp32_precision == "tf32"
    finally:
        torch.set_float32_matmul_precision(before)


def test_autocast_outside_changes_nothing() -> None:
    scene = small(num_frames=4)
    options = {"known_poses": scene.poses}
    plain = register_pointmaps(*scene.inputs), register_pointmaps(*scene.inputs, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = register_pointmaps(*scene.inputs), register_pointmaps(*scene.inputs, **options)
    assert all(torch.equal(a.poses, b.poses) and torch.equal(a.depth, b.depth) for a, b in zip(plain, inside, strict=True))


@pytest.mark.parametrize("far", [1.0, 30.0])
def test_weights_of_positions_are_in_the_unit_of_the_result(far: float) -> None:
    """What one unit of the result is in the solver's own unit, with and without a background that is far away."""
    maps = list(small(num_frames=4).inputs)
    maps[0], maps[2] = maps[0].clone(), maps[2].clone()
    for values in (maps[0], maps[2]):
        values[:, :12] *= far
    data, masks = check_inputs(*maps)
    samples = take_samples(data, *masks, 4096)
    state, samples = first_state(samples, register_pointmaps(*maps).intrinsics.double(), 4, None)
    result = register_pointmaps(*maps)
    assert unit_length(samples, state) == pytest.approx(float(samples.unit[0] ** -1 / result.pair_scale[0]), rel=0.1)


# --- refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pointmaps": torch.zeros(7, 40, 48, 2)}, r"pointmaps must have shape \(P, H, W, 3\)"),
        ({"pointmaps": torch.zeros(0, 40, 48, 3)}, "no empty dimension"),
        ({"anchor_pointmaps": torch.zeros(7, 40, 47, 3)}, "anchor_pointmaps must have shape"),
        ({"confidence": torch.zeros(7, 40, 48, 1)}, "confidence must have shape"),
        ({"pairs": torch.zeros(7, 2)}, "pairs must hold integers"),
        ({"pairs": torch.zeros(7, 2, dtype=torch.long)}, "two different frames"),
        ({"pairs": torch.tensor([[0, 9]] * 7)}, r"frame indices in \[0, 7\]"),
        ({"num_frames": 0}, "num_frames must be a positive integer"),
        ({"confidence": torch.full((7, 40, 48), -1.0)}, "confidence must be >= 0"),
        ({"pointmaps": torch.full((7, 40, 48, 3), float("nan"))}, "no pixel is valid"),
        ({"method": "slow"}, "method must be 'fast' or 'reference'"),
        ({"focal_px": -1.0}, "focal_px must be a positive number"),
        ({"focal_px": torch.ones(3)}, "one per frame"),
        ({"focal_px": 3.0, "intrinsics": torch.eye(3)}, "not both"),
        ({"pixel_aspect": 2.0, "intrinsics": torch.eye(3)}, "give pixel_aspect or intrinsics, not both"),
        ({"pixel_aspect": 0.0}, "pixel_aspect is fy / fx, a positive number, got 0.0"),
        ({"pixel_aspect": "16/9"}, "pixel_aspect is fy / fx, a positive number, got '16/9'"),
        ({"pixel_aspect": 2.0, "method": "reference"}, "takes focal_px, not intrinsics or pixel_aspect"),
        ({"intrinsics": torch.eye(2)}, "intrinsics must be finite"),
        ({"intrinsics": torch.zeros(3, 3)}, "positive focal lengths"),
        ({"known_poses": torch.eye(4)}, "known_poses must be finite and"),
        (
            {"known_poses": 2 * torch.eye(4).expand(8, 4, 4)},
            "known_poses must be rigid .*: its 3 x 3 part is not a rotation",
        ),
        ({"known_poses": torch.eye(4).expand(8, 4, 4) * torch.tensor([1.0, 1, -1, 1])}, "pose 0: it mirrors the scene"),
        ({"smoothness": 1.0}, "smoothness must be 'auto' or None"),
        ({"smoothness_focal": -1.0}, "weights must be >= 0"),
        ({"max_iterations": 0}, "max_iterations must be at least 1"),
        ({"chunk_pairs": 0}, "chunk_pairs must be at least 1"),
    ],
)
def test_nonsense_is_refused_with_what_was_got(change: dict, words: str) -> None:
    names = ("anchor_pointmaps", "anchor_confidence", "pointmaps", "confidence", "pairs", "num_frames")
    arguments = dict(zip(names, small(noise=0.0).inputs, strict=True))
    with pytest.raises(ValueError, match=words):
        register_pointmaps(**{**arguments, **change})


@pytest.mark.parametrize("slot", range(5))
@pytest.mark.parametrize("convert", [Tensor.numpy, Tensor.tolist])
def test_arrays_and_lists_are_refused_by_type(slot: int, convert) -> None:
    arguments = list(small().inputs)
    arguments[slot] = convert(arguments[slot])
    name = ("anchor_pointmaps", "anchor_confidence", "pointmaps", "confidence", "pairs")[slot]
    with pytest.raises(TypeError, match=f"{name} must be a torch tensor, got (ndarray|list); torch.as_tensor"):
        register_pointmaps(*arguments)


def test_all_arguments_as_arrays_are_refused_by_type() -> None:
    with pytest.raises(TypeError, match="pointmaps must be a torch tensor, got ndarray"):
        register_pointmaps(*(value.numpy() for value in small().inputs[:5]), 8)


def test_given_cameras_may_be_arrays_and_lists() -> None:
    scene = small(num_frames=4)
    plain = register_pointmaps(*scene.inputs, intrinsics=scene.intrinsics, known_poses=scene.poses)
    other = register_pointmaps(*scene.inputs, intrinsics=scene.intrinsics.numpy(), known_poses=scene.poses.tolist())
    assert torch.equal(plain.depth, other.depth)
    plain = register_pointmaps(*scene.inputs, pixel_aspect=1.0)
    other = register_pointmaps(*scene.inputs[:5], np.int64(4), pixel_aspect=np.float32(1.0))
    assert torch.equal(plain.poses, other.poses)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_maps_of_any_precision_are_taken(dtype: torch.dtype) -> None:
    scene = small(num_frames=4, scale_jitter=0.0)
    result = register_pointmaps(*(value.to(dtype) for value in scene.inputs[:4]), *scene.inputs[4:])
    assert result.poses.dtype == torch.float32 and errors(result.poses, scene.poses)[0] < 1.0


def test_maps_on_different_devices_and_complex_ones_are_refused() -> None:
    arguments = list(small().inputs)
    elsewhere = [*arguments[:3], arguments[3].to("meta"), *arguments[4:]]
    with pytest.raises(ValueError, match="on one device, got anchor_pointmaps on cpu, .* confidence on meta"):
        register_pointmaps(*elsewhere)
    with pytest.raises(ValueError, match="pointmaps must hold real numbers, got torch.complex64"):
        register_pointmaps(*arguments[:2], arguments[2].to(torch.complex64), *arguments[3:])


def test_maps_without_a_pixel_to_tell_the_aspect_are_finite() -> None:
    scene = make_scene(height=8, width=8, num_frames=3, graph="chain")
    maps = list(scene.inputs)
    maps[1] = torch.zeros_like(maps[1])
    maps[1][:, 7, 5] = 3.0  # one pixel, which does not take part in the first guess
    assert finite(register_pointmaps(*maps))


def test_hostile_inputs_never_crash_hang_or_return_nan() -> None:
    outcomes = {run_case(index).split(" ")[0] for index in range(50)}
    assert outcomes == {"sound", "flagged", "refused"}


def test_scene_options_are_reproducible() -> None:
    first, second = small(seed=5), small(seed=5)
    assert all(torch.equal(a, b) for a, b in zip(first.inputs[:5], second.inputs[:5], strict=True))
    assert not torch.equal(first.pointmaps, replace(small(seed=6)).pointmaps)
