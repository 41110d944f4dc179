"""Tars and tables of strangers: nothing of them vanishes uncounted, and what is damaged is one line that names the file."""

import json
import logging
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from test_realestate10k import _add, _write_cameras, _write_video
from test_realestate10k_copies import write_chunks, write_tars

from jog3r.commands.output_folder import UsageError
from jog3r.commands.reconstruction.known_cameras import read_true_cameras
from jog3r.data.realestate10k import RealEstate10K, RealEstate10KChunks, RealEstate10KTable, RealEstate10KTars
from jog3r.data.realestate10k.base import RealEstate10KSource
from jog3r.data.realestate10k.table import open_table
from jog3r.data.realestate10k.table_rows import stream_rows
from jog3r.training.preparation.prepare_config import PrepareConfig, source_of
from jog3r.training.prepare import main

SIZE = (16, 16)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """One clip of 4 frames as files: cameras/, frames/."""
    for folder in ("cameras", "frames"):
        (tmp_path / folder).mkdir()
    for name in "abcde":
        _write_cameras(tmp_path / "cameras" / f"{name}.txt")
        _write_video(tmp_path / "frames" / f"{name}.mp4", size=(48, 32))
    return tmp_path


def clip_parts(files: Path, name: str) -> dict[str, bytes]:
    video, cameras = (files / "frames/a.mp4").read_bytes(), (files / "cameras/a.txt").read_bytes()
    return {f"{name}.mp4": video, f"{name}.txt": cameras, f"{name}.json": b'{"caption": "a room"}'}


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            _add(archive, name, content)
    return path.parent


def write_table(folder: Path, **columns: object) -> Path:
    folder.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "a.parquet", row_group_size=1)
    return folder


def both(folder: Path) -> list[RealEstate10KSource]:
    """Tars as either source reads them."""
    return [RealEstate10KTars(folder, SIZE), RealEstate10KTable(open_table(str(folder)), SIZE)]


# Tars


