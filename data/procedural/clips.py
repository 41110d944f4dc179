"""Procedural clips: scenes drawn in code with exact cameras, depth and captions.

Box rooms with furniture, ray-cast analytically. A clip is a pure function of split, index and size; the scene, the path and
the caption do not depend on the size: more frames sample the same path more densely, more pixels the same picture more finely.
"""

from collections.abc import Iterator
from functools import cache, partial

import numpy as np

from jog3r.data.clip import Clip
from jog3r.data.poses import rebase_poses
from jog3r.data.procedural.photograph import photograph
from jog3r.data.procedural.ray_cast import render
from jog3r.data.procedural.room_surfaces import draw_style
from jog3r.data.procedural.scene_grammar import Draw, clip_seed, scene_words, split_size
from jog3r.data.procedural.scene_layout import draw_layout
from jog3r.data.procedural.varied_scenes import draw_texture, draw_varied_layout

STYLES = ("rooms", "varied")


def procedural_clip(
    index: int, split: str = "train", num_frames: int = 16, height: int = 64, width: int = 64, style: str = "rooms"
) -> Clip:
    """Render a clip.

    Args:
        index: number of the clip in its split (train 10 million, validation and test 10 000 each).
        split: "train", "validation" or "test"; no two splits share a scene.
        num_frames: F, samples of the path at equal steps from its start to its end.
        height: H in pixels.
        width: W in pixels; pixels are square, the horizontal field of view is the same for every size.
        style: "rooms", plain colours as captions name them; or "varied", for learning cameras: textured surfaces, views of 45
            to 110 degrees across, walks with a camera in the hand, pictures as cameras and files spoil them. Its clips have the
            same objects, other paths, and no caption.

    Returns:
        `Clip` with frames (F, H, W, 3), depth (F, H, W) in metres, all of it valid, poses, intrinsics, caption, attributes.

    Raises:
        ValueError: unknown split or style, index outside the split, or a size below one.
        TypeError: an index or size that is not an integer.
    """
    for name, value in (("num_frames", num_frames), ("height", height), ("width", width)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if style not in STYLES:
        raise ValueError(f"style must be one of {', '.join(STYLES)}, got {style!r}")
    is_varied = style == "varied"
    words = scene_words(index, split)
    draw = Draw(clip_seed(index, split), stream=2 if is_varied else 1)
    layout = draw_varied_layout(draw, words) if is_varied else draw_layout(draw, words)
    look = draw_style(draw, words, layout)
    texture = partial(draw_texture, draw) if is_varied else None
    u = np.linspace(0.0, 1.0, num_frames)
    cam_to_room, focal_px = layout.path.cam_to_room(u), layout.path.focal_at(u) * width
    frames, depth = render(layout, look, cam_to_room, focal_px, height, width, texture)
    intrinsics = np.zeros((num_frames, 3, 3), np.float32)
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = focal_px
    intrinsics[:, 0, 2], intrinsics[:, 1, 2], intrinsics[:, 2, 2] = width / 2, height / 2, 1.0
    valid = np.ones(depth.shape, bool)
    if is_varied:
        return Clip(photograph(frames, draw), depth, valid, rebase_poses(cam_to_room), intrinsics, "", {})
    return Clip(frames, depth, valid, rebase_poses(cam_to_room), intrinsics, words.caption, words.attributes())


def scene_names(split: str, start: int, count: int, style: str = "rooms") -> list[str]:
    """A name for each scene, the same wherever it is used."""
    return [f"{'' if style == 'rooms' else f'{style}/'}{split}/{index:08d}" for index in range(start, start + count)]


def procedural_caption(index: int, split: str = "train") -> str:
    """The caption of a clip, without rendering it."""
    return scene_words(index, split).caption


def procedural_captions(split: str = "train", start: int = 0, stop: int | None = None) -> Iterator[str]:
    """Captions of the indices start..stop-1 of a split (stop None: its end), for training a tokenizer."""
    for index in range(*_index_range(split, start, stop)):
        yield procedural_caption(index, split)


@cache
def caption_words() -> frozenset[str]:
    """All words of the captions, in lower case."""
    captions = procedural_captions("train", 0, 500)
    return frozenset(word.strip(",.") for caption in captions for word in caption.lower().split())


def _index_range(split: str, start: int, stop: int | None) -> tuple[int, int]:
    """`start` and `stop` checked against the split."""
    size = split_size(split)
    last = size if stop is None else stop
    if not 0 <= start < last <= size:
        raise ValueError(f"start and stop must satisfy 0 <= start < stop <= {size} for split {split!r}, got {start} and {last}")
    return start, last
