"""The joint training: what a step computes and what it trains."""

import copy
import logging
import runpy
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import training_cases
from diffusers import DDPMScheduler
from tiny_components import tiny_pipeline
from training_cases import SIZE, run_here
from training_runs import weights_of

from jog3r import Dust3rBaseline, Dust3rPipeline
from jog3r.pipelines.loading.any_pipeline import load_pipeline
from jog3r.training.build import select_trainable
from jog3r.training.clips.clip_stream import ProceduralStream
from jog3r.training.clips.step_batches import draw_step_noise
from jog3r.training.config import TrainConfig
from jog3r.training.joint_model import JointModel
from jog3r.training.losses import generation_loss, pointmap_loss
from jog3r.training.optimization import BatchedMuon, build_optimizers, learning_rate_factor, reconstruction_weight

ROOT = Path(__file__).resolve().parents[1]
settings = partial(training_cases.settings, reconstruction_batch=2)


@pytest.fixture
def joint() -> JointModel:
    pipe = tiny_pipeline()
    return JointModel(pipe.transformer, pipe.pointmap_head, pipe.text_encoder, pipe.scheduler)


def make_batch(config: TrainConfig) -> dict[str, torch.Tensor]:
    pipe = tiny_pipeline()
    length = pipe.transformer.config.max_caption_length
    stream = ProceduralStream(pipe.vae, pipe.tokenizer, length, SIZE, 0, 8, 0)
    items = [stream[k] for k in range(config.generation_batch + config.reconstruction_batch)]
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def draws_for(config: TrainConfig, batch: dict[str, torch.Tensor], joint: JointModel, step: int = 0, first_slot: int = 0):
    length = joint.transformer.config.max_caption_length
    slots = list(range(first_slot, first_slot + len(batch["latents"])))
    return draw_step_noise(config, step, slots, batch["latents"], length, 1000)


def test_draws_depend_on_seed_step_and_slot_alone(joint: JointModel) -> None:
    config = settings()
    batch = make_batch(config)
    first, again = draws_for(config, batch, joint, 5), draws_for(config, batch, joint, 5)
    assert torch.equal(first.noise, again.noise) and torch.equal(first.timesteps, again.timesteps)
    for other in (
        draws_for(config, batch, joint, 6),
        draws_for(config, batch, joint, 5, first_slot=4),
        draws_for(settings(seed=1), batch, joint, 5),
    ):
        assert not torch.equal(first.noise, other.noise)


def test_reconstruction_sees_little_noise_and_distinct_pairs(joint: JointModel) -> None:
    config = settings(max_reconstruction_timestep=100)
    batch = make_batch(config)
    for step in range(50):
        draws = draws_for(config, batch, joint, step)
        assert draws.timesteps[2:].max() <= 100
        assert draws.pairs[:, 0].eq(0).all() and draws.pairs[:, 1].unique().numel() == 2 and draws.pairs[:, 1].min() >= 1


def test_merged_batch_equals_two_separate_passes(joint: JointModel) -> None:
    """The slow plain way is the oracle: generation alone, reconstruction alone, each with everything computed."""
    config = settings(caption_dropout=0.0)
    batch = make_batch(config)
    draws = draws_for(config, batch, joint)
    joint.eval()
    losses = joint(batch, draws, config)

    noisy = DDPMScheduler.from_config(joint.scheduler.config).add_noise(batch["latents"], draws.noise, draws.timesteps)
    mask = batch["caption_mask"][:2]
    text = joint.text_encoder(input_ids=batch["caption_ids"][:2], attention_mask=mask).last_hidden_state
    sample = joint.transformer(noisy[:2], draws.timesteps[:2], text, mask).sample
    expected = generation_loss(sample, batch["latents"][:2], draws.noise[:2], draws.timesteps[:2], joint.scheduler).mean()
    torch.testing.assert_close(losses["generation"], expected, rtol=1e-5, atol=1e-6)

    null = joint.transformer.null_caption[None].expand(2, -1, -1)
    null_mask = torch.arange(null.shape[1])[None] < draws.null_length[:, None]
    features = joint.transformer(noisy[2:], draws.timesteps[2:], null, null_mask, return_features=True).features
    from jog3r.geometry.pointmaps import pointmaps_in_first_camera

    truth = pointmaps_in_first_camera(batch["depth"][2:], batch["intrinsics"][2:], batch["poses"][2:])
    maps = joint.pointmap_head(features, 16, 16, pairs=draws.pairs)
    arguments = [maps.anchor_pointmaps, maps.anchor_confidence, maps.pointmaps, maps.confidence]
    arguments += [truth[:, draws.pairs[:, 0]], truth[:, draws.pairs[:, 1]]]
    arguments += [batch["valid"][2:][:, draws.pairs[:, 0]], batch["valid"][2:][:, draws.pairs[:, 1]]]
    expected = pointmap_loss(*(value.flatten(0, 1) for value in arguments))
    torch.testing.assert_close(losses["reconstruction"], expected, rtol=1e-5, atol=1e-6)


