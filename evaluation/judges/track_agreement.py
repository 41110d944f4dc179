"""How well feature tracks in the pictures agree with given cameras: an outside judge where nobody knows the true cameras."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from jog3r.geometry.camera_metrics import pose_errors
from jog3r.geometry.registration.degeneracy import NO_PARALLAX, PLANAR_SCENE, UNCERTAIN_FOCAL

__all__ = ["MIN_SIDE", "TrackAgreement", "track_agreement"]

MIN_SIDE = 120  # of the pictures: below, features are too few and too coarse to tell


@dataclass(frozen=True)
class TrackAgreement:
    """Differences of cameras found by feature tracks from given ones.

    Attributes:
        frames: how many frames were compared with the first of them; 0 where tracks cannot tell.
        rotation_deg: mean angle between the rotations since the first frame; None where nothing is compared.
        translation_deg: mean angle between the directions of motion since the first frame (0 to 180), over the frames where
            tracks see one; 90 for a given camera that stands still there; None without any.
        focal_ratio: focal length of the tracks over the given one; None where tracks leave it open.
        reprojection_px: median distance of features from their points.
        reason: why nothing is compared; empty otherwise.
    """

    frames: int = 0
    rotation_deg: float | None = None
    translation_deg: float | None = None
    focal_ratio: float | None = None
    reprojection_px: float | None = None
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without those that are None."""
        return {name: value for name, value in asdict(self).items() if value not in (None, "")}

    def __str__(self) -> str:
        """A line for the user."""
        if self.reason:
            return f"tracks cannot tell how well the cameras fit: {self.reason}"
        text = f"cameras from tracks in the pictures differ by {self.rotation_deg:.2f} degrees in rotation"
        if self.translation_deg is not None:
            text += f", {self.translation_deg:.1f} in direction"
        if self.focal_ratio is not None:
            text += f" and {100 * abs(self.focal_ratio - 1):.0f} % in focal length"
        return f"{text} (mean of {self.frames} frames)"


def track_agreement(
    frames: np.ndarray, poses: np.ndarray, intrinsics: np.ndarray, known: np.ndarray | None = None, seed: int = 0
) -> TrackAgreement:
    """Follow features in the frames and compare the cameras found so with given ones.

    Args:
        frames: (F, H, W, 3) uint8.
        poses: (F, 4, 4) camera-to-world to be judged.
        intrinsics: (F, 3, 3) in pixels of the frames.
        known: (F,) bool, frames that have a pose; None means all.
        seed: same seed, same result.

    Returns:
        The differences; those where tracks cannot tell (small pictures, no texture, pycolmap missing) have a reason instead.
    """
    from jog3r.sfm import track_cameras

    height, width = frames.shape[1:3]
    if min(height, width) < MIN_SIDE:
        return TrackAgreement(reason=f"pictures of {width} x {height} pixels are too small, {MIN_SIDE} a side are needed")
    try:
        found = track_cameras(frames, seed=seed % 2**31)
    except (ValueError, ImportError) as error:
        return TrackAgreement(reason=str(error))
    doubted = [set(words.split(", ")) - {"", NO_PARALLAX, PLANAR_SCENE} for words in found.degenerate]
    trusted = np.array([not words for words in doubted])
    both = found.pose_known.numpy() & trusted & (np.ones(len(frames), bool) if known is None else known)
    places = np.flatnonzero(both)
    if len(places) < 2:
        doubts = ", ".join(sorted(set().union(*doubted)))
        return TrackAgreement(
            reason=f"tracks and model have {len(places)} frames in common"
            + (f" that tracks are sure of ({doubts})" if doubts else "")
        )
    focal_ratio = float(np.median(found.intrinsics[:, 0, 0]) / np.median(intrinsics[:, 0, 0]))
    errors = pose_errors(poses[places], found.poses.numpy()[places])
    moved = np.array([NO_PARALLAX not in found.degenerate[place].split(", ") for place in places[1:]])
    directions = np.nan_to_num(errors["translation_deg"][moved], nan=90.0)
    return TrackAgreement(
        frames=len(places) - 1,
        rotation_deg=float(errors["rotation_deg"].mean()),
        translation_deg=float(directions.mean()) if len(directions) else None,
        focal_ratio=focal_ratio if found.focal_uncertainty <= UNCERTAIN_FOCAL else None,
        reprojection_px=float(np.nanmedian(found.reprojection_px)),
    )
