"""Registration on real geometry: pairwise pointmaps made from a depth camera's clips, with noise and dropped pixels."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from registration_scenes import smooth_noise
from torch import Tensor

from jog3r import register_pointmaps
from jog3r.geometry.camera_metrics import pose_errors
from jog3r.geometry.cameras import invert, pose_from, transform, unproject
from jog3r.geometry.registration.checks import check_inputs
from jog3r.geometry.registration.joint_fit.initialisation import robust_camera_pose
from jog3r.geometry.registration.joint_fit.samples import sample_rays, take_samples
from jog3r.geometry.registration.joint_fit.tree import first_intrinsics

STEP = 3  # every third pixel of 256 x 192
LEVELS = {  # noise relative to depth (a third of its variance smooth over the image), gross outliers, dropped pixels
    "none": (0.0, 0.0, 0.0),
    "low": (0.01, 0.02, 0.1),
    "medium": (0.03, 0.05, 0.3),
    "high": (0.06, 0.1, 0.5),
}


def load_clip(folder: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Depth (F, H, W) in metres with 0 for holes, intrinsics (3, 3), camera-to-world poses (F, 4, 4)."""
    scene = json.loads((folder / "scene.json").read_text())
    depth = np.stack([np.asarray(Image.open(folder / frame["depth"]), dtype=np.float64) / 1000 for frame in scene["frames"]])
    fx, fy, cx, cy = scene["frames"][0]["K"]
    # The file's pixel centres are at half-integers; the subset of pixels is chosen so that the principal point is (W / 2, H / 2).
    rows, columns = _centred(cy - 0.5), _centred(cx - 0.5)
    depth = depth[:, rows[0] :: STEP, columns[0] :: STEP][:, : rows[1], : columns[1]]
    intrinsics = torch.tensor([[fx / STEP, 0, columns[1] / 2], [0, fy / STEP, rows[1] / 2], [0, 0, 1]], dtype=torch.float64)
    world_to_cam = torch.tensor([frame["w2c"] for frame in scene["frames"]], dtype=torch.float64)
    return torch.from_numpy(depth), intrinsics, invert(world_to_cam)


def _centred(centre: float) -> tuple[int, int]:
    """First pixel and number of every STEP-th pixels whose grid has its centre, at half its size, on `centre`."""
    first = next(start for start in range(STEP) if round(2 * (centre - start)) % STEP == 0)
    return first, round(2 * (centre - first)) // STEP


def pairwise_maps(depth: Tensor, intrinsics: Tensor, poses: Tensor, level: tuple[float, float, float], seed: int) -> tuple:
    """Inputs of `register_pointmaps` for the star of pairs: true points of both frames in camera 1, then spoilt."""
    rng = torch.Generator().manual_seed(seed)
    frames, height, width = depth.shape
    points = transform(invert(poses[:1]) @ poses, unproject(depth, intrinsics.expand(frames, 3, 3)))
    pairs = torch.tensor([(0, f) for f in range(1, frames)])
    noise, outliers, dropped = level
    spoilt = []
    scale = (0.1 * torch.randn(frames - 1, 1, 1, 1, generator=rng, dtype=torch.float64)).exp()  # of each pair, unknown
    for maps, seen in (
        (points[:1].expand(frames - 1, -1, -1, -1), depth[:1].expand(frames - 1, -1, -1)),
        (points[1:], depth[1:]),
    ):
        white = torch.randn(maps.shape, generator=rng, dtype=torch.float64)
        smooth = smooth_noise((frames - 1, 3), height, width, 0.09 * width, rng).movedim(1, -1)
        noisy = maps + noise * seen[..., None] * ((2 / 3) ** 0.5 * white + (1 / 3) ** 0.5 * smooth)
        gross = torch.rand(seen.shape, generator=rng) < outliers
        noisy = torch.where(gross[..., None], noisy * (0.3 + 1.4 * torch.rand(*seen.shape, 1, generator=rng)), noisy)
        hole = (seen <= 0) | (torch.rand(seen.shape, generator=rng) < dropped)
        confidence = torch.where(hole, 0.0, torch.where(gross, 1.5, 4.0) * (0.2 * torch.randn(seen.shape, generator=rng)).exp())
        spoilt += [(noisy * scale).float(), confidence.float()]
    return (*spoilt, pairs, frames)


def pnp_only(inputs: tuple) -> Tensor:
    """Poses (F, 4, 4) frame by frame: focal from frame 1's maps, then a robust pose per frame, nothing joint."""
    data, masks = check_inputs(*inputs)
    samples = take_samples(data, *masks, 4096)
    frames, (height, width) = inputs[5], data.size
    start = torch.eye(3, dtype=torch.float64).repeat(frames, 1, 1)
    start[:, 0, 2], start[:, 1, 2] = width / 2, height / 2
    intrinsics = first_intrinsics(samples, start, True, data.size)
    second = slice(samples.num_pairs, None)
    weights = samples.confidence[second] * samples.valid[second]
    rays = sample_rays(samples, intrinsics, samples.frame[second]).direction
    poses, _ = robust_camera_pose(samples.points[second], rays, weights)
    first = pose_from(torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))[None]
    return torch.cat((first, poses))


def real_rows(folder: Path) -> list[str]:
    """Table rows: mean errors over the clips, per level."""
    rows = ["", f"Real depth: clips of {folder.name}, star of pairs; mean over clips and frames (median in brackets), degrees"]
    rows.append("level (noise, outliers, dropped)    method     rotation          translation direction   focal err")
    clips = [load_clip(path) for path in sorted(folder.glob("clip_*"))]
    for level, amounts in LEVELS.items():
        found: dict[str, list] = {"PnP only": [], "fast": []}
        focal = []
        for seed, (depth, intrinsics, poses) in enumerate(clips):
            inputs = pairwise_maps(depth, intrinsics, poses, amounts, seed)
            result = register_pointmaps(*inputs)
            focal.append(float((result.intrinsics[0, 0, 0].double() / intrinsics[0, 0] - 1).abs()))
            found["fast"].append(pose_errors(result.poses, poses))
            found["PnP only"].append(pose_errors(pnp_only(inputs), poses))
        for method, errors in found.items():
            rotation = np.concatenate([e.rotation_deg for e in errors])
            direction = np.concatenate([np.nan_to_num(e.translation_deg, nan=90.0) for e in errors])
            rows.append(
                f"{level:8s} {amounts!s:26s} {method:9s} {rotation.mean():8.3f} ({np.median(rotation):.3f}) "
                f"{direction.mean():14.2f} ({np.median(direction):.2f})"
                + (f" {np.mean(focal):16.4f}" if method == "fast" else "")
            )
    return rows
