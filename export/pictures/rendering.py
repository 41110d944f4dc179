"""A small point renderer for pictures and turntables: depth-buffered squares with eye-dome shading."""

from dataclasses import dataclass

import numpy as np
import torch

from jog3r.export.conventions import camera_size, frustum_corners, time_colors
from jog3r.export.scene import PointCloud, Scene
from jog3r.export.video import encode_video

__all__ = [
    "LINE_RADIUS",
    "View",
    "camera_lines",
    "look_at",
    "orbit_views",
    "point_radius",
    "render_points",
    "spaced_cameras",
    "turntable_video",
]

BACKGROUND = (17, 19, 26)
LINE_RADIUS = 0.025  # of drawn frusta, in their own lengths
_NEAR = 1e-6
_DOT = 0.0025  # half the side of a sparse point, in distances from the camera that saw it first


@dataclass(frozen=True)
class View:
    """A camera to draw with.

    Attributes:
        pose: (4, 4) camera-to-world, OpenCV axes.
        focal_px: Focal length in pixels of the drawn image; the principal point is its centre.
        size: (H, W) of the drawn image.
    """

    pose: np.ndarray
    focal_px: float
    size: tuple[int, int]

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (N, 2) and z (N,) of world points (N, 3); points behind the camera have z <= 0 and meaningless pixels."""
        in_camera = (points - self.pose[:3, 3]) @ self.pose[:3, :3]
        centre = (np.array([self.size[1], self.size[0]]) - 1) / 2
        return centre + self.focal_px * in_camera[:, :2] / np.maximum(in_camera[:, 2:], _NEAR), in_camera[:, 2]


def look_at(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Camera-to-world (4, 4) of a camera at `eye` that looks at `target`, upright in a world whose y points down."""
    forward = np.asarray(target, dtype=np.float64) - eye
    forward /= np.linalg.norm(forward)
    right = np.cross([0.0, 1.0, 0.0], forward)
    right /= max(float(np.linalg.norm(right)), 1e-9)
    pose = np.eye(4)
    pose[:3, 0], pose[:3, 1], pose[:3, 2], pose[:3, 3] = right, np.cross(forward, right), forward, eye
    return pose


def render_points(
    view: View,
    points: np.ndarray,
    colors: np.ndarray,
    radius: np.ndarray | float,
    *,
    background: tuple[int, int, int] = BACKGROUND,
    shading: float = 0.35,
    oversampling: int = 1,
) -> np.ndarray:
    """Draw points as squares, nearest in front, with soft dark rims where the depth falls off (eye-dome lighting).

    Args:
        view: The camera.
        points: (N, 3) world.
        colors: (N, 3) uint8.
        radius: Half the side of each square in scene units, (N,) or one number; at least one drawn pixel.
        background: RGB 0..255.
        shading: Strength of the rims, 0 for none.
        oversampling: Draw that many times larger and average, for smooth edges.

    Returns:
        (H, W, 3) uint8.
    """
    height, width = view.size[0] * oversampling, view.size[1] * oversampling
    large = View(view.pose, oversampling * view.focal_px, (height, width))
    xy, z = large.project(points)
    half = np.broadcast_to(radius, z.shape) * large.focal_px / np.maximum(z, _NEAR)
    visible = (z > _NEAR) & (np.abs(xy) < 1e6).all(1)
    owner = _nearest_owner(xy, z, np.clip(half, 0, 8 * oversampling).round().astype(int), visible, (height, width))
    seen = owner >= 0
    image = np.where(seen[..., None], colors[owner], np.array(background, colors.dtype)).astype(np.float32)
    shade = _eye_dome(np.where(seen, z.astype(np.float32)[owner], np.float32(np.inf)), shading, oversampling)
    image *= shade[..., None]
    small = image.reshape(view.size[0], oversampling, view.size[1], oversampling, 3).mean((1, 3))
    return small.round().astype(np.uint8)


