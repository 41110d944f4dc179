"""What `track_cameras` returns."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jog3r.geometry.registration.degeneracy import pose_known
from jog3r.sfm.lens import undistorted_images, undistorted_pixels


@dataclass(frozen=True)
class PointTracks:
    """M observations of N points; sorted by point, then frame; a point is seen at most once a frame."""

    point: Tensor
    """(M,) int64, index of the observed point."""
    frame: Tensor
    """(M,) int64, index of the observing frame."""
    xy: Tensor
    """(M, 2) float64, pixels of the video given, first pixel's centre at 0."""


@dataclass(frozen=True)
class Candidate:
    """One beginning after bundle adjustment, and how the tracks judge it."""

    name: str
    """Where it began."""
    cost: float
    """What is compared, lower is better: robust squared reprojection error of all tracks (see
    `jog3r.sfm.solving.judge`) plus the focal length's deviation from what is usual."""
    inlier_share: float
    """Share of all observations within 2 pixels (of the reduced frames) of their point; all in frames without a camera miss."""
    angle_deg: float
    """Median over points of the largest angle between two of their lines of sight."""
    focal_px: float
    """Focal length in x, in pixels of the video."""
    num_registered: int
    """Frames with a camera."""


@dataclass(frozen=True)
class TrackedCameras:
    """Cameras of F frames and N points of the scene.

    World = camera of frame 1; scale: the points that frame 1 sees have a mean distance of 1.
    """

    poses: Tensor
    """(F, 4, 4) float32 camera-to-world, OpenCV axes; the first is the identity. A frame that is not registered has the pose of
    the nearest registered one, or one between its neighbours' with `interpolate=True`."""
    intrinsics: Tensor
    """(F, 3, 3) float32 in pixels of the video given, pixel centres at integers."""
    width: int
    height: int
    registered: Tensor
    """(F,) bool: the frame's pose is found, not copied or interpolated."""
    degenerate: tuple[str, ...]
    """Per frame why its pose deserves no trust, joined by ", "; the words of `Registration.degenerate`: "no overlap" and "too few
    points" for a frame that is not registered, "no parallax" where the direction of its translation means nothing (rotating or
    still camera), "planar scene" where all that is seen lies in one plane, "uncertain" where the pictures leave more than a
    degree of its rotation or ten of its direction open (one standard deviation, the focal length's own included; or two
    beginnings ended apart and are about as likely), "poor fit" where most of its features disagree with the pose, "moving
    objects" (all frames) where much of the pictures' border moves otherwise: the cameras may be relative to an object that moves
    by itself; "" for a sound frame."""
    num_inliers: Tensor
    """(F,) int64 features within 2 pixels (of the reduced frames) of their points."""
    reprojection_px: Tensor
    """(F,) float32 median distance of a frame's inliers from their points, in pixels of the video; NaN without any."""
    points: Tensor
    """(N, 3) float32 world coordinates; empty if `chosen` is "network"."""
    point_colors: Tensor
    """(N, 3) uint8."""
    tracks: PointTracks
    """Where the points are seen."""
    chosen: str
    """"tracks" or "network"."""
    reason: str
    """Why, in a sentence."""
    candidates: tuple[Candidate, ...]
    """All beginnings tried, best first."""
    focal_uncertainty: float = math.nan
    """Standard deviation of the focal length over the focal length; 0 if it was given, NaN for the network's cameras. Of a camera
    that does not turn it is that of the prior: no picture tells."""
    distortion: float = 0.0
    """Of the lens, k of the division model: with s = (pixel - principal point) / focal length the lens shows at s what a pinhole
    shows at s / (1 + k |s|^2). Negative for the barrel of a wide lens. `undistorted` takes it out."""

    @property
    def pose_known(self) -> Tensor:
        """(F,) bool: False for frames whose pose nothing tells, as in `Registration`."""
        return pose_known(self.degenerate) & self.registered

    def undistorted(self, frames: Any, out: np.ndarray | None = None) -> tuple[Any, "TrackedCameras"]:
        """The frames as a pinhole with the same intrinsics sees them, and cameras with distortion 0, their tracks in its pixels.

        Args:
            frames: (F, H, W, 3) uint8, those that were followed.
            out: where to put the frames, which may be `frames` itself.
        """
        if not self.distortion:
            return frames, self
        intrinsics = self.intrinsics.double().numpy()
        straight = np.empty_like(frames) if out is None else out
        for index, frame in enumerate(undistorted_images(frames, intrinsics, self.distortion)):
            straight[index] = frame
        xy = undistorted_pixels(self.tracks.xy.numpy(), intrinsics[self.tracks.frame.numpy()], self.distortion)
        return straight, replace(self, tracks=replace(self.tracks, xy=torch.from_numpy(xy)), distortion=0.0)


def empty_tracks() -> PointTracks:
    """Tracks of no points."""
    return PointTracks(
        torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2, dtype=torch.float64)
    )
