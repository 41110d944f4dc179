"""A hard little scene for the export tests: exact geometry, frames of 30 x 41, pixels not square, a principal point off the
centre, a zooming and a turning camera, holes."""

import numpy as np

from jog3r.export.scene import Scene

HEIGHT, WIDTH, FRAMES = 30, 41, 6
_SPHERE, _RADIUS = np.array([0.3, -0.1, 2.6]), 0.7
_WALL, _OFFSET = np.array([0.15, -0.1, -1.0]), -4.0  # points X with normal . X = offset


def _rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return about_y @ about_x @ about_z


def _cameras() -> tuple[np.ndarray, np.ndarray]:
    poses, intrinsics = np.tile(np.eye(4), (FRAMES, 1, 1)), np.zeros((FRAMES, 3, 3))
    for index in range(FRAMES):
        poses[index, :3, :3] = _rotation(-0.06 * index, 0.03 * index, 0.05 * index)
        poses[index, :3, 3] = [0.11 * index, -0.04 * index, 0.05 * index**1.5]
        focal = 38 + 1.5 * index
        intrinsics[index] = np.array([[focal, 0, WIDTH / 2 + 1.7], [0, 1.15 * focal, HEIGHT / 2 - 0.9], [0, 0, 1]])
    return poses, intrinsics


def _depth(pose: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """z (H, W) of the nearer of sphere and wall, in closed form; rays have z = 1."""
    v, u = np.meshgrid(np.arange(HEIGHT), np.arange(WIDTH), indexing="ij")
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(intrinsics).T @ pose[:3, :3].T
    wall = (_OFFSET - _WALL @ pose[:3, 3]) / (rays @ _WALL)
    arm = pose[:3, 3] - _SPHERE
    a, b, c = (rays**2).sum(-1), rays @ arm, arm @ arm - _RADIUS**2
    under = b**2 - a * c
    sphere = np.where(under > 0, (-b - np.sqrt(np.maximum(under, 0))) / a, np.inf)
    return np.where((sphere > 0) & (sphere < wall), sphere, wall)


def make_scene(*, holes: bool = True, shared_intrinsics: bool = False) -> Scene:
    """The scene; float32 pointmaps, so that points are exact to 1e-6 or so."""
    poses, intrinsics = _cameras()
    if shared_intrinsics:
        intrinsics = np.tile(intrinsics[:1], (FRAMES, 1, 1))
    depth = np.stack([_depth(pose, k) for pose, k in zip(poses, intrinsics, strict=True)])
    valid = np.ones(depth.shape, bool)
    if holes:
        valid[:, 3:6, 10:14] = False
    bare = Scene.from_depth(np.zeros((*depth.shape, 3), np.uint8), depth, poses, intrinsics)
    # Colours are a function of the place, so that the same point has the same colour in all frames.
    frames = (127 + 120 * np.sin(4 * bare.pointmaps + [0, 1, 2])).astype(np.uint8)
    return Scene.from_depth(frames, depth, poses, intrinsics, valid=valid, fps=7.5, caption="a ball before a wall")
