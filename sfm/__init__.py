"""Cameras of real videos from feature tracks and bundle adjustment (pycolmap, extra `sfm`)."""

from jog3r.sfm.track import track_cameras
from jog3r.sfm.tracked_cameras import TrackedCameras

__all__ = ["TrackedCameras", "track_cameras"]
