"""Places seen again: which windows of a long video might show one place, and whether they really do.

A candidate is believed only if the network, shown frames of both sides in either order, twice gives the same similarity between
the two windows, and if the two windows' depths then agree where they see the same. Letters: K windows, n frames, H W pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jog3r.geometry.cameras import invert, project, transform
from jog3r.geometry.pose_graph import Edge
from jog3r.geometry.similarity import SimilarityFit, move_cameras, sim3_adjoint, sim3_exp, sim3_inverse, sim3_log, sim3_parts
from jog3r.geometry.windows import WindowGeometry, join_windows

Reconstruct = Callable[[list[Any]], WindowGeometry]
THIN_PIXELS = 1024  # of each frame that a window remembers for loops


@dataclass(frozen=True)
class LoopOptions:
    """What makes a loop; the defaults suit indoor walks."""

    min_gap: int = 3
    """Windows that lie at least so far apart in time."""
    max_candidates: int = 8
    """Pairs of windows tried; each costs two more windows' time."""
    max_distance: float = 1.0
    """Candidates by place: camera centres no farther apart than this many mean depths."""
    max_angle_deg: float = 60.0
    """Candidates by place: viewing directions no farther apart."""
    min_similarity: float = 0.6
    """Candidates by looks: cosine of the windows' descriptors, their mean taken off."""
    max_residual: float = 0.15
    """Largest relative error of the pointmaps shared by a window and the mixed one."""
    min_inliers: float = 0.5
    """Smallest share of them that fit."""
    max_disagreement: float = 0.1
    """Between the two orders: median shift of the points over their distance."""
    depth_tolerance: float = 0.1
    """Relative depth difference up to which two windows agree on a pixel."""
    min_overlap: float = 0.2
    """Share of the second window's points that the first sees and agrees with."""
    min_agreement: float = 0.6
    """Share of agreement where one of them says what the other contradicts: no surface can stand before one that is seen."""


@dataclass(frozen=True)
class Loop:
    """A pair of windows that was tried."""

    first_window: int
    second_window: int
    accepted: bool
    """By the checks here; the pose graph may still weigh it down."""
    reason: str
    """Why not; "" if accepted."""
    edge: Edge | None = None
    """Second window's world -> first window's world; None where nothing could be fitted."""
    weight: float = 0.0
    """How far the pose graph believed it, 0..1."""


@dataclass(frozen=True)
class WindowMemory:
    """What is kept of a window for closing loops."""

    frames: list[Any]
    """The frames in its middle, as the reconstructor takes them."""
    geometry: WindowGeometry
    """Of these frames, thinned out."""