def test_generation_branch_gets_no_gradient_from_reconstruction(joint: JointModel) -> None:
    config = settings(generation_batch=0)
    batch = make_batch(config)
    select_trainable(joint, config)
    losses = joint(batch, draws_for(config, batch, joint), config)
    assert set(losses) == {"reconstruction"}
    losses["reconstruction"].backward()
    tap = joint.transformer.config.feature_layer
    for index, block in enumerate(joint.transformer.transformer_blocks):
        has_gradient = any(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters())
        assert has_gradient == (index < tap)


def test_temporal_trains_temporal_attention_behind_the_frozen_blocks_and_the_head(joint: JointModel) -> None:
    names = [name for name, _ in select_trainable(joint, settings(trainable="temporal", frozen_blocks=1))]
    in_transformer = [name for name in names if name.startswith("transformer.")]
    assert in_transformer and all(".temporal_attn." in name for name in in_transformer)
    assert not any("transformer_blocks.0." in name for name in in_transformer)
    assert any(name.startswith("pointmap_head.") for name in names)
    assert not any(name.startswith("text_encoder.") for name in names)


def test_a_run_without_anything_to_train_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing is left to train: trainable=temporal, frozen_blocks=100 .* has 3 blocks"):
        training_cases.built(settings(trainable="temporal", frozen_blocks=100, reconstruction_batch=0))


def test_an_unknown_compiler_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="compile_backend must be one of .*eager.*inductor.*, got 'nonsense'"):
        training_cases.built(settings(compile_backend="nonsense"))


def test_muon_takes_hidden_matrices_and_adamw_the_rest(joint: JointModel) -> None:
    config = settings(optimizer="muon", train_text_encoder=True)
    trained = select_trainable(joint, config)
    adamw, muon = build_optimizers(trained, config)
    in_muon = {id(p) for group in muon.param_groups for p in group["params"]}
    in_adamw = {id(p) for group in adamw.param_groups for p in group["params"]}
    assert not in_muon & in_adamw and in_muon | in_adamw == {id(p) for _, p in trained}
    for name, parameter in trained:
        assert (id(parameter) in in_muon) == ("blocks." in name and parameter.ndim == 2 and name.endswith("weight"))
    assert len(build_optimizers(trained, settings())) == 1


