"""Pipelines of diffusers' generators with the head: the parent's call bit for bit, what is read on the way, videos, refusals."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FirstBlockCacheConfig,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.callbacks import SDCFGCutoffCallback
from tiny_components import seeded, tiny_head
from tiny_generators import CALLS, OURS, tiny_generator, tiny_parent, tiny_wan_transformer, tiny_wan_vae

from jog3r import Jog3rWanPipeline
from jog3r.models.feature_tap import layout_of
from jog3r.pipelines.long_videos.long_video import reconstruct_long_video

PROMPT = "a red room"
NAMES = list(OURS)
FLOW = dict(prediction_type="flow_prediction", use_flow_sigmas=True)
V = dict(prediction_type="v_prediction", rescale_betas_zero_snr=True, clip_sample=False, timestep_spacing="trailing")
SCHEDULERS: dict[str, list[Callable[[], Any]]] = {
    "wan": [
        lambda: UniPCMultistepScheduler(**FLOW, flow_shift=3.0),
        lambda: FlowMatchEulerDiscreteScheduler(shift=5.0),
        lambda: DPMSolverMultistepScheduler(**FLOW, flow_shift=3.0),
    ],
    "cogvideox": [
        lambda: CogVideoXDDIMScheduler(**V),
        lambda: CogVideoXDPMScheduler(**V),
        lambda: DDIMScheduler(**V),
    ],
    "ltx": [
        lambda: FlowMatchEulerDiscreteScheduler(),
        lambda: FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.1),
        lambda: FlowMatchEulerDiscreteScheduler(stochastic_sampling=True),
    ],
}
WITH_CAMERAS = dict(reconstruction_timestep=800, registration=False)


@pytest.fixture(scope="module")
def parents() -> dict[str, Any]:
    return {name: tiny_parent(name) for name in NAMES}


@pytest.fixture(scope="module")
def pipes() -> dict[str, Any]:
    return {name: tiny_generator(name) for name in NAMES}


def made(pipe: Any, name: str, prompt: Any = PROMPT, **options: Any) -> Any:
    torch.manual_seed(0)  # a stochastic scheduler draws from the global generator
    settings = dict(num_inference_steps=3, output_type="pt", generator=seeded())
    return pipe(prompt, **CALLS[name] | settings | options)


def video(name: str, clips: int = 1) -> torch.Tensor:
    call = CALLS[name]
    return torch.rand(clips, call["num_frames"], 3, call["height"], call["width"], generator=seeded(4))


def watched(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[list[dict], list[tuple]]:
    """Arguments of the transformer's calls, and those of the head's."""
    calls: list[dict] = []
    heads: list[tuple] = []
    transformer = pipe.main_transformer
    hooks = [transformer.register_forward_pre_hook(lambda _, __, kwargs: calls.append(kwargs), with_kwargs=True)]
    hooks.append(pipe.pointmap_head.register_forward_pre_hook(lambda _, args: heads.append(args)))
    monkeypatch.setattr(pipe, "unwatch", lambda: [hook.remove() for hook in hooks], raising=False)
    return calls, heads


def tokens_of(pipe: Any, call: dict, layer: int) -> torch.Tensor:
    """Behind a block in a full pass of its own, read without the tap: (rows, f, N, D)."""
    outputs: list[Any] = []
    transformer = pipe.main_transformer
    block = getattr(transformer, layout_of(transformer).blocks[-1])[layer - 1]
    hook = block.register_forward_hook(lambda _, __, output: outputs.append(output))
    with torch.no_grad():
        transformer(**call)
    hook.remove()
    output = outputs[0][0] if isinstance(outputs[0], tuple) else outputs[0]
    tokens = CALLS_TOKENS[output.shape[1]]
    return output.unflatten(1, tokens)


# tokens of a clip -> (f, N): 2 steps of one token (Wan), 3 of one (CogVideoX), 2 of two (LTX, of 32 x 64)
CALLS_TOKENS = {2: (2, 1), 3: (3, 1), 4: (2, 2)}


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize(("name", "number"), [(name, number) for name in SCHEDULERS for number in range(3)])
def test_frames_are_the_parents_bit_for_bit_with_cameras_and_without(
    parents: dict, pipes: dict, name: str, number: int, guidance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, pipe = parents[name], pipes[name]
    parent.scheduler, pipe.scheduler = SCHEDULERS[name][number](), SCHEDULERS[name][number]()
    expected = made(parent, name, guidance_scale=guidance).frames
    plain = made(pipe, name, guidance_scale=guidance, task="t2v")
    assert torch.equal(plain.frames, expected) and plain.pointmaps is None and len(plain.to_tuple()) == 1
    calls, _ = watched(pipe, monkeypatch)
    with_cameras = made(pipe, name, guidance_scale=guidance, **WITH_CAMERAS)
    pipe.unwatch()
    assert torch.equal(with_cameras.frames, expected)
    passes = 6 if name == "wan" and guidance > 1 else 3
    assert len(calls) == passes  # none is added
    frames, height, width = (CALLS[name][key] for key in ("num_frames", "height", "width"))
    assert with_cameras.pointmaps.shape == (1, frames, height, width, 3)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("name", ["wan", "cogvideox", "ltx"])
def test_features_are_read_at_the_last_step_in_range_without_the_prompt(
    pipes: dict, name: str, guidance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = pipes[name]
    pipe.scheduler = SCHEDULERS[name][0]()
    calls, heads = watched(pipe, monkeypatch)
    output = made(pipe, name, guidance_scale=guidance, **WITH_CAMERAS)
    pipe.unwatch()
    last = float(pipe.scheduler.timesteps[-1])
    assert output.reconstruction_timestep == pytest.approx(last)
    tokens = tokens_of(pipe, calls[-1], pipe.pointmap_head.config.feature_layers[0])  # Wan's last call has the negative prompt
    (
        taps,
        *_,
    ) = heads[0]
    assert torch.equal(taps[0], tokens[:1])
    assert len(tokens) == (2 if guidance > 1 and name != "wan" else 1)


@pytest.mark.parametrize("name", NAMES)
def test_cameras_of_a_video_take_one_pass_that_stops_at_the_tap(pipes: dict, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, frames = pipes[name], video(name, clips=2)
    calls, heads = watched(pipe, monkeypatch)
    ran: list[int] = []
    blocks = getattr(pipe.transformer, layout_of(pipe.transformer).blocks[-1])
    hooks = [block.register_forward_hook(lambda *_, number=number: ran.append(number)) for number, block in enumerate(blocks, 1)]
    options = dict(registration=False, max_sequence_length=8, output_type="pt", reconstruction_timestep=300)
    output = pipe(video=frames, generator=seeded(), **options)
    for hook in hooks:
        hook.remove()
    pipe.unwatch()
    (layer,) = pipe.pointmap_head.config.feature_layers
    assert ran == list(range(1, layer + 1)) and len(calls) == 1
    per_clip = output.pointmaps.shape[:2]
    assert per_clip == frames.shape[:2] and torch.allclose(output.frames, frames, atol=1e-6)
    if name != "cogvideox 1.5":
        assert torch.equal(heads[0][0][0], tokens_of(pipe, calls[0], layer))
    # another caption is another result, and the empty one is what is read without
    texts = pipe.encode_prompt([""] * 2, do_classifier_free_guidance=False, max_sequence_length=8)
    given = {"prompt_embeds": texts[0], **({"prompt_attention_mask": texts[1]} if name == "ltx" else {})}
    again = pipe(video=frames, generator=seeded(), **options | given).pointmaps
    torch.testing.assert_close(again, output.pointmaps, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="prompt_embeds must be of one caption or of 2, one a video, got 3"):
        pipe(video=frames, **options | given | {"prompt_embeds": texts[0][[0, 0, 0]]})
    if name == "ltx":
        with pytest.raises(ValueError, match="prompt_embeds need their prompt_attention_mask"):
            pipe(video=frames, **options, prompt_embeds=texts[0])
    freed: list[int] = []
    monkeypatch.setattr(pipe, "maybe_free_model_hooks", lambda: freed.append(1))
    assert pipe.through_vae(frames).shape[:2] == frames.shape[:2]  # without no_grad around it
    assert freed == [1]  # where parts are offloaded the VAE goes back
    given["prompt_embeds"] = given["prompt_embeds"] + 1
    assert (pipe(video=frames, generator=seeded(), **options | given).pointmaps - output.pointmaps).abs().max() > 1e-2


def test_a_video_is_encoded_as_each_model_expects(pipes: dict) -> None:
    for name in ("wan", "cogvideox", "ltx"):
        pipe, frames = pipes[name], video(name)
        with torch.no_grad():
            raw = pipe.vae.encode(frames.transpose(1, 2) * 2 - 1).latent_dist.mode()
            latents = pipe.encode_video(frames)
            shown = pipe.through_vae(frames, "pt")
        config = pipe.vae.config
        if name == "wan":
            mean, std = (torch.tensor(config[key]).view(1, -1, 1, 1, 1) for key in ("latents_mean", "latents_std"))
            expected = (raw - mean) / std
        elif name == "cogvideox":
            expected = raw * config.scaling_factor
        else:
            expected = pipe._normalize_latents(raw, pipe.vae.latents_mean, pipe.vae.latents_std, config.scaling_factor)
        torch.testing.assert_close(latents, expected)
        with torch.no_grad():
            decoded = pipe.vae.decode(raw, return_dict=False)[0]
        torch.testing.assert_close(shown, pipe.video_processor.postprocess_video(decoded, output_type="pt"), rtol=1e-4, atol=1e-4)


def test_cogvideox_1_5_puts_a_copy_of_the_first_latent_in_front(pipes: dict) -> None:
    pipe = pipes["cogvideox 1.5"]
    latents = torch.randn(1, 4, 3, 2, 2, generator=seeded())
    with torch.no_grad():
        inputs = pipe.transformer_inputs(latents, torch.tensor([300.0]), {"max_sequence_length": 8})
    assert torch.equal(inputs["hidden_states"], torch.cat([latents[:, :, :1], latents], dim=2).transpose(1, 2))
    assert (pipe.frames_per_step, pipe.frame_multiple) == (8, 8)


def test_cameras_come_with_registration_and_lie_in_the_documented_frame(pipes: dict) -> None:
    output = pipes["wan"](video=video("wan"), generator=seeded(), max_sequence_length=8)
    assert output.poses.shape == (1, 5, 4, 4) and output.intrinsics.shape == (1, 5, 3, 3)
    assert torch.equal(output.poses[0, 0], torch.eye(4))
    assert output.frames.shape == (1, 5, 16, 16, 3)  # an array, WanPipeline's default
    assert 0 < output.reconstruction_timestep < 200


def test_wan_2_2_with_a_time_step_for_every_token_and_with_two_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    parent = tiny_parent("wan")
    vae = tiny_wan_vae(patch_size=2, in_channels=12, out_channels=12, scale_factor_spatial=16)
    parts = parent.components | {"vae": vae, "transformer_2": None}
    small = Jog3rWanPipeline(**parts, expand_timesteps=True)
    small.pointmap_head = small.new_head(hidden_dim=16, num_layers=1, num_attention_heads=2, trained=True).eval()
    small.set_progress_bar_config(disable=True)
    assert (small.token_size, small.frames_per_step) == (32, 4)
    calls, heads = watched(small, monkeypatch)
    options = dict(num_frames=5, height=32, width=64, num_inference_steps=2, max_sequence_length=8, **WITH_CAMERAS)
    output = small(PROMPT, output_type="pt", generator=seeded(), **options)
    assert output.pointmaps.shape == (1, 5, 32, 64, 3)
    read = small(video=output.frames, generator=seeded(), max_sequence_length=8, registration=False)
    assert calls[-1]["timestep"].shape == calls[0]["timestep"].shape == (1, 4) and read.pointmaps.isfinite().all()

    torch.manual_seed(9)
    large = Jog3rWanPipeline(**parent.components | {"transformer_2": tiny_wan_transformer()}, boundary_ratio=0.9)
    large.pointmap_head = tiny_generator("wan").pointmap_head
    large.set_progress_bar_config(disable=True)
    ran: list[str] = []
    for name in ("transformer", "transformer_2"):
        getattr(large, name).register_forward_hook(lambda *_, name=name: ran.append(name))
    made(large, "wan", guidance_scale=1.0, reconstruction_timestep=980, registration=False)
    assert ran == ["transformer", "transformer_2", "transformer_2"]
    ran.clear()
    for level, name in ((950, "transformer"), (300, "transformer_2")):
        large(video=video("wan"), reconstruction_timestep=level, max_sequence_length=8, registration=False)
        assert ran.pop() == name


def test_a_head_says_which_blocks_it_reads_at_which_noise_and_is_told_the_level() -> None:
    pipe = tiny_generator("wan", feature_layers=[1, 3], noise_embedding=True, noise_range=(0.5, 0.7))
    torch.nn.init.normal_(pipe.pointmap_head.noise_embedder.linear_2.weight)
    levels: list[Any] = []
    pipe.pointmap_head.register_forward_pre_hook(lambda _, __, kw: levels.append(kw["noise_level"]), with_kwargs=True)
    output = made(pipe, "wan", registration=False)
    assert output.reconstruction_timestep == 600  # visited are 999, 857 and 600
    read = pipe(video=output.frames, max_sequence_length=8, registration=False)
    assert read.reconstruction_timestep == 580 and levels == [0.6, 0.58]


def test_step_caches_are_off_at_the_tapped_step(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny_generator("wan")
    config = FirstBlockCacheConfig(threshold=10.0)  # skips all that it may
    pipe.transformer.enable_cache(config)
    calls, heads = watched(pipe, monkeypatch)
    made(pipe, "wan", guidance_scale=1.0, **WITH_CAMERAS)
    pipe.unwatch()
    assert pipe.transformer._cache_config is config
    pipe.transformer.disable_cache()
    assert torch.equal(heads[0][0][0], tokens_of(pipe, calls[-1], 2))


@pytest.mark.parametrize("name", ["wan", "cogvideox", "ltx"])
def test_callbacks_work_as_in_the_parent_and_an_interruption_before_the_tap_ends_without_cameras(pipes: dict, name: str) -> None:
    pipe, seen = pipes[name], []
    pipe.scheduler = SCHEDULERS[name][0]()

    def on_step_end(owner: Any, step: int, t: Any, tensors: dict) -> dict:
        seen.append((step, sorted(tensors), float(owner.current_timestep) == float(t)))
        owner._interrupt = step == 0 and len(seen) == 1
        return tensors

    names = ["latents", "prompt_embeds"]
    options = dict(callback_on_step_end=on_step_end, callback_on_step_end_tensor_inputs=names, **WITH_CAMERAS)
    output = made(pipe, name, **options)
    assert seen == [(0, names, True)] and output.pointmaps is None
    assert made(pipe, name, **options).pointmaps is not None and len(seen) == 4
    assert pipe._step_tap is None and not any(module._forward_hooks for module in pipe.transformer.modules())


def test_guidance_that_a_callback_ends_leaves_the_geometry_of_all_clips() -> None:
    pipe = tiny_generator("ltx", noise_range=(0.0, 0.3))  # read at the last step
    pipe.scheduler = SCHEDULERS["ltx"][0]()
    options = WITH_CAMERAS | {"guidance_scale": 3.0, "callback_on_step_end": SDCFGCutoffCallback(cutoff_step_ratio=0.4)}
    output = made(pipe, "ltx", **options, callback_on_step_end_tensor_inputs=["prompt_embeds"])
    assert len(output.frames) == len(output.pointmaps) == 1


def test_what_diffusers_expects_of_a_pipeline(parents: dict, pipes: dict) -> None:
    """The checks of diffusers' own tests that hold for the parents: signature, batches, several videos, tuples, precision."""
    for name in ("wan", "cogvideox", "ltx"):
        parent, pipe = parents[name], pipes[name]
        parent.scheduler, pipe.scheduler = SCHEDULERS[name][0](), SCHEDULERS[name][0]()
        theirs, ours = (inspect.signature(type(owner).__call__).parameters for owner in (parent, pipe))
        assert list(ours)[: len(theirs)] == list(theirs) and all(ours[key] == theirs[key] for key in theirs)
        added = ["task", "video", "reconstruction_timestep", "registration", "registration_kwargs"]
        assert list(ours)[len(theirs) :] == added
        assert pipe._callback_tensor_inputs == parent._callback_tensor_inputs
        assert set(pipe.components) == {*parent.components, "pointmap_head"}
        options: dict[str, Any] = dict(guidance_scale=3.0, **WITH_CAMERAS)
        generators = [seeded(0), seeded(1)]
        both = made(pipe, name, [PROMPT, "a blue chair"], **options | {"generator": generators})
        alone = made(pipe, name, "a blue chair", **options | {"generator": seeded(1)})
        torch.testing.assert_close(both.frames[1], alone.frames[0], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(both.pointmaps[1], alone.pointmaps[0], rtol=1e-3, atol=1e-3)
        assert isinstance(made(pipe, name, **options, return_dict=False), tuple)
        if name != "cogvideox":  # which makes one
            assert len(made(pipe, name, num_videos_per_prompt=2, **options).pointmaps) == 2
        assert made(pipe, name, output_type="pil", task="t2v").frames[0][0].size == (CALLS[name]["width"], CALLS[name]["height"])
        latents = made(pipe, name, output_type="latent", **options)
        assert torch.equal(latents.frames, made(parent, name, output_type="latent", guidance_scale=3.0).frames)
        assert latents.pointmaps.shape[1] == CALLS[name]["num_frames"]


def test_half_precision_and_offloading_of_groups() -> None:
    pipe = tiny_generator("wan").to(torch.bfloat16)
    output = made(pipe, "wan", **WITH_CAMERAS)
    assert output.pointmaps.dtype == torch.float32 and output.pointmaps.isfinite().all()
    pipe = tiny_generator("ltx")
    expected = made(pipe, "ltx", **WITH_CAMERAS)
    cpu = torch.device("cpu")
    for part in (pipe.transformer, pipe.pointmap_head):
        part.enable_group_offload(onload_device=cpu, offload_device=cpu, offload_type="leaf_level")
    assert torch.equal(made(pipe, "ltx", **WITH_CAMERAS).pointmaps, expected.pointmaps)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("wan", {"num_frames": 6}, "1 more than a multiple of 4.*got 6; the nearest are 5 or 9"),
        ("wan", {"num_frames": 1}, "got 1; the nearest are 5"),
        ("cogvideox", {"num_frames": 13}, "multiple of 8.*got 13; the nearest are 9 or 17"),
        ("ltx", {"num_frames": 12}, "multiple of 8.*got 12; the nearest are 9 or 17"),
        ("ltx", {"width": 48}, "multiples of 32 pixels .*got 32x48; the nearest sizes are 32x32 or 32x64"),
        ("wan", {"height": 24}, "multiples of 16 pixels .*got 24x16"),
        ("wan", {"reconstruction_timestep": 1000}, "reconstruction_timestep must .*got 1000"),
        ("wan", {"registration_kwargs": {"speed": 1}, "registration": True}, "registration_kwargs may name"),
        ("wan", {"task": "v2t"}, "task must be one of"),
        ("wan", {"task": "v2c"}, "only a prompt is given"),
        ("wan", {"task": "t2v"}, 'task "t2v" has no use for reconstruction_timestep'),
    ],
)
def test_calls_that_cannot_work_are_refused(pipes: dict, name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(pipes[name], name, **WITH_CAMERAS | options)


@pytest.mark.parametrize("name", NAMES)
def test_noise_may_be_given_and_must_be_that_of_the_video_asked_for(
    pipes: dict, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, given = pipes[name], []
    prepare = pipe.prepare_latents
    monkeypatch.setattr(pipe, "prepare_latents", lambda *args, **kwargs: given.append(prepare(*args, **kwargs)) or given[-1])
    expected = made(pipe, name, **WITH_CAMERAS).pointmaps
    torch.testing.assert_close(made(pipe, name, latents=given[0], **WITH_CAMERAS).pointmaps, expected, rtol=1e-4, atol=1e-4)
    del given[1:]
    for wrong in (given[0][:, :-1], torch.cat([given[0]] * 2, -2), torch.cat([given[0]] * 2, -1)):
        with pytest.raises(ValueError, match=r"latents of \d+ frames of \d+ x \d+ pixels have the shape .*got \("):
            made(pipe, name, latents=wrong, **WITH_CAMERAS)
    assert len(given) == 1


@torch.compiler.set_stance("force_eager")  # wrapped, and not traced, which takes seconds
def test_compiled_models_are_what_they_were() -> None:
    pipe = tiny_generator("wan")
    expected = made(pipe, "wan", **WITH_CAMERAS).pointmaps
    pipe.transformer = torch.compile(pipe.transformer, backend="eager")
    torch.testing.assert_close(made(pipe, "wan", **WITH_CAMERAS).pointmaps, expected, rtol=1e-4, atol=1e-4)
    assert pipe.new_head().config.generator == "WanTransformer3DModel"


def test_a_schedule_without_a_step_in_range_is_refused_before_anything_is_denoised(
    pipes: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = pipes["wan"]
    pipe.scheduler = SCHEDULERS["wan"][0]()
    calls, _ = watched(pipe, monkeypatch)
    with pytest.raises(ValueError, match=r"\[0, 200\], but UniPC.* visits t = 999, 857, 600; .*reconstruction_timestep=600"):
        made(pipe, "wan")
    assert not calls and pipe._step_tap is None
    pipe.unwatch()


def test_videos_that_do_not_fit_are_refused(pipes: dict) -> None:
    short = dict(max_sequence_length=8, registration=False)
    with pytest.raises(ValueError, match="multiple of 4.*got 16; the nearest are 13 or 17"):
        pipes["wan"](video=torch.rand(16, 16, 16, 3), **short)
    with pytest.raises(ValueError, match="multiples of 32 pixels"):
        pipes["ltx"](video=torch.rand(9, 40, 64, 3), **short)
    with pytest.raises(ValueError, match="no use for negative_prompt, num_inference_steps; it reads the video"):
        pipes["ltx"](video=video("ltx"), num_inference_steps=3, negative_prompt="", **short)
    with pytest.raises(ValueError, match="both height and width"):
        pipes["wan"](video=video("wan"), height=16, **short)
    with pytest.raises(ValueError, match="output_type must be one of .*got 'gif'"):
        pipes["wan"](video=video("wan"), output_type="gif", **short)
    with pytest.raises(ValueError, match="both a prompt and a video"):
        pipes["wan"](PROMPT, video=video("wan"), **short)
    with pytest.raises(TypeError, match="unexpected keyword argument 'cameras'"):
        pipes["wan"](PROMPT, cameras=True)


def test_a_head_that_is_missing_untrained_or_of_another_generator_is_refused_by_name(caplog: pytest.LogCaptureFixture) -> None:
    pipe = tiny_generator("wan")
    good = dict(pipe.pointmap_head.config)
    heads = [
        (None, 'task "t2v.c" needs the pointmap head, .*jog3r generate'),
        (tiny_generator("wan", trained=False).pointmap_head, "is not trained: .* mean nothing; .*tracks"),
        (
            tiny_generator("ltx").pointmap_head,
            "made for LTXVideoTransformer3DModel, but this generator is a WanTransformer3DModel",
        ),
        (tiny_head(feature_dim=16, patch_size=16, frames_per_step=4, feature_layers=[1]), "feature_dim=16, .* has 24 channels"),
        (tiny_head(feature_dim=24, patch_size=8, frames_per_step=4, feature_layers=[1]), "patch_size=8, .* has 16 pixels"),
        (tiny_head(feature_dim=24, patch_size=16, frames_per_step=8, feature_layers=[1]), "frames_per_step=8, .* has 4 frames"),
        (tiny_head(feature_dim=24, patch_size=16, frames_per_step=4), "does not say which blocks it reads"),
        (tiny_head(feature_dim=24, patch_size=16, frames_per_step=4, feature_layers=[9]), "reads block 9, .* has 4"),
    ]
    for head, message in heads:
        pipe.pointmap_head = head
        with pytest.raises(ValueError, match=message):
            made(pipe, "wan", task="t2v+c")
        with pytest.raises(ValueError, match=message.replace("t2v.c", "v2c")):
            pipe(video=video("wan"))
    for head in (None, heads[1][0]):  # not asked for cameras it makes the video, and says so once
        pipe.pointmap_head, pipe._told = head, False
        caplog.clear()
        assert made(pipe, "wan").pointmaps is None and made(pipe, "wan").frames.shape == (1, 5, 3, 16, 16)
        assert caplog.text.count("no trained 3D head") == 1
    assert good["feature_layers"] == [2]


@pytest.mark.parametrize("name", ["wan", "cogvideox", "ltx"])
def test_the_caption_of_videos_can_be_encoded_once(pipes: dict, name: str) -> None:
    pipe, options = pipes[name], dict(registration=False, reconstruction_timestep=300)
    caption = pipe.caption_of_videos()
    assert list(caption) == ["prompt_embeds", "prompt_attention_mask"][: 2 if name == "ltx" else 1]
    given, plain = (pipe(video=video(name), generator=seeded(), **options, **more).pointmaps for more in (caption, {}))
    torch.testing.assert_close(given, plain, rtol=1e-4, atol=1e-4)


def test_texts_without_their_encoder_are_refused_and_embeddings_do(pipes: dict) -> None:
    whole = pipes["ltx"]
    embeds, mask, *_ = whole.encode_prompt(PROMPT, do_classifier_free_guidance=False, max_sequence_length=8)
    pipe = type(whole)(**whole.components | {"text_encoder": None})
    pipe.set_progress_bar_config(disable=True)
    with pytest.raises(ValueError, match="no text_encoder: pass prompt_embeds"):
        made(pipe, "ltx", task="t2v")
    with pytest.raises(ValueError, match="no text_encoder: pass prompt_embeds"):
        pipe(video=video("ltx"))
    with pytest.raises(ValueError, match="windows are read with the empty caption"):
        reconstruct_long_video(pipe, video("ltx")[0], window=9, overlap=1)
    given = dict(prompt_embeds=embeds, prompt_attention_mask=mask)
    for task in ("t2v", "t2v+c"):
        with pytest.raises(ValueError, match="guidance needs negative_prompt_embeds: pass them, or guidance_scale=1"):
            made(pipe, "ltx", None, task=task, guidance_scale=3.0, **given)
    assert pipe(video=video("ltx"), registration=False, **given).pointmaps.isfinite().all()
    output = made(pipe, "ltx", None, guidance_scale=1.0, **given, **WITH_CAMERAS)
    expected = made(whole, "ltx", guidance_scale=1.0, **WITH_CAMERAS).pointmaps
    torch.testing.assert_close(output.pointmaps, expected, rtol=1e-4, atol=1e-4)
