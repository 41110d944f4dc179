"""Windows of videos, for generators whose VAE compresses time: what is cached, kills, streaming, training on it, refusals."""

import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_components import MAX_LENGTH, tiny_text_encoder
from tiny_generators import CALLS, tiny_generator, tiny_parent
from torch._subclasses.fake_tensor import FakeTensorMode
from training_cases import run_here

from jog3r.data.cache import Cache
from jog3r.data.frame_choice import take_frames
from jog3r.data.source import ProceduralSource
from jog3r.training import train_joint
from jog3r.training.clips.cached_stream import CachedStream
from jog3r.training.clips.held_out import HeldClip
from jog3r.training.config import TrainConfig
from jog3r.training.memory import _model_and_inputs
from jog3r.training.preparation.prepare_config import PrepareConfig
from jog3r.training.preparation.windows import video_of
from jog3r.training.prepare import Preparation

VIDEOS, FRAMES = 3, 12  # of procedural paths
NAMES = ("wan", "cogvideox", "ltx")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in NAMES:
        tiny_parent(name).save_pretrained(folder / name)
    return folder


def options(model: Path, output: Path, **changes: Any) -> dict[str, Any]:
    call = CALLS[model.name]
    values = dict(output_dir=str(output), model=str(model), source="procedural", num_clips=VIDEOS, num_frames=FRAMES)
    values |= dict(height=call["height"], width=call["width"], window_frames=call["num_frames"], windows_per_video=2)
    return values | dict(window_strides=(1, 2), min_frames=1, clips_per_shard=2, caption_length=MAX_LENGTH) | changes


