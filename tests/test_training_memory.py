"""Counted memory against what the allocator really gave, and against the optimizers' real moments."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from memory_table import allocated_peak
from torch import nn
from torch.nn import functional as F
from training_cases import batch_and_draws, built, settings

from jog3r.training.config import TrainConfig
from jog3r.training.memory import StepMemory, measure_step, norms_as_on_cuda, report, step_flops
from jog3r.training.memory import step_memory as count_memory
from jog3r.training.optimization import build_optimizers

_counted: dict[str, StepMemory] = {}


def step_memory(config: TrainConfig) -> StepMemory:
    """Counted once for each configuration: a pass over tensors without data takes a second."""
    if (key := repr(config)) not in _counted:
        _counted[key] = count_memory(config)
    return _counted[key]


@pytest.fixture
def small(model: Path) -> Callable[..., TrainConfig]:
    """The paper's proportions do not matter here: the tiny random model's folder gives the sizes."""
    sizes = dict(num_frames=4, height=64, width=64, generation_batch=1, reconstruction_batch=1, init_from=str(model))
    return lambda **changes: settings(**{**sizes, **changes})


@pytest.mark.parametrize("changes", [{}, {"gradient_checkpointing": True}, {"trainable": "temporal"}])
def test_counted_activations_are_those_the_allocator_gives(changes: dict) -> None:
    config = settings(**changes)
    joint, _ = built(config)
    joint.train()
    batch, draws = batch_and_draws(config)
    sum(joint(batch, draws, config).values()).backward()  # what is kept for later steps is there before
    counted = measure_step(joint, batch, draws, config)
    assert counted.activations == pytest.approx(allocated_peak(joint, batch, draws, config), rel=0.05)
    assert counted.gradients == sum(p.grad.nbytes for p in joint.parameters() if p.requires_grad)


def test_checkpointing_and_frozen_parts_save_memory(small: Callable[..., TrainConfig]) -> None:
    everything = step_memory(small(trainable="all"))
    temporal, head = step_memory(small(trainable="temporal", frozen_blocks=2)), step_memory(small(trainable="none"))
    checkpointed = step_memory(small(trainable="all", gradient_checkpointing=True))
    assert everything.activations > temporal.activations > head.activations
    assert everything.activations > checkpointed.activations
    # with norms in float32 what is computed again still has the precision that it had, or torch would refuse it
    step_memory(small(trainable="all", gradient_checkpointing=True, mixed_precision="bf16"))
    assert everything.gradients > temporal.gradients > head.gradients
    assert len({memory.parameters for memory in (everything, temporal, head, checkpointed)}) == 1


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "adamw8bit"])
def test_optimizer_bytes_are_those_of_its_moments(optimizer: str, small: Callable[..., TrainConfig]) -> None:
    if optimizer == "adamw8bit":
        pytest.importorskip("bitsandbytes")
    config = small(optimizer=optimizer, trainable="all")
    counted = step_memory(config).optimizer
    from jog3r import Jog3rPipeline

    _, trained = built(replace(config, optimizer="adamw"), Jog3rPipeline.from_pretrained(config.init_from))
    trained = [(name, parameter) for name, parameter in trained if not name.startswith("text_encoder.")]
    for _, parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    moments = {}  # by place: the 8-bit moments of all parameters share their table of quantiles
    for one in build_optimizers(trained, config):
        one.step()
        held = [value for state in one.state.values() for value in state.values() if torch.is_tensor(value) and value.numel() > 1]
        moments |= {value.data_ptr(): value.nbytes for value in held}
    assert counted == pytest.approx(sum(moments.values()), rel=0.01)


def test_norms_are_counted_in_float32_as_cuda_computes_them() -> None:
    values = torch.randn(2, 8, dtype=torch.bfloat16)
    with norms_as_on_cuda():
        assert F.layer_norm(values, (8,)).dtype == torch.bfloat16
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for norm in (nn.LayerNorm(8), nn.RMSNorm(8), nn.GroupNorm(2, 8)):
                assert norm(values).dtype == torch.float32
                assert nn.Linear(8, 8)(norm(values)).dtype == torch.bfloat16


def test_the_report_names_a_card(small: Callable[..., TrainConfig]) -> None:
    config = small()
    flops = step_flops(config)
    assert step_flops(replace(config, gradient_checkpointing=True)) > flops > step_flops(replace(config, trainable="none"))
    memory = step_memory(config)
    text = report(memory, flops, config)
    assert "fits a card of 16 GB" in text and "activations" in text
    assert "not counted: the text encoder" in text
    cached = replace(config, data="cache", cache_dir="cache")
    assert "text encoder" not in report(memory, flops, cached)
    with pytest.raises(ValueError, match="train_text_encoder=false"):
        step_memory(small(train_text_encoder=True))
