"""Frames whose camera could not be found, from the registration to the files; and frame numbers of key frames."""

import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pycolmap
import pytest
import torch
from export_cases import make_scene
from registration_scenes import make_scene as make_pairs

from jog3r import register_pointmaps
from jog3r.data.camera_formats import read_cameras_json as read_training_cameras
from jog3r.export.exporters import EXPORTERS, load_scene, write_results
from jog3r.export.files import bytes_of
from jog3r.export.formats.blender import blender_script
from jog3r.export.formats.colmap import colmap_files
from jog3r.export.formats.nerfstudio import nerfstudio_files
from jog3r.export.scene import Scene
from jog3r.geometry.registration import Registration
from jog3r.geometry.registration.degeneracy import pose_known
from jog3r.pipelines.pipeline_output import Jog3rPipelineOutput
from jog3r.training.run import validation

LOST = 3  # the frame without a pose


def registered(noise_for_map: bool, **options) -> Registration:
    """Eight frames; the second map of one pair is worth nothing."""
    maps = list(make_pairs(num_frames=8, height=40, width=48, noise=0.01).inputs)
    values = maps[2].clone() if noise_for_map else maps[3].clone()
    values[LOST - 1] = torch.randn_like(values[0]) if noise_for_map else 0
    maps[2 if noise_for_map else 3] = values
    return register_pointmaps(*maps, **options)


@pytest.fixture(scope="module")
def scene() -> Scene:
    whole = make_scene()
    poses = whole.poses.copy()
    poses[LOST] = np.eye(4)
    return replace(whole, poses=poses, pose_known=np.arange(whole.num_frames) != LOST)


@pytest.mark.parametrize("noise_for_map", [False, True])
def test_registration_and_clip_say_which_pose_is_unknown(noise_for_map: bool) -> None:
    result = registered(noise_for_map)
    assert result.degenerate[LOST] == ("no overlap" if noise_for_map else "too few points")
    assert result.pose_known.tolist() == [frame != LOST for frame in range(8)]
    frames = np.zeros((8, 40, 48, 3), np.uint8)
    named = {name: getattr(result, name)[None] for name in ("poses", "intrinsics", "pointmaps", "confidence", "depth")}
    fields = Jog3rPipelineOutput(frames=[frames], **named, registration=[result]).clip()
    assert float(fields["confidence"][LOST].max()) == 0 and float(fields["confidence"][LOST - 1].mean()) > 1
    assert LOST not in Scene(**fields).points(edge_tolerance=None).frame


def test_validation_counts_an_unknown_pose_as_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `jog3r evaluate v2c` does: a head that finds no camera is not one that finds a still one."""
    result = registered(True)
    found = Jog3rPipelineOutput(frames=None, poses=result.poses[None], registration=[result])
    monkeypatch.setattr(validation, "reconstruct_clips", lambda *_: found)
    measured = SimpleNamespace(clips=lambda *_: [SimpleNamespace(poses=result.poses.numpy())], config=None, _empty={})
    values = validation.Validation._cameras(measured, None)
    assert values["rotation"] == pytest.approx(180 / 7, abs=0.1) and values["direction"] == pytest.approx(180 / 7, abs=0.1)


def test_given_poses_are_known_whatever_the_maps_say() -> None:
    poses = make_pairs(num_frames=8, height=40, width=48, noise=0.01).poses
    result = registered(True, known_poses=poses)
    assert result.pose_known.all()
    assert float(result.pose_covariance.abs().max()) == 0


def test_words_are_read_also_beside_others() -> None:
    assert pose_known(["", "poor fit", "planar scene, no overlap", "too few points"]).tolist() == [True, True, False, False]


def test_scene_drops_the_geometry_of_unknown_poses(scene: Scene) -> None:
    assert scene.confidence[LOST].max() == 0
    posed = scene.posed()
    cloud, same = posed.points(), scene.posed(pictures=False).points()
    assert np.array_equal(cloud.colors, same.colors) and np.array_equal(cloud.points, same.points)
    assert posed.frame_index.tolist() == [0, 1, 2, 4, 5] and posed.pose_known.all()
    assert make_scene().posed().frame_index.tolist() == list(range(6))
    with pytest.raises(ValueError, match="False for every frame"):
        replace(scene, pose_known=np.zeros(6, bool))
    with pytest.raises(ValueError, match="frame numbers >= 0 that rise"):
        replace(scene, frame_index=[0, 2, 2, 3, 4, 5])


def test_colmap_leaves_the_image_out(scene: Scene, tmp_path: Path) -> None:
    files = colmap_files(scene)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes_of(content))
    names = {f"frame_{frame + 1:05d}.png" for frame in range(6) if frame != LOST}
    for folder in ("sparse/0", "sparse_text/0"):
        model = pycolmap.Reconstruction(str(tmp_path / folder))
        assert {image.name for image in model.images.values()} == names
        for point in model.points3D.values():
            for element in point.track.elements:
                image = model.images[element.image_id]
                projected = image.project_point(point.xyz)
                np.testing.assert_allclose(projected, image.points2D[element.point2D_idx].xy, atol=1e-3)
    assert {path.name for path in (tmp_path / "images").iterdir()} == names


def test_nerfstudio_and_trajectories_leave_the_image_out(scene: Scene) -> None:
    files = nerfstudio_files(scene)
    frames = json.loads(files["transforms.json"])["frames"]
    assert [frame["file_path"] for frame in frames] == [name for name in files if name.startswith("images/")]
    assert len(frames) == 5 and f"images/frame_{LOST + 1:05d}.png" not in files
    times = [float(line.split()[0]) for line in EXPORTERS["tum"](scene)["trajectory_tum.txt"].decode().splitlines()[1:]]
    np.testing.assert_allclose(times, np.array([0, 1, 2, 4, 5]) / scene.fps)
    assert len(EXPORTERS["kitti"](scene)["trajectory_kitti.txt"].splitlines()) == 6  # lines are counted there
    clip = json.loads(blender_script(scene).split('"""')[3])
    assert [frame["number"] for frame in clip["frames"]] == [1, 2, 3, 5, 6]


def test_results_keep_every_frame_and_say_it(scene: Scene, tmp_path: Path) -> None:
    write_results(scene, tmp_path / "a")
    frames = json.loads((tmp_path / "a" / "cameras.json").read_text())["frames"]
    assert [frame.get("pose_known") for frame in frames] == [None, None, None, False, None, None]
    assert load_scene(tmp_path / "a").pose_known.tolist() == scene.pose_known.tolist()
    write_results(scene, tmp_path / "b", exports=["npz"])
    assert load_scene(tmp_path / "b").pose_known.tolist() == scene.pose_known.tolist()
    with pytest.raises(ValueError, match=r"no pose for its frames \[3\]"):
        read_training_cameras(tmp_path / "a" / "cameras.json")


def test_key_frames_keep_their_numbers() -> None:
    keys = replace(make_scene(), frame_index=[0, 7, 14, 21, 28, 35])
    with np.load(io.BytesIO(EXPORTERS["npz"](keys)["scene.npz"])) as stored:
        assert stored["frame_index"].tolist() == [0, 7, 14, 21, 28, 35]
    files = EXPORTERS["nerfstudio"](keys)
    assert "nerfstudio/images/frame_00036.png" in files
    assert json.loads(files["nerfstudio/transforms.json"])["frames"][1]["file_path"] == "images/frame_00008.png"
    assert b"frame_00015.png" in EXPORTERS["colmap"](keys)["colmap/sparse_text/0/images.txt"]
