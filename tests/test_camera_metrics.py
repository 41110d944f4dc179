"""Pose errors and metrics: parity with the published codes, known values, invariances, refusals."""

import numpy as np
import pytest
import torch

from jog3r.evaluation import (
    constant_poses,
    failed_pose_errors,
    forward_poses,
    pose_errors,
    pose_metrics,
    pose_metrics_by_bin,
    shuffled_pairs,
)
from jog3r.geometry.camera_metrics import direction_angle_deg, relative_poses, rotation_angle_deg

STANDING_STILL = 8  # sequence of the reference whose camera does not move for half of it


def rotation(axis: str, degrees: float) -> np.ndarray:
    a, b = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix[a, a], matrix[a, b], matrix[b, a], matrix[b, b] = c, -s, s, c
    return matrix


def trajectory(num_frames: int = 6, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    poses = np.tile(np.eye(4), (num_frames, 1, 1))
    for f in range(1, num_frames):
        poses[f, :3, :3] = rotation("y", generator.uniform(-40, 40)) @ rotation("x", generator.uniform(-20, 20))
        poses[f, :3, 3] = generator.normal(size=3)
    return poses


def pair_of_poses(rotations: torch.Tensor, translations: torch.Tensor) -> np.ndarray:
    poses = np.tile(np.eye(4), (2, 1, 1))
    poses[1, :3, :3], poses[1, :3, 3] = rotations, translations
    return poses


# ---- parity


def test_pairs_equal_vggt_and_the_plain_formula(parity):
    _, tensors = parity("pose_metrics")
    errors = [
        pose_errors(pair_of_poses(r_pred, t_pred), pair_of_poses(r_true, t_true))
        for r_pred, t_pred, r_true, t_true in zip(
            *(tensors[f"pairs.{name}"] for name in ("R_pred", "t_pred", "R_true", "t_true")), strict=True
        )
    ]
    rotation_deg = np.array([e.rotation_deg[0] for e in errors])
    folded = np.array([e.translation_folded_deg[0] for e in errors])
    unfolded = np.array([e.translation_deg[0] for e in errors])
    plain_rotation, plain_translation = tensors["pairs.plain.rot"].numpy(), tensors["pairs.plain.trans"].numpy()
    np.testing.assert_allclose(rotation_deg, plain_rotation, atol=1e-6)
    np.testing.assert_array_equal(np.isnan(unfolded), np.isnan(plain_translation))
    np.testing.assert_allclose(unfolded, plain_translation, atol=2e-6, equal_nan=True)
    for name, ours, undefined in (("rot", rotation_deg, None), ("trans", folded, 90.0)):
        theirs = tensors[f"pairs.vggt.f64.{name}"].numpy()
        ours = ours if undefined is None else np.nan_to_num(ours, nan=undefined)
        visible = theirs > 0.1
        np.testing.assert_allclose(ours[visible], theirs[visible], atol=1e-6)
        assert ours[~visible].max() <= 0.1 + 1e-6


def test_pair_aggregates_equal_vggt(parity):
    info, tensors = parity("pose_metrics")
    names = ("R_pred", "t_pred", "R_true", "t_true")
    rows = zip(*(tensors[f"pairs.{name}"] for name in names), strict=True)
    metrics = pose_metrics([pose_errors(pair_of_poses(a, b), pair_of_poses(c, d)) for a, b, c, d in rows])
    expected = info["pairs_aggregate"]["vggt.f64"]
    assert metrics["rotation_deg"] == pytest.approx(expected["rot_mean"], abs=1e-6)
    assert metrics["translation_folded_deg"] == pytest.approx(expected["trans_mean"], abs=1e-6)
    assert metrics["rra@5"] == pytest.approx(expected["RRA5"])
    assert metrics["rta_folded@5"] == pytest.approx(expected["RTA5"])
    assert metrics["auc@30"] == pytest.approx(expected["mAA30_vggt"])
    assert metrics["maa_folded@30"] == pytest.approx(expected["mAA30_own_mean_of_min_RRA_RTA_not_reference"])


@pytest.mark.parametrize(("relative", "key"), [("all", "vggt"), ("first", "first_to_f_vggt")])
def test_trajectories_equal_vggt(parity, relative, key):
    info, tensors = parity("pose_metrics")
    pairs = zip(tensors["traj.cam2world_pred"], tensors["traj.cam2world_true"], strict=True)
    errors = [pose_errors(predicted, true, relative) for predicted, true in pairs]
    if relative == "all":
        ours = np.stack([e.rotation_deg for e in errors])
        np.testing.assert_allclose(ours, tensors["traj.vggt.rot"].numpy(), atol=1e-6)
        ours = np.nan_to_num(np.stack([e.translation_folded_deg for e in errors]), nan=90.0)
        theirs = tensors["traj.vggt.trans"].numpy()
        moving = np.arange(len(errors)) != STANDING_STILL
        np.testing.assert_allclose(ours[moving], theirs[moving], atol=1e-6)
        np.testing.assert_allclose(ours, theirs, atol=5)  # directions of rounding noise, pulled to 90 by VGGT's epsilon
    metrics, expected = pose_metrics(errors), info["traj_aggregate"][key]
    assert metrics["num_pairs"] == expected["n"]
    assert metrics["rotation_deg"] == pytest.approx(expected["rot_mean"], abs=1e-6)
    assert metrics["rotation_median_deg"] == pytest.approx(expected["rot_median"], abs=1e-6)
    assert metrics["translation_folded_deg"] == pytest.approx(expected["trans_mean"], abs=0.1)
    assert metrics["rra@5"] == pytest.approx(expected["RRA5"])
    assert metrics["rta_folded@5"] == pytest.approx(expected["RTA5"])
    assert metrics["auc@30"] == pytest.approx(expected["mAA30_vggt"])
    assert metrics["maa_folded@30"] == pytest.approx(expected["mAA30_own_mean_of_min_RRA_RTA_not_reference"])


def test_other_direction_equals_posediffusion(parity):
    """The i -> j transform in float64 gives PoseDiffusion's float32 numbers, except where the camera stands still."""
    _, tensors = parity("pose_metrics")
    for k in range(8):
        predicted, true = (
            np.linalg.inv(relative_poses(tensors[f"traj.cam2world_{name}"][k].numpy(), "all")) for name in ("pred", "true")
        )
        unfolded = direction_angle_deg(predicted[:, :3, 3], true[:, :3, 3])
        np.testing.assert_allclose(
            np.minimum(unfolded, 180 - unfolded), tensors["traj.pd.trans"][k].numpy(), atol=5e-3, err_msg=str(k)
        )


# ---- known values


def test_known_angles():
    true = trajectory(2)
    predicted = true.copy()
    predicted[1, :3, :3] = true[1, :3, :3] @ rotation("z", 7.0)
    predicted[1, :3, 3] = -true[1, :3, 3]
    errors = pose_errors(predicted, true)
    assert errors.rotation_deg[0] == pytest.approx(7.0, abs=1e-9)
    assert errors.translation_deg[0] == pytest.approx(180.0)
    assert errors.translation_folded_deg[0] == pytest.approx(0.0, abs=1e-9)
    assert errors["rotation_deg"] is errors.rotation_deg
    assert set(dict(errors)) >= {"rotation_deg", "translation_deg", "translation_folded_deg"}


@pytest.mark.parametrize("degrees", [0.0, 1e-7, 1e-3, 90.0, 179.999999, 180.0])
def test_rotation_angle_is_exact_everywhere(degrees):
    base = rotation("x", 33) @ rotation("y", -71)
    assert rotation_angle_deg(base @ rotation("z", degrees), base) == pytest.approx(degrees, abs=1e-12, rel=1e-9)


def test_perfect_prediction_scores_full_marks():
    true = trajectory()
    metrics = pose_metrics([pose_errors(true, true, "all")])
    assert metrics["rotation_deg"] == pytest.approx(0, abs=1e-9)
    assert metrics["translation_deg"] == pytest.approx(0, abs=1e-9)
    assert {metrics[name] for name in ("rra@5", "rta@5", "maa@30", "auc@30")} == {100.0}
    assert metrics["num_pairs"] == 15


def test_global_frame_and_scale_do_not_matter():
    true, predicted = trajectory(seed=1), trajectory(seed=2)
    moved = predicted.copy()
    moved[:, :3, 3] *= 3.7
    world = np.eye(4)
    world[:3, :3], world[:3, 3] = rotation("x", 50) @ rotation("z", 12), [1, -2, 3]
    for relative in ("first", "all"):
        before, after = pose_errors(predicted, true, relative), pose_errors(world @ moved, true, relative)
        np.testing.assert_allclose(before.rotation_deg, after.rotation_deg, atol=1e-9)
        np.testing.assert_allclose(before.translation_deg, after.translation_deg, atol=1e-9)


def test_torch_and_numpy_agree_and_inputs_stay_untouched():
    true, predicted = trajectory(seed=1), trajectory(seed=2)
    copy = predicted.copy()
    a = pose_errors(predicted, true)
    b = pose_errors(torch.from_numpy(predicted), torch.from_numpy(true))
    np.testing.assert_array_equal(a.rotation_deg, b.rotation_deg)
    np.testing.assert_array_equal(predicted, copy)
    assert a.rotation_deg.dtype == np.float64


def test_maa_is_area_under_the_lower_curve_and_auc_of_the_pairwise_maximum():
    errors = {
        "rotation_deg": np.array([0.5, 40.0]),
        "translation_deg": np.array([40.0, 0.5]),
        "translation_folded_deg": np.array([40.0, 0.5]),
    }
    metrics = pose_metrics([errors])
    assert metrics["maa@30"] == pytest.approx(50.0)  # RRA@t = RTA@t = 50 at every t, on different pairs
    assert metrics["auc@30"] == 0.0


def test_thresholds_are_strict():
    errors = {name: np.array([5.0]) for name in ("rotation_deg", "translation_deg", "translation_folded_deg")}
    metrics = pose_metrics([errors])
    assert metrics["rra@5"] == metrics["rta@5"] == 0.0


# ---- undefined, failed


def test_zero_translation_is_nan_never_below_a_threshold_and_90_in_means():
    true = trajectory(3)
    still = true.copy()
    still[1:, :3, 3] = 0
    for predicted, truth in ((still, true), (true, still)):
        errors = pose_errors(predicted, truth)
        assert np.isnan(errors.translation_deg).all()
        assert np.isnan(errors.translation_folded_deg).all()
        metrics = pose_metrics([errors])
        assert metrics["rta@5"] == metrics["maa@30"] == metrics["auc@30"] == 0.0
        assert metrics["translation_deg"] == metrics["translation_folded_deg"] == 90.0
        assert metrics["num_undefined"] == 2
    assert np.isnan(metrics["translation_defined_deg"])  # the last truth never moved


def test_rounding_is_no_motion():
    true = trajectory(3).astype(np.float32)
    true[:, :3, 3] = np.array([1.1, 2.2, 3.3], np.float32)
    true[2, 0, 3] = np.nextafter(true[2, 0, 3], np.float32(2))
    assert np.isnan(pose_errors(trajectory(3), true).translation_deg).all()


def test_failed_clip_counts_as_180_and_is_reported():
    true = trajectory()
    metrics = pose_metrics([pose_errors(true, true), failed_pose_errors(true)])
    assert metrics["rotation_deg"] == pytest.approx(90.0)
    assert metrics["translation_deg"] == pytest.approx(90.0)
    assert metrics["num_failed"] == 1
    assert metrics["num_clips"] == 2
    assert metrics["maa@30"] == pytest.approx(50.0)


# ---- baselines, bins


def test_baselines():
    true = trajectory()
    true[:, :3, :3] = np.eye(3)
    true[:, :3, 3] = np.linspace(0, 1, len(true))[:, None] * [0, 0, 1]
    constant, forward = (pose_metrics([pose_errors(make(6), true, "all")]) for make in (constant_poses, forward_poses))
    assert constant["rotation_deg"] == 0
    assert constant["translation_deg"] == 90
    assert forward["translation_deg"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("count", [2, 3, 17])
def test_shuffled_pairs_never_pair_an_item_with_itself(count):
    partner = shuffled_pairs(count, seed=3)
    assert sorted(partner) == list(range(count))
    assert (partner != np.arange(count)).all()
    assert (shuffled_pairs(count, seed=3) == partner).all()


def test_bins_split_the_pairs():
    true = trajectory(8)
    errors = [pose_errors(trajectory(8, seed=5), true, "all")]
    edges = [0.0, 1.0, 2.0, float(errors[0].baseline.max())]
    rows = pose_metrics_by_bin(errors, edges)
    assert sum(row["num_pairs"] for row in rows) == 28
    by_rotation = pose_metrics_by_bin(errors, [0, 5, 180], by="motion_deg")
    assert sum(row["num_pairs"] for row in by_rotation) == 28


# ---- refusals


def test_refusals():
    good = trajectory()
    with pytest.raises(ValueError, match=r"\(F,4,4\)"):
        pose_errors(good[0], good)
    with pytest.raises(ValueError, match="at least 2 frames"):
        pose_errors(good[:1], good[:1])
    with pytest.raises(ValueError, match="differ in their number of frames"):
        pose_errors(good[:3], good)
    with pytest.raises(ValueError, match="failed_pose_errors"):
        pose_errors(np.where(np.arange(16).reshape(4, 4) == 3, np.nan, good), good)
    with pytest.raises(ValueError, match="rigid"):
        pose_errors(good * 2, good)
    mirrored = good.copy()
    mirrored[:, :3, 0] *= -1
    with pytest.raises(ValueError, match="rigid"):
        pose_errors(mirrored, good)
    with pytest.raises(ValueError, match="'last'"):
        pose_errors(good, good, relative="last")
    with pytest.raises(ValueError, match="got none"):
        pose_metrics([])
    with pytest.raises(TypeError, match="rotation_deg"):
        pose_metrics([{"translation_deg": [1.0]}])
    with pytest.raises(TypeError, match="list of what pose_errors returns"):
        pose_metrics([3.0])
    with pytest.raises(ValueError, match="rise"):
        pose_metrics_by_bin([pose_errors(good, good)], [1, 1])
    with pytest.raises(ValueError, match="baseline"):
        pose_metrics_by_bin([pose_errors(good, good)], [0, 1], by="speed")
    with pytest.raises(ValueError, match="at least 2 clips"):
        shuffled_pairs(1)
    with pytest.raises(ValueError, match="num_frames"):
        forward_poses(0)


def test_a_mirrored_pose_is_refused_as_such():
    mirrored = trajectory(3) * np.array([1.0, 1, -1, 1])
    with pytest.raises(ValueError, match="poses must be rigid 4x4 poses .* pose 0: it mirrors the scene"):
        pose_errors(mirrored, trajectory(3))
