"""What a procedural scene says: colours, furniture and camera motions, their words, and the caption made of them.

The grammar draws from a random stream of its own, so that a caption costs no rendering and never depends on the picture's size.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

T = TypeVar("T")

PALETTE: dict[str, dict[str, tuple[int, int, int]]] = {
    "walls": {
        "white": (238, 236, 230),
        "gray": (158, 160, 164),
        "blue": (112, 158, 214),
        "green": (126, 196, 130),
        "yellow": (240, 216, 124),
        "pink": (240, 168, 184),
        "purple": (172, 142, 206),
        "orange": (234, 160, 100),
    },
    "floor": {
        "brown": (150, 100, 62),
        "beige": (222, 200, 162),
        "gray": (150, 150, 150),
        "black": (74, 72, 76),
        "red": (176, 50, 52),
        "blue": (76, 104, 152),
    },
    "objects": {
        "red": (214, 38, 40),
        "orange": (246, 126, 22),
        "yellow": (250, 214, 36),
        "green": (36, 156, 66),
        "blue": (30, 84, 206),
        "purple": (128, 46, 172),
        "white": (246, 246, 244),
        "black": (40, 40, 44),
    },
}
"""Named colours as sRGB 0..255 before shading, of walls, floor and objects."""

KINDS = ("sofa", "table", "chair", "bed", "bookshelf", "lamp", "plant", "cabinet")
FLOOR_PATTERNS = ("checkered", "plank", "tiled")
MOTIONS = (
    "moves forward",
    "moves backward",
    "moves left",
    "moves right",
    "orbits left",
    "orbits right",
    "turns left",
    "turns right",
)


_VERBS = {"moves": ("moves", "moves", "glides"), "orbits": ("orbits", "orbits", "circles"), "turns": ("turns", "turns", "pans")}
_NOUNS = {
    "sofa": ("sofa", "sofa", "couch"),
    "bookshelf": ("bookshelf", "bookshelf", "bookcase"),
    "lamp": ("lamp", "lamp", "floor lamp"),
}
_ARTICLES = ("a room", "a room", "an interior", "a living space")
_SPLITS: dict[str, dict[str, int]] = json.loads((Path(__file__).parent / "splits.json").read_text())


class Draw:
    """A random stream that uses nothing but uniform doubles, which numpy keeps stable between versions."""

    def __init__(self, seed: int, stream: int) -> None:
        """Stream number `stream` of a seed."""
        self._generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, stream])))

    def uniform(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * float(self._generator.random())

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return float(self._generator.random()) < probability

    def pick(self, values: Sequence[T]) -> T:
        """One of `values`, each as likely."""
        return values[int(float(self._generator.random()) * len(values))]

    def array(self, *shape: int) -> np.ndarray:
        """Numbers in [0, 1), float64."""
        return self._generator.random(shape)

    def sign(self) -> float:
        """-1.0 or 1.0."""
        return -1.0 if self.chance(0.5) else 1.0


@dataclass(frozen=True)
class SceneWords:
    """What a scene is to contain: the truth behind its caption."""

    wall_colour: str
    floor_colour: str
    floor_pattern: str
    objects: tuple[tuple[str, str], ...]
    """(colour, kind) of each object; colours and kinds differ within a scene."""
    motion: str
    caption: str

    def attributes(self) -> dict:
        """The truth as plain values, for `Clip.attributes`."""
        return {
            "wall_colour": self.wall_colour,
            "floor_colour": self.floor_colour,
            "floor_pattern": self.floor_pattern,
            "objects": [list(item) for item in self.objects],
            "motion": self.motion,
        }


def split_size(split: str) -> int:
    """Number of clips of a split; `ValueError` for a split that does not exist."""
    if split not in _SPLITS:
        raise ValueError(f"split must be one of {', '.join(_SPLITS)}, got {split!r}")
    return _SPLITS[split]["num_clips"]


def clip_seed(index: int, split: str) -> int:
    """The seed of a clip; splits own disjoint ranges of seeds. `ValueError` if the index lies outside the split."""
    size = split_size(split)
    if isinstance(index, bool) or not isinstance(index, (int, np.integer)):
        raise TypeError(f"index must be an integer, got {type(index).__name__}")
    if not 0 <= index < size:
        raise ValueError(f"index must lie in 0..{size - 1} for split {split!r}, got {index}")
    return _SPLITS[split]["first_seed"] + int(index)


def scene_words(index: int, split: str) -> SceneWords:
    """Draw the words of a scene (about 0.1 ms). The same for the same index and split, in every process."""
    draw = Draw(clip_seed(index, split), stream=0)
    wall = draw.pick(tuple(PALETTE["walls"]))
    floor = draw.pick([name for name in PALETTE["floor"] if name != wall])
    pattern = draw.pick(FLOOR_PATTERNS)
    # An object in the colour of the wall behind it would be a caption's word that nobody can see.
    colours = [name for name in PALETTE["objects"] if name not in (wall, floor)]
    kinds = list(KINDS)
    objects = []
    for _ in range(draw.pick((1, 2, 2, 3))):
        colour, kind = draw.pick(colours), draw.pick(kinds)
        colours.remove(colour)
        kinds.remove(kind)
        objects.append((colour, kind))
    motion = draw.pick(MOTIONS)
    return SceneWords(wall, floor, pattern, tuple(objects), motion, _caption(draw, wall, (floor, pattern), objects, motion))


def _caption(draw: Draw, wall: str, floor: tuple[str, str], objects: list[tuple[str, str]], motion: str) -> str:
    floor_words = f"{floor[0]} {floor[1]} floor" if draw.chance(0.6) else f"{floor[0]} floor"
    things = [f"{_article(colour)} {colour} {draw.pick(_NOUNS.get(kind, (kind,)))}" for colour, kind in objects]
    listed = things[0] if len(things) == 1 else ", ".join(things[:-1]) + " and " + things[-1]
    verb, direction = motion.split(" ")
    moves = f"the camera {draw.pick(_VERBS[verb])} {direction}"
    room = draw.pick(_ARTICLES)
    template = draw.pick((0, 0, 1, 2, 3))
    if template == 0:
        return f"{room} with {wall} walls and a {floor_words}, with {listed}, {moves}"
    if template == 1:
        return f"{listed} in {room} with {wall} walls and a {floor_words}, {moves}"
    if template == 2:
        return f"{moves} in {room} with {wall} walls, a {floor_words}, and {listed}"
    return f"{room} with {listed}, {wall} walls and a {floor_words}, {moves}"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
