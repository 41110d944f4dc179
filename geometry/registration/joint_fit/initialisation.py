"""First guesses for registration: the focal length of a pointmap and the pose of a camera from points on known pixel rays."""

import torch
from torch import Tensor

from jog3r.geometry.cameras import invert, pose_from, so3_exp
from jog3r.geometry.registration.joint_fit.pair_terms import Rays, local_points
from jog3r.geometry.robust import geman_mcclure, robust_length_scale, weighted_median

_MAX_STEPS = 12  # of a focal length, and of a pose from one start
MIN_POINTS = 12  # below this many valid pixels a map says nothing about a camera
_START_PIXELS, _START_CHUNK = 128, 32  # of the search over starts: pixels per map, maps at a time
_GOOD_FIT = 0.15  # median angle (radians) under which a first pose needs no second start
_START_RELAX, _LAST_RELAX = 16.0, 2.0  # of the graduated scale, in standard deviations of the residuals
_LONGEST_STEP = 0.7  # radians, relative lengths
_STILL = 0.05  # a step (radians, relative lengths) below this share of the residuals' standard deviation ends the iteration


def focal_from_pointmap(
    points: Tensor,  # (P, 3, N)
    pixels: Tensor,  # (2, N)
    weights: Tensor,  # (P, N)
) -> Tensor:
    """Focal lengths (P,) in pixels of pointmaps in their own cameras: minimises sum w |pixel - f (x, y) / z|.

    Starts from the weighted median of the per-pixel focals, since the usual least-squares start is dragged away by points near
    z = 0, then a few reweighted least-squares steps (Weiszfeld).

    Args:
        points: in the camera that saw them.
        pixels: relative to the principal point; divide v by fy / fx for non-square pixels.
        weights: >= 0; points with z <= 0 are ignored.

    Returns:
        Focals, or 0 where nothing says what the focal is (no weight, or all points on the axis).
    """
    pixels = pixels.to(points.dtype)
    z = points[:, 2]
    in_front = (z > 0) & (weights > 0)
    weights = torch.where(in_front, weights, 0.0)
    xy = torch.where(in_front[:, None], points[:, :2] / z[:, None].clamp(min=1e-15), 0.0).clamp(-1e4, 1e4)  # (P, 2, N)
    radial = (xy * pixels).sum(1)  # (P, N)
    square = xy.square().sum(1)
    # The pixel's distance from the centre is the lever with which it measures the focal.
    focal = weighted_median(radial / square.clamp(min=1e-18), weights * (square > 1e-12) * pixels.square().sum(0).sqrt())
    for _ in range(_MAX_STEPS):
        distance = (pixels - focal[:, None, None] * xy).square().sum(1).sqrt()
        floor = 1e-3 * (1 + focal.abs()[:, None]) / 100
        weight = weights / torch.maximum(distance, floor)
        denominator = (weight * square).sum(-1)
        focal = torch.where(denominator > 0, (weight * radial).sum(-1) / denominator.clamp(min=1e-18), focal)
    return focal.clamp(min=0)


def aspect_from_pointmap(
    points: Tensor,  # (P, 3, N)
    pixels: Tensor,  # (2, N)
    weights: Tensor,  # (P, N)
) -> Tensor:
    """Ratios fy / fx (P,) of pointmaps in their own cameras, exactly 1 unless the maps clearly say otherwise.

    A network that was trained on stretched frames, as the paper's were, predicts maps of cameras with fx != fy. Noise must not
    make square pixels oblong: the ratio is believed if it is more than 15 % away from 1 and leaves clearly smaller errors.

    Args:
        points, pixels, weights: as for `focal_from_pointmap`, of which pixels as they are.
    """
    kept = torch.eye(2).to(points)
    along = [  # fx from the columns alone, fy from the rows alone
        focal_from_pointmap(points * torch.cat((axis, axis.new_ones(1)))[:, None], pixels.to(points) * axis[:, None], weights)
        for axis in kept
    ]
    both = torch.stack((along[0], along[1]), dim=1)  # (P, 2)
    one = focal_from_pointmap(points, pixels, weights)[:, None].expand_as(both)
    in_front = (points[:, 2] > 0) & (weights > 0)
    xy = torch.where(in_front[:, None], points[:, :2] / points[:, 2:].clamp(min=1e-15), 0.0).clamp(-1e4, 1e4)  # (P, 2, N)
    error, squares_error = (
        ((pixels.to(xy) - focal[:, :, None] * xy).square().sum(1).sqrt() * weights * in_front).sum(1) for focal in (both, one)
    )
    ratio = both[:, 1] / both[:, 0].clamp(min=1e-12)
    is_clear = (both > 0).all(1) & ((ratio - 1).abs() > 0.15) & ((1 / ratio - 1).abs() > 0.15) & (error < 0.7 * squares_error)
    return torch.where(is_clear, ratio, 1.0)


