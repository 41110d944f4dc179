"""DUSt3R's decoder, linear head and whole model with original weights compute what the original computes (tolerance 5e-5)."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from original_checkpoints import original_weights, save_dust3r

from jog3r import Pointmap3DHead
from jog3r.models.conversion.convert import inspect_dust3r_baseline
from jog3r.models.dust3r_baseline import Dust3rBaseline
from jog3r.models.pointmap_head import Pointmap3DHeadOutput

TOLERANCE = 5e-5
Parity = Callable[[str], tuple[dict, dict[str, torch.Tensor]]]


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return (ours - theirs).abs().max().item()


def check_outputs(output: Pointmap3DHeadOutput, tensors: dict[str, torch.Tensor]) -> None:
    assert difference(output.anchor_pointmaps[:, 0], tensors["out.pts3d_1"]) < TOLERANCE
    assert difference(output.pointmaps[:, 0], tensors["out.pts3d_2"]) < TOLERANCE
    assert difference(output.anchor_confidence[:, 0], tensors["out.conf_1"]) < TOLERANCE
    assert difference(output.confidence[:, 0], tensors["out.conf_2"]) < TOLERANCE


@pytest.fixture
def decoder(parity: Parity, tmp_path: Path) -> tuple[Pointmap3DHead, dict, dict[str, torch.Tensor]]:
    info, tensors = parity("dust3r_decoder")
    torch.save({"model": original_weights(tensors)}, tmp_path / "decoder.pth")
    head = Pointmap3DHead.from_single_file(tmp_path / "decoder.pth", num_attention_heads=info["config"]["dec_num_heads"])
    return head, info, tensors


@torch.no_grad()
def test_decoder_and_head(decoder: tuple) -> None:
    head, info, tensors = decoder
    features = torch.stack([tensors["in.feat1"], tensors["in.feat2"]], dim=1)
    check_outputs(head(features, *info["config"]["img_size"]), tensors)


def test_decoder_blocks_and_gradients(decoder: tuple, parity: Parity) -> None:
    head, info, tensors = decoder
    _, expected = parity("dust3r_decoder_inter")
    seen: dict[str, torch.Tensor] = {}
    for view, blocks in ((1, head.anchor_blocks), (2, head.other_blocks)):
        for index, block in enumerate(blocks, start=1):
            key = f"dec.{index}.view{view}"
            block.register_forward_hook(lambda module, inputs, output, key=key: seen.__setitem__(key, output))
    features = torch.stack([tensors["in.feat1"], tensors["in.feat2"]], dim=1).requires_grad_()
    output = head(features, *info["config"]["img_size"])
    for key, value in seen.items():
        value = head.norm_out(value) if key.startswith("dec.6") else value  # the reference's last is behind the norm
        assert difference(value, expected[key]) < TOLERANCE, key
    results = {
        "pts3d_1": output.anchor_pointmaps,
        "conf_1": output.anchor_confidence,
        "pts3d_2": output.pointmaps,
        "conf_2": output.confidence,
    }
    loss = sum((value[:, 0] * expected[f"grad.w.{name}"]).mean() for name, value in results.items())
    assert loss.item() == pytest.approx(info["grad_loss"], rel=1e-4)
    loss.backward()
    for view in (1, 2):
        gradient = expected[f"grad.feat{view}"]
        assert difference(features.grad[:, view - 1], gradient) < 1e-4 * gradient.abs().max()


@pytest.fixture
def full(parity: Parity, tmp_path: Path) -> tuple[Path, dict, dict[str, torch.Tensor]]:
    info, tensors = parity("dust3r_full")
    return save_dust3r(tmp_path / "full.pth", original_weights(tensors), info["args_model"]), info, tensors


@torch.no_grad()
def test_whole_model_from_its_checkpoint_alone(full: tuple) -> None:
    path, info, tensors = full
    model = Dust3rBaseline.from_single_file(path)
    assert model.config.num_attention_heads == info["config"]["enc_num_heads"]
    images = torch.stack([tensors["in.img1"], tensors["in.img2"]], dim=1)
    assert difference(model.encode_images(images)[:, 0], tensors["enc.feat1"]) < TOLERANCE
    check_outputs(model(images), tensors)


@torch.no_grad()
def test_head_of_a_whole_checkpoint_gives_the_same(full: tuple) -> None:
    path, info, tensors = full
    model, head = Dust3rBaseline.from_single_file(path), Pointmap3DHead.from_single_file(path)
    features = model.encode_images(torch.stack([tensors["in.img1"], tensors["in.img2"]], dim=1))
    check_outputs(head(features, *info["config"]["img_size"]), tensors)


def test_every_key_is_accounted_for(full: tuple) -> None:
    path, info, tensors = full
    report = inspect_dust3r_baseline(Dust3rBaseline, path).report()
    assert set(report["used"]) | set(report["ignored"]) == set(original_weights(tensors))
    assert list(report["ignored"]) == info["keys_not_used_in_forward"]


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 0.0025), (torch.bfloat16, 0.02)])
def test_half_precision_stays_near_float32(decoder: tuple, dtype: torch.dtype, bound: float) -> None:
    """Root mean square of the points' error over that of the points; points come out in float32."""
    head, info, tensors = decoder
    features = torch.stack([tensors["in.feat1"], tensors["in.feat2"]], dim=1).to(dtype)
    points = head.to(dtype)(features, *info["config"]["img_size"]).pointmaps
    assert points.dtype == torch.float32
    expected = tensors["out.pts3d_2"]
    error = ((points[:, 0] - expected).square().mean() / expected.square().mean()).sqrt().item()
    assert error < bound
