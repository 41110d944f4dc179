"""Where things stand and how the camera goes: a camera path, furniture in its view, and a room around both.

Room frame: y down with the floor at 0, x and z along the walls; the path starts above the origin. Metres, radians.
The start frame is the room frame turned about the vertical so that the first camera looks along +z.
"""

from dataclasses import dataclass

import numpy as np

from jog3r.data.procedural.scene_grammar import PALETTE, Draw, SceneWords
from jog3r.data.procedural.scene_objects import Furniture, build_furniture

CLEARANCE = 0.35
"""Least distance in metres between the camera and any object; walls keep more."""

_WALL_CLEARANCE = 0.5
_PATH_STEPS = 33
_VIEW_U = (0.0, 0.5, 1.0)
_VIEW_RAYS = 16


@dataclass(frozen=True)
class CameraPath:
    """A continuous path, a function of u in [0, 1]."""

    motion: str
    extent: float
    """Metres for "moves", radians for "orbits" and "turns"."""
    radius: float
    """Metres from the camera to the point it orbits (ahead) or turns about (behind)."""
    ease: float
    height: float
    pitch: float
    drift: tuple[tuple[float, float, float], ...]
    """Amplitude, frequency and phase of the drift of yaw, pitch, height and lateral position."""
    focal: float
    """Focal length in image widths."""
    zoom: float
    """Relative change of the focal length from u = 0 to 1."""
    room_yaw: float
    """Turn of the start frame in the room."""

    def cam_to_room(self, u: np.ndarray) -> np.ndarray:
        """Camera-to-room poses (n, 4, 4), float64, at the path parameters `u` (n,)."""
        x, z, yaw = self._main_motion(u)
        yaw_drift, pitch_drift, height_drift, lateral_drift = (_drift(u, *values) for values in self.drift)
        yaw = yaw + yaw_drift + self.room_yaw
        pitch = self.pitch + pitch_drift
        x = x + lateral_drift if self.motion in ("moves forward", "moves backward") else x
        c, s = np.cos(self.room_yaw), np.sin(self.room_yaw)
        poses = np.zeros((len(u), 4, 4))
        cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
        poses[:, 0, 0], poses[:, 0, 1], poses[:, 0, 2] = cy, -sy * sp, sy * cp
        poses[:, 1, 1], poses[:, 1, 2] = cp, sp
        poses[:, 2, 0], poses[:, 2, 1], poses[:, 2, 2] = -sy, -cy * sp, cy * cp
        poses[:, 0, 3], poses[:, 1, 3], poses[:, 2, 3] = c * x + s * z, -self.height - height_drift, -s * x + c * z
        poses[:, 3, 3] = 1.0
        return poses  # (n, 4, 4)

    def focal_at(self, u: np.ndarray) -> np.ndarray:
        """Focal lengths (n,) in image widths."""
        return self.focal * (1.0 + self.zoom * u)

    def _main_motion(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, z and yaw of the named motion in the start frame, before drift."""
        s = self.extent * ((1.0 - self.ease) * u + self.ease * u * u * (3.0 - 2.0 * u))
        verb, direction = self.motion.split(" ")
        sign = 1.0 if direction in ("forward", "right") else -1.0
        if verb == "orbits":
            # Walking to the left around a point ahead means turning to the right, and the reverse.
            return sign * self.radius * np.sin(s), self.radius * (1.0 - np.cos(s)), -sign * s
        if verb == "turns":
            return sign * self.radius * np.sin(s), self.radius * (np.cos(s) - 1.0), sign * s
        zero = np.zeros_like(u)
        return (sign * s, zero, zero) if direction in ("left", "right") else (zero, sign * s, zero)


@dataclass(frozen=True)
class PlacedObject:
    """Furniture standing in the room: x, z of its origin, and its turn about the vertical."""

    furniture: Furniture
    x: float
    z: float
    yaw: float


@dataclass(frozen=True)
class Layout:
    """A scene: the room's x, y, z range, its objects and the camera path."""

    room_low: np.ndarray
    room_high: np.ndarray
    objects: tuple[PlacedObject, ...]
    path: CameraPath


def _drift(u: np.ndarray, amplitude: float, frequency: float, phase: float) -> np.ndarray:
    """A slow wave that is 0 at u = 0 and stays within +-amplitude."""
    return 0.5 * amplitude * (np.sin(2 * np.pi * (frequency * u + phase)) - np.sin(2 * np.pi * phase))


def draw_path(draw: Draw, motion: str) -> CameraPath:
    """A random path of one of `scene_grammar.MOTIONS`."""
    verb, direction = motion.split(" ")
    radius = 0.0
    if verb == "orbits":
        extent, radius = np.deg2rad(draw.uniform(25.0, 55.0)), draw.uniform(2.0, 3.0)
    elif verb == "turns":
        extent, radius = np.deg2rad(draw.uniform(20.0, 45.0)), draw.uniform(0.4, 0.8)
    elif direction in ("left", "right"):
        extent = draw.uniform(0.7, 1.6)
    else:
        extent = draw.uniform(0.9, 2.2)
    ranges = (np.deg2rad(3.0), np.deg2rad(3.0), 0.1, 0.12)
    drift = tuple((draw.uniform(0.3, 1.0) * top, draw.uniform(0.3, 0.8), draw.uniform(0.0, 1.0)) for top in ranges)
    return CameraPath(
        motion, float(extent), radius, draw.uniform(0.3, 1.0) if draw.chance(0.6) else 0.0,
        height=draw.uniform(1.15, 1.6), pitch=np.deg2rad(draw.uniform(7.0, 15.0)), drift=drift,
        focal=draw.uniform(50.0, 72.0) / 64.0, zoom=draw.uniform(-0.08, 0.08) if draw.chance(0.25) else 0.0,
        room_yaw=draw.uniform(-np.pi, np.pi),
    )  # fmt: skip


def _place(draw: Draw, furniture: list[Furniture], path: CameraPath, stretch: float) -> list[PlacedObject]:
    """Positions in the directions the camera looks to, somewhere between the first and the last frame."""
    verb, direction = path.motion.split(" ")
    shift_angle = shift_x = 0.0
    sign = {"left": -1.0, "right": 1.0}.get(direction, 0.0)
    near, far = 2.0, 3.2
    if verb == "turns":
        shift_angle = sign * path.extent * draw.uniform(0.28, 0.5)
    elif verb == "orbits":
        near, far = path.radius - 0.2, path.radius + 0.6
    elif direction == "forward":
        near, far = path.extent + 1.2, path.extent + 2.0
    elif direction == "backward":
        near, far = 1.7, 2.5
    else:
        shift_x = sign * path.extent * draw.uniform(0.2, 0.5)
    # Half the horizontal view angle, so that a longer lens gathers the objects more closely.
    half_view = np.arctan(0.5 / path.focal)
    slots = {1: (0.0,), 2: (-0.5, 0.5), 3: (-0.72, 0.0, 0.72)}[len(furniture)]
    placed = []
    for slot, item in zip(slots, furniture, strict=True):
        angle = shift_angle + half_view * (slot + draw.uniform(-0.28, 0.28))
        distance = stretch * (draw.uniform(near, far) + max(0.0, max(item.footprint) - 0.6))
        x, z = distance * np.sin(angle) + shift_x, distance * np.cos(angle)
        c, s = np.cos(path.room_yaw), np.sin(path.room_yaw)
        x, z = c * x + s * z, -s * x + c * z
        facing = np.arctan2(x, z)
        quarter = np.pi / 2 * np.round(facing / (np.pi / 2) + draw.uniform(-0.25, 0.25))
        yaw = quarter if draw.chance(0.65) else facing + draw.uniform(-0.8, 0.8)
        placed.append(PlacedObject(item, float(x), float(z), float(yaw)))
    return placed


def footprint_distance(item: PlacedObject, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Horizontal distance in metres (0 inside) of room points to an object's footprint."""
    c, s = np.cos(item.yaw), np.sin(item.yaw)
    dx, dz = x - item.x, z - item.z
    across = np.maximum(np.abs(c * dx - s * dz) - item.furniture.footprint[0], 0.0)
    along = np.maximum(np.abs(s * dx + c * dz) - item.furniture.footprint[1], 0.0)
    return np.hypot(across, along)


def _corners(item: PlacedObject) -> np.ndarray:
    """Footprint corners (4, 2) as room x, z."""
    hx, hz = item.furniture.footprint
    c, s = np.cos(item.yaw), np.sin(item.yaw)
    local = np.array([[-hx, -hz], [hx, -hz], [hx, hz], [-hx, hz]])
    return local @ np.array([[c, -s], [s, c]]) + [item.x, item.z]


def _overlap(a: PlacedObject, b: PlacedObject, gap: float = 0.08) -> bool:
    """Whether two footprints come closer than about `gap`: separating axes of two rectangles."""
    corners_a, corners_b = _corners(a), _corners(b)
    for yaw in (a.yaw, b.yaw):
        c, s = np.cos(yaw), np.sin(yaw)
        axes = np.array([[c, s], [-s, c]])
        p, q = corners_a @ axes, corners_b @ axes
        if np.any((p.min(0) > q.max(0) + gap) | (q.min(0) > p.max(0) + gap)):
            return False
    return True


def _visible_share(objects: list[PlacedObject], path: CameraPath) -> np.ndarray:
    """Share of a coarse square picture filled by each object's core box, (views, objects), occlusion included."""
    u = np.array(_VIEW_U)
    poses, focal = path.cam_to_room(u), path.focal_at(u)
    grid = (np.arange(_VIEW_RAYS) + 0.5) / _VIEW_RAYS - 0.5
    rays = np.stack(np.broadcast_arrays(grid[None, :], grid[:, None], 1.0), -1).reshape(1, -1, 3)
    rays = rays / np.stack([focal, focal, np.ones_like(focal)], -1)[:, None]  # (views, rays, 3)
    rays = rays @ poses[:, :3, :3].transpose(0, 2, 1)
    nearest = np.full(rays.shape[:2], np.inf)
    owner = np.full(rays.shape[:2], -1)
    for number, item in enumerate(objects):
        c, s = np.cos(item.yaw), np.sin(item.yaw)
        turn = np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])  # object to room
        direction = rays @ turn
        origin = (poses[:, :3, 3] - [item.x, 0.0, item.z]) @ turn
        low, high = np.array(item.furniture.core[:3]), np.array(item.furniture.core[3:])
        first = (low - origin)[:, None] / direction
        second = (high - origin)[:, None] / direction
        enter, leave = np.minimum(first, second).max(-1), np.maximum(first, second).min(-1)
        hit = (enter < leave) & (enter > 0) & (enter < nearest)
        nearest[hit], owner[hit] = enter[hit], number
    return np.stack([(owner == number).mean(-1) for number in range(len(objects))], -1)


