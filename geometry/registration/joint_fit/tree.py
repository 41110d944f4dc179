"""From pairs to one world: focal lengths, poses of all frames and scales of all pairs, before refinement."""

from dataclasses import dataclass

import torch
from torch import Tensor

from jog3r.geometry.cameras import invert
from jog3r.geometry.registration.joint_fit.initialisation import aspect_from_pointmap, focal_from_pointmap, robust_camera_pose
from jog3r.geometry.registration.joint_fit.movers import Maps, find_movers
from jog3r.geometry.registration.joint_fit.pair_terms import local_points
from jog3r.geometry.registration.joint_fit.samples import Samples, sample_rays
from jog3r.geometry.robust import weighted_median

_START_PIXELS = 400  # enough for a start that the refinement corrects
_WORST_FIT = 1.0  # radians; a pair that fits worse joins nothing


@dataclass
class State:
    """What the fast method estimates, float64; the length unit is that of the world, in which the first pair has scale 1."""

    poses: Tensor  # (F, 4, 4) camera-to-world
    intrinsics: Tensor  # (F, 3, 3)
    pair_scale: Tensor  # (P,) of the sampled points, which are divided by `Samples.unit`
    reached: Tensor  # (F,) bool: connected to frame 1 by valid pixels

    def is_finite(self) -> bool:
        """Whether all cameras are numbers within reason."""
        focal = self.intrinsics[:, [0, 1], [0, 1]]
        values = torch.cat((self.poses.flatten(), self.pair_scale, self.pair_scale.reciprocal(), focal.log().flatten()))
        return bool((values.abs() < 1e12).all())


def first_intrinsics(
    samples: Samples, intrinsics: Tensor, shared: bool, size: tuple[int, int], keep_aspect: bool = True
) -> Tensor:
    """Intrinsics (F, 3, 3) with focals estimated from the maps that are in their own camera.

    Args:
        samples: the maps.
        intrinsics: (F, 3, 3) whose principal points are kept.
        keep_aspect: their ratios fy / fx are kept, too; otherwise the maps give one for all frames: 1 unless they clearly say
            otherwise.
        shared: one focal for all frames; otherwise frames without a map in their own camera get the median of the others.
        size: rows and columns of the maps.
    """
    few = samples.thinned(_START_PIXELS)
    own = intrinsics[samples.frame[: samples.num_pairs]]  # (P, 3, 3)
    weights = few.confidence[: samples.num_pairs] * few.valid[: samples.num_pairs]
    centred = few.pixels - own[0, :2, 2:]
    if not keep_aspect:
        ratio = weighted_median(
            aspect_from_pointmap(few.points[: samples.num_pairs], centred, weights).double(), weights.sum(-1).double()
        )
        intrinsics = intrinsics.clone()
        intrinsics[:, 1, 1] = torch.where(ratio > 0, ratio, 1.0) * intrinsics[:, 0, 0]  # 0 where no map says anything
        own = intrinsics[samples.frame[: samples.num_pairs]]
    centred = centred * torch.stack((torch.ones_like(own[0, 0, 0]), own[0, 0, 0] / own[0, 1, 1]))[:, None]
    focal = focal_from_pointmap(few.points[: samples.num_pairs], centred, weights).double()  # (P,)
    believable = (focal > 0.1 * max(size)) & (focal < 20.0 * max(size))
    strength = torch.where(believable, weights.sum(-1).double(), 0.0)
    if not bool((strength > 0).any()):
        # Nothing says what the focal is: an ordinary camera with 55 degrees across the longer side; the fit tells if it is wrong.
        focals = focal.new_full((intrinsics.shape[0],), 0.96 * max(size))
    else:
        focals = weighted_median(focal, strength).repeat(intrinsics.shape[0])
        if not shared:
            frames = samples.frame[: samples.num_pairs]
            for frame in frames[strength > 0].unique().tolist():
                mine = torch.where(frames == frame, strength, 0.0)
                focals[frame] = weighted_median(focal, mine)
    result = intrinsics.clone()
    result[:, 0, 0] = focals
    result[:, 1, 1] = focals * intrinsics[:, 1, 1] / intrinsics[:, 0, 0]
    return result


