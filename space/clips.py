"""What to try: prompts in the words that the bundled model knows, and clips that are rendered when they are asked for."""

from pathlib import Path

from jog3r.data.procedural import procedural_clip
from jog3r.space.results import write_clip

__all__ = ["EXAMPLE_CLIPS", "EXAMPLE_PROMPTS", "write_example"]

EXAMPLE_PROMPTS = (
    "a room with blue walls and a brown tiled floor, with a red sofa, the camera moves forward",
    "a living space with green walls and a gray floor, with a blue chair and a yellow lamp, the camera turns left",
    "the camera orbits right in a room with white walls, a beige plank floor, and a green plant",
)
# How the camera moves, and the index in the test split, which nobody trained on.
EXAMPLE_CLIPS = {"camera moves forward": 9, "camera moves left": 12, "camera orbits left": 10}
_FPS = 8.0


def write_example(name: str, size: int, folder: Path) -> str:
    """Render an example clip of 16 frames.

    Args:
        name: Key of `EXAMPLE_CLIPS`.
        size: Height and width in pixels.
        folder: The request's folder.

    Returns:
        Path of the mp4.
    """
    clip = procedural_clip(EXAMPLE_CLIPS[name], split="test", height=size, width=size)
    return write_clip(clip.frames, _FPS, folder, name.replace(" ", "_"))
