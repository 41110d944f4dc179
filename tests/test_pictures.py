"""Pictures and the viewer: they show what they should, also in odd cases, and leave no global state."""

import dataclasses
import io
import socket
import urllib.request
from pathlib import Path
from typing import Any

import av
import matplotlib
import numpy as np
import pytest
from export_cases import FRAMES, HEIGHT, WIDTH, make_scene
from PIL import Image

from jog3r.export.exporters import write_results
from jog3r.export.pictures.animation import overview_animation
from jog3r.export.pictures.correspondences import reciprocal_matches
from jog3r.export.pictures.plots import (
    contact_sheet,
    correspondences_picture,
    overview_picture,
    strips_picture,
    trajectory_picture,
)
from jog3r.export.pictures.rendering import View, look_at, orbit_views, render_points, spaced_cameras, turntable_video
from jog3r.export.scene import Scene


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene()


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def saturation(image: np.ndarray) -> np.ndarray:
    return image.max(-1) - image.min(-1)


def test_trajectory_shows_all_frames_colours_and_repeats_to_the_byte(scene: Scene) -> None:
    before = dict(matplotlib.rcParams)
    png = trajectory_picture(scene)
    image = pixels(png)
    assert image.shape[0] > 500 and image.shape[1] > 900
    for border in (image[:, 0], image[:, -1], image[0], image[-1]):
        assert (border == 255).all()  # nothing is cut
    for channel in range(3):  # the path runs from blue over green to red
        others = np.delete(image, channel, axis=-1).max(-1)
        assert (image[..., channel] - others > 50).sum() > 30
    assert trajectory_picture(scene) == png
    dark = pixels(trajectory_picture(scene, dark=True))
    assert dark.shape == image.shape and np.median(dark) < 40 < 220 < np.median(image)
    assert dict(matplotlib.rcParams) == before


def test_animation_plays_forth_and_back_with_the_camera_of_the_moment(scene: Scene) -> None:
    picture = Image.open(io.BytesIO(overview_animation([scene, scene], side=128)))
    assert picture.n_frames == 2 * FRAMES - 2 and picture.size[0] == 2 * (128 + 8) - 8
    shown = []
    for number in range(picture.n_frames):
        picture.seek(number)
        shown.append(np.asarray(picture.convert("RGB")).astype(int))
    changes = [np.abs(a - b).mean() for a, b in zip(shown, [*shown[1:], shown[0]], strict=True)]
    assert min(changes) > 0.5  # every frame moves, also over the seam
    white = [(image[-128:, :128].min(-1) > 200).sum() for image in shown]  # in the cloud's tile: the lit camera
    assert min(white) > 10
    shorter = dataclasses.replace(scene, pose_known=np.arange(FRAMES) > 0)  # one frame without a pose
    for wrong in ([], [scene, shorter], [Scene(scene.frames, scene.poses, scene.intrinsics)]):
        with pytest.raises(ValueError, match="an animation needs"):
            overview_animation(wrong)


def test_trajectory_with_covariance_draws_ellipses_and_skips_undetermined_poses(scene: Scene) -> None:
    covariance = np.zeros((FRAMES, 6, 6))
    covariance[1:, 3:, 3:] = 0.02**2 * np.eye(3)
    covariance[-1] = np.inf
    plain, drawn = (pixels(trajectory_picture(dataclasses.replace(scene, pose_covariance=value))) for value in (None, covariance))
    assert (np.abs(plain - drawn).max(-1) > 20).sum() > 500


@pytest.mark.parametrize("case", ["cameras only", "still", "one frame", "static path far from the scene"])
def test_trajectory_of_odd_scenes(scene: Scene, case: str) -> None:
    if case == "cameras only":
        odd = Scene(scene.frames, scene.poses, scene.intrinsics)
    elif case == "still":
        odd = Scene(scene.frames, np.tile(np.eye(4), (FRAMES, 1, 1)), scene.intrinsics)
    elif case == "one frame":
        odd = Scene(scene.frames[:1], scene.poses[:1], scene.intrinsics[:1], scene.pointmaps[:1], scene.confidence[:1])
    else:
        odd = Scene.from_depth(scene.frames, 1e4 * scene.depth, np.tile(np.eye(4), (FRAMES, 1, 1)), scene.intrinsics)
    image = pixels(trajectory_picture(odd))
    assert (saturation(image) > 60).sum() > 100


