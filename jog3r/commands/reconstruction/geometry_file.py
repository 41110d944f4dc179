"""An npz file with the geometry that some model found, read into a `Registration`."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from jog3r.commands.output_folder import UsageError
from jog3r.data.files import NPZ_FAULTS
from jog3r.geometry.registration import Registration

__all__ = ["FORMS", "read_geometry", "solve"]

# What a file may hold -> arrays it must have, arrays it may have; `extrinsics` (world-to-camera) may stand for `poses`.
FORMS = {
    "pairwise pointmaps": (
        ("anchor_pointmaps", "pointmaps", "pairs"),
        ("anchor_confidence", "confidence", "poses", "intrinsics"),
    ),
    "depth with cameras": (("depth", "intrinsics", "poses"), ("confidence",)),
    "pointmaps in one world": (("pointmaps",), ("confidence", "poses", "intrinsics")),
}
DIMENSIONS = {"anchor_pointmaps": 4, "pointmaps": 4, "anchor_confidence": 3, "confidence": 3, "depth": 3, "pairs": 2}


def read_geometry(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    """Which of `FORMS` a file has, and its arrays by name: those of the form, and `frames` (F, H, W, 3) uint8 if it has any.

    Raises:
        UsageError: no npz file, names that are of no form or of two, or arrays that are no numbers or have other dimensions.
    """
    arrays = _load(path)
    got = set(arrays) - {"frames"}
    form = "pairwise pointmaps" if "pairs" in got else "depth with cameras" if "depth" in got else "pointmaps in one world"
    needed, possible = FORMS[form]
    twice = {"poses", "extrinsics"} <= got
    given = {"poses" if name == "extrinsics" else name for name in got}
    missing, unknown = [name for name in needed if name not in given], sorted(given - {*needed, *possible})
    if missing or unknown or twice:
        fault = f"lacks {', '.join(missing)}" if missing else f"has too many: {', '.join(unknown) or 'poses and extrinsics'}"
        wanted = "; ".join(f"{name}: {', '.join(keys)}" for name, (keys, _) in FORMS.items())
        raise UsageError(
            f"{str(path)!r} holds {', '.join(sorted(arrays)) or 'nothing'}, and for {form} {fault}; wanted is one of {wanted}. "
            "World-to-camera extrinsics may stand for poses; confidence, anchor_confidence, intrinsics, poses, frames may follow"
        )
    for name, array in arrays.items():
        if not np.issubdtype(array.dtype, np.number):
            raise UsageError(f"{name} of {str(path)!r} must be numbers, got {array.dtype}")
        if name in DIMENSIONS and (array.ndim != DIMENSIONS[name] or 0 in array.shape):
            raise UsageError(f"{name} of {str(path)!r} must have {DIMENSIONS[name]} dimensions, got shape {array.shape}")
    frames = arrays.get("frames")
    if frames is not None and (frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3):
        raise UsageError(f"frames of {str(path)!r} must be (F, H, W, 3) uint8, got {frames.shape} {frames.dtype}")
    return form, arrays


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        loaded: Any = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise UsageError(f"{str(path)!r} is one array (npy); write several by name with numpy.savez")
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except NPZ_FAULTS as error:
        if isinstance(error, FileNotFoundError):
            raise UsageError(f"{str(path)!r} is not there; give an npz file, as numpy.savez writes it") from error
        if isinstance(error, OSError) and error.strerror:
            raise UsageError(f"{str(path)!r} cannot be read: {error.strerror}") from error
        hint = "" if path.suffix == ".npz" else "; a video goes to `jog3r reconstruct`, or to --video beside the geometry"
        raise UsageError(f"{str(path)!r} cannot be read as an npz file; write it with numpy.savez{hint}") from error


def solve(form: str, arrays: dict[str, np.ndarray], given: dict[str, Any]) -> Registration:
    """The cameras and depth of a file's arrays, see `read_geometry`.

    Args:
        form: key of `FORMS`.
        arrays: by name.
        given: for `register_pointmaps`, of pairwise pointmaps.

    Raises:
        ValueError: shapes or values that make no sense; the message names the array.
    """
    from jog3r.geometry.registration import register_pointmaps
    from jog3r.geometry.registration.other_inputs import register_world_pointmaps, registration_from_depth

    ours = {name: np.ascontiguousarray(array, array.dtype.newbyteorder("=")) for name, array in arrays.items()}
    tensors = {name: torch.from_numpy(array) for name, array in ours.items() if name != "frames"}
    poses = tensors.get("poses")
    if (extrinsics := tensors.get("extrinsics")) is not None:
        poses = _inverse(extrinsics)
    intrinsics, confidence = tensors.get("intrinsics"), tensors.get("confidence")
    if form == "depth with cameras":
        return registration_from_depth(tensors["depth"], tensors["intrinsics"], poses, confidence)
    if form == "pointmaps in one world":
        return register_world_pointmaps(tensors["pointmaps"], confidence, poses=poses, intrinsics=intrinsics)
    if ours["pairs"].dtype.kind not in "iu":
        raise UsageError(f"pairs must be whole numbers (P, 2), got {ours['pairs'].dtype}")
    pairs, ones = tensors["pairs"].long(), torch.ones(tensors["pointmaps"].shape[:3])
    return register_pointmaps(
        tensors["anchor_pointmaps"],
        tensors.get("anchor_confidence", ones),
        tensors["pointmaps"],
        ones if confidence is None else confidence,
        pairs,
        int(pairs.max()) + 1,
        known_poses=poses,
        intrinsics=intrinsics,
        **given,
    )


def _inverse(extrinsics: torch.Tensor) -> torch.Tensor:
    """Camera-to-world (F, 4, 4) of world-to-camera (F, 3, 4) or (F, 4, 4)."""
    if extrinsics.dim() != 3 or tuple(extrinsics.shape[1:]) not in ((3, 4), (4, 4)):
        raise UsageError(f"extrinsics must be world-to-camera (F, 3, 4) or (F, 4, 4), got shape {tuple(extrinsics.shape)}")
    from jog3r.geometry.cameras import invert
    from jog3r.geometry.pose_checks import pose_fault

    full = torch.eye(4, dtype=torch.float64).repeat(len(extrinsics), 1, 1)
    full[:, : extrinsics.shape[1]] = extrinsics.double()
    if (fault := pose_fault(full.numpy())) is not None:
        raise UsageError(f"extrinsics must be rigid transforms from the world to the camera; matrix {fault[0]}: {fault[1]}")
    return invert(full)
