"""Rendered scenes at rest with textured surfaces and exactly known cameras, for tests and benchmarks of cameras from tracks."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RenderedClip:
    """F frames with true cameras."""

    frames: np.ndarray
    """(F, H, W, 3) uint8."""
    poses: np.ndarray
    """(F, 4, 4) camera-to-world, the first the identity."""
    intrinsics: np.ndarray
    """(3, 3) in pixels, pixel centres at integers, principal point (W / 2, H / 2)."""
    depth: np.ndarray
    """(F, H, W) z in each camera, mean of 1/z over a pixel's rays, inverted."""


@dataclass(frozen=True)
class _Panel:
    """A textured parallelogram corner + s u + t v, 0 <= s, t <= 1."""

    corner: np.ndarray
    u: np.ndarray
    v: np.ndarray
    texture: np.ndarray  # (h, w, 3)


def noise_texture(rng: np.random.Generator, size: int, contrast: float = 1.0) -> np.ndarray:
    """(size, size, 3) in 0..255: blocks of random colours of many sizes, of which every resolution shows some."""
    total, weight = np.zeros((size, size, 3)), 0.0
    block = 2
    while block <= size // 2:
        coarse = rng.random((size // block, size // block, 3))
        grown = np.kron(coarse, np.ones((block, block, 1)))
        total += block**0.3 * np.pad(grown, ((0, size - len(grown)), (0, size - len(grown)), (0, 0)), mode="edge")
        weight += block**0.3
        block *= 2
    deviation = (total / weight - 0.5) * 2.2 * contrast
    return 255 * np.clip(0.5 + deviation, 0, 1)


def make_room(seed: int = 0, contrast: float = 1.0) -> list[_Panel]:
    """A room, 5 wide, 3 high, 6 deep ahead of the first camera, with panels that stand in it at several depths."""
    rng = np.random.default_rng(seed)
    x, y, z = 2.5 * np.eye(3)[0], 1.5 * np.eye(3)[1], np.eye(3)[2]
    walls = [
        (-x - y + 5 * z, 2 * x, 2 * y),  # ahead
        (-x - y - z, 6 * z, 2 * y),  # left
        (x - y - z, 6 * z, 2 * y),  # right
        (-x + y - z, 2 * x, 6 * z),  # floor
        (-x - y - z, 2 * x, 6 * z),  # ceiling
        (-x - y - z, 2 * x, 2 * y),  # behind
    ]
    for _ in range(6):
        depth, across, size = rng.uniform(1.8, 4.5), rng.uniform(-1.8, 1.4), rng.uniform(0.4, 0.9)
        walls.append((np.array([across, rng.uniform(-0.6, 0.8), depth]), np.array([size, 0, rng.uniform(-0.3, 0.3)]), 0.7 * y))
    return [_Panel(corner, u, v, noise_texture(rng, 256, contrast)) for corner, u, v in walls]


def render(
    panels: list[_Panel],
    poses: np.ndarray,
    size: tuple[int, int],
    focal_px: float,
    aspect: float = 1.0,
    samples: int = 2,
    distortion: float = 0.0,
) -> RenderedClip:
    """Render F frames of `size` (H, W); `aspect` is fy / fx; samples x samples rays a pixel; `distortion` of the lens."""
    height, width = size
    intrinsics = np.array([[focal_px, 0, width / 2], [0, aspect * focal_px, height / 2], [0, 0, 1.0]])
    step = (np.arange(samples) + 0.5) / samples - 0.5
    rows = (np.arange(height)[:, None] + step).reshape(-1)
    columns = (np.arange(width)[:, None] + step).reshape(-1)
    grid = np.stack([*np.meshgrid(columns, rows), np.ones((len(rows), len(columns)))], -1) @ np.linalg.inv(intrinsics).T
    grid[..., :2] /= 1 + distortion * (grid[..., :2] ** 2).sum(-1, keepdims=True)
    frames, depth = [], []
    for pose in poses:
        colors, distance = _cast(panels, grid.reshape(-1, 3) @ pose[:3, :3].T, pose[:3, 3])
        image = colors.reshape(height, samples, width, samples, 3).mean((1, 3))
        frames.append(image.round().astype(np.uint8))
        # Rays have z = 1 in their camera: distances along them are depths.
        with np.errstate(divide="ignore"):  # a ray that meets nothing
            depth.append(1 / (1 / distance).reshape(height, samples, width, samples).mean((1, 3)))
    return RenderedClip(np.stack(frames), np.linalg.inv(poses[:1]) @ poses, intrinsics, np.stack(depth))


def _cast(panels: list[_Panel], rays: np.ndarray, origin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colours (R, 3) and lengths (R,) of rays (R, 3) up to what they meet."""
    nearest, colors = np.full(len(rays), np.inf), np.zeros((len(rays), 3))
    for panel in panels:
        # origin + d ray = corner + s u + t v
        normal = np.cross(panel.u, panel.v)
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = ((panel.corner - origin) @ normal) / (rays @ normal)
        ahead = np.flatnonzero((distance > 1e-6) & (distance < nearest))
        local = origin + distance[ahead, None] * rays[ahead] - panel.corner
        s, t = local @ panel.u / (panel.u @ panel.u), local @ panel.v / (panel.v @ panel.v)
        inside = (s >= 0) & (s < 1) & (t >= 0) & (t < 1)
        hit = ahead[inside]
        nearest[hit] = distance[hit]
        colors[hit] = _look_up(panel.texture, s[inside], t[inside])
    return colors, nearest


def _look_up(texture: np.ndarray, s: np.ndarray, t: np.ndarray) -> np.ndarray:
    high = np.array(texture.shape[:2]) - 1
    row, column = t * high[0], s * high[1]
    top, left = np.floor(row).astype(int), np.floor(column).astype(int)
    down, right = np.minimum(top + 1, high[0]), np.minimum(left + 1, high[1])
    a, b = (row - top)[:, None], (column - left)[:, None]
    upper = (1 - b) * texture[top, left] + b * texture[top, right]
    lower = (1 - b) * texture[down, left] + b * texture[down, right]
    return (1 - a) * upper + a * lower


def path(num_frames: int, sideways: float = 0.0, forward: float = 0.0, turn_deg: float = 0.0) -> np.ndarray:
    """(F, 4, 4) camera-to-world poses that move evenly to the end given, with some sway, and turn about y."""
    share = np.linspace(0, 1, num_frames)
    poses = np.tile(np.eye(4), (num_frames, 1, 1))
    angle = np.radians(turn_deg) * share
    poses[:, 0, 0] = poses[:, 2, 2] = np.cos(angle)
    poses[:, 0, 2], poses[:, 2, 0] = np.sin(angle), -np.sin(angle)
    motion = abs(sideways) + abs(forward)
    poses[:, :3, 3] = np.stack([sideways * share, 0.1 * motion * np.sin(3 * share), forward * share], 1)
    return poses