def draw_layout(draw: Draw, words: SceneWords, path: CameraPath | None = None, spare: float = 1.0) -> Layout:
    """A layout in which every object of `words` is seen in the clip and the camera keeps its clearance.

    Args:
        draw: source of chance.
        words: what is in the room.
        path: of the camera; None draws one.
        spare: most metres between what the room must hold and each wall.
    """
    path = path or draw_path(draw, words.motion)
    furniture = [build_furniture(draw, kind, PALETTE["objects"][colour]) for colour, kind in words.objects]
    furniture.sort(key=lambda _: draw.uniform(0.0, 1.0))
    positions = path.cam_to_room(np.linspace(0.0, 1.0, _PATH_STEPS))[:, :3, 3]
    best: list[PlacedObject] = []
    best_score = -1.0
    for attempt in range(400):
        # Objects move away a little with each failure, which ends collisions with the path and with each other.
        objects = _place(draw, furniture, path, stretch=1.0 + 0.007 * attempt)
        clear = min(footprint_distance(item, positions[:, 0], positions[:, 2]).min() for item in objects) >= CLEARANCE
        if not clear or any(_overlap(a, b) for i, a in enumerate(objects) for b in objects[:i]):
            continue
        share = _visible_share(objects, path)
        score = float(min(share.max(0).min() / 0.022, share[0].sum() / 0.07, 1.0))
        if score > best_score:
            best, best_score = objects, score
        if best_score >= 1.0 or (attempt >= 60 and best_score > 0.0):
            break
    if not best:
        raise RuntimeError(f"no free place was found for {words.objects}: widen _place's ranges")
    low, high = _room_around(draw, best, positions, spare)
    return Layout(low, high, tuple(best), path)


def _room_around(draw: Draw, objects: list[PlacedObject], positions: np.ndarray, spare: float) -> tuple[np.ndarray, np.ndarray]:
    """x, y, z range of a room that holds the path and the objects, with random space left over."""
    corners = np.concatenate([_corners(item) for item in objects])
    path = positions[:, [0, 2]]
    low = np.minimum(path.min(0) - _WALL_CLEARANCE, corners.min(0) - 0.04)
    high = np.maximum(path.max(0) + _WALL_CLEARANCE, corners.max(0) + 0.04)
    for axis in range(2):
        low[axis] -= draw.uniform(0.0, spare)
        high[axis] += draw.uniform(0.0, spare)
        missing = max(0.0, draw.uniform(3.2, 4.2) - (high[axis] - low[axis]))
        share = draw.uniform(0.2, 0.8)
        low[axis] -= missing * share
        high[axis] += missing * (1.0 - share)
    ceiling = -draw.uniform(2.4, 2.9)
    return np.array([low[0], ceiling, low[1]]), np.array([high[0], 0.0, high[1]])