def _nearest_owner(xy: np.ndarray, z: np.ndarray, half: np.ndarray, visible: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Index of the nearest point that covers each pixel, (H, W) int64; -1 where none does."""
    height, width = size
    # Depth and index in one integer: the smallest key is the nearest point. Bits of positive floats sort like the floats.
    depth_bits = z.astype(np.float32).view(np.int32).astype(np.int64)
    keys = (depth_bits << 32) | np.arange(len(z))
    nothing = np.iinfo(np.int64).max
    buffer = torch.full((height * width,), nothing)
    for side in np.unique(half[visible]):
        chosen = visible & (half == side)
        x, y = xy[chosen].round().astype(np.int64).T
        key = keys[chosen]
        for dy in range(-side, side + 1):
            for dx in range(-side, side + 1):
                inside = (x + dx >= 0) & (x + dx < width) & (y + dy >= 0) & (y + dy < height)
                pixel = torch.from_numpy(((y + dy) * width + x + dx)[inside])
                buffer.scatter_reduce_(0, pixel, torch.from_numpy(key[inside]), "amin")
    nearest = buffer.numpy().reshape(height, width)
    return np.where(nearest == nothing, -1, nearest & 0xFFFFFFFF)


def camera_lines(scene: Scene, depth: float, *, samples: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """The scene's frusta and path as dense points, to be drawn with a cloud.

    Args:
        scene: Supplies the cameras.
        depth: Length of the drawn frusta in scene units.
        samples: Points an edge.

    Returns:
        points (M, 3), colours (M, 3) uint8, from blue (first frame) to red (last).
    """
    drawn = spaced_cameras(scene.poses, depth)
    centres, colors = scene.poses[:, :3, 3], time_colors(scene.num_frames)
    corners = frustum_corners(scene.poses, scene.intrinsics, scene.size, depth)[drawn]  # (D, 4, 3)
    starts = np.concatenate([np.repeat(centres[drawn, None], 4, 1), corners], 1).reshape(-1, 3)
    ends = np.concatenate([corners, np.roll(corners, -1, 1)], 1).reshape(-1, 3)
    starts, ends = np.concatenate([starts, centres[:-1]]), np.concatenate([ends, centres[1:]])
    edge_colors = np.concatenate([np.repeat(colors[drawn], 8, 0), colors[:-1]])
    along = np.linspace(0, 1, samples)[None, :, None]
    points = starts[:, None] * (1 - along) + ends[:, None] * along
    return points.reshape(-1, 3), np.repeat(edge_colors, samples, 0)


def spaced_cameras(poses: np.ndarray, depth: float) -> np.ndarray:
    """Indices of frames whose drawn frusta of length `depth` do not lie on top of each other; the first and last are among them.

    Args:
        poses: (F, 4, 4) camera-to-world.
        depth: Length of the drawn frusta.

    Returns:
        (D,) int64, ascending.
    """
    drawn = [0]
    for index in range(1, len(poses)):
        moved = np.linalg.norm(poses[index, :3, 3] - poses[drawn[-1], :3, 3]) / depth
        turned = np.linalg.norm(poses[index, :3, 2] - poses[drawn[-1], :3, 2])
        if moved + turned > 0.35:
            drawn.append(index)
    last = len(poses) - 1
    if drawn[-1] != last:
        # The last frame takes the place of a neighbour that it would hide.
        drawn = [*(drawn[:-1] if len(drawn) > 1 else drawn), last]
    return np.array(drawn)


def orbit_views(
    scene: Scene, cloud: PointCloud, angles_deg: np.ndarray, size: tuple[int, int], *, raise_deg: float = 14.0
) -> list[View]:
    """Views on a circle around cloud and cameras, all of one focal length, such that both stay in the picture.

    Args:
        scene: Supplies the cameras; angle 0 stands behind the middle one, a little higher.
        cloud: What is looked at.
        angles_deg: (A,) positions on the circle, to the right when positive.
        size: (H, W) of the drawn images.
        raise_deg: Height of the circle as an angle above the clip's own line of sight.

    Returns:
        A views.
    """
    low, high = np.quantile(cloud.points, [0.02, 0.98], axis=0)
    inner = cloud.points[((cloud.points >= low) & (cloud.points <= high)).all(1)]
    shown = np.concatenate([inner[:: max(1, len(inner) // 5000)], scene.poses[:, :3, 3]])
    middle = scene.poses[scene.num_frames // 2]
    target = (shown.min(0) + shown.max(0)) / 2
    reach = max(float(np.linalg.norm(shown - target, axis=1).max()), 1e-6)
    # The clip's own line of sight, seen from its other end.
    azimuth = np.arctan2(-middle[0, 2], -middle[2, 2])
    elevation = np.clip(np.arcsin(np.clip(middle[1, 2], -1, 1)) + np.deg2rad(raise_deg), -1.3, 1.3)
    poses = []
    for angle in np.deg2rad(angles_deg):
        # Seen from above (y down), turning to the right is towards smaller azimuth of the arm.
        turned = azimuth - angle
        arm = np.array([np.sin(turned) * np.cos(elevation), -np.sin(elevation), np.cos(turned) * np.cos(elevation)])
        poses.append(look_at(target + 2.6 * reach * arm, target))
    focal_px = min(_fitting_focal(pose, shown, size) for pose in poses)
    return [View(pose, focal_px, size) for pose in poses]


def _fitting_focal(pose: np.ndarray, shown: np.ndarray, size: tuple[int, int]) -> float:
    """The largest focal length in pixels at which points (N, 3) stay inside the picture with a margin."""
    in_camera = (shown - pose[:3, 3]) @ pose[:3, :3]
    slopes = np.abs(in_camera[:, :2] / in_camera[:, 2:]).max(0)
    return float(0.46 * np.min([size[1], size[0]] / np.maximum(slopes, 1e-9)))


def point_radius(scene: Scene, cloud: PointCloud) -> np.ndarray:
    """Half the side (N,) of what one pixel covers at each point, so that a surface seen by one frame closes; dots if sparse."""
    poses = scene.poses[cloud.frame]
    z = np.einsum("ni,ni->n", cloud.points - poses[:, :3, 3], poses[:, :3, 2])
    if scene.pointmaps is None:
        return _DOT * z
    pixel = z / np.sqrt(scene.intrinsics[:, 0, 0] * scene.intrinsics[:, 1, 1])[cloud.frame]
    # Most surfaces are seen by a few frames at least, which fill each other's gaps.
    kept = min(scene.num_frames, 3) * len(cloud) / scene.confidence.size
    return 0.55 * pixel / np.sqrt(np.clip(kept, 1e-3, 1))


def turntable_video(
    scene: Scene,
    *,
    num_views: int = 72,
    size: tuple[int, int] = (480, 640),
    fps: float = 24.0,
    sweep_deg: float = 60.0,
    cameras: bool = True,
    max_points: int = 60_000,
) -> bytes:
    """An MP4 that goes around the cloud.

    Below 360 degrees it swings out and back as a pendulum (a clip sees things from one side only; from behind a cloud is
    hollow), at 360 it turns full circle; both loop without a jump.

    Args:
        scene: A scene with points.
        num_views: Frames of the video.
        size: (H, W) of the video.
        fps: Frames per second.
        sweep_deg: In (0, 360]: full width of the swing.
        cameras: Draw the cameras.
        max_points: Size of the drawn cloud.

    Returns:
        The file's bytes.

    Raises:
        ValueError: `sweep_deg` or `num_views` out of range, or no points.
    """
    if not 0 < sweep_deg <= 360 or num_views < 1:
        raise ValueError(f"need 0 < sweep_deg <= 360 and num_views >= 1, got {sweep_deg!r} and {num_views!r}")
    scene = scene.posed(pictures=False)
    cloud = scene.points(min_confidence_quantile=0.1, max_points=max_points)
    points, colors, radius = cloud.points, cloud.colors, point_radius(scene, cloud)
    if cameras:
        length = camera_size(scene.poses, scene.median_depth())
        lines, line_colors = camera_lines(scene, length)
        points, colors = np.concatenate([points, lines]), np.concatenate([colors, line_colors])
        radius = np.concatenate([radius, np.full(len(lines), LINE_RADIUS * length)])
    turn = np.arange(num_views) / num_views
    angles = 360 * turn if sweep_deg == 360 else sweep_deg / 2 * np.sin(2 * np.pi * turn)
    views = orbit_views(scene, cloud, angles, size)
    return encode_video(np.stack([render_points(view, points, colors, radius) for view in views]), fps, scale=1)


def _eye_dome(depth: np.ndarray, strength: float, reach: int) -> np.ndarray:
    """Factor (H, W) in (0, 1]: darker the further a pixel lies behind those `reach` pixels away; background stays 1."""
    seen = np.isfinite(depth)
    log_depth = np.where(seen, np.log(np.where(seen, depth, np.float32(1))), np.float32(np.nan))
    behind = np.zeros_like(depth)
    for shift, axis in ((reach, 0), (-reach, 0), (reach, 1), (-reach, 1)):
        gap = log_depth - np.roll(log_depth, shift, axis)
        np.moveaxis(gap, axis, 0)[slice(0, shift) if shift > 0 else slice(shift, None)] = (
            0  # what came round from the other border
        )
        behind += np.clip(np.nan_to_num(gap, nan=0.0), 0, 0.05)
    return np.where(seen, np.exp(np.float32(-strength * 20) * behind), np.float32(1))
