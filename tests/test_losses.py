"""The losses equal OpenSora's and DUSt3R's, values and gradients; every refusal is one."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from original_checkpoints import original_weights

from jog3r import Jog3rTransformer3DModel
from jog3r.training.losses import (
    generation_loss,
    generation_target,
    pointmap_loss,
    pointmap_pixel_losses,
    variational_bound_term,
)

REL = 1e-5
Parity = Callable[[str], tuple[dict, dict[str, torch.Tensor]]]


def schedule(**changes: object) -> DDPMScheduler:
    return DDPMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02, clip_sample=False, **changes)


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


def batch(channels: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    output = torch.randn(3, channels, 2, 4, 4, generator=generator)
    clean, noise = (torch.randn(3, 4, 2, 4, 4, generator=generator) for _ in range(2))
    return output, clean, noise, torch.tensor([0, 20, 999])


# --- generation


def test_generation_loss_equals_opensoras(parity: Parity) -> None:
    info, tensors = parity("iddpm_training_loss")
    arguments = (tensors["model_out"], tensors["in.x0"], tensors["in.noise"], tensors["in.t"], schedule())
    squared = generation_loss(*arguments)
    assert squared.flatten(1).mean(1).tolist() == pytest.approx(info["values"]["mse"], rel=REL)
    bound = variational_bound_term(*arguments)
    assert bound.flatten(1).mean(1).tolist() == pytest.approx(info["values"]["vb"], rel=REL)
    loss = generation_loss(*arguments, variational_bound=True)
    assert loss.flatten(1).mean(1).tolist() == pytest.approx(info["values"]["loss"], rel=REL)


def test_generation_loss_has_opensoras_gradient(parity: Parity, tmp_path: Path) -> None:
    info, tensors = parity("iddpm_training_loss")
    torch.save(original_weights(parity("iddpm_model")[1]), tmp_path / "model.pth")
    model = Jog3rTransformer3DModel.from_single_file(
        tmp_path / "model.pth", num_attention_heads=info["model_config"]["num_heads"]
    )
    output = model(tensors["x_t"], tensors["in.t"], tensors["in.y"][:, 0], tensors["in.mask"]).sample
    assert (output - tensors["model_out"]).abs().max() < 2e-5
    loss = generation_loss(output, tensors["in.x0"], tensors["in.noise"], tensors["in.t"], schedule(), True)
    loss.mean().backward()
    assert relative(model.proj_out.weight.grad, tensors["grad.final_layer.linear.weight"]) < REL


def test_the_bound_trains_the_variance_only() -> None:
    output, clean, noise, timesteps = batch(8)
    output.requires_grad_()
    variational_bound_term(output, clean, noise, timesteps, schedule()).mean().backward()
    assert output.grad[:, :4].abs().max() == 0
    assert output.grad[:, 4:].abs().max() > 0


def test_a_perfect_prediction_with_the_posteriors_variance_has_no_bound() -> None:
    output, clean, noise, timesteps = batch(8)
    output = torch.cat([noise, torch.full_like(noise, -1.0)], dim=1)
    bound = variational_bound_term(output, clean, noise, timesteps, schedule())
    assert bound[1:].abs().max() < 1e-4  # step 0 is a likelihood, which no prediction brings to zero


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_the_bound_does_not_depend_on_what_is_predicted(prediction_type: str) -> None:
    output, clean, noise, timesteps = batch(8)
    scheduler = schedule(prediction_type=prediction_type)
    perfect = torch.cat([generation_target(clean, noise, timesteps, scheduler), output[:, 4:]], dim=1)
    reference = torch.cat([noise, output[:, 4:]], dim=1)
    bound = variational_bound_term(perfect.double(), clean.double(), noise.double(), timesteps, scheduler)
    expected = variational_bound_term(reference.double(), clean.double(), noise.double(), timesteps, schedule())
    assert torch.allclose(bound, expected, rtol=1e-3, atol=1e-4)  # the scheduler's own table is float32


def test_targets() -> None:
    _, clean, noise, timesteps = batch()
    assert generation_target(clean, noise, timesteps, schedule()) is noise
    assert generation_target(clean, noise, timesteps, schedule(prediction_type="sample")) is clean
    v_scheduler = schedule(prediction_type="v_prediction")
    assert torch.allclose(
        generation_target(clean, noise, timesteps, v_scheduler), v_scheduler.get_velocity(clean, noise, timesteps)
    )
    flow = FlowMatchEulerDiscreteScheduler()
    assert torch.equal(generation_target(clean, noise, timesteps, flow), noise - clean)


def test_generation_loss_is_unreduced_and_ignores_variance_channels() -> None:
    output, clean, noise, timesteps = batch(8)
    loss = generation_loss(output, clean, noise, timesteps, schedule())
    assert torch.equal(loss, (output[:, :4] - noise) ** 2)
    assert torch.equal(generation_loss(output[:, :4], clean, noise, timesteps, schedule()), loss)
    assert generation_loss(output.bfloat16(), clean, noise, timesteps, schedule()).dtype == torch.float32


def test_generation_loss_refuses() -> None:
    output, clean, noise, timesteps = batch()
    with pytest.raises(ValueError, match=r"a prediction of \(3, 3, 2, 4, 4\) does not fit"):
        generation_loss(output[:, :3], clean, noise, timesteps, schedule())
    with pytest.raises(ValueError, match=r"timesteps \(2,\) do not fit"):
        generation_loss(output, clean, noise, timesteps[:2], schedule())
    with pytest.raises(ValueError, match="needs 8 output channels, got 4"):
        generation_loss(output, clean, noise, timesteps, schedule(), variational_bound=True)
    with pytest.raises(ValueError, match="with betas such as DDPMScheduler, got FlowMatchEuler"):
        variational_bound_term(torch.cat([output] * 2, dim=1), clean, noise, timesteps, FlowMatchEulerDiscreteScheduler())
    scheduler = schedule()
    scheduler.register_to_config(prediction_type="other")
    with pytest.raises(ValueError, match="got 'other'"):
        generation_loss(output, clean, noise, timesteps, scheduler)


# --- pointmaps

MASK_CASES = ("all", "random", "sample_empty_view2", "few", "none_view2")


def predictions(tensors: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    return [tensors[f"pred.{name}"].clone().requires_grad_() for name in ("pts1", "conf1", "pts2", "conf2")]


def truth(tensors: dict[str, torch.Tensor], case: str) -> list[torch.Tensor]:
    return [tensors[name] for name in ("gt.pts1_in_cam1", "gt.pts2_in_cam1", f"{case}.valid1", f"{case}.valid2")]


@pytest.mark.parametrize("case", MASK_CASES)
def test_pointmap_loss_equals_dust3rs_with_gradients(case: str, parity: Parity) -> None:
    info, tensors = parity("dust3r_confloss")
    predicted = predictions(tensors)
    loss = pointmap_loss(*predicted, *truth(tensors, case), alpha=info["alpha"])
    assert loss.item() == pytest.approx(info["values"][case]["loss"], rel=REL)
    loss.backward()
    for tensor, name in zip(predicted, ("pts3d_1", "conf_1", "pts3d_2", "conf_2"), strict=True):
        expected = tensors[f"{case}.grad.{name}"]
        assert (tensor.grad - expected).norm() <= REL * expected.norm(), name


def test_the_loss_of_each_view_equals_dust3rs(parity: Parity) -> None:
    info, tensors = parity("dust3r_confloss")
    points1, confidence1, points2, confidence2 = predictions(tensors)
    true1, true2, valid1, valid2 = truth(tensors, "random")
    losses = pointmap_pixel_losses((points1, points2), (confidence1, confidence2), (true1, true2), (valid1, valid2))
    for loss, valid, name in zip(losses, (valid1, valid2), ("conf_loss_1", "conf_loss2"), strict=True):
        assert (loss.sum() / valid.sum()).item() == pytest.approx(info["values"]["random"][name], rel=REL)
        assert loss[~valid].abs().max() == 0


def random_pointmaps(seed: int = 0) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    points = [torch.randn(2, 4, 5, 3, generator=generator, dtype=torch.float64) + 3 for _ in range(4)]
    confidence = [1 + torch.rand(2, 4, 5, generator=generator, dtype=torch.float64) for _ in range(2)]
    valid = [torch.rand(2, 4, 5, generator=generator) < 0.7 for _ in range(2)]
    return [points[0], confidence[0], points[1], confidence[1]], [points[2], points[3], *valid]


def test_scale_does_not_matter_but_must_be_common_to_both_views() -> None:
    predicted, true = random_pointmaps()
    loss = pointmap_loss(*predicted, *true)
    both = [predicted[0] * 7, predicted[1], predicted[2] * 7, predicted[3]]
    assert pointmap_loss(*both, *true).item() == pytest.approx(loss.item(), rel=1e-12)
    one = [predicted[0] * 7, *predicted[1:]]
    assert abs(pointmap_loss(*one, *true).item() - loss.item()) > 0.1


def test_perfect_points_leave_the_confidence_term() -> None:
    predicted, true = random_pointmaps()
    perfect = [true[0] * 2, torch.full_like(predicted[1], math.e), true[1] * 2, torch.full_like(predicted[3], math.e)]
    assert pointmap_loss(*perfect, *true, alpha=0.3).item() == pytest.approx(-0.6)


def test_unknown_points_may_hold_nan() -> None:
    predicted, true = random_pointmaps()
    loss = pointmap_loss(*predicted, *true)
    true[0], true[1] = (torch.where(mask[..., None], points, torch.nan) for points, mask in zip(true[:2], true[2:], strict=True))
    leaves = [tensor.clone().requires_grad_() for tensor in predicted]
    again = pointmap_loss(*leaves, *true)
    again.backward()
    assert again.item() == loss.item()
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves)


def test_nothing_valid_is_zero_with_a_gradient_of_zero() -> None:
    predicted, true = random_pointmaps()
    leaves = [tensor.clone().requires_grad_() for tensor in predicted]
    loss = pointmap_loss(*leaves, *true[:2], *(torch.zeros_like(mask) for mask in true[2:]))
    loss.backward()
    assert loss.item() == 0
    assert all(leaf.grad.abs().max() == 0 for leaf in leaves)


def test_gradient_of_the_pointmap_loss_is_its_slope() -> None:
    predicted, true = random_pointmaps()
    leaves = [tensor[:1, :2, :2].clone().requires_grad_() for tensor in predicted]
    true = [tensor[:1, :2, :2] for tensor in true]
    assert torch.autograd.gradcheck(lambda *values: pointmap_loss(*values, *true), leaves)


def test_pointmap_loss_refuses() -> None:
    predicted, true = random_pointmaps()
    with pytest.raises(ValueError, match=r"points must be \(B, H, W, 3\)"):
        pointmap_loss(predicted[0][..., :2], *predicted[1:], *true)
    with pytest.raises(ValueError, match="bool mask must be"):
        pointmap_loss(*predicted, *true[:3], true[3].float())
    with pytest.raises(ValueError, match="confidence and a bool mask must be"):
        pointmap_loss(predicted[0], predicted[1][:1], *predicted[2:], *true)