def robust_camera_pose(
    points: Tensor,  # (P, 3, N)
    rays: Tensor,  # (P or 1, 3, N)
    weights: Tensor,  # (P, N)
) -> tuple[Tensor, Tensor]:
    """Camera poses from points seen along known rays (perspective-n-point), robust to a large share of outliers.

    Gauss-Newton on the distances between points and rays, relative to the points' distances, under Geman-McClure weights whose
    scale shrinks from "everything counts" to the noise (graduated non-convexity, Yang et al., RA-L 2020). The first start is the
    identity: cameras of a video lie close together. Poses that fit badly are started again from 24 rotations.

    Args:
        points: in some world, e.g. the camera of another frame.
        rays: through the pixels that saw them, camera coordinates, z = 1.
        weights: >= 0.

    Returns:
        poses (P, 4, 4) camera-to-world, float64, and fit (P,), the median angle in radians between points and rays (pi where
        there are fewer than 12 points to say anything; the pose is then the identity).
    """
    start = torch.eye(4, dtype=torch.float64, device=points.device).repeat(points.shape[0], 1, 1)
    enough = (weights > 0).sum(-1) >= MIN_POINTS
    world_to_cam, fit = _graduated_pose(points, rays, weights, start)
    poor = enough & ~(fit < _GOOD_FIT)
    if poor.any():
        rays_poor = rays if rays.shape[0] == 1 else rays[poor]
        again, fit_again = _many_starts(points[poor], rays_poor, weights[poor])
        # A pose found from far away must be clearly better: the first start is the likelier one.
        better = fit_again < 0.8 * fit[poor]
        index = poor.nonzero()[:, 0][better]
        world_to_cam, fit = world_to_cam.clone(), fit.clone()
        world_to_cam[index], fit[index] = again[better], fit_again[better]
    poses = torch.where(enough[:, None, None], invert(world_to_cam), start)
    return poses, torch.where(enough, fit, torch.full_like(fit, torch.pi))


def _graduated_pose(points: Tensor, rays: Tensor, weights: Tensor, pose: Tensor) -> tuple[Tensor, Tensor]:
    """World-to-camera poses (P, 4, 4) and fits (P,) from one start."""
    directed = Rays.along(rays)
    usable = weights > 0
    inverse_size = torch.where(usable, 1 / points.square().sum(1).sqrt().clamp(min=1e-15), 0.0)  # (P, N)
    typical = 1 / weighted_median(inverse_size, weights).clamp(min=1e-15)  # (P,) length unit, conditions the normal equations
    unit = typical[:, None, None]
    points, inverse_size = points / unit, inverse_size * typical[:, None]
    pose = pose.clone()
    pose[:, :3, 3] /= typical[:, None]
    for step in range(_MAX_STEPS):
        columns, angle = _pose_columns(points, pose, directed, inverse_size)
        noise = robust_length_scale(angle, weights).clamp(min=1e-6)  # (P,)
        relax = max(_LAST_RELAX, _START_RELAX * 0.5**step)
        kernel = geman_mcclure(angle**2, (relax * noise[:, None]) ** 2) * weights * inverse_size**2  # (P, N)
        pose, length = pose_step(columns, kernel, pose)
        if relax == _LAST_RELAX and bool((length < _STILL * noise).all()):
            break
    fit = weighted_median(_pose_columns(points, pose, directed, inverse_size)[1], weights).double()
    pose[:, :3, 3] *= typical[:, None]
    return pose, fit


