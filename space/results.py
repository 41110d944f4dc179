"""The files of a result, written into the folder of its request."""

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jog3r.export.exporters import EXPORTERS, MAX_GLB_POINTS, result_files
from jog3r.export.files import Content, bytes_of, write_file, write_files
from jog3r.export.formats.camera_files import cameras_json
from jog3r.export.pictures.consistency import ConsistencyMaps, consistency_maps, consistency_picture
from jog3r.export.pictures.plots import correspondences_picture
from jog3r.export.player import Shown, player_tag
from jog3r.export.scene import Scene
from jog3r.export.video import confidence_frames, depth_frames, encode_video
from jog3r.space.guard.storage import ServerFolder
from jog3r.space.model import Result

_ARCHIVED = ("npz", "nerfstudio", "blender", "tum", "kitti", "splat")  # besides what is there already
DOWNLOADS = ("video.mp4", "pointcloud.glb", "pointcloud.ply", "cameras.json")


def write_scene_files(scene: Scene, folder: Path) -> dict[str, str]:
    """Write everything a result shows, and what there is to download without more work.

    Args:
        scene: With points.
        folder: The request's folder.

    Returns:
        The paths by their names, which are those of `result_files`.
    """
    # Writing is past the request's time limit: it has to end. The picture stands below the player, which is dark in both themes.
    contents = result_files(scene, max_ply_points=MAX_GLB_POINTS, dark=True)
    return {path.name: str(path) for path in write_files(folder, contents)}


def write_player(
    scene: Scene, cloud: str, server: ServerFolder, caption: str, compared: tuple[str, np.ndarray] | None = None
) -> str:
    """The element that plays a result, with its files where they can be fetched.

    Args:
        scene: Of the result.
        cloud: Path of the GLB.
        server: The server's folder.
        caption, compared: As of `player_tag`.
    """
    shown = Shown.of_scene(scene, points=False)
    files = server.serve(shown.sheets() | {"cloud": Path(cloud).read_bytes()})
    return player_tag(shown, files, caption=caption, compared=compared, plays=True)


def write_archives(scene: Scene, folder: Path, others: list[str]) -> tuple[list[str], str]:
    """Write the COLMAP zip, and one with every export, which take longer than all the rest and are not looked at.

    Args:
        scene: With points.
        folder: The request's folder.
        others: Paths of files that the second one holds as well.

    Returns:
        Their paths, and a note that says what is not there and why, or is empty.
    """
    contents: dict[str, Content] = {Path(path).name: Path(path).read_bytes() for path in others}
    if scene.pointmaps is not None:
        seen = scene.valid_pixels(edge_tolerance=None)
        contents["depth.mp4"] = encode_video(depth_frames(scene.depth, seen), scene.fps)
        contents["confidence.mp4"] = encode_video(confidence_frames(scene.confidence, seen), scene.fps)
    for name in _ARCHIVED:
        contents |= EXPORTERS[name](scene)
    paths, note = [], ""
    try:
        colmap = EXPORTERS["colmap"](scene)
        paths.append(str(write_file(folder / "colmap.zip", _zip(colmap))))
        contents |= colmap
    except ValueError:  # of frames that share no points
        note = "No COLMAP files: hardly any point is seen in two frames."
    return [*paths, str(write_file(folder / "everything.zip", _zip(contents)))], note


def numbers(result: Result, status: str) -> dict[str, Any]:
    """A result for programs.

    Args:
        result: Of the request.
        status: What the page says of it.

    Returns:
        `status`, and as in cameras.json `convention`, `width`, `height`, `fps`, `source` and `frames`, each with `pose`
        (camera-to-world 4 x 4), `intrinsics` (3 x 3 in pixels) and `doubtful`: why its pose deserves no trust, empty if it does.
    """
    document = json.loads(cameras_json(result.scene))
    for frame in document["frames"]:
        frame.setdefault("doubtful", "")
    return {"status": status, **document}


def write_correspondences(scene: Scene, folder: Path) -> str | None:
    """PNG of the matches between the first and the last frame; None if these share nothing."""
    if scene.pointmaps is None:
        return None
    try:
        picture = correspondences_picture(scene, dark=True)
    except ValueError:
        return None
    return str(write_file(folder / "correspondences.png", picture))


def write_consistency(scene: Scene, folder: Path, name: str) -> tuple[str, ConsistencyMaps]:
    """PNG of the consistency maps, and the maps."""
    maps = consistency_maps(scene)
    return str(write_file(folder / f"{name}.png", consistency_picture(scene, maps, dark=True))), maps


def write_clip(frames: np.ndarray, fps: float, folder: Path, name: str) -> str:
    """An mp4 of frames (F, H, W, 3) uint8."""
    return str(write_file(folder / f"{name}.mp4", encode_video(frames, fps)))


def _zip(contents: Mapping[str, Content]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in contents.items():
            # Pictures are compressed already; of the rest the lowest level takes a fifth of the time for little more bytes.
            kind = zipfile.ZIP_STORED if name.endswith(".png") else zipfile.ZIP_DEFLATED
            archive.writestr(zipfile.ZipInfo(name), bytes_of(content), kind, compresslevel=1)
    return buffer.getvalue()
