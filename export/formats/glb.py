"""GLB (binary glTF 2.0): a coloured cloud with its cameras for browsers, and an animated camera for 3D programs.

Written by hand: it is a header, one JSON and one buffer, and a library would write neither an animated camera nor linear vertex
colours. glTF has y up and looks along -z, so the world is turned half a turn about x: (x, y, z) -> (x, -y, -z).
"""

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from jog3r.export.conventions import (
    OPENCV_TO_OPENGL,
    WORLD_TO_Y_UP,
    camera_size,
    frustum_corners,
    linear_from_srgb,
    quaternion_wxyz,
    time_colors,
)
from jog3r.export.scene import PointCloud, Scene

__all__ = ["animated_camera_glb", "cloud_glb", "continuous", "glb_bytes"]

_POINTS, _TRIANGLES = 0, 4
_COMPONENTS = {np.dtype("<f4"): 5126, np.dtype("<u2"): 5123, np.dtype("<u4"): 5125}
_VERTEX_BUFFER, _INDEX_BUFFER = 34962, 34963


class _Document:
    """A glTF document that grows: arrays go in as accessors, everything else as plain dictionaries."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.json: dict[str, Any] = {
            "asset": {"version": "2.0", "generator": "jog3r"},
            "scene": 0,
            "scenes": [{"nodes": []}],
            "nodes": [],
            "accessors": [],
            "bufferViews": [],
        }

    def accessor(self, array: np.ndarray, *, target: int | None = None, normalized: bool = False) -> int:
        """Append (N,) or (N, k) and return its accessor index."""
        array = np.ascontiguousarray(array)
        view = {"buffer": 0, "byteOffset": len(self.buffer), "byteLength": array.nbytes}
        if target is not None:
            view["target"] = target
        self.json["bufferViews"].append(view)
        self.buffer += array.tobytes() + b"\0" * (-array.nbytes % 4)
        kind = "SCALAR" if array.ndim == 1 else f"VEC{array.shape[1]}"
        entry = {"bufferView": len(self.json["bufferViews"]) - 1, "count": len(array), "type": kind}
        entry |= {"componentType": _COMPONENTS[array.dtype]} | ({"normalized": True} if normalized else {})
        if array.dtype == np.dtype("<f4"):
            rows = array.reshape(len(array), -1)
            entry |= {"min": rows.min(0).tolist(), "max": rows.max(0).tolist()}
        self.json["accessors"].append(entry)
        return len(self.json["accessors"]) - 1

    def node(self, **fields: Any) -> int:
        """Append a node to the scene and return its index."""
        self.json["nodes"].append(fields)
        self.json["scenes"][0]["nodes"].append(len(self.json["nodes"]) - 1)
        return len(self.json["nodes"]) - 1

    def mesh(
        self,
        name: str,
        points: np.ndarray,
        colors: np.ndarray,
        triangles: np.ndarray | None = None,
        more: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """A node with points (N, 3) in jog3r's world, colours (N, 3) uint8, vertex indices (T, 3) or none, other numbers (N,)."""
        turned = (points @ WORLD_TO_Y_UP[:3, :3].T).astype("<f4")
        # 16 bits a channel: linear light in 8 bits would show bands in the shadows.
        linear = np.full((len(colors), 4), 65535, "<u2")
        linear[:, :3] = (linear_from_srgb(colors) * 65535).round()
        attributes = {
            "POSITION": self.accessor(turned, target=_VERTEX_BUFFER),
            "COLOR_0": self.accessor(linear, target=_VERTEX_BUFFER, normalized=True),
        }
        for key, values in (more or {}).items():
            attributes[key] = self.accessor(values.astype("<f4"), target=_VERTEX_BUFFER)
        mode = _POINTS if triangles is None else _TRIANGLES
        primitive: dict[str, Any] = {"attributes": attributes, "mode": mode, "material": 0}
        if triangles is not None:
            primitive["indices"] = self.accessor(triangles.astype("<u4").ravel(), target=_INDEX_BUFFER)
        material = {
            "pbrMetallicRoughness": {"metallicFactor": 0.0},
            "doubleSided": True,
            "extensions": {"KHR_materials_unlit": {}},
        }
        self.json |= {"materials": [material], "extensionsUsed": ["KHR_materials_unlit"]}
        self.json.setdefault("meshes", []).append({"name": name, "primitives": [primitive]})
        self.node(name=name, mesh=len(self.json["meshes"]) - 1)

    def to_bytes(self) -> bytes:
        self.json["buffers"] = [{"byteLength": len(self.buffer)}]
        text = json.dumps(self.json, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        body = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(self.buffer), b"BIN\0") + self.buffer
        return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body


def glb_bytes(scene: Scene, cloud: PointCloud, *, frustum_depth: float | None = None) -> bytes:
    """The cloud, one frustum a known camera and the path between them, coloured along the clip from blue to red.

    Args:
        scene: Supplies the cameras.
        cloud: The points; see `Scene.points`.
        frustum_depth: Length of the drawn cameras in scene units; None fits them to the scene.

    Returns:
        As `cloud_glb`.
    """
    scene = scene.posed(pictures=False)
    return cloud_glb(cloud, scene.poses, scene.intrinsics, scene.size, frustum_depth)


