"""Global registration: pairwise pointmaps -> camera poses, intrinsics and depth of all frames.

`register_pointmaps` takes anybody's pairwise pointmaps (DUSt3R, MASt3R, or the head of this package). docs/registration.md
explains the two methods, the terms and their weights.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from jog3r.geometry.cameras import intrinsics_from_focal, relative_poses, transform, unproject
from jog3r.geometry.checks import check_inputs, check_options
from jog3r.geometry.dense import dense_depth
from jog3r.geometry.energy import Pairwise, objective, state_energy
from jog3r.geometry.fast import first_focals, grow_tree, pair_poses, sample_rays, take_samples
from jog3r.geometry.pointmaps import mean_distance
from jog3r.geometry.reference import ReferenceOptions, reference_alignment


@dataclass(frozen=True)
class Registration:
    """Cameras and depth of F frames; float32; world = camera of frame 1; scale: mean distance of frame 1's valid points is 1."""

    poses: Tensor
    """(F, 4, 4) camera-to-world, OpenCV axes; the first is the identity."""
    intrinsics: Tensor
    """(F, 3, 3) in pixels of the maps."""
    depth: Tensor
    """(F, H, W) z in the frame's camera; 0 where no map has a valid pixel."""
    pointmaps: Tensor
    """(F, H, W, 3) in world coordinates."""
    confidence: Tensor
    """(F, H, W) the highest confidence any pair gave to the pixel; 0 where none is valid."""
    pair_scale: Tensor
    """(P,) factors from the length unit of each pair's pointmaps to that of the world."""
    energy: float
    """DUSt3R's objective at this state, without temporal terms, at the objective's own scale."""
    converged: bool
    """Whether the last step moved nothing noticeably."""
    num_iterations: int
    """Steps taken."""
    degenerate: tuple[str, ...]
    """Per frame what is wrong with its pose, words joined by commas: "", "no overlap", "too few points", "no parallax",
    "planar scene", "poor fit"."""
    pose_covariance: Tensor
    """(F, 6, 6) covariance of (rotation vector in radians, translation) of each camera-to-world pose, both in world axes; zero
    for frame 1 and given poses; infinite variances where the pose is unknown."""


def register_pointmaps(
    anchor_pointmaps: Tensor,  # (P, H, W, 3)
    anchor_confidence: Tensor,  # (P, H, W)
    pointmaps: Tensor,  # (P, H, W, 3)
    confidence: Tensor,  # (P, H, W)
    pairs: Tensor,  # (P, 2)
    num_frames: int,
    *,
    method: str = "fast",
    shared_focal: bool = True,
    focal_px: float | Tensor | None = None,
    intrinsics: Tensor | None = None,
    known_poses: Tensor | None = None,
    max_iterations: int | None = None,
    generator: torch.Generator | None = None,
) -> Registration:
    """Register pairwise pointmaps globally."""
    del generator
    data, anchor_valid, valid = check_inputs(anchor_pointmaps, anchor_confidence, pointmaps, confidence, pairs, num_frames)
    focals, intrinsics, known_poses = check_options(num_frames, method, focal_px, intrinsics, known_poses, data.pointmaps)
    height, width = data.size
    if method == "reference":
        options = ReferenceOptions(
            iterations=max_iterations or 300, shared_focal=False, focal_px=focals, known_poses=known_poses
        )
        parameters, _ = reference_alignment(data, num_frames, options)
        energy = objective(data, parameters).item()
        poses, scale = relative_poses(parameters.cam_to_world().double()), parameters.pair_scales()
        intrinsics = intrinsics_from_focal(parameters.focals(), height, width)
        depth = parameters.im_depthmaps.exp().unflatten(1, (height, width))
        frame_confidence = dense_depth(data, (anchor_valid, valid), poses, intrinsics, scale)[1]
        reached = torch.ones(num_frames, dtype=torch.bool)
    else:
        samples = take_samples(data, anchor_valid, valid, 4096)
        if intrinsics is None:
            if focals is None:
                focals = first_focals(samples, num_frames, (height, width), shared_focal)
            intrinsics = intrinsics_from_focal(focals, height, width)
        relative, fit = pair_poses(samples, sample_rays(samples, intrinsics))
        state = grow_tree(samples, relative, fit, num_frames)
        poses, scale, reached = state.poses, state.pair_scale, state.reached
        depth, frame_confidence = dense_depth(data, (anchor_valid, valid), poses, intrinsics, scale)
        world = transform(poses.float(), unproject(depth, intrinsics.float()))
        energy = state_energy(data, world, poses.float(), scale.float()).item()
    world = transform(poses.float(), unproject(depth.float(), intrinsics.float()))
    unit = 1 / mean_distance(world[0], frame_confidence[0] > 0)
    poses = poses.float().clone()
    poses[:, :3, 3] *= unit
    return Registration(
        poses,
        intrinsics.float(),
        depth.float() * unit,
        world * unit,
        frame_confidence,
        scale.float() * unit,
        energy,
        True,
        1,
        tuple("" if bool(r) else "no overlap" for r in reached),
        torch.zeros(num_frames, 6, 6),
    )
