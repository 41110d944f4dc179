"""Tapping one block or several: what the features are, where the model stops, and that the choice is saved."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from original_checkpoints import opensora_shapes, random_weights
from tiny_components import seeded, tiny_head, tiny_pipeline, tiny_transformer
from training_cases import batch_and_draws, built, settings

from jog3r import Jog3rPipeline, Jog3rTransformer3DModel

TAPS = [1, 3]


def inputs(batch_size: int = 2) -> tuple[torch.Tensor, ...]:
    generator = seeded()
    latents = torch.randn(batch_size, 4, 3, 4, 4, generator=generator)
    return latents, torch.full((batch_size,), 20), torch.randn(batch_size, 8, 16, generator=generator)


def outputs_of_blocks(model: Jog3rTransformer3DModel, *arguments: torch.Tensor) -> list[torch.Tensor]:
    outputs: list[torch.Tensor] = []
    hooks = [block.register_forward_hook(lambda _, __, out: outputs.append(out)) for block in model.transformer_blocks]
    model(*arguments)
    for hook in hooks:
        hook.remove()
    return outputs


@torch.no_grad()
def test_features_are_the_weighted_sum_of_normalised_taps() -> None:
    model = tiny_transformer(feature_layer=3, feature_layers=TAPS)
    model.feature_weights.copy_(torch.tensor([0.3, -0.4]))
    features = model(*inputs(), return_features=True).features
    first, _, last = outputs_of_blocks(model, *inputs())
    shares = torch.tensor([0.3, -0.4]).softmax(0)
    expected = sum(share * F.layer_norm(tap, (16,), eps=1e-6) for share, tap in zip(shares, (first, last), strict=True))
    torch.testing.assert_close(features, expected)


@torch.no_grad()
@pytest.mark.parametrize("layers", [[1], [2], [3], [1, 2], [1, 2, 3]])
def test_features_only_runs_no_block_behind_the_last_tap(layers: list[int]) -> None:
    model = tiny_transformer()
    model.set_feature_layers(layers)
    calls: list[int] = []
    for number, block in enumerate(model.transformer_blocks, start=1):
        block.register_forward_hook(lambda *_, number=number: calls.append(number))
    features = model(*inputs(), features_only=True).features
    assert calls == list(range(1, layers[-1] + 1))
    torch.testing.assert_close(features, model(*inputs(), return_features=True).features)


@torch.no_grad()
def test_clips_for_features_leave_behind_the_last_tap_and_have_all_taps() -> None:
    model = tiny_transformer(feature_layer=2, feature_layers=[1, 2])
    whole = model(*inputs(3), return_features=True)
    part = model(*inputs(3), return_features=True, num_features_only=2)
    torch.testing.assert_close(part.features, whole.features)
    torch.testing.assert_close(part.sample, whole.sample[:1])


@torch.no_grad()
def test_clips_for_features_beside_none_to_denoise_are_refused() -> None:
    model = tiny_transformer()
    with pytest.raises(ValueError, match=r"num_features_only must lie in 0..1, got 2; features_only=True is for all clips"):
        model(*inputs(2), num_features_only=2)
    with pytest.raises(ValueError, match="2 clips came with 3 captions"):
        model(*inputs(2)[:2], inputs(3)[2])
    only, both = model(*inputs(2), features_only=True), model(*inputs(2), return_features=True)
    assert only.sample is None and torch.equal(only.features, both.features)


@torch.no_grad()
def test_the_choice_is_saved_with_the_weights_and_serves_the_pipeline(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.transformer.set_feature_layers(TAPS)
    pipe.transformer.feature_weights.copy_(torch.tensor([1.0, 2.0]))
    pipe.transformer.set_feature_layers(TAPS)  # the same again: what was learned stays
    assert pipe.transformer.feature_weights.tolist() == [1.0, 2.0]
    pipe.save_pretrained(tmp_path)
    again = Jog3rPipeline.from_pretrained(tmp_path)
    assert again.transformer.feature_layers == TAPS and again.transformer.config.feature_layer == 3
    video = torch.rand(3, 16, 16, 3, generator=seeded())
    maps = [one(video=video, generator=seeded(), registration=False).pointmaps for one in (pipe, again)]
    assert torch.equal(*maps)
    again.set_progress_bar_config(disable=True)
    output = again("a room", num_inference_steps=2, generator=seeded(), registration=False)
    assert output.pointmaps is not None
    again.transformer.set_feature_layers([2])
    assert again.transformer.feature_weights is None and again.transformer.config.feature_layers is None


def test_a_converted_checkpoint_starts_with_equal_shares(tmp_path: Path) -> None:
    torch.save(random_weights(opensora_shapes(), 0), tmp_path / "opensora.pth")
    model = Jog3rTransformer3DModel.from_single_file(
        tmp_path / "opensora.pth", num_attention_heads=4, feature_layer=2, feature_layers=[1, 2]
    )
    assert model.feature_weights.tolist() == [0.0, 0.0]


def test_the_fusion_is_trained_with_the_head_whatever_else_is() -> None:
    for trainable in ("all", "temporal", "none"):
        config = settings(trainable=trainable, feature_layers=(1, 2), generation_batch=0)
        joint, trained = built(config)
        joint(*batch_and_draws(config), config)["reconstruction"].backward()
        weights = dict(trained)["transformer.feature_weights"]
        assert weights.grad is not None and weights.grad.abs().max() > 0
    alone = tiny_pipeline(pointmap_head=tiny_head(trained=False))
    _, trained = built(settings(trainable="all", feature_layers=(1, 2), reconstruction_batch=0), alone)
    assert "transformer.feature_weights" not in dict(trained)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dict(feature_layer=2, feature_layers=[1, 3]), r"feature_layer must be the last of feature_layers=\[1, 3\], got 2"),
        (dict(feature_layer=2, feature_layers=[2, 2]), "must ascend without repetition"),
        (dict(feature_layer=1, feature_layers=[2, 1]), "must ascend without repetition"),
        (dict(feature_layer=4, feature_layers=[1, 4]), "feature_layers counts blocks from 1 to num_layers=3"),
        (dict(feature_layer=4), "feature_layer counts blocks from 1 to num_layers=3, got 4"),
        (dict(feature_layer=2, feature_layers=[]), "feature_layers counts blocks"),
    ],
)
def test_blocks_that_are_not_there_are_refused(config: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_transformer(**config)
