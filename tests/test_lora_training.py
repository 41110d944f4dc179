"""LoRA training: which layers, what is saved, and that the saved layers load, fuse and unfuse."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_components import seeded, tiny_pipeline, tiny_transformer
from training_cases import batch_and_draws, built, run_here, settings

from jog3r import Jog3rPipeline, Pointmap3DHead
from jog3r.training.build import lora_layers

LORA_FILE = "pytorch_lora_weights.safetensors"


def wide_pipeline() -> Jog3rPipeline:
    """Wide enough for rank 2 to be a small part of it."""
    transformer = tiny_transformer(num_attention_heads=4, attention_head_dim=64)
    head = Pointmap3DHead(feature_dim=256, hidden_dim=16, num_layers=1, num_attention_heads=2, patch_size=8)
    return tiny_pipeline(transformer=transformer, pointmap_head=head)


def call(pipe: Jog3rPipeline) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames and pointmaps of one sampling."""
    pipe.set_progress_bar_config(disable=True)
    output = pipe("a room", num_inference_steps=2, generator=seeded(), output_type="pt", num_frames=3, registration=False)
    return output.frames, output.pointmaps


def test_trained_layers_are_saved_loaded_fused_and_unfused(tmp_path: Path) -> None:
    run = run_here(tmp_path, wide_pipeline(), trainable="lora", lora_rank=2, num_steps=5, learning_rate=1e-2, generation_batch=1)
    base, trained = Jog3rPipeline.from_pretrained(tmp_path / "init"), Jog3rPipeline.from_pretrained(run / "pipeline")
    layers = load_file(run / "lora" / LORA_FILE)
    assert all(".lora_A." in name or ".lora_B." in name for name in layers)
    assert all(value.abs().max() > 0 for value in layers.values())
    model_size = sum(file.stat().st_size for file in (tmp_path / "init" / "transformer").glob("*.safetensors"))
    assert (run / "lora" / LORA_FILE).stat().st_size < 0.05 * model_size

    frames, _ = call(base)
    expected_frames, expected_pointmaps = call(trained)
    assert (frames - expected_frames).abs().max() > 1e-3
    head = Pointmap3DHead.from_pretrained(run / "lora", subfolder="pointmap_head")
    pipe = Jog3rPipeline.from_pretrained(tmp_path / "init", pointmap_head=head)
    pipe.load_lora_weights(run / "lora")
    for fused in (False, True, False):
        if fused:
            pipe.fuse_lora()
        elif pipe.num_fused_loras:
            pipe.unfuse_lora()
        for value, expected in zip(call(pipe), (expected_frames, expected_pointmaps), strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-4)
    pipe.unload_lora_weights()
    torch.testing.assert_close(call(pipe)[0], frames, rtol=1e-4, atol=1e-5)


def test_without_a_head_the_layers_alone_are_saved_and_the_card_says_so(tmp_path: Path) -> None:
    pipe = tiny_pipeline(pointmap_head=None)
    run = run_here(tmp_path, pipe, trainable="lora", num_steps=2, learning_rate=1e-2, reconstruction_batch=0)
    assert sorted(path.name for path in (run / "lora").iterdir()) == ["README.md", LORA_FILE]
    card = (run / "lora" / "README.md").read_text()
    assert "load_lora_weights" in card and "Pointmap3DHead" not in card
    base, trained = Jog3rPipeline.from_pretrained(tmp_path / "init"), Jog3rPipeline.from_pretrained(run / "pipeline")
    base.load_lora_weights(run / "lora")
    options = dict(num_inference_steps=2, num_frames=3, output_type="pt")
    expected, found = (one("a room", task="t2v", generator=seeded(), **options).frames for one in (trained, base))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_the_layers_and_the_head_are_trained_and_nothing_else() -> None:
    joint, trained = built(settings(trainable="lora", lora_rank=3, lora_alpha=6, lora_targets=("temporal_attn.to_q", "linear_1")))
    names = {name for name, _ in trained}
    in_transformer = [name for name in names if name.startswith("transformer.")]
    assert all(".lora_" in name and (".temporal_attn.to_q." in name or ".mlp.linear_1." in name) for name in in_transformer)
    assert len(in_transformer) == 3 * 2 * 2  # blocks, layers, factors
    assert {name for name in names if not name.startswith("transformer.")} == {
        f"pointmap_head.{name}" for name, _ in joint.pointmap_head.named_parameters()
    }
    layer = joint.transformer.transformer_blocks[0].temporal_attn.to_q
    assert layer.r == {"default": 3} and layer.scaling == {"default": 2.0}


def test_without_generation_only_blocks_before_the_tap_get_layers() -> None:
    _, trained = built(settings(trainable="lora", generation_batch=0))
    assert not any("transformer_blocks.2" in name for name, _ in trained)  # tapped behind the second of three
    assert any("transformer_blocks.1" in name for name, _ in trained)


def test_all_attention_layers_are_the_default() -> None:
    transformer = tiny_transformer()
    names = lora_layers(transformer, ("to_q", "to_k", "to_v", "to_out"), settings())
    assert len(names) == 3 * 3 * 4


def test_new_layers_change_nothing_and_get_gradients() -> None:
    config = settings(trainable="lora", lora_rank=2, caption_dropout=0.0)
    batch, draws = batch_and_draws(config)
    plain, _ = built(settings(caption_dropout=0.0))
    joint, trained = built(config)
    expected, losses = plain(batch, draws, config), joint(batch, draws, config)
    assert all(torch.allclose(losses[name], expected[name], rtol=1e-5) for name in expected)
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for _, parameter in trained)


def test_a_paused_run_goes_on_to_the_same_layers(tmp_path: Path) -> None:
    changes = dict(trainable="lora", lora_rank=2, num_steps=4, checkpoint_every=2)
    whole = run_here(tmp_path, output_dir=str(tmp_path / "whole"), **changes)
    halves = str(tmp_path / "halves")
    run_here(tmp_path, output_dir=halves, **changes, stop_after_minutes=0.0)
    resumed = run_here(tmp_path, output_dir=halves, **changes)
    expected, layers = load_file(whole / "lora" / LORA_FILE), load_file(resumed / "lora" / LORA_FILE)
    assert expected.keys() == layers.keys()
    assert all(torch.equal(layers[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(trainable="all", lora_rank=4), "lora_rank belongs to trainable=lora, got trainable=all"),
        (dict(trainable="temporal", lora_alpha=4.0), "lora_alpha belongs to trainable=lora"),
        (dict(trainable="lora", lora_rank=0), "lora_rank must be at least 1, got 0"),
        (dict(trainable="lora", train_text_encoder=True), "goes not with train_text_encoder"),
    ],
)
def test_options_that_do_not_fit_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**changes)


def test_a_target_that_no_layer_has_is_refused() -> None:
    with pytest.raises(ValueError, match="called 'to_queue'; there are .*temporal_attn.to_q"):
        built(settings(trainable="lora", lora_targets=("to_queue",)))


def test_other_taps_than_the_bases_are_refused() -> None:
    with pytest.raises(ValueError, match=r"taps blocks \[2\], got feature_layers=\[1, 2\]"):
        built(settings(trainable="lora", feature_layers=(1, 2)))
    built(settings(trainable="lora", feature_layers=(2,)))
