"""What the pipeline refuses, and every form in which it takes a video."""

import struct
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_components import MAX_LENGTH, PROMPT, seeded, tiny_head, tiny_pipeline

from jog3r import Dust3rBaseline, Dust3rPipeline
from jog3r.data.video import read_video
from jog3r.pipelines.long_videos.long_video import reconstruct_long_video
from jog3r.pipelines.video_input import load_frames, resize

VIDEO = torch.rand(3, 16, 16, 3, generator=seeded())


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "neither a prompt nor a video"),
        ({"prompt": PROMPT, "video": VIDEO}, "both a prompt and a video"),
        ({"prompt": PROMPT, "prompt_embeds": torch.zeros(1, 2, 16)}, "both prompt and prompt_embeds"),
        ({"prompt": PROMPT, "task": "i2v"}, r"one of 't2v', 't2v\+c', 'v2c' or None, got 'i2v'"),
        ({"prompt": PROMPT, "task": "v2c"}, "only a prompt is given"),
        ({"video": VIDEO, "task": "t2v"}, "only a video is given"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": [PROMPT, "  "]}, "the prompt is empty"),
        ({"prompt": []}, "empty list"),
        (
            {"prompt": PROMPT, "height": 20},
            r"multiples of 8 pixels \(one token\), got 20x16; the nearest sizes are 16x16 or 24x16",
        ),
        ({"prompt": PROMPT, "width": 0}, "got 16x0; the nearest sizes are 16x8"),
        ({"prompt": PROMPT, "num_frames": 1}, "num_frames must be at least 2, got 1"),
        ({"prompt": PROMPT, "num_frames": 0, "task": "t2v"}, "num_frames must be at least 1, got 0"),
        ({"prompt": PROMPT, "num_inference_steps": 0}, "num_inference_steps must be at least 1"),
        ({"prompt": PROMPT, "guidance_scale": float("nan")}, "guidance_scale must be at least 0, got nan"),
        ({"prompt": PROMPT, "guidance_scale": -1.0}, "guidance_scale must be at least 0"),
        ({"prompt": PROMPT, "guidance_channels": 5}, "at least 1 and at most 4, got 5"),
        ({"prompt": PROMPT, "reconstruction_timestep": 1000}, "at most 999, got 1000"),
        ({"prompt": PROMPT, "decode_chunk_size": 0}, "decode_chunk_size"),
        ({"prompt": PROMPT, "num_videos_per_prompt": 0}, "num_videos_per_prompt"),
        ({"prompt": PROMPT, "output_type": "jpeg"}, "output_type must be one of"),
        ({"prompt": PROMPT, "callback_on_step_end_tensor_inputs": ["noise"]}, r"may name .*, got \['noise'\]"),
        ({"prompt": [PROMPT, PROMPT], "generator": [seeded()]}, "1 generators for 2 clips"),
        ({"prompt": PROMPT, "negative_prompt": ["a", "b"]}, "2 negative prompts for 1 prompts"),
        ({"prompt": PROMPT, "latents": torch.zeros(1, 4, 4, 4, 8)}, r"shape \(1, 4, 4, 4, 4\)"),
        ({"prompt": PROMPT, "latents": torch.full((1, 4, 4, 4, 4), torch.nan)}, "NaN or infinite values of 256"),
        ({"prompt_embeds": torch.zeros(1, 2, 5)}, r"must be \(B, L, 16\)"),
        ({"prompt_embeds": torch.zeros(1, MAX_LENGTH + 1, 16)}, rf"L in 1\.\.{MAX_LENGTH}"),
        ({"prompt_embeds": torch.zeros(1, 2, 16), "prompt_attention_mask": torch.ones(1, 3)}, r"must be \(1, 2\)"),
        ({"prompt": PROMPT, "negative_prompt_attention_mask": torch.ones(1, 3)}, "came without negative_prompt_embeds"),
        (
            {"prompt_embeds": torch.zeros(3, 2, 16), "negative_prompt_embeds": torch.zeros(2, 3, 16)},
            r"negative_prompt_embeds \(2, 3, 16\) must be one for all prompts or one for each of the 3",
        ),
        ({"prompt": [PROMPT], "negative_prompt_embeds": torch.zeros(2, 3, 16)}, "one for each of the 1"),
        ({"prompt_embeds": torch.zeros(0, 2, 16)}, r"with L in 1\.\.8, got \(0, 2, 16\)"),
        ({"video": VIDEO, "generator": [seeded(), seeded()]}, "2 generators for 1 clips"),
        ({"video": VIDEO, "latents": torch.zeros(1)}, "has no use for latents"),
        ({"video": VIDEO, "negative_prompt": "red"}, "has no use for negative_prompt"),
        ({"video": VIDEO, "num_frames": 3}, "has no use for num_frames"),
        (
            {"video": VIDEO, "guidance_channels": 3, "callback_on_step_end": print, "eta": 0.5, "clean_caption": True},
            'task "v2c" has no use for callback_on_step_end, guidance_channels, eta, clean_caption; it reads the video',
        ),
        ({"video": VIDEO, "prompt_attention_mask": torch.ones(1, 3)}, "has no use for prompt_attention_mask"),
        (
            {"prompt": PROMPT, "task": "t2v", "reconstruction_timestep": 7},
            'task "t2v" has no use for reconstruction_timestep',
        ),
        (
            {"prompt": PROMPT, "task": "t2v", "registration_kwargs": {}},
            'task "t2v" has no use for registration_kwargs; it finds no cameras',
        ),
        ({"prompt": PROMPT, "registration": False, "registration_kwargs": {}}, "registration_kwargs came without registration"),
        ({"video": VIDEO, "height": 16}, "both height and width"),
        ({"video": VIDEO, "height": 12, "width": 16}, "multiples of 8"),
        ({"video": VIDEO[:, :12]}, r"got 12x16; the nearest sizes are 8x16 or 16x16 \(pass height=\.\.\., width=\.\.\.\)"),
        ({"video": VIDEO[:1]}, "at least 2 frames, the video has 1"),
        ({"video": VIDEO[0]}, r"got \(16, 16, 3\)"),
        ({"video": VIDEO[..., :2]}, r"got \(1, 3, 16, 16, 2\)"),
        ({"video": []}, "empty list"),
        (
            {"video": VIDEO.expand(30, -1, -1, -1, -1).flatten(0, 1)},
            r"90 frames, more than the 64 that fit; cut it .* or subsample",
        ),
        ({"video": VIDEO * 255}, "divide 8-bit values by 255"),
        ({"video": VIDEO - 0.5}, r"lie in 0\.\.1"),
        ({"video": (VIDEO * 255).long()}, "int64"),
        ({"video": torch.full_like(VIDEO, torch.nan)}, "NaN"),
        ({"video": [Image.new("RGB", (16, 16)), Image.new("RGB", (8, 16))]}, "must have one size"),
    ],
)
def test_refuses(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": 3}, "text or a list of texts"),
        ({"prompt": PROMPT, "num_inference_steps": 4.5}, "whole number, got 4.5"),
        ({"prompt": PROMPT, "height": 16.0}, "whole number of pixels"),
        ({"prompt": PROMPT, "height": True}, "whole number of pixels, got True"),
        ({"prompt": PROMPT, "num_frames": np.True_}, "whole number, got (np.)?True"),
        ({"video": 3}, "got int"),
        ({"video": [Image.new("RGB", (8, 8)), "frame.png"]}, "holds a str"),
        ({"video": ["a.png", "b.png"]}, r"list of str, 'a.png' the first; open the images: .*PIL\.Image\.open"),
        ({"video": [Path("a.png"), Path("b.png")]}, "a list of PosixPath, 'a.png' the first"),
        ({"prompt_embeds": np.zeros((1, 2, 16))}, "prompt_embeds must be a torch.Tensor, got ndarray"),
        ({"prompt": PROMPT, "latents": [0.0]}, "latents must be a torch.Tensor, got list"),
        ({"prompt": PROMPT, "generator": 5}, r"generator must be a torch\.Generator or a list of them, got 5; for a seed pass"),
        ({"video": VIDEO, "generator": [5]}, r"generator must be .*, got 5"),
    ],
)
def test_refuses_wrong_types(pipe, arguments, message):
    with pytest.raises(TypeError, match=message):
        pipe(**arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methd": "fast"}, "may name method, .*, generator, got 'methd'"),
        ({"num_frames": 4}, "got 'num_frames'"),
        ({"method": "slow"}, "must be 'fast' or 'reference', got 'slow'"),
        ("fast", "must be a dict of options of register_pointmaps, got str"),
        ({"max_iterations": 0}, "max_iterations must be at least 1 and whole, got 0"),
        ({"max_iterations": 2.5}, "max_iterations must be at least 1 and whole, got 2.5"),
        ({"smoothness": "x"}, "smoothness must be 'auto' or None, got 'x'"),
    ],
)
def test_registration_options_are_refused_before_anything_is_computed(pipe, options, message):
    def refuse(module, arguments):
        raise AssertionError("computed")

    hooks = [part.register_forward_pre_hook(refuse) for part in (pipe.text_encoder, pipe.transformer, pipe.vae.encoder)]
    try:
        for given in ({"prompt": PROMPT}, {"video": VIDEO}):
            with pytest.raises((ValueError, TypeError), match=message):
                pipe(**given, registration_kwargs=options)
        with pytest.raises((ValueError, TypeError), match=message):
            reconstruct_long_video(pipe, VIDEO, window=3, overlap=1, registration_kwargs=options)
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"focal_px": [20.0, 20.0]}, r"focal_px must be a positive number or one per frame \(4\)"),
        ({"pixel_aspect": 0}, "pixel_aspect is fy / fx, a positive number, got 0"),
        ({"known_poses": torch.eye(4).repeat(3, 1, 1)}, "known_poses"),
    ],
)
def test_what_is_given_of_the_cameras_is_refused_before_a_video_is_made(pipe, options, message):
    steps = []
    with pytest.raises(ValueError, match=message):
        pipe(PROMPT, registration_kwargs=options, callback_on_step_end=lambda *_: steps.append(1) or {})
    assert not steps


