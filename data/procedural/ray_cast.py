"""Exact ray casting of a room with furniture: analytic intersections, no meshes, no noise.

A ray's direction has length 1 along the camera's z, so its parameter t is the z depth. Each pixel has five rays:
four for the colour (a regular 2 x 2 grid, averaged) and one through its centre for the depth. Letters: R rays of a frame.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jog3r.data.procedural.room_surfaces import RoomStyle, shade_room
from jog3r.data.procedural.scene_layout import Layout, PlacedObject
from jog3r.data.procedural.scene_objects import Solid
from jog3r.data.procedural.varied_scenes import SurfaceTexture

_OFFSETS = np.array([[-0.25, -0.25], [0.25, -0.25], [-0.25, 0.25], [0.25, 0.25], [0.0, 0.0]], np.float32)
_CENTRE = 4
_NEAR = 1e-3


@dataclass
class _Frame:
    """Buffers of one frame, each (5, H, W); `colour` indexes a table, `shade` multiplies its entry."""

    direction: tuple[np.ndarray, np.ndarray, np.ndarray]
    origin: np.ndarray
    depth: np.ndarray
    colour: np.ndarray
    shade: np.ndarray


@dataclass(frozen=True)
class _Turned:
    """Rays inside a window of the picture, in an object's frame."""

    window: tuple[slice, slice, slice]
    origin: np.ndarray
    direction: list[np.ndarray]
    inverse: list[np.ndarray]