def test_strips_and_contact_sheet(scene: Scene) -> None:
    image = pixels(strips_picture(scene, columns=4))
    assert image.shape[1] > image.shape[0]
    sheet = pixels(contact_sheet(scene.frames, columns=3, labels=list("abcdef")))
    assert sheet.min() < 100
    for call in (
        lambda: strips_picture(scene, columns=0),
        lambda: contact_sheet(scene.frames, columns=0),
        lambda: contact_sheet(scene.frames, labels=["a"]),
        lambda: strips_picture(Scene(scene.frames, scene.poses, scene.intrinsics)),
    ):
        with pytest.raises(ValueError, match=r"got|no pointmaps"):
            call()


def test_overview_has_a_row_for_each_scene(scene: Scene) -> None:
    one, two = (pixels(overview_picture([scene] * count)) for count in (1, 2))
    assert two.shape[1] == one.shape[1] and two.shape[0] == pytest.approx(2 * one.shape[0], abs=1)
    half = len(two) // 2
    for part in (two[:half], two[half:]):  # both rows are filled: frames to the left, points and cameras to the right
        assert saturation(part[:, : one.shape[1] // 2]).max() > 50 and saturation(part[:, -one.shape[1] // 4 :]).max() > 50
    for scenes in ([], [Scene(scene.frames, scene.poses, scene.intrinsics)]):
        with pytest.raises(ValueError, match="needs scenes with points"):
            overview_picture(scenes)


def test_matches_are_the_same_points(scene: Scene) -> None:
    here, there = reciprocal_matches(scene)
    assert len(here) > 200 and here.shape == there.shape
    first = scene.pointmaps[0, here[:, 1], here[:, 0]]
    last = scene.pointmaps[-1, there[:, 1], there[:, 0]]
    spacing = scene.depth.max() / scene.intrinsics[0, 0, 0]
    assert np.median(np.linalg.norm(first - last, axis=1)) < spacing
    # Against the plain definition, on all pixels.
    seen = scene.valid_pixels(min_confidence_quantile=0.1)
    a, b = scene.pointmaps[0][seen[0]], scene.pointmaps[-1][seen[-1]]
    distance = np.linalg.norm(a[:, None].astype(float) - b[None], axis=-1)
    forward, back = distance.argmin(1), distance.argmin(0)
    assert len(here) == (back[forward] == np.arange(len(a))).sum()


def test_matches_of_a_shifted_picture_are_the_shift() -> None:
    """A camera that slides along a wall by exactly three pixels."""
    intrinsics = np.tile(np.array([[20.0, 0, 16], [0, 20, 12], [0, 0, 1]]), (2, 1, 1))
    poses = np.tile(np.eye(4), (2, 1, 1))
    poses[1, 0, 3] = 3 * 2.0 / 20
    scene = Scene.from_depth(np.zeros((2, 24, 32, 3), np.uint8), np.full((2, 24, 32), 2.0), poses, intrinsics)
    here, there = reciprocal_matches(scene)
    assert len(here) >= 24 * 29
    inner = here[:, 0] >= 3
    np.testing.assert_array_equal(here[inner] - there[inner], np.tile([3, 0], (inner.sum(), 1)))


def test_correspondences_refusals(scene: Scene) -> None:
    image, dark = pixels(correspondences_picture(scene)), pixels(correspondences_picture(scene, dark=True))
    assert image.shape[1] > 1000 and image[0, 0].min() > 220 and dark[0, 0].max() < 40 and dark.shape == image.shape
    with pytest.raises(ValueError, match="two different frames"):
        correspondences_picture(scene, 0, 0)
    with pytest.raises(ValueError, match="two different frames"):
        reciprocal_matches(scene, 0, FRAMES)
    with pytest.raises(ValueError, match="got 0"):
        reciprocal_matches(scene, spacing=0)


# Renderer


def test_render_draws_the_nearest_point_where_it_projects() -> None:
    view = View(np.eye(4), 50.0, (40, 60))
    points = np.array([[0.5, -0.2, 5.0], [1.0, -0.4, 10.0], [0.0, 0.0, -3.0]])  # the second hides behind the first
    image = render_points(view, points, np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]]), 0.0, background=(0, 0, 0), shading=0)
    (y, x), color = np.argwhere(image.sum(-1) > 0)[0], image[image.sum(-1) > 0]
    np.testing.assert_allclose([x, y], [29.5 + 5, 19.5 - 2], atol=0.51)
    assert color.tolist() == [[255, 0, 0]]


