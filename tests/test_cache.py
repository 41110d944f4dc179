"""The cache: what is written comes back, at random and as a stream; the training items drawn from it; what is refused."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cache_cases import make_cache
from tiny_components import tiny_pipeline, tiny_tokenizer, tiny_transformer, tiny_vae
from torch.utils.data import DataLoader
from training_cases import settings

from jog3r.data.cache import Cache, CachedCaption, CachedFrames, caption_rows, clip_rows, decode_frame, stream_frames, write_rows
from jog3r.data.frame_choice import take_frames
from jog3r.data.source import ProceduralSource
from jog3r.training.clips.cached_stream import CachedStream
from jog3r.training.clips.clip_stream import ProceduralStream
from jog3r.training.clips.step_batches import BatchShare
from jog3r.training.clips.streams import build_stream
from jog3r.training.preparation.depth_masks import DepthChecks

SIZE = (4, 16, 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and the cache of five procedural videos of 10 frames made with it."""
    return make_cache(tmp_path_factory.mktemp("cached"), num_clips=5, num_frames=10)


@pytest.fixture
def vae(folder: Path):
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(folder / "model" / "vae").eval()


def _frames(count: int = 3) -> CachedFrames:
    random = np.random.default_rng(0)
    depth = random.uniform(1, 5, (count, 4, 6)).astype(np.float32)
    valid = random.random((count, 4, 6)) < 0.7
    poses = np.tile(np.eye(4, dtype=np.float32), (count, 1, 1))
    return CachedFrames(random.normal(size=(count, 2, 2, 3)).astype(np.float16), depth, valid, poses, poses[:, :3, :3] * 2)


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    frames = _frames()
    table = clip_rows("a", frames, (3, 4))
    plan = {"height": 4, "width": 6, "latent_shape": [2, 2, 3]}
    for number, row in enumerate(table.to_pylist()):
        back = decode_frame(row, plan)
        np.testing.assert_array_equal(back["latents"], frames.latents[number])
        np.testing.assert_array_equal(back["valid"], frames.valid[number])
        np.testing.assert_allclose(back["depth"], np.where(frames.valid, frames.depth, 0)[number], rtol=5e-4)
        np.testing.assert_array_equal(back["intrinsics"], frames.intrinsics[number])
        assert (row["name"], row["frame"], row["caption_id"], row["reversed_caption_id"]) == ("a", number, 3, 4)
    for name in "ab":  # the same rows are the same bytes
        with write_rows(tmp_path / name) as rows:
            rows.append(table)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_depth_that_16_bits_cannot_hold_is_unknown_and_latents_are_refused() -> None:
    frames = _frames()
    frames.valid[:] = True
    frames.depth[0, 0, :3] = [70000.0, 1e-9, 60000.0]
    back = decode_frame(clip_rows("a", frames, (0, 0)).to_pylist()[0], {"height": 4, "width": 6, "latent_shape": [2, 2, 3]})
    assert back["valid"][0, :3].tolist() == [False, False, True]
    assert back["depth"][0, :2].tolist() == [0, 0]
    frames.latents[1, 0, 0, 0] = np.inf
    with pytest.raises(ValueError, match="latents of 'a' do not fit"):
        clip_rows("a", frames, (0, 0))
    with pytest.raises(ValueError, match="embeddings of 'x' do not fit"):
        caption_rows(0, [CachedCaption("x", np.array([1]), np.array([[np.nan]], np.float16))])


def test_datasets_streams_the_same_frames(folder: Path) -> None:
    pytest.importorskip("datasets")
    cache = Cache(folder / "cache")
    rows = list(stream_frames(folder / "cache"))
    assert len(rows) == 50 == cache.manifest["frames"]
    assert [row["name"] for row in rows[::10]] == [cache.name(index) for index in range(5)]
    frame = decode_frame(rows[23], cache.manifest["plan"])
    expected = cache.frames(2, [3])
    np.testing.assert_array_equal(frame["latents"], expected.latents[0])
    np.testing.assert_array_equal(frame["pose"], expected.poses[0])


