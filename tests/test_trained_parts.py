"""What a joint step computes and what it does not: frozen parts, the tap, the empty caption."""

from typing import Any

import pytest
import torch
from tiny_components import tiny_head, tiny_pipeline
from training_cases import batch_and_draws, built, settings

from jog3r.training.clips.step_batches import draw_step_noise
from jog3r.training.config import TrainConfig
from jog3r.training.joint_model import JointModel

MODES = ("all", "temporal", "lora", "none")


def batch_sizes_of_blocks(joint: JointModel, config: TrainConfig) -> list[int]:
    """How many clips each block saw in one step."""
    sizes: list[int] = []
    for block in joint.transformer.transformer_blocks:
        block.register_forward_hook(lambda _, arguments, __: sizes.append(arguments[0].shape[0]))
    joint(*batch_and_draws(config), config)
    return sizes


@pytest.mark.parametrize("trainable", MODES)
@pytest.mark.parametrize("generation_batch", [0, 2])
def test_every_trained_parameter_gets_a_gradient_and_no_other(trainable: str, generation_batch: int) -> None:
    config = settings(trainable=trainable, generation_batch=generation_batch)
    joint, trained = built(config)
    sum(joint(*batch_and_draws(config), config).values()).backward()
    names = {name for name, _ in trained}
    with_gradient = {name for name, parameter in joint.named_parameters() if parameter.grad is not None}
    assert with_gradient == names


@pytest.mark.parametrize(
    ("changes", "num_frozen"), [({"trainable": "temporal", "frozen_blocks": 2}, 2), ({"trainable": "none"}, 3)]
)
def test_frozen_parts_leave_no_graph(changes: dict[str, Any], num_frozen: int) -> None:
    """Behind frozen weights alone nothing is kept for a backward pass: not in the first blocks, not in a frozen backbone."""
    config = settings(**changes)
    joint, _ = built(config)
    graphs: list[tuple[int, bool]] = []
    for number, block in enumerate(joint.transformer.transformer_blocks):
        block.register_forward_hook(lambda _, __, out, number=number: graphs.append((number, out.requires_grad)))
    joint(*batch_and_draws(config), config)
    assert set(graphs) == {(number, number >= num_frozen) for number in range(3)}


def test_the_reconstruction_half_stops_at_the_tap() -> None:
    joint, _ = built(settings())
    assert batch_sizes_of_blocks(joint, settings()) == [5, 5, 2]  # tapped behind the second block of three
    config = settings(generation_batch=0)
    assert batch_sizes_of_blocks(built(config)[0], config) == [3, 3]


def test_dropped_captions_are_the_empty_one() -> None:
    config = settings(caption_dropout=1.0, reconstruction_batch=0)
    joint, _ = built(config)
    batch, draws = batch_and_draws(config)
    dropped = joint(batch, draws, config)["generation"]
    with torch.no_grad():
        joint.transformer.null_caption.add_(1.0)
    changed = joint(batch, draws, config)["generation"]
    assert not torch.equal(changed, dropped)
    batch["caption_ids"] = torch.zeros_like(batch["caption_ids"])
    assert torch.equal(joint(batch, draws, config)["generation"], changed)


@pytest.mark.parametrize(
    ("trainable", "changes"),
    [
        ("all", {"gradient_checkpointing": True}),
        ("temporal", {"gradient_checkpointing": True}),
        ("lora", {"gradient_checkpointing": True}),
        ("temporal", {"compile_backend": "eager"}),
    ],
)
def test_checkpointing_and_compiled_blocks_change_no_gradient(trainable: str, changes: dict) -> None:
    gradients = []
    for more in ({}, changes):
        config = settings(trainable=trainable, **more)
        torch.manual_seed(0)  # LoRA layers start at random
        joint, trained = built(config, tiny_pipeline())
        joint.train()
        sum(joint(*batch_and_draws(config), config).values()).backward()
        gradients.append({name: parameter.grad for name, parameter in trained})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-5)


