"""The one data item: a video clip with depth, cameras and caption; how clips are reversed and mirrored."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from jog3r.data.direction_words import mirrored_words, reversed_words
from jog3r.data.poses import rebase_poses


@dataclass(frozen=True, eq=False)
class Clip:
    """A clip of F frames of H x W pixels. Cameras are OpenCV (x right, y down, z forward).

    Pixel centres lie at integer coordinates. Frame 1's camera is the world, so the first pose is the identity.
    Raises `TypeError` for a wrong dtype and `ValueError` for a wrong shape or a value that is not finite.
    """

    frames: np.ndarray
    """(F, H, W, 3) uint8 sRGB."""
    depth: np.ndarray
    """(F, H, W) float32 z depth at pixel centres, in scene units (metres where the source has them)."""
    valid: np.ndarray
    """(F, H, W) bool, where depth is known."""
    poses: np.ndarray
    """(F, 4, 4) float32 camera-to-world, the first is the identity."""
    intrinsics: np.ndarray
    """(F, 3, 3) float32, pixels."""
    caption: str
    attributes: dict[str, Any] = field(default_factory=dict)
    """What is known about the scene; a procedural clip holds wall and floor colour, objects and motion."""

    def __post_init__(self) -> None:
        """Refuse what does not fit together."""
        check_clip(self)

    @property
    def num_frames(self) -> int:
        """F."""
        return self.frames.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.frames.shape[1], self.frames.shape[2]


def check_clip(clip: Clip) -> None:
    """Refuse wrong types, shapes, values and poses, saying which field and what it was."""
    kinds = {"frames": np.uint8, "depth": np.float32, "valid": np.bool_, "poses": np.float32, "intrinsics": np.float32}
    for name, dtype in kinds.items():
        value = getattr(clip, name)
        if not isinstance(value, np.ndarray):
            raise TypeError(f"Clip.{name} must be a numpy array, got {type(value).__name__}")
        if value.dtype != dtype:
            raise TypeError(f"Clip.{name} must have dtype {np.dtype(dtype)}, got {value.dtype}; convert it with .astype")
    if not isinstance(clip.caption, str):
        raise TypeError(f"Clip.caption must be a str, got {type(clip.caption).__name__}")
    if clip.frames.ndim != 4 or clip.frames.shape[-1] != 3 or 0 in clip.frames.shape:
        raise ValueError(f"Clip.frames must have shape (F, H, W, 3) with at least one frame, got {clip.frames.shape}")
    frames, height, width, _ = clip.frames.shape
    shapes = {
        "depth": (frames, height, width), "valid": (frames, height, width), "poses": (frames, 4, 4), "intrinsics": (frames, 3, 3)
    }  # fmt: skip
    for name, shape in shapes.items():
        if getattr(clip, name).shape != shape:
            raise ValueError(f"Clip.{name} must have shape {shape} to match frames, got {getattr(clip, name).shape}")
    _check_values(clip)


def _check_values(clip: Clip) -> None:
    for name in ("depth", "poses", "intrinsics"):
        if not np.isfinite(getattr(clip, name)).all():
            raise ValueError(f"Clip.{name} holds NaN or infinity; mark unknown depth in `valid` and set it to 0")
    if (clip.depth[clip.valid] <= 0).any():
        raise ValueError("Clip.depth must be positive wherever `valid` is true")
    if not np.array_equal(clip.poses[0], np.eye(4, dtype=np.float32)):
        raise ValueError("Clip.poses[0] must be the identity: re-base poses with inv(poses[0]) @ poses")
    if (clip.intrinsics[:, [0, 1], [0, 1]] <= 0).any():
        raise ValueError("Clip.intrinsics must hold positive focal lengths in pixels")


def reverse(clip: Clip) -> Clip:
    """The clip played backwards, its world moved to the new first camera.

    A procedural clip's caption and `attributes["motion"]` get the opposite motion; other captions stay as they are.
    """
    caption, attributes = clip.caption, dict(clip.attributes)
    if "motion" in attributes:
        caption = reversed_words(caption)
        attributes["motion"] = reversed_words(attributes["motion"])
    flipped = {name: getattr(clip, name)[::-1].copy() for name in ("frames", "depth", "valid", "intrinsics")}
    return replace(clip, **flipped, poses=rebase_poses(clip.poses[::-1]), caption=caption, attributes=attributes)


def mirror(clip: Clip) -> Clip:
    """The clip in a mirror: column x becomes column W-1-x, left and right exchanged in poses and caption.

    The principal point moves with its pixel: cx becomes W-1-cx, so W/2 becomes W/2-1.
    """
    sign = np.diag([-1.0, 1.0, 1.0, 1.0]).astype(np.float32)
    intrinsics = clip.intrinsics.copy()
    intrinsics[:, 0, 2] = clip.frames.shape[2] - 1 - intrinsics[:, 0, 2]
    intrinsics[:, 0, 1] = -intrinsics[:, 0, 1]
    attributes = dict(clip.attributes)
    if "motion" in attributes:
        attributes["motion"] = mirrored_words(attributes["motion"])
    flipped = {name: np.ascontiguousarray(getattr(clip, name)[:, :, ::-1]) for name in ("frames", "depth", "valid")}
    caption = mirrored_words(clip.caption)
    return replace(clip, **flipped, poses=sign @ clip.poses @ sign, intrinsics=intrinsics, caption=caption, attributes=attributes)
