"""Camera files of strangers: COLMAP's models as pycolmap reads them, its lenses, messages that name the fault."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from PIL import Image

from jog3r.data.camera_formats import PosedFrames, find_cameras, read_posed_frames
from jog3r.data.camera_formats.colmap import MODELS
from jog3r.data.camera_formats.lenses import undistortion_grid
from jog3r.data.posed_video import PosedFolders

TURNS = [np.array([0.8, 0.1, 0.1 * number, 0.2]) / np.linalg.norm([0.8, 0.1, 0.1 * number, 0.2]) for number in range(4)]
ROWS = [f"{n + 3} {' '.join(map(repr, turn.tolist()))} {0.3 * n} 0.5 -0.25 1 {n}.png" for n, turn in enumerate(TURNS)]
CAMERA = "1 PINHOLE 64 48 60 61 32 24\n"
EYE = np.eye(4).tolist()


def write_text_model(folder: Path, images: str, cameras: str = CAMERA) -> Path:
    (folder / "sparse/0").mkdir(parents=True)
    for name, content in (("cameras", cameras), ("images", images), ("points3D", "")):
        (folder / "sparse/0" / f"{name}.txt").write_bytes(content.encode())
    return folder


def write_binary_model(folder: Path, model: str = "PINHOLE", params: tuple = (60.0, 61.0, 32.0, 24.0), names: tuple = ()) -> Path:
    """A model with points, written by pycolmap."""
    model_of = pycolmap.Reconstruction()
    model_of.add_camera_with_trivial_rig(pycolmap.Camera(model=model, width=64, height=48, params=params, camera_id=1))
    for number, name in enumerate(names or ("10.png", "9.png", "a b.png", "ü.png"), 1):
        image = pycolmap.Image(name=name, camera_id=1, image_id=number)
        image.points2D = pycolmap.Point2DList([pycolmap.Point2D(np.array([1.5, 2.5])) for _ in range(number)])
        turn = np.array([0.1 * number, 0.2, -0.1, 0.9])  # x y z w
        model_of.add_image_with_trivial_frame(
            image, pycolmap.Rigid3d(pycolmap.Rotation3d(turn / np.linalg.norm(turn)), np.array([0.5 * number, 0.1, -0.2]))
        )
    (folder / "sparse/0").mkdir(parents=True)
    model_of.write_binary(str(folder / "sparse/0"))
    return folder


def check_against_pycolmap(posed: PosedFrames, folder: Path) -> None:
    expected = {image.name: image for image in pycolmap.Reconstruction(str(folder / "sparse/0")).images.values()}
    assert {path.name for path in posed.images} == set(expected)
    for path, pose, intrinsics, size in zip(posed.images, posed.poses, posed.intrinsics, posed.size, strict=True):
        image = expected[path.name]
        np.testing.assert_allclose(pose[:3], image.cam_from_world().inverse().matrix(), atol=1e-12)
        np.testing.assert_allclose(intrinsics, image.camera.calibration_matrix())
        assert size.tolist() == [image.camera.height, image.camera.width]


TEXTS = {
    "pairs": "\n\n".join(ROWS),
    "two empty lines": "\n\n\n".join(ROWS),
    "header": "# header\n\n\n" + "\n\n".join(ROWS),
    "points": "\n1.5 2.5 -1 3.5 4.5 7\n".join(ROWS),
    "remarks": "\n\n# a remark\n".join(ROWS),
    "remark for points": "\n# no points\n".join(ROWS),
    "windows": "\r\n\r\n".join(ROWS),
    "windows with points": "\r\n1.5 2.5 -1\r\n\r\n".join(ROWS),
    "blanks": "\n \t\n".join(f"  {row} " for row in ROWS),
    "number sign": "\n\n".join(ROWS).replace("1.png", "#1.png"),
}


@pytest.mark.parametrize("text", list(TEXTS.values()), ids=list(TEXTS))
def test_text_models_are_read_as_pycolmap_reads_them(tmp_path: Path, text: str) -> None:
    folder = write_text_model(tmp_path, text + "\n\n")
    posed = read_posed_frames(folder)
    assert len(posed.poses) == 4
    check_against_pycolmap(posed, folder)
    (folder / "sparse/0/images.txt").write_text(text)  # some editors drop empty lines at the end; pycolmap then loses an image
    assert len(read_posed_frames(folder).poses) == 4


def test_text_names_keep_their_spaces_and_a_byte_order_mark_is_no_number(tmp_path: Path) -> None:
    folder = write_text_model(tmp_path, "\ufeff" + "\n\n".join(ROWS).replace("1.png", "my room 1.png"), "\ufeff" + CAMERA)
    assert [path.name for path in read_posed_frames(folder).images] == ["0.png", "2.png", "3.png", "my room 1.png"]


@pytest.mark.parametrize(
    ("images", "cameras", "message"),
    [
        ("\n".join(ROWS), CAMERA, "line 2 should be the points of image '0.png'.*put an empty line behind each image"),
        ("\n".join(f"{row} 1 2" for row in ROWS), CAMERA, "line 2 should be the points"),
        (f"{ROWS[0]}\n1 2\n", CAMERA, "line 2 should be the points"),
        ("1 0.8 0 0 0 0 0 0 1\n", CAMERA, "line 1 is no image of COLMAP"),
        ("\n\n".join([ROWS[0], ROWS[0]]), CAMERA, "line 3: image 3 stands there twice"),
        ("\n\n".join(ROWS).replace(" 1 ", " 2 "), CAMERA, "image '0.png' has camera 2, which cameras.txt does not hold"),
        (
            "\n\n".join(ROWS).replace(ROWS[0].split(" 0.0 0.5")[0], "3 0 0 0 0"),
            CAMERA,
            "quaternion of image '0.png' has no length",
        ),
        ("\n\n".join(ROWS), "1 PINHOLE 64 48 60 61 32\n", "line 1: PINHOLE has 4 parameters, got 3"),
        ("\n\n".join(ROWS), "1 PINHOLE 64 48 60 61 32 x\n", "line 1 is no camera of COLMAP"),
        ("\n\n".join(ROWS), "1 UNHEARD 64 48 60 61 32 24\n", "line 1 has no camera model that COLMAP knows"),
        ("\n\n".join(ROWS), CAMERA + CAMERA, "line 2: camera 1 stands there twice"),
        ("# nothing\n", CAMERA, "has 0 frames with a camera"),
    ],
)
def test_text_models_that_lose_images_are_refused_by_line(tmp_path: Path, images: str, cameras: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_posed_frames(write_text_model(tmp_path, images, cameras))


def test_binary_models_of_todays_pycolmap_are_read(tmp_path: Path) -> None:
    folder = write_binary_model(tmp_path)
    assert (folder / "sparse/0/frames.bin").is_file() and (folder / "sparse/0/rigs.bin").is_file()
    posed = read_posed_frames(folder)
    assert [path.name for path in posed.images] == ["9.png", "10.png", "a b.png", "ü.png"]
    check_against_pycolmap(posed, folder)


def test_binary_scenes_count_beside_text_scenes_and_go_before_text_of_the_same_model(tmp_path: Path) -> None:
    write_binary_model(tmp_path / "a")
    write_text_model(tmp_path / "b", "\n\n".join(ROWS))
    assert list(PosedFolders(tmp_path, (8, 8)).names) == ["a", "b"]
    (tmp_path / "a/sparse/0/images.txt").write_text("\n\n".join(ROWS))
    (tmp_path / "a/sparse/0/cameras.txt").write_text(CAMERA)
    assert find_cameras(tmp_path / "a") == tmp_path / "a/sparse/0/images.bin"
    (tmp_path / "a/sparse/0/cameras.bin").unlink()  # half a model gives way to a whole one
    assert find_cameras(tmp_path / "a") == tmp_path / "a/sparse/0/images.txt"


@pytest.mark.parametrize("missing", ["images", "cameras"])
def test_half_a_model_counts_and_says_what_is_missing(tmp_path: Path, missing: str) -> None:
    folder = write_binary_model(tmp_path / "a")
    (folder / f"sparse/0/{missing}.bin").unlink()
    source = PosedFolders(tmp_path, (8, 8), default_caption="")
    assert list(source.names) == ["a"]
    with pytest.raises(ValueError, match=f"{missing}.bin' is missing; a COLMAP model needs images.bin and cameras.bin"):
        source.load(0)


@pytest.mark.parametrize("name", ["images", "cameras"])
def test_binary_models_cut_off_anywhere_are_refused(tmp_path: Path, name: str) -> None:
    file = write_binary_model(tmp_path) / f"sparse/0/{name}.bin"
    content = file.read_bytes()
    for length in range(0, len(content), 5):
        file.write_bytes(content[:length])
        with pytest.raises(ValueError, match=f"{name}.bin' is cut off or no COLMAP model"):
            read_posed_frames(tmp_path)


@pytest.mark.parametrize("model", list(MODELS))
def test_lenses_bend_as_in_colmap_or_are_refused_by_name(tmp_path: Path, model: str) -> None:
    tail = (0.03, -0.01, 0.002, 0.003, 0.004, 0.001, -0.002, 0.001, 0.001, 0.001, 0.001, 0.001)
    rest = MODELS[model].num_params - (3 if MODELS[model].pinhole == (0, 0, 1, 2) else 4)
    params = ((40.0, 32.5, 24.5) if MODELS[model].pinhole == (0, 0, 1, 2) else (40.0, 41.0, 32.5, 24.5)) + tail[: max(rest, 0)]
    folder = write_binary_model(tmp_path, model, params[: MODELS[model].num_params])
    if MODELS[model].pinhole is None:
        with pytest.raises(ValueError, match=f"camera model '{model}'; run `colmap image_undistorter`"):
            read_posed_frames(folder)
        return
    posed = read_posed_frames(folder)
    matrix = posed.intrinsics_at(0, 48, 64)
    grid = undistortion_grid(matrix, posed.distortion[0], 48, 64, fisheye=bool(posed.fisheye[0]))
    v, u = np.meshgrid(np.arange(48), np.arange(64), indexing="ij")
    rays = np.stack([u, v, np.ones_like(u)], -1).reshape(-1, 3) @ np.linalg.inv(matrix).T
    camera = pycolmap.Reconstruction(str(folder / "sparse/0")).cameras[1]
    np.testing.assert_allclose(grid.reshape(-1, 2) + 0.5, camera.img_from_cam(rays), atol=1e-9)


# transforms.json


def write_transforms(folder: Path, top: dict | None = None, frame: dict | None = None, drop: str = "", **files: bytes) -> Path:
    """Three frames of 64 x 48; `top`, `frame` are added, `drop` left out."""
    (folder / "images").mkdir(parents=True)
    picture = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    frames = []
    for number in range(3):
        Image.fromarray(picture).save(folder / f"images/{number}.png")
        frames.append({"file_path": f"images/{number}.png", "transform_matrix": EYE, **(frame or {})})
    document = {"fl_x": 40, "cx": 32, "cy": 24, "w": 64, "h": 48, "frames": frames, **(top or {})}
    for part in (document, *frames):
        part.pop(drop, None)
    (folder / "transforms.json").write_text(json.dumps(document))
    return folder


K4 = {"k1": 0.05, "k2": 0.01, "k3": -0.02, "k4": 0.003}


@pytest.mark.parametrize(
    ("top", "frame"),
    [
        ({"camera_model": "OPENCV_FISHEYE", **K4}, {}),
        (K4, {"camera_model": "OPENCV_FISHEYE"}),
        ({"camera_model": "PINHOLE"}, {"camera_model": "OPENCV_FISHEYE", **K4}),
        ({"is_fisheye": True, **K4}, {}),
        ({}, {"is_fisheye": True, **K4}),
    ],
)
def test_a_fisheye_is_undistorted_as_one_wherever_it_is_stated(tmp_path: Path, top: dict, frame: dict) -> None:
    clip = PosedFolders(write_transforms(tmp_path / "a", top, frame), (48, 64), default_caption="").load(0)
    colmap = write_binary_model(tmp_path / "b", "OPENCV_FISHEYE", (40.0, 40.0, 32.0, 24.0, *K4.values()), ("0.png", "1.png"))
    (colmap / "images").symlink_to(tmp_path / "a/images")
    expected = PosedFolders(colmap, (48, 64), default_caption="").load(0)
    np.testing.assert_array_equal(clip.frames[0], expected.frames[0])
    plain = PosedFolders(write_transforms(tmp_path / "c", {"k1": 0.05}), (48, 64), default_caption="").load(0)
    assert np.abs(clip.frames[0].astype(float) - plain.frames[0]).mean() > 10


@pytest.mark.parametrize(
    "model", ["EQUIRECTANGULAR", "ORTHO", "ORTHOPHOTO", "FISHEYE624", "VR180_L", "unheard", None, 3, ["OPENCV"]]
)
@pytest.mark.parametrize("place", ["top", "frame"])
def test_lenses_that_are_neither_are_refused_by_name(tmp_path: Path, model: object, place: str) -> None:
    folder = write_transforms(tmp_path, **{place: {"camera_model": model}})
    with pytest.raises(ValueError) as caught:
        read_posed_frames(folder)
    assert f"frame 'images/0.png' has camera_model {model!r}; undistort the images first" in str(caught.value)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"equirectangular": True}, "has the lens 'equirectangular'"),
        ({"ftheta_p0": 0.1}, "has the lens 'ftheta_p0'"),
        ({"camera_model": "OPENCV", "is_fisheye": True}, "camera_model 'OPENCV' and is_fisheye"),
        ({"is_fisheye": "yes"}, "'is_fisheye' must be true or false, got 'yes'"),
        ({"is_fisheye": True, "p1": 0.1}, "has p1, which a fisheye lens does not have"),
        ({"k4": 0.1}, "has k4, which the lens OPENCV does not have"),
        ({"k1": "much"}, "'k1' must be a number, got 'much'"),
    ],
)
def test_lenses_stated_in_other_words_are_refused(tmp_path: Path, extra: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_posed_frames(write_transforms(tmp_path, extra))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop": "fl_x"}, r"transforms.json', frame 'images/0.png' has no 'fl_x': state the focal length in pixels"),
        ({"drop": "h"}, "frame 'images/0.png' has no 'h': state the height in pixels"),
        ({"drop": "cx"}, "frame 'images/0.png' has no 'cx': state the principal point"),
        ({"drop": "transform_matrix"}, "frame 'images/0.png' has no 'transform_matrix'"),
        ({"drop": "file_path"}, "frame 0 of the list has no 'file_path'"),
        ({"drop": "frames"}, "has no 'frames'"),
        ({"top": {"frames": []}}, "has an empty list 'frames'"),
        ({"top": {"frames": {"a": 1}}}, "'frames' must be a list of objects"),
        ({"frame": {"transform_matrix": EYE[:3]}}, r"'transform_matrix' must be a 4 x 4 matrix, got shape \(3, 4\)"),
        ({"frame": {"transform_matrix": [[1, 2], [3]]}}, "'transform_matrix' must be a 4 x 4 matrix of numbers"),
        ({"frame": {"transform_matrix": np.diag([1.0, 1, -1, 1]).tolist()}}, "frame '0.png' .* mirrors the scene"),
        ({"frame": {"transform_matrix": np.diag([2.0, 2, 2, 1]).tolist()}}, "3 x 3 part is not a rotation"),
        ({"frame": {"transform_matrix": np.full((4, 4), np.nan).tolist()}}, "NaN or infinity"),
        ({"top": {"cx": float("nan")}}, "intrinsics and lens coefficients must be finite"),
        ({"top": {"fl_x": -3}}, "must be positive"),
    ],
)
def test_what_is_wrong_with_a_transforms_json_is_said(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_posed_frames(write_transforms(tmp_path, **change))


def test_depth_for_some_frames_alone_is_refused(tmp_path: Path) -> None:
    path = write_transforms(tmp_path) / "transforms.json"
    document = json.loads(path.read_text())
    document["frames"][1]["depth_file_path"] = "depth/1.png"
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="2 of 3 frames have no 'depth_file_path', the first 'images/0.png'"):
        read_posed_frames(tmp_path)


def test_marks_and_encodings_of_editors(tmp_path: Path) -> None:
    path = write_transforms(tmp_path) / "transforms.json"
    text = path.read_text()
    path.write_text(text, encoding="utf-8-sig")
    assert len(read_posed_frames(tmp_path).poses) == 3
    path.write_text(text, encoding="utf-16")
    with pytest.raises(ValueError, match="transforms.json' is no UTF-8 text"):
        read_posed_frames(tmp_path)
    path.write_text(text[:40])
    with pytest.raises(ValueError, match="transforms.json' cannot be read as json"):
        read_posed_frames(tmp_path)


# Pictures


@pytest.mark.parametrize("write", [lambda folder: write_transforms(folder), lambda folder: _write_ours(folder)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_posed_pictures_are_read_as_they_are_stored(tmp_path: Path, write: Callable[[Path], Path], orientation: int) -> None:
    folder = write(tmp_path / "a")
    expected = PosedFolders(folder, (24, 24), default_caption="", resize_mode="stretch").load(0)
    for file in (folder / "images").iterdir():
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.open(file).save(file, exif=exif)
    clip = PosedFolders(folder, (24, 24), default_caption="", resize_mode="stretch").load(0)
    np.testing.assert_array_equal(clip.frames, expected.frames)
    np.testing.assert_array_equal(clip.intrinsics, expected.intrinsics)


def test_pictures_turned_after_their_cameras_were_found_are_refused(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path)
    for file in (folder / "images").iterdir():
        Image.open(file).transpose(Image.Transpose.ROTATE_90).save(file)
    with pytest.raises(ValueError, match="frame 0 is 48 x 64 pixels, its camera says 64 x 48; it was turned"):
        PosedFolders(folder, (24, 24), default_caption="").load(0)


def _write_ours(folder: Path) -> Path:
    write_transforms(folder)
    (folder / "transforms.json").unlink()
    frames = [{"pose": EYE, "intrinsics": [[40, 0, 31.5], [0, 40, 23.5], [0, 0, 1]]}] * 3
    document = {"convention": "opencv_cam_to_world", "width": 64, "height": 48, "frames": frames}
    (folder / "cameras.json").write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize("write", [lambda folder: write_transforms(folder), lambda folder: _write_ours(folder)])
def test_another_folder_of_images_is_taken_by_every_format(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    write(tmp_path)
    with pytest.raises(ValueError, match="images_2"):
        PosedFolders(tmp_path, (24, 32), default_caption="", image_folder="images_2").load(0)
    (tmp_path / "images_2").mkdir()
    for number in range(3):
        Image.new("RGB", (32, 24), (number, 7, 9)).save(tmp_path / f"images_2/{number}.png")
    clip = PosedFolders(tmp_path, (24, 32), default_caption="", image_folder="images_2").load(0)
    assert clip.frames[2, 5, 5].tolist() == [2, 7, 9]
    assert clip.intrinsics[0, 0, 0] == 20


@pytest.mark.parametrize("word", ["pose_known", "registered"])
def test_frames_of_ours_without_a_pose_are_refused(tmp_path: Path, word: str) -> None:
    path = _write_ours(tmp_path) / "cameras.json"
    document = json.loads(path.read_text())
    document["frames"][1] = {**document["frames"][1], word: False}
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"has no pose for its frames \[1\]"):
        read_posed_frames(tmp_path)


def test_companions_of_a_mac_are_no_frames_and_no_scenes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = _write_ours(tmp_path / "a")
    for name in ("._000.png", ".DS_Store", "._0.png"):
        (folder / "images" / name).write_bytes(b"\0\5\26\7")
    _write_ours(tmp_path / "__MACOSX/a")
    _write_ours(tmp_path / ".trash/a")
    source = PosedFolders(tmp_path, (24, 24), default_caption="")
    assert list(source.names) == ["a"]
    assert source.load(0).num_frames == 3
    assert not caplog.records


def test_folders_of_images_without_cameras_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _write_ours(tmp_path / "a")
    (_write_ours(tmp_path / "b") / "cameras.json").unlink()
    assert list(PosedFolders(tmp_path, (24, 24)).names) == ["a"]
    assert "1 folders of images have no cameras; not read: b/images" in caplog.text


def test_further_models_of_a_scene_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_binary_model(tmp_path / "a")
    write_binary_model(tmp_path / "b")
    (tmp_path / "b/sparse/0").rename(tmp_path / "a/sparse/1")
    assert list(PosedFolders(tmp_path, (24, 24)).names) == ["a"]
    assert "1 COLMAP models stand beside the first of their scene, which alone is read; not read: a/sparse/1" in caplog.text


def test_every_nth_frame_with_its_camera(tmp_path: Path) -> None:
    path = write_transforms(tmp_path) / "transforms.json"
    document = json.loads(path.read_text())
    for number, frame in enumerate(document["frames"]):
        frame["transform_matrix"] = [[1, 0, 0, number], *EYE[1:]]
        frame["fl_x"] = 40 + number
    path.write_text(json.dumps(document))
    whole, thin = (PosedFolders(tmp_path, (24, 24), default_caption="", frame_step=step) for step in (1, 2))
    clip, expected = thin.load(0), whole.load(0)
    for name in ("frames", "poses", "intrinsics", "depth"):
        np.testing.assert_array_equal(getattr(clip, name), getattr(expected, name)[::2])
    assert thin.settings() == {**whole.settings(), "frame_step": 2}
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="frame_step must be a whole number"):
            PosedFolders(tmp_path, (24, 24), frame_step=wrong)


def test_the_repeated_column_of_our_own_videos_is_no_scale() -> None:
    posed = PosedFrames(
        np.eye(4)[None], np.array([[[800.0, 0, 426.5], [0, 800, 240], [0, 0, 1]]]), np.array([[480, 853]]), (), Path("video.mp4"),
        np.zeros((1, 8)), np.zeros(1, bool),
    )  # fmt: skip
    for width, height, focal, centre in ((854, 480, 800, 426), (1706, 960, 1600, 852.5), (640, 360, 600.23, 319.49)):
        found = posed.intrinsics_at(0, height, width)
        assert (found[0, 0], found[0, 2]) == pytest.approx((focal, centre), abs=0.01)
