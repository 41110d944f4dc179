"""Colour and brightness of a room's own surfaces: floor patterns, wall textures, windows, doors, pictures, soft shadows."""

from dataclasses import dataclass

import numpy as np

from jog3r.data.procedural.scene_grammar import PALETTE, Draw, SceneWords
from jog3r.data.procedural.scene_layout import Layout

_CEILING, _FLOOR = 2, 3
_COLOUR_RAYS = 4
"""Of the five rays of a pixel the first four carry colour."""
_WALLS = {0: (2, 0), 1: (2, 1), 4: (0, 0), 5: (0, 1)}
"""Wall number -> the axis along it, and whether it is the high one."""

_COLOURS: tuple[tuple[float, float, float], ...] = (
    (0.0, 0.0, 0.0),  # 0: the walls' colour, filled in
    (0.0, 0.0, 0.0),  # 1: the floor's colour, filled in
    (244.0, 243.0, 240.0),  # 2: ceiling, frames, skirting boards
    (186.0, 220.0, 244.0),  # 3: window panes, upper
    (206.0, 226.0, 206.0),  # 4: window panes, lower
    (150.0, 108.0, 76.0),  # 5: door
    (78.0, 58.0, 46.0),  # 6: dark frame
    (226.0, 210.0, 176.0),  # 7: canvas
    (96.0, 128.0, 138.0),  # 8: painted shapes
    (176.0, 116.0, 96.0),  # 9: painted shapes
)
_WALL, _GROUND, _WHITE, _SKY, _GARDEN, _DOOR, _FRAME, _CANVAS, _PAINT_A, _PAINT_B = range(10)


@dataclass(frozen=True)
class Patch:
    """A rectangle on a wall: range along the wall (metres from its low end), range above the floor, colour, tone."""

    along: tuple[float, float]
    above: tuple[float, float]
    colour: int
    tone: float = 1.0


@dataclass(frozen=True)
class RoomStyle:
    """How a room looks."""

    colours: tuple[tuple[float, float, float], ...]
    light: np.ndarray
    """(3,) unit vector to the light, room frame."""
    floor_pattern: str
    floor_scale: float
    floor_diagonal: bool
    wall_texture: str
    wall_scale: float
    skirting: float
    patches: dict[int, tuple[Patch, ...]]


def draw_style(draw: Draw, words: SceneWords, layout: Layout) -> RoomStyle:
    """Colours from the words, everything else at random."""
    colours = (PALETTE["walls"][words.wall_colour], PALETTE["floor"][words.floor_colour], *_COLOURS[2:])
    angle = draw.uniform(0.0, 2 * np.pi)
    light = np.array([0.5 * np.cos(angle), -0.78, 0.5 * np.sin(angle)])
    scale = {"checkered": (0.45, 0.7), "plank": (0.24, 0.36), "tiled": (0.55, 0.8)}[words.floor_pattern]
    size = layout.room_high - layout.room_low
    patches = {wall: _draw_patches(draw, float(size[axis]), float(size[1])) for wall, (axis, _) in _WALLS.items()}
    return RoomStyle(
        colours, light / np.linalg.norm(light), words.floor_pattern, draw.uniform(*scale), draw.chance(0.3),
        draw.pick(("stripes", "panels", "dado", "blocks")), draw.uniform(0.32, 0.6), draw.uniform(0.09, 0.14), patches,
    )  # fmt: skip


def _draw_patches(draw: Draw, length: float, height: float) -> tuple[Patch, ...]:
    """Nothing, a window, a door or a picture for each stretch of 2.2 m of wall."""
    stretches = max(1, int(length / 2.2))
    patches: list[Patch] = []
    for stretch in range(stretches):
        middle = length * (stretch + 0.5) / stretches + draw.uniform(-0.2, 0.2)
        kind = draw.pick(("none", "window", "picture", "picture", "door"))
        if kind == "window":
            patches += _window(
                middle, draw.uniform(0.5, 0.75), draw.uniform(0.8, 1.0), min(height - 0.25, draw.uniform(1.9, 2.2))
            )
        elif kind == "picture":
            patches += _picture(draw, middle)
        elif kind == "door":
            patches += _door(middle, draw.sign())
    return tuple(patches)


