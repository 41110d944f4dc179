"""Furniture made of boxes, upright cylinders and ellipsoids.

Object frame: x right, y down, z away from the viewer; the floor is y = 0, the object's front looks along -z. Metres.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jog3r.data.procedural.scene_grammar import Draw

Colour = tuple[float, float, float]

WOOD: Colour = (112.0, 76.0, 48.0)
DARK: Colour = (62.0, 58.0, 58.0)
CREAM: Colour = (236.0, 226.0, 206.0)
METAL: Colour = (150.0, 152.0, 158.0)


@dataclass(frozen=True)
class Solid:
    """One primitive: its centre and half extents (3,) in the object frame, its sRGB colour 0..255."""

    shape: str
    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    colour: Colour


@dataclass(frozen=True)
class Furniture:
    """The solids of a piece of furniture and the box that holds most of its picture."""

    solids: tuple[Solid, ...]
    footprint: tuple[float, float]
    """Half extents along x and z of everything."""
    core: tuple[float, float, float, float, float, float]
    """Low corner, high corner of the part that makes the object recognisable."""


def box(x: tuple[float, float], height: tuple[float, float], z: tuple[float, float], colour: Colour) -> Solid:
    """A box from its ranges along x, above the floor, and along z."""
    centre = ((x[0] + x[1]) / 2, -(height[0] + height[1]) / 2, (z[0] + z[1]) / 2)
    return Solid("box", centre, ((x[1] - x[0]) / 2, (height[1] - height[0]) / 2, (z[1] - z[0]) / 2), colour)


def cylinder(x: float, z: float, radius: float, height: tuple[float, float], colour: Colour) -> Solid:
    """An upright cylinder from its axis, radius and range above the floor."""
    return Solid("cylinder", (x, -(height[0] + height[1]) / 2, z), (radius, (height[1] - height[0]) / 2, radius), colour)


def ellipsoid(centre: tuple[float, float, float], half: tuple[float, float, float], colour: Colour) -> Solid:
    """An ellipsoid from its centre (second value: metres above the floor) and half axes."""
    return Solid("ellipsoid", (centre[0], -centre[1], centre[2]), half, colour)


def tint(colour: Colour, factor: float) -> Colour:
    """A darker (factor < 1) or lighter (> 1) tone of a colour."""
    red, green, blue = (min(255.0, channel * factor) for channel in colour)
    return red, green, blue


def _legs(half_x: float, half_z: float, size: float, top: float, colour: Colour) -> list[Solid]:
    edges_x = ((-half_x, -half_x + size), (half_x - size, half_x))
    edges_z = ((-half_z, -half_z + size), (half_z - size, half_z))
    return [box(x, (0.0, top), z, colour) for x in edges_x for z in edges_z]


def _sofa(draw: Draw, colour: Colour) -> list[Solid]:
    w, d, arm = draw.uniform(0.85, 1.05), 0.45, 0.2
    seat, back = draw.uniform(0.42, 0.48), draw.uniform(0.85, 0.95)
    solids = [
        box((-w, w), (0.1, seat - 0.14), (-d, d), tint(colour, 0.82)),
        box((-w, w), (seat - 0.14, back), (d - 0.26, d), tint(colour, 0.93)),
        box((-w, -w + arm), (seat - 0.14, 0.66), (-d, d - 0.26), tint(colour, 0.9)),
        box((w - arm, w), (seat - 0.14, 0.66), (-d, d - 0.26), tint(colour, 0.9)),
        box((-w + arm, -0.015), (seat - 0.14, seat), (-d - 0.02, d - 0.26), colour),
        box((0.015, w - arm), (seat - 0.14, seat), (-d - 0.02, d - 0.26), colour),
    ]
    if draw.chance(0.6):
        side = draw.sign() * (w - arm - 0.25)
        solids.append(ellipsoid((side, seat + 0.18, d - 0.34), (0.22, 0.2, 0.12), CREAM))
    return solids


def _table(draw: Draw, colour: Colour) -> list[Solid]:
    top = draw.uniform(0.7, 0.78)
    if draw.chance(0.3):
        radius = draw.uniform(0.6, 0.72)
        return [
            cylinder(0, 0, radius, (top - 0.08, top), colour),
            cylinder(0, 0, 0.09, (0.05, top - 0.08), tint(colour, 0.8)),
            cylinder(0, 0, 0.34, (0.0, 0.05), tint(colour, 0.8)),
        ]
    w, d = draw.uniform(0.65, 0.85), draw.uniform(0.42, 0.52)
    solids = [box((-w, w), (top - 0.09, top), (-d, d), colour), *_legs(w - 0.04, d - 0.04, 0.1, top - 0.09, tint(colour, 0.85))]
    if draw.chance(0.5):
        solids.append(cylinder(draw.uniform(-0.3, 0.3), 0.0, 0.1, (top, top + 0.24), CREAM))
    return solids


def _chair(draw: Draw, colour: Colour) -> list[Solid]:
    w, seat, back = draw.uniform(0.29, 0.33), draw.uniform(0.44, 0.5), draw.uniform(1.0, 1.12)
    return [
        box((-w, w), (seat - 0.09, seat), (-w, w), colour),
        box((-w, w), (seat + 0.14, back), (w - 0.08, w), colour),
        box((-w, -w + 0.08), (seat, seat + 0.14), (w - 0.08, w), tint(colour, 0.85)),
        box((w - 0.08, w), (seat, seat + 0.14), (w - 0.08, w), tint(colour, 0.85)),
        *_legs(w, w, 0.08, seat - 0.09, tint(colour, 0.8)),
    ]


def _bed(draw: Draw, colour: Colour) -> list[Solid]:
    w, d = draw.uniform(0.72, 0.9), 1.0
    return [
        box((-w, w), (0.06, 0.3), (-d, d), WOOD),
        box((-w, w), (0.3, 0.5), (-d + 0.02, d - 0.06), CREAM),
        box((-w - 0.02, w + 0.02), (0.28, 0.56), (-d - 0.01, 0.3), colour),
        box((-w - 0.03, w + 0.03), (0.0, draw.uniform(0.95, 1.15)), (d - 0.06, d + 0.03), tint(colour, 0.85)),
        ellipsoid((-w * 0.5, 0.55, 0.68), (w * 0.42, 0.11, 0.2), (246.0, 244.0, 240.0)),
        ellipsoid((w * 0.5, 0.55, 0.68), (w * 0.42, 0.11, 0.2), (246.0, 244.0, 240.0)),
    ]


def _bookshelf(draw: Draw, colour: Colour) -> list[Solid]:
    w, d, top, wall = draw.uniform(0.5, 0.62), 0.2, draw.uniform(1.75, 2.0), 0.06
    step = (top - wall) / 4
    solids = [
        box((-w, w), (0.0, top), (d - 0.04, d), tint(colour, 0.55)),
        box((-w, -w + wall), (0.0, top), (-d, d - 0.04), colour),
        box((w - wall, w), (0.0, top), (-d, d - 0.04), colour),
    ]
    solids += [box((-w + wall, w - wall), (i * step, i * step + wall), (-d, d - 0.04), colour) for i in range(5)]
    books = ((176.0, 92.0, 70.0), (84.0, 118.0, 138.0), CREAM, (120.0, 134.0, 92.0))
    for i in range(4):
        start = draw.uniform(-w + wall, -0.1)
        row = (start, start + draw.uniform(0.3, 0.55))
        solids.append(
            box(row, (i * step + wall, i * step + step * draw.uniform(0.7, 0.85)), (-d + 0.06, d - 0.04), draw.pick(books))
        )
    return solids


def _lamp(draw: Draw, colour: Colour) -> list[Solid]:
    top, radius = draw.uniform(1.5, 1.75), draw.uniform(0.3, 0.36)
    if draw.chance(0.3):
        shade = ellipsoid((0.0, top - 0.3, 0.0), (radius, radius * 0.95, radius), colour)
    else:
        shade = cylinder(0, 0, radius, (top - 0.48, top), colour)
    return [shade, cylinder(0, 0, 0.035, (0.05, top - 0.4), DARK), cylinder(0, 0, 0.2, (0.0, 0.05), DARK)]


def _plant(draw: Draw, colour: Colour) -> list[Solid]:
    pot = draw.uniform(0.4, 0.5)
    pot_colour = draw.pick(((186.0, 108.0, 78.0), METAL, CREAM))
    solids = [cylinder(0, 0, 0.24, (0.0, pot), pot_colour), cylinder(0, 0, 0.045, (pot, pot + 0.35), WOOD)]
    solids.append(ellipsoid((0.0, pot + 0.62, 0.0), (0.3, 0.42, 0.3), colour))
    turn = draw.uniform(0.0, 2 * np.pi)
    for leaf in range(3):
        angle = turn + leaf * 2 * np.pi / 3
        centre = (0.24 * np.cos(angle), pot + 0.36 + 0.14 * leaf, 0.24 * np.sin(angle))
        solids.append(ellipsoid(centre, (0.22, 0.2, 0.22), tint(colour, 0.92)))
    return solids


def _cabinet(draw: Draw, colour: Colour) -> list[Solid]:
    w, d, top = draw.uniform(0.55, 0.75), 0.25, draw.uniform(0.85, 1.15)
    solids = [
        box((-w, w), (0.08, top), (-d, d), colour),
        box((-w - 0.03, w + 0.03), (top, top + 0.05), (-d - 0.03, d + 0.01), tint(colour, 0.7)),
        box((-w + 0.05, w - 0.05), (0.0, 0.08), (-d + 0.05, d), DARK),
    ]
    for side in (-1, 1):
        x = sorted((side * 0.03, side * (w - 0.06)))
        solids.append(box((x[0], x[1]), (0.15, top - 0.07), (-d - 0.03, -d), tint(colour, 1.12 if max(colour) < 250 else 0.9)))
        solids.append(ellipsoid((side * 0.1, top * 0.55, -d - 0.05), (0.04, 0.04, 0.04), DARK if sum(colour) > 200 else CREAM))
    return solids


_BUILDERS: dict[str, Callable[[Draw, Colour], list[Solid]]] = {
    "sofa": _sofa, "table": _table, "chair": _chair, "bed": _bed,
    "bookshelf": _bookshelf, "lamp": _lamp, "plant": _plant, "cabinet": _cabinet,
}  # fmt: skip


def build_furniture(draw: Draw, kind: str, colour: Colour) -> Furniture:
    """A piece of furniture of one of `scene_grammar.KINDS`, of slightly random proportions, in a colour (sRGB 0..255)."""
    solids = tuple(_BUILDERS[kind](draw, colour))
    low = np.min([np.subtract(solid.centre, solid.half) for solid in solids], axis=0)
    high = np.max([np.add(solid.centre, solid.half) for solid in solids], axis=0)
    core_low, core_high = low, high
    if kind in ("lamp", "plant"):
        # Pole, base and pot do not tell a lamp from a plant: the part to be seen is the first coloured solid.
        main = solids[0] if kind == "lamp" else solids[2]
        core_low, core_high = np.subtract(main.centre, main.half), np.add(main.centre, main.half)
    footprint = np.maximum(-low, high)
    core = tuple(float(value) for value in (*core_low, *core_high))
    return Furniture(solids, (float(footprint[0]), float(footprint[2])), core)  # type: ignore[arg-type]  # six numbers
