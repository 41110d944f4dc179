"""cameras.json, jog3r's own camera file, and the npz that holds everything."""

import io
import json
import math
import zlib
from dataclasses import fields
from typing import Any
from zipfile import BadZipFile

import numpy as np

from jog3r.export.point_tracks import Tracks
from jog3r.export.scene import Scene

__all__ = ["CONVENTION", "cameras_json", "npz_bytes", "read_cameras_json", "read_details", "read_npz"]

CONVENTION = "opencv_cam_to_world"
_ARRAYS = (
    *("frames", "poses", "intrinsics", "pointmaps", "confidence", "depth", "pose_covariance", "pose_known", "frame_index"),
    *("times", "registered", "doubtful", "images"),
)
_MOST_BYTES = 4 * 2**30  # of frames in an npz, which takes three times as much while it is made
_TRACKS = tuple(field.name for field in fields(Tracks))
_NUMBERS = {"focal_uncertainty": math.nan, "distortion": 0.0}  # of a scene, and what they are where a file lacks them


def cameras_json(scene: Scene) -> bytes:
    """`{"convention": "opencv_cam_to_world", "width", "height", "fps", "source", "frames": [...]}`, a frame:
    `{"index", "time", "pose", "intrinsics", "registered"}`.

    Poses are camera-to-world 4 x 4, intrinsics 3 x 3 in pixels with the first pixel's centre at 0; numbers are exact. A frame
    whose pose is unknown has `"pose_known": false` beside what stands in its place; one that is not `registered` has a pose laid
    between others', if any; one that deserves no trust says why in `"doubtful"`. Frames of a folder name their `"image"`. `time`
    is in seconds; `source` says what found the cameras, where that is known, and `focal_uncertainty` the standard deviation of
    the focal length over the focal length, 0 if it was given; `distortion` is what was taken out of the frames, if anything was.
    """
    height, width = scene.size
    frames = []
    for place, index in enumerate(scene.frame_index.tolist()):
        frame = {"index": index, "time": float(scene.times[place]), "pose": scene.poses[place].tolist()}
        frame |= {"intrinsics": scene.intrinsics[place].tolist(), "registered": bool(scene.registered[place])}
        frame |= {} if scene.images is None else {"image": str(scene.images[place])}
        frame |= {} if scene.pose_known[place] else {"pose_known": False}
        frames.append(frame | ({"doubtful": str(scene.doubtful[place])} if scene.doubtful[place] else {}))
    document: dict[str, Any] = {"convention": CONVENTION, "width": width, "height": height, "fps": float(scene.fps)}
    document |= {"source": scene.source} if scene.source else {}
    document |= {"focal_uncertainty": scene.focal_uncertainty} if math.isfinite(scene.focal_uncertainty) else {}
    document |= {"distortion": scene.distortion} if scene.distortion else {}
    document |= {"frames": frames}
    return json.dumps(document, indent=1).encode()