def test_numbers_of_numpy_are_numbers(pipe):
    whole = dict(num_frames=4, height=16, width=24, num_inference_steps=20, num_videos_per_prompt=2, decode_chunk_size=3)
    numpys = {name: np.int64(value) for name, value in whole.items()}
    outputs = [
        pipe(PROMPT, **numbers, guidance_scale=scale, output_type="pt", registration=False, generator=seeded())
        for numbers, scale in ((whole, 3.5), (numpys, np.float32(3.5)))
    ]
    assert torch.equal(outputs[0].frames, outputs[1].frames)
    assert pipe(video=VIDEO, height=np.int32(16), width=np.int32(24), registration=False).pointmaps.shape == (1, 3, 16, 24, 3)


def test_the_dust3r_pipeline_refuses_before_its_network_runs():
    sizes = dict(width=16, num_layers=1, num_attention_heads=2, decoder_width=16, decoder_num_layers=1, patch_size=8)
    pipe = Dust3rPipeline(Dust3rBaseline(**sizes, decoder_num_attention_heads=2))
    pipe.baseline.encode_images = None  # calling it would be a TypeError
    for arguments, message in (
        ({"height": 16}, "both height and width to resize the video, or neither; got height=16, width=None"),
        ({"output_type": "latent"}, "output_type must be one of 'pil', 'np', 'pt', got 'latent'"),
        ({"registration_kwargs": {"method": "slow"}}, "must be 'fast' or 'reference', got 'slow'"),
        ({"registration_kwargs": {}, "registration": False}, "registration_kwargs came without registration"),
    ):
        with pytest.raises(ValueError, match=message):
            pipe(VIDEO, task=None, **arguments)


