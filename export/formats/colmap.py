"""COLMAP sparse models, binary and text, with tracks; a folder from which splat trainers start.

COLMAP stores world-to-camera poses and puts the first pixel's centre at (0.5, 0.5): cx, cy and all observations get half a pixel.
"""

import struct
from dataclasses import dataclass

import numpy as np

from jog3r.export.conventions import half_pixel_up, quaternion_wxyz
from jog3r.export.files import Content
from jog3r.export.formats.tracks import build_tracks
from jog3r.export.pictures.images import frame_name, frame_pngs
from jog3r.export.point_tracks import Tracks
from jog3r.export.scene import Scene

__all__ = ["ColmapModel", "colmap_binary", "colmap_files", "colmap_model", "colmap_text"]

_PINHOLE = 1


@dataclass(frozen=True)
class ColmapModel:
    """A sparse model in COLMAP's own conventions, of the F frames whose pose is known; ids start at 1.

    Attributes:
        size: (H, W) of all images.
        names: File name of each image.
        cameras: (C, 4) fx, fy, cx, cy; one camera if all frames share their intrinsics, else one a frame.
        camera_ids: (F,) camera of each image.
        quaternions: (F, 4) w, x, y, z, world-to-camera.
        translations: (F, 3), world-to-camera.
        tracks: Points and observations; pixel coordinates still those of jog3r.
        slots: (M,) number of each observation within its image, from 0.
        by_frame: (M,) observations in order of their frame.
        starts: (F + 1,) where each frame begins in `by_frame`.
    """

    size: tuple[int, int]
    names: tuple[str, ...]
    cameras: np.ndarray
    camera_ids: np.ndarray
    quaternions: np.ndarray
    translations: np.ndarray
    tracks: Tracks
    slots: np.ndarray
    by_frame: np.ndarray
    starts: np.ndarray

    def image_rows(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Observations of image `index`: pixels (K, 2) in COLMAP's coordinates and point ids (K,)."""
        here = self.by_frame[self.starts[index] : self.starts[index + 1]]
        return self.tracks.xy[here] + 0.5, self.tracks.point[here] + 1


def colmap_model(scene: Scene, tracks: Tracks | None = None) -> ColmapModel:
    """Convert cameras and tracks; frames whose pose is unknown are left out.

    Args:
        scene: The scene.
        tracks: None takes those of the scene or, where it has none, `build_tracks` with its defaults.

    Raises:
        ValueError: The scene has one frame, or neither tracks nor pointmaps, or no point is seen twice.
    """
    if scene.num_frames < 2:
        raise ValueError("a point of COLMAP is seen in two frames or more, and this scene has one; give more frames")
    if tracks is None and scene.tracks is None and scene.pointmaps is None:
        raise ValueError("COLMAP needs points, and none are known: a camera that only turns shows no depth; leave colmap out")
    if tracks is None:
        tracks = build_tracks(scene) if scene.tracks is None else scene.tracks
    tracks = tracks.of_frames(scene.pose_known)
    scene = scene.posed(pictures=False)
    world_to_camera = scene.world_to_camera
    k = half_pixel_up(scene.intrinsics)
    params = np.stack([k[:, 0, 0], k[:, 1, 1], k[:, 0, 2], k[:, 1, 2]], 1)
    shared = bool((params == params[0]).all())
    by_frame = np.argsort(tracks.frame, kind="stable")
    starts = np.searchsorted(tracks.frame[by_frame], np.arange(scene.num_frames + 1))
    slots = np.empty(len(by_frame), np.int64)
    slots[by_frame] = np.arange(len(by_frame)) - np.repeat(starts[:-1], np.diff(starts))
    return ColmapModel(
        size=scene.size,
        names=tuple(frame_name(index) for index in scene.frame_index),
        cameras=params[:1] if shared else params,
        camera_ids=np.ones(scene.num_frames, np.int64) if shared else np.arange(1, scene.num_frames + 1),
        quaternions=quaternion_wxyz(world_to_camera[:, :3, :3]),
        translations=world_to_camera[:, :3, 3],
        tracks=tracks,
        slots=slots,
        by_frame=by_frame,
        starts=starts,
    )


def colmap_binary(model: ColmapModel) -> dict[str, bytes]:
    """cameras.bin, images.bin and points3D.bin."""
    height, width = model.size
    cameras = [struct.pack("<Q", len(model.cameras))]
    for number, params in enumerate(model.cameras, 1):
        cameras.append(struct.pack("<iiQQ4d", number, _PINHOLE, width, height, *params))
    observation = np.dtype([("xy", "<f8", 2), ("point", "<u8")])
    images = [struct.pack("<Q", len(model.quaternions))]
    for index, (quaternion, translation) in enumerate(zip(model.quaternions, model.translations, strict=True)):
        xy, point = model.image_rows(index)
        rows = np.empty(len(xy), observation)
        rows["xy"], rows["point"] = xy, point
        images.append(struct.pack("<I7dI", index + 1, *quaternion, *translation, model.camera_ids[index]))
        images.append(model.names[index].encode() + b"\0" + struct.pack("<Q", len(rows)) + rows.tobytes())
    return {"cameras.bin": b"".join(cameras), "images.bin": b"".join(images), "points3D.bin": _points_binary(model)}


def _points_binary(model: ColmapModel) -> bytes:
    tracks = model.tracks
    members = np.stack([tracks.frame + 1, model.slots], 1).astype("<u4")  # (M, 2)
    starts = np.searchsorted(tracks.point, np.arange(len(tracks.points) + 1))
    parts = [struct.pack("<Q", len(tracks.points))]
    for index, (point, color, error) in enumerate(zip(tracks.points, tracks.colors, tracks.error_px, strict=True)):
        track = members[starts[index] : starts[index + 1]]
        parts.append(struct.pack("<Q3d3BdQ", index + 1, *point, *color, error, len(track)) + track.tobytes())
    return b"".join(parts)


def colmap_text(model: ColmapModel) -> dict[str, bytes]:
    """cameras.txt, images.txt and points3D.txt; numbers with all their digits."""
    height, width = model.size
    cameras = ["# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]"]
    cameras += [f"{number} PINHOLE {width} {height} {_join(params)}" for number, params in enumerate(model.cameras, 1)]
    images = ["# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME", "# POINTS2D[] as (X, Y, POINT3D_ID)"]
    for index, (quaternion, translation) in enumerate(zip(model.quaternions, model.translations, strict=True)):
        images.append(f"{index + 1} {_join(quaternion)} {_join(translation)} {model.camera_ids[index]} {model.names[index]}")
        xy, point = model.image_rows(index)
        images.append(" ".join(f"{_join(pixel)} {number}" for pixel, number in zip(xy, point, strict=True)))
    tracks = model.tracks
    members = [f"{frame + 1} {slot}" for frame, slot in zip(tracks.frame, model.slots, strict=True)]
    starts = np.searchsorted(tracks.point, np.arange(len(tracks.points) + 1))
    points = ["# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)"]
    for index, (point, color, error) in enumerate(zip(tracks.points, tracks.colors, tracks.error_px, strict=True)):
        track = " ".join(members[starts[index] : starts[index + 1]])
        points.append(f"{index + 1} {_join(point)} {color[0]} {color[1]} {color[2]} {_join([error])} {track}")
    contents = {"cameras.txt": cameras, "images.txt": images, "points3D.txt": points}
    return {name: ("\n".join(lines) + "\n").encode() for name, lines in contents.items()}


def colmap_files(scene: Scene, tracks: Tracks | None = None) -> dict[str, Content]:
    """A COLMAP workspace: images/, sparse/0/ (binary, where trainers look) and sparse_text/0/ (the same model as text).

    Args:
        scene: The scene.
        tracks: As of `colmap_model`.

    Returns:
        Relative file name to content.
    """
    model = colmap_model(scene, tracks)
    files: dict[str, Content] = {f"sparse/0/{name}": content for name, content in colmap_binary(model).items()}
    files |= {f"sparse_text/0/{name}": content for name, content in colmap_text(model).items()}
    return files | frame_pngs(scene, "images")


def _join(values: np.ndarray | list) -> str:
    return " ".join(repr(float(value)) for value in values)