def test_an_item_has_the_layout_of_the_procedural_stream(folder: Path, vae) -> None:
    item = CachedStream(folder / "cache", vae, 8, SIZE, 100, seed=1)[0]
    other = ProceduralStream(vae, tiny_tokenizer(), 8, SIZE, 0, 100, 1)[0]
    assert set(item) - set(other) == {"caption_embeds"}
    for name, value in other.items():
        assert (item[name].shape, item[name].dtype) == (value.shape, value.dtype), name
    assert item["caption_embeds"].shape == (8, 16)
    batch = next(iter(DataLoader(CachedStream(folder / "cache", vae, 8, SIZE, 4, seed=1), batch_size=4)))
    assert batch["latents"].shape == (4, 4, 4, 4, 4)


def test_an_item_is_the_clip_that_its_selection_names(folder: Path, vae) -> None:
    stream = CachedStream(folder / "cache", vae, 12, SIZE, 100, seed=1)
    source = ProceduralSource("train", 0, 5, 10, 16, 16)
    directions = set()
    for position in range(8):
        video, selection = stream.selection(position)
        item = stream[position]
        clip = take_frames(source.load(video), selection)
        directions.add(selection.reversed)
        np.testing.assert_allclose(item["poses"], clip.poses, atol=2e-5)
        np.testing.assert_allclose(item["depth"], clip.depth, rtol=1e-3)
        np.testing.assert_array_equal(item["intrinsics"], clip.intrinsics)
        text = stream.cache.caption(stream.cache.caption_ids(video)[selection.reversed]).text
        assert text == clip.caption.lower().strip()
        count = int(item["caption_mask"].sum())
        assert item["caption_embeds"][:count].abs().sum() > 0
        assert not item["caption_embeds"][count:].any()
        assert not item["caption_ids"][count:].any()
    assert directions == {False, True}


def test_position_k_is_a_pure_function_and_workers_change_nothing(folder: Path, vae) -> None:
    stream = CachedStream(folder / "cache", vae, 8, SIZE, 12, seed=5)
    plain = [stream[position] for position in range(12)]
    late = pickle.loads(pickle.dumps(CachedStream(folder / "cache", vae, 8, SIZE, 12, seed=5)))[7]
    assert all(torch.equal(late[name], plain[7][name]) for name in late)
    loader = DataLoader(stream, batch_size=3, num_workers=2, multiprocessing_context="fork")
    for number, batch in enumerate(loader):
        for place in range(3):
            assert all(torch.equal(batch[name][place], plain[3 * number + place][name]) for name in batch)
    epoch = [stream.selection(position)[0] for position in range(5)]
    assert sorted(epoch) == [0, 1, 2, 3, 4]
    forward = CachedStream(folder / "cache", vae, 8, SIZE, 12, seed=5, reverse_probability=0.0)
    taken = [(stream.selection(k)[1], forward.selection(k)[1]) for k in range(12)]
    assert all(one.start == other.start and not other.reversed for one, other in taken) and any(one.reversed for one, _ in taken)
    assert forward.describe() != stream.describe()
    other = CachedStream(folder / "cache", vae, 8, SIZE, 12, seed=6)
    assert [other.selection(k) for k in range(12)] != [stream.selection(k) for k in range(12)]


def test_stills_and_depth_checks(folder: Path, vae) -> None:
    still = CachedStream(folder / "cache", vae, 8, (1, 16, 16), 10, seed=1)[3]
    assert still["latents"].shape == (4, 1, 4, 4)
    plain = CachedStream(folder / "cache", vae, 8, SIZE, 10, seed=1)[3]["valid"]
    checked = CachedStream(folder / "cache", vae, 8, SIZE, 10, seed=1, checks=DepthChecks(0.02, 0.1))[3]["valid"]
    assert checked.sum() < plain.sum()
    assert not (checked & ~plain).any()


