"""Rooms for learning cameras rather than words: other lenses and paths, a shaking hand, and a texture on every surface.

Letters: n samples of a path, K surfaces (entries of the renderer's table of colours), W waves.
"""

from dataclasses import dataclass, replace

import numpy as np

from jog3r.data.procedural.scene_grammar import Draw, SceneWords
from jog3r.data.procedural.scene_layout import CameraPath, Layout, draw_layout

__all__ = ["SurfaceTexture", "draw_texture", "draw_varied_layout"]

_MOTIONS = (
    *("moves forward",) * 9,  # what people film most
    *("moves backward", "moves left", "moves right", "orbits left", "orbits right", "turns left", "turns right"),
)
_WAVES = 8
_TONES = 1024


@dataclass(frozen=True)
class ShakenPath(CameraPath):
    """A path walked with a camera in the hand."""

    shakes: tuple[tuple[float, float, float], ...] = ()
    """Amplitude, frequency and phase: two waves each of the turns about x, y, z (radians), then of the shifts (metres)."""

    def cam_to_room(self, u: np.ndarray) -> np.ndarray:
        """Camera-to-room poses (n, 4, 4), float64, at the path parameters `u` (n,)."""
        waves = [a * np.sin(2 * np.pi * (f * u + p)) for a, f, p in self.shakes]
        turn_x, turn_y, turn_z, *shift = (first + second for first, second in zip(waves[::2], waves[1::2], strict=True))
        poses = super().cam_to_room(u) @ _turn(turn_y, 2, 0) @ _turn(turn_x, 1, 2) @ _turn(turn_z, 0, 1)
        poses[:, :3, 3] += np.stack(shift, -1)
        return poses  # (n, 4, 4)


def _turn(angle: np.ndarray, first: int, second: int) -> np.ndarray:
    """Rotations (n, 4, 4) that turn axis `first` towards axis `second`."""
    matrices = np.tile(np.eye(4), (len(angle), 1, 1))
    matrices[:, first, first] = matrices[:, second, second] = np.cos(angle)
    matrices[:, second, first], matrices[:, first, second] = np.sin(angle), -np.sin(angle)
    return matrices


def draw_varied_layout(draw: Draw, words: SceneWords) -> Layout:
    """The objects of `words` in a room of any size, seen on a path of its own."""
    words = replace(words, motion=draw.pick(_MOTIONS))
    verb, direction = words.motion.split(" ")
    radius = 0.0
    if verb == "orbits":
        extent, radius = np.deg2rad(draw.uniform(8.0, 60.0)), draw.uniform(1.6, 3.5)
    elif verb == "turns":
        extent, radius = np.deg2rad(draw.uniform(8.0, 50.0)), draw.uniform(0.3, 1.0)
    else:
        extent = draw.uniform(0.3, 1.6 if direction in ("left", "right") else 3.5)
    tops = (np.deg2rad(draw.uniform(2.0, 24.0)), np.deg2rad(6.0), 0.15, 0.3)  # of yaw, pitch, height, lateral position
    focal = 0.5 / np.tan(np.deg2rad(draw.uniform(45.0, 110.0)) / 2)
    path = ShakenPath(
        words.motion, float(extent), radius, draw.uniform(0.0, 1.0),
        height=draw.uniform(0.9, 1.9), pitch=np.deg2rad(draw.uniform(-4.0, 18.0)),
        drift=tuple((draw.uniform(0.1, 1.0) * top, draw.uniform(0.2, 0.9), draw.uniform(0.0, 1.0)) for top in tops),
        focal=float(focal), zoom=draw.uniform(-0.2, 0.2) if draw.chance(0.1) else 0.0, room_yaw=draw.uniform(-np.pi, np.pi),
        shakes=_draw_shakes(draw),
    )  # fmt: skip
    return draw_layout(draw, words, path, spare=draw.uniform(0.5, 1.5) if draw.chance(0.6) else draw.uniform(1.5, 6.0))


def _draw_shakes(draw: Draw) -> tuple[tuple[float, float, float], ...]:
    strength = draw.uniform(0.0, 1.0) ** 2
    tops = (*(np.deg2rad(1.2),) * 3, *(0.02,) * 3)
    return tuple(
        (strength * draw.uniform(0.2, 1.0) * top / number, draw.uniform(0.5, 2.5) * number, draw.uniform(0.0, 1.0))
        for top in tops
        for number in (1, 2)
    )


