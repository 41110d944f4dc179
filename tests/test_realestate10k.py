"""RealEstate10K: camera files, split lists, captions, and real frames that fit their cameras."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from patch_matching import corner_matches
from PIL import Image

from jog3r.data.realestate10k import RealEstate10K, RealEstate10KTars
from jog3r.data.realestate10k.camera_files import pixel_intrinsics, read_camera_file
from jog3r.data.realestate10k.lists import read_captions, read_split


def _line(time: int, centre_x: float = 0.0, angle: float = 0.0, focal: tuple[float, float] = (0.5, 0.9)) -> str:
    """A camera at (centre_x, 0, 0) turned by `angle` about y."""
    rotation = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])  # world to camera
    world_to_camera = np.concatenate([rotation, -rotation @ [[centre_x], [0], [0]]], 1)
    return " ".join(str(value) for value in (time, *focal, 0.5, 0.5, 0, 0, *world_to_camera.ravel()))


def _write_cameras(path: Path, count: int = 4) -> Path:
    lines = ["https://example.org/watch", *(_line(1000 * k, 0.1 * k, 0.2 * k) for k in range(count))]
    path.write_text("\n".join(lines) + "\n")
    return path


def _write_video(path: Path, count: int = 4, size: tuple[int, int] = (48, 32)) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = size[0], size[1], "yuv420p"
        for number in range(count):
            image = np.full((size[1], size[0], 3), 40 * number + 20, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture
def dataset(tmp_path: Path) -> tuple[Path, Path]:
    """Cameras and frames of the clips a (video), b (images by time) and c (images by number)."""
    cameras, frames = tmp_path / "cameras", tmp_path / "frames"
    cameras.mkdir()
    for name in "abc":
        _write_cameras(cameras / f"{name}.txt")
        (frames / name).mkdir(parents=True)
    (frames / "a").rmdir()
    _write_video(frames / "a.mp4")
    for number in range(4):
        image = Image.new("RGB", (48, 32), (40 * number + 20,) * 3)
        image.save(frames / "b" / f"{1000 * number}.png")
        image.save(frames / "c" / f"frame_{number + 8}.png")
    Image.new("RGB", (48, 32)).save(frames / "b" / "500.png")  # of the video, but not of the clip
    return cameras, frames


def test_cameras_become_camera_to_world(tmp_path: Path) -> None:
    cameras = read_camera_file(_write_cameras(tmp_path / "a.txt"))
    assert cameras.url == "https://example.org/watch"
    assert cameras.timestamps.tolist() == [0, 1000, 2000, 3000]
    np.testing.assert_allclose(cameras.poses[:, :3, 3], [[0.1 * k, 0, 0] for k in range(4)], atol=1e-12)
    # Turned about y (which points down), the view direction of frame 1 leans to positive x.
    np.testing.assert_allclose(cameras.poses[1, :3, 2], [np.sin(0.2), 0, np.cos(0.2)], atol=1e-12)
    np.testing.assert_allclose(cameras.normalised, [[0.5, 0.9, 0.5, 0.5]] * 4)


def test_focal_lengths_are_in_units_of_their_own_side() -> None:
    normalised = np.array([[0.5, 0.9, 0.5, 0.5]])
    stretched = pixel_intrinsics(normalised, 64, 64)[0]
    np.testing.assert_allclose(stretched, [[32, 0, 32], [0, 57.6, 32], [0, 0, 1]], rtol=1e-6)
    # A 16:9 image, of which 0.5 and 0.9 are the same number of pixels up to rounding: square pixels.
    wide = pixel_intrinsics(np.array([[0.5, 0.5 * 16 / 9, 0.5, 0.5]]), 360, 640)[0]
    assert wide[0, 0] == pytest.approx(wide[1, 1])


@pytest.mark.parametrize("mode", ["stretch", "crop"])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_videos_and_both_kinds_of_image_folders(dataset: tuple[Path, Path], index: int, mode: str) -> None:
    source = RealEstate10K(*dataset, (16, 16), resize_mode=mode, default_caption="a room")
    clip = source.load(index)
    assert clip.frames.shape == (4, 16, 16, 3)
    np.testing.assert_allclose(clip.frames.mean((1, 2, 3)), [20, 60, 100, 140], atol=4)
    assert not clip.valid.any()
    assert not clip.depth.any()
    np.testing.assert_array_equal(clip.poses[0], np.eye(4))
    # Of 48 x 32, "crop" keeps 32 x 32: half a pixel of the new size is one of the old, and the centre stays the centre.
    focal = [8.0, 14.4] if mode == "stretch" else [0.5 * 48 / 2, 0.9 * 32 / 2]
    np.testing.assert_allclose(clip.intrinsics[2], [[focal[0], 0, 8], [0, focal[1], 8], [0, 0, 1]], rtol=1e-6)
    assert clip.caption == "a room"


def test_numbers_are_no_times_because_both_begin_at_0(dataset: tuple[Path, Path]) -> None:
    cameras, frames = dataset
    for number in range(4):
        (frames / "c" / f"frame_{number + 8}.png").rename(frames / "c" / f"{number:05d}.png")
    clip = RealEstate10K(cameras, frames, (16, 16), default_caption="").load(2)
    np.testing.assert_allclose(clip.frames.mean((1, 2, 3)), [20, 60, 100, 140], atol=4)


def test_what_is_missing_is_named(dataset: tuple[Path, Path]) -> None:
    cameras, frames = dataset
    source = RealEstate10K(cameras, frames, (16, 16), default_caption="")
    (frames / "b" / "2000.png").unlink()
    with pytest.raises(ValueError, match="lacks 1 of 4 frames, the first at 2000 us"):
        source.load(1)
    (frames / "c" / "frame_9.png").unlink()
    with pytest.raises(ValueError, match="the video of 'c' has 3 frames, its camera file 4 lines"):
        source.load(2)
    content = (frames / "a.mp4").read_bytes()
    (frames / "a.mp4").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="a.mp4"):
        source.load(0)
    (frames / "a.mp4").unlink()
    with pytest.raises(ValueError, match="frames of clip 'a' are missing"):
        source.load(0)
    with pytest.raises(ValueError, match="no caption for clip 'a'"):
        RealEstate10K(cameras, frames, (16, 16)).captions(0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "needs lines of 19 numbers"),
        ("url\n1 2 3\n", "needs lines of 19 numbers"),
        ("url\n" + _line(0) + "\n1 2 3\n", "no RealEstate10K camera file"),
        ("url\nnot numbers\n", "no RealEstate10K camera file"),
        ("url\n" + _line(0).replace("0.9", "nan"), "needs lines of 19"),
        ("url\n" + _line(5) + "\n" + _line(5), "frame 1: .*time that does not increase"),
        ("url\n" + _line(0, focal=(0.0, 0.9)), "frame 0: .*focal length of 0"),
        ("url\n" + _line(0).replace("0.5 0.5 0 0", "0.5 0.5 0.1 0"), "lens distortion"),
        ("url\n" + _line(0).replace("1.0", "1.1"), "not a rotation"),
    ],
)
def test_damaged_camera_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.txt").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_camera_file(tmp_path / "a.txt")


def test_split_lists_decide_names_order_and_places(dataset: tuple[Path, Path], tmp_path: Path) -> None:
    cameras, frames = dataset
    (tmp_path / "list.txt").write_text("c\na.mp4\n")
    source = RealEstate10K(cameras, frames, (16, 16), split=tmp_path / "list.txt", default_caption="")
    assert source.names == ["c", "a"]
    assert source.settings()["list_sha256"] != RealEstate10K(cameras, frames, (16, 16)).settings()["list_sha256"]
    # CameraCtrl's annotations: paths relative to the data set's root.
    entry = {"clip_name": "x1", "clip_path": "frames/a.mp4", "pose_file": "cameras/b.txt", "caption": "a hall"}
    (tmp_path / "train.json").write_text(json.dumps([entry]))
    source = RealEstate10K(cameras, tmp_path, (16, 16), split=tmp_path / "train.json")
    assert source.names == ["x1"]
    assert source.load(0).caption == "a hall"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "at least one"),
        ('{"a": 1}', "list of clips"),
        ('["a", "a.mp4"]', "names 'a' twice"),
        ("[3]", "must be a name"),
        ("[", "json"),
    ],
)
def test_damaged_split_lists_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_split(tmp_path / "split.json", tmp_path, tmp_path)


def test_captions_in_either_layout(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps({"train/x/a.mp4": ["first", "second"], "b": "other"}))
    captions = read_captions(tmp_path / "c.json")
    assert (captions["a"], captions["b"]) == ("first", "other")
    (tmp_path / "c.json").write_text('{"a": []}')
    with pytest.raises(ValueError, match="caption of 'a'"):
        read_captions(tmp_path / "c.json")


def test_missing_folders_and_modes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no folder"):
        RealEstate10K(tmp_path / "none", tmp_path, (16, 16))
    with pytest.raises(ValueError, match="holds no camera files"):
        RealEstate10K(tmp_path, tmp_path, (16, 16))
    _write_cameras(tmp_path / "a.txt")
    with pytest.raises(ValueError, match="resize_mode"):
        RealEstate10K(tmp_path, tmp_path, (16, 16), resize_mode="squash")
    with pytest.raises(ValueError, match="does not exist"):
        RealEstate10K(tmp_path, tmp_path, (16, 16), split=tmp_path / "none.txt")


# Tar files


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def test_tars_of_webdataset_give_what_files_give(dataset: tuple[Path, Path], tmp_path: Path) -> None:
    cameras, frames = dataset
    (tmp_path / "shards").mkdir()
    for number, key in enumerate(("x/one", "x/two")):
        with tarfile.open(tmp_path / "shards" / f"{number:04d}.tar", "w") as archive:
            _add(archive, f"{key}.mp4", (frames / "a.mp4").read_bytes())
            _add(archive, f"{key}.txt", (cameras / "a.txt").read_bytes())
            _add(archive, f"{key}.json", json.dumps({"caption": f"clip {key}"}).encode())
            if number:
                _add(archive, "x/bare.mp4", b"no video")
    source = RealEstate10KTars(tmp_path / "shards", (16, 16))
    assert source.names == ["x/one", "x/bare", "x/two"] or source.names == ["x/one", "x/two", "x/bare"]
    clip = source.load(0)
    expected = RealEstate10K(cameras, frames, (16, 16), default_caption="").load(0)
    np.testing.assert_array_equal(clip.frames, expected.frames)
    np.testing.assert_array_equal(clip.poses, expected.poses)
    np.testing.assert_array_equal(clip.intrinsics, expected.intrinsics)
    assert clip.caption == "clip x/one"
    bare = source.names.index("x/bare")
    with pytest.raises(ValueError, match="no caption for clip 'x/bare'"):
        source.captions(bare)
    with pytest.raises(ValueError, match="'x/bare' has no camera file"):
        RealEstate10KTars(tmp_path / "shards", (16, 16), default_caption="").load(bare)


def test_damaged_tars_are_refused(dataset: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no tar files"):
        RealEstate10KTars(tmp_path, (16, 16))
    (tmp_path / "a.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(ValueError, match="a.tar.*is no readable tar"):
        RealEstate10KTars(tmp_path, (16, 16))
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        _add(archive, "k.mp4", (dataset[1] / "a.mp4").read_bytes())
        _add(archive, "k.txt", (dataset[0] / "a.txt").read_bytes())
    source = RealEstate10KTars(tmp_path, (16, 16), default_caption="")
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:700])
    with pytest.raises(ValueError, match="is cut off"):
        source.load(0)


# Real clips


def _epipolar_px(clip, first: int, second: int, intrinsics: np.ndarray) -> float:
    """Median distance, in pixels, of matches from the epipolar lines that the cameras predict."""
    starts, ends = corner_matches(clip.frames[first], clip.frames[second])
    pose = np.linalg.inv(clip.poses[second].astype(float)) @ clip.poses[first]
    t = pose[:3, 3]
    cross = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]])
    inverse = np.linalg.inv(intrinsics.astype(float))
    fundamental = inverse.T @ cross @ pose[:3, :3] @ inverse
    lines = np.concatenate([starts, np.ones((len(starts), 1))], 1) @ fundamental.T
    distance = np.abs((np.concatenate([ends, np.ones((len(ends), 1))], 1) * lines).sum(1)) / np.linalg.norm(lines[:, :2], axis=1)
    assert len(distance) > 15
    return float(np.median(distance))


def test_real_clips_load_and_their_matches_lie_on_the_epipolar_lines(shared_data: Callable[[str], Path]) -> None:
    folder = shared_data("re10k")
    source = RealEstate10K(folder / "pose_files", folder / "videos", (256, 384), captions=folder / "captions.json")
    assert len(source.names) == 6
    right, wrong = [], []
    for index in (0, 1, 4):  # the ones with most texture
        clip = source.load(index)
        assert clip.frames.shape == (16, 256, 384, 3)
        assert clip.caption
        rotation = clip.poses[:, :3, :3]
        np.testing.assert_allclose(rotation @ rotation.transpose(0, 2, 1), np.tile(np.eye(3), (16, 1, 1)), atol=1e-4)
        right.append(_epipolar_px(clip, 4, 6, clip.intrinsics[0]))
        # The same cameras with square pixels, as if the stored 3:2 frames had not been stretched from 16:9.
        square = clip.intrinsics[0].copy()
        square[1, 1] = square[0, 0]
        wrong.append(_epipolar_px(clip, 4, 6, square))
    assert max(right) < 0.6, right
    assert all(one < other for one, other in zip(right, wrong, strict=True)), (right, wrong)


def test_the_other_real_layouts_have_their_frame_counts(shared_data: Callable[[str], Path]) -> None:
    folder = shared_data("re10k") / "svd_branch"
    source = RealEstate10K(folder / "pose_files", folder / "videos", (40, 72), default_caption="")
    lengths = [source.load(index).num_frames for index in (0, 1)]
    assert lengths == [14, 25]
    table = read_captions(shared_data("re10k_captions") / "test_captions.json")
    assert len({name for name in table if "/" not in name}) == 7043
