"""All exports by name, the files every run writes, and reading them back."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from jog3r.export.files import Content, write_files
from jog3r.export.formats.blender import blender_files
from jog3r.export.formats.camera_files import cameras_json, npz_bytes, read_cameras_json, read_details, read_npz
from jog3r.export.formats.colmap import colmap_files
from jog3r.export.formats.glb import glb_bytes
from jog3r.export.formats.nerfstudio import nerfstudio_files
from jog3r.export.formats.point_cloud import ply_bytes
from jog3r.export.formats.splats import splat_bytes
from jog3r.export.formats.trajectories import kitti_text, tum_text
from jog3r.export.pictures.plots import trajectory_picture
from jog3r.export.pictures.rendering import turntable_video
from jog3r.export.scene import Scene
from jog3r.export.video import decode_video, encode_video

__all__ = [
    "EXPORTERS",
    "RESULT_NAMES",
    "TARGETS",
    "check_free",
    "export_scene",
    "left_from_earlier",
    "load_scene",
    "result_files",
    "write_results",
]

MAX_GLB_POINTS = 500_000  # a browser turns this many without stutter
MAX_SPLATS = 200_000
DOUBTFUL_SHARE = 0.1  # least sure pixels that clouds leave out


def _glb(scene: Scene) -> bytes:
    return glb_bytes(scene, scene.points(min_confidence_quantile=DOUBTFUL_SHARE, max_points=MAX_GLB_POINTS))


def _ply(scene: Scene, max_points: int | None = None) -> bytes:
    cloud = scene.points(min_confidence_quantile=DOUBTFUL_SHARE, max_points=max_points)
    return ply_bytes(replace(cloud, frame=scene.frame_index[cloud.frame]))


def _splats(scene: Scene) -> bytes:
    return splat_bytes(scene.points(min_confidence_quantile=DOUBTFUL_SHARE, max_points=MAX_SPLATS))


def _files(target: str, made: Content | Mapping[str, Content]) -> dict[str, Content]:
    return {f"{target}/{name}": content for name, content in made.items()} if isinstance(made, Mapping) else {target: made}


# Name -> the file or folder that it leaves in the result folder, and what makes its content, or that of its files by name.
_FORMATS: dict[str, tuple[str, Callable[[Scene], Content | Mapping[str, Content]]]] = {
    "colmap": ("colmap", colmap_files),
    "nerfstudio": ("nerfstudio", nerfstudio_files),
    "tum": ("trajectory_tum.txt", lambda scene: tum_text(scene).encode()),
    "kitti": ("trajectory_kitti.txt", lambda scene: kitti_text(scene).encode()),
    "npz": ("scene.npz", npz_bytes),
    "splat": ("splats.ply", _splats),
    "blender": ("blender", blender_files),
    "ply": ("pointcloud.ply", _ply),
    "glb": ("pointcloud.glb", _glb),
    "turntable": ("turntable.mp4", turntable_video),
}
TARGETS = {name: target for name, (target, _) in _FORMATS.items()}
# Name -> scene -> relative file name -> content.
EXPORTERS = {name: (lambda scene, t=target, m=make: _files(t, m(scene))) for name, (target, make) in _FORMATS.items()}
RESULT_NAMES = ("video.mp4", "cameras.json", "trajectory.png", "pointcloud.ply", "pointcloud.glb")


def check_free(directory: str | Path, exports: Iterable[str] = ()) -> None:
    """Refuse before the work what `write_results` would refuse after it.

    Args:
        directory: The folder that results will go to.
        exports: Keys of `EXPORTERS`.

    Raises:
        ValueError: An unknown name, or one of the files or folders exists.
    """
    names = dict.fromkeys([*RESULT_NAMES, *(TARGETS[name] for name in _known(exports))])
    taken = [name for name in names if (Path(directory) / name).exists()]
    if taken:
        raise ValueError(f"{str(directory)!r} already holds {', '.join(taken)}; pass overwrite=True or choose another folder")


def export_scene(scene: Scene, directory: str | Path, names: Iterable[str], *, overwrite: bool = False) -> list[Path]:
    """Write the named exports below a folder.

    Args:
        scene: What to export.
        directory: The folder; made if missing.
        names: Keys of `EXPORTERS`.
        overwrite: Replace existing files instead of refusing; others stay, also in the folders of exports.

    Returns:
        The paths written.

    Raises:
        ValueError: An unknown name, an existing file, or a scene without the geometry an export needs; nothing is written then.
    """
    return write_files(directory, _exported(scene, names), overwrite=overwrite)


def result_files(scene: Scene, *, max_ply_points: int | None = None, dark: bool = False) -> dict[str, bytes]:
    """The files of every run: video.mp4, cameras.json, trajectory.png and, with points, pointcloud.ply and pointcloud.glb.

    Args:
        scene: The result of a run.
        max_ply_points: The most points of the PLY, chosen at random; None for all. The GLB is bounded anyway.
        dark: Of the picture: light on dark instead of dark on white.
    """
    files = {
        "video.mp4": encode_video(scene.frames, scene.fps),
        "cameras.json": cameras_json(scene),
        "trajectory.png": trajectory_picture(scene, dark=dark),
    }
    if scene.has_points:
        files |= {"pointcloud.ply": _ply(scene, max_ply_points), "pointcloud.glb": _glb(scene)}
    return files


def write_results(scene: Scene, directory: str | Path, *, exports: Iterable[str] = (), overwrite: bool = False) -> list[Path]:
    """Write `result_files` and the named exports together: either all names are free, or nothing is written.

    Args:
        scene: The result of a run.
        directory: The folder; made if missing.
        exports: Keys of `EXPORTERS`.
        overwrite: Replace existing files instead of refusing; others stay, also in the folders of exports.

    Returns:
        The paths written.

    Raises:
        ValueError: As `export_scene`.
    """
    exported = _exported(scene, exports)
    return write_files(directory, result_files(scene) | exported, overwrite=overwrite)


def load_scene(directory: str | Path) -> Scene:
    """Read a result folder back: scene.npz if it is there (exact), else cameras.json with video.mp4 (no pointmaps, lossy frames).

    Args:
        directory: A folder that `write_results` or `export_scene` filled.

    Returns:
        The scene.

    Raises:
        ValueError: Neither is there, or they do not fit each other.
    """
    directory = Path(directory)
    if (directory / "scene.npz").is_file():
        scene = read_npz((directory / "scene.npz").read_bytes())
        if (directory / "cameras.json").is_file():
            poses = read_cameras_json((directory / "cameras.json").read_bytes())[0]
            if not (scene.poses[:, None] == poses).all((2, 3)).any(1).all():  # of a long video only key frames are in scene.npz
                raise ValueError(
                    f"{str(directory)!r}: scene.npz and cameras.json hold other poses; they are of different runs: remove one"
                )
        return scene
    missing = [name for name in ("cameras.json", "video.mp4") if not (directory / name).is_file()]
    if missing:
        raise ValueError(f"{str(directory)!r} holds no scene.npz and lacks {' and '.join(missing)}; give the folder of a run")
    content = (directory / "cameras.json").read_bytes()
    poses, intrinsics, size, fps = read_cameras_json(content)
    frames = np.stack([np.asarray(image) for image in decode_video(directory / "video.mp4", size, len(poses))])
    return Scene(frames, poses, intrinsics, fps=fps, **read_details(content))


def left_from_earlier(directory: str | Path, written: Iterable[str]) -> list[str]:
    """Names of results and exports in a folder that a run which wrote `written` (names in the folder) did not replace."""
    names = dict.fromkeys([*RESULT_NAMES, *TARGETS.values()])
    return [name for name in names if name not in {*written} and (Path(directory) / name).exists()]


def _known(names: Iterable[str]) -> list[str]:
    if isinstance(names, str):
        raise ValueError(f"names must be a list of export names, got the string {names!r}; write [{names!r}]")
    names = list(names)
    unknown = [name for name in names if name not in EXPORTERS]
    if unknown:
        raise ValueError(f"unknown export {', '.join(map(repr, unknown))}; choose from {', '.join(EXPORTERS)}")
    return names


def _exported(scene: Scene, names: Iterable[str]) -> dict[str, Content]:
    contents: dict[str, Content] = {}
    for name in _known(names):
        contents |= EXPORTERS[name](scene)
    return contents