def test_matrices_taken_by_their_shapes_move_as_torch_moves_them() -> None:
    start = [torch.randn(*shape) for shape in ((8, 8), (8, 24), (24, 8), (8, 8), (8, 24))]
    ours, theirs = ([torch.nn.Parameter(value.clone()) for value in start] for _ in range(2))
    settings = {"lr": 0.02, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    optimizers = BatchedMuon(ours, **settings), torch.optim.Muon(theirs, **settings)
    for step in range(4):
        for first, second in zip(ours, theirs, strict=True):
            first.grad = None if step == 1 and first is ours[0] else torch.randn_like(first)
            second.grad = None if first.grad is None else first.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
        if step == 2:  # one takes the other's state
            optimizers[0].load_state_dict(copy.deepcopy(optimizers[1].state_dict()))
    for first, second, before in zip(ours, theirs, start, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-4)
        assert (first - before).abs().max() > 0.005


def test_schedules() -> None:
    config = settings(num_steps=100, warmup_steps=10, decay_fraction=0.2, reconstruction_warmup_steps=4)
    factors = [learning_rate_factor(step, config) for step in range(101)]
    assert factors[0] == pytest.approx(0.1) and factors[9:80] == [1.0] * 71 and factors[90] == pytest.approx(0.5)
    assert factors[100] == 0.0
    assert [reconstruction_weight(step, config) for step in (0, 3, 50)] == [0.25, 1.0, 1.0]


def test_stream_is_a_function_of_position_and_augments() -> None:
    pipe = tiny_pipeline()
    stream = ProceduralStream(pipe.vae, pipe.tokenizer, 8, SIZE, 0, 40, seed=3)
    again = ProceduralStream(pipe.vae, pipe.tokenizer, 8, SIZE, 0, 40, seed=3)
    for name, value in stream[7].items():
        assert torch.equal(value, again[7][name]), name
    from jog3r.data.procedural import procedural_clip

    motions = {stream._clip(k).attributes["motion"] == procedural_clip(k, "train", *SIZE).attributes["motion"] for k in range(12)}
    assert motions == {True, False}  # some reversed or mirrored, some not
    still = ProceduralStream(pipe.vae, pipe.tokenizer, 8, (1, 16, 16), 0, 40, seed=3)[2]
    assert still["latents"].shape[1] == 1 and torch.equal(still["poses"], torch.eye(4)[None])


def test_dust3r_baseline_trains_on_the_same_road_and_reads_videos(tmp_path: Path) -> None:
    config = dict(width=16, num_layers=1, num_attention_heads=2, decoder_width=16, decoder_num_layers=1, patch_size=8)
    torch.manual_seed(0)
    Dust3rPipeline(Dust3rBaseline(**config, decoder_num_attention_heads=2)).save_pretrained(tmp_path / "init")
    run_here(tmp_path, model="dust3r", num_steps=2, generation_batch=0, reconstruction_batch=1)
    start, trained = weights_of(tmp_path / "init"), weights_of(tmp_path / "run" / "pipeline")
    assert start.keys() == trained.keys() and any(not torch.equal(start[name], trained[name]) for name in start)
    pipe = load_pipeline(str(tmp_path / "run" / "pipeline"))
    assert isinstance(pipe, Dust3rPipeline)
    output = pipe(video=torch.rand(3, 16, 16, 3))
    assert output.poses.shape == (1, 3, 4, 4) and output.depth.shape == (1, 3, 16, 16)
    with pytest.raises(ValueError, match="v2c"):
        pipe(video=torch.rand(3, 16, 16, 3), task="t2v")
    with pytest.raises(ValueError, match="multiple"):
        pipe(video=torch.rand(3, 12, 16, 3))


def test_zero_switches_clipping_and_samples_off(tmp_path: Path) -> None:
    folders = [
        run_here(tmp_path, output_dir=str(tmp_path / str(limit)), num_steps=2, max_grad_norm=limit, sample_every=0)
        for limit in (0.0, 1e9, 1e-3)
    ]
    unclipped, loose, tight = (weights_of(folder / "pipeline") for folder in folders)
    assert all(torch.equal(loose[name], value) for name, value in unclipped.items())
    assert any(not torch.equal(tight[name], value) for name, value in unclipped.items())
    start = weights_of(tmp_path / "init")
    assert any(not torch.equal(start[name], value) for name, value in unclipped.items())
    assert not any((folder / "samples").exists() for folder in folders)


def test_pipelines_load_by_their_index(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="model_index"):
        load_pipeline(str(tmp_path))
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(ValueError, match="FluxPipeline"):
        load_pipeline(str(tmp_path))


def test_user_mistakes_end_in_one_line(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    script, before = str(ROOT / "training" / "train_joint.py"), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, "argv", [script, "--init_from", "nowhere", "--output_dir", "x"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(script, run_name="__main__")
    assert end.value.code == 2
    [message] = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert message.startswith("error: ") and "nowhere" in message and "\n" not in message
    assert signal.getsignal(signal.SIGTERM) is before  # a notebook can be stopped again
