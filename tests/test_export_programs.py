"""Every export is opened by the program it is for. Running this file prints the table of docs/exports.md, and the last test holds
the two together: export, program that opened it, what was checked (limits are those of the assertions).

nerfstudio and Blender are opened when they are installed (`pip install --no-deps nerfstudio` with the few packages that its
reader imports, `pip install bpy` on Python 3.11); without them a minimal reader written from their documentation stands in,
and the table says so.
"""

import importlib
import importlib.metadata
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_cases import FRAMES, HEIGHT, WIDTH, make_scene

from jog3r.export.exporters import EXPORTERS, export_scene, result_files
from jog3r.export.scene import Scene

ROWS: list[tuple[str, str, str, str]] = []  # export, program, its version, what was checked
DOCS = Path(__file__).resolve().parents[1] / "docs" / "exports.md"


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene()


@pytest.fixture(scope="module")
def folder(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("exports")
    export_scene(scene, directory, EXPORTERS)
    return directory


@pytest.fixture(scope="module", autouse=True)
def _table(request: pytest.FixtureRequest):
    yield
    lines = [f"| {name} | {program} {version}".rstrip() + f" | {checked} |" for name, program, version, checked in sorted(ROWS)]
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n" + "\n".join(["| export | program that opened it | what was checked |", "|---|---|---|", *lines]))


def opened(name: str, package: str, checked: str) -> None:
    ROWS.append((name, package, importlib.metadata.version(package), checked))


def pixel_grid() -> np.ndarray:
    """(H, W, 2) x and y of the pixel centres, ours: first at 0."""
    return np.stack(np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), -1).astype(float)


# COLMAP


@pytest.mark.parametrize("part", ["sparse/0", "sparse_text/0"])
def test_colmap_model_opens_in_pycolmap_and_its_points_project_onto_their_tracks(folder: Path, scene: Scene, part: str) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    model = pycolmap.Reconstruction(str(folder / "colmap" / part))
    assert model.num_images() == model.num_reg_images() == FRAMES
    assert len(model.points3D) > 300
    worst = 0.0
    for image_id, image in model.images.items():
        index = image_id - 1
        assert (folder / "colmap" / "images" / image.name).is_file()
        camera = model.cameras[image.camera_id]
        assert (camera.model.name, camera.width, camera.height) == ("PINHOLE", WIDTH, HEIGHT)
        k = scene.intrinsics[index]
        np.testing.assert_allclose(camera.params, [k[0, 0], k[1, 1], k[0, 2] + 0.5, k[1, 2] + 0.5], atol=1e-9)
        np.testing.assert_allclose(image.cam_from_world().matrix(), scene.world_to_camera[index, :3], atol=1e-9)
        for point in image.points2D:
            assert point.has_point3D()
            where = camera.img_from_cam(image.cam_from_world() * model.points3D[point.point3D_id].xyz)
            worst = max(worst, float(np.abs(where - point.xy).max()))
    assert worst < 1e-4  # float32 pointmaps
    for point in model.points3D.values():
        assert point.track.length() >= 2
        for element in point.track.elements:
            assert model.images[element.image_id].points2D[element.point2D_idx].point3D_id in model.points3D
    assert model.compute_mean_reprojection_error() < 1e-4
    kind = "binary" if part == "sparse/0" else "text"
    checked = "cameras and poses to 1e-9; every 3D point lies on every pixel of its track to 1e-4 px"
    opened(f"colmap ({kind})", "pycolmap", checked)


