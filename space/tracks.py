"""Cameras of a larger upload from feature tracks, beside those of the network."""

import importlib.util
from typing import Any

import numpy as np

from jog3r.export.point_tracks import Tracks
from jog3r.export.scene import Scene
from jog3r.geometry.registration import Registration

__all__ = ["TRACK_SIDE", "can_track", "tracked_scene"]

TRACK_SIDE = 384  # of the square that is followed; smaller uploads are left to the network


def can_track() -> bool:
    """Whether pycolmap is installed."""
    return importlib.util.find_spec("pycolmap") is not None


def tracked_scene(
    frames: np.ndarray, initial: Registration, fps: float, times: np.ndarray | None
) -> tuple[Scene | None, tuple[str, ...], str]:
    """The cameras and points of frames (F, H, W, 3) by their tracks.

    Args:
        frames: A square cut from each frame.
        initial: What the network finds in them.
        fps: Frames per second.
        times: (F,) in seconds, or None.

    Returns:
        The scene, what is doubtful about each frame, and how sure it is; or no scene, and why the network's cameras are better.
    """
    from jog3r.sfm import track_cameras

    found: Any = track_cameras(frames, initial=initial)
    if found.chosen != "tracks":
        return None, (), found.reason
    if not len(found.points):
        return None, (), "tracks see no parallax"
    poses, intrinsics = found.poses.double().numpy(), found.intrinsics.double().numpy()
    seen = (found.tracks.point.numpy(), found.tracks.frame.numpy(), found.tracks.xy.numpy())
    tracks = Tracks.measured(found.points.numpy(), found.point_colors.numpy(), seen, poses, intrinsics)
    scene = Scene(
        frames,
        poses,
        intrinsics,
        fps=fps,
        times=times,
        pose_known=found.pose_known.numpy(),
        registered=found.registered.numpy(),
        tracks=tracks,
        source="tracks",
    )
    return scene, found.degenerate, f"{len(tracks)} points, within {tracks.error_px.mean():.2f} pixels"
