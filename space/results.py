"""The files of a result, written into the folder of its request."""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jog3r.export.exporters import EXPORTERS, MAX_GLB_POINTS, result_files
from jog3r.export.files import Content, bytes_of, write_file, write_files
from jog3r.export.pictures.consistency import ConsistencyMaps, consistency_maps, consistency_picture
from jog3r.export.pictures.plots import contact_sheet, correspondences_picture, strips_picture
from jog3r.export.scene import Scene
from jog3r.export.video import encode_video

__all__ = ["SceneFiles", "write_clip", "write_colmap", "write_consistency", "write_correspondences", "write_scene_files"]

_DOWNLOADS = ("video.mp4", "pointcloud.glb", "pointcloud.ply", "cameras.json")


@dataclass(frozen=True)
class SceneFiles:
    """Paths of what a result shows and offers.

    Attributes:
        video, cloud, path_picture, strips: mp4, GLB, and two PNG files.
        downloads: mp4, GLB, PLY and cameras.json.
    """

    video: str
    cloud: str
    path_picture: str
    strips: str
    downloads: list[str]


def write_scene_files(scene: Scene, folder: Path) -> SceneFiles:
    """Write everything a result shows, and what there is to download without more work.

    Args:
        scene: With points.
        folder: The request's folder.
    """
    contents = result_files(scene, max_ply_points=MAX_GLB_POINTS)  # writing is past the request's time limit: it has to end
    # Tracks give no depth to show beside the frames.
    contents["strips.png"] = contact_sheet(scene.frames) if scene.pointmaps is None else strips_picture(scene, columns=6)
    paths = {path.name: str(path) for path in write_files(folder, contents)}
    return SceneFiles(
        paths["video.mp4"],
        paths["pointcloud.glb"],
        paths["trajectory.png"],
        paths["strips.png"],
        [paths[name] for name in _DOWNLOADS],
    )


def write_colmap(scene: Scene, folder: Path) -> tuple[list[str], str]:
    """Write the COLMAP zip, which takes as long as a picture and is not looked at.

    Args:
        scene: With pointmaps.
        folder: The request's folder.

    Returns:
        Its path in a list, and an empty note; or no path and a note that says why.
    """
    try:
        content = _zip(EXPORTERS["colmap"](scene))
    except ValueError:  # of frames that share no points
        return [], "No COLMAP files: hardly any point is seen in two frames."
    return [str(write_file(folder / "colmap.zip", content))], ""


def write_correspondences(scene: Scene, folder: Path) -> str | None:
    """PNG of the matches between the first and the last frame; None if these share nothing."""
    if scene.pointmaps is None:
        return None
    try:
        picture = correspondences_picture(scene)
    except ValueError:
        return None
    return str(write_file(folder / "correspondences.png", picture))


def write_consistency(scene: Scene, folder: Path, name: str) -> tuple[str, ConsistencyMaps]:
    """PNG of the consistency maps, and the maps."""
    maps = consistency_maps(scene)
    return str(write_file(folder / f"{name}.png", consistency_picture(scene, maps))), maps


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