def test_refuses_components_that_do_not_fit():
    with pytest.raises(ValueError, match="predicts 16 pixels a token, but VAE and transformer make tokens of 8"):
        tiny_pipeline(pointmap_head=tiny_head(patch_size=16))(PROMPT)
    bare = tiny_pipeline(pointmap_head=None)
    with pytest.raises(ValueError, match='use task "t2v"'):
        bare(PROMPT, task="t2v+c")
    assert bare(PROMPT, num_inference_steps=1, output_type="latent").frames.shape == (1, 4, 4, 4, 4)


def test_nan_that_arises_while_sampling_is_refused(pipe):
    poison = lambda pipe, step, t, tensors: {"latents": tensors["latents"] * float("nan")}
    with pytest.raises(ValueError, match="the denoised latents hold"):
        pipe(PROMPT, task="t2v", num_inference_steps=1, callback_on_step_end=poison)


def test_all_forms_of_a_video_are_the_same_video():
    array = np.random.default_rng(0).integers(0, 256, (4, 8, 12, 3), dtype=np.uint8)
    expected = torch.from_numpy(array).permute(0, 3, 1, 2)[None] / 255
    forms = [
        array,
        array[None],
        torch.from_numpy(array),
        (array / 255).astype(np.float32),
        (array / 255).astype(np.float64),
        expected,
        expected[0],
        [Image.fromarray(frame) for frame in array],
        [[Image.fromarray(frame) for frame in array]],
        list(array),
        tuple(torch.from_numpy(array)),
    ]
    for form in forms:
        torch.testing.assert_close(load_frames(form), expected, rtol=0, atol=1e-7)
    assert load_frames([[Image.fromarray(frame) for frame in array]] * 2).shape == (2, 4, 3, 8, 12)
    assert load_frames([Image.new("L", (12, 8)), Image.new("RGBA", (12, 8))]).shape == (1, 2, 3, 8, 12)


