"""Preparation of a data set: what comes out, that kills and processes do not change it, what is refused, what is reported."""

import json
import os
import runpy
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_components import MAX_LENGTH, tiny_text_encoder, tiny_tokenizer, tiny_transformer, tiny_vae
from training_runs import CONTEXT

from jog3r.data.cache import Cache
from jog3r.data.clip import Clip
from jog3r.data.files import file_hash
from jog3r.data.source import ProceduralSource
from jog3r.pipelines.latents import encode_frames
from jog3r.training.preparation.prepare_config import PrepareConfig
from jog3r.training.prepare import Preparation, prepare

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The frozen parts of a pipeline folder."""
    folder = tmp_path_factory.mktemp("model")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        tiny_vae().save_pretrained(folder / "vae")
        tiny_text_encoder().save_pretrained(folder / "text_encoder")
        tiny_tokenizer().save_pretrained(folder / "tokenizer")
    return folder


def _config(output: Path, model: Path, **options: object) -> PrepareConfig:
    values: dict = {
        "output_dir": str(output), "model": str(model), "source": "procedural", "num_clips": 6, "num_frames": 6, "height": 16,
        "width": 16, "min_frames": 4, "caption_length": 8, "clips_per_shard": 2, "captions_per_shard": 4,
    }  # fmt: skip
    return PrepareConfig(**{**values, **options})


class FaultySource(ProceduralSource):
    """Procedural clips of which some cannot be read."""

    def __init__(self, broken: tuple[int, ...], count: int = 6):
        super().__init__("train", 0, count, 6, 16, 16)
        self.broken, self.loads = broken, 0

    def load(self, index: int) -> Clip:
        self.loads += 1
        if index in self.broken:
            raise ValueError(f"{self.names[index]!r} is cut off")
        return super().load(index)


def _content(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): file_hash(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_latents_depth_cameras_and_captions_are_those_of_the_clips(tmp_path: Path, model: Path) -> None:
    preparation = Preparation(_config(tmp_path / "cache", model))
    assert preparation.run()
    cache = Cache(tmp_path / "cache")
    cache.verify()
    assert len(cache) == 6
    source = ProceduralSource("train", 0, 6, 6, 16, 16)
    for index in (0, 5):
        clip = source.load(index)
        assert cache.name(index) == source.names[index]
        assert cache.num_frames(index) == 6
        frames = cache.frames(index, [4, 1])
        pixels = torch.from_numpy(clip.frames).permute(0, 3, 1, 2).float().div(127.5).sub(1)
        latents = encode_frames(preparation.vae, pixels[None])[0].transpose(0, 1)[[4, 1]]
        np.testing.assert_allclose(frames.latents, latents.numpy(), atol=3e-3)
        np.testing.assert_allclose(frames.depth, clip.depth[[4, 1]], rtol=6e-4)
        assert frames.valid.all()
        np.testing.assert_array_equal(frames.poses, clip.poses[[4, 1]])
        np.testing.assert_array_equal(frames.intrinsics, clip.intrinsics[[4, 1]])
        forward, backward = (cache.caption(number).text for number in cache.caption_ids(index))
        assert (forward, backward) == tuple(text.lower().strip() for text in source.captions(index))


def test_embeddings_are_trimmed_and_equal_captions_stored_once(tmp_path: Path, model: Path) -> None:
    preparation = Preparation(_config(tmp_path / "cache", model))
    encoder, tokenizer = preparation.text_encoder, preparation.tokenizer
    preparation.run()
    cache = Cache(tmp_path / "cache")
    numbers = [number for index in range(6) for number in cache.caption_ids(index)]
    texts = [cache.caption(number).text for number in range(max(numbers) + 1)]
    assert sorted(set(numbers)) == list(range(len(texts)))
    assert len(set(texts)) == len(texts)
    caption = cache.caption(0)
    tokens = tokenizer(caption.text, truncation=True, max_length=8, return_tensors="pt")
    expected = encoder(**{name: tokens[name] for name in ("input_ids", "attention_mask")}).last_hidden_state[0]
    assert caption.embeddings.shape == (len(tokens.input_ids[0]), 16)
    np.testing.assert_array_equal(caption.ids, tokens.input_ids[0])
    np.testing.assert_allclose(caption.embeddings, expected.detach().numpy(), atol=2e-3)


def test_two_processes_write_what_one_writes_and_a_second_run_changes_nothing(tmp_path: Path, model: Path) -> None:
    Preparation(_config(tmp_path / "one", model)).run()
    first = Preparation(_config(tmp_path / "two", model), None, (0, 2)).run()
    assert not first  # the other half is missing
    with pytest.raises(ValueError, match="was not finished"):
        Cache(tmp_path / "two")
    assert Preparation(_config(tmp_path / "two", model), None, (1, 2)).run()
    assert _content(tmp_path / "one") == _content(tmp_path / "two")
    source = FaultySource(())
    again = Preparation(_config(tmp_path / "two", model), source)
    assert again.run()
    assert source.loads == 0
    assert _content(tmp_path / "one") == _content(tmp_path / "two")


def test_a_lost_or_torn_shard_is_written_again(tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "cache"
    Preparation(_config(folder, model)).run()
    before = _content(folder)
    (folder / "clips-00001.parquet").write_bytes(b"torn")
    (folder / "captions-00000.parquet").unlink()
    with pytest.raises(ValueError, match="missing or damaged"):
        Cache(folder)
    source = FaultySource(())
    Preparation(_config(folder, model), source).run()
    assert source.loads == 2
    assert "missing or damaged" in caplog.text
    assert _content(folder) == before


def test_broken_videos_are_reported_once_and_left_out(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "cache"
    options = _config(folder, model, max_bad_share=0.5)
    for _ in range(2):
        Preparation(options, FaultySource((1, 4, 5))).run()
    report = json.loads((folder / "report.json").read_text())
    assert report["skipped"] == 3
    assert [entry["name"] for entry in report["skipped_videos"]] == ["train/00000001", "train/00000004", "train/00000005"]
    assert "cut off" in report["skipped_videos"][0]["reason"]
    cache = Cache(folder)
    assert [cache.name(index) for index in range(len(cache))] == ["train/00000000", "train/00000002", "train/00000003"]
    assert not (folder / "clips-00002.parquet").exists()  # nothing of it was left
    retry = _config(folder, model, max_bad_share=0.5, retry_skipped=True)
    Preparation(retry, FaultySource((1,))).run()
    assert len(Cache(folder)) == 5


def test_too_many_broken_videos_stop_the_run_with_a_report(tmp_path: Path, model: Path) -> None:
    source = FaultySource((0, 2))
    with pytest.raises(ValueError, match="2 of 6 videos cannot be used, more than max_bad_share=0.2.*train/00000002.*cut off"):
        Preparation(_config(tmp_path / "cache", model, max_bad_share=0.2), source).run()
    report = json.loads((tmp_path / "cache" / "report.json").read_text())
    assert report["stopped"]
    assert [entry["name"] for entry in report["skipped_videos"]] == ["train/00000000", "train/00000002"]
    assert not (tmp_path / "cache" / "manifest.json").exists()


def test_too_many_broken_videos_stop_the_last_of_two_processes_early(tmp_path: Path, model: Path) -> None:
    config = _config(tmp_path / "cache", model, max_bad_share=0.5, clips_per_shard=1)
    first, second = (FaultySource(tuple(range(8)), count=8) for _ in range(2))
    assert not Preparation(config, first, process=(0, 2)).run()  # 4 of 8: may be all that is wrong
    with pytest.raises(ValueError, match="7 of 8 videos cannot be used, more than max_bad_share=0.5"):
        Preparation(config, second, process=(1, 2)).run()
    assert json.loads((tmp_path / "cache" / "report.json").read_text())["skipped"] == 7


def test_short_videos_and_missing_depth_are_named(tmp_path: Path, model: Path) -> None:
    with pytest.raises(ValueError, match="6 frames, fewer than min_frames=7"):
        Preparation(_config(tmp_path / "short", model, min_frames=7)).run()

    class NoDepth(FaultySource):
        def load(self, index: int) -> Clip:
            clip = super().load(index)
            clip.valid[:] = False
            return clip

    with pytest.raises(ValueError, match="no depth for it; name a depth model"):
        Preparation(_config(tmp_path / "flat", model), NoDepth(())).run()
    Preparation(_config(tmp_path / "none", model, depth="none"), NoDepth(())).run()
    with pytest.raises(ValueError, match=r"all of its depth lies beyond max_depth=0\.5 in its own unit: raise that"):
        Preparation(_config(tmp_path / "far", model, max_depth=0.5)).run()
    assert not Cache(tmp_path / "none").frames(0, [0]).valid.any()


def test_lost_permissions_are_no_property_of_the_video(tmp_path: Path, model: Path) -> None:
    class Locked(FaultySource):
        def load(self, index: int) -> Clip:
            raise PermissionError("locked")

    with pytest.raises(PermissionError):
        Preparation(_config(tmp_path / "cache", model, max_bad_share=1.0), Locked(())).run()


def test_another_vae_or_another_folder_is_refused(tmp_path: Path, model: Path) -> None:
    Preparation(_config(tmp_path / "cache", model)).run()
    other = tmp_path / "model"
    other.mkdir()
    for part in ("text_encoder", "tokenizer"):
        (other / part).symlink_to(model / part)
    torch.manual_seed(99)
    tiny_vae().save_pretrained(other / "vae")
    with pytest.raises(ValueError, match="begun with another vae"):
        Preparation(_config(tmp_path / "cache", other)).run()
    with pytest.raises(ValueError, match="begun with another height"):
        Preparation(_config(tmp_path / "cache", model, height=24)).run()
    with pytest.raises(ValueError, match="multiples of 4"):
        Preparation(_config(tmp_path / "cache", model, height=18))
    with pytest.raises(ValueError, match="holds other files"):
        Preparation(_config(tmp_path, model)).run()


@pytest.mark.parametrize(("name", "value"), [("clips_per_shard", 0), ("max_bad_share", 1.5), ("max_depth", 0.0)])
def test_impossible_options_are_refused(tmp_path: Path, model: Path, name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        _config(tmp_path, model, **{name: value})


def _copy_with(folder: Path, model: Path, part: str, change: str) -> Path:
    """The model folder with one of its files of weights changed: a weight "missing", of another "shape", or "cut off"."""
    shutil.copytree(model, folder)
    [path] = (folder / part).glob("*.safetensors")
    weights = load_file(path)
    name = sorted(weights)[2]
    if change == "cut off":
        path.write_bytes(path.read_bytes()[:-20])
        return folder
    weights[name] = weights[name].new_zeros(3, 3, 3)
    save_file({key: value for key, value in weights.items() if change == "shape" or key != name}, path, {"format": "pt"})
    return folder


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
@pytest.mark.parametrize(("change", "text"), [("missing", "1 weights are missing"), ("shape", "shape"), ("cut off", "weights")])
def test_weights_that_are_not_whole_fill_no_cache(tmp_path: Path, model: Path, part: str, change: str, text: str) -> None:
    damaged = _copy_with(tmp_path / "model", model, part, change)
    with pytest.raises((ValueError, OSError), match=text) as refused:
        Preparation(_config(tmp_path / "cache", damaged))
    assert str(damaged) in str(refused.value)
    assert not (tmp_path / "cache").exists()


def test_captions_and_sizes_fit_the_transformer_of_the_folder(tmp_path: Path, model: Path) -> None:
    assert Preparation(_config(tmp_path / "cache", model, caption_length=None)).plan["caption_length"] == 120
    whole = tmp_path / "model"
    shutil.copytree(model, whole)
    tiny_transformer().save_pretrained(whole / "transformer")
    assert Preparation(_config(tmp_path / "cache", whole, caption_length=None)).plan["caption_length"] == MAX_LENGTH
    assert Preparation(_config(tmp_path / "cache", whole, caption_length=5)).plan["caption_length"] == 5
    with pytest.raises(ValueError, match=f"caption_length must be at most {MAX_LENGTH}, .* got 120"):
        Preparation(_config(tmp_path / "cache", whole, caption_length=120))
    with pytest.raises(ValueError, match="multiples of 8 .*patch_size=2.*, got 20 x 16"):
        Preparation(_config(tmp_path / "cache", whole, height=20))
    assert Preparation(_config(tmp_path / "cache", model, height=20)).plan["height"] == 20  # without one nobody can know


@pytest.mark.parametrize("config", [None, '{"a": 1}', '{"model_type": "t5"}'])
def test_a_folder_without_a_depth_model_is_refused_by_name(tmp_path: Path, model: Path, config: str | None) -> None:
    folder = tmp_path / "depth"
    folder.mkdir()
    if config is not None:
        (folder / "config.json").write_text(config)
    with pytest.raises(ValueError, match="depth' (holds no model of transformers|is no depth model of transformers but a t5)"):
        Preparation(_config(tmp_path / "cache", model, depth=str(folder), assume_metric=True))


def test_half_precision_in_running_does_not_change_the_fingerprints(tmp_path: Path, model: Path) -> None:
    full = Preparation(_config(tmp_path / "a", model))
    half = Preparation(_config(tmp_path / "b", model, dtype="bfloat16"))
    assert full.plan["vae"] == half.plan["vae"]
    assert full.plan["text_encoder"] == half.plan["text_encoder"]
    assert half.vae.dtype is torch.bfloat16


def _prepare_until_killed(words: list[str]) -> None:
    """`jog3r.training.prepare` in a process that has imported it already and kills itself."""

    def kill(event: str, arguments: tuple) -> None:
        if event == "os.rename" and str(arguments[1]).endswith("parts/clips-00002.json"):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(kill)
    sys.argv = [str(ROOT / "training" / "prepare.py"), *words]
    runpy.run_path(sys.argv[0], run_name="__main__")


def _kill_at_the_third_shard(output: Path, model: Path, clips: int) -> None:
    """One real kill -9, between the third index's bytes and its name; benchmarks/prepare_kill.py does ten over 200 clips."""
    options = {
        "output_dir": output, "model": model, "source": "procedural", "num_clips": clips, "num_frames": 6, "height": 16,
        "width": 16, "min_frames": 4, "caption_length": 8, "clips_per_shard": 1, "num_threads": 1,
    }  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    done = CONTEXT.Process(target=_prepare_until_killed, args=(words,))
    done.start()
    done.join()
    assert done.exitcode == -signal.SIGKILL
    assert sorted(path.name for path in (output / "parts").glob("clips-*")) == ["clips-00000.json", "clips-00001.json"]


def test_killed_in_the_middle_and_restarted_gives_the_same_bytes(tmp_path: Path, model: Path) -> None:
    Preparation(_config(tmp_path / "whole", model, num_clips=20, clips_per_shard=1, captions_per_shard=1024)).run()
    _kill_at_the_third_shard(tmp_path / "killed", model, 20)
    assert not (tmp_path / "killed" / "manifest.json").exists()
    # Whatever the kill left half written, here for certain:
    (tmp_path / "killed" / ".clips-00019.parquet.partial").write_bytes(b"half")
    (tmp_path / "killed" / "parts" / ".clips-00018.json.partial").write_bytes(b"half")
    (tmp_path / "killed" / ".manifest.json.partial-0").write_bytes(b"half")
    config = _config(tmp_path / "killed", model, num_clips=20, clips_per_shard=1, captions_per_shard=1024)
    assert (tmp_path / "killed" / ".lock-0-of-1").is_file()  # of the dead
    prepare(config)
    assert _content(tmp_path / "whole") == _content(tmp_path / "killed")
