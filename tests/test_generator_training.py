"""Training on generators of diffusers by the same script: both losses, what is trained, head and LoRA saved and loaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanPipeline
from memory_table import allocated_peak
from safetensors.torch import load_file
from tiny_components import seeded
from tiny_generators import CALLS, tiny_generator, tiny_parent, tiny_wan_transformer
from training_cases import run_here, settings

from jog3r import Jog3rWanPipeline, Pointmap3DHead
from jog3r.models.feature_tap import layout_of
from jog3r.training.build import build_model, load_start, select_trainable
from jog3r.training.clips.step_batches import StepNoise, draw_step_noise
from jog3r.training.clips.streams import join_items
from jog3r.training.config import TrainConfig
from jog3r.training.generators.captions import embed_for, keep_captions
from jog3r.training.generators.inputs import describe_inputs
from jog3r.training.generators.options import recognise
from jog3r.training.generators.samples import embed_for_samples, generate_samples
from jog3r.training.generators.time_steps import TimeSteps, scheduler_shift
from jog3r.training.memory import measure_step
from jog3r.training.preparation.caption_embeddings import caption_item
from jog3r.training.run.checkpoints import find_checkpoint

NAMES = ("wan", "cogvideox", "ltx")
TEXTS = ["a red room", "the camera moves forward"]


def options(name: str, **changes: Any) -> TrainConfig:
    """One clip a half, of the least size, and a small head."""
    size = {key: CALLS[name][key] for key in ("num_frames", "height", "width")}
    sizes = dict(generation_batch=1, reconstruction_batch=1, head_width=16, head_layers=1, model=name)
    return settings(**{**size, **sizes, **changes})


def built(name: str, pipeline: Any = None, **changes: Any) -> tuple[Any, TrainConfig]:
    config = options(name, **changes)
    if pipeline is None:
        pipeline = tiny_generator(name)
        pipeline.pointmap_head = None
    return build_model(pipeline, config), config


def step_inputs(joint: Any, config: TrainConfig) -> tuple[dict[str, torch.Tensor], StepNoise]:
    """Random frames with a plane for a scene, under the first of `TEXTS`."""
    pipe, clips = joint.pipeline, config.generation_batch + config.reconstruction_batch
    shape = (clips, config.num_frames, config.height, config.width)
    inputs = describe_inputs(pipe, config)
    item = caption_item(embed_for(pipe, TEXTS[:1], inputs.caption_length, torch.device("cpu"))[0], inputs.caption_length)
    batch = {name: value.expand(clips, *value.shape) for name, value in item.items()}
    batch |= dict(depth=torch.rand(shape, generator=seeded()) + 1, valid=torch.ones(shape, dtype=torch.bool))
    batch |= dict(intrinsics=torch.eye(3).expand(*shape[:2], 3, 3), poses=torch.eye(4).expand(*shape[:2], 4, 4))
    frames = torch.rand(*shape[:2], 3, *shape[2:], generator=seeded(1)) * 2 - 1
    batch = inputs.encode(batch | {"frames": frames})
    assert "frames" not in batch
    torch.testing.assert_close(batch["latents"], pipe.encode_video((frames + 1) / 2), atol=1e-5, rtol=1e-4)
    draws = draw_step_noise(config, 0, list(range(clips)), batch["latents"], inputs.caption_length, inputs.times)
    return batch, draws


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_those_of_the_family_and_reconstruction_stops_behind_the_tap(name: str) -> None:
    joint, config = built(name, trainable="all", caption_dropout=0.0, feature_layers=(1,))
    pipe, transformer = joint.pipeline, joint.transformer
    batch, draws = step_inputs(joint, config)
    calls: list[int] = []
    blocks = getattr(transformer, layout_of(transformer).blocks[-1])
    hooks = [block.register_forward_hook(lambda *_, n=n: calls.append(n)) for n, block in enumerate(blocks)]
    with torch.no_grad():
        losses = joint(batch, draws, config)
    for hook in hooks:
        hook.remove()
    assert calls == [*range(len(blocks)), 0]  # generation runs all, reconstruction the tapped one alone

    # 1. the squared error by the parent's own scheduler and packing
    latents, noise, t = batch["latents"][:1], draws.noise[:1], draws.timesteps[:1]
    embeds, *mask = pipe.encode_prompt(TEXTS[:1], False)
    if name == "cogvideox":
        assert t.dtype == torch.long
        noisy = pipe.scheduler.add_noise(latents, noise, t).transpose(1, 2)
        rotary = pipe._prepare_rotary_positional_embeddings(config.height, config.width, noisy.shape[1], torch.device("cpu"))
        with torch.no_grad():
            sample = transformer(noisy, embeds, t, image_rotary_emb=rotary, return_dict=False)[0]
        target = pipe.scheduler.get_velocity(latents, noise, t).transpose(1, 2)
    else:
        level = t / 1000
        noisy, target = (1 - level) * latents + level * noise, noise - latents
        call: dict[str, Any] = dict(timestep=t.float(), encoder_hidden_states=embeds)
        if name == "ltx":
            noisy, target, sizes = pipe._pack_latents(noisy), pipe._pack_latents(target), latents.shape[-3:]
            call |= dict(num_frames=sizes[0], height=sizes[1], width=sizes[2], encoder_attention_mask=mask[0])
            call |= dict(rope_interpolation_scale=(8 / 25, 32, 32))
        with torch.no_grad():
            sample = transformer(noisy, **call, return_dict=False)[0]
    torch.testing.assert_close(losses["generation"], (sample - target).square().mean(), rtol=2e-3, atol=1e-5)

    # 2. both reach transformer and head
    sum(joint(batch, draws, config).values()).backward()
    trained = select_trainable(joint, config)
    assert len(trained) > len(list(joint.pointmap_head.parameters()))
    assert all(parameter.grad is not None for key, parameter in trained if "blocks.0." in key)


def test_what_is_trained(caplog: pytest.LogCaptureFixture) -> None:
    head = {"pointmap_head"}

    def parts(**changes: Any) -> set[str]:
        joint, config = built("wan", **changes)
        return {key.split(".")[0] if key.startswith("pointmap") else key for key, _ in select_trainable(joint, config)}

    assert parts(trainable="none", generation_batch=0) == head
    lora = parts(trainable="lora", lora_rank=2) - head
    assert len(lora) == 4 * 2 * 4 * 2  # blocks, attentions, layers, factors
    behind = parts(trainable="lora", lora_rank=2, generation_batch=0, feature_layers=(1, 2)) - head
    assert len(behind) == len(lora) / 2 and not any("blocks.2." in key for key in behind)
    named = parts(trainable="named", trained_parameters=("attn1.to_q", "norm_k")) - head
    assert len(named) == 4 * (2 + 2) and all("attn1.to_q" in key or "norm_k" in key for key in named)
    everything = parts(trainable="all", generation_batch=0, feature_layers=(3,)) - head
    assert not any(key.startswith(("transformer.proj_out", "transformer.blocks.3.")) for key in everything)
    joint, config = built("wan", trainable="all", generation_batch=0, feature_layers=(3,))
    batch, draws = step_inputs(joint, config)
    trained = select_trainable(joint, config)
    sum(joint(batch, draws, config).values()).backward()
    assert all(parameter.grad is not None for _, parameter in trained)  # none that a wrapper of processes would wait for


def test_frozen_weights_are_kept_in_half_precision_and_layers_beside_them_in_float32(tmp_path: Path) -> None:
    from jog3r.training.build import load_start

    tiny_parent("wan").save_pretrained(tmp_path)
    config = options("wan", init_from=str(tmp_path), trainable="lora", mixed_precision="bf16")
    pipe = load_start(config)
    joint = build_model(pipe, config)
    select_trainable(joint, config)
    kinds = {
        (parameter.requires_grad, parameter.dtype) for key, parameter in joint.transformer.named_parameters() if "attn" in key
    }
    assert kinds == {(False, torch.bfloat16), (True, torch.float32)}
    assert pipe.vae.dtype == torch.float32 and joint.pointmap_head.dtype == torch.float32
    batch, draws = step_inputs(joint, config)
    losses = joint(batch, draws, config)
    sum(losses.values()).backward()
    joint.transformer.float()
    whole = joint(batch, draws, options("wan"))["generation"]
    torch.testing.assert_close(losses["generation"], whole, rtol=2e-2, atol=0)


@pytest.mark.parametrize("name", ["cogvideox", "ltx"])
def test_samples_are_made_by_weights_in_half_precision(name: str, tmp_path: Path) -> None:
    """The calls of these two convert nothing: text encoder and VAE are in float32."""
    tiny_parent(name).save_pretrained(tmp_path)
    config = options(name, init_from=str(tmp_path), trainable="lora", mixed_precision="bf16", sample_steps=2)
    pipe = load_start(config)
    build_model(pipe, config)
    assert pipe.transformer.dtype == torch.bfloat16 != pipe.vae.dtype
    embedded = embed_for_samples(pipe, ["a red room"], {})
    assert generate_samples(pipe, config, embedded).shape == (1, config.num_frames, config.height, config.width, 3)


def test_time_steps_have_the_schedulers_shift(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = TimeSteps(1000, True, 3.0, False, (0, 200))
    half = np.random.default_rng(0)
    drawn = np.array([flow.generation(half) for _ in range(2000)])
    assert np.mean(drawn > 750) == pytest.approx(0.5, abs=0.04)  # 3 x 0.5 / (1 + 2 x 0.5)
    normal = TimeSteps(1000, True, 1.0, True, (0, 200))
    drawn = np.array([normal.generation(half) for _ in range(2000)])
    assert np.mean((drawn > 269) & (drawn < 731)) == pytest.approx(0.683, abs=0.04)  # logistic of -1 and 1
    read = [flow.reading(half) for _ in range(200)]
    assert 0 <= min(read) < 20 and 180 < max(read) <= 200
    whole = TimeSteps(1000, False, 1.0, True, (100, 101))
    assert {whole.reading(half) for _ in range(50)} == {100, 101} and isinstance(whole.generation(half), int)
    assert scheduler_shift(tiny_parent("wan").scheduler, 9) == 3.0
    ltx = type(tiny_parent("ltx").scheduler)(
        use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024, max_image_seq_len=4096
    )
    assert scheduler_shift(ltx, 1024) == pytest.approx(np.exp(0.95)) and scheduler_shift(ltx, 4096) == pytest.approx(np.exp(2.05))


def test_compiled_blocks_have_the_same_losses_and_gradients() -> None:
    def trained(**changes: Any) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        joint, config = built("wan", trainable="lora", lora_rank=2, **changes)
        parameters = select_trainable(joint, config)
        losses = joint(*step_inputs(joint, config), config)
        sum(losses.values()).backward()
        return losses | {name: parameter.grad for name, parameter in parameters if parameter.grad is not None}

    torch.compiler.reset()
    plain, compiled = trained(), trained(compile_backend="aot_eager")
    torch.compiler.reset()
    assert plain.keys() == compiled.keys()
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_counted_memory_is_what_the_allocator_gives() -> None:
    joint, config = built("wan", trainable="lora", lora_rank=2)
    batch, draws = step_inputs(joint, config)
    sum(joint(batch, draws, config).values()).backward()  # what is kept for later steps is there before
    counted = measure_step(joint, batch, draws, config).activations
    assert counted == pytest.approx(allocated_peak(joint, batch, draws, config), rel=0.05)


def test_halves_may_read_latents_and_frames_side_by_side() -> None:
    joint, config = built("wan")
    inputs = describe_inputs(joint.pipeline, config)
    frames = torch.rand(3, 5, 3, 16, 16, generator=seeded()) * 2 - 1
    whole = inputs.encode({"frames": frames})["latents"]
    items = [{"latents": whole[0]}, {"frames": frames[1]}, {"latents": whole[2]}]
    batch = inputs.encode(join_items(items))
    assert batch.keys() == {"latents"}
    torch.testing.assert_close(batch["latents"], whole)


@pytest.mark.parametrize("name", NAMES)
def test_captions_are_kept_as_the_generator_embeds_them(name: str, tmp_path: Path) -> None:
    pipe = tiny_generator(name)
    for _ in range(2):
        kept = keep_captions(pipe, TEXTS, tmp_path, 12)
    [file] = tmp_path.iterdir()
    for text in TEXTS:
        expected, *mask = pipe.encode_prompt(text, False, max_sequence_length=12)
        item = caption_item(kept[text], 12)
        if name == "ltx":
            assert torch.equal(item["caption_mask"].bool(), mask[0][0])
        read = item["caption_mask"].bool()
        torch.testing.assert_close(item["caption_embeds"][read], expected[0][read].detach(), atol=2e-3, rtol=1e-3)
        assert name == "ltx" or not expected[0][~read].any()
    before = file.read_bytes()
    file.unlink()
    keep_captions(pipe, TEXTS, tmp_path, 12)
    assert file.read_bytes() == before
    assert kept["another"].text == ""


def call(pipe: WanPipeline) -> tuple[torch.Tensor, ...]:
    """Latents of one sampling, and, of our pipeline, pointmaps."""
    pipe.set_progress_bar_config(disable=True)
    sizes: dict[str, Any] = dict(num_inference_steps=2, output_type="latent")
    if not isinstance(pipe, Jog3rWanPipeline):
        return (pipe("a room", generator=seeded(), **CALLS["wan"], **sizes).frames,)
    sizes |= dict(registration=False, reconstruction_timestep=900)
    output = pipe("a room", generator=seeded(), **CALLS["wan"], **sizes)
    return output.frames, output.pointmaps


def test_lora_is_resumed_saved_loaded_and_fused(tmp_path: Path) -> None:
    tiny_parent("wan").save_pretrained(tmp_path / "init")  # a plain folder of diffusers
    changes: dict[str, Any] = {**vars(options("wan")), "init_from": str(tmp_path / "init"), "model": None, "frozen_blocks": 4}
    changes |= dict(trainable="lora", lora_rank=2, learning_rate=0.05, num_steps=4, sample_steps=1)
    changes |= dict(max_reconstruction_timestep=900, warmup_steps=2, ema_decay=0.9)
    whole = run_here(tmp_path, **changes | dict(output_dir=str(tmp_path / "whole"), sample_every=4))
    assert {path.name for path in (whole / "samples").iterdir()} >= {"step-0000004.png", "captions.txt"}
    halves = changes | dict(output_dir=str(tmp_path / "halves"), sample_every=0)
    run_here(tmp_path, **halves | dict(stop_after_minutes=0.0))
    assert find_checkpoint(tmp_path / "halves").name == "step-0000001"
    run_here(tmp_path, **halves)
    files = [run / "lora" / "pytorch_lora_weights.safetensors" for run in (whole, tmp_path / "halves")]
    layers, resumed = map(load_file, files)
    assert all(torch.equal(value, resumed[key]) for key, value in layers.items()) and layers.keys() == resumed.keys()
    assert all(key.startswith("transformer.") and value.abs().max() > 0 for key, value in layers.items())

    trained = Jog3rWanPipeline.from_pretrained(whole / "pipeline")
    assert trained.makes_cameras and trained.pointmap_head.config.noise_range == [0.0, 0.9]
    assert "Jog3rWanPipeline" in (whole / "lora" / "README.md").read_text()
    expected = call(trained)
    head = Pointmap3DHead.from_pretrained(whole / "lora", subfolder="pointmap_head")
    pipe = Jog3rWanPipeline.from_pretrained(tmp_path / "init", pointmap_head=head)
    plain = call(pipe)[0]
    assert (plain - expected[0]).abs().max() > 1e-3
    parent = WanPipeline.from_pretrained(tmp_path / "init")
    for one in (pipe, parent):
        one.load_lora_weights(whole / "lora")
        for fused in (False, True):
            if fused:
                one.fuse_lora()
            for value, wanted in zip(call(one), expected, strict=one is pipe):
                torch.testing.assert_close(value, wanted, rtol=1e-3, atol=1e-4)
    pipe.unfuse_lora()
    pipe.unload_lora_weights()
    torch.testing.assert_close(call(pipe)[0], plain, rtol=1e-4, atol=1e-5)


def test_of_two_transformers_the_head_reads_that_of_its_time_steps() -> None:
    """As Wan 2.2's 14B: the second one is for little noise."""
    torch.manual_seed(1)
    parts = tiny_parent("wan").components | {"transformer_2": tiny_wan_transformer()}
    pipe = Jog3rWanPipeline(**parts, boundary_ratio=0.875)
    head_alone: dict[str, Any] = dict(trainable="none", generation_batch=0)
    joint, config = built("wan", pipe, **head_alone, max_reconstruction_timestep=200)
    assert joint.transformer is pipe.transformer_2 and all("pointmap_head" in name for name, _ in select_trainable(joint, config))
    calls: list[str] = []
    for name in ("transformer", "transformer_2"):
        getattr(pipe, name).register_forward_hook(lambda *_, name=name: calls.append(name), always_call=True)
    joint(*step_inputs(joint, config), config)["reconstruction"].backward()
    assert calls == ["transformer_2"]
    noisy = dict(min_reconstruction_timestep=900, max_reconstruction_timestep=950)
    assert built("wan", pipe, **head_alone, **noisy)[0].transformer is pipe.transformer
    for changes, message in (
        (head_alone | dict(min_reconstruction_timestep=800, max_reconstruction_timestep=900), "take turns at time step 875"),
        (dict(trainable="lora"), "has two transformers, .*trainable=none and generation_batch=0"),
        (dict(trainable="none"), "has two transformers"),
    ):
        with pytest.raises(ValueError, match=message):
            built("wan", pipe, **changes)


