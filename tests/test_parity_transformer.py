"""OpenSora 1.0's transformer with original weights computes what the original code computes (tolerance 2e-5)."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from original_checkpoints import original_weights

from jog3r import Jog3rTransformer3DModel
from jog3r.models.conversion.convert import inspect_opensora

TOLERANCE = 2e-5
ITEMS = ("stdit_square", "stdit_nonsquare")
Parity = Callable[[str], tuple[dict, dict[str, torch.Tensor]]]


class Case:
    """A model loaded from a file as OpenSora writes it, and the reference tensors."""

    def __init__(self, parity: Parity, name: str, folder: Path):
        info, self.tensors = parity(name)
        self.info, config = info, info["config"]
        torch.save({"ema": original_weights(self.tensors)}, folder / "original.pth")
        self.options = {
            "num_attention_heads": config["num_heads"],
            "space_scale": config["space_scale"],
            "time_scale": config["time_scale"],
        }
        self.path = folder / "original.pth"
        self.model = Jog3rTransformer3DModel.from_single_file(self.path, **self.options)
        self.captions = self.tensors["in.y"][:, 0]

    def run(self, **changes: Any) -> torch.Tensor:
        inputs = {
            "hidden_states": self.tensors["in.x"],
            "timestep": self.tensors["in.t"],
            "encoder_hidden_states": self.captions,
            "encoder_attention_mask": self.tensors["in.mask"],
        }
        return self.model(**inputs | changes).sample


@pytest.fixture(params=ITEMS)
def case(request: pytest.FixtureRequest, parity: Parity, tmp_path: Path) -> Case:
    return Case(parity, request.param, tmp_path)


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return (ours - theirs).abs().max().item()


@torch.no_grad()
def test_output_with_caption_masks(case: Case) -> None:
    assert difference(case.run(), case.tensors["masked.out"]) < TOLERANCE


@torch.no_grad()
def test_output_without_mask(case: Case) -> None:
    assert difference(case.run(encoder_attention_mask=None), case.tensors["nomask.out"]) < TOLERANCE


@torch.no_grad()
def test_guided_batch_whose_null_half_reuses_the_masks(case: Case) -> None:
    null = case.model.null_caption.expand_as(case.captions)
    inputs = {
        "hidden_states": torch.cat([case.tensors["in.x"]] * 2),
        "timestep": torch.cat([case.tensors["in.t"]] * 2),
        "encoder_hidden_states": torch.cat([case.captions, null]),
    }
    mask = torch.cat([case.tensors["in.mask"]] * 2)
    assert difference(case.run(**inputs, encoder_attention_mask=mask), case.tensors["cfg.out"]) < TOLERANCE
    # the quirk is visible: a null half that saw all its tokens would be another result
    mask[len(null) :] = 1
    assert difference(case.run(**inputs, encoder_attention_mask=mask), case.tensors["cfg.out"]) > 100 * TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("name", ITEMS)
def test_every_intermediate_tensor(name: str, parity: Parity, tmp_path: Path) -> None:
    case, (_, expected) = Case(parity, name, tmp_path), parity(f"{name}_inter")
    blocks = case.model.transformer_blocks
    watched = {
        "t_emb": case.model.timestep_embedder,
        "t0": case.model.timestep_modulation,
        "y_proj": case.model.caption_projection,
        "block.0.attn": blocks[0].spatial_attn,
        "block.0.attn_temp": blocks[0].temporal_attn,
        "block.0.cross_attn": blocks[0].cross_attn,
        "block.0.mlp": blocks[0].mlp,
    } | {f"block.{index}.out": block for index, block in enumerate(blocks)}
    seen: dict[str, torch.Tensor] = {}
    for key, module in watched.items():
        module.register_forward_hook(lambda module, inputs, output, key=key: seen.__setitem__(key, output))
    blocks[0].register_forward_pre_hook(lambda module, inputs: seen.__setitem__("block.0.in", inputs[0]))
    case.run()
    assert {f"masked.{key}" for key in seen} == set(expected)
    for key, value in seen.items():
        assert difference(value.reshape(expected[f"masked.{key}"].shape), expected[f"masked.{key}"]) < TOLERANCE, key


def test_gradients_of_the_input_and_of_every_parameter(case: Case) -> None:
    latents = case.tensors["in.x"].clone().requires_grad_()
    loss = (case.run(hidden_states=latents) * case.tensors["grad.weighting"]).mean()
    loss.backward()
    assert loss.item() == pytest.approx(case.info["grad"]["value"], rel=1e-4)
    assert difference(latents.grad, case.tensors["grad.x"]) < 1e-4 * case.tensors["grad.x"].abs().max()
    ours: dict[str, list[torch.Tensor]] = defaultdict(list)
    parameters = dict(case.model.named_parameters())
    for name, source in inspect_opensora(Jog3rTransformer3DModel, case.path, **case.options).sources.items():
        if name in parameters:  # parts come in the order in which the original packs them
            ours[source.name].append(parameters[name].grad)
    norms = case.info["grad"]["norms"]
    assert set(norms) == set(ours)
    for name, norm in norms.items():
        gradient = torch.cat(ours[name])
        assert gradient.norm().item() == pytest.approx(norm, rel=1e-4), name
        if f"grad.{name}" in case.tensors:
            expected = case.tensors[f"grad.{name}"]
            assert difference(gradient, expected) < 1e-4 * expected.abs().max(), name


@torch.no_grad()
def test_epsilon_of_the_norms_is_the_original_one(case: Case) -> None:
    """1e-5 instead would move the output by less than the tolerance, so it is checked by reading."""
    norms = [module for module in case.model.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert len(norms) == 2 * len(case.model.transformer_blocks) + 1
    assert {(norm.eps, norm.elementwise_affine) for norm in norms} == {(1e-6, False)}


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 0.0025), (torch.bfloat16, 0.02)])
def test_half_precision_stays_near_float32(case: Case, dtype: torch.dtype, bound: float) -> None:
    """Root mean square of the error over that of the output."""
    case.model.to(dtype)
    output = case.run(hidden_states=case.tensors["in.x"].to(dtype), encoder_hidden_states=case.captions.to(dtype)).float()
    expected = case.tensors["masked.out"]
    error = ((output - expected).square().mean() / expected.square().mean()).sqrt().item()
    assert error < bound
