"""Bundle adjustment by pycolmap of any beginning over the same tracks, with a prior on the shared focal length."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jog3r.sfm.colmap import load_pycolmap
from jog3r.sfm.lens import LEAST_STRETCH, stretch
from jog3r.sfm.matching.tracks import Tracks
from jog3r.sfm.solving.prior import FocalPrior
from jog3r.sfm.solving.solution import ROBUST_PX, Solution, reprojection, triangulate

NOISE_PX = 0.5  # of a feature's place
LEAST_NOISE_PX = 0.1  # however sharp the pictures: an edge's samples shift it by so much
# Errors of one point are alike in all frames and errors of neighbouring points resemble each other: so many observations tell
# as much about the cameras as one of independent error would.
OBSERVATIONS_PER_FACT = 20
MIN_POINTS = 8
_FAR = 1e3  # points at infinity are put at this many typical depths
_START_PX, _KEEP_PX = 16.0, 4.0
# Ceres' first trust regions. COLMAP's residual of a point behind the camera is 0, so a bold first step that turns the scene
# inside out looks like a success; such a step is noticed and repeated with more caution.
_RADII = (1e3, 1.0, 1e-2)
_TOLERANCES = (1e-3, 1e-5)  # of Ceres: of all rounds but the last, and of the last


@dataclass(frozen=True)
class Freedom:
    """Which intrinsics may move."""

    focal: bool = True
    aspect: bool = False
    distortion: bool = False


def adjust(tracks: Tracks, solution: Solution, prior: FocalPrior, freedom: Freedom = Freedom(), rounds: int = 3) -> Solution:  # noqa: B008
    """Adjust cameras and points together: triangulate all tracks, leave out what does not fit, adjust; a few times.

    Args:
        tracks: the evidence.
        solution: the beginning.
        prior: of the focal length; it stays as it is if that is known.
        freedom: of the intrinsics.
        rounds: of triangulation and adjustment.

    Returns:
        The adjusted cameras, in the world of the first known frame; the beginning itself if nothing could be adjusted.
    """
    limit = _START_PX
    for number in range(rounds):
        points = triangulate(tracks, solution)
        fits, points = fitting(tracks, points, reprojection(tracks, solution, points) < limit)
        if fits.num_points < MIN_POINTS:
            break
        cost = robust_cost(fits, solution, points)
        for radius in _RADII:
            tolerance = _TOLERANCES[number == rounds - 1]
            tried, moved = _solve(fits, points, solution, prior, freedom, (radius, tolerance))
            if robust_cost(fits, tried, moved) <= 1.001 * cost + 1e-3:
                solution = tried
                break
        limit = max(limit / 2, _KEEP_PX)
    return solution.rebased()


def fitting(tracks: Tracks, points: np.ndarray, fits: np.ndarray) -> tuple[Tracks, np.ndarray]:
    """The observations where `fits` (M,) and the points that keep at least two."""
    count = np.bincount(tracks.point[fits], minlength=tracks.num_points)
    return tracks.select(fits), points[count >= 2]


def robust_cost(tracks: Tracks, solution: Solution, points: np.ndarray) -> float:
    """Mean robust squared residual (Cauchy at 1 pixel); an observation behind its camera counts as 32 pixels off."""
    distance = np.minimum(reprojection(tracks, solution, points), 32.0)
    return float(np.log1p(distance**2).mean())


def euclidean(points: np.ndarray) -> np.ndarray:
    """(N, 3) of homogeneous points (N, 4); points at infinity are put far away."""
    near = points[:, 3] > 1e-9
    norm = np.linalg.norm(points[:, :3], axis=1)
    typical = float(np.median(norm[near] / points[near, 3])) if near.any() else 1.0
    w = np.maximum(points[:, 3], norm / (_FAR * typical))
    return points[:, :3] / w[:, None]


def _solve(
    tracks: Tracks, points: np.ndarray, solution: Solution, prior: FocalPrior, freedom: Freedom, steps: tuple[float, float]
) -> tuple[Solution, np.ndarray]:
    """One bundle adjustment: cameras and homogeneous points (N, 4); those given if the result is not finite.

    `steps`: the first trust region, and the relative fall of the cost at which it is done.
    """
    pycolmap = load_pycolmap()
    model, config = pycolmap.Reconstruction(), pycolmap.BundleAdjustmentConfig()
    fx, fy = solution.focals
    square = solution.aspect == 1 and not freedom.aspect
    bends = solution.distortion != 0 or freedom.distortion
    name = ("SIMPLE_DIVISION" if square else "DIVISION") if bends else ("SIMPLE_PINHOLE" if square else "PINHOLE")
    params = [fx, *([] if square else [fy]), 0, 0, *([solution.distortion] if bends else [])]
    model.add_camera_with_trivial_rig(pycolmap.Camera(model=name, width=1, height=1, params=params, camera_id=1))
    free_focal = freedom.focal and not prior.known
    _add_images(pycolmap, model, config, tracks, solution)
    ids = _add_points(pycolmap, model, tracks, euclidean(points))
    if free_focal:
        _add_prior(pycolmap, model, config, prior, _noise(reprojection(tracks, solution, points)))
    options = pycolmap.BundleAdjustmentOptions()
    options.print_summary = False
    options.refine_focal_length = free_focal or freedom.aspect
    options.refine_extra_params = freedom.distortion
    options.ceres.loss_function_type = pycolmap.LossFunctionType.CAUCHY
    options.ceres.loss_function_scale = 1.0
    solver = options.ceres.solver_options
    solver.num_threads = 1
    solver.max_num_iterations = 50
    solver.initial_trust_region_radius, solver.function_tolerance = steps
    pycolmap.create_default_bundle_adjuster(options, config, model).solve()
    cameras = solution.world_to_camera.copy()
    for frame in np.unique(tracks.frame).tolist():
        cameras[frame, :3] = model.image(frame + 1).cam_from_world().matrix()
    moved = np.array([[*model.point3D(index).xyz, 1.0] for index in ids])
    found = np.array(model.camera(1).params)
    focals, distortion = found[[0, 0] if square else [0, 1]], float(found[-1]) if bends else 0.0
    if not (np.isfinite(cameras).all() and np.isfinite(moved).all() and np.isfinite(found).all() and focals.min() > 0):
        return solution, points
    if stretch(tracks.xy / focals, distortion).min() < LEAST_STRETCH:
        return solution, points
    aspect = 1.0 if square else float(focals[1] / focals[0])
    lens = {"focal": float(focals[0]), "aspect": aspect, "distortion": distortion}
    return replace(solution, world_to_camera=cameras, **lens), moved


def _add_images(pycolmap: Any, model: Any, config: Any, tracks: Tracks, solution: Solution) -> None:
    for frame in np.unique(tracks.frame).tolist():
        image = pycolmap.Image(name=f"{frame}", keypoints=tracks.xy[tracks.frame == frame], camera_id=1, image_id=frame + 1)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(solution.world_to_camera[frame, :3]))
        config.add_image(frame + 1)
    config.set_constant_rig_from_world_pose(int(tracks.frame.min()) + 1)


def _add_points(pycolmap: Any, model: Any, tracks: Tracks, points: np.ndarray) -> list[int]:
    order = np.argsort(tracks.frame, kind="stable")
    slot = np.empty(len(order), np.int64)
    slot[order] = np.arange(len(order)) - np.searchsorted(tracks.frame[order], tracks.frame[order])
    starts = np.searchsorted(tracks.point, np.arange(tracks.num_points + 1))
    elements = [
        pycolmap.TrackElement(frame + 1, place) for frame, place in zip(tracks.frame.tolist(), slot.tolist(), strict=True)
    ]
    return [
        model.add_point3D(xyz, pycolmap.Track(elements[starts[index] : starts[index + 1]])) for index, xyz in enumerate(points)
    ]


def _noise(distance: np.ndarray) -> float:
    """Of the features' places, by their distances (M,) from their points in pixels; not above the usual: it may be the start."""
    squared = np.minimum(distance, ROBUST_PX) ** 2
    return min(NOISE_PX, max(LEAST_NOISE_PX, float(np.sqrt(squared.mean() / 2))))


def _add_prior(pycolmap: Any, model: Any, config: Any, prior: FocalPrior, noise: float) -> None:
    """Two frames at rest that see points at rest where the likeliest focal length puts them.

    Their squared residuals add up to ((f - focal) / (spread focal))^2, in units of what the observations of one fact add up to.
    pycolmap has no prior on intrinsics, and wants every point to be seen twice.
    """
    first, count = max(model.images) + 1, OBSERVATIONS_PER_FACT // 2
    slope = noise / (prior.spread * prior.focal * np.sqrt(2))
    for image_id in (first, first + 1):
        keypoints = np.full((count, 2), slope * prior.focal)
        image = pycolmap.Image(name=f"prior {image_id}", keypoints=keypoints, camera_id=1, image_id=image_id)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d())
        config.add_image(image_id)
        config.set_constant_rig_from_world_pose(image_id)
    for slot in range(count):
        seen = pycolmap.Track([pycolmap.TrackElement(image_id, slot) for image_id in (first, first + 1)])
        config.add_constant_point(model.add_point3D([slope, slope, 1.0], seen))
