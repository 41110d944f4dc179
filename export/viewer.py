"""An interactive viewer in the browser: the cloud, frame by frame or all at once, and its cameras."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jog3r.export.conventions import camera_size, quaternion_wxyz, time_colors
from jog3r.export.exporters import load_scene
from jog3r.export.formats.point_cloud import read_ply
from jog3r.export.scene import PointCloud, Scene

__all__ = ["view_scene"]

MAX_POINTS = 400_000


def view_scene(directory: str | Path, *, host: str = "127.0.0.1", port: int = 8080, block: bool = True) -> Any:
    """Serve a result folder to the browser at http://host:port.

    Shows scene.npz (cloud per frame, confidence threshold) or, without it, pointcloud.ply and the cameras.

    Args:
        directory: A folder that `write_results` or `export_scene` filled.
        host: Address to listen on; the default is this machine only.
        port: Port to listen on; the next free one is taken if it is in use.
        block: Serve until interrupted; False returns at once.

    Returns:
        The viser server (stop it with `.stop()`), when `block` is False.

    Raises:
        ValueError: The folder holds no result.
        ImportError: viser is not installed; the message says how to install it.
    """
    try:
        import viser
    except ImportError as error:
        raise ImportError(
            "the viewer needs viser: pip install '.[viewer]' in the checkout of jog3r (or open pointcloud.glb in any 3D viewer)"
        ) from error
    scene = load_scene(directory)
    cloud = _load_cloud(scene, Path(directory))
    server = viser.ViserServer(host=host, port=port, verbose=False)
    _Viewer(server, scene, cloud)
    if block:
        try:
            server.sleep_forever()
        except KeyboardInterrupt:
            server.stop()
        return None
    return server


def _load_cloud(scene: Scene, directory: Path) -> PointCloud | None:
    if scene.has_points:
        return scene.points(max_points=MAX_POINTS)
    path = directory / "pointcloud.ply"
    return read_ply(path.read_bytes()) if path.is_file() else None


@dataclass
class _Viewer:
    """The scene in a viser server, with its controls."""

    server: Any
    scene: Scene
    cloud: PointCloud | None

    def __post_init__(self) -> None:
        self.server.scene.set_up_direction("-y")
        gui, count = self.server.gui, self.scene.num_frames
        self.frame = gui.add_slider("frame", min=1, max=count, step=1, initial_value=1)
        self.all_frames = gui.add_checkbox("all frames", initial_value=True)
        self.point_size = gui.add_slider("point size", min=0.1, max=4.0, step=0.1, initial_value=1.0)
        self.doubtful = gui.add_slider("hide least sure (%)", min=0, max=90, step=5, initial_value=10)
        self.follow = gui.add_button("look through this camera")
        for control in (self.frame, self.all_frames, self.point_size, self.doubtful):
            control.on_update(lambda _: self.draw_points())
        self.follow.on_click(lambda event: self.look_through(event.client))
        self.unit = _pixel_spacing(self.scene)
        self.draw_cameras()
        self.draw_points()

    def draw_cameras(self) -> None:
        depth = self.scene.median_depth()
        height, width = self.scene.size
        colors = time_colors(self.scene.num_frames)
        wxyz = quaternion_wxyz(self.scene.poses[:, :3, :3])
        for index, pose in enumerate(self.scene.poses):
            if not self.scene.pose_known[index]:
                continue
            self.server.scene.add_camera_frustum(
                f"/cameras/{index + 1:05d}",
                fov=float(2 * np.arctan(height / 2 / self.scene.intrinsics[index, 1, 1])),
                aspect=width / height,
                scale=camera_size(self.scene.poses, depth),
                color=tuple(int(channel) for channel in colors[index]),
                image=self.scene.frames[index],
                wxyz=wxyz[index],
                position=pose[:3, 3],
            )

    def draw_points(self) -> None:
        if self.cloud is None:
            return
        shown = self.cloud.confidence >= np.quantile(self.cloud.confidence, self.doubtful.value / 100)
        # A cloud from a PLY file does not know its frames (-1): it is shown as a whole.
        if not self.all_frames.value and self.cloud.frame[0] >= 0:
            shown &= self.cloud.frame == self.frame.value - 1
        self.server.scene.add_point_cloud(
            "/points",
            points=self.cloud.points[shown],
            colors=self.cloud.colors[shown],
            point_size=self.unit * self.point_size.value,
        )

    def look_through(self, client: Any) -> None:
        pose = self.scene.poses[self.frame.value - 1]
        client.camera.wxyz = quaternion_wxyz(pose[:3, :3])
        client.camera.position = pose[:3, 3]


def _pixel_spacing(scene: Scene) -> float:
    """What one pixel covers at the middle depth, in scene units."""
    return scene.median_depth() / float(np.median(scene.intrinsics[:, 0, 0])) or 0.01
