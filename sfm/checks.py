"""What `track_cameras` is given beside the frames, checked."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jog3r.geometry.registration.checks import check_in_pixels
from jog3r.geometry.registration.degeneracy import pose_known
from jog3r.sfm.frames import Grid, make_grid
from jog3r.sfm.lens import LEAST_STRETCH, stretch
from jog3r.sfm.solving.adjust import Freedom
from jog3r.sfm.solving.prior import FocalPrior, usual_prior
from jog3r.sfm.solving.solution import Solution


@dataclass(frozen=True)
class Initial:
    """Cameras of a network, frames F."""

    poses: np.ndarray
    """(F, 4, 4) float64 camera-to-world, the first the identity."""
    focals: np.ndarray
    """(F, 2) float64 focal lengths in pixels of the video."""
    degenerate: tuple[str, ...]
    """As in `Registration`."""

    @property
    def known(self) -> np.ndarray:
        """(F,) bool, frames that have a pose."""
        return np.asarray(pose_known(self.degenerate))


@dataclass(frozen=True)
class Given:
    """The caller's knowledge."""

    initial: Initial | None
    focal_px: float | None
    intrinsics: np.ndarray | None
    """(F, 3, 3) float64 in pixels of the video."""
    pixel_aspect: float | None
    distortion: float | None = None

    def grid(self, num_frames: int, size: tuple[int, int], max_side: int) -> Grid:
        """Of the frames of `size` (H, W)."""
        grid = make_grid(num_frames, size, max_side, self.pixel_aspect or 1.0, self.intrinsics)
        return replace(grid, bend=self.distortion / self.focal_prior(grid).focal ** 2) if self.distortion else grid

    def focal_prior(self, grid: Grid) -> FocalPrior:
        """Of the focal length in work pixels."""
        if self.intrinsics is not None:
            return FocalPrior(grid.focal_scale, 0.0)
        if self.focal_px is not None:
            return FocalPrior(self.focal_px * grid.focal_scale, 0.0)
        network = None if self.initial is None else float(np.median(self.initial.focals[:, 0])) * grid.focal_scale
        return usual_prior(max(grid.small_size), network)

    def network(self, grid: Grid) -> Solution | None:
        """The network's cameras in the work grid, with its own focal length where none is given."""
        if self.initial is None:
            return None
        prior, (across, down) = self.focal_prior(grid), np.median(self.initial.focals, 0)
        focal, aspect = (prior.focal, 1.0) if prior.known else (float(across) * grid.focal_scale, float(down / across))
        if self.pixel_aspect is not None:  # which the grid has taken out
            aspect = 1.0
        return Solution("network", np.linalg.inv(self.initial.poses), self.initial.known.copy(), focal, aspect)

    @property
    def freedom(self) -> Freedom:
        """Whether nothing is given that says how the frames are stretched, or bent by a lens."""
        unknown = self.intrinsics is None and self.focal_px is None
        return Freedom(aspect=unknown and self.pixel_aspect is None, distortion=unknown and self.distortion is None)


def check_given(
    size: tuple[int, int],
    num_frames: int,
    initial: Any,
    focal_px: Any,
    known_intrinsics: Any,
    pixel_aspect: Any,
    distortion: Any = None,
) -> Given:
    """The arguments of `track_cameras` for frames of `size` (H, W).

    Raises:
        TypeError, ValueError: of another type, shape or range, or contradicting each other.
    """
    for name, value in (("focal_px", focal_px), ("pixel_aspect", pixel_aspect)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf):
            raise ValueError(f"{name} must be a positive number, got {value!r}")
    if focal_px is not None:
        check_in_pixels("focal_px", focal_px, size)
    intrinsics = None
    if known_intrinsics is not None:
        if focal_px is not None or pixel_aspect is not None:
            raise ValueError("give known_intrinsics, or focal_px and pixel_aspect, not both")
        intrinsics = np.asarray(known_intrinsics, dtype=np.float64)
        if intrinsics.shape not in ((3, 3), (num_frames, 3, 3)) or not np.isfinite(intrinsics).all():
            raise ValueError(f"known_intrinsics must be finite, (3, 3) or ({num_frames}, 3, 3), got shape {intrinsics.shape}")
        intrinsics = np.broadcast_to(intrinsics, (num_frames, 3, 3))
        upper = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0]], bool)
        if (intrinsics[:, [0, 1], [0, 1]] <= 0).any() or (intrinsics[:, upper] != 0).any() or (intrinsics[:, 2, 2] != 1).any():
            raise ValueError("known_intrinsics must be upper triangular with positive focal lengths and a 1 in the last row")
        check_in_pixels("known_intrinsics", float(intrinsics[:, 0, 0].min()), size)
    if distortion is not None:
        check_distortion(distortion, focal_px if intrinsics is None else float(intrinsics[:, 0, 0].min()), size)
    known = None if initial is None else _check_initial(initial, size, num_frames)
    return Given(known, focal_px, intrinsics, pixel_aspect, distortion)


def check_distortion(distortion: Any, focal_px: float | None, size: tuple[int, int]) -> None:
    """Refuse a distortion that is none, or that a lens of this focal length does not have in pictures of `size` (H, W)."""
    if isinstance(distortion, bool) or not isinstance(distortion, (int, float)) or not math.isfinite(distortion):
        raise ValueError(f"distortion must be a number, got {distortion!r}")
    if distortion == 0:
        return
    if focal_px is None:
        raise ValueError(f"distortion {distortion:g} means something beside a focal length only: give focal_px as well")
    corner = np.array(size) / (2 * focal_px)
    if stretch(corner, distortion)[0] < LEAST_STRETCH:
        raise ValueError(f"distortion must be above {(LEAST_STRETCH - 1) / (corner**2).sum():.3g} here, got {distortion:g}")


def _check_initial(initial: Any, size: tuple[int, int], num_frames: int) -> Initial:
    parts: list[Any] = [getattr(initial, name, None) for name in ("poses", "intrinsics", "depth")]
    if any(part is None for part in parts):
        raise TypeError(
            f"initial must be a Registration or a Jog3rPipelineOutput with cameras, got {type(initial).__name__} without them"
        )
    poses, intrinsics, depth = (np.asarray(part.detach().cpu().double()) for part in parts)
    registration = initial
    if poses.ndim == 4:
        if len(poses) != 1:
            raise ValueError(f"initial must be of one clip, got an output of {len(poses)}")
        poses, intrinsics, depth = poses[0], intrinsics[0], depth[0]
        registration = (initial.registration or [None])[0]
    if poses.shape != (num_frames, 4, 4):
        raise ValueError(f"initial must be of the same {num_frames} frames, got poses of shape {poses.shape}")
    if not (np.isfinite(poses).all() and np.isfinite(intrinsics).all()):
        raise ValueError("initial has poses or intrinsics that are not finite")
    height, width = depth.shape[1:]
    return Initial(
        np.linalg.inv(poses[:1]) @ poses,
        intrinsics[:, [0, 1], [0, 1]] * [size[1] / width, size[0] / height],  # a pipeline sees all of the frames, stretched
        getattr(registration, "degenerate", ("",) * num_frames),
    )
