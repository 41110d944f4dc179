"""Points of a scene with the pixels that see them. Letters: N points, M observations."""

from dataclasses import dataclass, replace

import numpy as np

__all__ = ["Tracks"]


@dataclass(frozen=True)
class Tracks:
    """N points and their M observations.

    Attributes:
        points: (N, 3) float64 world coordinates.
        colors: (N, 3) uint8.
        error_px: (N,) float64, mean distance of a point's projections from its observations.
        point: (M,) int64, index of the observed point, ascending.
        frame: (M,) int64, index of the observing frame; a point is seen at most once a frame.
        xy: (M, 2) float64, pixel coordinates, first pixel's centre at 0.
    """

    points: np.ndarray
    colors: np.ndarray
    error_px: np.ndarray
    point: np.ndarray
    frame: np.ndarray
    xy: np.ndarray

    def __len__(self) -> int:
        """Number of points."""
        return len(self.points)

    @classmethod
    def measured(
        cls,
        points: np.ndarray,
        colors: np.ndarray,
        observations: tuple[np.ndarray, np.ndarray, np.ndarray],
        poses: np.ndarray,
        intrinsics: np.ndarray,
    ) -> "Tracks":
        """Tracks with the errors that they have under given cameras.

        Args:
            points: (N, 3).
            colors: (N, 3) uint8.
            observations: `point`, `frame` and `xy`, in any order.
            poses: (F, 4, 4) camera-to-world.
            intrinsics: (F, 3, 3) in pixels of `xy`.
        """
        order = np.lexsort((observations[1], observations[0]))
        point, frame, xy = (np.asarray(array)[order] for array in observations)
        points = np.asarray(points, dtype=np.float64)
        pixels, _ = project_each(points[point], frame, poses, intrinsics)
        distance = np.linalg.norm(pixels - xy, axis=1)
        error = np.bincount(point, distance, len(points)) / np.maximum(np.bincount(point, minlength=len(points)), 1)
        return cls(points, np.asarray(colors), error, point, frame, np.asarray(xy, dtype=np.float64))

    def of_frames(self, kept: np.ndarray) -> "Tracks":
        """What the frames where `kept` (F,) see, numbered anew; points that none of them sees are gone."""
        seen = kept[self.frame]
        alive = np.bincount(self.point[seen], minlength=len(self)) > 0
        return replace(
            self,
            points=self.points[alive],
            colors=self.colors[alive],
            error_px=self.error_px[alive],
            point=(np.cumsum(alive) - 1)[self.point[seen]],
            frame=(np.cumsum(kept) - 1)[self.frame[seen]],
            xy=self.xy[seen],
        )

    def depth(self, poses: np.ndarray) -> np.ndarray:
        """(M,) z of each observed point in the camera that sees it; poses (F, 4, 4) camera-to-world."""
        offset = self.points[self.point] - poses[self.frame, :3, 3]
        return np.asarray(np.einsum("mi,mi->m", offset, poses[self.frame, :3, 2]))


def project_each(
    world: np.ndarray, frame: np.ndarray, poses: np.ndarray, intrinsics: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (M, 2) and z (M,) of world points (M, 3), each in its own frame (M,); pixels mean nothing where z <= 0."""
    turned = np.einsum("mji,mj->mi", poses[frame, :3, :3], world - poses[frame, :3, 3])
    projected = np.einsum("mij,mj->mi", intrinsics[frame], turned)
    with np.errstate(divide="ignore", invalid="ignore"):
        return projected[:, :2] / projected[:, 2:], turned[:, 2]