def read_cameras_json(content: bytes) -> tuple[np.ndarray, np.ndarray, tuple[int, int], float]:
    """Read `cameras_json` back.

    Args:
        content: The file's bytes.

    Returns:
        poses (F, 4, 4) camera-to-world, intrinsics (F, 3, 3), (height, width), fps.

    Raises:
        ValueError: Not such a file, or of another convention.
    """
    try:
        document = json.loads(content)
        convention, frames = document["convention"], document["frames"]
        poses = np.array([frame["pose"] for frame in frames], dtype=np.float64)
        intrinsics = np.array([frame["intrinsics"] for frame in frames], dtype=np.float64)
        size, fps = (int(document["height"]), int(document["width"])), float(document["fps"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a cameras.json of jog3r ({error!r}); write it with cameras_json") from error
    if convention != CONVENTION:
        raise ValueError(f"cameras.json has convention {convention!r}, expected {CONVENTION!r}; convert the poses first")
    if poses.shape[1:] != (4, 4) or intrinsics.shape != (len(poses), 3, 3):
        raise ValueError(f"cameras.json needs 4 x 4 poses and 3 x 3 intrinsics, got {poses.shape} and {intrinsics.shape}")
    if not np.isfinite(poses).all() or not np.isfinite(intrinsics).all():
        raise ValueError("cameras.json holds numbers that are not finite; leave frames without a camera out")
    return poses, intrinsics, size, fps


def read_details(content: bytes) -> dict[str, Any]:
    """What a `cameras_json` says of its cameras, by the names of `Scene`; what a file of an earlier version lacks is left out.

    Args:
        content: The file's bytes, which `read_cameras_json` takes.

    Returns:
        `source`, `focal_uncertainty`, `distortion`, and per frame (F,) `pose_known`, `doubtful`, `images`, `registered`, `times`
        in seconds and `frame_index`.
    """
    document = json.loads(content)
    frames = document["frames"]
    details = {"source": document.get("source", "")} | {key: float(document.get(key, value)) for key, value in _NUMBERS.items()}
    details |= {name: [frame.get(name, value) for frame in frames] for name, value in (("pose_known", True), ("doubtful", ""))}
    for name, key in (("registered", "registered"), ("times", "time"), ("frame_index", "index"), ("images", "image")):
        if all(key in frame for frame in frames):
            details[name] = [frame[key] for frame in frames]
    if not np.isfinite(details.get("times", [])).all():
        raise ValueError(f"cameras.json has times that are not finite: {details['times'][:8]}; give them in seconds")
    return {name: np.array(value) if isinstance(value, list) else value for name, value in details.items()}


def npz_bytes(scene: Scene) -> bytes:
    """Compressed npz: the arrays of the scene by their names (absent ones left out), `fps`, `caption` and `convention`."""
    arrays = {name: getattr(scene, name) for name in _ARRAYS if getattr(scene, name) is not None}
    if scene.tracks is not None:
        arrays |= {f"tracks_{name}": getattr(scene.tracks, name) for name in _TRACKS}
    buffer = io.BytesIO()
    words = {"caption": scene.caption, "source": scene.source, "convention": CONVENTION}
    if scene.frames.nbytes > _MOST_BYTES:
        raise ValueError(
            f"{scene.frames.nbytes / 1e9:.0f} GB of frames are too much for an npz, which is made in memory: take fewer frames"
        )
    numbers = {name: getattr(scene, name) for name in ("fps", *_NUMBERS)}
    np.savez_compressed(buffer, **numbers, **words, **arrays)
    return buffer.getvalue()


def read_npz(content: bytes) -> Scene:
    """Read `npz_bytes` back.

    Args:
        content: The file's bytes.

    Raises:
        ValueError: Not such a file.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise ValueError(f"not an npz file ({error}); write it with npz_bytes") from error
    if str(arrays.pop("convention", "")) != CONVENTION or not {"frames", "poses", "intrinsics", "fps"} <= set(arrays):
        raise ValueError(f"not an npz of jog3r (it holds {sorted(arrays)}); write it with npz_bytes")
    words = {name: str(arrays.pop(name, "")) for name in ("caption", "source")}
    tracks = {name: arrays.pop(f"tracks_{name}") for name in _TRACKS if f"tracks_{name}" in arrays}
    numbers = {name: float(arrays.pop(name, value)) for name, value in {"fps": math.nan, **_NUMBERS}.items()}
    if others := set(arrays) - set(_ARRAYS):
        raise ValueError(f"the npz holds {', '.join(sorted(others))}, which no scene has: of another version, or added by hand")
    if tracks and len(tracks) < len(_TRACKS):
        raise ValueError(f"the npz holds only {', '.join(sorted(tracks))} of the arrays of its tracks, {', '.join(_TRACKS)}")
    return Scene(**arrays, **numbers, tracks=Tracks(**tracks) if tracks else None, **words)
