"""An interactive viewer in the browser: the cloud, frame by frame or all at once, and its cameras."""

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jog3r.export.conventions import camera_size, quaternion_wxyz, time_colors
from jog3r.export.player import Shown, read_shown

__all__ = ["view_scene"]

PICTURE_SIDE = 160  # of a camera's frame: enough for its size on the screen, and thousands of them fit into a browser


def view_scene(directory: str | Path, *, host: str = "127.0.0.1", port: int = 8080, block: bool = True) -> Any:
    """Serve a result folder to the browser at http://host:port.

    Shows scene.npz (cloud per frame, confidence threshold) or, without it, cameras.json with pointcloud.ply and the frames of
    video.mp4, of which one may be missing.

    Args:
        directory: A folder that a command, `write_results` or `export_scene` filled.
        host: Address to listen on; the default is this machine only.
        port: Port to listen on; the next free one is taken if it is in use.
        block: Serve until interrupted; False returns at once.

    Returns:
        The viser server (stop it with `.stop()`), when `block` is False.

    Raises:
        ValueError: The folder holds no result, or files of different runs; or `host` is no address of this machine.
        ImportError: viser is not installed; the message says how to install it.
    """
    try:
        import viser
    except ImportError as error:
        raise ImportError(
            "the viewer needs viser: pip install '.[viewer]' in the checkout of jog3r (or open pointcloud.glb in any 3D viewer)"
        ) from error
    shown = read_shown(directory, PICTURE_SIDE)
    _check_host(host)
    server = viser.ViserServer(host=host, port=port, verbose=False)
    _Viewer(server, shown)
    if block:
        try:
            server.sleep_forever()
        except KeyboardInterrupt:
            server.stop()
        return None
    return server


def _check_host(host: str) -> None:
    """Refuse an address that is not of this machine: viser would look for a free port there, and never come back."""
    try:
        family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
        socket.create_server((host, 0), family=family).close()
    except OSError as error:
        raise ValueError(
            f"cannot listen on host {host!r} ({error}); give an address of this machine, such as 127.0.0.1"
        ) from error


@dataclass
class _Viewer:
    """A result in a viser server, with its controls."""

    server: Any
    shown: Shown

    def __post_init__(self) -> None:
        self.server.scene.set_up_direction("-y")
        gui, count = self.server.gui, len(self.shown.poses)
        self.frame = gui.add_slider("frame", min=1, max=count, step=1, initial_value=1)
        self.all_frames = gui.add_checkbox("all frames", initial_value=True)
        self.point_size = gui.add_slider("point size", min=0.1, max=4.0, step=0.1, initial_value=1.0)
        self.doubtful = gui.add_slider("hide least sure (%)", min=0, max=90, step=5, initial_value=10)
        self.follow = gui.add_button("look through this camera")
        for control in (self.frame, self.all_frames, self.point_size, self.doubtful):
            control.on_update(lambda _: self.draw_points())
        self.follow.on_click(lambda event: self.look_through(event.client))
        self.distance = self.shown.distance()
        self.draw_cameras()
        self.draw_points()

    def draw_cameras(self) -> None:
        poses, (height, width) = self.shown.poses, self.shown.size
        colors, wxyz = time_colors(len(poses)), quaternion_wxyz(poses[:, :3, :3])
        size = camera_size(poses, self.distance)
        for index in np.flatnonzero(self.shown.known).tolist():
            self.server.scene.add_camera_frustum(
                f"/cameras/{index + 1:05d}",
                fov=float(2 * np.arctan(height / 2 / self.shown.intrinsics[index, 1, 1])),
                aspect=float((width / self.shown.intrinsics[index, 0, 0]) / (height / self.shown.intrinsics[index, 1, 1])),
                scale=size,
                color=tuple(int(channel) for channel in colors[index]),
                image=self.shown.pictures["video"][index] if self.shown.pictures else None,
                wxyz=wxyz[index],
                position=poses[index, :3, 3],
            )

    def draw_points(self) -> None:
        cloud = self.shown.cloud
        if cloud is None:
            return
        kept = cloud.confidence >= np.quantile(cloud.confidence, self.doubtful.value / 100)
        # A PLY file of an earlier version does not know its frames (-1): it is shown as a whole.
        if not self.all_frames.value and cloud.frame[0] >= 0:
            kept &= cloud.frame == self.frame.value - 1
        pixel = self.distance / float(np.median(self.shown.intrinsics[:, 0, 0])) or 0.01  # what one covers at that distance
        self.server.scene.add_point_cloud(
            "/points", points=cloud.points[kept], colors=cloud.colors[kept], point_size=pixel * self.point_size.value
        )

    def look_through(self, client: Any) -> None:
        index = self.frame.value - 1
        if not self.shown.known[index]:
            client.add_notification("No camera", f"The pose of frame {index + 1} is unknown.")
            return
        client.camera.wxyz = quaternion_wxyz(self.shown.poses[index, :3, :3])
        client.camera.position = self.shown.poses[index, :3, 3]