def remember(frames: list[Any], geometry: WindowGeometry) -> WindowMemory:
    """Keep the middle half of a window."""
    half = max(1, len(frames) // 2)
    start = (len(frames) - half) // 2
    middle = slice(start, start + half)
    return WindowMemory(frames[middle], thin(geometry.frames(middle)))


def thin(geometry: WindowGeometry) -> WindowGeometry:
    """Every q-th pixel of both axes, at most about `THIN_PIXELS` a frame; the intrinsics follow."""
    height, width = geometry.depth.shape[1:]
    step = max(1, round((height * width / THIN_PIXELS) ** 0.5))
    intrinsics = geometry.intrinsics.clone()
    intrinsics[:, :2] /= step  # pixel q i becomes pixel i; centres lie at integers
    depth, confidence = (maps[:, ::step, ::step].clone() for maps in (geometry.depth, geometry.confidence))
    return WindowGeometry(
        geometry.poses, intrinsics, depth, confidence, geometry.energy, geometry.degenerate, geometry.descriptor
    )


def find_candidates(memories: Sequence[WindowMemory], nodes: Tensor, options: LoopOptions) -> list[tuple[int, int]]:
    """Pairs of windows i < j that may show one place, the likeliest first.

    Args:
        memories: K windows.
        nodes: (K, 4, 4) window -> world, from the chain.
        options: what counts.
    """
    count = len(memories)
    cameras = move_cameras(nodes, torch.stack([_middle_camera(memory.geometry) for memory in memories]))  # (K, 4, 4)
    depth = torch.stack([_mean_depth(memory.geometry) for memory in memories]) * sim3_parts(nodes)[0]
    apart = torch.cdist(cameras[:, :3, 3], cameras[:, :3, 3]) / (0.5 * (depth[:, None] + depth))
    cosine = (cameras[:, :3, 2] @ cameras[:, :3, 2].T).clamp(-1, 1)
    index = torch.arange(count)
    gap = index[None] - index[:, None]
    far = gap >= options.min_gap
    worth = 0.3 * gap.clamp(min=1).double().log()  # a long loop has more drift to take out
    near = far & (apart < options.max_distance) & (cosine > torch.deg2rad(torch.tensor(options.max_angle_deg)).cos())
    ranked = [_best(near, cosine - apart + worth)]
    descriptors = [memory.geometry.descriptor for memory in memories]
    if all(item is not None for item in descriptors):
        looks = torch.stack([item.double() for item in descriptors if item is not None])
        looks = torch.nn.functional.normalize(looks - looks.mean(0), dim=-1)
        similarity = looks @ looks.T
        ranked.append(_best(far & (similarity > options.min_similarity), similarity))
    return _spread(ranked, options.max_candidates)


def _middle_camera(geometry: WindowGeometry) -> Tensor:
    """(4, 4) float64 pose of the known frame nearest to the middle."""
    count = len(geometry.poses)
    away = (torch.arange(count) - count // 2).abs() + count * ~geometry.pose_known
    return geometry.poses[int(away.argmin())].double()


def _mean_depth(geometry: WindowGeometry) -> Tensor:
    known = geometry.depth > 0
    return geometry.depth.double()[known].mean() if bool(known.any()) else torch.ones((), dtype=torch.float64)


def _best(allowed: Tensor, score: Tensor) -> list[tuple[int, int]]:
    pairs = allowed.nonzero()
    order = score[allowed].argsort(descending=True)
    return [(int(i), int(j)) for i, j in pairs[order]]


def _spread(ranked: list[list[tuple[int, int]]], limit: int) -> list[tuple[int, int]]:
    """Take turns between the lists, leaving out pairs next to one already taken: they would say the same."""
    taken: list[tuple[int, int]] = []
    queues = [iter(pairs) for pairs in ranked]
    while queues and len(taken) < limit:
        for queue in list(queues):
            fresh = (pair for pair in queue if all(max(abs(pair[0] - i), abs(pair[1] - j)) > 1 for i, j in taken))
            pair = next(fresh, None)
            if pair is None:
                queues.remove(queue)
            elif len(taken) < limit:
                taken.append(pair)
    return taken


def verify_loop(pair: tuple[int, int], memories: Sequence[WindowMemory], reconstruct: Reconstruct, options: LoopOptions) -> Loop:
    """Try one pair of windows."""
    first, second = (memories[index] for index in pair)
    half = len(first.frames)
    estimates = []
    for swapped in (False, True):
        frames = [*second.frames, *first.frames] if swapped else [*first.frames, *second.frames]
        cut = len(frames) - half if swapped else half
        mixed = thin(reconstruct(frames))
        parts = mixed.frames(slice(0, cut)), mixed.frames(slice(cut, None))
        ours, theirs = parts[::-1] if swapped else parts
        try:
            fits = join_windows(first.geometry, ours, 2.0), join_windows(second.geometry, theirs, 2.0)
        except ValueError as error:
            return Loop(*pair, False, str(error))
        reason = _poor_fit(fits, options)
        if reason:
            return Loop(*pair, False, reason)
        estimates.append(_through_mixed(*fits))
    transforms, covariances = zip(*estimates, strict=True)
    points = second.geometry.points().flatten(0, 2)[second.geometry.depth.flatten() > 0]
    shift = _disagreement(transforms, points, first.geometry)
    between = transforms[0] @ sim3_exp(0.5 * sim3_log(sim3_inverse(transforms[0]) @ transforms[1]))
    # The fit does not know the network's own error; we estimate it from the difference of its two answers.
    spread = (shift * _mean_depth(first.geometry)) ** 2
    extra = torch.cat((torch.full((4,), shift**2).to(spread), spread.expand(3)))
    edge = Edge(*pair, between, torch.linalg.inv(0.5 * (covariances[0] + covariances[1]) + extra.diag()))
    if shift > options.max_disagreement:
        return Loop(*pair, False, f"the two orders disagree by {shift:.2f} of the distance", edge)
    overlap, agreement = view_agreement(first.geometry, second.geometry, between, options.depth_tolerance)
    if overlap < options.min_overlap:
        return Loop(*pair, False, f"only {overlap:.2f} of the points are seen by both", edge)
    if agreement < options.min_agreement:
        return Loop(*pair, False, f"depths agree in only {agreement:.2f} of what both see", edge)
    return Loop(*pair, True, "", edge)


def _poor_fit(fits: tuple[SimilarityFit, SimilarityFit], options: LoopOptions) -> str:
    residual, inliers = max(fit.residual for fit in fits), min(fit.inlier_share for fit in fits)
    if residual > options.max_residual:
        return f"pointmaps of the mixed window are off by {residual:.2f} of the distance"
    if inliers < options.min_inliers:
        return f"only {inliers:.2f} of the mixed window's points fit"
    return ""


def _through_mixed(ours: SimilarityFit, theirs: SimilarityFit) -> tuple[Tensor, Tensor]:
    """Second -> first window by way of the mixed one, with its covariance (7, 7)."""
    across = ours.transform @ sim3_inverse(theirs.transform)
    carry = sim3_adjoint(across)
    return across, torch.linalg.inv(ours.information) + carry @ torch.linalg.inv(theirs.information) @ carry.T


def _disagreement(transforms: tuple[Tensor, ...], points: Tensor, first: WindowGeometry) -> float:
    moved = [transform(similarity, points) for similarity in transforms]
    distance = (moved[0] - _middle_camera(first)[:3, 3]).norm(dim=-1)
    return float(((moved[0] - moved[1]).norm(dim=-1) / distance).median())


def view_agreement(
    first: WindowGeometry, second: WindowGeometry, second_to_first: Tensor, tolerance: float
) -> tuple[float, float]:
    """How well the second window's points lie on the surfaces that the first sees.

    Args:
        first, second: windows of any sizes.
        second_to_first: (4, 4) similarity.
        tolerance: relative difference of depth that counts as the same surface.

    Returns:
        overlap: share of the second's points that lie on a surface in some frame of the first; and agreement: these, over
        these and the points that float in front of a surface in a frame that sees through them.
    """
    known = (second.depth > 0) & (second.confidence > 0)
    points = transform(second_to_first, second.points()[known])  # (N, 3)
    height, width = first.depth.shape[1:]
    agrees = torch.zeros(len(points), dtype=torch.bool)
    floats = torch.zeros(len(points), dtype=torch.bool)
    to_camera = invert(first.poses.double())
    for index, depth in enumerate(first.depth.double()):
        seen = transform(to_camera[index], points)
        ahead = seen[:, 2] > 0
        pixel = project(torch.where(ahead[:, None], seen, torch.ones_like(seen)), first.intrinsics[index].double()).round().long()
        inside = ahead & (pixel >= 0).all(-1) & (pixel[:, 0] < width) & (pixel[:, 1] < height)
        there = depth[pixel[:, 1].clamp(0, height - 1), pixel[:, 0].clamp(0, width - 1)]
        inside &= there > 0
        ratio = seen[:, 2] / torch.where(there > 0, there, torch.ones_like(there))
        agrees |= inside & ((ratio - 1).abs() < tolerance)
        floats |= inside & (ratio < 1 - 2 * tolerance)
    both = int(agrees.sum())
    contradicted = int((floats & ~agrees).sum())
    return both / max(1, len(points)), both / max(1, both + contradicted)
