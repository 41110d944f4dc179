"""The head on features of other generators: frames of a step, fused blocks, noise levels, chunks of pairs."""

from pathlib import Path

import pytest
import torch
from original_checkpoints import dust3r_arguments, dust3r_shapes, random_weights, save_dust3r
from tiny_components import seeded, tiny_head
from torch import nn

from jog3r import Pointmap3DHead
from jog3r.models import pointmap_head
from jog3r.models.conversion.convert import inspect_dust3r_head

MAPS = ("anchor_pointmaps", "anchor_confidence", "pointmaps", "confidence")


def features(steps: int = 3, clips: int = 1) -> torch.Tensor:
    """Of 16 x 16 pixels in tokens of 8: (B, f, 4, 16)."""
    return torch.randn(clips, steps, 4, 16, generator=seeded(5))


def equal(first: object, second: object) -> bool:
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in MAPS)


@pytest.mark.parametrize("attention", ["pairwise", "global"])
@pytest.mark.parametrize(("per_step", "frames"), [(1, 3), (4, 9), (8, 17)])
@torch.no_grad()
def test_every_frame_gets_a_pointmap_the_first_step_is_one_frame(attention: str, per_step: int, frames: int) -> None:
    head = tiny_head(frames_per_step=per_step, attention=attention)
    output = head(features(), 16, 16)
    assert output.pairs.tolist() == [[0, other] for other in range(1, frames)]
    assert output.pointmaps.shape == (1, frames - 1, 16, 16, 3)
    others = output.pointmaps[0]
    assert all(not torch.equal(others[k], others[k + 1]) for k in range(len(others) - 1))  # frames of one step differ


@torch.no_grad()
def test_one_decoder_tells_equal_frames_apart_by_their_numbers() -> None:
    maps = tiny_head(attention="global")(features(1).expand(-1, 4, -1, -1), 16, 16).pointmaps[0]
    assert all(not torch.allclose(maps[k], maps[other]) for k in range(3) for other in range(k))


@torch.no_grad()
def test_a_frame_is_made_of_the_features_of_its_own_step_and_the_first() -> None:
    head = tiny_head(frames_per_step=4)
    given = features()
    before = head(given, 16, 16).pointmaps[0]
    given[:, 2] += 1
    moved = (head(given, 16, 16).pointmaps[0] - before).flatten(1).abs().amax(1) > 0
    assert moved.tolist() == [False] * 4 + [True] * 4  # frames 1-4 are of step 1, frames 5-8 of step 2


@torch.no_grad()
def test_frames_of_later_steps_come_from_their_own_rows_of_one_projection() -> None:
    head = tiny_head(frames_per_step=4)
    plain = tiny_head()
    plain.load_state_dict({name: value for name, value in head.state_dict().items() if not name.startswith("proj_frames")})
    given = features(2)
    pairs = torch.tensor([[1, 4], [0, 2]])
    output = head(given, 16, 16, pairs)
    for index, frames in enumerate(pairs.tolist()):
        rows = [slice(16 * (frame - 1), 16 * frame) for frame in frames]
        tokens = [
            head.proj_in(head.norm_features(given[:, 0]))
            if frame == 0
            else nn.functional.linear(head.norm_features(given[:, 1]), head.proj_frames.weight[row], head.proj_frames.bias[row])
            for frame, row in zip(frames, rows, strict=True)
        ]
        plain.norm_features, plain.proj_in = nn.Identity(), nn.Identity()
        expected = plain(torch.stack(tokens, 1), 16, 16)
        torch.testing.assert_close(output.pointmaps[:, index], expected.pointmaps[:, 0])
        torch.testing.assert_close(output.anchor_confidence[:, index], expected.anchor_confidence[:, 0])


def test_with_all_that_is_new_left_out_the_head_is_as_it_was() -> None:
    torch.manual_seed(11)
    old = tiny_head()
    torch.manual_seed(11)
    new = tiny_head(frames_per_step=4, noise_embedding=True, feature_layers=[1, 2])
    assert not [name for name in old.state_dict() if name.startswith(("proj_frames", "noise", "feature_weights"))]
    assert all(torch.equal(value, new.state_dict()[name]) for name, value in old.state_dict().items())


@pytest.mark.parametrize("attention", ["pairwise", "global"])
@torch.no_grad()
def test_chunks_of_pairs_give_what_all_at_once_give(attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    head = tiny_head(frames_per_step=4, attention=attention)
    given = features(clips=2)
    whole = head(given, 16, 16)
    decoded = []
    head.norm_out.register_forward_hook(lambda _, __, output: decoded.append(output.shape[1]))
    monkeypatch.setattr(pointmap_head, "MAX_TOKENS", 3 * 8 + 1)  # three pairs of two clips with four tokens
    parts = head(given, 16, 16)
    assert decoded == [3 if attention == "pairwise" else 1, 3] * 2 + [2 if attention == "pairwise" else 1, 2]
    for name in MAPS:
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name))
    monkeypatch.setattr(pointmap_head, "MAX_TOKENS", 1)
    torch.testing.assert_close(head(given, 16, 16).pointmaps, whole.pointmaps)


def test_training_sees_all_pairs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    head = tiny_head(frames_per_step=4, noise_embedding=True, feature_layers=[1, 3])
    monkeypatch.setattr(pointmap_head, "MAX_TOKENS", 1)
    head([features(), features() ** 2], 16, 16, noise_level=torch.tensor([0.3])).pointmaps.square().mean().backward()
    trained = {name for name, parameter in head.named_parameters() if parameter.grad is not None and parameter.grad.any()}
    assert {"proj_frames.weight", "noise_embedder.linear_2.weight", "feature_weights", "proj_in.weight"} <= trained


