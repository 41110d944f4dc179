"""RealEstate10K in the forms it is handed around: Parquet and WebDataset shards, streamed; chunks of JPEG frames."""

import io
import json
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_realestate10k import _add, _write_cameras, _write_video

from jog3r.data.clip import Clip
from jog3r.data.realestate10k import RealEstate10K, RealEstate10KChunks, RealEstate10KTars
from jog3r.data.realestate10k.camera_files import read_camera_file
from jog3r.data.realestate10k.table import RealEstate10KTable, open_table
from jog3r.data.source import ClipSource, read_image
from jog3r.data.video import read_video

SIZE = (16, 16)
NAMES = ("a", "b", "c", "d", "e")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Five clips of 4 frames as files: cameras/, frames/."""
    for folder in ("cameras", "frames"):
        (tmp_path / folder).mkdir()
    for number, name in enumerate(NAMES):
        _write_cameras(tmp_path / "cameras" / f"{name}.txt")
        _write_video(tmp_path / "frames" / f"{name}.mp4", size=(48, 32 + 16 * (number % 2)))
    return tmp_path


def parts(files: Path, name: str) -> tuple[bytes, str]:
    return (files / "frames" / f"{name}.mp4").read_bytes(), (files / "cameras" / f"{name}.txt").read_text()


def write_parquet(files: Path) -> Path:
    import pyarrow
    import pyarrow.parquet

    (files / "parquet").mkdir()
    for shard, names in enumerate((NAMES[:3], NAMES[3:])):
        videos, cameras = zip(*(parts(files, name) for name in names), strict=True)
        captions = [f"caption of {name}" for name in names]
        table = pyarrow.table({"name": list(names), "video": list(videos), "cameras": list(cameras), "caption": captions})
        pyarrow.parquet.write_table(table, files / "parquet" / f"train-{shard}.parquet", row_group_size=2)
    return files / "parquet"


def write_tars(files: Path) -> Path:
    (files / "tars").mkdir()
    for shard, names in enumerate((NAMES[:3], NAMES[3:])):
        with tarfile.open(files / "tars" / f"{shard:04d}.tar", "w") as archive:
            for name in names:
                video, cameras = parts(files, name)
                _add(archive, f"{name}.mp4", video)
                _add(archive, f"{name}.txt", cameras.encode())
                _add(archive, f"{name}.json", json.dumps({"caption": f"caption of {name}"}).encode())
    return files / "tars"


def same(clip: Clip, expected: Clip) -> None:
    for name in ("frames", "poses", "intrinsics"):
        np.testing.assert_array_equal(getattr(clip, name), getattr(expected, name))


@pytest.mark.parametrize("write", [write_parquet, write_tars])
def test_streamed_shards_give_what_files_give_in_any_order(files: Path, write) -> None:
    pytest.importorskip("datasets")
    source: ClipSource = RealEstate10KTable(open_table(str(write(files))), SIZE)
    expected = RealEstate10K(files / "cameras", files / "frames", SIZE, default_caption="")
    assert list(source.names) == list(NAMES)
    assert source.settings() == expected.settings()  # the same list, however it is stored
    for index in (0, 2, 1, 4, 3, 0):
        same(source.load(index), expected.load(index))
        assert source.captions(index) == (f"caption of {NAMES[index]}",) * 2


def test_a_stream_is_read_once_onwards_however_shares_are_dealt() -> None:
    """A row that was passed long ago needs another stream; one far ahead does not."""
    begun: list[int] = []

    class Rows:
        columns, local = ("name", "video", "cameras"), False

        def read(self, columns: list[str], start: int):
            begun.append(start)
            return ({name: f"{name} {number}" for name in self.columns} for number in range(start, 200))

    source = RealEstate10KTable.__new__(RealEstate10KTable)
    source._rows, source._columns, source._lock = Rows(), {"name": "name"}, threading.Lock()
    source._stream, source._next, source._passed, source.names = iter(()), 200, {}, range(200)
    for start in range(0, 200, 32):  # this process's half, in shards of 16
        assert [source._row(index)["name"] for index in range(start, min(start + 16, 200))][0] == f"name {start}"
    assert begun == [0] and len(source._passed) <= 16
    assert source._row(5)["name"] == "name 5" and begun == [0, 5]


def test_tables_that_are_none_are_refused(files: Path) -> None:
    pytest.importorskip("datasets")
    import pyarrow
    import pyarrow.parquet

    with pytest.raises(ValueError, match=r"holds neither \*.parquet nor \*.tar"):
        open_table(str(files / "frames"))
    (files / "odd").mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"name": ["a"], "cameras": ["x"]}), files / "odd" / "a.parquet")
    with pytest.raises(ValueError, match="no column for video .video or mp4.; it has name, cameras"):
        RealEstate10KTable(open_table(str(files / "odd")), SIZE)
    rows = pyarrow.table({"name": ["a", "b"], "video": [b"no video", b""], "cameras": [parts(files, "a")[1]] * 2})
    pyarrow.parquet.write_table(rows, files / "odd" / "a.parquet")
    source = RealEstate10KTable(open_table(str(files / "odd")), SIZE, default_caption="")
    with pytest.raises(ValueError, match="cannot be opened as a video"):
        source.load(0)
    with pytest.raises(ValueError, match="clip 'b' has no video"):
        source.load(1)
    with pytest.raises(ValueError, match="no caption for clip 'a'"):
        RealEstate10KTable(open_table(str(files / "odd")), SIZE).captions(0)


def write_chunks(files: Path) -> tuple[Path, np.ndarray]:
    """Chunks of pixelSplat's layout; the frames as JPEG gives them back."""
    (files / "chunks").mkdir()
    frames = np.random.default_rng(0).integers(0, 255, (4, 20, 30, 3)).astype(np.uint8)
    images = []
    for frame in frames:
        content = io.BytesIO()
        Image.fromarray(frame).resize((30, 20)).save(content, "JPEG", quality=95)
        images.append(torch.tensor(list(content.getvalue()), dtype=torch.uint8))
    cameras = read_camera_file(files / "cameras" / "a.txt")
    world_to_camera = np.linalg.inv(cameras.poses)[:, :3].reshape(-1, 12)
    numbers = np.concatenate([cameras.normalised, np.zeros((4, 2)), world_to_camera], 1)
    index = {}
    for shard, names in enumerate((NAMES[:3], NAMES[3:])):
        clip = {"url": cameras.url, "timestamps": torch.from_numpy(cameras.timestamps)}
        clip |= {"cameras": torch.from_numpy(numbers).float(), "images": images}
        torch.save([{**clip, "key": name} for name in names], files / "chunks" / f"{shard:06d}.torch")
        index |= {name: f"{shard:06d}.torch" for name in names}
    (files / "chunks" / "index.json").write_text(json.dumps(index))
    decoded = [np.asarray(Image.open(io.BytesIO(bytes(image.numpy()))).convert("RGB")) for image in images]
    return files / "chunks", np.stack(decoded)