def _window(middle: float, half: float, low: float, high: float) -> list[Patch]:
    sill = low + 0.4 * (high - low)
    return [
        Patch((middle - half - 0.09, middle + half + 0.09), (low - 0.09, high + 0.09), _WHITE),
        Patch((middle - half, middle + half), (low, high), _SKY),
        Patch((middle - half, middle + half), (low, sill), _GARDEN, 0.85),
        Patch((middle - 0.035, middle + 0.035), (low, high), _WHITE, 0.95),
        Patch((middle - half, middle + half), (sill - 0.03, sill + 0.03), _WHITE, 0.95),
    ]


def _picture(draw: Draw, middle: float) -> list[Patch]:
    half, low = draw.uniform(0.28, 0.5), draw.uniform(1.15, 1.35)
    high = low + draw.uniform(0.45, 0.75)
    split = draw.uniform(0.35, 0.65)
    first, second = (_PAINT_A, _PAINT_B) if draw.chance(0.5) else (_PAINT_B, _PAINT_A)
    left, right = middle - half + 0.07, middle + half - 0.07
    return [
        Patch((middle - half, middle + half), (low, high), _FRAME if draw.chance(0.6) else _WHITE),
        Patch((left, right), (low + 0.07, high - 0.07), _CANVAS),
        Patch((left, right), (low + 0.07, low + split * (high - low)), first),
        Patch((left + 0.12, left + 0.12 + half * 0.5), (low + 0.14, high - 0.16), second),
    ]


def _door(middle: float, side: float) -> list[Patch]:
    knob = sorted((middle + side * 0.3, middle + side * 0.36))
    return [
        Patch((middle - 0.53, middle + 0.53), (0.0, 2.12), _WHITE),
        Patch((middle - 0.44, middle + 0.44), (0.0, 2.04), _DOOR),
        Patch((middle - 0.3, middle + 0.3), (1.15, 1.85), _DOOR, 0.84),
        Patch((middle - 0.3, middle + 0.3), (0.25, 0.9), _DOOR, 0.84),
        Patch((knob[0], knob[1]), (0.98, 1.06), _CANVAS),
    ]


def shade_room(
    layout: Layout, style: RoomStyle, origin: np.ndarray, direction: tuple[np.ndarray, np.ndarray, np.ndarray],
    depth: np.ndarray, wall: np.ndarray, colour: np.ndarray, shade: np.ndarray,
) -> None:  # fmt: skip
    """Fill `colour` (index) and `shade` of the rays that reached the room itself: those whose colour is still 255.

    All buffers are (5, H, W); the fifth ray of a pixel carries no colour.
    """
    count = _COLOUR_RAYS * depth.shape[1] * depth.shape[2]
    code = np.where(colour == 255, wall, np.uint8(9)).reshape(-1)[:count]
    colour[_COLOUR_RAYS:] = 0
    flat_colour, flat_shade, flat_depth = colour.reshape(-1), shade.reshape(-1), depth.reshape(-1)
    start = origin - layout.room_low
    size = (layout.room_high - layout.room_low).astype(np.float32)
    for number in range(6):
        chosen = np.flatnonzero(code == number)
        if not len(chosen):
            continue
        t = flat_depth[chosen]

        def along(axis: int, chosen: np.ndarray = chosen, t: np.ndarray = t) -> np.ndarray:
            return direction[axis].reshape(-1)[chosen] * t + np.float32(start[axis])

        if number == _CEILING:
            flat_colour[chosen] = _WHITE
            flat_shade[chosen] = 0.97 * _corner_shade(along(0), along(2), size[0], size[2])
        elif number == _FLOOR:
            x, z = along(0), along(2)
            flat_colour[chosen] = _GROUND
            flat_shade[chosen] = _floor_tone(style, x, z) * _shadows(layout, x, z) * _corner_shade(x, z, size[0], size[2])
        else:
            flat_colour[chosen], flat_shade[chosen] = _shade_wall(style, number, along(_WALLS[number][0]), along(1), size)


def _corner_shade(x: np.ndarray, y: np.ndarray, size_x: float, size_y: float) -> np.ndarray:
    """Gentle darkening within half a metre of an edge of a rectangle."""
    edge = np.minimum(np.minimum(x, size_x - x), np.minimum(y, size_y - y))
    return 0.86 + 0.28 * np.clip(edge, 0.0, 0.5)


