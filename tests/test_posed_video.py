"""Folders of posed frames: three camera formats that must give the same cameras, lens distortion, depth, real clips."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from patch_matching import corner_matches
from PIL import Image
from seven_scenes import as_transforms

from jog3r.data.camera_formats import find_cameras, read_posed_frames
from jog3r.data.camera_formats.lenses import undistortion_grid
from jog3r.data.clip import Clip
from jog3r.data.posed_video import PosedFolders
from jog3r.data.procedural import procedural_clip
from jog3r.data.realestate10k.lists import read_captions
from jog3r.export.exporters import export_scene
from jog3r.export.scene import Scene
from jog3r.geometry.cameras import invert, project, transform
from jog3r.geometry.pointmaps import pointmaps_in_first_camera

OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


@pytest.fixture(scope="module")
def truth() -> Clip:
    return procedural_clip(11, "train", num_frames=12, height=24, width=32)


def _quaternion(rotation: np.ndarray) -> np.ndarray:
    w = np.sqrt(max(0.0, 1 + np.trace(rotation))) / 2
    x, y, z = (rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1])
    return np.array([w, x / (4 * w), y / (4 * w), z / (4 * w)])


def _write_images(folder: Path, truth: Clip, size: tuple[int, int] | None = None) -> None:
    folder.mkdir(parents=True)
    for number, frame in enumerate(truth.frames):  # 2 comes before 10 in their natural order only
        image = Image.fromarray(frame)
        (image if size is None else image.resize(size)).save(folder / f"frame_{number}.png")


def _write_nerfstudio(folder: Path, truth: Clip, **extra: object) -> None:
    _write_images(folder / "images", truth)
    frames = []
    for number in reversed(range(truth.num_frames)):  # listed in no useful order
        k = truth.intrinsics[number].astype(float)
        camera = {"fl_x": k[0, 0], "fl_y": k[1, 1], "cx": k[0, 2] + 0.5, "cy": k[1, 2] + 0.5, "w": 32, "h": 24}
        matrix = (truth.poses[number].astype(float) @ OPENGL).tolist()
        frames.append({"file_path": f"images/frame_{number}.png", "transform_matrix": matrix, **camera})
    (folder / "transforms.json").write_text(json.dumps({"camera_model": "OPENCV", "frames": frames, **extra}))


def _write_ours(folder: Path, truth: Clip) -> None:
    _write_images(folder / "images", truth)
    frames = [
        {"index": number, "pose": pose.tolist(), "intrinsics": k.tolist()}
        for number, (pose, k) in enumerate(zip(truth.poses, truth.intrinsics, strict=True))
    ]
    document = {"convention": "opencv_cam_to_world", "width": 32, "height": 24, "fps": 8, "frames": frames}
    (folder / "cameras.json").write_text(json.dumps(document))


def _write_colmap(folder: Path, truth: Clip, model: str = "PINHOLE", tail: str = "") -> None:
    _write_images(folder / "images", truth)
    sparse = folder / "sparse" / "0"
    sparse.mkdir(parents=True)
    cameras, images = ["# comment"], ["# comment"]
    for number in range(truth.num_frames):
        k, pose = truth.intrinsics[number].astype(float), truth.poses[number].astype(float)
        numbers = f"{k[0, 0]} {k[1, 1]} {k[0, 2] + 0.5} {k[1, 2] + 0.5}"
        cameras.append(f"{number + 1} {model} 32 24 {numbers}{tail}")
        rotation = pose[:3, :3].T
        words = [number + 1, *_quaternion(rotation), *(-rotation @ pose[:3, 3]), number + 1, f"frame_{number}.png"]
        images += [" ".join(str(word) for word in words), "" if number % 2 else "3.5 4.5 -1"]
    (sparse / "cameras.txt").write_text("\n".join(cameras))
    (sparse / "images.txt").write_text("\n".join(images))


@pytest.mark.parametrize("write", [_write_nerfstudio, _write_ours, _write_colmap])
def test_every_format_gives_the_same_clip(tmp_path: Path, truth: Clip, write: Callable) -> None:
    write(tmp_path / "scene", truth)
    clip = PosedFolders(tmp_path, (24, 32), default_caption="a room").load(0)
    np.testing.assert_array_equal(clip.frames, truth.frames)
    np.testing.assert_allclose(clip.poses, truth.poses, atol=2e-6)
    np.testing.assert_allclose(clip.intrinsics, truth.intrinsics, rtol=1e-6)
    assert not clip.valid.any()
    assert clip.caption == "a room"


def test_our_own_colmap_export_is_read(tmp_path: Path, truth: Clip) -> None:
    scene = Scene.from_depth(truth.frames, truth.depth, truth.poses, truth.intrinsics, valid=truth.valid, fps=8.0)
    export_scene(scene, tmp_path, ["colmap"])
    clips = PosedFolders(tmp_path / "colmap", (24, 32), default_caption="a room")
    assert clips.names == ["colmap"]
    clip = clips.load(0)
    np.testing.assert_array_equal(clip.frames, truth.frames)
    np.testing.assert_allclose(clip.poses, truth.poses, atol=2e-6)
    np.testing.assert_allclose(clip.intrinsics, truth.intrinsics, rtol=1e-6)


@pytest.mark.parametrize("mode", ["crop", "stretch"])
def test_intrinsics_follow_the_resizing(tmp_path: Path, truth: Clip, mode: str) -> None:
    _write_nerfstudio(tmp_path / "scene", truth)
    clip = PosedFolders(tmp_path, (12, 12), default_caption="", resize_mode=mode).load(0)
    old, new = truth.intrinsics[0], clip.intrinsics[0]
    scale = 12 / 24 if mode == "crop" else 12 / 32
    left = 4 if mode == "crop" else 0
    assert new[0, 0] == pytest.approx(old[0, 0] * scale, rel=1e-5)
    assert new[0, 2] == pytest.approx((old[0, 2] + 0.5 - left) * scale - 0.5, rel=1e-5)
    assert new[1, 1] == pytest.approx(old[1, 1] / 2, rel=1e-5)


def test_smaller_copies_of_the_images_take_smaller_intrinsics(tmp_path: Path, truth: Clip) -> None:
    """DL3DV-10K: transforms.json states the large size, the frames lie in images_4."""
    _write_nerfstudio(tmp_path / "scene", truth)
    _write_images(tmp_path / "scene" / "images_2", truth, (16, 12))
    clip = PosedFolders(tmp_path, (12, 16), default_caption="", image_folder="images_2").load(0)
    assert clip.intrinsics[0, 0, 0] == pytest.approx(truth.intrinsics[0, 0, 0] / 2, rel=1e-6)
    assert clip.intrinsics[0, 0, 2] == pytest.approx((truth.intrinsics[0, 0, 2] + 0.5) / 2 - 0.5, rel=1e-6)
    _write_images(tmp_path / "scene" / "images_9", truth, (12, 16))
    with pytest.raises(ValueError, match="frame 0 is 12 x 16 pixels, its camera says 32 x 24"):
        PosedFolders(tmp_path, (12, 16), default_caption="", image_folder="images_9").load(0)


def test_the_grid_undistorts_by_opencvs_formula() -> None:
    k = np.array([[100.0, 0, 63.5], [0, 90.0, 47.5], [0, 0, 1]])
    np.testing.assert_allclose(undistortion_grid(k, np.zeros(4), 96, 128)[10, 20], [20, 10], atol=1e-9)
    grid = undistortion_grid(k, np.array([0.1, -0.05, 0.01, -0.02]), 96, 128)
    x, y = (20 - 63.5) / 100, (10 - 47.5) / 90
    r2 = x * x + y * y
    factor = 1 + 0.1 * r2 - 0.05 * r2**2
    expected = [x * factor + 2 * 0.01 * x * y - 0.02 * (r2 + 2 * x * x), y * factor + 0.01 * (r2 + 2 * y * y) - 0.04 * x * y]
    np.testing.assert_allclose(grid[10, 20], [expected[0] * 100 + 63.5, expected[1] * 90 + 47.5])


def test_a_distorted_video_is_straightened(tmp_path: Path) -> None:
    """A line that a lens bends is straight again, and depth moves with its pixels."""
    height, width, lens = 48, 64, [0.5, 0.0, 0.0, 0.0]
    k = np.array([[40.0, 0, 32.0], [0, 40.0, 24.0], [0, 0, 1]])  # in the file's grid: first pixel's centre at 0.5
    v, u = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    x, y = (u - 32) / 40, (v - 24) / 40
    straight = np.stack([x, y])
    for _ in range(50):  # the scene that a distorted pixel shows: invert the formula
        straight = np.stack([x, y]) / (1 + 0.5 * (straight**2).sum(0))
    picture = (np.abs(straight[1] + 0.3) < 0.06) * 255
    (tmp_path / "images").mkdir()
    (tmp_path / "depth").mkdir()
    frames = []
    for number in range(2):
        Image.fromarray(np.repeat(picture[..., None], 3, 2).astype(np.uint8)).save(tmp_path / "images" / f"{number}.png")
        Image.fromarray((np.where(picture > 0, 2000, 0)).astype(np.uint16)).save(tmp_path / "depth" / f"{number}.png")
        frame = {"file_path": f"images/{number}.png", "depth_file_path": f"depth/{number}.png"}
        frames.append({**frame, "transform_matrix": np.eye(4).tolist()})
    camera = {"fl_x": 40, "fl_y": 40, "cx": 32, "cy": 24, "w": width, "h": height, "k1": lens[0]}
    (tmp_path / "transforms.json").write_text(json.dumps({**camera, "frames": frames}))
    clip = PosedFolders(tmp_path, (height, width), default_caption="").load(0)
    rows = [np.flatnonzero(clip.frames[0][:, column, 0] > 200).mean() for column in range(4, width - 4)]
    assert np.ptp(rows) < 1.1
    assert np.ptp([np.flatnonzero(picture[:, column]).mean() for column in range(4, width - 4)]) >= 1.5
    assert set(np.unique(clip.depth)) == {0.0, 2.0}
    assert (clip.valid == (clip.depth > 0)).all()
    assert np.abs(np.flatnonzero(clip.valid[0][:, 20]).mean() - rows[16]) < 1
    assert k[0, 2] - 0.5 == pytest.approx(float(clip.intrinsics[0, 0, 2]))


def _write_depth(folder: Path, truth: Clip, kind: str) -> None:
    """Depth of 2 units everywhere, in steps of a quarter."""
    _write_nerfstudio(folder, truth, depth_unit_scale_factor=0.25)
    path = folder / "transforms.json"
    document = json.loads(path.read_text())
    for number, frame in enumerate(document["frames"]):
        frame["depth_file_path"] = f"{number}.{kind}"
        if kind == "npy":
            np.save(folder / f"{number}.npy", np.full((24, 32), 8.0))
        else:
            Image.fromarray(np.full((24, 32), 8, np.uint16)).save(folder / f"{number}.png")
    path.write_text(json.dumps(document))


@pytest.mark.parametrize("kind", ["npy", "png"])
def test_depth_of_either_kind_has_the_unit_that_the_file_states(tmp_path: Path, truth: Clip, kind: str) -> None:
    _write_depth(tmp_path / "scene", truth, kind)
    clip = PosedFolders(tmp_path, (24, 32), default_caption="").load(0)
    assert clip.valid.all()
    assert set(np.unique(clip.depth)) == {2.0}


def test_the_unit_of_depth_is_a_millimetre_if_none_is_stated(tmp_path: Path, truth: Clip) -> None:
    _write_depth(tmp_path / "scene", truth, "npy")
    path = tmp_path / "scene" / "transforms.json"
    path.write_text(path.read_text().replace("depth_unit_scale_factor", "other"))
    assert set(np.unique(PosedFolders(tmp_path, (24, 32), default_caption="").load(0).depth)) == {np.float32(0.008)}


def test_damaged_depth_is_named(tmp_path: Path, truth: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("npy", "png"):
        _write_depth(tmp_path / kind, truth, kind)
        for content in (b"", b"nothing of the kind", (tmp_path / kind / f"0.{kind}").read_bytes()[:60]):
            (tmp_path / kind / f"5.{kind}").write_bytes(content)
            with pytest.raises(ValueError, match=f"5.{kind}' cannot be read"):
                PosedFolders(tmp_path / kind, (24, 32), default_caption="").load(0)
    Image.fromarray(np.full((96, 128), 8, np.uint16)).save(tmp_path / "png" / "5.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24 * 32)  # above twice of it Pillow refuses
    with pytest.raises(ValueError, match="5.png' cannot be read .*exceeds limit"):
        PosedFolders(tmp_path / "png", (24, 32), default_caption="").load(0)


def test_folders_names_and_captions(tmp_path: Path, truth: Clip) -> None:
    _write_ours(tmp_path / "set" / "b", truth)
    _write_nerfstudio(tmp_path / "set" / "a", truth)
    _write_colmap(tmp_path / "c", truth)
    (tmp_path / "c" / "caption.txt").write_text("a hall\n")
    (tmp_path / "captions.json").write_text(json.dumps({"a": "a kitchen", "set/b": ["a bath"]}))
    source = PosedFolders(tmp_path, (8, 8), captions=tmp_path / "captions.json")
    assert source.names == ["c", "set/a", "set/b"]
    assert [source.captions(index)[0] for index in range(3)] == ["a hall", "a kitchen", "a bath"]
    with pytest.raises(ValueError, match="no caption for 'set/a'"):
        PosedFolders(tmp_path, (8, 8)).captions(1)
    assert PosedFolders(tmp_path / "c", (8, 8)).names == ["c"]


def test_a_link_to_a_folder_above_gives_no_clip_twice(tmp_path: Path, truth: Clip) -> None:
    _write_ours(tmp_path / "clips" / "a", truth)
    (tmp_path / "clips" / "loop").symlink_to(tmp_path / "clips")
    assert list(PosedFolders(tmp_path / "clips", None).names) == ["a"]


def test_no_clip_gets_another_ones_caption(tmp_path: Path, truth: Clip) -> None:
    """Folders that are all called alike, as those of DL3DV are."""
    for name in "abc":
        _write_nerfstudio(tmp_path / name / "nerfstudio", truth)
    (tmp_path / "captions.json").write_text(json.dumps({"a/nerfstudio": "a kitchen"}))
    source = PosedFolders(tmp_path, (8, 8), captions=tmp_path / "captions.json")
    assert source.captions(0)[0] == "a kitchen"
    with pytest.raises(ValueError, match="no caption for 'b/nerfstudio'"):
        source.captions(1)
    (tmp_path / "c" / "nerfstudio" / "caption.txt").write_text("a hall")
    assert source.captions(2)[0] == "a hall"
    (tmp_path / "captions.json").write_text(json.dumps({"x/one.mp4": "1", "y/one.mp4": "2", "y/two.mp4": "3"}))
    assert read_captions(tmp_path / "captions.json") == {"x/one": "1", "y/one": "2", "y/two": "3", "two": "3"}


def test_longer_videos_than_fit_are_refused_before_they_are_read(tmp_path: Path, truth: Clip, monkeypatch) -> None:
    _write_nerfstudio(tmp_path / "a", truth)
    monkeypatch.setattr("jog3r.data.source.MAX_FRAMES", 10)
    for asked in ("expected_frames", "load"):
        with pytest.raises(ValueError, match="'a' has 12 frames, more than 10; cut it, or thin it with frame_step"):
            getattr(PosedFolders(tmp_path, (8, 8), default_caption=""), asked)(0)
    assert PosedFolders(tmp_path, (8, 8), default_caption="", frame_step=2).expected_frames(0) == 6


def test_the_folder_one_stands_in_has_its_name(tmp_path: Path, truth: Clip, monkeypatch) -> None:
    _write_nerfstudio(tmp_path / "scene", truth)
    monkeypatch.chdir(tmp_path / "scene")
    assert PosedFolders(".", (8, 8), default_caption="").names == ["scene"]


def test_what_cannot_be_read_is_refused(tmp_path: Path, truth: Clip) -> None:
    with pytest.raises(ValueError, match="holds no transforms.json"):
        PosedFolders(tmp_path, (8, 8))
    with pytest.raises(ValueError, match="no folder"):
        PosedFolders(tmp_path / "none", (8, 8))
    _write_colmap(tmp_path / "prism", truth, model="THIN_PRISM_FISHEYE", tail=" 0 0 0 0 0 0 0 0")
    with pytest.raises(ValueError, match="'THIN_PRISM_FISHEYE'; run `colmap image_undistorter`"):
        read_posed_frames(tmp_path / "prism")
    _write_nerfstudio(tmp_path / "k4", truth, k4=0.1)
    with pytest.raises(ValueError, match="has k4, which the lens OPENCV does not have"):
        read_posed_frames(tmp_path / "k4")
    _write_ours(tmp_path / "ours", truth)
    path = tmp_path / "ours" / "cameras.json"
    for change, message in (
        (('"opencv_cam_to_world"', '"opengl"'), "convention 'opengl'"),
        (('"width"', '"wide"'), "has no 'width'"),
        (('"frames"', '"pictures"'), "has no 'frames'"),
    ):
        content = path.read_text()
        path.write_text(content.replace(*change))
        with pytest.raises(ValueError, match=message):
            read_posed_frames(tmp_path / "ours")
        path.write_text(content)
    document = json.loads(path.read_text())
    document["frames"][3]["pose"][0][0] = 2.0
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="no rotation"):
        read_posed_frames(tmp_path / "ours")
    (tmp_path / "ours" / "images" / "frame_3.png").unlink()
    with pytest.raises(ValueError, match="holds 11 images for 12 cameras"):
        read_posed_frames(tmp_path / "ours")
    (tmp_path / "empty").mkdir()
    assert find_cameras(tmp_path / "empty") is None


def test_real_rgbd_frames_agree_across_frames(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    """Points of frame 1 of 7-Scenes, seen from later cameras, fall on the corners that patch matching finds there."""
    folder = shared_data("sevenscenes_redkitchen")
    errors, moved = [], []
    for scene in sorted(folder.glob("clip_*"))[:3]:
        as_transforms(scene, tmp_path / scene.name)
        clip = PosedFolders(tmp_path / scene.name, (192, 256), default_caption="").load(0)
        assert 0.5 < clip.valid.mean() < 1
        depth, intrinsics, poses = (torch.from_numpy(getattr(clip, name)) for name in ("depth", "intrinsics", "poses"))
        points = pointmaps_in_first_camera(depth, intrinsics, poses)
        for frame in (1, 2, 3):
            starts, ends = corner_matches(clip.frames[0], clip.frames[frame])
            u, v = starts.astype(int).T
            known = clip.valid[0, v, u]
            there = project(transform(invert(poses[frame]), points[0, v, u]), intrinsics[frame]).numpy()
            errors.append(np.linalg.norm(there - ends, axis=1)[known])
            moved.append(np.linalg.norm(starts - ends, axis=1)[known])
    errors, moved = np.concatenate(errors), np.concatenate(moved)
    print(f"{len(errors)} matches move by {np.median(moved):.2f} px; median reprojection error {np.median(errors):.2f} px")
    assert len(errors) > 50
    assert np.median(moved) > 3
    assert np.median(errors) < 1