def test_heads_start_fresh_go_on_or_are_warmed_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipe = tiny_generator("wan")
    own = pipe.pointmap_head
    plain = dict(head_width=None, head_layers=None, generation_batch=0, trainable="none")
    joint, _ = built("wan", pipe, **plain, min_reconstruction_timestep=100, max_reconstruction_timestep=300)
    assert joint.pointmap_head is own and own.config.noise_range == (0.1, 0.3)
    with caplog.at_level("INFO"):
        joint, _ = built("wan", pipe, **plain | dict(head_width=16), feature_layers=(1, 3), head_noise_embedding=True)
    assert "noise_embedding becomes True; feature_layers becomes [1, 3]" in caplog.text
    assert joint.pointmap_head is not own and pipe.pointmap_head is joint.pointmap_head
    own.save_pretrained(tmp_path / "head")
    other = tiny_generator("ltx")
    with caplog.at_level("INFO"):
        joint, _ = built("ltx", other, **plain, head_from=str(tmp_path / "head"))
    assert "fresh: ['norm_features', 'proj_frames', 'proj_in', 'proj_points_anchor'" in caplog.text
    weights, source = joint.pointmap_head.state_dict(), own.state_dict()
    taken = [key for key in weights if "blocks" in key]
    assert taken and all(torch.equal(weights[key], source[key]) for key in taken)
    assert joint.pointmap_head.config.generator == "LTXVideoTransformer3DModel"


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("wan", dict(trainable="temporal"), "have no temporal attention of their own"),
    ("wan", dict(frozen_blocks=2), "frozen_blocks=2 means nothing to model=wan; it is for jog3r"),
    ("wan", dict(variational_bound=True), "variational_bound=True means nothing to model=wan"),
    ("wan", dict(train_text_encoder=True), "embedded once, at the start"),
    ("cogvideox", dict(timestep_sampling="uniform"), "means nothing to model=cogvideox; it is for wan, ltx"),
    ("wan", dict(gradient_checkpointing=True, compile_backend="eager"), "leave gradient_checkpointing or compile_backend out"),
    ("wan", dict(trainable="named"), "trainable=named and trained_parameters belong together"),
    ("wan", dict(trainable="named", trained_parameters=("temporal_attn",)), "no parameter of WanTransformer3DModel is called"),
    ("wan", dict(min_reconstruction_timestep=200), "min_reconstruction_timestep must not be above"),
    ("wan", dict(max_reconstruction_timestep=1000), "must be at most 999"),
    ("wan", dict(num_frames=6), "num_frames must be 1 more than a multiple of 4.*5 or 9"),
    ("ltx", dict(height=48), "48"),
    ("wan", dict(feature_layers=(5,)), "count blocks from 1 to 4"),
    ("wan", dict(reconstruction_batch=0), "head_width, head_layers belongs to the 3D head"),
    ("wan", dict(head_from="nowhere"), "head_width and head_attention are of a fresh head"),
    ("wan", dict(head_from="nowhere", head_width=None), "is no folder of a head or a pipeline"),
    ("jog3r", dict(head_noise_embedding=True), "means nothing to model=jog3r; it is for wan, cogvideox, ltx"),
]


