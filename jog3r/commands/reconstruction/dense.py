"""Clouds of every pixel for cameras from tracks: depth of a network, or of a depth model, aligned to the tracked points."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from jog3r.commands.output_folder import UsageError
from jog3r.commands.reconstruction.network_maps import NetworkMaps, frames_of

__all__ = ["DENSE_SIDE", "aligned_scene", "check_depth", "model_depth", "tracks_of_maps"]

DENSE_SIDE = 480  # longest side of the maps of a depth model
DENSE_FRAMES = 64  # at most


def check_depth(name: str) -> None:
    """Refuse early a `--depth` that is no depth model.

    Raises:
        UsageError: see above.
    """
    from jog3r.pipelines.loading.depth_model import check_depth_model

    try:
        check_depth_model(name, allow_inverse=True)
    except (ValueError, OSError) as error:
        raise UsageError(f"--depth {name!r} cannot be used: {error}") from error


def model_depth(cameras: Any, name: str, device: str) -> tuple[NetworkMaps, bool]:
    """Depth of a model of transformers for up to 64 of the frames, evenly; and whether it is inverse.

    Args:
        cameras: `Scene` of all frames in full size.
        name: folder or hub repository.
        device: where it runs.

    Raises:
        UsageError: it cannot be loaded.
    """
    from jog3r.data.video import resize_frames
    from jog3r.pipelines.loading.depth_model import load_depth_model

    try:
        model = load_depth_model(name, allow_inverse=True)
        model.model.to(device)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        raise UsageError(f"--depth {name!r} cannot be used: {error}") from error
    known = np.flatnonzero(cameras.pose_known)
    numbers = known[np.unique(np.linspace(0, len(known) - 1, min(DENSE_FRAMES, len(known))).round().astype(int))]
    scale = min(1.0, DENSE_SIDE / max(cameras.size))
    height, width = (max(1, round(side * scale)) for side in cameras.size)
    frames, transform = resize_frames(cameras.frames[numbers], height, width, "stretch")
    depth = model(torch.from_numpy(frames)).numpy()
    intrinsics = (transform @ cameras.intrinsics).astype(np.float32)
    maps = NetworkMaps(
        cameras.poses.astype(np.float32),
        intrinsics,
        ("",) * cameras.num_frames,
        numbers,
        frames,
        depth,
        np.isfinite(depth).astype(np.float32),
        transform,
    )
    return maps, model.inverse


def aligned_scene(cameras: Any, maps: NetworkMaps, inverse: bool, source: str) -> tuple[Any, str]:
    """The cloud of maps whose depth is aligned to the tracked points, frame by frame, and a line on how well it fits.

    Args:
        cameras: `Scene` of all frames with tracks.
        maps: of some of them.
        inverse: their depth is an inverse depth.
        source: what the maps are called in messages.

    Raises:
        ValueError: no frame has points enough, or depth that goes with them.
    """
    from jog3r.export.scene import unproject
    from jog3r.sfm.depth_alignment import align_depth

    place = np.full(cameras.num_frames, -1)
    place[maps.numbers] = np.arange(len(maps.numbers))
    tracks = cameras.tracks
    seen = place[tracks.frame] >= 0 if tracks else np.zeros(0, bool)
    if not seen.any():
        raise ValueError(f"there are no tracked points to bring the depth of {source} to their unit")
    xy = tracks.xy[seen] @ maps.transform[:2, :2].T + maps.transform[:2, 2]
    scene = frames_of(cameras, maps.numbers)
    observations = (tracks.point[seen], place[tracks.frame[seen]], xy)
    aligned = align_depth(maps.depth, tracks.points, observations, scene.poses, inverse=inverse, valid=maps.confidence > 0)
    good = aligned.aligned & scene.pose_known
    if not good.any():
        raise ValueError(f"the depth of {source} goes with the tracked points in none of {len(good)} frames")
    intrinsics = maps.transform @ scene.intrinsics
    dense = replace(
        scene,
        frames=maps.frames,
        intrinsics=intrinsics,
        pointmaps=unproject(aligned.depth, scene.poses, intrinsics),
        confidence=aligned.confidence,
        depth=aligned.depth,
    )
    text = f"depth of {source}: within {np.median(aligned.error[good]):.1%} of the tracked points (median of {good.sum()} frames)"
    return dense, text + (f"; {(~good).sum()} frames without" if not good.all() else "")


def tracks_of_maps(scene: Any, maps: NetworkMaps, build: Callable[[Any], Any]) -> Any:
    """Points that several of the frames with maps see by their own depth, in pixels of the video; None if they share none."""
    try:
        tracks = build(scene)
    except ValueError:  # depths that contradict each other everywhere
        return None
    back = np.linalg.inv(maps.transform)
    xy = tracks.xy @ back[:2, :2].T + back[:2, 2]
    return replace(tracks, frame=maps.numbers[tracks.frame], xy=xy, error_px=tracks.error_px * back[0, 0])