def cloud_glb(
    cloud: PointCloud | None,
    poses: np.ndarray,
    intrinsics: np.ndarray,
    size: tuple[int, int],
    frustum_depth: float | None = None,
) -> bytes:
    """As `glb_bytes`, of K cameras and a cloud alone.

    Args:
        cloud: The points; None for the cameras alone.
        poses: (K, 4, 4) camera-to-world.
        intrinsics: (K, 3, 3) in pixels.
        size: (H, W) in pixels.
        frustum_depth: Length of the drawn cameras in scene units; None fits them to the scene.

    Returns:
        The file's bytes: meshes "points" (drawn as points, each with `_FRAME`, from 0, and `_CONFIDENCE`), "cameras" and "path"
        (thin tubes, since lines are one pixel wide in browsers).
    """
    centres, colors = poses[:, :3, 3], time_colors(len(poses))
    if frustum_depth is None:
        distance = 0.0 if cloud is None else float(np.median(np.linalg.norm(cloud.points - centres.mean(0), axis=1)))
        frustum_depth = camera_size(poses, distance)
    corners = frustum_corners(poses, intrinsics, size, frustum_depth)  # (F, 4, 3)
    apexes = np.repeat(centres[:, None], 4, 1)
    starts = np.concatenate([apexes, corners], 1).reshape(-1, 3)  # (8F, 3): four edges from the apex, four around the image
    ends = np.concatenate([corners, np.roll(corners, -1, 1)], 1).reshape(-1, 3)
    document = _Document()
    document.json["scenes"][0]["extras"] = {"frustum_depth": frustum_depth}
    if cloud is not None:
        numbers = {"_FRAME": cloud.frame, "_CONFIDENCE": cloud.confidence}
        document.mesh("points", cloud.points, cloud.colors, more=numbers)
    document.mesh("cameras", *_tubes(starts, ends, np.repeat(colors, 8, 0), 0.02 * frustum_depth))
    if len(poses) > 1:
        document.mesh("path", *_tubes(centres[:-1], centres[1:], colors[:-1], 0.03 * frustum_depth))
    return document.to_bytes()


def animated_camera_glb(scene: Scene) -> bytes:
    """One camera that moves as the clip's did: key frames at the times of the frames with a pose, turned to glTF's axes.

    glTF cameras have a fixed, centred field of view: it is that of the median focal length, and a principal point off the
    image's centre is not kept (the Blender script keeps both).

    Args:
        scene: Supplies cameras and fps.

    Returns:
        The file's bytes.
    """
    began = scene.times[0]  # by the file's clock, which may begin anywhere; float32 keeps the steps of what begins at 0
    scene = scene.posed(pictures=False)
    height, width = scene.size
    focal_x, focal_y = np.median(scene.intrinsics[:, [0, 1], [0, 1]], 0)
    poses = WORLD_TO_Y_UP @ scene.poses @ OPENCV_TO_OPENGL
    xyzw = continuous(quaternion_wxyz(poses[:, :3, :3]))[:, [1, 2, 3, 0]]
    document = _Document()
    aspect = (width / focal_x) / (height / focal_y)
    perspective = {"yfov": float(2 * np.arctan(height / 2 / focal_y)), "aspectRatio": float(aspect), "znear": 0.001}
    document.json["cameras"] = [{"type": "perspective", "name": "jog3r_camera", "perspective": perspective}]
    node = document.node(
        name="jog3r_camera", camera=0, translation=poses[0, :3, 3].tolist(), rotation=[float(value) for value in xyzw[0]]
    )
    times = document.accessor((scene.times - began).astype("<f4"))
    outputs = {"translation": poses[:, :3, 3].astype("<f4"), "rotation": xyzw.astype("<f4")}
    samplers = [{"input": times, "output": document.accessor(values), "interpolation": "LINEAR"} for values in outputs.values()]
    channels = [{"sampler": index, "target": {"node": node, "path": path}} for index, path in enumerate(outputs)]
    document.json["animations"] = [{"name": "clip", "samplers": samplers, "channels": channels}]
    return document.to_bytes()


def continuous(quaternions: np.ndarray) -> np.ndarray:
    """Choose signs so that neighbours (F, 4) lie on one side: interpolation then takes the short way."""
    signs = np.where((quaternions[1:] * quaternions[:-1]).sum(1) < 0, -1.0, 1.0)
    return quaternions * np.concatenate([[1.0], np.cumprod(signs)])[:, None]


def _tubes(starts: np.ndarray, ends: np.ndarray, colors: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Square tubes (S of them) from starts to ends (S, 3): vertices (8S, 3), colours (8S, 3), triangles (8S, 3)."""
    along = ends - starts
    helper = np.eye(3)[np.abs(along).argmin(1)]  # the axis least parallel to the segment
    first = np.cross(along, helper)
    first *= radius / np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-12)
    second = np.cross(along, first)
    second *= radius / np.maximum(np.linalg.norm(second, axis=1, keepdims=True), 1e-12)
    ring = np.stack([first, second, -first, -second], 1)  # (S, 4, 3)
    vertices = np.concatenate([starts[:, None] + ring, ends[:, None] + ring], 1).reshape(-1, 3)
    around = np.arange(4)
    following = (around + 1) % 4
    sides = np.concatenate(
        [np.stack([around, following, around + 4], 1), np.stack([following, following + 4, around + 4], 1)]
    )  # (8, 3)
    triangles = (np.arange(len(starts))[:, None, None] * 8 + sides).reshape(-1, 3)
    return vertices, np.repeat(colors, 8, 0), triangles