@pytest.fixture(scope="module")
def bare() -> Callable[[str], Any]:
    """Pipelines without a head, each made once; what is refused leaves them so."""
    made: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in made:
            made[name] = tiny_generator(name)
            made[name].pointmap_head = None
        return made[name]

    return get


@pytest.mark.parametrize(("name", "changes", "message"), REFUSED)
def test_what_means_nothing_or_cannot_be_is_refused(name: str, changes: dict, message: str, bare: Callable) -> None:
    kept = {key: value for key, value in dict(head_width=None, head_layers=None).items() if name == "jog3r"}
    with pytest.raises(ValueError, match=message):
        joint, config = (
            built(name, bare("wan" if name == "jog3r" else name), **kept | changes)
            if name != "jog3r"
            else (settings(model="jog3r", **changes), None)
        )
        describe_inputs(joint.pipeline, config)
        select_trainable(joint, config)


def test_folders_tell_what_they_hold(tmp_path: Path, bare: Callable) -> None:
    pipe = bare("wan")
    with pytest.raises(ValueError, match="is a Jog3rWanPipeline: set model=wan, got model=ltx"):
        build_model(pipe, options("ltx"))
    (tmp_path / "model_index.json").write_text('{"_class_name": "CogVideoXPipeline"}')
    config = options("wan", init_from=str(tmp_path), model=None, frozen_blocks=4)
    assert recognise(config).model == "cogvideox"
    (tmp_path / "model_index.json").write_text('{"_class_name": "MochiPipeline"}')
    with pytest.raises(ValueError, match="is a MochiPipeline; training takes"):
        recognise(config)
    encoder, pipe.text_encoder = pipe.text_encoder, None
    with pytest.raises(ValueError, match="has no text_encoder, which embeds the captions"):
        built("wan", pipe)
    pipe.text_encoder = encoder
    pipe.transformer_2 = pipe.transformer
    with pytest.raises(ValueError, match="has two transformers"):
        built("wan", pipe)
    pipe.transformer_2 = None