def render(
    layout: Layout,
    style: RoomStyle,
    cam_to_room: np.ndarray,
    focal_px: np.ndarray,
    height: int,
    width: int,
    draw_texture: Callable[[int], SurfaceTexture] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a scene.

    Args:
        layout: room, objects (the path is not used).
        style: colours and textures of the room, and the light.
        cam_to_room: (F, 4, 4) float64 poses.
        focal_px: (F,) focal lengths in pixels; the principal point is (W/2, H/2), pixel centres are integers.
        height: H in pixels.
        width: W in pixels.
        draw_texture: number of surfaces -> what their colours are multiplied by.

    Returns:
        Frames (F, H, W, 3) uint8 and z depth (F, H, W) float32.
    """
    colours = [*style.colours]
    first_colour = []
    for item in layout.objects:
        first_colour.append(len(colours))
        colours += [solid.colour for solid in item.furniture.solids]
    table = np.array(colours, np.float32)
    texture = None if draw_texture is None else draw_texture(len(table))
    windows = [_solid_windows(item, cam_to_room, focal_px, height, width) for item in layout.objects]
    frames = np.empty((len(cam_to_room), height, width, 3), np.uint8)
    depth = np.empty((len(cam_to_room), height, width), np.float32)
    for number, (pose, focal) in enumerate(zip(cam_to_room, focal_px, strict=True)):
        frame = _start(pose, float(focal), height, width)
        room_depth, wall = _room_depth(frame, layout)
        frame.depth = room_depth
        for item, first, window in zip(layout.objects, first_colour, windows, strict=True):
            _cast_object(frame, item, first, window[number], style.light)
        shade_room(layout, style, frame.origin, frame.direction, frame.depth, wall, frame.colour, frame.shade)
        rgb = table[frame.colour[:_CENTRE]]  # (4, H, W, 3)
        rgb *= frame.shade[:_CENTRE, ..., None]
        if texture is not None:
            reach = frame.depth[:_CENTRE]
            points = np.stack(
                [np.float32(o) + d[:_CENTRE] * reach for o, d in zip(frame.origin, frame.direction, strict=True)], -1
            )
            rgb *= texture.factor(points, frame.colour[:_CENTRE], reach / np.float32(focal))
        frames[number] = np.minimum(rgb.sum(0) * 0.25 + 0.5, 255.0).astype(np.uint8)
        depth[number] = frame.depth[_CENTRE]
    return frames, depth


def _start(pose: np.ndarray, focal_px: float, height: int, width: int) -> _Frame:
    """Rays of a frame in the room, and empty buffers."""
    x = (np.arange(width, dtype=np.float32) + _OFFSETS[:, :1] - width / 2) / np.float32(focal_px)
    y = (np.arange(height, dtype=np.float32) + _OFFSETS[:, 1:] - height / 2) / np.float32(focal_px)
    x, y = x[:, None, :].astype(np.float32), y[:, :, None].astype(np.float32)  # (5, 1, W), (5, H, 1)
    turn = pose[:3, :3].astype(np.float32)
    across, down, along = (np.ascontiguousarray((turn[i, 0] * x + turn[i, 2]) + turn[i, 1] * y) for i in range(3))
    shape = across.shape
    empty = np.zeros(shape, np.float32)
    colour, shade = np.full(shape, 255, np.uint8), np.ones(shape, np.float32)
    return _Frame((across, down, along), pose[:3, 3].copy(), empty, colour, shade)


def _room_depth(frame: _Frame, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Depth of the walls around the camera, and which: 0, 1 low and high x; 2, 3 ceiling and floor; 4, 5 low and high z."""
    low, high = (layout.room_low - frame.origin).astype(np.float32), (layout.room_high - frame.origin).astype(np.float32)
    exits = []
    with np.errstate(divide="ignore"):
        for axis in range(3):
            # Magnitudes, so that a ray along a wall leaves at plus infinity whatever the sign of its zero.
            direction = frame.direction[axis]
            exits.append(np.where(direction > 0, high[axis], -low[axis]) / np.abs(direction))
    depth = np.minimum(np.minimum(exits[0], exits[1]), exits[2])
    side = np.where(depth == exits[1], np.uint8(1), np.where(depth == exits[0], np.uint8(0), np.uint8(2)))
    positive = np.where(side == 1, frame.direction[1] > 0, np.where(side == 0, frame.direction[0] > 0, frame.direction[2] > 0))
    return depth, side * np.uint8(2) + positive


def _solid_windows(item: PlacedObject, cam_to_room: np.ndarray, focal_px: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixel windows (F, solids, 4) as row start, row stop, column start, column stop; empty ones start at their stop."""
    centre = np.array([solid.centre for solid in item.furniture.solids])
    half = np.array([solid.half for solid in item.furniture.solids])
    signs = np.array([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)])
    points = centre[:, None] + half[:, None] * signs  # (solids, 8, 3)
    c, s = np.cos(item.yaw), np.sin(item.yaw)
    points = points @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]]) + [item.x, 0, item.z]
    local = np.einsum("fji,fsj->fsi", cam_to_room[:, :3, :3], (points.reshape(1, -1, 3) - cam_to_room[:, None, :3, 3]))
    local = local.reshape(len(cam_to_room), len(centre), 8, 3)
    z = np.maximum(local[..., 2], _NEAR)
    x = local[..., 0] / z * focal_px[:, None, None] + width / 2
    y = local[..., 1] / z * focal_px[:, None, None] + height / 2
    edges = [y.min(-1), y.max(-1) + 2, x.min(-1), x.max(-1) + 2]
    limits = (height, height, width, width)
    window = np.stack([np.clip(np.floor(e), 0, limit) for e, limit in zip(edges, limits, strict=True)], -1).astype(int)
    behind, partly = (local[..., 2] < _NEAR).all(-1), (local[..., 2] < _NEAR).any(-1)
    window[partly] = (0, height, 0, width)
    window[behind] = 0
    return window


def _cast_object(frame: _Frame, item: PlacedObject, first_colour: int, windows: np.ndarray, light: np.ndarray) -> None:
    """Cast all solids of an object into the frame's buffers."""
    seen = (windows[:, 0] < windows[:, 1]) & (windows[:, 2] < windows[:, 3])
    if not seen.any():
        return
    rows = slice(int(windows[seen, 0].min()), int(windows[seen, 1].max()))
    columns = slice(int(windows[seen, 2].min()), int(windows[seen, 3].max()))
    whole = (slice(None), rows, columns)
    c, s = np.float32(np.cos(item.yaw)), np.float32(np.sin(item.yaw))
    x, y, z = (values[whole] for values in frame.direction)
    direction = [c * x - s * z, np.ascontiguousarray(y), s * x + c * z]
    with np.errstate(divide="ignore"):
        inverse = [1.0 / values for values in direction]
    ox, oy, oz = frame.origin[0] - item.x, frame.origin[1], frame.origin[2] - item.z
    origin = np.array([np.cos(item.yaw) * ox - np.sin(item.yaw) * oz, oy, np.sin(item.yaw) * ox + np.cos(item.yaw) * oz])
    sun = np.array([c * light[0] - s * light[2], light[1], s * light[0] + c * light[2]])
    for number in np.flatnonzero(seen):
        r0, r1, c0, c1 = (int(value) for value in windows[number])
        inner = (slice(None), slice(r0 - rows.start, r1 - rows.start), slice(c0 - columns.start, c1 - columns.start))
        rays = _Turned(
            (slice(None), slice(r0, r1), slice(c0, c1)), origin, [v[inner] for v in direction], [v[inner] for v in inverse]
        )
        solid = item.furniture.solids[number]
        cast = _cast_box if solid.shape == "box" else _cast_round
        with np.errstate(invalid="ignore", divide="ignore"):
            cast(frame, rays, solid, first_colour + int(number), sun)


def light_factor(cosine: np.ndarray | float) -> np.ndarray | float:
    """Brightness of a face whose normal has this cosine with the light: ambient light plus Lambert, going on below 0."""
    return 0.77 + 0.27 * cosine


def _slab(
    origin: float, low: float, high: float, direction: np.ndarray, inverse: np.ndarray
) -> tuple[np.ndarray | None, np.ndarray]:
    """Where rays enter (None if the camera lies between the planes) and leave the space between two planes."""
    below, above = np.float32(low - origin), np.float32(high - origin)
    if below > 0:
        return below * inverse, above * inverse
    if above < 0:
        return above * inverse, below * inverse
    return None, np.where(direction > 0, above, -below) * np.abs(inverse)


def _write(frame: _Frame, rays: _Turned, hit: np.ndarray, depth: np.ndarray, colour: int, shade: np.ndarray | np.float32) -> None:
    np.copyto(frame.depth[rays.window], depth, where=hit)
    np.copyto(frame.colour[rays.window], np.uint8(colour), where=hit)
    np.copyto(frame.shade[rays.window], shade, where=hit, casting="same_kind")


def _cast_box(frame: _Frame, rays: _Turned, solid: Solid, colour: int, light: np.ndarray) -> None:
    enter: np.ndarray | None = None
    leave: np.ndarray | None = None
    shade: np.ndarray | np.float32 = np.float32(1.0)
    for axis in range(3):
        low, high = solid.centre[axis] - solid.half[axis], solid.centre[axis] + solid.half[axis]
        near, far = _slab(rays.origin[axis], low, high, rays.direction[axis], rays.inverse[axis])
        leave = far if leave is None else np.minimum(leave, far)
        if near is None:
            continue
        # The camera sees the low face of an axis when it stands below it, whatever the ray.
        factor = np.float32(light_factor(light[axis] if rays.origin[axis] > high else -light[axis]))
        if enter is None:
            enter, shade = near, factor
        else:
            shade = np.where(near > enter, factor, shade)
            enter = np.maximum(enter, near)
    if enter is None or leave is None:
        return
    hit = (enter < leave) & (enter > _NEAR) & (enter < frame.depth[rays.window])
    _write(frame, rays, hit, enter, colour, shade)


def _cast_round(frame: _Frame, rays: _Turned, solid: Solid, colour: int, light: np.ndarray) -> None:
    """Upright cylinders and ellipsoids: a quadratic in space scaled to radius 1; a cylinder is cut by two planes."""
    upright = solid.shape == "cylinder"
    axes = (0, 2) if upright else (0, 1, 2)
    scale = [np.float32(1.0 / solid.half[axis]) for axis in range(3)]
    start = [np.float32((rays.origin[axis] - solid.centre[axis]) / solid.half[axis]) for axis in range(3)]
    unit = {axis: rays.direction[axis] * scale[axis] for axis in axes}
    a, b = np.zeros_like(rays.direction[0]), np.zeros_like(rays.direction[0])
    for axis in axes:
        a += unit[axis] * unit[axis]
        b += unit[axis] * start[axis]
    rest = np.float32(sum(float(start[axis]) ** 2 for axis in axes) - 1.0)
    root = np.sqrt(b * b - a * rest)  # NaN where the ray passes by, which every comparison below then refuses
    enter, leave, cap = (-b - root) / a, (root - b) / a, None
    if upright:
        near, far = _slab(
            rays.origin[1], solid.centre[1] - solid.half[1], solid.centre[1] + solid.half[1], rays.direction[1], rays.inverse[1]
        )
        leave = np.minimum(leave, far)
        if near is not None:
            cap = near > enter
            enter = np.where(cap, near, enter)
    hit = (enter < leave) & (enter > _NEAR) & (enter < frame.depth[rays.window])
    if not hit.any():
        return
    depth = enter[hit]
    normal = [(start[axis] + unit[axis][hit] * depth) * scale[axis] for axis in axes]
    length = np.sqrt(sum(part * part for part in normal))
    cosine = sum(part * np.float32(light[axis]) for part, axis in zip(normal, axes, strict=True)) / length
    shade = np.asarray(light_factor(cosine), np.float32)
    if cap is not None:
        top = np.float32(light_factor(-light[1] if rays.origin[1] < solid.centre[1] else light[1]))
        shade = np.where(cap[hit], top, shade)
    for buffer, values in ((frame.depth, depth), (frame.colour, np.uint8(colour)), (frame.shade, shade)):
        buffer[rays.window][hit] = values