def _floor_tone(style: RoomStyle, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    if style.floor_diagonal and style.floor_pattern != "plank":
        root = np.float32(np.sqrt(0.5))
        x, z = (x + z) * root, (x - z) * root
    scale = np.float32(1.0 / style.floor_scale)
    a, b = x * scale, z * scale
    if style.floor_pattern == "checkered":
        odd = (np.floor(a).astype(np.int32) + np.floor(b).astype(np.int32)) & 1
        return np.where(odd == 1, np.float32(0.66), np.float32(1.04))
    if style.floor_pattern == "plank":
        row = np.floor(a).astype(np.int32)
        place = b * np.float32(0.22) + (row * 5 % 7) * np.float32(1 / 7)
        column = np.floor(place).astype(np.int32)
        tone = _TONES[(row * 7 + column * 3) & 3]
        seam = (a - row < 0.09) | (place - column < 0.02)
        return np.where(seam, np.float32(0.55), tone)
    column, row = np.floor(a).astype(np.int32), np.floor(b).astype(np.int32)
    seam = (a - column < 0.1) | (b - row < 0.1)
    return np.where(seam, np.float32(0.62), _TONES[(row * 3 + column * 5 + (row >> 1)) & 3] * np.float32(0.5) + np.float32(0.5))


_TONES = np.array([1.06, 0.9, 1.0, 0.8], np.float32)


def _shadows(layout: Layout, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Soft contact shadows: dark under an object, fading out over 40 cm around its footprint."""
    light = np.ones_like(x)
    for item in layout.objects:
        c, s = np.float32(np.cos(item.yaw)), np.float32(np.sin(item.yaw))
        dx, dz = x - np.float32(item.x - layout.room_low[0]), z - np.float32(item.z - layout.room_low[2])
        across = np.maximum(np.abs(c * dx - s * dz) - np.float32(item.furniture.footprint[0] - 0.05), 0.0)
        beyond = np.maximum(np.abs(s * dx + c * dz) - np.float32(item.furniture.footprint[1] - 0.05), 0.0)
        fade = np.maximum(1.0 - np.sqrt(across * across + beyond * beyond) * np.float32(2.5), 0.0)
        light *= 1.0 - np.float32(0.48) * fade * fade
    return light


def _shade_wall(style: RoomStyle, number: int, a: np.ndarray, y: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colour indices and brightness of points on a wall: metres along it, metres below the ceiling."""
    axis, high = _WALLS[number]
    above = size[1] - y
    facing = style.light[2 - axis] * (-1.0 if high else 1.0)
    tone = _wall_tone(style, a, above) * np.float32(0.93 + 0.14 * facing)
    colour = np.zeros(len(a), np.uint8)
    for patch in style.patches[number]:
        inside = np.flatnonzero((a > patch.along[0]) & (a < patch.along[1]) & (above > patch.above[0]) & (above < patch.above[1]))
        colour[inside] = patch.colour
        tone[inside] = patch.tone * (0.95 + 0.1 * facing)
    skirting = np.flatnonzero((above < style.skirting) & (colour == _WALL))
    colour[skirting] = _WHITE
    tone[skirting] = 0.88 + 0.1 * facing
    return colour, tone * _corner_shade(a, y, size[axis], size[1])


def _wall_tone(style: RoomStyle, a: np.ndarray, above: np.ndarray) -> np.ndarray:
    """Low-contrast texture, so that also a bare wall can be tracked."""
    scale = np.float32(1.0 / style.wall_scale)
    if style.wall_texture == "stripes":
        return np.where(np.floor(a * scale).astype(np.int32) & 1, np.float32(0.92), np.float32(1.02))
    if style.wall_texture == "panels":
        row, column = above * np.float32(0.9), a * scale * np.float32(0.5)
        seam = (row - np.floor(row) < 0.06) | (column - np.floor(column) < 0.06)
        return np.where(seam, np.float32(0.84), np.float32(1.0))
    if style.wall_texture == "dado":
        lower = above < 0.95
        line = np.floor(a * scale * np.float32(1.5))
        tone = np.where(lower, np.where(line.astype(np.int32) & 1, np.float32(0.82), np.float32(0.88)), np.float32(1.02))
        return np.where(np.abs(above - np.float32(0.95)) < 0.04, np.float32(0.72), tone)
    row = np.floor(above * scale * np.float32(1.3)).astype(np.int32)
    column = np.floor(a * scale * np.float32(0.7) + (row & 1) * np.float32(0.5)).astype(np.int32)
    return np.array([1.02, 0.95, 0.985, 0.92], np.float32)[(row * 3 + column * 5) & 3]