@pytest.mark.parametrize("name", [".DS_Store", "._a.mp4", "x/.gitkeep", "__MACOSX/._a.mp4", ".git/a.txt", "./.hidden/a.mp4"])
def test_what_systems_leave_in_a_tar_is_ignored(files: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_tar(files / "tars/0.tar", {name: b"\0\5\26\7", **clip_parts(files, "./a")})
    (folder / "._0.tar").write_bytes(b"\0\5\26\7")
    for source in both(folder):
        assert list(source.names) == ["a"]
        assert source.load(0).num_frames == 4
    assert not caplog.records


@pytest.mark.parametrize("names", [("v1.0_a", "v1.0_b"), ("s", "s.1", "s.2"), ("x.y/a", "x.z/a"), ("ü b", "c")])
def test_names_may_hold_dots(files: Path, names: tuple[str, ...]) -> None:
    members = {name: content for key in names for name, content in clip_parts(files, key).items()}
    for source in both(write_tar(files / "tars/0.tar", members)):
        assert tuple(source.names) == names
        assert source.load(len(names) - 1).caption == "a room"


def test_clips_that_lack_a_part_count_and_say_which(files: Path) -> None:
    a, b, c = (clip_parts(files, name) for name in "abc")
    folder = write_tar(files / "tars/0.tar", {**a, "b.txt": b["b.txt"], "b.json": b["b.json"], "c.mp4": c["c.mp4"]})
    for source in both(folder):
        assert list(source.names) == ["a", "b", "c"]
        with pytest.raises(ValueError, match="clip 'b' has no video"):
            source.load(1)
    with pytest.raises(ValueError, match="'c' has no camera file"):
        RealEstate10KTars(folder, SIZE, default_caption="").load(2)
    with pytest.raises(ValueError, match="'c' has no cameras"):
        RealEstate10KTable(open_table(str(folder)), SIZE, default_caption="").load(2)


def test_files_that_belong_to_no_clip_are_named(files: Path, caplog: pytest.LogCaptureFixture) -> None:
    extra = {"README.md": b"x", "index.json": b"{}", "a.caption.txt": b"a room", "a.depth.mp4": b"x"}
    source = RealEstate10KTars(write_tar(files / "tars/0.tar", {**clip_parts(files, "a"), **extra}), SIZE)
    assert list(source.names) == ["a"]
    assert "4 files of 0.tar belong to no clip; not read: " in caplog.text
    assert all(name in caplog.text for name in extra)


def test_a_tar_grouped_by_type_loses_nothing(files: Path) -> None:
    members = {name: content for key in "abcdefg" for name, content in clip_parts(files, key).items()}
    grouped = dict(sorted(members.items(), key=lambda item: item[0].rpartition(".")[2]))
    for source in both(write_tar(files / "tars/0.tar", grouped)):
        assert sorted(source.names) == list("abcdefg")
        assert all(source.load(index).num_frames == 4 for index in (6, 0, 3))


def test_a_tar_cut_off_anywhere_is_refused_with_what_to_do(files: Path) -> None:
    folder = write_tar(files / "tars/0.tar", {"a.txt": b"a", "a.mp4": b"b" * 700, "b.txt": b"c", "b.mp4": b"d"})
    content = (folder / "0.tar").read_bytes()
    assert list(RealEstate10KTars(folder, SIZE).names) == ["a", "b"]
    end = 9 * 512  # headers and content of the four files
    for length in range(0, end + 512, 256):
        (folder / "0.tar").write_bytes(content[:length])
        for read in (lambda: RealEstate10KTars(folder, SIZE), lambda: open_table(str(folder))):
            with pytest.raises(ValueError, match="0.tar' is (cut off behind|no readable tar).*copy it again") as caught:
                read()
            assert "\n" not in str(caught.value)
    (folder / "0.tar").write_bytes(content[:end] + bytes(1024))  # what the message says to run
    assert list(RealEstate10KTars(folder, SIZE).names) == ["a", "b"]


def test_tars_that_hide_clips_behind_an_end_are_refused(files: Path) -> None:
    folder = write_tar(files / "tars/0.tar", clip_parts(files, "a"))
    content = (folder / "0.tar").read_bytes()
    (folder / "0.tar").write_bytes(content + content)
    with pytest.raises(ValueError, match="0.tar' goes on behind its end: several tars were joined"):
        RealEstate10KTars(folder, SIZE)
    members = {**clip_parts(files, "a"), **clip_parts(files, "b")}
    content = bytearray((write_tar(files / "tars/0.tar", members) / "0.tar").read_bytes())
    content[content.index(b"b.mp4")] ^= 255  # a header whose checksum is wrong
    (folder / "0.tar").write_bytes(content)
    with pytest.raises(ValueError, match="0.tar' is damaged at byte .* behind 'a.json'"):
        RealEstate10KTars(folder, SIZE)


def test_tars_that_cannot_be_meant_are_refused(files: Path) -> None:
    folder = write_tar(files / "tars/0.tar", {"notes.md": b"x"})
    with pytest.raises(ValueError, match="holds no clips"):
        RealEstate10KTars(folder, SIZE)
    with tarfile.open(folder / "0.tar", "w") as archive:
        for _ in range(2):
            _add(archive, "a.mp4", b"x")
    with pytest.raises(ValueError, match="holds 'a.mp4' twice"):
        RealEstate10KTars(folder, SIZE)
    write_tar(folder / "0.tar", {"a.mp4": b"x", "a.webm": b"x", "a.txt": b"x"})
    with pytest.raises(ValueError, match=r"clip 'a' has 2 videos \(.mp4, .webm\)"):
        RealEstate10KTars(folder, SIZE)
    write_tar(folder / "0.tar", clip_parts(files, "a"))
    (folder / "1.tar.gz").write_bytes(b"x")
    with pytest.raises(ValueError, match="1.tar.gz' is compressed; unpack it"):
        RealEstate10KTars(folder, SIZE)


@pytest.mark.parametrize("content", [b'{"caption": "a h', b"\xff\xfe{"])
def test_bad_json_of_one_sample_costs_that_sample(files: Path, content: bytes) -> None:
    members = {**clip_parts(files, "a"), "a.json": content, **clip_parts(files, "b")}
    for source in both(write_tar(files / "tars/0.tar", members)):
        with pytest.raises(ValueError, match="the caption of clip 'a' is no json"):
            source.captions(0)
        assert source.load(1).caption == "a room"


# Tables


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(200), b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_file_that_is_no_parquet_is_named(files: Path, content: bytes) -> None:
    folder = write_table(files / "table", name=["a"], video=[b"x"], cameras=["x"])
    (folder / "b.parquet").write_bytes(content)
    with pytest.raises(ValueError, match="b.parquet' is no readable Parquet file .*; copy it again") as caught:
        open_table(str(folder))
    assert "\n" not in str(caught.value)


def test_a_damaged_row_costs_its_row_group(files: Path) -> None:
    video, cameras = (files / "frames/a.mp4").read_bytes(), (files / "cameras/a.txt").read_text()
    folder = write_table(files / "table", name=["a", "b", "c"], video=[video] * 3, cameras=[cameras] * 3)
    path = folder / "a.parquet"
    group = pyarrow.parquet.ParquetFile(path).metadata.row_group(1).column(1)
    content = bytearray(path.read_bytes())
    start = group.dictionary_page_offset or group.data_page_offset
    content[start : start + 20] = b"\xff" * 20
    path.write_bytes(content)
    source = RealEstate10KTable(open_table(str(folder)), SIZE, default_caption="")
    for index in (0, 1, 2, 1, 0):
        if index == 1:
            with pytest.raises(ValueError, match="a.parquet' is damaged behind row 1 .*; copy it again") as caught:
                source.load(index)
            assert "\n" not in str(caught.value)
        else:
            assert source.load(index).num_frames == 4


def test_files_of_one_table_with_other_columns_are_refused(files: Path) -> None:
    folder = write_table(files / "table", name=["a"], video=[b"x"], cameras=["x"], caption=["c"])
    pyarrow.parquet.write_table(pyarrow.table({"name": ["b"], "video": [b"x"], "cameras": ["x"]}), folder / "b.parquet")
    with pytest.raises(ValueError, match="b.parquet' differs from 'a.parquet' in its columns caption"):
        open_table(str(folder))
    write_tar(folder / "0.tar", {})
    with pytest.raises(ValueError, match=r"holds both \*.parquet and \*.tar"):
        open_table(str(folder))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"video": [["a", "b"]]}, "the video of clip 'a' must be a file's content, got a list"),
        ({"video": ["a.mp4"]}, r"the video of clip 'a' is a text \('a.mp4'\); the table must hold the bytes"),
        ({"video": [7]}, "the video of clip 'a' must be a file's content, got a int"),
        ({"video": [None]}, "clip 'a' has no video"),
        ({"video": [{"bytes": None, "path": "/nowhere/a.mp4"}]}, r"video of clip 'a' is only a path \('/nowhere/a.mp4'\)"),
        ({"cameras": [[0.1, 0.2]]}, "the cameras of clip 'a' must be a file's content, got a list"),
        ({"cameras": [None]}, "clip 'a' has no cameras"),
        ({"cameras": ["url\n1 2 3"]}, "'a' is no RealEstate10K camera file"),
    ],
)
def test_columns_of_other_types_cost_their_rows(files: Path, columns: dict, message: str) -> None:
    video, cameras = (files / "frames/a.mp4").read_bytes(), (files / "cameras/a.txt").read_text()
    folder = write_table(files / "table", **{"name": ["a"], "video": [video], "cameras": [cameras], **columns})
    with pytest.raises(ValueError, match=message):
        RealEstate10KTable(open_table(str(folder)), SIZE, default_caption="").load(0)