@torch.no_grad()
def test_several_blocks_are_fused_with_learned_shares() -> None:
    head, single = tiny_head(feature_layers=[2, 5]), tiny_head()
    single.load_state_dict({name: value for name, value in head.state_dict().items() if name != "feature_weights"})
    head.feature_weights.copy_(torch.tensor([0.5, -1.0]))
    taps = [features(), features().flip(1)]
    shares = torch.tensor([0.5, -1.0]).softmax(0)
    fused = sum(share * nn.functional.layer_norm(tap, (16,), eps=1e-6) for share, tap in zip(shares, taps, strict=True))
    assert equal(head(taps, 16, 16), single(fused, 16, 16))


@torch.no_grad()
def test_the_noise_level_changes_nothing_at_first_and_counts_afterwards() -> None:
    head, plain = tiny_head(noise_embedding=True), tiny_head()
    plain.load_state_dict({name: value for name, value in head.state_dict().items() if not name.startswith("noise")})
    assert equal(head(features(), 16, 16, noise_level=0.7), plain(features(), 16, 16))
    nn.init.normal_(head.noise_embedder.linear_2.weight)
    low, high = (head(features(clips=2), 16, 16, noise_level=level) for level in (0.1, torch.tensor([0.1, 0.9])))
    torch.testing.assert_close(low.pointmaps[0], high.pointmaps[0])
    assert not torch.allclose(low.pointmaps[1], high.pointmaps[1])


def test_all_of_it_is_saved_and_cast(tmp_path: Path) -> None:
    settings = dict(frames_per_step=4, noise_embedding=True, feature_layers=[1, 3], noise_range=(0.1, 0.3))
    head = tiny_head(**settings, generator="WanTransformer3DModel")
    nn.init.normal_(head.noise_embedder.linear_2.weight)
    head.save_pretrained(tmp_path)
    loaded = Pointmap3DHead.from_pretrained(tmp_path)
    assert loaded.config.generator == "WanTransformer3DModel" and list(loaded.config.noise_range) == [0.1, 0.3]
    taps = [features(), features() ** 2]
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in head.state_dict().items())
    maps = loaded(taps, 16, 16, noise_level=0.2).pointmaps  # weights lie elsewhere in memory: another rounding
    torch.testing.assert_close(maps, head(taps, 16, 16, noise_level=0.2).pointmaps, rtol=1e-4, atol=1e-4)
    half = loaded.to(torch.bfloat16)([tap.bfloat16() for tap in taps], 16, 16, noise_level=0.2)
    assert half.pointmaps.dtype == torch.float32 and half.pointmaps.isfinite().all()


def test_a_dust3r_checkpoint_starts_the_decoders_of_such_a_head(tmp_path: Path) -> None:
    path = save_dust3r(tmp_path / "dust3r.pth", random_weights(dust3r_shapes()), dust3r_arguments())
    settings = dict(feature_dim=40, feature_norm=True, frames_per_step=4, noise_embedding=True, feature_layers=[1, 2])
    conversion = inspect_dust3r_head(Pointmap3DHead, path, **settings)
    names = {"proj_in", "norm_features", "proj_frames", "noise_embedder.linear_1", "noise_embedder.linear_2"}
    expected = {f"{name}.{part}" for name in names for part in ("weight", "bias")} | {"feature_weights"}
    assert set(conversion.report()["missing"]) == expected
    head = conversion.load()
    assert not head.config.trained and not head.feature_weights.any() and not head.noise_embedder.linear_2.weight.any()
    taps = [torch.randn(1, 2, 4, 40, generator=seeded())] * 2
    assert head(taps, 8, 8, noise_level=0.5).pointmaps.shape == (1, 4, 8, 8, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frames_per_step": 0}, "frames_per_step must be a whole number from 1 .*got 0"),
        ({"frames_per_step": 2.5}, "got 2.5"),
        ({"feature_layers": [3, 1]}, "ascend without repetition, got .3, 1."),
        ({"feature_layers": [0]}, "counts blocks from 1, got 0"),
        ({"noise_range": (0.4, 0.2)}, "low <= high <= 1, got"),
        ({"noise_range": (20, 50)}, "shares of the schedule"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_head(**settings)


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="reads 2 blocks .feature_layers., got features of 1"):
        tiny_head(feature_layers=[1, 2])(features(), 16, 16)
    with pytest.raises(ValueError, match="reads 1 blocks .*got features of 2"):
        tiny_head()([features(), features()], 16, 16)
    with pytest.raises(ValueError, match="pass noise_level, the share 0..1"):
        tiny_head(noise_embedding=True)(features(), 16, 16)
    with pytest.raises(ValueError, match="no noise_embedding, but got noise_level=0.2"):
        tiny_head()(features(), 16, 16, noise_level=0.2)
    with pytest.raises(ValueError, match=r"must be \(B, f, N, 16\)"):
        tiny_head(frames_per_step=4)(features()[0], 16, 16)
    with pytest.raises(ValueError, match="name frames 0..9 of a clip with 9 frames"):
        tiny_head(frames_per_step=4)(features(), 16, 16, torch.tensor([[0, 9]]))
    with pytest.raises(ValueError, match="at least 2 frames, got 1"):
        tiny_head(frames_per_step=4)(features(1), 16, 16)
