"""An animation to look at first: each video beside its point cloud, with the camera of the moment."""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from jog3r.export.conventions import camera_size
from jog3r.export.pictures.rendering import BACKGROUND, LINE_RADIUS, camera_lines, orbit_views, point_radius, render_points
from jog3r.export.scene import Scene

__all__ = ["overview_animation"]

_GAP, _CAPTION = 8, 40  # pixels between tiles; above each video
_LIT = 4.0  # the camera of the moment is white, and this many times thicker than the path


def overview_animation(scenes: list[Scene], *, side: int = 208, sweep_deg: float = 50.0, quality: int = 70) -> bytes:
    """A column for each scene: caption, video, and the cloud, which fills up while its camera moves; forth and back.

    Args:
        scenes: With pointmaps, all of the same number of frames with known poses.
        side: Width and height of a tile in pixels.
        sweep_deg: By how much the view of the cloud swings.
        quality: Of the WebP file, 0..100.

    Returns:
        An animated WebP as bytes.

    Raises:
        ValueError: No scene, one without pointmaps, or different numbers of frames.
    """
    scenes = [scene.posed() for scene in scenes]
    lengths = sorted({scene.num_frames for scene in scenes})
    if len(lengths) != 1 or any(scene.pointmaps is None for scene in scenes):
        raise ValueError(
            f"an animation needs scenes with pointmaps and equally many frames of known pose, got {len(scenes)} with {lengths}"
        )
    columns = [_column(scene, side, sweep_deg) for scene in scenes]
    pictures = [Image.fromarray(np.concatenate(tiles, 1)[:, _GAP:]) for tiles in zip(*columns, strict=True)]
    loop = [*pictures, *pictures[-2:0:-1]]
    buffer = io.BytesIO()
    duration_ms = round(1000 / scenes[0].fps)
    loop[0].save(buffer, "WEBP", save_all=True, append_images=loop[1:], duration=duration_ms, loop=0, quality=quality, method=6)
    return buffer.getvalue()


def _column(scene: Scene, side: int, sweep_deg: float) -> list[np.ndarray]:
    """One tile above the other, for each frame: (_CAPTION + 2 * side + _GAP, _GAP + side, 3) uint8."""
    white = Image.new("RGB", (side + _GAP, _CAPTION + 2 * side + _GAP), "white")
    _write_caption(white, scene.caption, side)
    cloud = scene.points(min_confidence_quantile=0.1, max_points=60_000)
    radius = point_radius(scene, cloud)
    length = camera_size(scene.poses, float(np.median(scene.depth[scene.depth > 0])))
    angles = sweep_deg * (np.linspace(-0.5, 0.5, scene.num_frames))
    views = orbit_views(scene, cloud, angles, (side, side))
    pictures = []
    for frame, view in enumerate(views):
        seen = cloud.frame <= frame
        path, path_colors = camera_lines(scene, length)
        one = slice(frame, frame + 1)
        moment, _ = camera_lines(Scene(scene.frames[one], scene.poses[one], scene.intrinsics[one]), length)
        drawn = render_points(
            view,
            np.concatenate([cloud.points[seen], path, moment]),
            np.concatenate([cloud.colors[seen], path_colors, np.full(moment.shape, 255)]).astype(np.uint8),
            np.concatenate(
                [radius[seen], np.full(len(path), LINE_RADIUS * length), np.full(len(moment), _LIT * LINE_RADIUS * length)]
            ),
            background=BACKGROUND,
            oversampling=2,
        )
        picture = white.copy()
        video = ImageOps.pad(Image.fromarray(scene.frames[frame]), (side, side), Image.Resampling.LANCZOS, color="white")
        picture.paste(video, (_GAP, _CAPTION))
        picture.paste(Image.fromarray(drawn), (_GAP, _CAPTION + side + _GAP))
        pictures.append(np.asarray(picture))
    return pictures


def _write_caption(picture: Image.Image, caption: str, side: int) -> None:
    """The caption in lines that fit above a tile."""
    font, draw = ImageFont.load_default(size=11), ImageDraw.Draw(picture)
    lines = [""]
    for word in caption.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if draw.textlength(longer, font) <= side else [*lines, word]
    draw.multiline_text((_GAP, 2), "\n".join(lines[:3]), fill="#22262e", font=font, spacing=1)