def test_columns_of_other_types_that_say_the_same_are_read(files: Path) -> None:
    video, cameras = (files / "frames/a.mp4").read_bytes(), (files / "cameras/a.txt").read_bytes()
    big = pyarrow.array([cameras], pyarrow.large_binary())
    folder = write_table(
        files / "table", name=[7], video=[{"bytes": video, "path": None}], cameras=big, json=['{"caption": "a"}']
    )
    source = RealEstate10KTable(open_table(str(folder)), SIZE)
    assert (list(source.names), source.load(0).caption) == (["7"], "a")
    write_table(folder, name=[b"a"], video=[video], cameras=[cameras.decode()], caption=[b"a hall"])
    source = RealEstate10KTable(open_table(str(folder)), SIZE)
    assert (list(source.names), source.load(0).caption) == (["a"], "a hall")
    for names, message in ((["a", None], "row 1 of the table has no name"), (["a", "a"], "names 'a' twice"), ([], "no rows")):
        names_of = pyarrow.array(names, pyarrow.string())
        write_table(folder, name=names_of, video=[video] * len(names), cameras=["x"] * len(names))
        with pytest.raises(ValueError, match=message):
            RealEstate10KTable(open_table(str(folder)), SIZE)


def test_video_features_of_datasets_are_read(files: Path) -> None:
    datasets = pytest.importorskip("datasets")
    cameras = (files / "cameras/a.txt").read_text()
    rows = datasets.Dataset.from_dict({"name": ["a"], "video": [str(files / "frames/a.mp4")], "cameras": [cameras]})
    rows = rows.cast_column("video", datasets.Video())
    (files / "table").mkdir()
    rows.to_parquet(str(files / "table/a.parquet"))
    stored = RealEstate10KTable(open_table(str(files / "table")), SIZE, default_caption="")
    assert stored.load(0).num_frames == 4
    # The same from a stream, as it comes from the hub: paths of other machines mean nothing, and are not followed here.
    stream = rows.to_iterable_dataset().decode(False)
    with pytest.raises(ValueError, match="is only a path"):
        RealEstate10KTable(stream, SIZE, default_caption="").load(0)