def first_state(samples: Samples, intrinsics: Tensor, num_frames: int, known_poses: Tensor | None) -> tuple[State, Samples]:
    """First state, and the samples without the pixels of second maps that move by themselves."""
    few = samples.thinned(_START_PIXELS)
    count = samples.num_pairs
    second = slice(count, None)
    weights = few.confidence[second] * few.valid[second]
    relative, fit = robust_camera_pose(few.points[second], sample_rays(few, intrinsics, few.frame[second]).direction, weights)
    coarse, _ = samples.coarse()
    rays = sample_rays(coarse, intrinsics, coarse.frame[second])
    maps = Maps(coarse.points[second], coarse.valid[second], coarse.confidence[second], rays, coarse.grid)
    moving, world_to_cam = find_movers(maps, invert(relative))
    if moving is not None:
        samples, relative = samples.without(moving, coarse.grid), invert(world_to_cam)
        few = samples.thinned(_START_PIXELS)
    local = local_points(few.points[second], invert(relative))
    z = torch.cat((few.points[:count, 2], local[:, 2]))  # (M, n)
    weights = torch.where(few.valid & (z > 0), few.confidence, 0.0)
    grown = _grow(few.pairs, relative, fit, z.clamp(min=1e-12).log(), weights, num_frames)
    state = State(grown[0], intrinsics, grown[1], grown[2])
    if known_poses is not None:
        state.pair_scale = _scale_to(known_poses, relative, few.pairs, state.pair_scale)
        state.poses = known_poses.clone()
    return state, samples


def unit_length(samples: Samples, state: State) -> float:
    """Mean distance of frame 1's points in the state's unit: what becomes 1 in the result; 1 where frame 1 has no points."""
    first = samples.frame == 0
    weights = samples.valid[first].double() * state.pair_scale.repeat(2)[first, None]
    count = int(samples.valid[first].sum())
    return float((samples.size[first] * weights).sum()) / count if count else 1.0


def _grow(
    pairs: Tensor, relative: Tensor, fit: Tensor, log_depth: Tensor, weights: Tensor, num_frames: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Poses (F, 4, 4), scales (P,) and reached (F,), from frame 1 outwards, over the best-fitting pairs, level by level."""
    count = len(fit)
    poses = torch.eye(4, dtype=torch.float64, device=fit.device).repeat(num_frames, 1, 1)
    scale = torch.ones_like(fit)
    map_of_frame: dict[int, int] = {}
    ends = pairs.tolist()
    seen = (weights > 0).sum(1).tolist()
    order = [edge for edge in fit.argsort().tolist() if float(fit[edge]) < _WORST_FIT]
    reached, waiting = {0}, order
    while True:
        here = [edge for edge in waiting if ends[edge][0] in reached or ends[edge][1] in reached]
        if not here:
            break
        for edge in here:
            i, j = ends[edge]
            known, own = (i, edge) if i in reached else (j, count + edge)
            if known in map_of_frame and seen[own]:
                other = map_of_frame[known]
                both = weights[own] * weights[other]
                if bool((both > 0).any()):
                    offset = weighted_median(log_depth[other] - log_depth[own], both).double()
                    scale[edge] = scale[other % count] * offset.exp()
            step = relative[edge].clone()
            step[:3, 3] *= scale[edge]
            if i not in reached:
                poses[i] = poses[j] @ invert(step)
            elif j not in reached:
                poses[j] = poses[i] @ step
            for frame, own in ((i, edge), (j, count + edge)):
                if seen[own]:
                    map_of_frame.setdefault(frame, own)
                reached.add(frame)
        done = set(here)
        waiting = [edge for edge in waiting if edge not in done]
    mask = torch.zeros(num_frames, dtype=torch.bool, device=fit.device)
    mask[list(reached)] = True
    return poses, scale, mask


def _scale_to(known_poses: Tensor, relative: Tensor, pairs: Tensor, fallback: Tensor) -> Tensor:
    """Pair scales (P,) in the unit of the given poses: those found, times the median ratio of given to found baselines."""
    baseline = (invert(known_poses)[pairs[:, 0]] @ known_poses[pairs[:, 1]])[:, :3, 3]
    found = relative[:, :3, 3]
    length = found.square().sum(1)
    ratio = (baseline * found).sum(1) / length.clamp(min=1e-18)
    good = (length > 1e-8) & (ratio > 0)
    if not bool(good.any()):
        return fallback
    overall = weighted_median(ratio / fallback, torch.where(good, length, 0.0))
    return fallback * overall
