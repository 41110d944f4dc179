"""Original checkpoints become our models: every key accounted for, every layout read, every contradiction refused."""

import json
from pathlib import Path

import pytest
import torch
from original_checkpoints import dust3r_arguments, dust3r_shapes, opensora_shapes, random_weights, save_dust3r
from safetensors.torch import save_file

from jog3r import Jog3rTransformer3DModel, Pointmap3DHead
from jog3r.models.conversion.convert import inspect_dust3r_head, inspect_opensora, parse_dust3r_arguments

HEADS = {"num_attention_heads": 4}


@pytest.fixture
def opensora(tmp_path: Path) -> Path:
    torch.save(random_weights(opensora_shapes()), tmp_path / "opensora.pth")
    return tmp_path / "opensora.pth"


@pytest.fixture
def dust3r(tmp_path: Path) -> Path:
    return save_dust3r(tmp_path / "dust3r.pth", random_weights(dust3r_shapes()), dust3r_arguments())


def predict(model: Jog3rTransformer3DModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    latents, captions = torch.randn(1, 4, 3, 8, 6, generator=generator), torch.randn(1, 6, 24, generator=generator)
    with torch.no_grad():
        return model(latents, torch.tensor([500]), captions).sample


def test_full_size_names_and_parameter_count_are_the_original_ones(tmp_path: Path) -> None:
    shapes = opensora_shapes(depth=28, width=1152, captions=4096, length=120, tokens=256, frames=16)
    with torch.device("meta"):
        model = Jog3rTransformer3DModel()
    assert sum(parameter.numel() for parameter in model.parameters()) == 759_620_768
    buffers = ("pos_embed", "pos_embed_temporal", "y_embedder.y_embedding")
    original = sum(torch.Size(shape).numel() for name, shape in shapes.items() if name not in buffers)
    assert original == 759_620_768
    # rows and columns shrunk, number of blocks kept: every one of the full size's names goes through the converter
    path = tmp_path / "narrow.pth"
    torch.save(random_weights(opensora_shapes(depth=28, width=16)), path)
    conversion = inspect_opensora(Jog3rTransformer3DModel, path, num_attention_heads=2)
    assert set(conversion.used) | set(conversion.ignored) == set(shapes)
    assert set(conversion.ignored) == {"pos_embed", "pos_embed_temporal"}
    assert set(conversion.sources) == set(model.state_dict())
    assert conversion.model.config.feature_layer == 26


def test_dust3r_512_linear_has_its_published_size() -> None:
    from jog3r.models.dust3r_baseline import Dust3rBaseline

    shapes = dust3r_shapes(enc=1024, enc_depth=24, dec=768, dec_depth=12, patch=16)
    with torch.device("meta"):
        model = Dust3rBaseline()
    expected = sum(torch.Size(shape).numel() for name, shape in shapes.items() if name != "mask_token")
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize("layout", ["ema", "model", "state_dict", "plain", "module.", "safetensors", "old torch.save"])
def test_every_layout_gives_the_same_model(layout: str, tmp_path: Path, opensora: Path) -> None:
    weights = random_weights(opensora_shapes())
    expected = predict(Jog3rTransformer3DModel.from_single_file(opensora, **HEADS))
    path = tmp_path / ("other.safetensors" if layout == "safetensors" else "other.pth")
    if layout == "safetensors":
        save_file(weights, path)
    elif layout == "module.":
        torch.save({f"module.{name}": tensor for name, tensor in weights.items()}, path)
    elif layout == "old torch.save":
        torch.save(weights, path, _use_new_zipfile_serialization=False)
    elif layout == "plain":
        torch.save(weights, path)
    else:
        torch.save({layout: weights, "epoch": 3}, path)
    assert torch.equal(predict(Jog3rTransformer3DModel.from_single_file(path, **HEADS)), expected)


def test_ema_is_preferred_and_its_position_buffers_are_ignored(tmp_path: Path) -> None:
    shapes = opensora_shapes(tokens=9, frames=7)  # of another size than the model is used at
    torch.save({"ema": random_weights(shapes, 1), "model": random_weights(shapes, 2)}, tmp_path / "both.pth")
    conversion = inspect_opensora(Jog3rTransformer3DModel, tmp_path / "both.pth", **HEADS)
    assert conversion.report()["layout"] == "ema"
    assert torch.equal(conversion.load().null_caption, random_weights(shapes, 1)["y_embedder.y_embedding"])


def test_saving_and_loading_again_is_bit_equal(tmp_path: Path, opensora: Path) -> None:
    model = Jog3rTransformer3DModel.from_single_file(opensora, space_scale=1.0, **HEADS)
    model.save_pretrained(tmp_path / "folder", max_shard_size="20KB")
    assert len(list((tmp_path / "folder").glob("*.safetensors"))) > 1
    again = Jog3rTransformer3DModel.from_pretrained(tmp_path / "folder")
    assert again.config.space_scale == 1.0
    saved, loaded = model.state_dict(), again.state_dict()
    assert saved.keys() == loaded.keys() and all(torch.equal(saved[name], loaded[name]) for name in saved)
    torch.testing.assert_close(predict(again), predict(model), atol=1e-6, rtol=1e-5)  # last digits depend on memory alignment


def test_loaded_weights_train_and_leave_the_file_alone(opensora: Path) -> None:
    before = opensora.read_bytes()
    model = Jog3rTransformer3DModel.from_single_file(opensora, **HEADS).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(1, 4, 2, 4, 4), torch.tensor([5]), torch.randn(1, 6, 24)).sample.square().mean().backward()
    optimizer.step()
    assert opensora.read_bytes() == before
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_half_precision_files_keep_their_dtype(tmp_path: Path) -> None:
    weights = {name: tensor.bfloat16() for name, tensor in random_weights(opensora_shapes()).items()}
    torch.save(weights, tmp_path / "bf16.pth")
    assert Jog3rTransformer3DModel.from_single_file(tmp_path / "bf16.pth", **HEADS).dtype == torch.bfloat16
    weights["x_embedder.proj.bias"] = weights["x_embedder.proj.bias"].float()
    torch.save(weights, tmp_path / "mixed.pth")
    model = Jog3rTransformer3DModel.from_single_file(tmp_path / "mixed.pth", **HEADS)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_report_is_complete_and_json(opensora: Path) -> None:
    report = inspect_opensora(Jog3rTransformer3DModel, opensora, **HEADS).report()
    assert json.loads(json.dumps(report)) == report
    assert set(report["used"]) | set(report["ignored"]) == set(opensora_shapes())
    assert report["missing"] == {} and report["layout"] == "plain" and report["dtype"] == "float32"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_attention_heads": 5}, "not divisible by num_attention_heads=5"),
        ({"num_attention_heads": 4, "num_layers": 3}, "num_layers=3 was asked for, but .*opensora.pth has 2"),
        ({"num_attention_heads": 4, "feature_layer": 3}, "feature_layer counts blocks from 1 to num_layers=2, got 3"),
        ({"num_attention_heads": 4, "qk_norm": "rms_norm"}, "qk_norm='rms_norm' was asked for"),
        ({"num_attention_heads": 0}, "num_attention_heads must be int, above 0, got 0"),
        ({"sample_size": "32px"}, "sample_size must be int, above 0, got '32px'"),
        ({"space_scale": "0,5"}, "space_scale must be float, above 0, got '0,5'"),
        ({"space_scale": 0}, "space_scale must be float, above 0, got 0"),
        ({"qk_norm": 3}, "qk_norm must be str or null, got 3"),
    ],
)
def test_a_contradicting_config_is_refused(opensora: Path, config: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Jog3rTransformer3DModel.from_single_file(opensora, **config)


def test_an_unknown_option_is_refused(opensora: Path) -> None:
    with pytest.raises(TypeError, match="space_scales"):
        Jog3rTransformer3DModel.from_single_file(opensora, space_scales=1.0, **HEADS)


def test_sizes_that_agree_may_be_given(opensora: Path) -> None:
    model = Jog3rTransformer3DModel.from_single_file(opensora, num_layers=2, caption_channels=24, sample_size=8, **HEADS)
    assert model.config.sample_size == 8 and model.config.attention_head_dim == 8


def test_dust3r_head_takes_sizes_from_weights_and_heads_from_arguments(dust3r: Path) -> None:
    head = Pointmap3DHead.from_single_file(dust3r)
    expected = {"feature_dim": 32, "hidden_dim": 24, "num_layers": 3, "num_attention_heads": 3, "patch_size": 4}
    assert {name: head.config[name] for name in expected} == expected
    assert head.config.feature_norm is False


def test_dust3r_head_is_cut_on_request(dust3r: Path) -> None:
    head = Pointmap3DHead.from_single_file(dust3r, num_layers=2)
    whole = Pointmap3DHead.from_single_file(dust3r)
    assert len(head.anchor_blocks) == len(head.other_blocks) == 2
    assert torch.equal(head.other_blocks[1].mlp.linear_1.weight, whole.other_blocks[1].mlp.linear_1.weight)
    ignored = inspect_dust3r_head(Pointmap3DHead, dust3r, num_layers=2).ignored
    assert whole.config.trained and not head.config.trained
    assert "cut on request" in ignored["dec_blocks.2.norm1.weight"] and "image encoder" in ignored["enc_norm.bias"]
    with pytest.raises(ValueError, match="has 3 decoder blocks; cannot take num_layers=4"):
        Pointmap3DHead.from_single_file(dust3r, num_layers=4)


def test_a_missing_second_decoder_is_a_copy_of_the_first(tmp_path: Path) -> None:
    weights = {name: tensor for name, tensor in random_weights(dust3r_shapes()).items() if not name.startswith("dec_blocks2")}
    path = save_dust3r(tmp_path / "croco.pth", weights, dust3r_arguments())
    conversion = inspect_dust3r_head(Pointmap3DHead, path)
    assert conversion.report()["missing"]["other_blocks.0.norm1.bias"] == "a copy of dec_blocks.0.norm1.bias"
    head = conversion.load()
    assert not head.config.trained
    assert torch.equal(head.anchor_blocks[2].cross_attn.to_k.weight, head.other_blocks[2].cross_attn.to_k.weight)
    head.anchor_blocks[2].cross_attn.to_k.weight.data += 1  # two decoders from now on
    assert not torch.equal(head.anchor_blocks[2].cross_attn.to_k.weight, head.other_blocks[2].cross_attn.to_k.weight)


def test_a_warm_start_has_a_fresh_input_layer_and_says_so(dust3r: Path) -> None:
    conversion = inspect_dust3r_head(Pointmap3DHead, dust3r, num_layers=2, feature_dim=40, feature_norm=True)
    missing = conversion.report()["missing"]
    assert set(missing) == {"proj_in.weight", "proj_in.bias", "norm_features.weight", "norm_features.bias"}
    head = conversion.load()
    assert not head.config.trained
    assert head(torch.randn(1, 2, 4, 40), 8, 8).pointmaps.shape == (1, 1, 8, 8, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dust3r_arguments().replace("'linear'", "'dpt'"), "head_type='dpt'; only 'linear'"),
        (dust3r_arguments().replace("'exp', 1, inf", "'exp', 0, inf"), "conf_mode"),
        (dust3r_arguments().replace("RoPE100", "cosine"), "pos_embed='cosine'"),
        ("__import__('os').system('false')", "Name\\(keyword=literal"),
        ("Model(img_size=__import__('os').getcwd())", "Name\\(keyword=literal"),
    ],
)
def test_another_dust3r_variant_is_refused(tmp_path: Path, arguments: str, message: str) -> None:
    path = save_dust3r(tmp_path / "other.pth", random_weights(dust3r_shapes()), arguments)
    with pytest.raises(ValueError, match=message):
        Pointmap3DHead.from_single_file(path)


def test_heads_that_contradict_the_arguments_are_refused(dust3r: Path) -> None:
    with pytest.raises(ValueError, match="num_attention_heads of the decoder=6"):
        Pointmap3DHead.from_single_file(dust3r, num_attention_heads=6)


def test_dust3r_arguments_are_parsed_not_run() -> None:
    assert parse_dust3r_arguments("M(a=(1, -inf, inf), b='x', c=[2.5, True])") == {
        "a": (1, -float("inf"), float("inf")),
        "b": "x",
        "c": [2.5, True],
    }
