"""The three tasks on a tiny random model: what they return, what is free, what is repeatable."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, FasterCacheConfig, FirstBlockCacheConfig, PyramidAttentionBroadcastConfig
from tiny_components import MAX_LENGTH, PROMPT, seeded, tiny_head, tiny_pipeline, tiny_transformer, tiny_vae

from jog3r import Jog3rPipelineOutput
from jog3r.export.scene import Scene
from jog3r.pipelines.captions import CaptionBatch, null_captions
from jog3r.pipelines.latents import (
    decode_frames,
    default_chunk_size,
    denormalise_latents,
    encode_frames,
    normalise_latents,
    vae_scale_factor,
)

FAST = dict(num_inference_steps=4, output_type="latent")


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


def test_t2v_with_cameras_returns_all_fields_with_their_shapes(pipe):
    output = pipe(PROMPT, num_inference_steps=4, generator=seeded())
    assert isinstance(output, Jog3rPipelineOutput)
    assert len(output.frames) == 1 and len(output.frames[0]) == 4 and output.frames[0][0].size == (16, 16)
    shapes = {"pointmaps": (16, 16, 3), "confidence": (16, 16), "depth": (16, 16), "poses": (4, 4), "intrinsics": (3, 3)}
    for name, shape in shapes.items():
        assert output[name].shape == (1, 4, *shape) and output[name].dtype == torch.float32
    torch.testing.assert_close(output.poses[:, 0], torch.eye(4)[None])
    seen = output.confidence[0, 0] > 0
    torch.testing.assert_close(output.pointmaps[0, 0].norm(dim=-1)[seen].mean(), torch.tensor(1.0))
    assert output.pairwise.pointmaps.shape == (1, 3, 16, 16, 3) and len(output.registration) == 1


def test_an_untrained_head_is_told_of_once_and_where_it_matters(caplog):
    pipe = tiny_pipeline(pointmap_head=tiny_head(trained=False))
    pipe(PROMPT, task="t2v", generator=seeded(), **FAST)
    assert not caplog.records
    for _ in range(2):
        pipe(video=torch.rand(2, 16, 16, 3), registration=False)
        tiny_pipeline()(video=torch.rand(2, 16, 16, 3), registration=False)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "poses, cameras and pointmaps of this model mean nothing" in caplog.text


def test_cameras_cost_no_pass_and_no_pixel(pipe):
    passes = []
    hook = pipe.transformer.register_forward_hook(lambda *_: passes.append(1))
    with_cameras = pipe(PROMPT, generator=seeded(), **FAST)
    assert len(passes) == 4
    without = pipe(PROMPT, task="t2v", generator=seeded(), **FAST)
    hook.remove()
    assert len(passes) == 8 and torch.equal(with_cameras.frames, without.frames)
    assert all(without[name] is None for name in ("pointmaps", "poses", "depth") if name in without) and without.poses is None


def test_features_are_those_of_the_last_step_in_range(pipe):
    seen = []

    def note(module, args, kwargs, output):
        seen.append((kwargs["timestep"][0].item(), output.features))

    hook = pipe.transformer.register_forward_hook(note, with_kwargs=True)
    output = pipe(PROMPT, num_inference_steps=100, output_type="latent", generator=seeded(), registration=False)
    hook.remove()
    assert [t for t, features in seen if features is not None] == [0] == [output.reconstruction_timestep]


def test_guided_features_are_the_unconditional_half(pipe):
    seen = []
    pipe.pointmap_head.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    noise = torch.randn(1, 4, 4, 4, 4)
    for prompt in (PROMPT, "a red chair"):
        pipe(prompt, latents=noise, num_inference_steps=1, output_type="latent", registration=False)
    pipe.pointmap_head._forward_pre_hooks.clear()
    # one step from the same noise: the null half differs by the number of tokens that it may see only
    mask = torch.ones(1, MAX_LENGTH)
    pipe.pointmap_head.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    for prompt in (PROMPT, "a red chair"):
        embeds, prompt_mask, _, _ = pipe.encode_prompt(prompt)
        null = pipe.transformer.null_caption[None]
        pipe(
            prompt_embeds=embeds,
            prompt_attention_mask=prompt_mask,
            negative_prompt_embeds=null,
            negative_prompt_attention_mask=mask,
            latents=noise,
            num_inference_steps=1,
            output_type="latent",
            registration=False,
        )
    pipe.pointmap_head._forward_pre_hooks.clear()
    assert seen[0].shape[0] == 1 and not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[2], seen[3])


def test_same_seed_same_video_and_cameras(pipe):
    first, second = (pipe(PROMPT, num_inference_steps=4, output_type="pt", generator=seeded(3)) for _ in range(2))
    assert torch.equal(first.frames, second.frames) and torch.equal(first.poses, second.poses)
    other = pipe(PROMPT, num_inference_steps=4, output_type="pt", generator=seeded(4))
    assert not torch.equal(first.frames, other.frames)


def test_a_list_of_generators_makes_each_clip_independent_of_the_batch(pipe):
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    batch = pipe([PROMPT, "a red chair"], generator=[seeded(1), seeded(2)], registration=False, **FAST)
    alone = pipe("a red chair", generator=seeded(2), registration=False, **FAST)
    torch.testing.assert_close(batch.frames[1:], alone.frames, rtol=1e-4, atol=1e-4)
    twice = pipe(PROMPT, num_videos_per_prompt=2, generator=[seeded(1), seeded(1)], registration=False, **FAST)
    assert twice.frames.shape[0] == 2
    torch.testing.assert_close(twice.frames[0], twice.frames[1])
    torch.testing.assert_close(twice.frames[0], batch.frames[0], rtol=1e-4, atol=1e-4)


def test_embeddings_replace_prompt_and_text_encoder(pipe):
    with torch.no_grad():
        embeds = pipe.encode_prompt([PROMPT, "a chair"], negative_prompt="red")
    names = ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask")
    assert [tuple(value.shape) for value in embeds] == [(2, MAX_LENGTH, 16), (2, MAX_LENGTH)] * 2
    bare = tiny_pipeline(text_encoder=None, tokenizer=None)
    by_text = tiny_pipeline()([PROMPT, "a chair"], negative_prompt="red", task="t2v", generator=seeded(), **FAST)
    by_embeds = bare(**dict(zip(names, embeds, strict=True)), task="t2v", generator=seeded(), **FAST)
    assert torch.equal(by_text.frames, by_embeds.frames)
    with pytest.raises(ValueError, match="pass prompt_embeds"):
        bare(PROMPT)


def test_embeddings_of_other_lengths_and_one_negative_for_all_fit(pipe):
    run = lambda **kwargs: pipe(task="t2v", generator=seeded(), **FAST, **kwargs).frames
    embeds, mask, _, _ = pipe.encode_prompt([PROMPT, "a chair"])
    length = int(mask.sum(1).max())
    assert length < MAX_LENGTH
    trimmed = dict(prompt_embeds=embeds[:, :length], prompt_attention_mask=mask[:, :length])
    close = lambda actual, expected: torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    close(run(**trimmed, negative_prompt="red"), run(prompt=[PROMPT, "a chair"], negative_prompt="red"))
    null = pipe.transformer.null_caption[None]
    one = run(**trimmed, negative_prompt_embeds=null)
    close(one, run(**trimmed, negative_prompt_embeds=null.expand(2, -1, -1)))
    assert not torch.allclose(one, run(**trimmed))  # that attends to as many tokens as the prompt has
    both = dict(num_videos_per_prompt=2, negative_prompt_embeds=null, negative_prompt_attention_mask=torch.ones(1, MAX_LENGTH))
    close(run(**trimmed, **both), run(prompt=[PROMPT, "a chair"], **both))


def test_captions_are_read_in_lower_case_and_cleaned_on_request(pipe):
    pytest.importorskip("ftfy")
    pytest.importorskip("bs4")
    plain = pipe.encode_prompt(PROMPT)[0]
    assert torch.equal(plain, pipe.encode_prompt(f"  {PROMPT.upper()} ")[0])
    messy = "a room &amp;amp; with <b>blue</b> walls"
    assert not torch.equal(pipe.encode_prompt(messy)[0], pipe.encode_prompt(messy, clean_caption=True)[0])


def test_one_clip_of_the_output_makes_a_scene(pipe):
    video = torch.rand(2, 3, 16, 16, 3)
    fields = pipe(video=video, generator=seeded()).clip(1)
    scene = Scene(**fields, fps=8.0)
    assert scene.num_frames == 3 and scene.size == (16, 16)
    with pytest.raises(ValueError, match="no cameras"):
        pipe(PROMPT, task="t2v", **FAST).clip()


def test_null_caption_attends_to_as_many_tokens_as_the_prompt(pipe):
    _, mask, negative, negative_mask = pipe.encode_prompt([PROMPT, "a chair"])
    assert torch.equal(mask, negative_mask) and mask.sum(1).tolist() == [6, 3]
    assert torch.equal(negative[0], pipe.transformer.null_caption)
    assert pipe.encode_prompt(PROMPT, do_classifier_free_guidance=False)[2:] == (None, None)


def test_prompt_guidance_and_negative_prompt_matter(pipe):
    run = lambda **kwargs: pipe(**{"prompt": PROMPT, "task": "t2v", "generator": seeded(), **FAST, **kwargs}).frames
    plain = run()
    for change in ({"prompt": "a red chair"}, {"guidance_scale": 1.0}, {"guidance_scale": 5.0}, {"negative_prompt": "red"}):
        assert not torch.equal(plain, run(**change)), change


def test_guidance_channels_leave_the_others_to_the_prompt(pipe):
    captions = _captions(pipe)
    pipe._guidance_scale = 7.0
    latents, t = torch.randn(1, 4, 4, 4, 4), torch.tensor(500)
    full, _ = pipe.predict_noise(latents, t, captions)
    three, _ = pipe.predict_noise(latents, t, captions, guidance_channels=3)
    pipe._guidance_scale = 1.0
    conditional, _ = pipe.predict_noise(latents, t, captions)
    torch.testing.assert_close(three[:, :3], full[:, :3])
    torch.testing.assert_close(three[:, 3:], conditional[:, 3:], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(full[:, 3], conditional[:, 3])


def _captions(pipe):
    return CaptionBatch(*pipe.encode_prompt(PROMPT))


def test_tokens_that_nobody_attends_to_are_left_out(pipe):
    embeds, mask, null, _ = pipe.encode_prompt(PROMPT)
    one = CaptionBatch(embeds, mask, null, mask).current(True)
    assert one[0].shape == (2, int(mask.sum()), 16) and one[1] is None
    two = CaptionBatch(*pipe.encode_prompt([PROMPT, "a chair"])).current(True)
    assert two[0].shape == (4, MAX_LENGTH, 16) and two[1].sum(1).tolist() == [6, 3, 6, 3]
    latents = torch.randn(2, 4, 4, 4, 4)
    arguments = dict(timestep=torch.tensor([500, 500]), encoder_hidden_states=torch.cat([null, embeds]))
    masked = pipe.transformer(latents, encoder_attention_mask=torch.cat([mask, mask]), **arguments).sample
    short = pipe.transformer(latents, **arguments | {"encoder_hidden_states": one[0]}).sample
    torch.testing.assert_close(short, masked, rtol=1e-5, atol=1e-5)


def test_v2c_is_one_pass_that_stops_at_the_tap(pipe):
    blocks = []
    for index, block in enumerate(pipe.transformer.transformer_blocks):
        block.register_forward_hook(lambda *_, index=index: blocks.append(index))
    video = (torch.rand(5, 16, 24, 3, generator=seeded()) * 255).byte()
    output = pipe(video=video, generator=seeded(), output_type="np")
    for block in pipe.transformer.transformer_blocks:
        block._forward_hooks.clear()
    assert blocks == [0, 1]
    assert output.poses.shape == (1, 5, 4, 4) and output.depth.shape == (1, 5, 16, 24)
    np.testing.assert_array_equal((output.frames[0] * 255).round().astype(np.uint8), video.numpy())


def test_v2c_in_both_directions_is_the_video_and_the_video_backwards(pipe):
    video, noise = torch.rand(4, 16, 16, 3, generator=seeded()), seeded(3)
    output = pipe(video=video, generator=seeded(3), both_directions=True, output_type="pt")
    assert output.pairwise.pairs.tolist() == [[0, 1], [0, 2], [0, 3], [3, 2], [3, 1], [3, 0]]
    assert output.poses.shape == (1, 4, 4, 4) and output.frames.shape == (1, 4, 3, 16, 16)
    halves = [pipe(video=clip, generator=noise, registration=False).pairwise for clip in (video, video.flip(0))]
    for name in ("anchor_pointmaps", "anchor_confidence", "pointmaps", "confidence"):
        expected = torch.cat([getattr(half, name) for half in halves], dim=1)
        torch.testing.assert_close(getattr(output.pairwise, name), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="it needs task \"v2c\" and registration, got task 't2v\\+c'"):
        pipe(PROMPT, both_directions=True)
    with pytest.raises(ValueError, match="registration=False"):
        pipe(video=video, both_directions=True, registration=False)


def test_v2c_of_a_batch_resized(pipe):
    video = torch.rand(2, 3, 3, 30, 20, generator=seeded())
    output = pipe(video=video, height=24, width=16, generator=[seeded(0), seeded(1)], output_type="pt")
    assert output.frames.shape == (2, 3, 3, 24, 16) and output.intrinsics.shape == (2, 3, 3, 3)
    assert pipe(video=video[0], height=24, width=16, output_type="latent", registration=False).frames.shape == (1, 4, 3, 6, 4)


def test_without_registration_the_heads_pointmaps_are_merged(pipe):
    output = pipe(video=torch.rand(3, 16, 16, 3), registration=False)
    assert output.poses is None and output.intrinsics is None and output.depth is None
    scale = output.pairwise.pointmaps[0, 0] / output.pointmaps[0, 1]
    torch.testing.assert_close(scale, scale.mean().expand_as(scale), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(output.pointmaps[0, 0].norm(dim=-1).mean(), torch.tensor(1.0))


def test_registration_options_reach_the_solver(pipe):
    video = torch.rand(3, 16, 16, 3)
    output = pipe(video=video, registration_kwargs={"focal_px": 20.0})
    torch.testing.assert_close(output.intrinsics[0, :, 0, 0], torch.full((3,), 20.0))


def test_global_head(pipe):
    pipe = tiny_pipeline(pointmap_head=tiny_head(attention="global"))
    assert pipe(video=torch.rand(3, 16, 16, 3)).poses.shape == (1, 3, 4, 4)


def test_output_types_and_tuple(pipe):
    arguments = dict(task="t2v", num_inference_steps=2)
    array = pipe(PROMPT, generator=seeded(), output_type="np", **arguments).frames
    tensor = pipe(PROMPT, generator=seeded(), output_type="pt", **arguments).frames
    assert array.shape == (1, 4, 16, 16, 3) and tensor.shape == (1, 4, 3, 16, 16)
    np.testing.assert_allclose(array, tensor.permute(0, 1, 3, 4, 2).numpy())
    as_tuple = pipe(PROMPT, generator=seeded(), output_type="pt", return_dict=False, **arguments)
    assert isinstance(as_tuple, tuple) and torch.equal(as_tuple[0], tensor)


def test_step_caches_do_not_touch_the_tapped_features():
    pipe = tiny_pipeline()
    arguments = dict(num_inference_steps=1, output_type="latent", registration=False)
    plain = pipe(PROMPT, generator=seeded(), **arguments)
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=10.0))
    cached = pipe(PROMPT, generator=seeded(), **arguments)
    assert torch.equal(plain.pairwise.pointmaps, cached.pairwise.pointmaps)
    kwargs = dict(num_inference_steps=12, output_type="latent", registration=False)
    geometry = pipe(PROMPT, generator=seeded(), **kwargs)
    assert torch.equal(geometry.frames, pipe(PROMPT, task="t2v", generator=seeded(), **kwargs).frames)
    assert pipe.transformer.is_cache_enabled  # as the user left it
    video = torch.rand(3, 16, 16, 3)
    with_cache = pipe(video=video, generator=seeded(), registration=False)
    pipe.transformer.disable_cache()
    assert torch.equal(with_cache.pointmaps, pipe(video=video, generator=seeded(), registration=False).pointmaps)


@pytest.mark.parametrize(("kind", "layer"), [("spatial", "spatial_attn"), ("temporal", "temporal_attn"), ("cross", "cross_attn")])
def test_pyramid_attention_broadcast_skips_the_attention_that_is_named(kind, layer):
    pipe = tiny_pipeline()
    settings = {f"{kind}_attention_block_skip_range": 2, f"{kind}_attention_timestep_skip_range": (-1, 1001)}
    if kind != "cross":  # diffusers' own names are of models with a tower for each
        settings[f"{kind}_attention_block_identifiers"] = (layer,)
    config = PyramidAttentionBroadcastConfig(**settings, current_timestep_callback=lambda: pipe.current_timestep)
    calls = dict.fromkeys(("spatial_attn", "temporal_attn", "cross_attn"), 0)

    for name in calls:
        getattr(pipe.transformer.transformer_blocks[0], name).to_q.register_forward_hook(
            lambda *_, name=name: calls.update({name: calls[name] + 1})
        )
    pipe.transformer.enable_cache(config)
    assert torch.isfinite(pipe(PROMPT, task="t2v", guidance_scale=1.0, generator=seeded(), **FAST).frames).all()
    assert calls[layer] < 4 and all(number == 4 for name, number in calls.items() if name != layer)


def test_faster_cache_leaves_out_attention_and_the_null_caption_of_some_steps():
    pipe, clips, layers = tiny_pipeline(), [], []
    config = FasterCacheConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, 1001),
        unconditional_batch_skip_range=2,
        unconditional_batch_timestep_skip_range=(-1, 1001),
        low_frequency_weight_update_timestep_range=(99, 901),
        high_frequency_weight_update_timestep_range=(-1, 301),
        tensor_format="BCFHW",
        attention_weight_callback=lambda _: 0.3,
        current_timestep_callback=lambda: pipe.current_timestep,
    )
    pipe.transformer.enable_cache(config)
    block = pipe.transformer.transformer_blocks[0]
    block.register_forward_pre_hook(lambda _, given: clips.append(given[0].shape[0]))
    block.spatial_attn.to_q.register_forward_hook(lambda *_: layers.append(1))
    for _ in range(2):  # the state of one call is not the next one's; the last step is the tapped one, never cached
        for prompt in (PROMPT, [PROMPT, "a room"]):  # one length, and two, which need a mask
            assert torch.isfinite(
                pipe(prompt, task="t2v", output_type="latent", generator=seeded(), num_inference_steps=4).frames
            ).all()
    assert clips == [2, 1, 2, 2, 4, 2, 4, 4] * 2 and len(layers) < len(clips)
    with pytest.raises(ValueError, match="set guidance_scale above 1, or FasterCacheConfig"):
        pipe(PROMPT, task="t2v", guidance_scale=1.0, num_inference_steps=2)
    video = torch.rand(3, 16, 16, 3)
    assert torch.isfinite(pipe(video=video, registration=False).pointmaps).all()


def test_latents_are_normalised_channel_by_channel_and_back():
    vae = tiny_vae()
    raw = torch.randn(2, 4, 3, 2, 2)
    latents = normalise_latents(vae, raw)
    torch.testing.assert_close(latents[:, 1], (raw[:, 1] + 0.1) / 0.5)
    torch.testing.assert_close(denormalise_latents(vae, latents), raw)
    vae.register_to_config(latents_mean=None, latents_std=None, scaling_factor=0.18215, shift_factor=0.5)
    torch.testing.assert_close(normalise_latents(vae, raw), (raw - 0.5) * 0.18215)


def test_chunks_slicing_and_tiling_do_not_change_the_frames():
    pipe = tiny_pipeline()
    frames = torch.rand(1, 5, 3, 16, 16) * 2 - 1
    whole, chunked = encode_frames(pipe.vae, frames, 5), encode_frames(pipe.vae, frames, 2)
    torch.testing.assert_close(whole, chunked)
    decoded = decode_frames(pipe.vae, whole, 2)
    pipe.vae.enable_slicing()
    pipe.vae.enable_tiling()
    torch.testing.assert_close(decode_frames(pipe.vae, whole, 5), decoded)


def test_chunks_shrink_as_frames_grow():
    assert [default_chunk_size(side, side) for side in (16, 256, 512, 1024, 4096)] == [16, 16, 4, 1, 1]
    pipe, seen = tiny_pipeline(), []
    hook = pipe.vae.decoder.register_forward_hook(lambda _, arguments, __: seen.append(arguments[0].shape[0]))
    decode_frames(pipe.vae.to("meta"), torch.empty(1, 4, 3, 128, 256, device="meta"))  # 512 x 1024 pixels
    hook.remove()
    assert seen == [2, 1]


def test_the_head_runs_before_the_vae_for_offloading_in_that_order(pipe):
    order = []
    hooks = [
        part.register_forward_hook(lambda *_, name=name: order.append(name))
        for name, part in (("head", pipe.pointmap_head), ("vae", pipe.vae.decoder))
    ]
    pipe(PROMPT, generator=seeded(), num_inference_steps=4, registration=False)
    for hook in hooks:
        hook.remove()
    assert order == ["head", "vae"]


def test_a_tiny_autoencoder_serves_as_vae():
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
        latent_channels=4,
    ).eval()
    assert vae_scale_factor(vae) == 4
    pipe = tiny_pipeline(vae=vae)
    output = pipe(PROMPT, num_inference_steps=2, output_type="pt", generator=seeded())
    assert output.frames.shape == (1, 4, 3, 16, 16)
    assert pipe(video=output.frames, generator=seeded()).poses.shape == (1, 4, 4, 4)


def test_half_precision_inside_float32_outside():
    pipe = tiny_pipeline().to(torch.bfloat16)
    output = pipe(PROMPT, num_inference_steps=2, output_type="pt", generator=seeded())
    assert output.pointmaps.dtype == output.poses.dtype == torch.float32 and torch.isfinite(output.poses).all()


def test_null_caption_is_found_when_its_weights_are_offloaded():
    # only the null caption: accelerate itself cannot run a whole model offloaded from the CPU to the CPU
    pipe = tiny_pipeline()
    plain = null_captions(pipe.transformer, 2, torch.device("cpu"))
    pipe.enable_sequential_cpu_offload(device="cpu")
    assert pipe.transformer.null_caption.is_meta
    assert torch.equal(plain, null_captions(pipe.transformer, 2, torch.device("cpu")))


def test_other_sizes_and_lengths_than_the_models(pipe):
    output = pipe(PROMPT, num_frames=6, height=16, width=32, num_inference_steps=2, generator=seeded())
    assert output.pointmaps.shape == (1, 6, 16, 32, 3)


def test_single_frame_video_without_cameras(pipe):
    assert pipe(PROMPT, task="t2v", num_frames=1, **FAST).frames.shape == (1, 4, 1, 4, 4)


def test_lora_layers_load_scale_fuse_and_unload(tmp_path):
    peft = pytest.importorskip("peft")
    pipe = tiny_pipeline()
    run = lambda **kwargs: pipe(PROMPT, task="t2v", generator=seeded(), **FAST, **kwargs).frames
    plain = run()
    donor = tiny_transformer()
    donor.add_adapter(peft.LoraConfig(r=2, target_modules=["temporal_attn.to_q", "temporal_attn.to_v"], init_lora_weights=False))
    pipe.save_lora_weights(tmp_path, peft.get_peft_model_state_dict(donor))
    pipe.load_lora_weights(tmp_path, adapter_name="motion")
    changed = run()
    assert not torch.equal(plain, changed)
    torch.testing.assert_close(run(attention_kwargs={"scale": 0.0}), plain, rtol=1e-4, atol=1e-4)
    pipe.fuse_lora()
    torch.testing.assert_close(run(), changed, rtol=1e-3, atol=1e-3)
    pipe.unfuse_lora()
    pipe.unload_lora_weights()
    torch.testing.assert_close(run(), plain, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="no LoRA layers"):
        pipe.load_lora_weights({"transformer.proj_out.weight": torch.zeros(1)})
