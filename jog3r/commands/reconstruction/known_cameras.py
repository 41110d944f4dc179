"""Known cameras of a video, read for comparison, and the errors beside the constant-pose baseline."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jog3r.commands.output_folder import UsageError


def read_true_cameras(path: Path) -> np.ndarray:
    """Camera-to-world poses (F, 4, 4) from a cameras.json or a RealEstate10K camera file.

    Raises:
        UsageError: no such file, neither of the two formats, or a cameras.json with frames whose pose is unknown.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"--true_cameras {str(path)!r} cannot be read: {error.strerror}") from error
    if path.suffix == ".json":
        from jog3r.export.formats.camera_files import read_cameras_json, read_details

        try:
            poses, details = read_cameras_json(content)[0], read_details(content)
        except ValueError as error:
            raise UsageError(f"--true_cameras {str(path)!r}: {error}") from error
        unknown = (~details["pose_known"]).nonzero()[0].tolist()
        if unknown:
            raise UsageError(f"--true_cameras {str(path)!r} has no pose for {_ranges(unknown)}; give cameras that are all known")
        return _checked(path, poses)
    from jog3r.data.realestate10k.camera_files import parse_camera_file

    try:
        return _checked(path, parse_camera_file(content.decode("utf-8", errors="replace"), path.name).poses)
    except ValueError as error:
        raise UsageError(f"--true_cameras {str(path)!r} is neither a cameras.json nor a RealEstate10K file: {error}") from error


def _checked(path: Path, poses: np.ndarray) -> np.ndarray:
    """Refuse poses that the errors could not be taken against, before any work."""
    from jog3r.evaluation.baselines import constant_poses
    from jog3r.geometry.camera_metrics import pose_errors

    try:
        pose_errors(constant_poses(len(poses)), poses)
    except ValueError as error:
        raise UsageError(f"--true_cameras {str(path)!r}: {error}") from error
    return poses


def compare_cameras(poses: np.ndarray, known: np.ndarray, true_poses: np.ndarray) -> str:
    """A small table: mean errors of the frames relative to the first, in degrees, beside the camera that never moves.

    Pairs of frames whose pose is unknown (`known` (F,) bool) count as 180 degrees.
    """
    from jog3r.evaluation.baselines import constant_poses, forward_poses
    from jog3r.geometry.camera_metrics import pose_errors, pose_metrics

    lines = ["errors against the known cameras     rotation  translation direction (unfolded)"]
    estimates = {
        "this reconstruction": poses,
        "constant pose": constant_poses(len(poses)),
        "always forward": forward_poses(len(poses)),
    }
    for name, estimate in estimates.items():
        metrics = pose_metrics([pose_errors(estimate, true_poses, known=known if estimate is poses else None)])
        lines.append(f"  {name:<33} {metrics['rotation_deg']:8.2f} deg  {metrics['translation_deg']:8.2f} deg")
    return "\n".join(lines)


def doubtful_poses(reasons: Sequence[str]) -> list[str]:
    """A line on the frames whose pose deserves no trust, with their numbers in cameras.json; none where all are sound.

    Args:
        reasons: per frame, "" for a sound one; see `Registration.degenerate`.
    """
    frames: dict[str, list[int]] = {}
    for index, reason in enumerate(reasons):
        if reason:
            frames.setdefault(reason, []).append(index)
    if not frames:
        return []
    from jog3r.geometry.registration.degeneracy import pose_known

    known = pose_known(list(frames)).tolist()
    groups = [
        f"{_ranges(numbers)}: {reason}{'' if is_known else ', pose unknown'}"
        for (reason, numbers), is_known in zip(frames.items(), known, strict=True)
    ]
    return [f"note: doubtful poses (of the frames taken, counted from 0): {'; '.join(groups)}"]


def _ranges(numbers: list[int]) -> str:
    """Ascending numbers in words: "frame 3", "frames 6, 8-12"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    text = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return f"frame{'s' if len(numbers) > 1 else ''} {text}"