def test_another_vae_size_or_caption_length_is_refused(folder: Path, vae) -> None:
    cache = folder / "cache"
    torch.manual_seed(77)
    with pytest.raises(ValueError, match="made with another vae: model .*this run has"):
        CachedStream(cache, tiny_vae(), 8, SIZE, 10, 0)
    with torch.no_grad():
        next(vae.parameters()).view(-1)[0] += 1e-3  # the smallest change counts
    with pytest.raises(ValueError, match="made with another vae"):
        CachedStream(cache, vae, 8, SIZE, 10, 0)


def test_captions_of_another_text_encoder_are_refused_where_they_are_read(folder: Path, vae) -> None:
    from transformers import T5EncoderModel

    def start(pipeline, **options: object) -> CachedStream:
        changes = {"data": "cache", "cache_dir": str(folder / "cache"), "num_frames": 4, **options}
        return build_stream(settings(**changes), pipeline, 8, BatchShare(1, 1))

    own = T5EncoderModel.from_pretrained(folder / "model" / "text_encoder")
    start(tiny_pipeline(vae=vae, text_encoder=own))
    other = tiny_pipeline(vae=vae)
    with pytest.raises(ValueError, match="made with another text_encoder: model .*this run has"):
        start(other)
    start(other, generation_batch=0)  # no captions
    start(other, train_text_encoder=True)  # embeds the captions itself
    start(tiny_pipeline(vae=vae, text_encoder=None, tokenizer=None))
    wider = tiny_pipeline(vae=vae, text_encoder=None, tokenizer=None, transformer=tiny_transformer(caption_channels=24))
    with pytest.raises(ValueError, match="have 16 channels, the transformer takes 24"):
        start(wider)


def test_a_cache_without_depth_or_videos_trains_no_head(folder: Path, vae, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(folder / "cache", cache)
    manifest = json.loads((cache / "manifest.json").read_text())

    def start(**options: object) -> CachedStream:
        (cache / "manifest.json").write_text(json.dumps(manifest))
        pipeline = tiny_pipeline(vae=vae, text_encoder=None, tokenizer=None)
        return build_stream(settings(data="cache", cache_dir=str(cache), num_frames=4, **options), pipeline, 8, BatchShare(1, 1))

    start()
    manifest["plan"]["depth"]["kind"] = "none"
    with pytest.raises(
        ValueError, match="prepared with depth=none.*prepare it with a depth model, or set reconstruction_batch=0"
    ):
        start()
    start(reconstruction_batch=0)
    manifest["clips"] = {}
    with pytest.raises(ValueError, match=r"holds no video: its report\.json says why"):
        start(reconstruction_batch=0)


def test_what_does_not_fit_the_run_is_refused(folder: Path, vae) -> None:
    cache = folder / "cache"
    with pytest.raises(ValueError, match="16 x 16 pixels, the run 32 x 16"):
        CachedStream(cache, vae, 8, (4, 32, 16), 10, 0)
    with pytest.raises(ValueError, match="up to 8 tokens, the model takes 6"):
        CachedStream(cache, vae, 6, SIZE, 10, 0)
    with pytest.raises(ValueError, match="no video of the cache .* 11 frames"):
        CachedStream(cache, vae, 8, (11, 16, 16), 10, 0)
    with pytest.raises(ValueError, match="has 10 frames, got"):
        Cache(cache).frames(0, [10])


def test_what_is_no_finished_cache_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no cache of jog3r"):
        Cache(tmp_path)
    manifest = json.loads((folder / "cache" / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(ValueError, match="has format 99"):
        Cache(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="missing or damaged"):
        Cache(tmp_path)
    for path in (folder / "cache").glob("*.parquet"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    Cache(tmp_path).verify()
    content = bytearray((tmp_path / "clips-00000.parquet").read_bytes())
    content[100] ^= 1
    (tmp_path / "clips-00000.parquet").write_bytes(content)
    with pytest.raises(ValueError, match="clips-00000.parquet' has changed"):
        Cache(tmp_path).verify()
