"""The tap of diffusers' transformers: what it reads, where it stops, and what of diffusers it works under."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from diffusers import FirstBlockCacheConfig, HunyuanVideoTransformer3DModel
from peft import LoraConfig
from tap_probe import explained
from tiny_components import seeded, tiny_transformer
from tiny_generators import FEATURE_SHAPES, TRANSFORMERS, tiny_ltx_transformer, tiny_wan_transformer, transformer_call
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from jog3r.models import FeatureTap
from jog3r.models.feature_tap import LAYOUTS, layout_of, num_blocks, transformer_width

NAMES = list(TRANSFORMERS)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_gradients_unless_asked_for() -> Iterator[None]:
    with torch.no_grad():
        yield


def built(name: str, **config: Any) -> nn.Module:
    torch.manual_seed(3)
    return TRANSFORMERS[name](**config)


def read(model: Any, layers: Any = 2, stop: bool = False, call: dict[str, Any] | None = None) -> torch.Tensor:
    with FeatureTap(model, layers, stop) as tap:
        model(**call or transformer_call(getattr(model, "_orig_mod", model)))
    return tap.features


def outputs_of_blocks(model: Any, call: dict[str, Any]) -> list[torch.Tensor]:
    """What each of the last list of blocks gave in a full pass of its own, read without the tap."""
    outputs: list[torch.Tensor] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    hooks = [block.register_forward_hook(keep) for block in getattr(model, layout_of(model).blocks[-1])]
    model(**call)
    for hook in hooks:
        hook.remove()
    return outputs


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stop", [False, True])
def test_features_are_those_of_a_full_pass_and_the_rest_is_left_alone(name: str, stop: bool) -> None:
    model = built(name)
    call = transformer_call(model)
    whole, tokens = model(**call).sample, outputs_of_blocks(model, call)[1]
    features = read(model, stop=stop)
    assert features.shape == FEATURE_SHAPES[name] and features.shape[-1] == transformer_width(model)
    if name == "latte":  # its tokens come (B*N, f, D)
        tokens = tokens.unflatten(0, (2, 4)).transpose(1, 2)
    assert torch.equal(features, tokens.reshape(features.shape))
    assert torch.equal(model(**call).sample, whole)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", NAMES)
def test_tokens_stand_in_the_order_of_time_and_rows(name: str) -> None:
    """A change of the latents at one place moves the token of that place most."""
    model = built(name)
    call = transformer_call(model)
    changed = call["hidden_states"].clone()
    if name == "ltx":
        changed[:, 6 + 4] += 3  # step 1, row 1 of 2, column 1 of 3
    elif name.startswith("cogvideox"):
        changed[:, 2 if "1.5" in name else 1, :, 2:, :2] += 3
    else:
        changed[:, :, 1, 2:, :2] += 3
    moved = (read(model, 1, call=call | {"hidden_states": changed}) - read(model, 1, call=call)).norm(dim=-1)  # (B, f, N)
    token = (1, 4 if name == "ltx" else 2)  # of a grid of 2 x 2 the second row's first
    for clip in moved:
        assert divmod(int(clip.argmax()), clip.shape[1]) == token


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layer", [1, 2])
def test_no_block_behind_the_tap_runs_and_none_is_paid_for(name: str, layer: int) -> None:
    model = built(name)
    call, ran = transformer_call(model), []
    lists = [getattr(model, blocks) for blocks in layout_of(model).blocks]
    for blocks in lists:
        for number, block in enumerate(blocks, start=1):
            block.register_forward_hook(lambda *_, number=number: ran.append(number))
    with FlopCounterMode(display=False) as whole:
        model(**call)
    assert sorted(ran) == sorted([*range(1, num_blocks(model) + 1)] * len(lists))
    ran.clear()
    with FlopCounterMode(display=False) as part:
        read(model, layer, stop=True, call=call)
    assert sorted(ran) == sorted([*range(1, layer + 1)] * len(lists))
    ran.clear()
    with FlopCounterMode(display=False) as one_less:
        read(model, layer + 1, stop=True, call=call)
    block = one_less.get_total_flops() - part.get_total_flops()
    assert whole.get_total_flops() - part.get_total_flops() == block * (num_blocks(model) - layer)


def test_several_blocks_are_normalised_and_averaged_and_can_be_had_one_by_one() -> None:
    model = built("wan")
    with FeatureTap(model, [1, 3]) as tap:
        model(**transformer_call(model))
    assert torch.equal(tap.taps[0], read(model, 1)) and torch.equal(tap.taps[1], read(model, 3))
    expected = sum(nn.functional.layer_norm(tokens, (24,), eps=1e-6) for tokens in tap.taps) / 2
    torch.testing.assert_close(tap.features, expected)


@pytest.mark.parametrize("layers", [[2], [1, 3]])
def test_our_transformers_own_tap_gives_the_same_bits(layers: list[int]) -> None:
    model = built("jog3r")
    model.set_feature_layers(layers)
    if len(layers) > 1:
        model.feature_weights.copy_(torch.tensor([0.3, -0.4]))
    call = transformer_call(model)
    for stop in (False, True):
        assert torch.equal(read(model, layers, stop, call), model(**call, features_only=True).features)


def test_the_last_of_several_calls_is_kept() -> None:
    model = built("wan")
    call = transformer_call(model)
    other = call | {"timestep": torch.tensor([900, 900])}
    with FeatureTap(model, 2) as tap:
        model(**other)
        model(call["hidden_states"], *(call[name] for name in ("timestep", "encoder_hidden_states")))  # also by place
    assert torch.equal(tap.features, read(model, 2, call=call))


@pytest.mark.parametrize("name", ["wan", "cogvideox", "ltx", "latte"])
@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
def test_group_offloading(name: str, kind: str) -> None:
    model = built(name)
    expected = read(model), model(**transformer_call(model)).sample
    options = {"num_blocks_per_group": 1} if kind == "block_level" else {}
    model.enable_group_offload(onload_device=CPU, offload_device=CPU, offload_type=kind, **options)
    assert torch.equal(read(model, stop=True), expected[0]) and torch.equal(read(model), expected[0])
    assert torch.equal(model(**transformer_call(model)).sample, expected[1])


def test_sequential_offloading_keeps_no_weight_of_a_pass_that_stopped() -> None:
    model = built("wan")
    expected = read(model)
    cpu_offload(model, execution_device=CPU)
    assert torch.equal(read(model, stop=True), expected)
    assert all(parameter.is_meta for parameter in model.parameters())


def test_layerwise_casting() -> None:
    model = built("wan").to(torch.bfloat16)
    call = {
        name: value.to(torch.bfloat16) if value.is_floating_point() else value for name, value in transformer_call(model).items()
    }
    expected = read(model, call=call)
    model.enable_layerwise_casting(torch.float8_e4m3fn, torch.bfloat16)
    features = read(model, stop=True, call=call)
    assert features.dtype == torch.bfloat16
    assert (features - expected).float().norm() < 0.2 * expected.float().norm()


@pytest.mark.parametrize("name", ["wan", "cogvideox", "ltx"])
def test_lora(name: str) -> None:
    model = built(name)
    before = read(model)
    model.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    with_layers = read(model, stop=True)
    assert not torch.equal(with_layers, before)
    call = transformer_call(model)
    assert torch.equal(with_layers, outputs_of_blocks(model, call)[1].reshape(before.shape))
    assert torch.equal(read(model, call=call | {"attention_kwargs": {"scale": 0.0}}), before)


@pytest.mark.parametrize("how", ["blocks", "wrapped"])
def test_compiled_parts_run_as_they_were_and_stay_compiled(how: str) -> None:
    model = built("wan")
    call = transformer_call(model)
    expected = read(model), model(**call).sample
    captured = []

    def backend(graph: Any, _: Any) -> Any:
        captured.append(graph)
        return graph.forward

    if how == "blocks":
        model.compile_repeated_blocks(backend=backend)
    called = torch.compile(model, backend=backend) if how == "wrapped" else model
    called(**call)
    graphs = len(captured)
    assert graphs
    for stop in (True, False):
        with FeatureTap(called, 2, stop) as tap:
            called(**call)
        assert torch.equal(tap.features, expected[0])
    torch.testing.assert_close(called(**call).sample, expected[1])
    assert len(captured) == graphs
    torch.compiler.reset()


def test_gradients_reach_the_weights_in_front_of_the_tap_with_and_without_checkpointing() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = built("wan")
        if checkpointing:
            model.enable_gradient_checkpointing()
        with torch.enable_grad(), FeatureTap(model, 2, stop=True) as tap:
            model(**transformer_call(model))
            features = tap.features
            features.square().mean().backward()  # inside: blocks that run again are not read
            assert tap.features is features
        assert model.blocks[2].attn1.to_q.weight.grad is None
        gradients.append(model.blocks[0].attn1.to_q.weight.grad)
    torch.testing.assert_close(*gradients)
    assert gradients[0].any()


def test_step_caches_are_off_inside_and_on_again_behind() -> None:
    model = built("wan")
    expected = read(model)
    config = FirstBlockCacheConfig(threshold=10.0)
    model.enable_cache(config)
    call = transformer_call(model)
    for _ in range(2):
        with model.cache_context("cond"):
            cached = model(**call).sample  # of the second call the later blocks are skipped
        assert torch.equal(read(model), expected)
    assert cached.isfinite().all()
    assert model._cache_config is config


def test_a_failing_call_leaves_the_model_as_it_was() -> None:
    model = built("wan")
    with pytest.raises(RuntimeError, match="size|shape|expected"), FeatureTap(model, 1, stop=True):
        model(**transformer_call(model) | {"encoder_hidden_states": torch.zeros(2, 8, 3)})
    assert len(model.blocks) == 4
    assert read(model).shape == FEATURE_SHAPES["wan"]


def test_refusals_name_the_value_and_the_remedy() -> None:
    model = tiny_wan_transformer()
    for layers, message in ((0, "from 1 to num_layers=4, got 0"), ([1, 5], "got .1, 5."), ([3, 1], "ascend"), ([], "got")):
        with pytest.raises((ValueError, IndexError), match=message):
            FeatureTap(model, layers)
    with pytest.raises(ValueError, match="HunyuanVideoTransformer3DModel; known are Wan.*LAYOUTS.*docs/backbones.md"):
        FeatureTap(HunyuanVideoTransformer3DModel.__new__(HunyuanVideoTransformer3DModel), 1)
    with pytest.raises(RuntimeError, match="behind block 2 of WanTransformer3DModel: call it"), FeatureTap(model, 2) as tap:
        _ = tap.features
    ltx = tiny_ltx_transformer()
    call = transformer_call(ltx)
    call |= {"num_frames": None, "video_coords": torch.zeros(2, 3, 18)}
    with pytest.raises(ValueError, match="num_frames, height and width"), FeatureTap(ltx, 1):
        ltx(**call)


def test_patches_of_the_listed_classes() -> None:
    patches = {name: layout_of(model := built(name)).patch(model.config) for name in NAMES}
    assert patches == {
        "wan": (1, 2),
        "cogvideox": (1, 2),
        "cogvideox 1.5": (2, 2),
        "ltx": (1, 1),
        "latte": (1, 2),
        "jog3r": (1, 2),
    }


def test_a_class_is_added_by_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(type(tiny_transformer())):
        pass

    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
            self.config = None

        def forward(self, tokens: torch.Tensor, steps: int) -> torch.Tensor:
            for layer in self.layers:
                tokens = layer(tokens)
            return tokens

    layout = LAYOUTS["WanTransformer3DModel"]
    fields = dict(blocks=("layers",), patch=lambda config: (1, 1), steps=lambda config, call: call["steps"], shape=layout.shape)
    monkeypatch.setitem(LAYOUTS, "Other", type(layout)(**fields, clips=lambda call: call["tokens"].shape[0]))
    model, tokens = Other(), torch.randn(2, 12, 6)
    features = read(model, 1, call={"tokens": tokens, "steps": 3})
    assert torch.equal(features, model.layers[0](tokens).reshape(2, 3, 4, 6))
    assert layout_of(Mine.__new__(Mine)) is LAYOUTS["Jog3rTransformer3DModel"]  # classes made from a listed one


def test_linear_probes_explain_what_is_linear_and_nothing_else() -> None:
    tokens = torch.randn(60, 2, 3, 5, generator=seeded()).double()
    places = 10 * torch.randn(2, 3, 2, generator=seeded(1)).double()
    linear = tokens @ torch.randn(5, 2, generator=seeded(2)).double() + places
    chance = torch.randn(60, 2, 3, 2, generator=seeded(3)).double() + places
    for targets, low, high in ((linear, 0.999, 1.0), (chance, -0.5, 0.1)):
        found = explained((tokens[:40], targets[:40]), (tokens[40:], targets[40:]))
        assert low <= found <= high and found.low <= found <= found.high and found.n == 20