def test_resizing_keeps_the_mean_and_stretches():
    frames = torch.rand(1, 2, 3, 32, 48)
    small = resize(frames, 16, 16)
    assert small.shape == (1, 2, 3, 16, 16)
    torch.testing.assert_close(small.mean(), frames.mean(), atol=1e-2, rtol=0)
    assert resize(frames, 32, 48) is frames


def write_video(path, num_frames=3, size=16):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for index in range(num_frames):
            frame = np.full((size, size, 3), 60 + 40 * index % 160, np.uint8)
            frame[: size // 4, : size // 2] = 20  # a corner, so that turning shows
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode(None))


def test_a_path_is_read(pipe, tmp_path):
    write_video(tmp_path / "clip.mp4")
    frames = load_frames(tmp_path / "clip.mp4")
    assert frames.shape == (1, 3, 3, 16, 16)
    torch.testing.assert_close(frames[..., 8:, :].mean((0, 2, 3, 4)) * 255, torch.tensor([60.0, 100.0, 140.0]), atol=3, rtol=0)
    assert pipe(video=str(tmp_path / "clip.mp4"), registration=False).pointmaps.shape == (1, 3, 16, 16, 3)


def test_a_path_is_read_as_the_command_line_reads_it(tmp_path):
    """A telephone's display matrix (turned clockwise by 90 degrees) and an edit list that hides the first four frames."""
    write_video(tmp_path / "clip.mp4", 12, 16)
    content = (tmp_path / "clip.mp4").read_bytes()
    turned = bytearray(content)
    at = content.index(b"tkhd") + 4 + 40
    turned[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 16 << 16, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(turned)
    trimmed = bytearray(content)
    at, ticks = content.index(b"elst") + 12, struct.unpack_from(">I", content, content.index(b"mdhd") + 16)[0]
    seconds, start, rate = struct.unpack_from(">Iii", content, at)
    trimmed[at : at + 12] = struct.pack(">Iii", seconds * 8 // 12, start + 4 * ticks // 8, rate)
    (tmp_path / "trimmed.mp4").write_bytes(trimmed)
    for name, count in (("clip.mp4", 12), ("turned.mp4", 12), ("trimmed.mp4", 8)):
        frames = load_frames(tmp_path / name)
        expected = torch.from_numpy(read_video(tmp_path / name).frames).permute(0, 3, 1, 2)[None] / 255
        assert frames.shape[1] == count
        torch.testing.assert_close(frames, expected, rtol=0, atol=0)


def test_bad_files_are_refused(tmp_path):
    write_video(tmp_path / "good.mp4", 20, 64)
    content = (tmp_path / "good.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video at all")
    write_video(tmp_path / "one.mp4", 1)
    for name, message in {
        "missing.mp4": "does not exist",
        "empty.mp4": "is empty",
        "cut.mp4": "cut off",
        "text.mp4": "cannot be opened as a video",
        "one.mp4": "needs at least 2",
        ".": "holds no images",
    }.items():
        with pytest.raises(ValueError, match=message):
            load_frames(tmp_path / name)
    with pytest.raises(ValueError, match="gives 20 frames, more than max_frames=10; cut it"):
        load_frames(tmp_path / "good.mp4", max_frames=10)