def test_chunks_give_frames_and_cameras(files: Path) -> None:
    folder, frames = write_chunks(files)
    source = RealEstate10KChunks(folder, (20, 30), default_caption="a room")
    clip = source.load(4)
    expected = RealEstate10K(files / "cameras", files / "frames", (20, 30), default_caption="").load(0)
    np.testing.assert_array_equal(clip.frames, frames)
    np.testing.assert_allclose(clip.poses, expected.poses, atol=1e-6)
    np.testing.assert_allclose(clip.intrinsics, expected.intrinsics, rtol=1e-6)
    assert (list(source.names), clip.caption) == (list(NAMES), "a room")


def test_damaged_chunks_are_named(files: Path) -> None:
    folder, _ = write_chunks(files)
    source = RealEstate10KChunks(folder, SIZE, default_caption="")
    (folder / "000001.torch").write_bytes((folder / "000001.torch").read_bytes()[:500])
    source.load(0)
    with pytest.raises(ValueError, match="chunk '000001.torch' is missing, damaged"):
        source.load(3)
    torch.save([{"key": "a", "url": "", "timestamps": [1.0]}], folder / "000000.torch")
    fresh = RealEstate10KChunks(folder, SIZE, default_caption="")
    with pytest.raises(ValueError, match="clip 'a' in '000000.torch' is damaged or of another layout"):
        fresh.load(0)
    with pytest.raises(ValueError, match="does not hold clip 'b'"):
        fresh.load(1)
    with pytest.raises(ValueError, match="index.json' cannot be read"):
        RealEstate10KChunks(files, SIZE)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    "content", [POINTER, np.random.default_rng(0).bytes(400), b"", b"\x80\x02.", b"\x80\x02]q", b"}a", b"G\x00."]
)
def test_chunks_of_anything_else_are_named(files: Path, content: bytes) -> None:
    folder, _ = write_chunks(files)
    (folder / "000001.torch").write_bytes(content)
    with pytest.raises(ValueError, match="chunk '000001.torch' is missing, damaged or of another layout"):
        RealEstate10KChunks(folder, SIZE, default_caption="").load(3)


