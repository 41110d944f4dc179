"""Which frames' poses deserve no trust, and why."""

from collections.abc import Sequence

import torch
from torch import Tensor

from jog3r.geometry.registration.joint_fit.initialisation import MIN_POINTS
from jog3r.geometry.registration.joint_fit.refinement import Refined
from jog3r.geometry.registration.joint_fit.samples import Samples

NO_OVERLAP = "no overlap"  # no usable pair connects the frame with frame 1; its pose is the identity
TOO_FEW_POINTS = "too few points"  # under 12 valid points in each of its maps; its pose is the identity
NO_PARALLAX = "no parallax"  # the camera's offset from frame 1 is within its uncertainty: its direction means nothing
PLANAR_SCENE = "planar scene"  # the points lie in one plane within the noise: pose and focal may be confounded
# Most pixels disagree with the pose, the points' errors exceed a tenth of their distance, or the start fitted clearly better.
# Clips that zoom get it, too, with one focal length for all frames; `shared_focal=False` is the remedy.
POOR_FIT = "poor fit"
UNCERTAIN_FOCAL = 0.1  # standard deviation over focal length, from which on it is not to be built on
_NO_POSE = (NO_OVERLAP, TOO_FEW_POINTS)

_PARALLAX_SIGMAS = 3.0
_PLANE_RATIO = 1.5
_LEAST_INLIERS = 0.5
_WORST_LEVEL = 0.1


def pose_known(degenerate: Sequence[str]) -> Tensor:
    """Mask (F,) of the frames that have a pose: False where "no overlap" or "too few points" left the identity in its place."""
    return torch.tensor([not any(word in words.split(", ") for word in _NO_POSE) for words in degenerate], dtype=torch.bool)


def find_degenerate(samples: Samples, refined: Refined, known: Tensor) -> tuple[str, ...]:
    """One string per frame, words joined by ", ", "" for a sound frame.

    Args:
        samples: the data.
        refined: the final state.
        known: (F,) bool, frames whose pose is given or connected to frame 1.
    """
    state, count = refined.state, samples.num_pairs
    num_frames = state.poses.shape[0]
    enough = samples.valid.sum(1) >= MIN_POINTS
    flat = planar_maps(samples, refined.noise_level)
    offset = state.poses[:, :3, 3] - state.poses[0, :3, 3]
    spread = refined.covariance[:, 3:, 3:].diagonal(dim1=1, dim2=2).amax(1).clamp(min=0).sqrt()
    words = []
    for frame in range(num_frames):
        mine = samples.frame == frame
        second = mine[count:]
        found = []
        if not bool(known[frame]):
            found.append(NO_OVERLAP if bool((mine & enough).any()) else TOO_FEW_POINTS)
        else:
            if frame > 0 and float(offset[frame].norm()) < _PARALLAX_SIGMAS * float(spread[frame]) + 1e-6:
                found.append(NO_PARALLAX)
            if bool((flat & mine & enough).sum() * 2 > (mine & enough).sum()):
                found.append(PLANAR_SCENE)
            usable = second & enough[count:]
            if bool(usable.any()):
                fits = (refined.inliers > _LEAST_INLIERS) & (refined.noise_level < _WORST_LEVEL) & ~refined.worse
                if not bool((fits & usable).any()):
                    found.append(POOR_FIT)
        words.append(", ".join(found))
    return tuple(words)


def planar_maps(samples: Samples, noise_level: Tensor) -> Tensor:
    """Mask (M,) of maps whose points lie in one plane as well as their noise lets one see.

    Args:
        samples: the data.
        noise_level: (P,) relative standard deviation of the points.
    """
    thin = slice(None, None, 1 + 2 * (samples.points.shape[2] // 1024))
    points, weights = samples.points[:, :, thin].double(), samples.valid[:, thin].double()
    thickness = torch.zeros(points.shape[0], dtype=torch.float64, device=points.device)
    for _ in range(4):
        total = weights.sum(1).clamp(min=1)
        centre = (points * weights[:, None]).sum(2) / total[:, None]
        centred = points - centre[..., None]
        scatter = (centred * weights[:, None]) @ centred.transpose(1, 2) / total[:, None, None]
        normal = torch.linalg.eigh(scatter)[1][:, :, 0]
        distance = (normal[:, None] @ centred)[:, 0].square()
        thickness = (distance * weights).sum(1) / total
        # Outliers off the plane do not make a scene solid: cut at three standard deviations, more gently at first.
        weights = weights * (distance < 9 * thickness[:, None])
    size = (samples.size[:, thin] * weights).sum(1) / weights.sum(1).clamp(min=1)
    return thickness.sqrt() < _PLANE_RATIO * noise_level.double().repeat(2).clamp(max=1.0) * size + 1e-6 * size
