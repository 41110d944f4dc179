"""Training in bf16: which numbers it may round and which not."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn
from training_cases import batch_and_draws, built, settings
from training_runs import float32_layer_norm

from jog3r.geometry.pointmaps import pointmaps_in_first_camera
from jog3r.pipelines.reconstruction import noise_latents
from jog3r.training.joint_model import ImageModel, reconstruction_loss


class ExactAnswer(nn.Module):
    """Stands where the DUSt3R baseline does and knows the truth."""

    def __init__(self, batch: dict[str, torch.Tensor]):
        super().__init__()
        self.truth = pointmaps_in_first_camera(batch["depth"], batch["intrinsics"], batch["poses"])

    def forward(self, _: torch.Tensor, pairs: torch.Tensor) -> SimpleNamespace:
        anchor, other = (self.truth[:, pairs[:, view]] for view in range(2))  # (R, P, H, W, 3)
        sure = torch.ones(anchor.shape[:-1])  # a confidence of 1 adds nothing
        return SimpleNamespace(anchor_pointmaps=anchor, anchor_confidence=sure, pointmaps=other, confidence=sure)


def test_the_exact_answer_costs_nothing_in_bf16() -> None:
    config = settings(generation_batch=0, mixed_precision="bf16")
    batch, draws = batch_and_draws(config)
    batch["frames"] = batch["latents"]
    exact = ExactAnswer(batch)
    with torch.autocast("cpu", torch.bfloat16):  # as accelerate wraps the model
        loss = reconstruction_loss(exact(batch["frames"], draws.pairs), batch, draws.pairs, config)
        of_images = ImageModel(exact)(batch, draws, config)["reconstruction"]
    assert loss < 1e-6
    assert of_images < 1e-6


def test_weights_in_bf16_take_a_batch_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """FSDP computes with bf16 copies of the weights and leaves the rest to the model."""
    config = settings(mixed_precision="bf16", train_text_encoder=True)
    batch, draws = batch_and_draws(config)
    joint, _ = built(config)
    expected = joint(batch, draws, settings(train_text_encoder=True))
    monkeypatch.setattr(nn.functional, "layer_norm", float32_layer_norm)
    losses = joint.to(torch.bfloat16)(batch, draws, config)
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected[name], rtol=2e-3, atol=0)


def test_noise_of_the_first_steps_outlives_bf16() -> None:
    noise = torch.ones(2, 1, 1, 1, 1, dtype=torch.bfloat16)
    noisy = noise_latents(DDPMScheduler(), torch.zeros_like(noise), noise, torch.tensor([0, 9]))
    torch.testing.assert_close(noisy.flatten().float(), torch.tensor([0.01, 0.0432]), rtol=1e-2, atol=0)
