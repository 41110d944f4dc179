"""Synthetic registration problems with known truth: a room with balls, a moving camera, noisy pairwise pointmaps.

Every kind of error that a pointmap network makes can be switched on by itself: white noise, noise that is correlated over the
image, gross outliers, confidences that are wrong, moving objects, maps that are biased. Used by the tests and by
`benchmarks/registration.py`.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jog3r.geometry.cameras import (
    intrinsics_from_focal,
    invert,
    pixel_rays,
    pose_from,
    relative_poses,
    so3_exp,
    transform,
    unproject,
)


@dataclass(frozen=True)
class SceneOptions:
    """A scene; lengths in units of the room, whose half width is 4."""

    seed: int = 0
    height: int = 64
    width: int = 64
    num_frames: int = 16
    path: str = "lateral"  # lateral | orbit | dolly | handheld | still | turn
    focal_rel: float = 0.9  # focal length / width
    noise: float = 0.02  # standard deviation of a point relative to its depth
    correlated: float = 0.35  # share of the noise's variance that is smooth over the image
    smoothness_px: float = 0.09  # correlation length as a share of the width
    depth_noise: float = 1.0  # how much larger the errors are along the host's rays than across
    outliers: float = 0.05  # share of pixels with gross errors
    depth_outliers: float = 0.0  # share of pixels whose distance alone is wrong, by a factor of 0.3 to 1.7
    scale_jitter: float = 0.2  # standard deviation of the log scale of a pair
    confidence: str = "informative"  # informative | constant | random | inverted
    moving: float = 0.0  # share of each frame covered by an object that moves by itself
    flat: bool = False  # a single wall in place of the room
    graph: str = "star"  # star | chain | window


@dataclass(frozen=True)
class Scene:
    """Inputs of `register_pointmaps` and the truth."""

    anchor_pointmaps: Tensor  # (P, H, W, 3)
    anchor_confidence: Tensor  # (P, H, W)
    pointmaps: Tensor  # (P, H, W, 3)
    confidence: Tensor  # (P, H, W)
    pairs: Tensor  # (P, 2)
    poses: Tensor  # (F, 4, 4), the first is the identity
    intrinsics: Tensor  # (F, 3, 3)
    depth: Tensor  # (F, H, W)
    pair_scale: Tensor  # (P,) the pair's points are the true ones times this
    noise_std: tuple[Tensor, Tensor]  # (P, H, W) per component of the inliers, first and second maps, true length unit

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, int]:
        """Positional arguments of `register_pointmaps`."""
        maps = (self.anchor_pointmaps, self.anchor_confidence, self.pointmaps, self.confidence)
        return (*(value.float() for value in maps), self.pairs, self.poses.shape[0])


def make_scene(options: SceneOptions | None = None, **changes: object) -> Scene:
    """Draw a scene; the same options give the same tensors."""
    options = replace(options or SceneOptions(), **changes)
    rng = torch.Generator().manual_seed(options.seed)
    poses = _trajectory(options, rng)
    intrinsics = intrinsics_from_focal(
        torch.full((options.num_frames,), options.focal_rel * options.width, dtype=torch.float64), options.height, options.width
    )
    depth = _ray_cast(poses, intrinsics, options, rng)
    world = transform(poses, unproject(depth, intrinsics))  # (F, H, W, 3)
    pairs = _pairs(options)
    first, second = pairs.T
    world_to_cam = invert(poses)[first]
    anchors, points = transform(world_to_cam, world[first]), transform(world_to_cam, world[second])
    gap = (second - first).abs() / max(1, options.num_frames - 1)
    anchors, anchor_confidence, anchor_std = _corrupt(anchors, torch.ones_like(gap, dtype=torch.float64), options, rng)
    points, confidence, std = _corrupt(points, 1.3 + 0.5 * gap, options, rng)
    scale = (options.scale_jitter * torch.randn(len(pairs), generator=rng, dtype=torch.float64)).exp()
    factor = scale[:, None, None, None]
    return Scene(
        anchors * factor,
        anchor_confidence,
        points * factor,
        confidence,
        pairs,
        poses,
        intrinsics,
        depth,
        scale,
        (anchor_std, std),
    )


def random_options(seed: int, moving: bool) -> SceneOptions:
    """A scene of 64 x 64 pixels with everything drawn: path, focal length, noise of all kinds, what confidences are worth."""
    rng = torch.Generator().manual_seed(seed)

    def among(values: tuple) -> object:
        return values[int(torch.randint(len(values), (1,), generator=rng))]

    def between(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand(1, generator=rng))

    return SceneOptions(
        seed=seed,
        path=among(("lateral", "orbit", "dolly", "handheld")),
        focal_rel=between(0.7, 1.2),
        noise=between(0.01, 0.03),
        correlated=between(0.1, 0.7),
        smoothness_px=between(0.05, 0.15),
        depth_noise=between(1.0, 2.0),
        outliers=between(0.0, 0.1),
        scale_jitter=between(0.0, 0.3),
        confidence=among(("informative", "informative", "constant", "random")),
        moving=0.3 if moving else 0.0,
    )


def _pairs(options: SceneOptions) -> Tensor:
    count = options.num_frames
    if options.graph == "star":
        pairs = [(0, f) for f in range(1, count)]
    elif options.graph == "chain":
        pairs = [(f, f + 1) for f in range(count - 1)]
    else:
        pairs = [(f, g) for f in range(count) for g in (f - 3, f - 1, f + 1, f + 2) if 0 <= g < count]
    return torch.tensor(pairs)


def _trajectory(options: SceneOptions, rng: torch.Generator) -> Tensor:
    """Smooth camera path of about 1.5 units (F, 4, 4), the first pose the identity after normalisation."""
    time = torch.linspace(0, 1, options.num_frames, dtype=torch.float64)[:, None]
    phase, amount = torch.rand(3, generator=rng, dtype=torch.float64) * 6.28, torch.randn(3, generator=rng, dtype=torch.float64)
    wobble = 0.12 * torch.sin(3.5 * time + phase) * amount
    turn = 0.06 * torch.sin(3.0 * time + phase.flip(0)) * amount.roll(1)
    length = 1.2 + 0.8 * torch.rand(1, generator=rng, dtype=torch.float64)
    zero = torch.zeros_like(time)
    if options.path == "lateral":
        centre = torch.cat((length * time, zero, zero), 1) + wobble
    elif options.path == "dolly":
        centre = torch.cat((zero, zero, length * time), 1) + wobble
    elif options.path == "orbit":
        angle = 0.35 * length * time
        centre = 5 * torch.cat((torch.sin(angle), zero, 1 - torch.cos(angle)), 1) + 0.3 * wobble
        turn = turn + torch.cat((zero, -angle, zero), 1)
    elif options.path == "handheld":
        shake = torch.randn(options.num_frames, 6, generator=rng, dtype=torch.float64)
        centre = torch.cat((0.5 * length * time, zero, zero), 1) + 0.06 * shake[:, :3]
        turn = turn + 0.02 * shake[:, 3:]
    elif options.path == "turn":
        centre, turn = torch.zeros(options.num_frames, 3, dtype=torch.float64), torch.cat((zero, 0.4 * time, zero), 1)
    elif options.path == "still":
        centre, turn = torch.zeros(options.num_frames, 3, dtype=torch.float64), torch.cat((zero, zero, zero), 1)
    else:
        raise ValueError(f"unknown path {options.path!r}")
    return relative_poses(pose_from(so3_exp(turn), centre))


def _ray_cast(poses: Tensor, intrinsics: Tensor, options: SceneOptions, rng: torch.Generator) -> Tensor:
    """Depth (F, H, W) of a room with balls, or of one wall."""
    rays = pixel_rays(intrinsics, options.height, options.width)  # (F, H, W, 3)
    directions = (poses[:, None, None, :3, :3] @ rays[..., None])[..., 0]  # world, z-depth 1 along the camera's axis
    origins = poses[:, None, None, :3, 3].expand_as(directions)
    if options.flat:
        normal = torch.tensor([0.25, -0.1, 1.0], dtype=torch.float64)
        return (5.0 - (origins * normal).sum(-1)) / (directions * normal).sum(-1)
    low, high = torch.tensor([-4.0, -2.2, -3.0], dtype=torch.float64), torch.tensor([4.0, 1.8, 8.0], dtype=torch.float64)
    safe = torch.where(directions.abs() < 1e-9, torch.full_like(directions, 1e-9), directions)
    depth = torch.maximum((low - origins) / safe, (high - origins) / safe).amin(-1)
    for _ in range(6):
        draw = torch.rand(4, generator=rng, dtype=torch.float64)
        centre = torch.stack((5 * draw[0] - 2.2, 2.6 * draw[1] - 1.5, 3.2 + 3.5 * draw[2]))
        offset = origins - centre
        a, b = (directions**2).sum(-1), (directions * offset).sum(-1)
        discriminant = b**2 - a * ((offset**2).sum(-1) - (0.4 + 0.5 * draw[3]) ** 2)
        hit = (-b - discriminant.clamp(min=0).sqrt()) / a
        depth = torch.where((discriminant > 0) & (hit > 0.1), torch.minimum(depth, hit), depth)
    return depth


def _corrupt(points: Tensor, growth: Tensor, options: SceneOptions, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy points (P, H, W, 3), confidences (P, H, W) and the noise's standard deviation (P, H, W)."""
    count, height, width, _ = points.shape
    sigma_px = options.smoothness_px * width
    local = (0.45 * smooth_noise((count, 1), height, width, 1.2 * sigma_px, rng)[:, 0]).exp()
    std = options.noise * growth[:, None, None] * local * points[..., 2].abs()
    white = torch.randn(count, 3, height, width, generator=rng, dtype=torch.float64)
    smooth = smooth_noise((count, 3), height, width, sigma_px, rng)
    mixed = (1 - options.correlated) ** 0.5 * white + options.correlated**0.5 * smooth
    mixed = mixed.movedim(1, -1)
    if options.depth_noise != 1:
        direction = points / points.norm(dim=-1, keepdim=True)
        mixed = mixed + (options.depth_noise - 1) * (mixed * direction).sum(-1, keepdim=True) * direction
    noisy = points + std[..., None] * mixed
    if options.depth_outliers > 0:
        wrong = torch.rand(count, height, width, 1, generator=rng, dtype=torch.float64) < options.depth_outliers
        factor = 0.3 + 1.4 * torch.rand(count, height, width, 1, generator=rng, dtype=torch.float64)
        noisy = torch.where(wrong, noisy * factor, noisy)
    bad = torch.rand(count, height, width, generator=rng, dtype=torch.float64) < options.outliers
    gross = points.norm(dim=-1, keepdim=True) * 0.5 * torch.randn(points.shape, generator=rng, dtype=torch.float64)
    noisy = torch.where(bad[..., None], noisy + gross, noisy)
    noisy = _move_object(noisy, options, rng)
    jitter = (0.2 * torch.randn(count, height, width, generator=rng, dtype=torch.float64)).exp()
    certainty = 1 + torch.where(bad, 0.3 * jitter, 3 * jitter / local)
    if options.confidence == "constant":
        certainty = torch.full_like(certainty, 3.0)
    elif options.confidence == "random":
        certainty = 1 + 3 * torch.randn(count, height, width, generator=rng, dtype=torch.float64).exp()
    elif options.confidence == "inverted":
        certainty = 1 + 4 / certainty
    return noisy, certainty, std


