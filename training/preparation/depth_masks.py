"""Which depth is to be believed, and whether depth and cameras agree across frames.

Letters: F frames, H W pixels. Depth is z; poses are camera-to-world.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite, log
from typing import Any

import torch
from torch import Tensor

from jog3r.data.cache import CachedFrames
from jog3r.geometry.cameras import compose, invert, project, transform, unproject
from jog3r.geometry.depth_maps import away_from_jumps, sample_depth
from jog3r.geometry.reprojection import inside_image

__all__ = [
    "DepthChecks",
    "ModelledDepth",
    "agreement_mask",
    "depth_agreement",
    "disagreement",
    "is_constant",
    "known_depth",
    "median_disagreement",
    "pose_scale",
]


logger = logging.getLogger(__name__)
TRUNCATION = 0.1  # of disagreements in ln z when the scale of a path is sought
LONG_PATH = 3.0  # in median depths: frames that overlap though the path were this long are safely close to each other


@dataclass(frozen=True)
class DepthChecks:
    """Which known depth is not to be believed when pointmaps are made of it.

    Attributes:
        edge_threshold: drop pixels at jumps of more than this in ln z; None keeps them. See
            `geometry.depth_maps.away_from_jumps`.
        agreement_threshold: drop pixels that a neighbouring frame contradicts by more than this in ln z; None keeps them. See
            `agreement_mask`.
    """

    edge_threshold: float | None = 0.1
    agreement_threshold: float | None = None

    def apply(self, depth: Tensor, valid: Tensor, intrinsics: Tensor, poses: Tensor) -> Tensor:
        """The valid (F, H, W) pixels that pass; depth (F, H, W), intrinsics (F, 3, 3), poses (F, 4, 4)."""
        kept = valid
        if self.agreement_threshold is not None:
            kept = agreement_mask(depth, valid, intrinsics, poses, self.agreement_threshold)
        return kept if self.edge_threshold is None else kept & away_from_jumps(depth, valid, self.edge_threshold)


def known_depth(depth: Tensor, max_depth: float | None = None) -> Tensor:
    """Where depth (...) is a number above 0 and at most `max_depth`, if given: the sky has none, infinity, or far too much."""
    known = depth.isfinite() & (depth > 0)
    return known if max_depth is None else known & (depth <= max_depth)


def disagreement(
    depth: Tensor,
    valid: Tensor,
    intrinsics: Tensor,
    poses: Tensor,
    source: int | list[int],
    target: int | list[int],
    step: int = 1,
) -> Tensor:
    """How much the depth of one frame contradicts that of another: |ln z seen - ln z expected|.

    Args:
        depth, valid: (F, H, W).
        intrinsics: (F, 3, 3).
        poses: (F, 4, 4).
        source: frame whose points are looked at, or one for each of P pairs ...
        target: ... from this one.
        step: take every `step`-th pixel.

    Returns:
        (H / step, W / step), with P in front for pairs; NaN where the pixel or its counterpart is unknown or out of view.
    """
    expected, seen, known = _visit(depth, valid, intrinsics, poses, source, target, step)
    return torch.where(known, (seen.clamp(min=1e-12).log() - expected.clamp(min=1e-12).log()).abs(), torch.nan)


def agreement_mask(depth: Tensor, valid: Tensor, intrinsics: Tensor, poses: Tensor, threshold: float = 0.1) -> Tensor:
    """Valid pixels that no neighbouring frame contradicts: there, ln z differs by at most `threshold`.

    Pixels that no neighbour sees, or that something nearer hides, stay; pixels that a neighbour looks *through* go.

    Returns:
        (F, H, W) bool.
    """
    if not threshold > 0:
        raise ValueError(f"threshold must be positive, got {threshold}")
    kept = valid.clone()
    count = depth.shape[0]
    for frame in range(count):
        for other in (frame - 1, frame + 1):
            if 0 <= other < count:
                expected, seen, known = _visit(depth, valid, intrinsics, poses, frame, other)
                looked_through = (seen.clamp(min=1e-12).log() - expected.clamp(min=1e-12).log()) > threshold
                kept[frame] &= ~(known & looked_through)
    return kept


def median_disagreement(depth: Tensor, valid: Tensor, intrinsics: Tensor, poses: Tensor, max_pixels: int = 2048) -> float | None:
    """How well depth and cameras of a video agree: the median |ln z seen - ln z expected| over frames a quarter of it apart.

    Args:
        depth, valid: (F, H, W).
        intrinsics: (F, 3, 3).
        poses: (F, 4, 4).
        max_pixels: of each frame, on a regular grid.

    Returns:
        0.02 where half of the pixels are off by more than 2 %; None where no frame sees what another one does.
    """
    step = max(1, int((depth.shape[1] * depth.shape[2] / max_pixels) ** 0.5))
    last = depth.shape[0] - 1
    stops = sorted({last * part // 4 for part in range(5)})
    pairs = [pair for one, other in pairwise(stops) for pair in ((one, other), (other, one))]
    if not pairs:
        return None
    sources, targets = (list(frames) for frames in zip(*pairs, strict=True))
    errors = disagreement(depth, valid, intrinsics, poses, sources, targets, step)
    errors = errors[errors.isfinite()]
    return float(errors.median()) if len(errors) else None


def is_constant(depth: Tensor, valid: Tensor) -> bool:
    """Whether depth (F, H, W) says the same everywhere it is valid, to a part in ten thousand: no scene does."""
    known = depth[valid]
    return bool(known.max() <= known.min() * (1 + 1e-4))


def depth_agreement(name: str, frames: CachedFrames) -> dict[str, Any]:
    """What a report says of the depth of the video `name`; one that is the same everywhere is named at once."""
    arrays = (frames.depth, frames.valid, frames.intrinsics, frames.poses)
    depth, valid, intrinsics, poses = (torch.from_numpy(array) for array in arrays)
    found = median_disagreement(depth, valid, intrinsics, poses)
    facts: dict[str, Any] = {"disagreement": None if found is None else float(f"{found:.3g}")}
    if valid.any() and is_constant(depth, valid):
        facts["constant_depth"] = float(f"{depth[valid][0]:.3g}")
        text = "the depth of %r is %g in all pixels of all frames, which teaches nothing: is the depth model a trained one?"
        logger.warning(text, name, facts["constant_depth"])
    return facts


def pose_scale(depth: Tensor, valid: Tensor, intrinsics: Tensor, poses: Tensor, max_pixels: int = 2048) -> float:
    """The factor by which translations have to be multiplied to fit depth in another unit (SfM cameras, metric depth).

    The factor that minimises the truncated disagreement |ln z seen - ln z expected| over pairs of frames, by a grid of factors
    refined twice. Both scales being free, it is sought around (median depth) / (extent of the path), from 1/1000 to 10 times.
    The pairs are as far apart as frames overlap: where the camera turns away, closer ones are taken.

    Args:
        depth, valid: (F, H, W).
        intrinsics: (F, 3, 3).
        poses: (F, 4, 4).
        max_pixels: of each frame, on a regular grid.

    Returns:
        The factor, 1 when the camera does not move or nothing is known.

    Raises:
        ValueError: not even frames a sixteenth of the video apart overlap enough.
    """
    centres = poses[:, :3, 3]
    extent = float((centres - centres[0]).norm(dim=-1).max())
    if extent == 0 or not bool(valid.any()):
        return 1.0
    step = max(1, int((depth.shape[1] * depth.shape[2] / max_pixels) ** 0.5))
    centre = float(torch.log(depth[valid].median() / extent))
    choices = _pairs_ever_closer(depth.shape[0] - 1)
    for pairs in choices:
        # Shares are of known pixels: a video with much sky overlaps no less for it.
        sources, targets = (list(frames) for frames in zip(*pairs, strict=True))
        num_known = int(valid[sources, ::step, ::step].sum())

        def cost(logarithm: float, sources: list = sources, targets: list = targets, num_known: int = num_known) -> float:
            scaled = poses.clone()
            scaled[:, :3, 3] *= float(torch.tensor(logarithm).exp())
            errors = disagreement(depth, valid, intrinsics, scaled, sources, targets, step)
            errors = errors[errors.isfinite()]
            # A factor that sends nearly everything out of view could agree on the little that is left.
            if len(errors) < max(1, 0.2 * num_known):
                return float("inf")
            # Truncated: what is hidden in the other frame disagrees at any factor.
            return float(errors.clamp(max=TRUNCATION).mean())

        # Of the closest pairs there is no choice any more: two frames that are all of a video need not overlap on any path.
        overlap_to = centre + log(LONG_PATH) if pairs is not choices[-1] else centre - 6.9
        best = _lowest(cost, centre - 6.9, centre + 2.3, overlap_to)
        if best is not None:
            return float(torch.tensor(best).exp())
    raise ValueError("too little of a frame is seen in others to bring its cameras to the unit of the depth (align_scale)")


def _pairs_ever_closer(last: int) -> list[list[tuple[int, int]]]:
    """Pairs of frames 0 to `last`: over the whole video first, then both directions of neighbours 1/2, ... 1/16 of it apart."""
    pairs = {(0, last), (last, 0), (0, last // 2), (last // 2, last), (last // 4, 3 * last // 4)}
    choices = [sorted(pair for pair in pairs if pair[0] != pair[1])]
    for parts in (2, 4, 8, 16):
        if parts <= last:
            stops = [last * part // parts for part in range(parts + 1)]  # no gaps: wherever the camera moves, a pair sees it
            choices.append([pair for one, other in pairwise(stops) for pair in ((one, other), (other, one))])
    return choices


def _lowest(cost: Callable[[float], float], low: float, high: float, finite_to: float) -> float | None:
    """Where between `low` and `high` the cost is lowest.

    None if it is infinite anywhere from `low` to `finite_to` or to beside the lowest: what is lower may hide there.
    """
    best = low
    for points in (32, 13, 13):
        grid = torch.linspace(low, high, points).tolist()
        costs = [cost(value) for value in grid]
        place = costs.index(min(costs))
        if points == 32 and not all(isfinite(costs[i]) for i in range(points) if i <= place + 1 or grid[i] <= finite_to):
            return None
        best, spacing = grid[place], (high - low) / (points - 1)
        low, high = best - spacing, best + spacing
    return best


def _visit(
    depth: Tensor,
    valid: Tensor,
    intrinsics: Tensor,
    poses: Tensor,
    source: int | list[int],
    target: int | list[int],
    step: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """Every `step`-th pixel of frame `source` seen from frame `target`, or those of P pairs.

    Returns:
        z (h, w) expected there, z that frame has there (bilinear in 1/z), and where all of that is known; (P, h, w) of pairs.
    """
    height, width = depth.shape[-2:]
    coarse = intrinsics[source] / intrinsics.new_tensor([[step], [step], [1]])  # of every step-th pixel
    points = unproject(depth[source][..., ::step, ::step], coarse)  # (..., h, w, 3)
    points = transform(compose(invert(poses[target]), poses[source]), points)
    pixels = project(points, intrinsics[target])
    known = valid[source][..., ::step, ::step] & (points[..., 2] > 0) & inside_image(pixels, height, width)
    pixels = torch.where(known[..., None], pixels, torch.zeros_like(pixels))
    frames = torch.as_tensor(target, device=depth.device)[..., None, None].expand(known.shape)
    seen = sample_depth(depth, valid, pixels, frames)
    return points[..., 2], seen, known & ~seen.isnan()


@dataclass(frozen=True)
class ModelledDepth:
    """Depth of a video or clip by a metric depth model, and its cameras in the unit of that depth.

    Attributes:
        model: frames (F,H,W,3) uint8 to depth (F,H,W).
        max_depth: what is farther is unknown.
        align_scale: whether translations are brought to the unit of the depth, by one factor.
    """

    model: Any
    max_depth: float
    align_scale: bool

    def __call__(self, frames: Tensor, intrinsics: Tensor, poses: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Depth (F,H,W), which of it is known, and the poses (F,4,4), of frames (F,H,W,3) uint8 with intrinsics (F,3,3).

        Raises:
            ValueError: the model gives no depth at all, or the factor cannot be found.
        """
        depth = self.model(frames)
        valid = known_depth(depth, self.max_depth)
        if not valid.any():
            raise ValueError(f"the depth model gives no depth above 0 and at most max_depth={self.max_depth:g}")
        if self.align_scale:
            poses = poses.clone()
            poses[:, :3, 3] *= pose_scale(depth, valid, intrinsics, poses)
        return depth, valid, poses