def test_colmap_text_and_binary_are_one_model(folder: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    binary = pycolmap.Reconstruction(str(folder / "colmap" / "sparse" / "0"))
    text = pycolmap.Reconstruction(str(folder / "colmap" / "sparse_text" / "0"))
    assert set(binary.points3D) == set(text.points3D)
    for number, point in binary.points3D.items():
        other = text.points3D[number]
        np.testing.assert_allclose(point.xyz, other.xyz, atol=1e-12)
        assert list(point.color) == list(other.color)
        assert {(e.image_id, e.point2D_idx) for e in point.track.elements} == {
            (e.image_id, e.point2D_idx) for e in other.track.elements
        }
    opened("colmap (both)", "pycolmap", "binary and text are one model")


def test_colmap_pixel_centres_are_half_a_pixel_up(folder: Path, scene: Scene) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    model = pycolmap.Reconstruction(str(folder / "colmap" / "sparse" / "0"))
    camera, image = model.cameras[1], model.images[1]
    # The world point of pixel (0, 0), whose centre COLMAP puts at (0.5, 0.5).
    where = camera.img_from_cam(image.cam_from_world() * scene.pointmaps[0, 0, 0].astype(float))
    np.testing.assert_allclose(where, [0.5, 0.5], atol=1e-5)


def test_colmap_colours_are_those_of_the_frames(folder: Path, scene: Scene) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    image_module = pytest.importorskip("PIL.Image")
    model = pycolmap.Reconstruction(str(folder / "colmap" / "sparse" / "0"))
    image = model.images[1]
    picture = np.asarray(image_module.open(folder / "colmap" / "images" / image.name))
    np.testing.assert_array_equal(picture, scene.frames[0])
    for point in image.points2D:
        x, y = np.floor(point.xy).astype(int)
        assert np.abs(picture[y, x].astype(int) - model.points3D[point.point3D_id].color).max() <= 60


# nerfstudio


def nerfstudio_minimal(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[Path]]:
    """A reader from nerfstudio's documentation of its data format: OpenGL camera-to-world, fl_x, fl_y, cx, cy per frame."""
    document = json.loads((path / "transforms.json").read_text())
    matrices = np.array([frame["transform_matrix"] for frame in document["frames"]])
    lens = np.array([[frame[name] for name in ("fl_x", "fl_y", "cx", "cy")] for frame in document["frames"]])
    plyfile = pytest.importorskip("plyfile")
    vertices = plyfile.PlyData.read(str(path / document["ply_file_path"]))["vertex"]
    cloud = np.stack([vertices[axis] for axis in "xyz"], -1)
    return matrices, lens, cloud, [path / frame["file_path"] for frame in document["frames"]]


def nerfstudio_rays(matrices: np.ndarray, lens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Origins (F, 3) and directions (F, H, W, 3) as nerfstudio makes them: pixel centres at 0.5, y up, z backward."""
    centres = pixel_grid() + 0.5
    x = (centres[None, ..., 0] - lens[:, 2, None, None]) / lens[:, 0, None, None]
    y = -(centres[None, ..., 1] - lens[:, 3, None, None]) / lens[:, 1, None, None]
    local = np.stack([x, y, -np.ones_like(x)], -1)
    return matrices[:, :3, 3], np.einsum("fij,fhwj->fhwi", matrices[:, :3, :3], local)


def assert_on_rays(scene: Scene, origins: np.ndarray, directions: np.ndarray) -> None:
    arms = scene.pointmaps - origins[:, None, None]
    directions = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    off = np.linalg.norm(np.cross(arms, directions), axis=-1)[scene.confidence > 0]
    assert off.max() < 1e-5
    assert ((arms * directions).sum(-1)[scene.confidence > 0] > 0).all()


def test_nerfstudio_transforms_read_by_the_documented_rules(folder: Path, scene: Scene) -> None:
    matrices, lens, cloud, images = nerfstudio_minimal(folder / "nerfstudio")
    assert all(image.is_file() for image in images)
    assert_on_rays(scene, *nerfstudio_rays(matrices, lens))
    assert np.abs(cloud - scene.points(min_confidence_quantile=0.1).points).max() == 0
    checked = "every pixel's ray meets its 3D point to 1e-5; cloud bit-equal; images there"
    ROWS.append(("nerfstudio", "a reader written from its documentation", "", checked))


@pytest.mark.filterwarnings("ignore")  # its own use of torch
@pytest.mark.skipif(importlib.util.find_spec("nerfstudio") is None, reason="nerfstudio is not installed")
def test_nerfstudio_reads_transforms_with_its_own_data_parser(folder: Path, scene: Scene) -> None:
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    try:  # its reader opens PLY files with open3d, which also wants system libraries
        importlib.import_module("open3d")
        with_cloud = True
    except ImportError:
        with_cloud = False
    config = NerfstudioDataParserConfig(
        data=folder / "nerfstudio",
        orientation_method="none",
        center_method="none",
        auto_scale_poses=False,
        downscale_factor=1,
        eval_mode="all",
        load_3D_points=with_cloud,
    )
    outputs = config.setup().get_dataparser_outputs(split="train")
    cameras = outputs.cameras
    assert [path.name for path in outputs.image_filenames] == [f"frame_{index + 1:05d}.png" for index in range(FRAMES)]
    origins, directions = [], []
    for index in range(FRAMES):
        rays = cameras.generate_rays(camera_indices=index)
        origins.append(rays.origins[0, 0].numpy())
        directions.append(rays.directions.numpy())
    assert_on_rays(scene, np.stack(origins), np.stack(directions))
    if with_cloud:
        cloud = outputs.metadata["points3D_xyz"].numpy()
        np.testing.assert_allclose(cloud, scene.points(min_confidence_quantile=0.1).points, atol=1e-6)
    opened("nerfstudio", "nerfstudio", "its data parser's and ray generator's rays meet every pixel's 3D point to 1e-5")


# Trajectories


def test_tum_trajectory_opens_in_evo(folder: Path, scene: Scene) -> None:
    file_interface = pytest.importorskip("evo.tools.file_interface")
    trajectory = file_interface.read_tum_trajectory_file(str(folder / "trajectory_tum.txt"))
    poses = np.stack(trajectory.poses_se3)
    np.testing.assert_allclose(poses, scene.poses, atol=1e-9)
    np.testing.assert_allclose(trajectory.timestamps, np.arange(FRAMES) / 7.5, atol=1e-9)
    assert trajectory.check()[0]
    opened("tum", "evo", "camera-to-world poses to 1e-9; times = index / fps")


def test_kitti_trajectory_opens_in_evo(folder: Path, scene: Scene) -> None:
    file_interface = pytest.importorskip("evo.tools.file_interface")
    trajectory = file_interface.read_kitti_poses_file(str(folder / "trajectory_kitti.txt"))
    np.testing.assert_allclose(np.stack(trajectory.poses_se3), scene.poses, atol=1e-9)
    opened("kitti", "evo", "camera-to-world poses to 1e-9")


# Clouds


def test_ply_opens_in_plyfile(folder: Path, scene: Scene) -> None:
    plyfile = pytest.importorskip("plyfile")
    vertices = plyfile.PlyData.read(str(folder / "pointcloud.ply"))["vertex"]
    cloud = scene.points(min_confidence_quantile=0.1)
    np.testing.assert_array_equal(np.stack([vertices[axis] for axis in "xyz"], -1), cloud.points)
    np.testing.assert_array_equal(np.stack([vertices[name] for name in ("red", "green", "blue")], -1), cloud.colors)
    np.testing.assert_array_equal(vertices["confidence"], cloud.confidence)
    opened("ply", "plyfile", "points, colours and confidence bit-equal")


def test_ply_opens_in_trimesh(folder: Path, scene: Scene) -> None:
    trimesh = pytest.importorskip("trimesh")
    loaded = trimesh.load(folder / "pointcloud.ply")
    cloud = scene.points(min_confidence_quantile=0.1)
    np.testing.assert_array_equal(loaded.vertices, cloud.points)
    np.testing.assert_array_equal(loaded.colors[:, :3], cloud.colors)
    opened("ply", "trimesh", "points and colours bit-equal")


def test_glb_opens_in_trimesh(folder: Path, scene: Scene) -> None:
    trimesh = pytest.importorskip("trimesh")
    loaded = trimesh.load(folder / "pointcloud.glb")
    assert set(loaded.geometry) == {"points", "cameras", "path"}
    cloud = scene.points(min_confidence_quantile=0.1)
    np.testing.assert_allclose(loaded.geometry["points"].vertices * [1, -1, -1], cloud.points, atol=1e-6)
    frusta = loaded.geometry["cameras"]
    assert len(frusta.faces) == FRAMES * 8 * 8
    # Every camera's centre is the middle of the square ring its first edge starts with.
    starts = frusta.vertices.reshape(FRAMES, 8, 8, 3)[:, 0, :4].mean(1) * [1, -1, -1]
    np.testing.assert_allclose(starts, scene.poses[:, :3, 3], atol=1e-5)
    opened("glb", "trimesh", "points after the turn to y up to 1e-6; frusta at the camera centres to 1e-5")


def test_splats_open_in_plyfile_with_the_3dgs_layout(folder: Path, scene: Scene) -> None:
    plyfile = pytest.importorskip("plyfile")
    vertices = plyfile.PlyData.read(str(folder / "splats.ply"))["vertex"]
    names = [item.name for item in vertices.properties]
    assert names[:9] == ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    assert names[-8:] == ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    cloud = scene.points(min_confidence_quantile=0.1)
    np.testing.assert_array_equal(np.stack([vertices[axis] for axis in "xyz"], -1), cloud.points)
    # As gsplat's and the original loaders decode them.
    colors = 0.5 + 0.28209479177387814 * np.stack([vertices[f"f_dc_{channel}"] for channel in range(3)], -1)
    np.testing.assert_allclose(colors * 255, cloud.colors, atol=1e-4)
    np.testing.assert_allclose(1 / (1 + np.exp(-vertices["opacity"])), 0.5, atol=1e-6)
    np.testing.assert_array_equal(
        np.stack([vertices[f"rot_{axis}"] for axis in range(4)], -1), np.tile([1, 0, 0, 0], (len(cloud), 1))
    )
    scale = np.exp(vertices["scale_0"])
    assert scale.min() > 0 and np.median(scale) < 0.2
    opened(
        "splat",
        "plyfile",
        "3DGS field layout; centres bit-equal; colours decode to 1e-4; opacity a logit, scales logs, rotations w x y z",
    )


# npz


def test_npz_opens_in_numpy(folder: Path, scene: Scene) -> None:
    with np.load(folder / "scene.npz") as file:
        for name in ("frames", "poses", "intrinsics", "pointmaps", "confidence", "depth"):
            np.testing.assert_array_equal(file[name], getattr(scene, name))
        assert float(file["fps"]) == 7.5 and str(file["caption"]) == scene.caption
    opened("npz", "numpy", "all arrays, fps and caption bit-equal")


# Blender


def blender_pixels(script: str, path: str = "camera.py", texts: dict[str, Any] | None = None) -> list:
    """Run the script with a stand-in for bpy that records, and return what it set at each key frame, and the clouds loaded.

    Args:
        script: what camera.py holds.
        path: what Blender says that the script's file is.
        texts: of the text editor, by name.
    """

    class Recorder(types.SimpleNamespace):
        def keyframe_insert(self, *, data_path: str, frame: int) -> None:
            value = self
            for part in data_path.split("."):
                value = getattr(value, part)
            keys.setdefault(frame, {})[data_path] = value

    keys: dict = {}
    clouds: list[str] = []
    scene_stub = Recorder(
        render=types.SimpleNamespace(), collection=types.SimpleNamespace(objects=types.SimpleNamespace(link=print))
    )
    scene_stub.frame_set = lambda _: None
    made: list[Recorder] = []

    def make_object(name: str, data: Recorder) -> Recorder:
        made.append(Recorder(name=name, data=data))
        return made[-1]

    bpy: Any = types.SimpleNamespace(
        context=types.SimpleNamespace(scene=scene_stub),
        data=types.SimpleNamespace(
            cameras=types.SimpleNamespace(new=lambda name: Recorder(name=name)),
            objects=types.SimpleNamespace(new=make_object),
            texts=texts or {},
        ),
        path=types.SimpleNamespace(abspath=lambda name: name),
        ops=types.SimpleNamespace(import_scene=types.SimpleNamespace(gltf=lambda filepath: clouds.append(filepath))),
    )
    sys.modules["bpy"] = bpy
    try:
        exec(compile(script, "camera.py", "exec"), {"__file__": path, "__name__": "__main__"})  # noqa: S102  # our own script, as Blender runs it
    finally:
        del sys.modules["bpy"]
    return [scene_stub, made[0], keys, clouds]


def rotation_of(w: float, x: float, y: float, z: float) -> np.ndarray:
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def test_blender_script_projects_by_the_documented_camera_model(folder: Path, scene: Scene) -> None:
    stub, camera, keys, _ = blender_pixels((folder / "blender" / "camera.py").read_text())
    assert (stub.render.resolution_x, stub.render.resolution_y) == (WIDTH, HEIGHT)
    assert stub.render.fps / stub.render.fps_base == pytest.approx(7.5)
    assert camera.data.sensor_fit == "HORIZONTAL" and sorted(keys) == list(range(1, FRAMES + 1))
    aspect = stub.render.pixel_aspect_y / stub.render.pixel_aspect_x
    worst = 0.0
    for index in range(FRAMES):
        key, seen = keys[index + 1], scene.confidence[index] > 0
        world = scene.pointmaps[index][seen] @ np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])  # Blender's: x, z, -y
        local = (world - key["location"]) @ rotation_of(*key["rotation_quaternion"])
        # The image is 1 wide and as high as its pixels; shifts are in widths; the camera looks along -z.
        across = key["lens"] / 36 * local[:, 0] / -local[:, 2] - key["shift_x"]
        up = key["lens"] / 36 * local[:, 1] / -local[:, 2] - key["shift_y"]
        pixels = np.stack([WIDTH * (across + 0.5), HEIGHT / 2 - WIDTH * up / aspect], -1) - 0.5
        worst = max(worst, float(np.abs(pixels - pixel_grid()[seen]).max()))
    assert worst < 1e-4
    checked = "the script runs; key frames; every 3D point lands on its pixel to 1e-4 px by the documented camera model"
    ROWS.append(("blender", "a stand-in for bpy", "", checked))


def test_blender_script_finds_the_cloud_from_the_text_editor_too(folder: Path, capsys: pytest.CaptureFixture) -> None:
    """There __file__ is a path inside the .blend file, and only the text knows where it was opened from."""
    file, cloud = folder / "blender" / "camera.py", str(folder / "blender" / "scene.glb")
    assert blender_pixels(file.read_text(), str(file))[3] == [cloud]
    opened_text = {"camera.py": types.SimpleNamespace(filepath=str(file))}
    assert blender_pixels(file.read_text(), "/work.blend/camera.py", opened_text)[3] == [cloud]
    capsys.readouterr()
    assert blender_pixels(file.read_text(), "/work.blend/camera.py")[3] == []
    assert "there is no /work.blend/scene.glb" in capsys.readouterr().out


@pytest.mark.skipif(importlib.util.find_spec("bpy") is None, reason="bpy is not installed (Blender as a module, Python 3.11)")
def test_blender_itself_projects_the_points_onto_their_pixels(folder: Path, scene: Scene, tmp_path: Path) -> None:
    np.save(tmp_path / "points.npy", scene.pointmaps[:, ::7, ::9])
    probe = f"""
import json, runpy, sys
import numpy as np
runpy.run_path({str(folder / "blender" / "camera.py")!r})
import bpy
from bpy_extras.object_utils import world_to_camera_view
from mathutils import Vector
scene = bpy.context.scene
rows = []
for index, points in enumerate(np.load({str(tmp_path / "points.npy")!r}), 1):
    scene.frame_set(index)
    moved = [Vector((x, z, -y)) for x, y, z in points.reshape(-1, 3).tolist()]
    rows.append([list(world_to_camera_view(scene, scene.camera, point)) for point in moved])
names = [item.name for item in bpy.data.objects]
vertices = max(len(item.data.vertices) for item in bpy.data.objects if item.type == "MESH")
json.dump([rows, names, vertices, bpy.app.version_string], open({str(tmp_path / "seen.json")!r}, "w"))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, env=environment, timeout=120, text=True)
    assert run.returncode == 0, run.stderr
    rows, names, vertices, version = json.loads((tmp_path / "seen.json").read_text())
    view = np.array(rows)
    pixels = np.stack([view[..., 0] * WIDTH, (1 - view[..., 1]) * HEIGHT], -1) - 0.5
    seen = (scene.confidence > 0)[:, ::7, ::9].reshape(FRAMES, -1)
    expected = np.broadcast_to(pixel_grid()[::7, ::9].reshape(-1, 2), pixels.shape)
    worst = np.abs(pixels - expected)[seen].max()
    assert worst < 2e-3  # Blender computes in float32
    assert "jog3r_camera" in names and vertices == len(scene.points(min_confidence_quantile=0.1))
    checked = "its own projection of the 3D points hits their pixels to 2e-3 px; `scene.glb` loads"
    ROWS.append(("blender", "Blender (bpy)", version, checked))


def test_animated_camera_glb_holds_the_path(folder: Path, scene: Scene) -> None:
    content = (folder / "blender" / "camera.glb").read_bytes()
    length = int.from_bytes(content[12:16], "little")
    document, buffer = json.loads(content[20 : 20 + length]), content[20 + length + 8 :]

    def array(index: int) -> np.ndarray:
        accessor = document["accessors"][index]
        view = document["bufferViews"][accessor["bufferView"]]
        columns = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        values = np.frombuffer(buffer, "<f4", accessor["count"] * columns, view["byteOffset"])
        return values.reshape(accessor["count"], columns)

    translation, rotation = (array(sampler["output"]) for sampler in document["animations"][0]["samplers"])
    np.testing.assert_allclose(array(document["animations"][0]["samplers"][0]["input"])[:, 0], np.arange(FRAMES) / 7.5, atol=1e-6)
    np.testing.assert_allclose(translation * [1, -1, -1], scene.poses[:, :3, 3], atol=1e-6)
    flip = np.diag([1, -1, -1])
    for xyzw, pose in zip(rotation.astype(float), scene.poses, strict=True):
        np.testing.assert_allclose(flip @ rotation_of(*xyzw[[3, 0, 1, 2]]) @ flip, pose[:3, :3], atol=1e-6)


# The files of every run


def test_video_opens_in_av_and_shows_the_frames(scene: Scene) -> None:
    import av

    file: Any = av.open(io.BytesIO(result_files(scene)["video.mp4"]))
    with file as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, float(stream.average_rate)) == ("h264", "yuv420p", 7.5)
        assert stream.width % 2 == 0 and stream.height % 2 == 0 and min(stream.width, stream.height) >= 256
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == FRAMES
    opened("video.mp4", "av", "H.264, yuv420p, frame count and rate, even sides of at least 256")


def test_turntable_opens_in_av(folder: Path) -> None:
    import av

    with av.open(str(folder / "turntable.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 72 and frames[0].shape == (480, 640, 3)
    assert np.abs(frames[0].astype(int) - frames[18]).mean() > 1  # it turns
    opened("turntable", "av", "H.264; it shows the cloud from a quarter of its swing to the other")


def test_every_export_has_a_program_test() -> None:
    text = Path(__file__).read_text()
    for name in EXPORTERS:
        assert re.search(rf'\(\s*f?"{name}\b', text), name


def test_the_documentation_shows_this_table() -> None:
    """What this run checked; programs that are not installed here keep their rows."""
    table = DOCS.read_text()
    for name, program, _, checked in ROWS:
        start, end = re.escape(f"| {name} | {program}"), re.escape(f"| {checked} |")
        assert re.search(rf"^{start}( [0-9.]+)? {end}$", table, re.MULTILINE), (
            f"docs/exports.md lacks: {name}, {program}, {checked}"
        )
