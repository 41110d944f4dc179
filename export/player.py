"""A result in the browser: video, points with cameras and depth under one clock, by plain JavaScript of our own.

`html_page` makes one file that holds everything; a server that has the parts as files of their own takes `player_tag`, with
`PLAYER_SCRIPT` and `PLAYER_STYLE` once in its page.
"""

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jog3r.export.conventions import OPENCV_TO_OPENGL, WORLD_TO_Y_UP
from jog3r.export.exporters import load_scene
from jog3r.export.files import check_free_file, write_file
from jog3r.export.formats.camera_files import read_cameras_json, read_details
from jog3r.export.formats.glb import cloud_glb
from jog3r.export.formats.point_cloud import read_ply
from jog3r.export.scene import PointCloud, Scene
from jog3r.export.video import confidence_frames, decode_video, depth_frames

__all__ = [
    "PLAYER_SCRIPT",
    "PLAYER_STYLE",
    "Shown",
    "html_page",
    "pair_tag",
    "player_tag",
    "read_shown",
    "sheet_jpeg",
    "sheet_side",
    "write_page",
]

MAX_POINTS = 400_000
PAGE_BYTES = 4_900_000  # of a page: mail takes it, and a telephone opens it
_PAGE_CAMERAS = 400  # drawn in a page, of more an even choice: each takes 3 KB
_POINT_BYTES = 28  # of a point in the GLB
_QUALITIES = (88, 70, 50, 30)  # of JPEG; below the first, pictures of a page leave half of it to the points
_SHEET_SIDE = 1600  # of all pictures of a clip on one
_NAMES = ("video", "depth", "confidence")
_FOLDER = Path(__file__).parent / "web"
PLAYER_SCRIPT, PLAYER_STYLE = (
    "\n".join((_FOLDER / name).read_text(encoding="utf-8") for name in names)
    for names in (("points.js", "player.js"), ("player.css",))
)


