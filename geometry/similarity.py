"""Similarity transforms Sim(3) as 4x4 matrices [[s R, t], [0, 1]]: algebra, a chart, and a robust fit to matched points.

A tangent vector (..., 7) is (rotation vector in radians, log of the scale, translation).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from jog3r.geometry.cameras import check_tensors, hat, pose_from, so3_exp, so3_log, transform, umeyama_sim3
from jog3r.geometry.robust import geman_mcclure, weighted_median

MIN_POINTS = 16  # seven unknowns, with something left to tell inliers from outliers
CHI3_MEDIAN = 1.5382  # median length of a 3-vector whose components have standard deviation 1
_LEAST_SIGMA = 1e-5  # of a join's points, relative to their noise
EFFECTIVE_POINTS = 64.0  # errors of neighbouring pixels go together: a map tells no more than about so many independent points


def sim3(scale: Tensor, rotation: Tensor, translation: Tensor) -> Tensor:
    """Matrices (..., 4, 4) of scales (...,), rotations (..., 3, 3) and translations (..., 3)."""
    check_tensors(scale=scale, rotation=rotation, translation=translation)
    return pose_from(scale[..., None, None] * rotation, translation)


def sim3_parts(similarity: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scale (...,), rotation (..., 3, 3) and translation (..., 3) of matrices (..., 4, 4)."""
    check_tensors(similarity=similarity)
    linear = similarity[..., :3, :3]
    scale = linear.norm(dim=(-2, -1)) / 3**0.5
    return scale, linear / scale[..., None, None], similarity[..., :3, 3]


def sim3_inverse(similarity: Tensor) -> Tensor:
    """The inverse (..., 4, 4): T_a2b -> T_b2a."""
    scale, rotation, translation = sim3_parts(similarity)
    back = rotation.transpose(-1, -2)
    return sim3(1 / scale, back, -(back @ translation[..., None])[..., 0] / scale[..., None])


def sim3_exp(tangent: Tensor) -> Tensor:
    """Similarities (..., 4, 4) of tangent vectors (..., 7): a chart around the identity, not the group's exponential.

    The translation is taken as it is; to first order, and at the identity, the two are the same.
    """
    check_tensors(tangent=tangent)
    return sim3(tangent[..., 3].exp(), so3_exp(tangent[..., :3]), tangent[..., 4:])


def sim3_log(similarity: Tensor) -> Tensor:
    """Tangent vectors (..., 7) of similarities (..., 4, 4); the inverse of `sim3_exp`."""
    scale, rotation, translation = sim3_parts(similarity)
    return torch.cat((so3_log(rotation), scale.log()[..., None], translation), dim=-1)


def sim3_adjoint(similarity: Tensor) -> Tensor:
    """Matrices A (..., 7, 7) with T exp(x) T^-1 = exp(A x) to first order: tangent vectors in a -> in b for T_a2b."""
    scale, rotation, translation = sim3_parts(similarity)
    adjoint = similarity.new_zeros(*similarity.shape[:-2], 7, 7)
    adjoint[..., :3, :3] = rotation
    adjoint[..., 3, 3] = 1
    adjoint[..., 4:, :3] = hat(translation) @ rotation
    adjoint[..., 4:, 3] = -translation
    adjoint[..., 4:, 4:] = scale[..., None, None] * rotation
    return adjoint


def move_cameras(similarity: Tensor, poses: Tensor) -> Tensor:
    """Camera-to-a poses (..., 4, 4) under T_a2b (..., 4, 4) -> camera-to-b poses; rigid: depths grow by the scale instead."""
    check_tensors(similarity=similarity, poses=poses)
    _, rotation, _ = sim3_parts(similarity)
    return pose_from(rotation @ poses[..., :3, :3], transform(similarity, poses[..., :3, 3]))


@dataclass(frozen=True)
class SimilarityFit:
    """A similarity fitted to matched points; float64."""

    transform: Tensor
    """(4, 4) source -> target."""
    information: Tensor
    """(7, 7) inverse covariance of x in exp(x) @ transform; neighbouring pixels counted as correlated."""
    residual: float
    """Standard deviation per axis of the inliers, in units of the `noise` given."""
    inlier_share: float
    """Share of the weight within three standard deviations per axis, 0..1."""