def test_render_of_a_camera_reproduces_its_frame(scene: Scene) -> None:
    """The cloud of frame 1 seen from camera 1 is frame 1."""
    plain = make_scene(holes=False)
    intrinsics = plain.intrinsics[0].copy()
    intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2] = intrinsics[0, 0], (WIDTH - 1) / 2, (HEIGHT - 1) / 2
    one = Scene.from_depth(plain.frames[:1], plain.depth[:1], plain.poses[:1], intrinsics[None])
    cloud = one.points(edge_tolerance=None)
    view = View(one.poses[0], float(intrinsics[0, 0]), (HEIGHT, WIDTH))
    image = render_points(view, cloud.points, cloud.colors, 0.0, shading=0)
    np.testing.assert_array_equal(image, one.frames[0])


def test_look_at_is_upright_and_right_handed() -> None:
    pose = look_at(np.array([1.0, -2.0, 3.0]), np.array([0.0, 0.0, 8.0]))
    assert np.linalg.det(pose[:3, :3]) == pytest.approx(1)
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
    assert pose[1, 0] == pytest.approx(0) and pose[1, 1] > 0  # no roll, and down stays down


def test_orbit_keeps_everything_in_the_picture(scene: Scene) -> None:
    cloud = scene.points()
    for view in orbit_views(scene, cloud, np.array([0.0, 40.0, -40.0, 180.0]), (120, 160)):
        xy, z = view.project(scene.poses[:, :3, 3])
        assert (z > 0).all() and (xy > 0).all() and (xy < [160, 120]).all()
        xy, z = view.project(cloud.points)
        assert ((xy > 0) & (xy < [160, 120])).all(1).mean() > 0.9


def test_spaced_cameras(scene: Scene) -> None:
    assert spaced_cameras(scene.poses, 1e-6).tolist() == list(range(FRAMES))
    assert spaced_cameras(scene.poses, 1e6)[[0, -1]].tolist() == [0, FRAMES - 1]
    assert spaced_cameras(scene.poses[:1], 1.0).tolist() == [0]


def test_turntable_moves_and_closes_the_loop(scene: Scene) -> None:
    content = turntable_video(scene, num_views=8, size=(120, 160), fps=12)
    file: Any = av.open(io.BytesIO(content))
    with file as container:
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    assert len(frames) == 8 and frames[0].shape == (120, 160, 3)
    assert all(saturation(frame).max() > 80 for frame in frames)
    assert np.abs(frames[0] - frames[2]).mean() > 3
    # 0 and 180 degrees of the pendulum are the same view.
    assert np.abs(frames[0] - frames[4]).mean() < 2
    for options in ({"sweep_deg": 0}, {"sweep_deg": 400}, {"num_views": 0}):
        with pytest.raises(ValueError, match="got"):
            turntable_video(scene, **options)


# Viewer


def test_viewer_serves_a_page(scene: Scene, tmp_path: Path) -> None:
    pytest.importorskip("viser")
    from jog3r.export.viewer import view_scene

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    write_results(scene, tmp_path, exports=["npz"])
    for _ in range(2):
        server = view_scene(tmp_path, port=port, block=False)
        try:
            page = urllib.request.urlopen(f"http://127.0.0.1:{server.get_port()}", timeout=300).read()
            assert b"<html" in page
        finally:
            server.stop()
        (tmp_path / "scene.npz").unlink(missing_ok=True)  # the second round shows PLY and cameras only


def test_viewer_refuses_other_folders(tmp_path: Path) -> None:
    pytest.importorskip("viser")
    from jog3r.export.viewer import view_scene

    with pytest.raises(ValueError, match="neither scene.npz nor cameras.json with video.mp4 or pointcloud.ply"):
        view_scene(tmp_path, block=False)


def test_viewer_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from jog3r.export.viewer import view_scene

    monkeypatch.setitem(sys.modules, "viser", None)
    with pytest.raises(ImportError, match=r"'\.\[viewer\]'"):
        view_scene(tmp_path)