@dataclass(frozen=True)
class SurfaceTexture:
    """A texture of the room's own coordinates: waves, stripes and cells of any size, other weights on every surface.

    Attributes:
        wave: (W, 3) cycles a metre along x, y, z.
        phase: (K, W).
        weight: (K, W, 3) of red, green, blue; those of half of the waves are of stripes, not of soft waves.
        cell_turn: (2, 3, 3) from the room to the axes of two grids of cells.
        cell_side: (K, 2) metres.
        cell_weight: (K, 2).
        tones: (1024,) of cells, in -1..1.
    """

    wave: np.ndarray
    phase: np.ndarray
    weight: np.ndarray
    cell_turn: np.ndarray
    cell_side: np.ndarray
    cell_weight: np.ndarray
    tones: np.ndarray

    def factor(self, points: np.ndarray, surface: np.ndarray, footprint: np.ndarray) -> np.ndarray:
        """What the colours of points are multiplied by.

        Args:
            points: (..., 3) float32 in the room.
            surface: (...) number of each point's surface.
            footprint: (...) side of a pixel there, in metres: what is finer fades out, or it would flicker.

        Returns:
            (..., 3) float32, about 1.
        """
        factor = np.ones(points.shape, np.float32)
        turns = points @ self.wave.T + self.phase[surface]  # (..., W)
        value = np.sin(np.float32(2 * np.pi) * turns)
        value[..., ::2] = np.clip(np.float32(4) * value[..., ::2], -1, 1)
        value *= _share(footprint[..., None], np.linalg.norm(self.wave, axis=1).astype(np.float32))
        factor += np.einsum("...w,...wc->...c", value, self.weight[surface])
        for number in range(2):
            per_metre = (1 / self.cell_side[:, number])[surface]
            place = np.floor(points @ self.cell_turn[number] * per_metre[..., None]).astype(np.int32)  # (..., 3)
            x, y, z = np.moveaxis(place, -1, 0)
            tone = self.tones[(x * 421 ^ y * 1033 ^ z * 7817 ^ surface * np.int32(5)) & (_TONES - 1)]
            factor += (tone * _share(footprint, per_metre) * self.cell_weight[:, number][surface])[..., None]
        return np.clip(factor, np.float32(0.1), np.float32(2.0))


def _share(footprint: np.ndarray, per_metre: np.ndarray) -> np.ndarray:
    """How much is left of a pattern with so many periods a metre: nothing where two pixels hold one."""
    return np.maximum(1 - np.square(2 * footprint * per_metre), np.float32(0))


def draw_texture(draw: Draw, num_surfaces: int) -> SurfaceTexture:
    """A texture of K surfaces; some stay nearly plain."""
    length = 0.06 * (1.6 / 0.06) ** draw.array(_WAVES)  # metres, each magnitude as likely
    axis = np.where(draw.array(_WAVES, 1) < 0.4, np.eye(3)[(3 * draw.array(_WAVES)).astype(int)], 2 * draw.array(_WAVES, 3) - 1)
    wave = axis / np.linalg.norm(axis, axis=1, keepdims=True) / length[:, None]
    strength = np.where(draw.array(num_surfaces) < 0.2, 0.05, 0.1 + 0.4 * draw.array(num_surfaces))  # (K,)
    weight = (
        draw.array(num_surfaces, _WAVES, 1) ** 3 * strength[:, None, None] * (0.7 + 0.6 * draw.array(num_surfaces, _WAVES, 3))
    )
    turns = np.linalg.qr(2 * draw.array(2, 3, 3) - 1)[0]
    if draw.chance(0.5):
        turns[0] = np.eye(3)  # along the walls
    side = np.stack([0.08 * 4 ** draw.array(num_surfaces), 0.4 * 4 ** draw.array(num_surfaces)], 1)
    cells = strength[:, None] * 1.2 * draw.array(num_surfaces, 2) ** 2
    parts = (wave, draw.array(num_surfaces, _WAVES), weight, turns, side, cells, 2 * draw.array(_TONES) - 1)
    return SurfaceTexture(*(part.astype(np.float32) for part in parts))
