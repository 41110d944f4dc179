"""The camera path that a video was generated with against the one that is found in it."""

from pathlib import Path

import numpy as np

from jog3r.data.files import file_hash
from jog3r.export.files import write_file
from jog3r.export.formats.camera_files import read_cameras_json
from jog3r.geometry.camera_metrics import pose_errors
from jog3r.space.guard.storage import ServerFolder

_STILL = 0.01  # of the scene's mean distance: a camera that moved less has no heading


def keep_path(video: str, cameras: bytes, server: ServerFolder) -> None:
    """Remember the cameras.json of a generated video, by the video's content and as long as files are kept."""
    write_file(_place(video, server), cameras, overwrite=True)


def kept_path(video: str, numbers: list[int], server: ServerFolder) -> np.ndarray | None:
    """Poses (F, 4, 4) that the frames of these numbers were generated with; None if the video was not made here lately."""
    beside = Path(video).parent / "cameras.json"  # of the example that the page opens with
    try:
        poses = read_cameras_json((beside if beside.parent == server.path / "example" else _place(video, server)).read_bytes())[0]
    except FileNotFoundError:
        return None
    return poses[numbers] if numbers[-1] < len(poses) else None


def compared_paths(found: np.ndarray, made: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, str]:
    """How far a path that was found is from the one that a video was made with, its first known frame and scale apart.

    Args:
        found: (F, 4, 4) camera-to-world.
        made: (F, 4, 4) camera-to-world.
        known: (F,) bool, False where `found` has no pose.

    Returns:
        `made` in the world of `found`, and the two errors in words: mean angles of rotation, and of the direction from the first
        known frame, over the known frames behind it.
    """
    if known.sum() < 2:
        return made, "Too few cameras were found to compare them with those that it was generated with."
    first = known.argmax()  # what stands in place of an unknown pose says nothing
    found_from, made_from = (np.linalg.inv(poses[first]) @ poses for poses in (found, made))
    steps = np.stack([found_from, made_from])[:, known][..., :3, 3]  # (2, known frames, 3)
    size_found, size_made = np.linalg.norm(steps, axis=(1, 2))
    made_from[:, :3, 3] *= size_found / size_made if min(size_found, size_made) > 0 else 1.0
    errors = pose_errors(found[known], made[known])
    moves = np.linalg.norm(steps, axis=2).min(0)[1:] > _STILL
    heading = "; a camera that hardly moves has no heading to compare"
    if moves.any():
        heading = f" and moves {errors.translation_deg[moves].mean():.0f} degrees off in direction"
    words = f"the camera found turns {errors.rotation_deg.mean():.1f} degrees otherwise{heading} (means over the frames)."
    return found[first] @ made_from, f"Against the path that it was generated with, {words}"


def _place(video: str, server: ServerFolder) -> Path:
    return server.path / "made" / file_hash(Path(video))
