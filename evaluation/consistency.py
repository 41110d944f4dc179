"""3D consistency of a video: MEt3R in JOG3R's form and in the public package's form, motion beside it, and an outside judge.

Three figures that must not share a column:
- `met3r_self`, JOG3R's score (arXiv 2501.01409): features of each frame are carried to frame 1 by the model's OWN pointmaps. The
  paper prints 0.07 to 0.09. The model judges itself, and a frozen video wins: `motion` belongs beside it.
- `met3r_pairs`, the score of the public met3r package (arXiv 2501.06336): both views of a pair are splatted with one estimated
  camera. The package prints 0.22 to 0.35 with its own pointmaps and features.
- `warp_error`, photometric, with geometry from outside: true depth and poses of synthetic scenes.

Letters: F frames, B pairs, C channels, H W pixels, h w feature cells. Lower is better everywhere.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from jog3r.evaluation.splatting import Splat, splat_points
from jog3r.geometry.cameras import pixel_grid, project
from jog3r.geometry.reprojection import OCCLUSION_TOLERANCE, inside_image, seen_from_first

FeatureFunction: TypeAlias = Callable[[Tensor], Tensor]

MET3R_RADIUS_NDC = 0.01  # the package's default; made for 256 pixels, where it is 1.28 pixels
SELF_RADIUS_PX = 1.28  # the same disc at every size
_MET3R_MIN_CONFIDENCE = 0.999  # confidences start at 1; the package subtracts this before weighting
_VERSIONS = {"1.0.1": (1e-5, 1e-5), "1.0": (1e-3, 1e-6)}  # epsilon of the cosine, epsilon of the mean


@dataclass(frozen=True)
class SelfConsistency:
    """Result of `met3r_self`.

    Attributes:
        score: mean over frames 2..F of `per_frame`; frames that share nothing with frame 1 are left out; NaN if all are.
        per_frame (F-1,): visibility-weighted cosine distance, 0 to 2; NaN for a frame nothing of which is seen in frame 1.
        visibility (F-1,): share of frame 1 that the frame covers.
        motion: `video_motion` of the same frames.
    """

    score: float
    per_frame: np.ndarray
    visibility: np.ndarray
    motion: dict[str, float]


@dataclass(frozen=True)
class PairConsistency:
    """Result of `met3r_pairs`: `score` (B,), `score_map` (B,H,W), `overlap_mask` (B,H,W) bool, `focal_ndc` (B,2)."""

    score: Tensor
    score_map: Tensor
    overlap_mask: Tensor
    focal_ndc: Tensor


def met3r_self(
    frames: Tensor | np.ndarray,
    pointmaps: Tensor | np.ndarray,
    intrinsics: Tensor | np.ndarray,
    features: FeatureFunction | None = None,
    radius_px: float = SELF_RADIUS_PX,
    valid: Tensor | np.ndarray | None = None,
) -> SelfConsistency:
    """JOG3R's consistency score of one clip.

    The features of frame f ride on its points, which are projected into frame 1 and splatted there; a pixel of frame 1 counts by
    how much of it the points cover, and not at all where the nearest point lies behind frame 1's own surface (occluded).

    Args:
        frames (F,H,W,3): uint8, or float in 0..1.
        pointmaps (F,H,W,3): in frame 1's camera, as the pipeline gives them.
        intrinsics (F,3,3): pixels.
        features: maps (F,3,H,W) in 0..1 to (F,C,h,w), e.g. `load_features(...).dense`; upsampled bilinearly. None: the colours
            and a constant, (r, g, b, 1), so that brightness counts and black equals black: bare colours have angles only.
        radius_px: radius of a point's disc.
        valid (F,H,W): bool, where the pointmap is known, e.g. depth > 0; None: where it is finite. Points behind frame 1's camera
            never count.

    Raises:
        ValueError: shapes that do not fit, fewer than two frames, features that are not (F,C,h,w).
    """
    points = _tensor(pointmaps).float()
    video = as_video(frames).to(points.device)  # (F,3,H,W)
    cameras = _tensor(intrinsics).float().to(points.device)
    num_frames, _, height, width = video.shape
    if points.shape != (num_frames, height, width, 3) or cameras.shape != (num_frames, 3, 3) or num_frames < 2:
        raise ValueError(
            f"need F >= 2 frames with pointmaps (F,H,W,3) and intrinsics (F,3,3), got frames {tuple(video.shape)}, "
            f"pointmaps {tuple(points.shape)}, intrinsics {tuple(cameras.shape)}"
        )
    known = _known(points, valid)  # (F,H,W)
    maps = torch.cat((video, torch.ones_like(video[:, :1])), 1) if features is None else features(video).to(points.device)
    if maps.dim() != 4 or len(maps) != num_frames:
        raise ValueError(f"features must return (F,C,h,w) with F = {num_frames}, got {tuple(maps.shape)}")
    maps = _upsample(maps.float(), height, width)  # (F,C,H,W)
    distances, visibilities = [], []
    for f in range(1, num_frames):
        splat = _carry(points[f], maps[f], known[f], cameras[0], radius_px)
        seen = known[0] & (splat.depth <= points[0, ..., 2] * (1 + OCCLUSION_TOLERANCE))  # (H,W)
        weight = splat.coverage * seen
        distance = 1 - functional.cosine_similarity(splat.values, maps[0].permute(1, 2, 0), dim=-1)  # (H,W)
        total = weight.sum()
        distances.append(float((weight * distance).sum() / total) if total > 0 else float("nan"))
        visibilities.append(float(weight.mean()))
    per_frame = np.array(distances)
    score = float(np.nanmean(per_frame)) if np.isfinite(per_frame).any() else float("nan")
    return SelfConsistency(score, per_frame, np.array(visibilities), video_motion(video, points, cameras, known))


def met3r_pairs(
    features: Tensor,
    pointmaps: Tensor,
    confidence: Tensor,
    *,
    upsampling: Literal["bilinear", "nearest"] = "bilinear",
    radius_ndc: float = MET3R_RADIUS_NDC,
    version: Literal["1.0.1", "1.0"] = "1.0.1",
) -> PairConsistency:
    """The public met3r package's score from given features and pointmaps, its quirks included.

    The focal length is a median over the confidence-weighted mean of BOTH views' pointmaps, read pixel by pixel; it enters the
    camera as "1 + f / width", right only for f = width; there is no occlusion test; the radius suits 256 pixels (at 64 hardly any
    pixel overlaps, raise it). FeatUp's learnt upsampling, which the package uses by default, is not covered.

    Args:
        features (B,2,C,h,w): of both views.
        pointmaps (B,2,H,W,3): both in view 1's camera.
        confidence (B,2,H,W): DUSt3R's, from 1 up.
        upsampling: how features reach H, W.
        radius_ndc: radius of a point's disc; the shorter side of the picture is 2.
        version: "1.0.1" or "1.0", which differ in their epsilons.

    Raises:
        ValueError: shapes that do not fit, an unknown version.
    """
    if version not in _VERSIONS:
        raise ValueError(f"version must be one of {', '.join(_VERSIONS)}, got {version!r}")
    if pointmaps.dim() != 5 or pointmaps.shape[1] != 2 or features.dim() != 5 or features.shape[:2] != pointmaps.shape[:2]:
        raise ValueError(f"need features (B,2,C,h,w) and pointmaps (B,2,H,W,3), got {features.shape} and {pointmaps.shape}")
    if confidence.shape != pointmaps.shape[:-1]:
        raise ValueError(f"confidence must have shape {tuple(pointmaps.shape[:-1])}, got {tuple(confidence.shape)}")
    points, (batch, _, height, width, _) = pointmaps.float(), pointmaps.shape
    focal = _met3r_focal_ndc(points, confidence.float())  # (B,2)
    maps = _upsample(features.flatten(0, 1).float(), height, width, upsampling).unflatten(0, (batch, 2))  # (B,2,C,H,W)
    cosine_epsilon, mean_epsilon = _VERSIONS[version]
    scores, score_maps, masks = [], [], []
    for b in range(batch):
        a, c = (_splat_ndc(points[b, v], maps[b, v], focal[b], radius_ndc) for v in range(2))
        product = (a.values * c.values).sum(-1)  # (H,W)
        score_map = 1 - product / (a.values.norm(dim=-1) * c.values.norm(dim=-1) + cosine_epsilon)
        mask = a.hit & c.hit
        scores.append((score_map * mask).sum() / (mask.sum() + mean_epsilon))
        score_maps.append(score_map)
        masks.append(mask)
    return PairConsistency(torch.stack(scores), torch.stack(score_maps), torch.stack(masks), focal)


def video_motion(
    frames: Tensor | np.ndarray,
    pointmaps: Tensor | np.ndarray | None = None,
    intrinsics: Tensor | np.ndarray | None = None,
    valid: Tensor | np.ndarray | None = None,
) -> dict[str, float]:
    """How much a clip moves, to be read beside any consistency score (a frozen video is perfectly consistent).

    Returns:
        `frame_difference`: mean absolute difference of frames 2..F to frame 1, on the scale 0..255; with pointmaps (F,H,W,3) and
        intrinsics (F,3,3) also `flow_px`: mean distance in pixels between a pixel of frame f and the place in frame 1 its point
        projects to, over points in front of the camera that land in the picture; `valid` as in `met3r_self`.
    """
    video = as_video(frames)
    motion = {"frame_difference": float((video[1:] - video[:1]).abs().mean() * 255)}
    if pointmaps is None or intrinsics is None:
        return motion
    points = _tensor(pointmaps).float()
    cameras = _tensor(intrinsics).float().to(points.device)
    height, width = video.shape[-2:]
    pixels = project(points[1:], cameras[:1].expand(len(points) - 1, 3, 3))  # (F-1,H,W,2)
    landed = _known(points, valid)[1:] & inside_image(pixels, height, width)
    flow = (pixels - pixel_grid(height, width, device=points.device)).norm(dim=-1)  # (F-1,H,W)
    motion["flow_px"] = float(flow[landed].mean()) if landed.any() else float("nan")
    return motion


def warp_error(
    frames: Tensor | np.ndarray,
    depth: Tensor | np.ndarray,
    poses: Tensor | np.ndarray,
    intrinsics: Tensor | np.ndarray,
    valid: Tensor | np.ndarray | None = None,
) -> dict[str, float]:
    """Photometric error after warping every frame to frame 1 with given geometry, e.g. the true one of a synthetic scene.

    For each pixel of frame 1: where its point lies in frame f, the colour there (bilinear) is compared with its own, unless the
    point falls outside or is hidden in frame f.

    Args:
        frames (F,H,W,3): uint8, or float in 0..1.
        depth (F,H,W), poses (F,4,4) camera-to-world, intrinsics (F,3,3) pixels: the judge's geometry.
        valid (F,H,W): where depth is known; None: everywhere.

    Returns:
        `warp` and `no_warp`, mean absolute differences on 0..255 over the same pixels with and without the warp; `ratio`, their
        quotient (1: warping did not help; NaN where nothing is seen or nothing moves); `visible`, the share of pixels compared.
    """
    depths = _tensor(depth).float()
    video = as_video(frames).to(depths.device)
    cam_to_world, cameras = (_tensor(value).float().to(depths.device) for value in (poses, intrinsics))
    num_frames, _, height, width = video.shape
    if depths.shape != (num_frames, height, width) or cam_to_world.shape != (num_frames, 4, 4) or num_frames < 2:
        raise ValueError(
            f"need F >= 2 frames with depth (F,H,W) and poses (F,4,4), got {tuple(video.shape)}, "
            f"{tuple(depths.shape)} and {tuple(cam_to_world.shape)}"
        )
    known = None if valid is None else _tensor(valid).bool().to(depths.device)
    carried, seen = seen_from_first(video, depths, cam_to_world, cameras, known)  # (F-1,3,H,W), (F-1,H,W)
    if not seen.any():
        return {"warp": float("nan"), "no_warp": float("nan"), "ratio": float("nan"), "visible": 0.0}
    warped = (carried - video[:1]).abs().mean(1)[seen].mean() * 255
    unwarped = (video[1:] - video[:1]).abs().mean(1)[seen].mean() * 255
    ratio = float(warped / unwarped) if unwarped > 0 else float("nan")
    return {"warp": float(warped), "no_warp": float(unwarped), "ratio": ratio, "visible": float(seen.float().mean())}


def as_video(frames: Tensor | np.ndarray) -> Tensor:
    """(F,3,H,W) float32 in 0..1 of frames (F,H,W,3), uint8 or float in 0..1, or of what is (F,3,H,W) float already.

    Raises:
        ValueError: another shape, or float values outside 0..1.
    """
    video = _tensor(frames)
    if video.dim() != 4 or (video.shape[-1] != 3 and video.shape[1] != 3):
        raise ValueError(f"frames must have shape (F,H,W,3), got {tuple(video.shape)}")
    if video.shape[-1] == 3:
        video = video.permute(0, 3, 1, 2)
    if video.dtype == torch.uint8:
        return video.float() / 255
    if not (video.min() >= -1e-3 and video.max() <= 1 + 1e-3):
        raise ValueError(f"float frames must lie in 0..1, got {float(video.min()):.3g} to {float(video.max()):.3g}")
    return video.float().clamp(0, 1)


def _known(points: Tensor, valid: Tensor | np.ndarray | None) -> Tensor:
    """Mask (F,H,W) of the points (F,H,W,3) that are finite, in front of the camera and, where somebody knows it, valid."""
    known = torch.isfinite(points).all(-1) & (points[..., 2] > 0)
    if valid is None:
        return known
    mask = _tensor(valid).bool().to(points.device)
    if mask.shape != known.shape:
        raise ValueError(f"valid must have shape {tuple(known.shape)}, got {tuple(mask.shape)}")
    return known & mask


def _carry(points: Tensor, maps: Tensor, known: Tensor, intrinsics: Tensor, radius_px: float) -> Splat:
    """Features (C,H,W) carried by the known points of (H,W,3) into the camera that the points are expressed in."""
    _, height, width = maps.shape
    usable = known.flatten()
    flat, values = points.flatten(0, 1)[usable], maps.flatten(1).T[usable]  # (N,3), (N,C)
    return splat_points(project(flat, intrinsics), flat[:, 2], values, height, width, radius_px)


def _met3r_focal_ndc(pointmaps: Tensor, confidence: Tensor) -> Tensor:
    """The package's focal lengths (B,2): 1 + f / size, f the median of u z / x and of v z / y over the merged pointmap."""
    _, _, height, width, _ = pointmaps.shape
    weight = (confidence - _MET3R_MIN_CONFIDENCE)[..., None]  # (B,2,H,W,1)
    merged = (weight * pointmaps).sum(1) / weight.sum(1)  # (B,H,W,3)
    size = merged.new_tensor([width, height])
    centred = pixel_grid(height, width, device=merged.device) - size / 2  # (H,W,2)
    focal = (centred * merged[..., 2:] / merged[..., :2]).flatten(1, 2)  # (B,H*W,2)
    return 1 + focal.nanmedian(dim=1).values / size


def _splat_ndc(points: Tensor, maps: Tensor, focal_ndc: Tensor, radius_ndc: float) -> Splat:
    """Splat with a camera in PyTorch3D's normalised coordinates: the shorter side spans 2, pixel centres lie half a pixel in."""
    _, height, width = maps.shape
    half = min(height, width) / 2  # pixels per unit
    flat = points.flatten(0, 1)  # (H*W,3)
    pixels = focal_ndc * flat[:, :2] / flat[:, 2:] * half + flat.new_tensor([(width - 1) / 2, (height - 1) / 2])
    return splat_points(pixels, flat[:, 2], maps.flatten(1).T, height, width, radius_ndc * half)


def _upsample(maps: Tensor, height: int, width: int, mode: str = "bilinear") -> Tensor:
    if maps.shape[-2:] == (height, width):
        return maps
    return functional.interpolate(maps, (height, width), mode=mode, **({} if mode == "nearest" else {"align_corners": False}))


def _tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.as_tensor(value)