@pytest.fixture(scope="module")
def caches(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("caches")
    for name in NAMES:
        assert Preparation(PrepareConfig(**options(models / name, folder / name))).run()
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_windows_are_encoded_whole_with_their_depth_cameras_and_captions(name: str, caches: Path) -> None:
    cache, pipe, call = Cache(caches / name), tiny_generator(name), CALLS[name]
    cache.verify()
    size = (call["num_frames"], call["height"], call["width"])
    config = PrepareConfig(**options(Path(name), Path("unused")))
    source = ProceduralSource("train", 0, VIDEOS, FRAMES, *size[1:])
    drawn = [(index, one) for index in range(VIDEOS) for one in config.windows.draw(index, FRAMES)]
    assert len(cache) == len(drawn) > VIDEOS
    stream = CachedStream(cache, pipe.vae, 12, size, 100, 0)
    for number in (0, len(cache) - 1):
        index, window = drawn[number]
        words = [source.names[index], f"{window.start}+{window.stride}*{size[0]}", *["reversed"] * window.reversed]
        assert cache.name(number) == " ".join(words)
        clip = take_frames(source.load(index), window)
        position = next(place for place in range(100) if stream.video_at(place) == number)
        item = stream[position]
        with torch.no_grad():
            latents = pipe.encode_video(torch.from_numpy(clip.frames).permute(0, 3, 1, 2)[None] / 255)[0]
        torch.testing.assert_close(item["latents"], latents, atol=5e-3, rtol=2e-3)
        np.testing.assert_allclose(item["depth"], clip.depth, rtol=1e-3)
        np.testing.assert_allclose(item["poses"], clip.poses, atol=1e-5)
        text = source.captions(index)[int(window.reversed)]
        expected = pipe.encode_prompt(text, False, max_sequence_length=MAX_LENGTH)[0][0].detach()
        count = int(item["caption_mask"].sum())
        torch.testing.assert_close(item["caption_embeds"][:count], expected[:count], atol=5e-3, rtol=2e-3)
        assert stream.sample_name(position) == cache.name(number)
        assert cache.caption(cache.caption_ids(number)[0]).text == text


def test_a_run_trains_on_the_windows_and_streams_them(models: Path, caches: Path, tmp_path: Path, monkeypatch) -> None:
    settings: dict[str, Any] = dict(init_from=str(models / "wan"), model="wan", trainable="lora", lora_rank=2, num_steps=2)
    settings |= dict(num_frames=5, generation_batch=1, reconstruction_batch=1, head_width=16, head_layers=1, sample_every=0)
    settings |= dict(mixed_precision="bf16", max_missing_share=1.0)
    validation = dict(validate_every=2, validation_clips=1, keep_best="l_gen")
    save_best = train_joint.save_best

    def in_place(pipeline: Any, *others: Any) -> Path:
        with pytest.MonkeyPatch.context() as patch:  # moved away and back it would lose the hooks of DDP
            patch.setattr(pipeline.transformer, "to", None)
            return save_best(pipeline, *others)

    monkeypatch.setattr(train_joint, "save_best", in_place)
    cached = run_here(
        tmp_path, **settings, **validation, data="cache", cache_dir=str(caches / "wan"), output_dir=str(tmp_path / "a")
    )
    assert (cached / "lora").is_dir() and not list(cached.glob("captions-*"))
    assert json.loads((cached / "best" / "validation.json").read_text()).keys() > {"l_gen", "l_rec", "rotation"}
    streamed = run_here(tmp_path, **settings, data="stream", dataset=str(caches / "wan"), output_dir=str(tmp_path / "b"))
    assert (streamed / "pipeline").is_dir()


def test_windows_of_one_video_are_held_out_together(caches: Path) -> None:
    stream = CachedStream(caches / "wan", tiny_generator("wan").vae, 12, (5, 16, 16), 10, 0)
    before, names = len(stream.videos), stream.held_out_names(1)
    held = stream.hold_out(names)
    assert len(names) == 1 and len(held.videos) == 2 and len(stream.videos) == before - 2
    clip = HeldClip(held, 0).clip(tiny_generator("wan").vae)  # its frames come out of the VAE again
    assert clip.frames.shape == (5, 16, 16, 3) and clip.caption in ProceduralSource("train", 0, 9, 5, 16, 16).captions(
        int(next(iter(names)).split("/")[1])
    )
    assert video_of("a 1+2*17 b 0+1*5 reversed") == "a 1+2*17 b" and video_of("plain 3+2") == "plain 3+2"


@pytest.mark.parametrize("name", ["cogvideox", "ltx"])
def test_models_and_inputs_without_a_weight_have_the_sizes_of_a_folder(name: str, models: Path) -> None:
    sizes = {key: CALLS[name][key] for key in ("num_frames", "height", "width")}
    small = dict(head_width=16, head_layers=1, generation_batch=1, reconstruction_batch=1)
    config = TrainConfig(init_from=str(models / name), output_dir="", trainable="lora", lora_rank=2, **sizes, **small)
    with FakeTensorMode(allow_non_fake_inputs=True):
        joint, batch, _ = _model_and_inputs(config)
    pipe = tiny_generator(name)
    weights = sum(parameter.numel() for key, parameter in joint.transformer.named_parameters() if "lora_" not in key)
    assert weights == sum(parameter.numel() for parameter in pipe.transformer.parameters())
    with torch.no_grad():
        latents = pipe.encode_video(torch.zeros(2, sizes["num_frames"], 3, sizes["height"], sizes["width"]))
    assert batch["latents"].shape == latents.shape
    assert batch["caption_embeds"].shape[1:] == joint.empty_embeds.shape == pipe.caption_of_videos()["prompt_embeds"].shape[1:]


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_killed_in_the_midst_of_a_shard_the_same_files_come_out(
    models: Path, caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One kill at one place; `benchmarks/prepare_kill.py --model FOLDER --window_frames N` kills at random moments."""
    out, shown, inner = tmp_path / "killed", [0], Preparation._frames

    def frames(self: Preparation, clip: Any) -> Any:
        shown[0] += 1
        if shown[0] == 5:  # the first window of the second shard
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(self, clip)

    monkeypatch.setattr(Preparation, "_frames", frames)
    torch.set_num_threads(1)  # a child has none of its parent's threads
    if (child := os.fork()) == 0:
        Preparation(PrepareConfig(**options(models / "wan", out))).run()
        os._exit(0)  # not reached
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    monkeypatch.undo()
    assert (out / "clips-00000.parquet").is_file() and not (out / "manifest.json").exists()
    assert Preparation(PrepareConfig(**options(models / "wan", out))).run()
    assert contents(out) == contents(caches / "wan")


def test_what_does_not_fit_is_refused(models: Path, caches: Path, tmp_path: Path, model: Path) -> None:
    def prepared(place: Path = models / "wan", **changes: Any) -> None:
        Preparation(PrepareConfig(**options(place, tmp_path / "new", **changes)))

    refused = pytest.raises
    with refused(ValueError, match="compresses time: say how many frames are encoded together"):
        prepared(window_frames=None, windows_per_video=None, window_strides=None)
    with refused(ValueError, match="window_strides, windows_per_video belongs to window_frames"):
        prepared(window_frames=None)
    with refused(ValueError, match="num_frames must be 1 more than a multiple of 4.*5 or 9"):
        prepared(window_frames=7)
    with refused(ValueError, match="16"):
        prepared(height=24)
    with refused(ValueError, match="caption_length must be at most 512"):
        prepared(caption_length=600)
    with refused(ValueError, match="fewer than min_frames=17"):
        prepared(window_frames=17)
    with refused(ValueError, match="window_strides must be whole numbers"):
        prepared(window_strides=(0,))
    with refused(ValueError, match="window_frames=5 is for models that compress time"):
        call = dict(options(models / "wan", tmp_path / "new"), model=str(model))
        Preparation(PrepareConfig(**call))
    assert not (tmp_path / "new").exists()
    vae = tiny_generator("wan").vae
    with refused(ValueError, match="windows of 5 frames, the run takes 9"):
        CachedStream(caches / "wan", vae, 12, (9, 16, 16), 10, 0)
    with refused(ValueError, match="reverse_probability=0.0 means nothing to the windows"):
        CachedStream(caches / "wan", vae, 12, (5, 16, 16), 10, 0, reverse_probability=0.0)
    stream = CachedStream(caches / "wan", vae, 12, (5, 16, 16), 10, 0)
    with refused(ValueError, match="another text_encoder"):
        stream.check_captions(16, tiny_text_encoder())
