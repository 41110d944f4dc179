"""Trajectories as the SLAM tools read them: TUM (time, position, quaternion) and KITTI (3 x 4 matrices)."""

import numpy as np

from jog3r.export.conventions import quaternion_wxyz
from jog3r.export.scene import Scene

__all__ = ["kitti_text", "tum_text"]


def tum_text(scene: Scene) -> str:
    """One line a frame: `timestamp tx ty tz qx qy qz qw`, camera-to-world, timestamp = `scene.times` in seconds.

    Frames whose pose is unknown have no line.
    """
    scene = scene.posed(pictures=False)
    xyzw = quaternion_wxyz(scene.poses[:, :3, :3])[:, [1, 2, 3, 0]]
    rows = _lines(np.concatenate([scene.poses[:, :3, 3], xyzw], 1)).splitlines()
    # with nanoseconds, also of clocks that count since 1970
    stamps = [np.format_float_positional(time, precision=9, trim="-") for time in scene.times]
    stamped = [f"{stamp} {row}\n" for stamp, row in zip(stamps, rows, strict=True)]
    return "# timestamp tx ty tz qx qy qz qw (camera-to-world)\n" + "".join(stamped)


def kitti_text(scene: Scene) -> str:
    """One line a frame: the 12 numbers of the camera-to-world 3 x 4, row by row; unknown poses too, since lines are counted."""
    return _lines(scene.poses[:, :3].reshape(-1, 12))


def _lines(rows: np.ndarray) -> str:
    # 12 significant digits: far below any error of the poses, and still a readable file. Adding 0 turns -0 into 0.
    return "".join(" ".join(f"{value + 0.0:.12g}" for value in row) + "\n" for row in rows)