def test_a_head_is_marked_as_trained_by_a_run_that_trains_it() -> None:
    pipe = tiny_pipeline(pointmap_head=tiny_head(trained=False))
    built(settings(reconstruction_batch=0), pipe)
    assert not pipe.pointmap_head.config.trained
    built(settings(), pipe)
    assert pipe.pointmap_head.config.trained


def test_a_head_with_other_attention_starts_fresh() -> None:
    pipe = tiny_pipeline()
    kept = pipe.pointmap_head
    assert built(settings(head_attention="pairwise"), pipe)[0].pointmap_head is kept
    joint, _ = built(settings(head_attention="global"), pipe)
    assert joint.pointmap_head is pipe.pointmap_head is not kept
    assert pipe.pointmap_head.config.attention == "global" and pipe.pointmap_head.config.patch_size == kept.config.patch_size
    config = settings(head_attention="global")
    assert joint(*batch_and_draws(config), config)["reconstruction"].isfinite()


def test_a_trained_head_is_not_left_behind_by_its_taps() -> None:
    with pytest.raises(
        ValueError, match=r"reads blocks \[2\], and reconstruction_batch=0 does not train it for feature_layers=\[1\]"
    ):
        built(settings(reconstruction_batch=0, feature_layers=(1,)))
    built(settings(reconstruction_batch=0, feature_layers=(1,)), tiny_pipeline(pointmap_head=tiny_head(trained=False)))
    built(settings(feature_layers=(1,)))


def test_what_the_pipeline_cannot_do_is_refused_before_the_first_step() -> None:
    for data in ({}, {"data": "videos", "source": "posed", "frames": "anywhere"}):
        with pytest.raises(ValueError, match="has no text encoder or no tokenizer to embed captions with"):
            built(settings(**data), tiny_pipeline(text_encoder=None))
    built(settings(generation_batch=0), tiny_pipeline(text_encoder=None))
    with pytest.raises(ValueError, match="must be multiples of 8 pixels .*, got 17x16"):
        built(settings(reconstruction_batch=0, height=17))
    with pytest.raises(ValueError, match="finds cameras in at most 64 frames, got num_frames=65: set sample_every=0"):
        built(settings(num_frames=65))
    built(settings(num_frames=65, sample_every=0))


def test_a_pipeline_of_the_other_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="is a Jog3rPipeline: set model=jog3r, got model=dust3r"):
        built(settings(model="dust3r", generation_batch=0))
    built(settings(max_reconstruction_timestep=999))
    with pytest.raises(ValueError, match="max_reconstruction_timestep must be at most 999, .*, got 1000"):
        built(settings(max_reconstruction_timestep=1000))
    built(settings(max_reconstruction_timestep=1000, reconstruction_batch=0))
    with pytest.raises(ValueError, match="has no pointmap_head to train"):
        built(settings(), tiny_pipeline(pointmap_head=None))


def test_one_clip_is_learned_by_both_halves() -> None:
    """The small version of benchmarks/overfit_one_clip.py: losses of one clip under new noise fall."""
    config = settings(generation_batch=4, reconstruction_batch=2, caption_dropout=0.0)
    joint, trained = built(config)
    batch, _ = batch_and_draws(config)
    batch = {name: value[:1].expand_as(value) for name, value in batch.items()}
    optimizer = torch.optim.Adam([parameter for _, parameter in trained], lr=5e-3)
    history = []
    for step in range(60):
        draws = draw_step_noise(config, step, list(range(6)), batch["latents"], 8, 1000)
        losses = joint(batch, draws, config)
        sum(losses.values()).backward()
        optimizer.step()
        optimizer.zero_grad()
        history.append([losses["generation"].item(), losses["reconstruction"].item()])
    start, end = torch.tensor(history[:5]).mean(0), torch.tensor(history[-10:]).mean(0)
    assert (end < 0.7 * start).all(), (start, end)