def pose_step(columns: Tensor, weights: Tensor, pose: Tensor) -> tuple[Tensor, Tensor]:
    """One weighted Gauss-Newton step of poses.

    Args:
        columns: (P, 8, 2, N) of `Rays.columns`; its lengths should be about 1.
        weights: (P, N).
        pose: (P, 4, 4) world-to-camera, float64.

    Returns:
        The moved poses and the lengths (P,) of the steps (radians and lengths together), which are limited to 0.7.
    """
    sums = ((columns * weights[:, None, None]).flatten(2) @ columns.flatten(2).transpose(1, 2)).double()  # (P, 8, 8)
    normal, gradient = sums[:, :6, :6], sums[:, :6, 7]
    damping = 1e-9 * normal.diagonal(dim1=-2, dim2=-1).mean(-1).clamp(min=1e-30)
    identity = torch.eye(6, dtype=torch.float64, device=pose.device)
    delta = -torch.linalg.solve_ex(normal + damping[:, None, None] * identity, gradient)[0]
    delta = torch.where(torch.isfinite(delta).all(-1, keepdim=True), delta, torch.zeros_like(delta))
    delta = delta / (delta.norm(dim=-1, keepdim=True) / _LONGEST_STEP).clamp(min=1)
    turn = so3_exp(delta[:, :3])
    return pose_from(turn @ pose[:, :3, :3], (turn @ pose[:, :3, 3:])[..., 0] + delta[:, 3:]), delta.norm(dim=-1)


def _pose_columns(points: Tensor, pose: Tensor, rays: Rays, inverse_size: Tensor) -> tuple[Tensor, Tensor]:
    """`Rays.columns` (P, 8, 2, N) and the offsets relative to the points' sizes (P, N), at least 1 behind the camera."""
    local = local_points(points, pose)
    along = rays.distances(local)
    columns = rays.columns(local, along, pose=True)
    angle = columns[:, 7].square().sum(1).sqrt() * inverse_size
    return columns, torch.where(along > 0, angle, angle + 1)


def _many_starts(points: Tensor, rays: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The best of 24 starting rotations, with the centre of the points put on the mean ray at three times their spread."""
    rotations = cube_rotations(torch.empty(0, dtype=torch.float64, device=points.device))  # (24, 3, 3)
    count = len(rotations)
    poses = []
    for first in range(0, points.shape[0], _START_CHUNK):
        chunk = slice(first, first + _START_CHUNK)
        own_rays = rays if rays.shape[0] == 1 else rays[chunk]
        share = (weights[chunk] / weights[chunk].sum(-1, keepdim=True).clamp(min=1e-30))[:, None]  # (p, 1, N)
        centre, mean_ray = (share * points[chunk]).sum(2).double(), (share * own_rays).sum(2).double()  # (p, 3)
        spread = (share[:, 0] * (points[chunk] - centre[..., None].to(points)).square().sum(1).sqrt()).sum(1).double()
        translation = (mean_ray * 3 * spread[:, None])[:, None] - (rotations @ centre[:, None, :, None])[..., 0]  # (p, 24, 3)
        starts = pose_from(rotations.expand(len(centre), -1, -1, -1), translation).flatten(0, 1)
        step = max(1, points.shape[2] // _START_PIXELS)
        few = points[chunk, :, ::step].repeat_interleave(count, 0), weights[chunk, ::step].repeat_interleave(count, 0)
        few_rays = own_rays[..., ::step] if rays.shape[0] == 1 else own_rays[..., ::step].repeat_interleave(count, 0)
        found, fit = _graduated_pose(few[0], few_rays, few[1], starts)
        best = fit.unflatten(0, (-1, count)).argmin(1)
        poses.append(found.unflatten(0, (-1, count))[torch.arange(len(best), device=best.device), best])
    return _graduated_pose(points, rays, weights, torch.cat(poses))


def cube_rotations(like: Tensor) -> Tensor:
    """The 24 rotations (24, 3, 3) of a cube, in the dtype and on the device of `like`."""
    axes = torch.eye(3, dtype=like.dtype, device=like.device)
    signed = torch.cat((axes, -axes))  # (6, 3)
    rotations = []
    for first in signed:
        for second in signed:
            if abs(float(first @ second)) < 0.5:
                rotations.append(torch.stack((first, second, torch.linalg.cross(first, second))))
    return torch.stack(rotations)