@dataclass(frozen=True)
class Shown:
    """What is shown of a result: F cameras, small pictures of their frames if there are any, and the cloud if there is one.

    Attributes:
        poses: (F, 4, 4) camera-to-world.
        known: (F,) bool, those that are known.
        intrinsics: (F, 3, 3) in pixels.
        size: (H, W) in pixels.
        times: (F,) seconds.
        pictures: F of "video", and of "depth" and "confidence" where there are pointmaps.
        cloud: None without points.
    """

    poses: np.ndarray
    known: np.ndarray
    intrinsics: np.ndarray
    size: tuple[int, int]
    times: np.ndarray
    pictures: Mapping[str, Sequence[np.ndarray]]
    cloud: PointCloud | None

    @classmethod
    def of_scene(cls, scene: Scene, side: int | None = None, *, points: bool = True) -> "Shown":
        """A scene; its pictures have at most `side` pixels a side, None: as many as go on a sheet; with its points or without."""
        side = side or sheet_side(scene.num_frames)
        pictures = {"video": [_small(Image.fromarray(frame), side) for frame in scene.frames]}
        if scene.pointmaps is not None:
            step = -(-max(scene.size) // side)
            seen = scene.valid_pixels(edge_tolerance=None)[:, ::step, ::step]
            depth = depth_frames(scene.depth[:, ::step, ::step], seen)
            pictures |= {"depth": list(depth), "confidence": list(confidence_frames(scene.confidence[:, ::step, ::step], seen))}
        cloud = scene.points(max_points=MAX_POINTS) if points and scene.has_points else None
        return cls(scene.poses, scene.pose_known, scene.intrinsics, scene.size, scene.times, pictures, cloud)

    def distance(self) -> float:
        """Middle distance of the points from the middle of the known cameras; 0 without points."""
        if self.cloud is None:
            return 0.0
        return float(np.median(np.linalg.norm(self.cloud.points - self.poses[self.known, :3, 3].mean(0), axis=1)))

    def sheets(self, quality: int = _QUALITIES[0]) -> dict[str, bytes]:
        """JPEG files, each of all pictures of a kind in rows of ceil(sqrt(F)), by their names."""
        return {f"{name}.jpg": sheet_jpeg(self.pictures[name], quality) for name in _NAMES if name in self.pictures}


def sheet_side(count: int) -> int:
    """The longer side in pixels that each of so many pictures may have on a sheet."""
    return max(8, _SHEET_SIDE // _columns(count))


def read_shown(directory: str | Path, side: int | None = None) -> Shown:
    """Read what a folder holds.

    Args:
        directory: A folder that a command, `write_results` or `export_scene` filled.
        side: As of `Shown.of_scene`.

    Raises:
        ValueError: The folder holds no result, or files of different runs.
    """
    directory = Path(directory)
    video, ply, cameras = (directory / name for name in ("video.mp4", "pointcloud.ply", "cameras.json"))
    cloud = read_ply(ply.read_bytes()).at_most(MAX_POINTS) if ply.is_file() else None
    if (directory / "scene.npz").is_file():
        scene = load_scene(directory)
        shown = Shown.of_scene(scene, side)
        return shown if shown.cloud is not None else replace(shown, cloud=_numbered(cloud, scene.frame_index))
    if not cameras.is_file() or not (video.is_file() or ply.is_file()):
        raise ValueError(
            f"{str(directory)!r} holds no result to show: neither scene.npz nor cameras.json with video.mp4 or pointcloud.ply; "
            "give the folder that generate (with cameras), reconstruct or register wrote"
        )
    content = cameras.read_bytes()
    poses, intrinsics, size, fps = read_cameras_json(content)
    details = read_details(content)
    side = side or sheet_side(len(poses))
    pictures = {"video": [_small(image, side) for image in decode_video(video, size, len(poses))]} if video.is_file() else {}
    times = details.get("times", np.arange(len(poses)) / fps)
    numbers = np.array([frame.get("index", place) for place, frame in enumerate(json.loads(content)["frames"])])
    cloud = _numbered(cloud, numbers)
    return Shown(poses, details["pose_known"], intrinsics, size, times, pictures, cloud)


def player_tag(
    shown: Shown,
    addresses: Mapping[str, str],
    *,
    caption: str = "",
    compared: tuple[str, np.ndarray] | None = None,
    plays: bool = False,
    drawn: Sequence[int] | None = None,
) -> str:
    """The HTML element that shows a result.

    Args:
        shown: What it shows.
        addresses: Of the files: "cloud", a `cloud_glb` of the known cameras, and the names of `Shown.sheets`.
        caption: Shown above it.
        compared: Another path of cameras, its name and (F, 4, 4) camera-to-world in the same world, drawn as white dots.
        plays: Whether it plays by itself at first, twice.
        drawn: Frames whose cameras are in "cloud"; None: all known ones.
    """
    count = len(shown.poses)
    data: dict[str, Any] = {
        "poses": [pose if known else None for pose, known in zip(_view_poses(shown.poses), shown.known.tolist(), strict=True)],
        "lenses": _lenses(shown.intrinsics, shown.size),
        "caption": caption,
        "plays": plays,
    }
    if drawn is not None:
        data["drawn"] = list(drawn)
    if compared is not None:
        data["compared"] = {"name": compared[0], "poses": _view_poses(compared[1])}
    label = f"The scene in 3D with {count} cameras along their path, blue the first and red the last"
    return _tag(label, shown.times, addresses, data)


def pair_tag(names: tuple[str, str], times: np.ndarray, addresses: Mapping[str, str], *, caption: str = "") -> str:
    """The HTML element that plays two videos and their depth beside each other under one clock, without points.

    Args:
        names: Of the two.
        times: (F,) seconds, of both.
        addresses: Of the files that are there, by the names of `Shown.sheets`; those of the second are "video2.jpg" and so on.
        caption: Shown above them.
    """
    data = {"sides": list(names), "caption": caption, "plays": len(addresses) > 0}
    return _tag(f"{names[0]} beside {names[1]}", times, addresses, data)


def _tag(label: str, times: np.ndarray, addresses: Mapping[str, str], more: Mapping[str, Any]) -> str:
    data = {"addresses": dict(addresses), "times": np.round(times - times[0], 3).tolist(), **more}
    return f'<scene-player label="{escape(label)}" data="{escape(json.dumps(data, separators=(",", ":")))}"></scene-player>'


def html_page(shown: Shown, title: str = "") -> bytes:
    """One HTML file below 5 MB with all it shows: of a larger cloud an even choice of points, of more than 400 cameras an even
    choice of these, large pictures compressed further.

    Args:
        shown: What it shows.
        title: Heading of the page, such as the prompt.

    Raises:
        ValueError: The pictures leave no room.
    """
    drawn = _evenly(np.flatnonzero(shown.known), _PAGE_CAMERAS)
    cameras = shown.poses[drawn], shown.intrinsics[drawn], shown.size
    more: dict[str, Any] = {"drawn": drawn.tolist()} if len(drawn) < shown.known.sum() else {}
    for quality in _QUALITIES:
        addresses = {name: f"data:image/jpeg;base64,{_text(content)}" for name, content in shown.sheets(quality).items()}
        left = PAGE_BYTES - len(_page(player_tag(shown, addresses | {"cloud": ""}, **more), title))
        if left > PAGE_BYTES // 2:
            break
    bare = len(cloud_glb(None if shown.cloud is None else shown.cloud.at_most(1), *cameras)) + 2000
    points = (left * 3 // 4 - bare) // _POINT_BYTES
    if points < 1:
        raise ValueError(f"the pictures of {len(shown.poses)} frames leave no room in a page of 5 MB: take fewer frames")
    if shown.cloud is not None:
        shown = replace(shown, cloud=shown.cloud.at_most(points))
    glb = cloud_glb(shown.cloud, *cameras)
    addresses["cloud"] = f"data:model/gltf-binary;base64,{_text(glb)}"
    return _page(player_tag(shown, addresses, **more), title)


def write_page(directory: str | Path, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write `html_page` of a result folder.

    Args:
        directory: As of `read_shown`.
        path: Of the file.
        overwrite: Replace an existing file instead of refusing.

    Raises:
        ValueError: As `read_shown` and `write_file`.
    """
    check_free_file(path, overwrite=overwrite)
    return write_file(path, html_page(read_shown(directory), Path(directory).resolve().name), overwrite=overwrite)


def _page(tag: str, title: str) -> bytes:
    heading = f"<h1>{escape(title)}</h1>" if title else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title or "JOG3R")}</title><style>{PLAYER_STYLE}</style></head>
<body class="player-page">{heading}{tag}<script>{PLAYER_SCRIPT}</script></body></html>
""".encode()


def _view_poses(poses: np.ndarray) -> list[list[float]]:
    """Of each camera its right, up and back and where it stands, in the axes of GLB: F times 12 numbers."""
    turned = (WORLD_TO_Y_UP @ poses @ OPENCV_TO_OPENGL)[:, :3].transpose(0, 2, 1).reshape(-1, 12)
    return [[float(f"{value:.6g}") for value in camera] for camera in turned.tolist()]


def _lenses(intrinsics: np.ndarray, size: tuple[int, int]) -> list[list[float]]:
    """Of each camera where its picture ends, left, right, below and above, at distance 1; one for all frames if all are alike."""
    height, width = size
    across = (np.array([-0.5, width - 0.5]) - intrinsics[:, 0, 2:]) / intrinsics[:, 0, :1]  # (F, 2)
    upward = (intrinsics[:, 1, 2:] - np.array([height - 0.5, -0.5])) / intrinsics[:, 1, 1:2]  # (F, 2)
    lenses: list[list[float]] = np.concatenate([across, upward], 1).round(5).tolist()
    return lenses[:1] if all(lens == lenses[0] for lens in lenses) else lenses


def _evenly(places: np.ndarray, count: int) -> np.ndarray:
    """At most so many of them, from the first to the last."""
    return places if len(places) <= count else places[np.linspace(0, len(places) - 1, count).round().astype(int)]


def _numbered(cloud: PointCloud | None, numbers: np.ndarray) -> PointCloud | None:
    """The cloud of a file, with places among the frames of these numbers; -1 throughout if not all have one."""
    if cloud is None:
        return None
    place = np.minimum(np.searchsorted(numbers, cloud.frame), len(numbers) - 1)
    return replace(cloud, frame=place if (numbers[place] == cloud.frame).all() else np.full(len(cloud), -1))


def _columns(count: int) -> int:
    return math.ceil(math.sqrt(count))


def _small(image: Image.Image, side: int) -> np.ndarray:
    image.thumbnail((side, side))
    return np.asarray(image)


def sheet_jpeg(pictures: Sequence[np.ndarray], quality: int = _QUALITIES[0]) -> bytes:
    """A JPEG of pictures (H, W, 3) uint8 of one size, in rows of ceil(sqrt(their number))."""
    columns, (height, width) = _columns(len(pictures)), pictures[0].shape[:2]
    sheet = np.zeros((-(-len(pictures) // columns) * height, columns * width, 3), np.uint8)
    for place, picture in enumerate(pictures):
        row, column = divmod(place, columns)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = picture
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