@pytest.mark.parametrize("change", [{"images": None}, {"images": [1]}, {"timestamps": torch.tensor(1)}, {"cameras": {}}])
def test_clips_of_another_layout_are_named(files: Path, change: dict) -> None:
    folder, _ = write_chunks(files)
    clips = torch.load(folder / "000000.torch", weights_only=True)
    torch.save([{**clips[0], **change}, *clips[1:]], folder / "000000.torch")
    source = RealEstate10KChunks(folder, SIZE, default_caption="")
    with pytest.raises(ValueError, match="clip 'a' in '000000.torch' is damaged or of another layout"):
        source.load(0)
    source.load(1)


def test_images_that_would_fill_the_memory_are_named(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, frames = write_chunks(files)
    source = RealEstate10KChunks(folder, SIZE, default_caption="")
    (files / "images").mkdir()
    for number in range(2):
        Image.fromarray(frames[0]).save(files / "images" / f"{number}.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30 * 20 // 3)  # above twice of it Pillow refuses
    with pytest.raises(ValueError, match="clip 'a' in '000000.torch' is damaged .*DecompressionBomb"):
        source.load(0)
    with pytest.raises(ValueError, match="0.png' is no readable image .*exceeds limit"):
        read_image(files / "images" / "0.png")
    with pytest.raises(ValueError, match="0.png' is no readable image .*exceeds limit"):
        read_video(files / "images")


@pytest.mark.parametrize(
    ("content", "caption"),
    [
        (b'{"caption": "a hall"}', "a hall"),
        (b'{"caption": ["a hall", "another"]}', "a hall"),
        (b'["a hall"]', "a hall"),
        (b'"a hall"', "a hall"),
        (b'{"caption": null}', "listed"),
        (b"{}", "listed"),
        (b"[]", "listed"),
        (b"7", "listed"),
        (b'{"caption": "a h', None),
        (b"\xff\xfe{", None),
    ],
)
def test_captions_of_tars_and_tables_are_read_alike(files: Path, content: bytes, caption: str | None) -> None:
    pytest.importorskip("datasets")
    import pyarrow
    import pyarrow.parquet

    video, cameras = parts(files, "a")
    with tarfile.open(files / "a.tar", "w") as archive:
        for suffix, part in (("mp4", video), ("txt", cameras.encode()), ("json", content)):
            _add(archive, f"a.{suffix}", part)
    (files / "table").mkdir()
    table = pyarrow.table({"name": ["a"], "video": [video], "cameras": [cameras], "json": [content]})
    pyarrow.parquet.write_table(table, files / "table" / "a.parquet")
    (files / "captions.json").write_text('{"a": "listed"}')
    for source in (
        RealEstate10KTars(files / "a.tar", SIZE, files / "captions.json", default_caption="default"),
        RealEstate10KTable(open_table(str(files / "table")), SIZE, files / "captions.json", default_caption="default"),
    ):
        if caption is None:
            with pytest.raises(ValueError, match="the caption of clip 'a' is no json"):
                source.captions(0)
        else:
            assert source.captions(0) == (caption, caption)
