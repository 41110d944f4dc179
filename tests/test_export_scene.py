"""The scene that exporters take, the maths behind them, and how files are written and read back."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_cases import FRAMES, HEIGHT, WIDTH, make_scene
from PIL import Image

from jog3r.export.conventions import frustum_corners, half_pixel_up, linear_from_srgb, quaternion_wxyz
from jog3r.export.exporters import (
    EXPORTERS,
    RESULT_NAMES,
    TARGETS,
    check_free,
    export_scene,
    load_scene,
    result_files,
    write_results,
)
from jog3r.export.files import bytes_of, write_file, write_files
from jog3r.export.formats.blender import blender_script
from jog3r.export.formats.camera_files import cameras_json, npz_bytes, read_cameras_json, read_npz
from jog3r.export.formats.colmap import colmap_model
from jog3r.export.formats.glb import animated_camera_glb, continuous, glb_bytes
from jog3r.export.formats.nerfstudio import nerfstudio_files
from jog3r.export.formats.point_cloud import ply_bytes, read_ply
from jog3r.export.formats.splats import nearest_spacing, splat_bytes
from jog3r.export.formats.tracks import build_tracks
from jog3r.export.formats.trajectories import tum_text
from jog3r.export.scene import Scene, unproject
from jog3r.export.video import colorize, depth_frames, encode_video, player_scale
from jog3r.geometry.depth_maps import sample_depth


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene()


@pytest.fixture(scope="module")
def exported(scene: Scene) -> dict[str, dict[str, bytes]]:
    return {name: {path: bytes_of(content) for path, content in export(scene).items()} for name, export in EXPORTERS.items()}


def fields(scene: Scene) -> dict:
    return {field.name: getattr(scene, field.name) for field in dataclasses.fields(scene)}


# Scene


def test_torch_lists_and_pil_are_accepted(scene: Scene) -> None:
    same = Scene(
        [Image.fromarray(frame) for frame in scene.frames],
        torch.from_numpy(scene.poses),
        scene.intrinsics.tolist(),
        torch.from_numpy(scene.pointmaps),
        torch.from_numpy(scene.confidence),
    )
    np.testing.assert_array_equal(same.frames, scene.frames)
    np.testing.assert_array_equal(same.poses, scene.poses)
    seen = scene.confidence > 0
    np.testing.assert_allclose(same.depth[seen], scene.depth[seen], atol=1e-5)  # taken from points and poses


def test_unproject_known_value() -> None:
    intrinsics = np.array([[[2.0, 0, 1], [0, 4.0, 1], [0, 0, 1]]])
    pose = np.eye(4)[None].copy()
    pose[0, :3, 3] = [10, 20, 30]
    points = unproject(np.full((1, 3, 3), 8.0), pose, intrinsics)
    np.testing.assert_allclose(points[0, 1, 1], [10, 20, 38])  # the principal point lies straight ahead
    np.testing.assert_allclose(points[0, 2, 0], [10 - 4, 20 + 2, 38])


def test_world_to_camera_is_the_inverse(scene: Scene) -> None:
    np.testing.assert_allclose(scene.world_to_camera @ scene.poses, np.tile(np.eye(4), (FRAMES, 1, 1)), atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": np.zeros((2, 3, 3), np.uint8)}, r"frames must be \(F, H, W, 3\)"),
        ({"frames": np.zeros((FRAMES, HEIGHT, WIDTH, 3))}, "uint8"),
        ({"poses": np.eye(4)[None]}, "poses must have shape"),
        ({"poses": np.full((FRAMES, 4, 4), np.nan)}, "poses hold NaN"),
        ({"poses": np.tile(2 * np.eye(4), (FRAMES, 1, 1))}, "not a rigid motion"),
        ({"poses": np.tile(np.diag([1.0, 1, -1, 1]), (FRAMES, 1, 1))}, "not a rigid motion"),
        ({"intrinsics": np.tile(np.diag([-1.0, 1, 1]), (FRAMES, 1, 1))}, "intrinsics 0 must be"),
        ({"intrinsics": np.tile(np.array([[1.0, 0.1, 0], [0, 1, 0], [0, 0, 1]]), (FRAMES, 1, 1))}, "intrinsics 0 must be"),
        ({"intrinsics": np.full((FRAMES, 3, 3), np.inf)}, "intrinsics hold NaN"),
        ({"pointmaps": np.zeros((FRAMES, HEIGHT, WIDTH))}, "pointmaps must have shape"),
        ({"pointmaps": np.full((FRAMES, HEIGHT, WIDTH, 3), np.nan)}, "set their confidence to 0"),
        ({"confidence": np.full((FRAMES, HEIGHT, WIDTH), -1.0)}, "confidence must be finite and >= 0"),
        ({"confidence": np.full((FRAMES, HEIGHT, WIDTH), np.nan)}, "confidence must be finite and >= 0"),
        ({"depth": np.zeros((FRAMES, 2, 2))}, "depth must have shape"),
        ({"fps": 0}, "fps must be a positive number, got 0"),
        ({"fps": float("nan")}, "fps must be"),
        ({"pointmaps": None}, "came without pointmaps"),
        ({"pose_covariance": np.zeros((FRAMES, 3, 3))}, "pose_covariance must have shape"),
        ({"poses": np.full((FRAMES, 4, 4), "x")}, "poses must be numbers"),
    ],
)
def test_scene_refusals(scene: Scene, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scene(**fields(scene) | change)


def test_invalid_pixels_may_hold_anything(scene: Scene) -> None:
    pointmaps, confidence = scene.pointmaps.copy(), scene.confidence.copy()
    pointmaps[0, 0, 0], confidence[0, 0, 0] = np.nan, 0
    other = Scene(scene.frames, scene.poses, scene.intrinsics, pointmaps, confidence)
    assert np.isfinite(other.points().points).all()


def test_points_know_their_pixels(scene: Scene) -> None:
    cloud = scene.points(edge_tolerance=None)
    assert len(cloud) == (scene.confidence > 0).sum()
    x, y = cloud.pixel.T
    np.testing.assert_array_equal(cloud.points, scene.pointmaps[cloud.frame, y, x])
    np.testing.assert_array_equal(cloud.colors, scene.frames[cloud.frame, y, x])


def test_points_filters(scene: Scene) -> None:
    rng = np.random.default_rng(0)
    doubtful = Scene(
        **fields(scene) | {"confidence": np.where(scene.confidence > 0, rng.uniform(1, 9, scene.confidence.shape), 0)}
    )
    everything = doubtful.points(edge_tolerance=None)
    half = doubtful.points(edge_tolerance=None, min_confidence_quantile=0.5)
    assert len(half) == pytest.approx(len(everything) / 2, abs=1)
    assert half.confidence.min() >= np.median(everything.confidence) - 1e-6
    few = doubtful.points(max_points=100)
    assert len(few) == 100 and (np.diff(few.frame) >= 0).all()
    np.testing.assert_array_equal(few.points, doubtful.points(max_points=100).points)
    for options, message in (
        ({"min_confidence_quantile": 1.0}, "got 1.0"),
        ({"max_points": 0}, "got 0"),
        ({"edge_tolerance": 0}, "None switches"),
    ):
        with pytest.raises(ValueError, match=message):
            doubtful.points(**options)


def test_nothing_left_is_said(scene: Scene) -> None:
    empty = Scene(**fields(scene) | {"confidence": np.zeros_like(scene.confidence)})
    with pytest.raises(ValueError, match="no pixel is left"):
        empty.points()


# Conventions


def test_quaternions_and_half_pixels_known_values() -> None:
    quarter_about_x = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    np.testing.assert_allclose(quaternion_wxyz(quarter_about_x), [np.sqrt(0.5), np.sqrt(0.5), 0, 0], atol=1e-12)
    np.testing.assert_array_equal(half_pixel_up(np.eye(3)), [[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    signs = continuous(np.array([[1.0, 0, 0, 0], [-0.9, 0.1, 0, 0], [0.8, -0.2, 0, 0]]))
    assert (np.sum(signs[1:] * signs[:-1], 1) > 0).all()


def test_frustum_corners_are_the_images_outer_border() -> None:
    intrinsics = np.array([[[10.0, 0, 4.5], [0, 10, 2.5], [0, 0, 1]]])
    corners = frustum_corners(np.eye(4)[None], intrinsics, (6, 10), 2.0)
    np.testing.assert_allclose(corners[0, 0], [-1.0, -0.6, 2.0])
    np.testing.assert_allclose(corners[0, 2], [1.0, 0.6, 2.0])


def test_srgb_known_values() -> None:
    np.testing.assert_allclose(linear_from_srgb(np.array([0, 10, 188, 255])), [0, 0.003035, 0.5029, 1], atol=1e-4)


# Tracks and COLMAP


def test_tracks_lie_on_the_same_surface(scene: Scene) -> None:
    tracks = build_tracks(scene)
    assert (np.diff(tracks.point) >= 0).all() and len(tracks.point) > 3 * len(tracks.points)
    for frame in range(FRAMES):
        here = tracks.frame == frame
        in_camera = (tracks.points[tracks.point[here]] - scene.poses[frame, :3, 3]) @ scene.poses[frame, :3, :3]
        maps = torch.tensor(scene.depth[frame]), torch.tensor(scene.confidence[frame] > 0)
        own = sample_depth(*maps, torch.from_numpy(tracks.xy[here]), spare_unweighted=True).numpy()
        assert (np.abs(own / in_camera[:, 2] - 1) < 0.02).all()
    assert tracks.error_px.max() < 1e-4
    assert np.bincount(tracks.point).min() >= 2
    pairs = tracks.point * FRAMES + tracks.frame
    assert len(np.unique(pairs)) == len(pairs)


def test_tracks_do_not_see_through_things() -> None:
    """A wall point that the ball hides in another frame is not observed there."""
    scene = make_scene(holes=False)
    tracks = build_tracks(scene)
    centre, radius = np.array([0.3, -0.1, 2.6]), 0.7
    on_wall = np.linalg.norm(tracks.points - centre, axis=1) > radius + 0.01
    seen = on_wall[tracks.point]
    eye = scene.poses[tracks.frame[seen], :3, 3]
    ray = tracks.points[tracks.point[seen]] - eye
    along = np.clip(((centre - eye) * ray).sum(1) / (ray**2).sum(1), 0, 1)
    distance = np.linalg.norm(eye + along[:, None] * ray - centre, axis=1)
    assert distance.min() > 0.9 * radius  # up to the rim, which pixels cannot resolve


def test_tracks_cover_the_surface_once() -> None:
    scene = make_scene(holes=False)
    tracks = build_tracks(scene)
    # Six frames see nearly the same: far fewer points than pixels, and frame 1 is in most of the tracks.
    assert len(tracks.points) < 0.4 * scene.confidence.sum()
    assert (tracks.frame == 0).sum() > 0.8 * HEIGHT * WIDTH


def test_tracks_options(scene: Scene) -> None:
    assert len(build_tracks(scene, max_points=50).points) == 50
    long = build_tracks(scene, min_length=5)
    assert np.bincount(long.point).min() >= 5
    neighbours = build_tracks(scene, max_gap=1)
    spans = [np.ptp(neighbours.frame[neighbours.point == point]) for point in range(20)]
    assert max(spans) <= 2
    shifted = scene.poses.copy()
    shifted[:, 2, 3] -= 50.0 * np.arange(FRAMES)  # frames that see nothing in common
    pointmaps = unproject(scene.depth, shifted, scene.intrinsics)
    with pytest.raises(ValueError, match="no point is seen by 2 frames"):
        build_tracks(Scene(scene.frames, shifted, scene.intrinsics, pointmaps, scene.confidence))


def test_colmap_has_one_camera_when_the_intrinsics_are_shared() -> None:
    assert len(colmap_model(make_scene()).cameras) == FRAMES
    model = colmap_model(make_scene(shared_intrinsics=True))
    assert len(model.cameras) == 1 and set(model.camera_ids) == {1}


# Clouds and splats


def test_ply_reads_back(scene: Scene) -> None:
    cloud = scene.points()
    again = read_ply(ply_bytes(cloud))
    np.testing.assert_array_equal(again.points, cloud.points)
    np.testing.assert_array_equal(again.colors, cloud.colors)
    np.testing.assert_array_equal(again.confidence, cloud.confidence)
    for broken in (b"", b"ply\n", ply_bytes(cloud)[:-1], b"x" + ply_bytes(cloud)):
        with pytest.raises(ValueError, match="not a complete PLY"):
            read_ply(broken)


def test_spacing_agrees_with_an_exact_search(scene: Scene) -> None:
    spatial = pytest.importorskip("scipy.spatial")
    for points in (scene.points().points, np.random.default_rng(0).normal(size=(3000, 3))):
        points = points.astype(float)
        exact = np.sqrt((spatial.cKDTree(points).query(points, 4)[0][:, 1:] ** 2).mean(1))
        ours = nearest_spacing(points)
        assert (ours >= exact * (1 - 1e-9)).all()  # it may miss a neighbour, never invent one
        assert np.median(ours / exact) < 1.05 and np.quantile(ours / exact, 0.95) < 1.6


def test_spacing_small_sets() -> None:
    np.testing.assert_allclose(nearest_spacing(np.array([[0.0, 0, 0], [3, 4, 0]])), [5, 5])
    assert (nearest_spacing(np.zeros((10, 3))) > 0).all()  # coincident points still get a size
    with pytest.raises(ValueError, match="got 1"):
        nearest_spacing(np.zeros((1, 3)))


def test_splat_layouts_and_refusals(scene: Scene) -> None:
    cloud = scene.points(max_points=50)
    header = splat_bytes(cloud, sh_degree=3).split(b"end_header")[0]
    assert header.count(b"f_rest_") == 45 and header.index(b"f_dc_2") < header.index(b"f_rest_0") < header.index(b"opacity")
    for options in ({"opacity": 1.0}, {"sh_degree": 4}):
        with pytest.raises(ValueError, match="got"):
            splat_bytes(cloud, **options)


def test_glb_frusta_fit_the_scene_or_are_given(scene: Scene) -> None:
    assert glb_bytes(scene, scene.points()) != glb_bytes(scene, scene.points(), frustum_depth=0.5)
    still = Scene(scene.frames[:1], scene.poses[:1], scene.intrinsics[:1], scene.pointmaps[:1], scene.confidence[:1])
    assert b'"path"' not in glb_bytes(still, still.points())


# Camera files


def test_cameras_json_follows_the_contract(scene: Scene) -> None:
    document = json.loads(cameras_json(scene))
    assert list(document) == ["convention", "width", "height", "fps", "frames"]
    assert (document["convention"], document["width"], document["height"]) == ("opencv_cam_to_world", WIDTH, HEIGHT)
    assert [list(frame) for frame in document["frames"]] == [["index", "time", "pose", "intrinsics", "registered"]] * FRAMES
    poses, intrinsics, size, fps = read_cameras_json(cameras_json(scene))
    np.testing.assert_array_equal(poses, scene.poses)
    np.testing.assert_array_equal(intrinsics, scene.intrinsics)
    assert size == (HEIGHT, WIDTH) and fps == 7.5


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"[]", b"{}", b"\xff", b'{"convention": "other", "width": 1, "height": 1, "fps": 1, "frames": []}'),
        cameras_json(make_scene()).replace(b"1.0", b"NaN", 1),
    ],
)
def test_cameras_json_refusals(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"cameras\.json"):
        read_cameras_json(content)


def test_npz_reads_back_and_refuses_others(scene: Scene) -> None:
    import io

    again = read_npz(npz_bytes(scene))
    for name, value in fields(scene).items():
        np.testing.assert_array_equal(getattr(again, name), value) if value is not None else None
    assert again.pose_covariance is None and again.caption == scene.caption
    buffer = io.BytesIO()
    np.savez(buffer, poses=scene.poses)
    for content in (b"", b"PK", buffer.getvalue()):
        with pytest.raises(ValueError, match="not an npz"):
            read_npz(content)
    with np.load(io.BytesIO(npz_bytes(scene))) as file:
        arrays = dict(file)
    for more, message in (
        ({"my_notes": np.zeros(2)}, "holds my_notes, which no scene has"),
        ({"tracks_xy": np.zeros((1, 2))}, "holds only xy of the arrays of its tracks"),
    ):
        np.savez(buffer := io.BytesIO(), **arrays, **more)
        with pytest.raises(ValueError, match=message):
            read_npz(buffer.getvalue())


def test_blender_refuses_changing_pixel_shapes(scene: Scene) -> None:
    intrinsics = scene.intrinsics.copy()
    intrinsics[2, 0, 0] *= 1.1
    with pytest.raises(ValueError, match="one pixel aspect"):
        blender_script(Scene(scene.frames, scene.poses, intrinsics))
    remark = "shown with one pixel aspect, from which single ones are up to 1.2 % off"
    intrinsics[2, 0, 0] = scene.intrinsics[2, 0, 0] * 1.012  # as models find it that look for both focal lengths frame by frame
    assert remark in blender_script(Scene(scene.frames, scene.poses, intrinsics))
    assert "pixel aspect," not in blender_script(scene)


def test_colmap_needs_points_that_several_frames_see(scene: Scene) -> None:
    with pytest.raises(ValueError, match="this scene has one"):
        colmap_model(Scene(*(value[:1] for value in (scene.frames, scene.poses, scene.intrinsics, scene.pointmaps))))
    with pytest.raises(ValueError, match="a camera that only turns shows no depth"):
        colmap_model(Scene(scene.frames, scene.poses, scene.intrinsics))


def test_nerfstudio_without_geometry_has_no_cloud(scene: Scene) -> None:
    bare = Scene(scene.frames, scene.poses, scene.intrinsics)
    files = nerfstudio_files(bare)
    assert "sparse_pc.ply" not in files and "ply_file_path" not in json.loads(files["transforms.json"])


# Video


@pytest.mark.parametrize(("size", "scale"), [((64, 64), 4), ((30, 41), 10), ((256, 256), 1), ((255, 300), 2), ((1080, 1921), 1)])
def test_player_scale(size: tuple[int, int], scale: int) -> None:
    assert player_scale(*size) == scale


@pytest.mark.parametrize("resample", ["lanczos", "nearest"])
def test_video_keeps_the_picture(resample: str) -> None:
    import io

    import av

    v, u = np.mgrid[:33, :47]
    frames = np.stack([np.stack([120 + 60 * np.sin(u / 9 + i), 120 + 60 * np.cos(v / 7), 100 + u], -1) for i in range(3)]).astype(
        np.uint8
    )
    file: Any = av.open(io.BytesIO(encode_video(frames, 29.97, scale=5, resample=resample)))
    with file as container:
        assert float(container.streams.video[0].average_rate) == pytest.approx(29.97)
        images = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert images[0].shape == (33 * 5 + 1, 47 * 5 + 1, 3)  # odd sides are made even
    small = np.stack([image[:165, :235].reshape(33, 5, 47, 5, 3).mean((1, 3)) for image in images])
    assert np.abs(small - frames).mean() < 2.5


@pytest.mark.parametrize("options", [{"fps": 0}, {"fps": 8, "scale": 0}, {"fps": 8, "resample": "cubic"}])
def test_video_refusals(options: dict) -> None:
    with pytest.raises(ValueError, match="got"):
        encode_video(np.zeros((2, 8, 8, 3), np.uint8), **options)
    with pytest.raises(ValueError, match="float64"):
        encode_video(np.zeros((2, 8, 8, 3)), 8)


def test_depth_colours_near_bright_far_dark_unknown_grey() -> None:
    depth = np.array([[[1.0, 2.0, 4.0, 0.0, np.nan]]])
    colors = depth_frames(depth)[0, 0].astype(int)
    assert colors[0].sum() > colors[1].sum() > colors[2].sum()
    assert (colors[3:] == 128).all()
    assert colorize(np.zeros((2, 2)), np.zeros((2, 2), bool), "viridis").tolist() == [[[128] * 3] * 2] * 2


# Files


def test_files_are_never_overwritten_unasked(tmp_path: Path) -> None:
    write_file(tmp_path / "a" / "x.bin", b"one")
    with pytest.raises(ValueError, match=r"x\.bin.*exists already; pass overwrite=True"):
        write_file(tmp_path / "a" / "x.bin", b"two")
    with pytest.raises(ValueError, match="exists already"):
        write_files(tmp_path / "a", {"new.bin": b"", "x.bin": b"two"})
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x.bin"]  # nothing half done, nothing left aside
    assert (tmp_path / "a" / "x.bin").read_bytes() == b"one"
    write_file(tmp_path / "a" / "x.bin", b"two", overwrite=True)
    assert (tmp_path / "a" / "x.bin").read_bytes() == b"two"
    with pytest.raises(ValueError, match="is a folder"):
        write_file(tmp_path / "a", b"", overwrite=True)


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x"])
def test_files_stay_in_their_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="leads out of the folder"):
        write_files(tmp_path / "a", {name: b""})


def test_unknown_exports_are_named(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown export 'obj'; choose from colmap, nerfstudio, tum"):
        export_scene(scene, tmp_path, ["npz", "obj"])
    with pytest.raises(ValueError, match="list of export names"):
        export_scene(scene, tmp_path, "npz")
    with pytest.raises(ValueError, match="no pointmaps"):
        export_scene(Scene(scene.frames, scene.poses, scene.intrinsics), tmp_path, ["tum", "ply"])
    assert not list(tmp_path.iterdir())


def test_a_run_has_the_five_files_and_reads_back(scene: Scene, tmp_path: Path) -> None:
    paths = write_results(scene, tmp_path, exports=["npz"])
    names = {"video.mp4", "cameras.json", "trajectory.png", "pointcloud.ply", "pointcloud.glb", "scene.npz"}
    assert {path.name for path in paths} == {path.name for path in tmp_path.iterdir()} == names
    np.testing.assert_array_equal(load_scene(tmp_path).pointmaps, scene.pointmaps)
    with pytest.raises(ValueError, match="exists already"):
        export_scene(scene, tmp_path, ["npz"])
    other = Scene(scene.frames[1:], scene.poses[1:], scene.intrinsics[1:], fps=7.5)
    export_scene(other, tmp_path, ["npz"], overwrite=True)
    assert load_scene(tmp_path).num_frames == scene.num_frames - 1  # key frames of a long video
    turned = other.poses @ np.diag([-1.0, -1.0, 1.0, 1.0])
    export_scene(Scene(other.frames, turned, other.intrinsics, fps=7.5), tmp_path, ["npz"], overwrite=True)
    with pytest.raises(ValueError, match="of different runs"):
        load_scene(tmp_path)
    (tmp_path / "scene.npz").unlink()
    lossy = load_scene(tmp_path)
    assert lossy.pointmaps is None and lossy.fps == 7.5
    np.testing.assert_array_equal(lossy.poses, scene.poses)
    assert np.abs(lossy.frames.astype(int) - scene.frames).mean() < 4
    (tmp_path / "video.mp4").unlink()
    with pytest.raises(ValueError, match=r"lacks video\.mp4"):
        load_scene(tmp_path)


def test_a_clock_that_began_long_ago_keeps_its_steps(scene: Scene) -> None:
    times = 1.7e9 + np.arange(FRAMES) / 120
    late = dataclasses.replace(scene, times=times)
    stamps = [line.split()[0] for line in tum_text(late).splitlines()[1:]]
    np.testing.assert_allclose(np.array(stamps, float), times, atol=1e-6)
    at_once = dataclasses.replace(scene, times=times - times[0])
    assert animated_camera_glb(late) == animated_camera_glb(dataclasses.replace(at_once, times=at_once.times - 0.04))


def test_a_folder_without_arrays_keeps_the_numbers_of_its_frames(scene: Scene, tmp_path: Path) -> None:
    write_results(dataclasses.replace(scene, frame_index=40 * np.arange(FRAMES)), tmp_path)
    assert load_scene(tmp_path).frame_index.tolist() == (40 * np.arange(FRAMES)).tolist()


def test_bfloat16_tensors_are_taken(scene: Scene) -> None:
    confidence = torch.from_numpy(scene.confidence)
    same = Scene(scene.frames, scene.poses, scene.intrinsics, scene.pointmaps, confidence.bfloat16())
    np.testing.assert_allclose(same.confidence, scene.confidence, rtol=1e-2)


def test_targets_are_what_the_exporters_write(scene: Scene, exported: dict, tmp_path: Path) -> None:
    assert list(TARGETS) == list(EXPORTERS)
    for name, files in exported.items():
        assert {file.split("/")[0] for file in files} == {TARGETS[name]}
    assert set(result_files(scene)) == set(RESULT_NAMES)
    check_free(tmp_path / "new", EXPORTERS)
    (tmp_path / "colmap").mkdir()
    check_free(tmp_path, ["npz"])
    with pytest.raises(ValueError, match="already holds colmap"):
        check_free(tmp_path, ["npz", "colmap"])
    with pytest.raises(ValueError, match="unknown export 'obj'"):
        check_free(tmp_path, ["obj"])


def test_exports_are_reproducible_to_the_byte(scene: Scene, exported: dict) -> None:
    for name, exporter in EXPORTERS.items():
        assert exported[name] == {path: bytes_of(content) for path, content in exporter(scene).items()}, name
