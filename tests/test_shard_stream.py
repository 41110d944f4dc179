"""Streaming from shards: which clip stands where, how the files are read, what a run resumes with, what is refused."""

import json
import shutil
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from cache_cases import make_cache
from diffusers import AutoencoderKL
from hub_server import COMMIT, serve
from training_cases import settings

from jog3r.data.cache import Cache, ShardRows, open_place, stream_frames
from jog3r.data.cache.places import FolderPlace
from jog3r.training.clips.cached_stream import CachedStream
from jog3r.training.clips.schedule import Schedule
from jog3r.training.clips.shard_deal import PlaceReaders, Readers, ShardDeal
from jog3r.training.clips.shard_stream import ShardStream
from jog3r.training.clips.step_batches import BatchShare, ShareOfStream
from jog3r.training.clips.streams import build_loader

SIZE = (4, 16, 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and a cache of eleven procedural videos of 9 frames in six shards made with it."""
    return make_cache(tmp_path_factory.mktemp("shards"), num_clips=11, num_frames=9)


@pytest.fixture(scope="module")
def vae(folder: Path):
    return AutoencoderKL.from_pretrained(folder / "model" / "vae").eval()


def _stream(cache: Cache, vae, share: BatchShare | None = None, workers: int = 1, retries: int = 0) -> ShardStream:
    readers = Readers(share or BatchShare(1, 1), workers)
    return ShardStream(cache, readers, 2, retries, vae=vae, caption_length=8, size=SIZE, length=400, seed=1)


class CountingPlace(FolderPlace):
    """Remembers which files were opened."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.opened: list[str] = []

    def check_size(self, name: str, size: int):
        self.opened.append(name)
        super().check_size(name, size)


@pytest.mark.parametrize(
    "share", [BatchShare(2, 1), BatchShare(1, 2, 3, 0, 2), BatchShare(0, 3, 2, 0, 3), BatchShare(2, 0, 1, 0, 4)]
)
@pytest.mark.parametrize("workers", [1, 3])
def test_a_position_is_found_at_the_worker_that_makes_its_batch(share: BatchShare, workers: int) -> None:
    seen: Counter = Counter()
    for process in range(share.num_processes):
        mine = BatchShare(share.generation, share.reconstruction, share.micro_steps, process, share.num_processes)
        items = ShareOfStream([], mine, 0, 6)
        numbers = [0] * workers
        for number in range(len(items)):
            worker = number // share.clips_per_micro_step % workers  # DataLoader deals batches out in turn
            position = items.position(number)
            assert Readers(share, workers).locate(position) == (process * workers + worker, numbers[worker])
            numbers[worker] += 1
            seen[position] += 1
    assert seen == Counter(range(6 * sum(share.clips_per_step)))


@pytest.mark.parametrize(("readers", "open_shards"), [(1, 1), (1, 4), (3, 2), (8, 4)])
def test_every_shard_is_read_through_once_an_epoch(readers: int, open_shards: int) -> None:
    counts = [3, 1, 4, 1, 5, 2, 6]
    deal = ShardDeal(counts, [1.0] * readers, open_shards, seed=7)
    assert deal.open_shards == max(1, min(open_shards, 7 // readers))
    total = 22 * 12 // readers * readers
    taken = [deal.at(reader, number) for number in range(total // readers) for reader in range(readers)]
    seen = Counter(taken)
    assert max(seen.values()) - min(seen[shard, place] for shard in range(7) for place in range(counts[shard])) <= 2
    places = {}
    for reader in range(readers):
        for lane in range(deal.open_shards):  # within a lane shards follow each other whole
            expected = None
            for number in range(lane, total // readers, deal.open_shards):
                shard, place = deal.at(reader, number)
                assert (shard, place) == expected if expected is not None else place == 0
                expected = (shard, place + 1) if place + 1 < counts[shard] else None
                places[reader, number] = (shard, place)
    late = ShardDeal(counts, [1.0] * readers, open_shards, seed=7)  # a resumed run asks for a late clip first
    assert late.at(readers - 1, 20) == places[readers - 1, 20]
    assert {(ShardDeal(counts, [1.0], 1, seed).at(0, 0)[0]) for seed in range(60)} == {*range(7)}


@pytest.mark.parametrize(("weights", "clips", "processes", "workers"), [((5, 3, 2), 3, 2, 2), ((1, 1), 1, 2, 1), ((7,), 2, 1, 3)])
def test_readers_of_a_mixture_share_its_places(weights: tuple[int, ...], clips: int, processes: int, workers: int) -> None:
    schedule, share = Schedule([Fraction(weight) for weight in weights], seed=2), BatchShare(clips, 0, 1, 0, processes)
    count = processes * workers
    readers = [PlaceReaders(share, workers, schedule, place) for place in range(len(weights))]
    numbers = [[0] * count for _ in weights]
    for sample in range(400):
        place, clip = schedule.locate(sample)
        assert schedule.sample(place, clip) == sample
        reader, number = readers[place].locate(clip)
        assert reader == Readers(share, workers).locate(sample)[0] and number == numbers[place][reader]
        numbers[place][reader] += 1
    for place, taken in enumerate(numbers):
        assert np.allclose(readers[place].paces, np.array(taken) / max(taken), atol=0.1)
        deal = ShardDeal(counts := [3, 1, 4, 1, 5, 2, 6, 3], readers[place].paces, 2, seed=7)
        seen = Counter(deal.at(*readers[place].locate(clip)) for clip in range(20 * sum(counts)))
        times = [seen[shard, number] for shard in range(8) for number in range(counts[shard])]
        assert {*times} <= {19, 20, 21}  # after 20 epochs, however unlike the readers


def test_an_epoch_shows_every_video_once_and_reads_its_shard_onward(folder: Path, vae) -> None:
    place = CountingPlace(folder / "cache")
    stream = _stream(Cache(place, 6), vae)
    place.opened.clear()
    names = [stream.sample_name(position).split()[0] for position in range(44)]
    seen = Counter(names)
    assert len(seen) == 11 and max(seen.values()) - min(seen.values()) <= 2  # shards of two epochs are open at the end
    assert names[:11] != names[11:22]
    assert stream.cache._files == {} and place.opened == []  # all of this is known without reading
    for position in range(44):
        assert stream[position]["latents"].shape == (4, 4, 4, 4)
    opened = Counter(name for name in place.opened if name.startswith("clips"))
    assert len(opened) == 6 and max(opened.values()) <= 5


def test_a_streamed_item_is_the_one_read_at_random(folder: Path, vae) -> None:
    stream, cached = _stream(Cache(folder / "cache"), vae), CachedStream(folder / "cache", vae, 8, SIZE, 400, seed=1)
    for position in (0, 1, 37, 6, 6):  # onward, ahead, behind, again
        video, selection = stream.selection(position)
        cached.selection = lambda _, found=(video, selection): found
        item, other = stream[position], cached[position]
        assert item.keys() == other.keys()
        assert all(torch.equal(item[name], other[name]) for name in item)
    frames = stream.cache.frames(0, [5, 0, 3])  # whatever the order asked for
    for place, number in enumerate((5, 0, 3)):
        np.testing.assert_array_equal(frames.latents[place], stream.cache.frames(0, [number]).latents[0])


def _regroup(folder: Path, rows: int, **changes: object) -> Path:
    """Write the shards of the cache `folder` anew with row groups of `rows`, whatever the videos."""
    manifest = json.loads((folder / "manifest.json").read_text()) | changes
    for path in folder.glob("clips-*.parquet"):
        pq.write_table(pq.read_table(path), path, row_group_size=rows)
        manifest["files"][path.name]["bytes"] = path.stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize(("rows", "kind"), [(1, 1), (4, 2), (100, 2)])
def test_row_groups_of_any_size_are_read_both_ways(folder: Path, vae, tmp_path: Path, rows: int, kind: int) -> None:
    assert pq.read_metadata(folder / "cache" / "clips-00000.parquet").row_group(1).num_rows == 9  # of one video
    copy = shutil.copytree(folder / "cache", tmp_path / "cache")
    other = Cache(_regroup(copy, rows, format=kind))
    streams = [_stream(cache, vae) for cache in (Cache(folder / "cache"), other)]
    streams += [CachedStream(cache, vae, 8, SIZE, 400, seed=1) for cache in (folder / "cache", other)]
    for position in range(12):
        for one, two in (streams[:2], streams[2:]):
            item, same = one[position], two[position]
            assert all(torch.equal(item[name], same[name]) for name in item)


def test_going_back_opens_the_shard_anew_and_closes_what_was_open(folder: Path) -> None:
    cache = Cache(folder / "cache")
    part = sorted(cache.manifest["clips"])[0]
    rows = ShardRows(cache, part, stream_frames(cache).with_format("arrow"))
    again = rows.take(np.array([0, 3]))
    rows.take(np.array([17]))  # beyond the first row group
    opened = rows._batches
    assert rows.take(np.array([0, 3])) == again
    assert opened.gi_frame is None and rows._batches.gi_frame is not None


def test_what_decides_the_order_is_told_apart(folder: Path, vae, tmp_path: Path) -> None:
    cache = Cache(folder / "cache")
    told = _stream(cache, vae).describe()
    assert told["kind"] == "stream"
    others = {
        "processes": _stream(cache, vae, BatchShare(1, 1, 1, 0, 2)),
        "workers (num_workers, at least 1)": _stream(cache, vae, workers=2),
        "micro_steps": _stream(cache, vae, BatchShare(1, 1, 2)),
    }
    for name, other in others.items():
        assert [key for key in told if other.describe()[key] != told[key]] == [name]


def test_a_damaged_shard_is_named(folder: Path, vae, tmp_path: Path) -> None:
    copy = tmp_path / "cache"
    shutil.copytree(folder / "cache", copy)
    path = copy / "clips-00002.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"clips-00002\.parquet' is missing or damaged: \d+ bytes, expected"):
        _stream(Cache(copy), vae)
    path.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))  # the same size
    stream = _stream(Cache(copy), vae)
    with pytest.raises(ValueError, match=r"clips-00002\.parquet' is damaged: .*Parquet magic bytes not found"):
        [stream[position] for position in range(22)]
    path.write_bytes(bytes(len(whole) // 2) + whole[len(whole) // 2 :])
    with pytest.raises(ConnectionError, match=r"clips-00002 of .*after 0 retries"):
        [stream[position] for position in range(22)]
    table = pq.read_table(folder / "cache" / "clips-00002.parquet")
    pq.write_table(table.slice(0, 5), path)
    stream.cache.manifest["files"][path.name]["bytes"] = path.stat().st_size
    with pytest.raises(ValueError, match=r"clips-00002\.parquet' is damaged: 5 rows, the manifest names more"):
        [stream[position] for position in range(22)]


def test_places_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for address, message in (
        (tmp_path / "nothing", "is no cache of jog3r"),
        ("nothing://x", "cannot be opened: Protocol not known: nothing"),
        ("http://127.0.0.1:9/x", r"manifest\.json of 'http://127\.0\.0\.1:9/x' cannot be read"),
    ):
        with pytest.raises(ValueError, match=message):
            Cache(address)
    with pytest.raises(ValueError, match="a revision is for dataset repositories"):
        open_place(tmp_path, "main")


def test_a_repository_of_the_hub_is_read_at_the_commit_of_now(folder: Path, vae, monkeypatch: pytest.MonkeyPatch) -> None:
    share = BatchShare(1, 1)
    with serve(folder / "cache") as (address, _):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr("datasets.config.HF_ENDPOINT", address)
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        place = open_place("me/set")
        assert place.address == f"me/set@{COMMIT[:12]}" and place.url("x") == f"hf://datasets/me/set@{COMMIT}/x"
        assert open_place("hf://datasets/me/set", COMMIT).url("x") == place.url("x")
        stream, local = _stream(Cache(place), vae), _stream(Cache(folder / "cache"), vae)
        assert torch.equal(stream[0]["latents"], local[0]["latents"])
        config = settings(num_workers=1, num_steps=4, generation_batch=1, reconstruction_batch=1)
        for step, batch in enumerate(build_loader(stream, share, config, 1), 1):  # in a forked process
            for half in range(2):
                item = local[2 * step + half]
                assert all(torch.equal(batch[name][half], item[name]) for name in item)
        with pytest.raises(ValueError, match="the dataset repository 'me/set' has no revision 'v9'"):
            open_place("me/set", "v9")
        with pytest.raises(ValueError, match="'me/other' is no folder here, and the hub shows no dataset repository"):
            open_place("me/other")
    with pytest.raises(
        ValueError, match="'me/set' is no folder here, and the hub cannot be asked for a dataset repository of that name: "
    ):
        open_place("me/set")


def test_a_server_that_hangs_up_costs_nothing_but_time(folder: Path, vae, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("jog3r.training.clips.shard_stream.time.sleep", pauses.append)
    local = _stream(Cache(folder / "cache"), vae)
    with serve(folder / "cache", cut_every=10) as (address, cuts):  # one answer in ten
        stream = _stream(Cache(address, 6), vae, retries=4)
        for position in range(50):
            item, other = stream[position], local[position]
            assert stream.caption_text(position) == local.caption_text(position)
            assert all(torch.equal(item[name], other[name]) for name in item)
        assert len(cuts) >= 3 and len(pauses) >= 3
        rows = list(stream_frames(address))
        assert len(rows) == 99
    stream.cache.close()
    with pytest.raises(ConnectionError, match=rf"clips-0000\d of '{address}': .*\(after 4 retries, stream_retries\)"):
        stream[61]
    assert pauses[-4:] == [1, 2, 4, 8]