def _move_object(points: Tensor, options: SceneOptions, rng: torch.Generator) -> Tensor:
    """A rectangle covering `moving` of each map whose points are shifted together, by another amount in each map."""
    if options.moving <= 0:
        return points
    count, height, width, _ = points.shape
    tall, wide = round(height * options.moving**0.5), round(width * options.moving**0.5)
    points = points.clone()
    for index in range(count):
        draw = torch.rand(2, generator=rng)
        top, left = int(draw[0] * (height - tall)), int(draw[1] * (width - wide))
        shift = torch.randn(3, generator=rng, dtype=torch.float64) * torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
        points[index, top : top + tall, left : left + wide] += shift
    return points


def smooth_noise(batch: tuple[int, int], height: int, width: int, sigma_px: float, rng: torch.Generator) -> Tensor:
    """Gaussian fields (*batch, H, W) of unit variance, white noise blurred by a Gaussian of `sigma_px`."""
    margin = int(3 * sigma_px) + 1
    field = torch.randn(*batch, height + 2 * margin, width + 2 * margin, generator=rng, dtype=torch.float64)
    offsets = torch.arange(-margin, margin + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma_px) ** 2)
    kernel = (kernel / kernel.norm())[None, None]  # unit variance after the blur
    flat = field.flatten(0, 1)[:, None]  # (B, 1, H', W')
    flat = torch.nn.functional.conv2d(flat, kernel[..., None, :])
    flat = torch.nn.functional.conv2d(flat, kernel[..., :, None])
    return flat.unflatten(0, batch)[:, :, 0]
