"""The judge that is no network: feature tracks and bundle adjustment, which can fail, and whose failures count.

Feed-forward 3D networks find consistent geometry in noise and in unrelated pictures; structure from motion does not. A frame
counts as placed if it is registered with parallax and fits: in a frozen video every frame is registered, and none is placed.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional

from jog3r.geometry.registration.checks import check_in_pixels
from jog3r.geometry.registration.degeneracy import NO_OVERLAP, NO_PARALLAX, POOR_FIT

__all__ = ["LEAST_SIDE", "TrackJudge"]

LEAST_SIDE = 256  # smaller pictures are enlarged: features of a few pixels are found poorly
_NOT_PLACED = {NO_PARALLAX, POOR_FIT}


@dataclass(frozen=True)
class TrackJudge:
    """`track_cameras` on each video.

    Attributes:
        focal_px: focal length in x in pixels of the videos, if known.
        pixel_aspect: fy / fx of stretched videos; None: square pixels.
    """

    focal_px: float | None = None
    pixel_aspect: float | None = None
    name = "sfm"
    order = ("placed %", "points")  # what tells a good video from a bad one, higher is better

    def describe(self) -> dict[str, Any]:
        """What decides the figures."""
        told = {name: value for name in ("focal_px", "pixel_aspect") if (value := getattr(self, name)) is not None}
        return {
            "judge": "sfm: feature tracks and bundle adjustment",
            **told,
            "shorter side": f"at least {LEAST_SIDE} px, else enlarged",
        }

    def look(self, frames: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        """Cameras (F,4,4) and figures of a video (F,H,W,3) uint8; one that cannot be registered has the figures of a failure.

        Raises:
            ImportError: pycolmap is not installed.
        """
        from jog3r.sfm import track_cameras

        large, factor = _enlarged(frames)
        focal = None if self.focal_px is None else self.focal_px * factor
        if focal is not None:  # a mistake of the command's, no failure of the video
            check_in_pixels("focal_px", focal, (large.shape[1], large.shape[2]))
        try:
            found = track_cameras(large, seed=seed % 2**31, focal_px=focal, pixel_aspect=self.pixel_aspect)
        except ValueError as error:
            failed = {"registered %": 0.0, "placed %": 0.0, "all placed %": 0.0, "failed %": 100.0}
            failed |= {"inliers a frame": 0.0, "inlier share %": 0.0, "points": 0.0, "track length": 0.0}
            poses, flags = np.tile(np.eye(4), (len(frames), 1, 1)), np.array([NO_OVERLAP] * len(frames))
            return {"poses": poses, "degenerate": flags, "reason": np.array(str(error)), **_arrays(failed)}
        others = found.registered.numpy()[1:]
        placed = others & [not _NOT_PLACED & {*words.split(", ")} for words in found.degenerate[1:]]
        figures = {
            "registered %": 100 * float(found.registered.float().mean()),
            "placed %": 100 * float(placed.mean()),
            "all placed %": 100 * float(placed.all()),
            "failed %": 0.0,
            "inliers a frame": float(found.num_inliers.double().mean()),
            "inlier share %": 100 * found.candidates[0].inlier_share,
            "points": float(len(found.points)),
            "track length": len(found.tracks.point) / len(found.points) if len(found.points) else 0.0,
        }
        pixels = found.reprojection_px.double()
        if pixels.isfinite().any():
            figures["reprojection px"] = float(pixels.nanmedian()) / factor
        return {"poses": found.poses.numpy(), "degenerate": np.array(found.degenerate), **_arrays(figures)}


def _arrays(figures: dict[str, float]) -> dict[str, np.ndarray]:
    return {f"figure {name}": np.array(value) for name, value in figures.items()}


def _enlarged(frames: np.ndarray) -> tuple[np.ndarray, float]:
    """Frames whose shorter side is at least `LEAST_SIDE`, bicubic, and by how much they were enlarged."""
    height, width = frames.shape[1:3]
    factor = max(LEAST_SIDE / min(height, width), 1.0)
    if factor == 1:
        return frames, factor
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()  # (F,3,H,W)
    size = (round(height * factor), round(width * factor))
    large = functional.interpolate(pixels, size, mode="bicubic", align_corners=False).round().clamp(0, 255)
    return large.to(torch.uint8).permute(0, 2, 3, 1).numpy(), factor
