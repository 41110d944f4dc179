"""Coloured point clouds as PLY (binary, with the confidence and the frame of each point)."""

import numpy as np

from jog3r.export.scene import PointCloud

__all__ = ["ply_bytes", "read_ply", "structured_ply"]

_EARLIER = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1"), ("confidence", "<f4")]
VERTEX = np.dtype([*_EARLIER, ("frame", "<i4")])
_COMMENT = "jog3r: OpenCV axes (x right, y down, z forward), world = camera 1"
_PLY_TYPES = {"f4": "float", "u1": "uchar", "i4": "int"}


def ply_bytes(cloud: PointCloud) -> bytes:
    """Binary little-endian PLY with x, y, z, red, green, blue, confidence, frame (from 0; -1 if unknown).

    World = camera 1, OpenCV axes (y down).

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
    vertices["confidence"], vertices["frame"] = cloud.confidence, cloud.frame
    return structured_ply(vertices, _COMMENT)


def structured_ply(vertices: np.ndarray, comment: str, count: int | None = None) -> bytes:
    """PLY bytes of a structured array (N,) of little-endian float32, int32 and uint8 fields; `count` instead: the head alone."""
    properties = [f"property {_PLY_TYPES[vertices.dtype[name].str[1:]]} {name}" for name in vertices.dtype.names or ()]
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"comment {comment}",
        f"element vertex {len(vertices) if count is None else count}",
        *properties,
    ]
    return ("\n".join([*header, "end_header"]) + "\n").encode("ascii") + vertices.tobytes()


def read_ply(content: bytes) -> PointCloud:
    """Read back what `ply_bytes` wrote (other PLY files: use a PLY library).

    Args:
        content: The file's bytes.

    Returns:
        The points; `pixel`, which the file does not hold, is -1, and so is `frame` of a file of an earlier version.

    Raises:
        ValueError: Not such a file, or cut off.
    """
    head, _, body = content.partition(b"end_header\n")
    for kind in (VERTEX, np.dtype(_EARLIER)):
        count, rest = divmod(len(body), kind.itemsize)
        if not rest and head == structured_ply(np.empty(0, kind), _COMMENT, count).removesuffix(b"end_header\n"):
            vertices = np.frombuffer(body, kind)
            break
    else:
        raise ValueError("not a complete PLY file written by jog3r; open other files with a PLY library such as plyfile")
    points = np.stack([vertices[name] for name in "xyz"], -1)
    colors = np.stack([vertices[name] for name in ("red", "green", "blue")], -1)
    unknown = np.full(len(vertices), -1)
    frame = vertices["frame"].astype(np.int64) if kind is VERTEX else unknown
    return PointCloud(points, colors, vertices["confidence"].copy(), frame, np.stack([unknown, unknown], -1))
