"""From jog3r's conventions to those of other programs: axes, pixel centres, quaternions, colours.

jog3r: OpenCV axes, camera-to-world, first pixel's centre at 0. Every exporter takes its conversion from here.
"""

import matplotlib
import numpy as np
import torch

from jog3r.geometry.cameras import quaternion_wxyz_from_rotation

__all__ = [
    "OPENCV_TO_OPENGL",
    "WORLD_TO_Y_UP",
    "WORLD_TO_Z_UP",
    "camera_size",
    "frustum_corners",
    "half_pixel_up",
    "linear_from_srgb",
    "quaternion_wxyz",
    "time_colors",
]

# Camera axes: OpenCV (x right, y down, z forward) and OpenGL (x right, y up, z backward); its own inverse.
OPENCV_TO_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
# World axes: camera 1's y points down; glTF has y up (half a turn about x), Blender z up (a quarter turn about x).
WORLD_TO_Y_UP = np.diag([1.0, -1.0, -1.0, 1.0])
WORLD_TO_Z_UP = np.array([[1.0, 0, 0, 0], [0, 0, 1.0, 0], [0, -1.0, 0, 0], [0, 0, 0, 1.0]])


def half_pixel_up(intrinsics: np.ndarray) -> np.ndarray:
    """Intrinsics (..., 3, 3) for programs whose first pixel centre is 0.5 (COLMAP, nerfstudio, Blender): cx, cy + 0.5."""
    shifted = np.array(intrinsics, dtype=np.float64)
    shifted[..., :2, 2] += 0.5
    return shifted


def quaternion_wxyz(rotation: np.ndarray) -> np.ndarray:
    """Unit quaternions (..., 4) float64 in order w, x, y, z with w >= 0 of rotation matrices (..., 3, 3)."""
    return quaternion_wxyz_from_rotation(torch.from_numpy(np.asarray(rotation, dtype=np.float64))).numpy()


def linear_from_srgb(colors: np.ndarray) -> np.ndarray:
    """Linear light in 0..1 (float64) of sRGB colours uint8: what glTF wants in vertex colours."""
    value = np.asarray(colors, dtype=np.float64) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def time_colors(num_frames: int) -> np.ndarray:
    """One colour a frame (F, 3) uint8 RGB along the clip, from blue over green to red."""
    return (matplotlib.colormaps["turbo"](np.linspace(0.06, 0.94, num_frames))[:, :3] * 255).round().astype(np.uint8)


def camera_size(poses: np.ndarray, median_depth: float) -> float:
    """A depth for drawn frusta: visible beside the scene, and not so large that neighbours hide each other.

    Args:
        poses: (F, 4, 4) camera-to-world.
        median_depth: Typical distance of the scene from the cameras; 0 when unknown.

    Returns:
        Length in scene units, > 0.
    """
    centres = poses[:, :3, 3]
    extent = float(np.linalg.norm(centres.max(0) - centres.min(0)))
    size = max(0.04 * median_depth, 0.08 * extent)
    return size if size > 0 else 0.1


def frustum_corners(poses: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int], depth: float) -> np.ndarray:
    """World corners (F, 4, 3) of each camera's image at z = `depth`: top left, top right, bottom right, bottom left.

    Args:
        poses: (F, 4, 4) camera-to-world.
        intrinsics: (F, 3, 3) in pixels.
        size: (H, W).
        depth: z at which the image plane is drawn.
    """
    height, width = size
    # The image's outer border lies half a pixel outside its first and last pixel centres.
    pixels = np.array([[-0.5, -0.5, 1], [width - 0.5, -0.5, 1], [width - 0.5, height - 0.5, 1], [-0.5, height - 0.5, 1]])
    rays = np.einsum("fij,cj->fci", poses[:, :3, :3] @ np.linalg.inv(intrinsics), pixels)
    return poses[:, None, :3, 3] + depth * rays
