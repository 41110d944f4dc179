"""A reconstructed clip as plain numpy arrays, checked once: what every exporter, picture and viewer takes.

Letters: F frames, H W pixels, N points. Cameras are OpenCV (x right, y down, z forward), poses camera-to-world, pixel centres at
integers. The unit of length is the reconstruction's own (mean distance of frame 1's points = 1), not metres.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from PIL import Image

from jog3r.export.point_tracks import Tracks
from jog3r.geometry import cameras
from jog3r.geometry.depth_maps import away_from_bends
from jog3r.geometry.pose_checks import pose_fault
from jog3r.geometry.registration.degeneracy import UNCERTAIN_FOCAL

__all__ = ["PointCloud", "Scene", "unproject"]


@dataclass(frozen=True)
class PointCloud:
    """N coloured points, each knowing the pixel it came from.

    Attributes:
        points: (N, 3) float32, world coordinates.
        colors: (N, 3) uint8 RGB.
        confidence: (N,) float32, as given by the model (larger is surer).
        frame: (N,) int64, index of the frame the point was seen in.
        pixel: (N, 2) int64, its x and y there.
    """

    points: np.ndarray
    colors: np.ndarray
    confidence: np.ndarray
    frame: np.ndarray
    pixel: np.ndarray

    def __len__(self) -> int:
        """Number of points."""
        return len(self.points)

    def select(self, kept: np.ndarray) -> "PointCloud":
        """The points of these indices."""
        return PointCloud(*(getattr(self, field.name)[kept] for field in fields(self)))

    def at_most(self, count: int) -> "PointCloud":
        """An even random choice of so many points (always the same choice), or all."""
        return self.select(_random_choice(np.arange(len(self)), count))


@dataclass(frozen=True)
class Scene:
    """Frames, cameras and geometry of one clip. Arrays may be numpy or torch; they are kept as numpy.

    A pixel with confidence 0 has no geometry: it is left out of every cloud and its values may be anything, NaN included.

    Attributes:
        frames: (F, H, W, 3) uint8 RGB, or a sequence of F PIL images.
        poses: (F, 4, 4) camera-to-world, rigid.
        intrinsics: (F, 3, 3) in pixels of `frames`, no skew.
        pointmaps: (F, H, W, 3) world points, or None when only the cameras are known.
        confidence: (F, H, W) >= 0; None means 1 everywhere.
        depth: (F, H, W) z in each camera; None means: from `pointmaps` and `poses`.
        fps: Frames per second of the clip, > 0.
        caption: The prompt, or empty.
        pose_covariance: (F, 6, 6) of (rotation vector in radians, translation) of each pose, both in world axes; may hold inf or
            NaN for frames that nothing determines; or None.
        pose_known: (F,) bool, False for a frame whose pose nothing tells and whatever stands in its place; its confidence becomes
            0, and exports of cameras leave it out where their format allows. None means all are known.
        frame_index: (F,) ascending integers >= 0, the number of each frame in the video that it was taken from (key frames of a
            long one); files are named by it. None means 0, 1, ...
        times: (F,) seconds, ascending; None means frame_index / fps.
        tracks: Points with the pixels that see them, as of feature tracks, or None. Without pointmaps they are the cloud.
        registered: (F,) bool, False for a frame whose pose was not found but laid between others'; None means `pose_known`.
        source: What found the cameras: "tracks", "network", ...; empty if unknown.
        doubtful: (F,) text, why a pose deserves no trust (see `Registration.degenerate`), empty if nothing speaks against it.
        images: (F,) text, names of the pictures that the frames were read from; None of a video.
        focal_uncertainty: Standard deviation of the focal length over the focal length; 0 if it was given, NaN if nobody knows.
        distortion: Of the lens (`TrackedCameras.distortion`), taken out of the frames; 0: they are as they were.

    Raises:
        ValueError: A shape, a value or a rigid motion is not what is written above; the message says which and what to do.
    """

    frames: Any
    poses: Any
    intrinsics: Any
    pointmaps: Any = None
    confidence: Any = None
    depth: Any = None
    fps: float = 8.0
    caption: str = ""
    pose_covariance: Any = None
    pose_known: Any = None
    frame_index: Any = None
    times: Any = None
    tracks: Tracks | None = None
    registered: Any = None
    source: str = ""
    doubtful: Any = None
    images: Any = None
    focal_uncertainty: float = math.nan
    distortion: float = 0.0

    def __post_init__(self) -> None:
        """Bring everything to numpy and check it."""
        frames = _frames_array(self.frames)
        num_frames, height, width = frames.shape[:3]
        self._keep("frames", frames)
        self._keep("poses", _array("poses", self.poses, (num_frames, 4, 4), np.float64))
        self._keep("intrinsics", _array("intrinsics", self.intrinsics, (num_frames, 3, 3), np.float64))
        _check_poses(self.poses)
        _check_intrinsics(self.intrinsics)
        if not (np.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"fps must be a positive number, got {self.fps!r}")
        if self.pose_covariance is not None:
            self._keep("pose_covariance", _array("pose_covariance", self.pose_covariance, (num_frames, 6, 6), np.float64))
        known = np.ones(num_frames, bool) if self.pose_known is None else self.pose_known
        self._keep("pose_known", _array("pose_known", known, (num_frames,), bool))
        if not self.pose_known.any():
            raise ValueError("pose_known is False for every frame; a scene needs one camera at least")
        index = np.arange(num_frames) if self.frame_index is None else self.frame_index
        self._keep("frame_index", _array("frame_index", index, (num_frames,), np.int64))
        _check_frame_index(self.frame_index)
        times = self.frame_index / self.fps if self.times is None else self.times
        self._keep("times", _array("times", times, (num_frames,), np.float64))
        if not np.isfinite(self.times).all() or (np.diff(self.times) <= 0).any():
            raise ValueError("times must be finite seconds that rise from frame to frame")
        registered = self.pose_known if self.registered is None else self.registered
        self._keep("registered", _array("registered", registered, (num_frames,), bool))
        self._keep("doubtful", np.array([""] * num_frames if self.doubtful is None else self.doubtful, dtype=str))
        if self.images is not None:
            self._keep("images", np.array(self.images, dtype=str))
        for name, texts in (("doubtful", self.doubtful), ("images", self.images)):
            if texts is not None and texts.shape != (num_frames,):
                raise ValueError(f"{name} must be a text for each of {num_frames} frames, got shape {texts.shape}")
        if self.tracks is not None:
            _check_tracks(self.tracks, num_frames)
        if self.pointmaps is None:
            if self.depth is not None or self.confidence is not None:
                raise ValueError("depth or confidence came without pointmaps; use Scene.from_depth to build pointmaps from depth")
            return
        maps = (num_frames, height, width)
        self._keep("pointmaps", _array("pointmaps", self.pointmaps, (*maps, 3), np.float32))
        confidence = np.ones(maps, np.float32) if self.confidence is None else self.confidence
        confidence = _array("confidence", confidence, maps, np.float32)
        self._keep("confidence", np.where(self.pose_known[:, None, None], confidence, 0))
        depth = _depth_of(self.pointmaps, self.poses) if self.depth is None else self.depth
        self._keep("depth", _array("depth", depth, maps, np.float32))
        self._check_maps()

    def _keep(self, name: str, value: np.ndarray) -> None:
        object.__setattr__(self, name, value)

    def _check_maps(self) -> None:
        if not np.isfinite(self.confidence).all() or self.confidence.min() < 0:
            raise ValueError("confidence must be finite and >= 0 in every pixel; 0 marks a pixel without geometry")
        seen = self.confidence > 0
        bad = seen & ~(np.isfinite(self.pointmaps).all(-1) & np.isfinite(self.depth))
        if bad.any():
            raise ValueError(
                f"{int(bad.sum())} pixels with confidence > 0 have a NaN or infinite point or depth; set their confidence to 0"
            )

    @classmethod
    def from_depth(
        cls, frames: Any, depth: Any, poses: Any, intrinsics: Any, *, valid: Any = None, fps: float = 8.0, caption: str = ""
    ) -> "Scene":
        """A scene whose pointmaps are unprojected from depth.

        Args:
            frames: (F, H, W, 3) uint8.
            depth: (F, H, W) z in each camera.
            poses: (F, 4, 4) camera-to-world.
            intrinsics: (F, 3, 3) in pixels.
            valid: (F, H, W) bool, pixels whose depth counts; None means all. Depth <= 0 or not finite never counts.
            fps: Frames per second.
            caption: The prompt, or empty.

        Returns:
            The scene; its confidence is 1 where depth counts and 0 elsewhere.
        """
        depth_array = _numpy(depth).astype(np.float32)
        with np.errstate(invalid="ignore"):
            seen = np.isfinite(depth_array) & (depth_array > 0)
        if valid is not None:
            seen &= _numpy(valid).astype(bool)
        depth_array = np.where(seen, depth_array, 0)
        pointmaps = unproject(depth_array, _numpy(poses), _numpy(intrinsics))
        return cls(frames, poses, intrinsics, pointmaps, seen.astype(np.float32), depth_array, fps, caption)

    @classmethod
    def from_tracks(cls, frames: Any, found: Any, *, fps: float, times: Any = None, known: Any = None) -> "Scene":
        """A scene with the cameras and points of `jog3r.sfm.TrackedCameras`.

        Args:
            frames: (F, H, W, 3) uint8, those that were followed; the distortion found in them is taken out.
            found: What was found in them.
            fps: Frames per second.
            times: (F,) in seconds, or None.
            known: (F,) bool, whose poses count; None is `found.pose_known`.
        """
        distortion = found.distortion
        frames, found = found.undistorted(frames)
        poses, intrinsics = found.poses.double().numpy(), found.intrinsics.double().numpy()
        seen = (found.tracks.point.numpy(), found.tracks.frame.numpy(), found.tracks.xy.numpy())
        tracks = Tracks.measured(found.points.numpy(), found.point_colors.numpy(), seen, poses, intrinsics)
        return cls(
            frames,
            poses,
            intrinsics,
            fps=fps,
            times=times,
            pose_known=found.pose_known.numpy() if known is None else known,
            registered=found.registered.numpy(),
            tracks=tracks if len(tracks) else None,
            source="tracks",
            doubtful=found.degenerate,
            focal_uncertainty=found.focal_uncertainty,
            distortion=distortion,
        )

    @property
    def num_frames(self) -> int:
        """F."""
        return self.frames.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.frames.shape[1], self.frames.shape[2]

    @property
    def world_to_camera(self) -> np.ndarray:
        """(F, 4, 4), the inverse of `poses`."""
        return cameras.invert(torch.from_numpy(self.poses)).numpy()

    @property
    def has_points(self) -> bool:
        """Whether there is a cloud: of pointmaps, or of tracks."""
        return self.pointmaps is not None or bool(self.tracks)

    @property
    def focal_deviation(self) -> str:
        """What stands behind a focal length in words: how far it may be off, what that asks for, and what bent the pictures."""
        lens = f", distortion {self.distortion:.3f} (taken out of the pictures)" if self.distortion else ""
        if not self.focal_uncertainty > 0:
            return (" (given)" if self.focal_uncertainty == 0 else "") + lens
        wide = " (a camera that turns further would tell it)" if self.focal_uncertainty > UNCERTAIN_FOCAL else ""
        return f" +-{max(100 * self.focal_uncertainty, 1):.0f} %{wide}{lens}"

    def median_depth(self) -> float:
        """Typical z of the scene, over the pixels with geometry or the points that are tracked; 0 without points."""
        if self.pointmaps is not None:
            return float(np.median(self.depth[self.valid_pixels(edge_tolerance=None)]))
        return float(np.median(self.tracks.depth(self.poses))) if self.tracks else 0.0

    def posed(self, *, pictures: bool = True) -> "Scene":
        """The frames whose pose is known, under their own numbers; the scene itself if all are.

        Args:
            pictures: False for those that only look at the cameras and points: where no points take their colours from the
                frames, these are then all the first, which saves copying those of a long video.
        """
        if self.pose_known.all():
            return self
        chosen = object.__new__(Scene)  # nothing is there that was not checked
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "frames" and not pictures and self.pointmaps is None:
                value = np.broadcast_to(value[:1], (int(self.pose_known.sum()), *value.shape[1:]))
            elif isinstance(value, np.ndarray):
                value = value[self.pose_known]
            elif isinstance(value, Tracks):
                value = value.of_frames(self.pose_known)
            chosen._keep(field.name, value)
        return chosen

    def valid_pixels(self, *, min_confidence_quantile: float = 0.0, edge_tolerance: float | None = 0.1) -> np.ndarray:
        """Which pixels have geometry worth showing.

        Args:
            min_confidence_quantile: In [0, 1): this share of the pixels, the least sure ones, is left out.
            edge_tolerance: Leave out pixels at depth edges, see `geometry.depth_maps.away_from_bends`; None keeps them.

        Returns:
            (F, H, W) bool.

        Raises:
            ValueError: No pointmaps, a quantile out of range, or no pixel left.
        """
        if self.pointmaps is None:
            raise ValueError(
                "this scene has no pointmaps, and feature tracks find no points where a camera stands still or only turns; take "
                "a network's (--cameras network), or build the scene with Scene.from_depth"
            )
        if edge_tolerance is not None and not edge_tolerance > 0:
            raise ValueError(f"edge_tolerance must be positive, got {edge_tolerance!r}; None switches the filter off")
        if not 0 <= min_confidence_quantile < 1:
            raise ValueError(f"min_confidence_quantile must lie in [0, 1), got {min_confidence_quantile!r}")
        seen = (self.confidence > 0) & (self.depth > 0)
        if edge_tolerance is not None:
            seen = away_from_bends(torch.tensor(self.depth), torch.from_numpy(seen), edge_tolerance).numpy()
        if min_confidence_quantile > 0 and seen.any():
            seen &= self.confidence >= np.quantile(self.confidence[seen], min_confidence_quantile)
        if not seen.any():
            raise ValueError("no pixel is left after filtering; lower min_confidence_quantile or raise edge_tolerance")
        return seen

    def points(
        self, *, min_confidence_quantile: float = 0.0, max_points: int | None = None, edge_tolerance: float | None = 0.1
    ) -> PointCloud:
        """The coloured cloud of all frames; of the tracks where there are no pointmaps, sure in the number of frames that see it.

        Args:
            min_confidence_quantile: In [0, 1): this share of the pixels, the least sure ones, is left out.
            max_points: Keep an even random choice of at most that many (always the same choice); None keeps all.
            edge_tolerance: Leave out pixels at depth edges, see `geometry.depth_maps.away_from_bends`; None keeps them.

        Returns:
            The points in order of frame, row, column.

        Raises:
            ValueError: As `valid_pixels`; or `max_points` below 1.
        """
        if max_points is not None and max_points < 1:
            raise ValueError(f"max_points must be at least 1, got {max_points}")
        if self.pointmaps is None and self.tracks:
            cloud = _tracked_cloud(self.tracks)
            sure = cloud.confidence >= np.quantile(cloud.confidence, min_confidence_quantile)
            return cloud.select(_random_choice(np.flatnonzero(sure), max_points))
        seen = self.valid_pixels(min_confidence_quantile=min_confidence_quantile, edge_tolerance=edge_tolerance)
        frame, y, x = np.unravel_index(_random_choice(np.flatnonzero(seen), max_points), seen.shape)
        return PointCloud(
            self.pointmaps[frame, y, x], self.frames[frame, y, x], self.confidence[frame, y, x], frame, np.stack([x, y], -1)
        )


def _tracked_cloud(tracks: Tracks) -> PointCloud:
    """The points of tracks, each where it is seen first."""
    numbers, first, count = np.unique(tracks.point, return_index=True, return_counts=True)
    return PointCloud(
        tracks.points[numbers].astype(np.float32),
        tracks.colors[numbers],
        count.astype(np.float32),
        tracks.frame[first],
        np.rint(tracks.xy[first]).astype(np.int64),
    )


def _random_choice(indices: np.ndarray, count: int | None) -> np.ndarray:
    """An even random choice of at most `count`, always the same, in order."""
    if count is None or len(indices) <= count:
        return indices
    return np.asarray(indices[np.sort(np.random.default_rng(0).choice(len(indices), count, replace=False))])


def unproject(depth: np.ndarray, poses: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """World points (F, H, W, 3) float32 of z depth (F, H, W), camera-to-world poses (F, 4, 4) and intrinsics (F, 3, 3)."""
    if depth.ndim != 3 or poses.shape != (len(depth), 4, 4) or intrinsics.shape != (len(depth), 3, 3):
        raise ValueError(
            f"need depth (F, H, W), poses (F, 4, 4) and intrinsics (F, 3, 3), "
            f"got {depth.shape}, {poses.shape}, {intrinsics.shape}"
        )
    double = [torch.from_numpy(np.asarray(array, dtype=np.float64)) for array in (depth, intrinsics, poses)]
    return cameras.transform(double[2], cameras.unproject(double[0], double[1])).numpy().astype(np.float32)


def _numpy(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()  # numpy has no bfloat16
    return np.asarray(value)


def _array(name: str, value: Any, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    array = _numpy(value)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape} to fit the frames, got {array.shape}")
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
        raise ValueError(f"{name} must be numbers, got dtype {array.dtype}")
    return np.ascontiguousarray(array, dtype=dtype)


def _frames_array(frames: Any) -> np.ndarray:
    if isinstance(frames, Sequence) and len(frames) and isinstance(frames[0], Image.Image):
        sizes = {image.size for image in frames}
        if len(sizes) > 1:
            raise ValueError(f"frames must all be of one size, got {sorted(sizes)}")
        for image in frames:
            _check_image(image)
        frames = np.stack([np.asarray(image.convert("RGB")) for image in frames])
    array = _numpy(frames)
    if array.ndim != 4 or array.shape[-1] != 3 or 0 in array.shape:
        raise ValueError(f"frames must be (F, H, W, 3) with at least one pixel, got shape {array.shape}")
    if array.dtype != np.uint8:
        raise ValueError(f"frames must be uint8 RGB in 0..255, got {array.dtype}; convert with (frames * 255).round()")
    return np.ascontiguousarray(array)


def _check_image(image: Image.Image) -> None:
    """Refuse pictures that PIL would bring to RGB by changing what they show."""
    hidden = "transparency" in image.info or ("A" in image.getbands() and np.asarray(image.getchannel("A")).min() < 255)
    if image.mode == "F" or image.mode.startswith("I") or hidden:
        what = "with transparency" if hidden else "of more than 8 bits"
        raise ValueError(
            f"frames hold a PIL image {what} (mode {image.mode!r}); bring it to 8-bit RGB first: "
            "jog3r.data.recordings.pictures.rgb_array(image)"
        )


def _check_poses(poses: np.ndarray) -> None:
    if not np.isfinite(poses).all():
        raise ValueError("poses hold NaN or infinite values; leave out the frames whose camera is unknown")
    fault = pose_fault(poses)
    if fault is not None:
        raise ValueError(f"pose {fault[0]} is not a rigid motion: {fault[1]}")


def _check_frame_index(frame_index: np.ndarray) -> None:
    if frame_index[0] < 0 or (np.diff(frame_index) <= 0).any():
        raise ValueError(f"frame_index must be frame numbers >= 0 that rise, got {frame_index.tolist()}")


def _check_tracks(tracks: Tracks, num_frames: int) -> None:
    if len(tracks.point) and (tracks.frame.max() >= num_frames or tracks.frame.min() < 0 or tracks.point.max() >= len(tracks)):
        raise ValueError(f"tracks must be of the scene's {num_frames} frames and of their own {len(tracks)} points")
    if not (np.isfinite(tracks.points).all() and np.isfinite(tracks.xy).all()):
        raise ValueError("tracks hold points or pixels that are NaN or infinite; leave them out")


def _check_intrinsics(intrinsics: np.ndarray) -> None:
    if not np.isfinite(intrinsics).all():
        raise ValueError("intrinsics hold NaN or infinite values")
    focal = intrinsics[:, [0, 1], [0, 1]]
    zeros = intrinsics[:, [0, 1, 2, 2], [1, 0, 0, 1]]
    bad = (focal <= 0).any(1) | (np.abs(zeros).max(1) > 1e-6 * focal.max(1)) | (np.abs(intrinsics[:, 2, 2] - 1) > 1e-6)
    if bad.any():
        index = int(np.argmax(bad))
        raise ValueError(f"intrinsics {index} must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], got {intrinsics[index].tolist()}")


def _depth_of(pointmaps: np.ndarray, poses: np.ndarray) -> np.ndarray:
    """z (F, H, W) of world points (F, H, W, 3) in their own cameras."""
    axis, centre = poses[:, :3, 2], poses[:, :3, 3]
    with np.errstate(invalid="ignore"):
        return np.einsum("fhwi,fi->fhw", pointmaps - centre[:, None, None], axis)
