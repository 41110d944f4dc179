"""An initial set of 3D Gaussians, in the PLY layout of the 3D Gaussian splatting programs (Kerbl et al. 2023)."""

import numpy as np

from jog3r.export.formats.point_cloud import structured_ply
from jog3r.export.scene import PointCloud

__all__ = ["nearest_spacing", "splat_bytes"]

_SH_BAND_0 = 0.28209479177387814  # the constant spherical harmonic: colour = 0.5 + this * f_dc


def splat_bytes(cloud: PointCloud, *, opacity: float = 0.5, sh_degree: int = 0) -> bytes:
    """One round Gaussian a point, as large as the distance to its neighbours.

    Fields: x y z, nx ny nz (zero), f_dc_0..2, f_rest_* (zero, for `sh_degree` > 0), opacity (logit), scale_0..2 (natural log),
    rot_0..3 (w x y z, identity). World = camera 1, OpenCV axes; viewers that expect y up show it upside down until turned.

    Args:
        cloud: The points; see `Scene.points`.
        opacity: In (0, 1), the same for all.
        sh_degree: 0 to 3; the original trainer's loader wants 3, viewers read all.

    Returns:
        The file's bytes.

    Raises:
        ValueError: An argument out of range or fewer than 2 points.
    """
    if not 0 < opacity < 1:
        raise ValueError(f"opacity must lie in (0, 1), got {opacity!r}")
    if sh_degree not in (0, 1, 2, 3):
        raise ValueError(f"sh_degree must be 0, 1, 2 or 3, got {sh_degree!r}")
    higher = 3 * ((sh_degree + 1) ** 2 - 1)
    names = ["x", "y", "z", "nx", "ny", "nz", *(f"f_dc_{i}" for i in range(3)), *(f"f_rest_{i}" for i in range(higher))]
    names += ["opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    splats = np.zeros(len(cloud), np.dtype([(name, "<f4") for name in names]))
    for axis, name in enumerate("xyz"):
        splats[name] = cloud.points[:, axis]
        splats[f"f_dc_{axis}"] = (cloud.colors[:, axis] / 255 - 0.5) / _SH_BAND_0
    log_spacing = np.log(nearest_spacing(cloud.points))
    for axis in range(3):
        splats[f"scale_{axis}"] = log_spacing
    splats["opacity"] = np.log(opacity / (1 - opacity))
    splats["rot_0"] = 1
    return structured_ply(splats, "jog3r initial gaussians: OpenCV axes, world = camera 1")


def nearest_spacing(points: np.ndarray, *, neighbours: int = 3) -> np.ndarray:
    """Root mean square distance (N,) to the nearest `neighbours` points, never zero.

    Points are sorted along three shifted Morton curves and compared with those next to them on each: N log N without a spatial
    index, and never below the true distance (a missed neighbour makes it a little larger).

    Args:
        points: (N, 3), N >= 2.
        neighbours: How many neighbours count.

    Returns:
        (N,) float64.

    Raises:
        ValueError: Fewer than 2 points.
    """
    points = np.asarray(points, dtype=np.float64)
    if len(points) < 2:
        raise ValueError(f"spacing needs at least 2 points, got {len(points)}")
    neighbours = min(neighbours, len(points) - 1)
    low = points.min(0)
    unit = (points - low) / max(float((points.max(0) - low).max()), 1e-30)
    near = _NearestSoFar(len(points), neighbours)
    for shift in (0.0, 1 / 3, 2 / 3):
        order = np.argsort(_morton_code((unit + shift) / 2), kind="stable")
        for step in range(1, min(16, len(points) - 1) + 1):
            first, second = order[:-step], order[step:]
            distance = ((points[first] - points[second]) ** 2).sum(1)
            near.offer(first, second, distance)
            near.offer(second, first, distance)
    spacing = np.sqrt(near.squared.mean(1))
    return np.maximum(spacing, max(1e-3 * float(np.median(spacing)), 1e-9))


class _NearestSoFar:
    """The nearest few other points found so far: squared distances (N, k) ascending and who they are."""

    def __init__(self, count: int, neighbours: int) -> None:
        self.squared = np.full((count, neighbours), np.inf)
        self.who = np.full((count, neighbours), -1)

    def offer(self, index: np.ndarray, other: np.ndarray, squared: np.ndarray) -> None:
        """Offer to each of `index` (no repeats) the point `other` at this distance."""
        closer = squared < self.squared[index, -1]
        index, other, squared = index[closer], other[closer], squared[closer]
        # The curves meet the same pair more than once.
        new = (self.who[index] != other[:, None]).all(1)
        index, other, squared = index[new], other[new], squared[new]
        self.squared[index, -1], self.who[index, -1] = squared, other
        order = np.argsort(self.squared[index], axis=1)
        self.squared[index] = np.take_along_axis(self.squared[index], order, 1)
        self.who[index] = np.take_along_axis(self.who[index], order, 1)


def _morton_code(unit: np.ndarray) -> np.ndarray:
    """Interleave 20 bits of each coordinate in [0, 1) of (N, 3) to (N,) uint64."""
    cells = (unit * (1 << 20)).astype(np.uint64)
    code = np.zeros(len(unit), np.uint64)
    for bit in range(20):
        for axis in range(3):
            code |= ((cells[:, axis] >> np.uint64(bit)) & np.uint64(1)) << np.uint64(3 * bit + axis)
    return code