def fit_similarity(
    source: Tensor,  # (N, 3)
    target: Tensor,  # (N, 3)
    weights: Tensor,  # (N,)
    noise: Tensor | None = None,  # (N,)
    *,
    max_iterations: int = 60,
) -> SimilarityFit:
    """The similarity source -> target of matched points, of which up to 45 % may be wrong.

    Graduated non-convexity (Yang et al., RA-L 2020) over closed-form steps (Umeyama 1991) with Geman-McClure weights. The scale
    is the ratio of the spreads, which treats both sides alike: a least-squares scale shrinks with the noise of the source, and
    in a chain of joins this would add up.

    Args:
        source: points in a.
        target: the same points in b.
        weights: >= 0, relative trust in each; 0 leaves a point out.
        noise: > 0, relative standard deviation of each point in b; for pointmaps their distance from the camera. None: all alike.
        max_iterations: closed-form steps.

    Raises:
        TypeError: points, weights or noise that are no tensors.
        ValueError: shapes that do not go together; fewer than 16 usable points; points all in one place or on one line.
    """
    check_tensors(source=source, target=target, weights=weights, noise=weights if noise is None else noise)
    if source.shape != target.shape or source.dim() != 2 or source.shape[-1] != 3 or weights.shape != source.shape[:1]:
        raise ValueError(
            "source and target must be (N, 3) and weights (N,), got "
            f"{tuple(source.shape)}, {tuple(target.shape)} and {tuple(weights.shape)}"
        )
    source, target, weights = source.double(), target.double(), weights.double()
    noise = torch.ones_like(weights) if noise is None else noise.double()
    usable = (weights > 0) & (noise > 0) & torch.isfinite(source).all(-1) & torch.isfinite(target).all(-1)
    usable &= torch.isfinite(weights) & torch.isfinite(noise)
    if int(usable.sum()) < MIN_POINTS:
        raise ValueError(f"a similarity needs at least {MIN_POINTS} matched points with a weight, got {int(usable.sum())}")
    source, target, weights, noise = (values[usable] for values in (source, target, weights, noise))
    similarity, control = None, torch.tensor(torch.inf, dtype=torch.float64)
    robust = torch.ones_like(weights)
    for _ in range(max_iterations):
        previous, similarity = similarity, _closed_form(source, target, robust * weights / noise**2)
        lengths = (target - transform(similarity, source)).norm(dim=-1) / noise
        sigma = weighted_median(lengths, weights).clamp(min=1e-9) / CHI3_MEDIAN
        floor = (4 * sigma) ** 2
        control = torch.minimum(control, lengths.max() ** 2)
        done = previous is not None and bool(control <= floor) and bool((similarity - previous).abs().amax() < 1e-10)
        if done:
            break
        control = torch.maximum(control / 1.6, floor)
        robust = geman_mcclure(lengths**2, control.to(lengths))
    inside = lengths < 3 * 3**0.5 * sigma
    share = float((weights * inside).sum() / weights.sum())
    return SimilarityFit(similarity, _information(similarity, source, robust * weights, noise, sigma), float(sigma), share)


def _closed_form(source: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    _, rotation, _ = umeyama_sim3(source, target, weights)
    share = (weights / weights.sum())[:, None]
    means = [(share * points).sum(0) for points in (source, target)]
    spreads = [(share * (points - mean) ** 2).sum().sqrt() for points, mean in zip((source, target), means, strict=True)]
    if not bool(spreads[0] > 0) or not bool(spreads[1] > 0):
        raise ValueError("all matched points lie in one place: their similarity is not determined")
    scale = spreads[1] / spreads[0]
    return sim3(scale, rotation, means[1] - scale * rotation @ means[0])


def _information(similarity: Tensor, source: Tensor, weights: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    moved = transform(similarity, source)  # (N, 3)
    jacobian = torch.cat(
        (-hat(moved), moved[..., None], torch.eye(3).to(moved).expand(len(moved), 3, 3)), dim=-1
    )  # (N, 3, 7): d (exp(x) moved) / dx
    # Copies of the same points fit exactly, and such certainty beside ordinary joins is beyond what float64 can solve for.
    strength = weights / weights.sum() * min(EFFECTIVE_POINTS, len(moved)) / (noise * sigma.clamp(min=_LEAST_SIGMA)) ** 2
    information = torch.einsum("n,nij,nik->jk", strength, jacobian, jacobian)
    spread = torch.linalg.eigvalsh(information[:3, :3] - _about_centre(information))
    if not bool(spread[0] > 1e-9 * spread[-1]):
        raise ValueError("the matched points lie on one line: their similarity is not determined")
    return information


def _about_centre(information: Tensor) -> Tensor:
    """What the translation explains of the rotation block: without it, points on a line seem to fix the rotation about it."""
    cross = information[:3, 4:]
    return cross @ torch.linalg.solve(information[4:, 4:], cross.T)