def test_streams_of_datasets_give_one_line(files: Path) -> None:
    datasets = pytest.importorskip("datasets")
    folder = write_tars(files)
    tars = [str(path) for path in sorted(folder.iterdir())]
    stream = datasets.load_dataset("webdataset", data_files=tars, split="train", streaming=True).decode(False)
    source = RealEstate10KTable(stream, SIZE)
    assert list(source.names) == list("abcde")
    assert source.load(3).caption == "caption of d"
    write_tar(folder / "0001.tar", {**clip_parts(files, "d"), "d.json": b"{"})
    with pytest.raises(ValueError, match="the table cannot be read behind row 3 .*; download it and name the folder") as caught:
        RealEstate10KTable(stream, SIZE)
    assert "\n" not in str(caught.value)


def test_the_command_says_one_line(files: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_tar(files / "tars/0.tar", clip_parts(files, "a"))
    (folder / "0.tar").write_bytes((folder / "0.tar").read_bytes()[:-9000])
    words = ["--source", "realestate10k_table", "--frames", str(folder), "--output_dir", str(files / "cache"), "--depth", "none"]
    assert main([*words, "--model", "/nowhere"]) == 2
    [line] = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert "0.tar" in line and "\n" not in line


# Every shape


def test_every_nth_frame_in_every_shape(files: Path) -> None:
    for folder in ("times", "numbers"):
        (files / folder / "a").mkdir(parents=True)
    for number in range(4):
        image = Image.new("RGB", (48, 32), (40 * number + 20,) * 3)
        image.save(files / "times/a" / f"{1000 * number}.png")
        image.save(files / "numbers/a" / f"{number + 8}.png")
        (files / "numbers/a" / f"._{number + 8}.png").write_bytes(b"\0\5\26\7")
    (files / "list.txt").write_text("\ufeffa\n", encoding="utf-8")
    write_tars(files)
    write_chunks(files)
    common = {"output_dir": "x", "model": "x", "height": 16, "width": 16, "default_caption": "", "depth": "none"}
    for source, options in (
        *(("realestate10k", {"cameras": str(files / "cameras"), "split": str(files / "list.txt"), "frames": str(files / place)})
          for place in ("frames", "times", "numbers")),
        *((f"realestate10k_{kind}", {"frames": str(files / place)})
          for kind, place in (("tars", "tars"), ("table", "tars"), ("chunks", "chunks"))),
    ):  # fmt: skip
        whole, thin = (source_of(PrepareConfig(source=source, frame_step=n, **options, **common)) for n in (1, 3))
        assert whole.names[0] == "a"
        clip, expected = thin.load(0), whole.load(0)
        assert thin.expected_frames(0) in (None, 2)
        for name in ("frames", "poses", "intrinsics"):
            np.testing.assert_array_equal(getattr(clip, name), getattr(expected, name)[::3])
        assert thin.settings() == {**whole.settings(), "frame_step": 3}
    with pytest.raises(ValueError, match="frame_step must be at least 1, got 0"):
        PrepareConfig(source="realestate10k", frame_step=0, **common)
    with pytest.raises(ValueError, match="frame_step=3 means nothing to source=procedural"):
        PrepareConfig(source="procedural", frame_step=3, output_dir="x", model="x")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_with_cameras_are_read_as_they_are_stored(files: Path, orientation: int) -> None:
    (files / "images/a").mkdir(parents=True)
    picture = np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for number in range(4):
        Image.fromarray(picture).save(files / "images/a" / f"{number}.png", exif=exif)
    (files / "list.txt").write_text("a")
    source = RealEstate10K(files / "cameras", files / "images", SIZE, split=files / "list.txt", default_caption="")
    np.testing.assert_array_equal(source.load(0).frames[3], picture)


def test_camera_files_of_a_mac_and_chunks_without_index_do_not_count_silently(
    files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (files / "cameras/._a.txt").write_bytes(b"\0\5\26\7")
    assert list(RealEstate10K(files / "cameras", files / "frames", SIZE).names) == list("abcde")
    folder, _ = write_chunks(files)
    (folder / "000002.torch").write_bytes(b"x")
    RealEstate10KChunks(folder, SIZE)
    assert "1 chunks are not named by index.json; not read: 000002.torch" in caplog.text
    caplog.clear()
    index = json.loads((folder / "index.json").read_text())
    index.pop("b")
    (folder / "index.json").write_text(json.dumps(index))
    RealEstate10KChunks(folder, SIZE, default_caption="").load(0)
    assert "1 clips of 000000.torch are not named by index.json; not read: b" in caplog.text
    (files / "cameras/a.txt").unlink()
    assert list(RealEstate10K(files / "cameras", files / "frames", SIZE).names) == list("bcde")
    assert "1 videos or folders of images have no camera file; not read: a.mp4" in caplog.text
    caplog.clear()
    (files / "frames/spare").mkdir()
    Image.new("RGB", (48, 32)).save(files / "frames/spare/0.png")
    RealEstate10K(files / "cameras", files / "frames", SIZE)
    assert "2 videos or folders of images have no camera file; not read: a.mp4, spare" in caplog.text
    caplog.clear()
    (files / "list.txt").write_text("b")  # a list says what is wanted
    RealEstate10K(files / "cameras", files / "frames", SIZE, split=files / "list.txt")
    assert not caplog.records


def test_two_images_of_one_time_are_refused(files: Path) -> None:
    (files / "times/a").mkdir(parents=True)
    for name in ("0.png", "1000.png", "1000.jpg", "2000.png", "3000.png"):
        Image.new("RGB", (48, 32)).save(files / "times/a" / name)
    with pytest.raises(ValueError, match="holds two images of the time 1000 us, one of them '1000.jpg'"):
        RealEstate10K(files / "cameras", files / "times", SIZE, default_caption="").load(0)


def test_true_cameras_are_read_by_the_same_parser(files: Path) -> None:
    path = files / "cameras/a.txt"
    poses = read_true_cameras(path)
    assert poses.shape == (4, 4, 4)
    path.write_text(path.read_text().replace("3000 ", "1000 "))
    with pytest.raises(UsageError, match="a.txt'.* frame 3: it has a time that does not increase"):
        read_true_cameras(path)


def test_a_broken_video_in_a_tar_is_named_by_its_clip(files: Path) -> None:
    members = {**clip_parts(files, "a"), "a.mp4": b"no video"}
    for source in both(write_tar(files / "tars/0.tar", members)):
        with pytest.raises(ValueError, match="^the video of clip 'a' cannot be opened"):
            source.load(0)


def test_a_worker_of_a_loader_reads_all_rows_of_a_stream_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def files(shards: list[int]) -> Iterator[dict[str, int]]:
        for shard in shards:
            yield from ({"row": 4 * shard + place} for place in range(4))

    datasets = pytest.importorskip("datasets")
    stream = datasets.IterableDataset.from_generator(files, gen_kwargs={"shards": [0, 1, 2]})
    worker = SimpleNamespace(id=1, num_workers=2, seed=0, dataset=None)
    monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda: worker)
    rows = stream_rows(stream)
    assert [row["row"] for row in rows.read(["row"], 3)] == list(range(3, 12))
