"""Coloured point clouds as PLY (binary, with the confidence of each point)."""

import numpy as np

from jog3r.export.scene import PointCloud

__all__ = ["ply_bytes", "read_ply", "structured_ply"]

VERTEX = np.dtype(
    [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1"), ("confidence", "<f4")]
)
_PLY_TYPES = {"f4": "float", "u1": "uchar"}


def ply_bytes(cloud: PointCloud) -> bytes:
    """Binary little-endian PLY with x, y, z, red, green, blue, confidence; world = camera 1, OpenCV axes (y down).

    Args:
        cloud: The points; see `Scene.points`.

    Returns:
        The file's bytes.
    """
    vertices = np.empty(len(cloud), VERTEX)
    for axis, name in enumerate("xyz"):
        vertices[name] = cloud.points[:, axis]
    for channel, name in enumerate(("red", "green", "blue")):
        vertices[name] = cloud.colors[:, channel]
    vertices["confidence"] = cloud.confidence
    return structured_ply(vertices, "jog3r: OpenCV axes (x right, y down, z forward), world = camera 1")


def structured_ply(vertices: np.ndarray, comment: str) -> bytes:
    """PLY bytes of a structured array (N,) of little-endian float32 and uint8 fields."""
    properties = [f"property {_PLY_TYPES[vertices.dtype[name].str[1:]]} {name}" for name in vertices.dtype.names or ()]
    header = ["ply", "format binary_little_endian 1.0", f"comment {comment}", f"element vertex {len(vertices)}", *properties]
    return ("\n".join([*header, "end_header"]) + "\n").encode("ascii") + vertices.tobytes()


def read_ply(content: bytes) -> PointCloud:
    """Read back what `ply_bytes` wrote (other PLY files: use a PLY library).

    Args:
        content: The file's bytes.

    Returns:
        The points; `frame` and `pixel`, which the file does not hold, are -1.

    Raises:
        ValueError: Not such a file, or cut off.
    """
    expected = ply_bytes(_EMPTY).split(b"element vertex")
    head, _, body = content.partition(b"end_header\n")
    count_text = head[len(expected[0]) :].split(b"\n")[0].removeprefix(b"element vertex ")
    if not content.startswith(expected[0]) or not count_text.isdigit() or len(body) != int(count_text) * VERTEX.itemsize:
        raise ValueError("not a complete PLY file written by jog3r; open other files with a PLY library such as plyfile")
    vertices = np.frombuffer(body, VERTEX)
    points = np.stack([vertices[name] for name in "xyz"], -1)
    colors = np.stack([vertices[name] for name in ("red", "green", "blue")], -1)
    unknown = np.full(len(vertices), -1)
    return PointCloud(points, colors, vertices["confidence"].copy(), unknown, np.stack([unknown, unknown], -1))


_EMPTY = PointCloud(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0), np.zeros(0), np.zeros((0, 2)))
