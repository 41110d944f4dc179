"""Pictures of a result as PNG bytes: trajectory, depth and confidence strips, contact sheet, correspondences.

Matplotlib figures are made directly, without pyplot and its global state, so this works in threads and servers.
"""

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import ConnectionPatch, Ellipse
from matplotlib.patheffects import withStroke
from PIL import Image

from jog3r.export.conventions import camera_size, frustum_corners, time_colors
from jog3r.export.pictures.correspondences import reciprocal_matches
from jog3r.export.pictures.rendering import LINE_RADIUS, camera_lines, orbit_views, point_radius, render_points, spaced_cameras
from jog3r.export.scene import Scene
from jog3r.export.video import confidence_frames, depth_frames

__all__ = ["contact_sheet", "correspondences_picture", "overview_picture", "strips_picture", "trajectory_picture"]

INK = "#22262e"
DARK = ("#e8ebf1", "#12141a")  # ink and paper: those of the player
LIGHT = (INK, "white")
_ENLARGED = (1, 2, 5, 10, 20, 50, 100)  # what ellipses are multiplied by
_CANVAS = (250, 250, 252)
_AXES = ("x (right)", "y (down)", "z (forward)")
_PLANS = {"above": (0, 2), "the right": (2, 1), "behind": (0, 1)}  # the world axes drawn across and upwards


def trajectory_picture(scene: Scene, *, dark: bool = False) -> bytes:
    """The path of the cameras in their scene, from above and from the side; its first and last frame are numbered.

    Colours run along the clip. With `scene.pose_covariance` there are 2-sigma ellipses of the positions. Frames without a known
    pose are left out.

    Args:
        scene: Cameras; points are optional.
        dark: Light on dark instead of dark on white.

    Returns:
        PNG bytes.
    """
    scene = scene.posed(pictures=False)
    ink, paper = DARK if dark else LIGHT
    figure = Figure(figsize=(8, 4.5), dpi=120, facecolor=paper)
    # Given, where a layout engine would find them: that takes as long as all the drawing. The labels have four digits at most.
    axes = figure.subplots(1, 2, gridspec_kw={"left": 0.11, "right": 0.985, "bottom": 0.13, "top": 0.93, "wspace": 0.3})
    extent = np.ptp(scene.poses[:, :3, 3], 0)
    # The upright view is the one that sees more of the path.
    for axis, name in zip(axes, ("above", "the right" if extent[2] >= extent[0] else "behind"), strict=True):
        axis.set_facecolor(paper)
        _draw_plan(axis, scene, name, ink)
    return figure_png(figure)


def overview_picture(scenes: list[Scene]) -> bytes:
    """A block for each scene, under its caption: eight evenly chosen frames, and points and cameras in perspective.

    Args:
        scenes: With points.

    Returns:
        PNG bytes.

    Raises:
        ValueError: No scene, or one without points.
    """
    if not scenes or any(not scene.has_points for scene in scenes):
        raise ValueError(f"an overview needs scenes with points, got {len(scenes)} scenes")
    tight = ConstrainedLayoutEngine(w_pad=0.015, h_pad=0.015, wspace=0, hspace=0)
    figure = Figure(figsize=(9.6, 3.5 * len(scenes)), dpi=100, facecolor="white", layout=tight)
    blocks = figure.subfigures(len(scenes), 1, squeeze=False)[:, 0]
    for block, scene in zip(blocks, scenes, strict=True):
        block.suptitle(scene.caption, fontsize=12, color=INK, x=0.01, ha="left")
        grid = block.add_gridspec(2, 5, width_ratios=[1, 1, 1, 1, 1.95])
        chosen = np.unique(np.linspace(0, scene.num_frames - 1, min(8, scene.num_frames)).round().astype(int))
        for place, frame in enumerate(chosen):
            show_image(block.add_subplot(grid[place // 4, place % 4]), scene.frames[frame])
        posed = scene.posed(pictures=False)
        _draw_perspective(block.add_subplot(grid[:, 4]), posed, camera_size(posed.poses, posed.median_depth()))
    return figure_png(figure)


def strips_picture(scene: Scene, *, columns: int = 8) -> bytes:
    """Frames, depth and confidence below each other, for evenly chosen frames.

    Args:
        scene: A scene with pointmaps.
        columns: At most that many frames.

    Returns:
        PNG bytes.

    Raises:
        ValueError: No pointmaps, or `columns` below 1.
    """
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    seen = scene.valid_pixels(edge_tolerance=None)
    chosen = np.unique(np.linspace(0, scene.num_frames - 1, min(columns, scene.num_frames)).round().astype(int))
    titles = [str(number + 1) for number in chosen]
    rows = [
        ("frame", scene.frames[chosen], titles),
        ("depth", depth_frames(scene.depth, seen)[chosen], None),
        ("confidence", confidence_frames(scene.confidence, seen)[chosen], None),
    ]
    figure, axes = image_rows(rows, 1.55, fontsize=10, bar=True)
    _strip_bars(figure, axes, scene, seen)
    return figure_png(figure)


def contact_sheet(frames: np.ndarray, *, columns: int = 4, labels: list[str] | None = None) -> bytes:
    """All frames in a grid, in reading order, each with its number or label.

    Args:
        frames: (F, H, W, 3) uint8.
        columns: Frames a row.
        labels: F texts; None numbers them from 1.

    Returns:
        PNG bytes.

    Raises:
        ValueError: `labels` does not fit the frames, or `columns` below 1.
    """
    labels = [str(index + 1) for index in range(len(frames))] if labels is None else labels
    if len(labels) != len(frames) or columns < 1 or not len(frames):
        raise ValueError(
            f"need columns >= 1 and one label a frame, got {columns} columns, {len(frames)} frames, {len(labels)} labels"
        )
    columns = min(columns, len(frames))
    starts = range(0, len(frames), columns)
    figure, _ = image_rows([("", frames[start : start + columns], labels[start : start + columns]) for start in starts], 1.8)
    return figure_png(figure)


def correspondences_picture(scene: Scene, first: int = 0, last: int = -1, *, count: int = 45, dark: bool = False) -> bytes:
    """Two frames side by side with lines between pixels whose 3D points are each other's nearest.

    Args:
        scene: A scene with pointmaps.
        first: Index of the left frame.
        last: Index of the right frame.
        count: About that many lines, evenly over the left frame.
        dark: Light on dark instead of dark on white.

    Returns:
        PNG bytes.

    Raises:
        ValueError: The frames share no points, or as `reciprocal_matches`.
    """
    height, width = scene.size
    # Reciprocity thins the matches, so they are asked for more densely than drawn.
    here, there = reciprocal_matches(scene, first, last, spacing=max(1, int(np.sqrt(height * width / (6 * count)))))
    if not len(here):
        raise ValueError(f"frames {first} and {last} share no points; choose frames that see the same things")
    kept = np.unique(np.linspace(0, len(here) - 1, min(count, len(here))).round().astype(int))
    here, there = here[kept], there[kept]
    ink, paper = DARK if dark else LIGHT
    figure = Figure(figsize=(11, 5.4 * height / width + 0.3), dpi=130, facecolor=paper)
    below = 1 - 0.25 / figure.get_figheight()
    left, right = figure.subplots(1, 2, gridspec_kw={"left": 0.004, "right": 0.996, "bottom": 0.01, "top": below, "wspace": 0.02})
    for axis, index in ((left, first), (right, last)):
        show_image(axis, scene.frames[index])
        axis.set_title(f"frame {index % scene.num_frames + 1}", fontsize=10, color=ink, pad=4)
    # Colour by position in the left frame: neighbouring lines differ little, a wrong line stands out.
    colors = matplotlib.colormaps["turbo"](0.05 + 0.9 * here[:, 0] / width)
    left.scatter(here[:, 0], here[:, 1], s=16, c=colors, edgecolors="white", linewidths=0.6, zorder=4)
    right.scatter(there[:, 0], there[:, 1], s=16, c=colors, edgecolors="white", linewidths=0.6, zorder=4)
    for start, end, color in zip(here, there, colors, strict=True):
        line = ConnectionPatch(start, end, "data", "data", axesA=left, axesB=right, color=color, linewidth=0.8, alpha=0.75)
        figure.add_artist(line)
    return figure_png(figure)


# Parts of the pictures


def _draw_perspective(axis: Axes, scene: Scene, length: float) -> None:
    cloud = scene.points(min_confidence_quantile=0.1, max_points=100_000)
    view = orbit_views(scene, cloud, np.array([-25.0]), (860, 800), raise_deg=26)[0]
    lines, colors = camera_lines(scene, length, samples=150)
    pale = (0.75 * cloud.colors + 0.25 * np.array(_CANVAS)).astype(np.uint8)
    radius = np.concatenate([point_radius(scene, cloud), np.full(len(lines), LINE_RADIUS * length)])
    points, colors = np.concatenate([cloud.points, lines]), np.concatenate([pale, colors])
    show_image(axis, render_points(view, points, colors, radius, background=_CANVAS, shading=0.25, oversampling=2))


def _draw_plan(axis: Axes, scene: Scene, name: str, ink: str) -> None:
    """A parallel view along one world axis: the path, and as much of the scene as lies around it."""
    plane = first, second = _PLANS[name]
    centres, colors = scene.poses[:, :3, 3], time_colors(scene.num_frames) / 255
    extent = float(np.ptp(centres, 0).max())
    ahead = scene.median_depth() * scene.poses[:, :3, 2]
    half = max(0.75 * extent, 0.5 * scene.median_depth()) or 0.5  # of the side of what is shown
    corners = frustum_corners(scene.poses, scene.intrinsics, scene.size, 0.16 * half)
    shown = np.concatenate([centres[:, None], (centres + 0.7 * ahead)[:, None], corners], 1)[..., plane].reshape(-1, 2)
    middle = (shown.min(0) + shown.max(0)) / 2
    half = max(half, 0.62 * float(np.ptp(shown, 0).max()))
    if scene.has_points:
        cloud = scene.points(min_confidence_quantile=0.1, max_points=20_000)
        flat = cloud.points[:, plane]
        inside = (np.abs(flat - middle) < half).all(1)
        axis.scatter(flat[inside, 0], flat[inside, 1], s=5, c=cloud.colors[inside] / 255, alpha=0.35, linewidths=0)
    _draw_frusta(axis, centres[:, plane], corners[..., plane], colors, spaced_cameras(scene.poses, 0.16 * half))
    way = (centres[-1] - centres[0])[list(plane)] * (1, -1 if second == 1 else 1)
    outwards = way / np.linalg.norm(way) if np.linalg.norm(way) > 0.1 * half else np.array([0.0, 1.0])
    for frame, sign in ((0, -1), (scene.num_frames - 1, 1))[: 1 if extent <= 0.1 * half else 2]:
        number, place = str(scene.frame_index[frame] + 1), tuple(17 * sign * outwards)
        label = axis.annotate(number, centres[frame, plane], place, textcoords="offset points")
        label.set(color=ink, fontsize=15, fontweight="bold", ha="center", va="center", zorder=5)
        label.set_path_effects([withStroke(linewidth=4, foreground=axis.get_facecolor())])
    if scene.pose_covariance is not None:
        times = _draw_ellipses(axis, scene, plane, colors, 0.025 * extent)
        note = "2 sigma" if times == 1 else f"2 sigma, times {times}"
        axis.text(0.02, 0.02, note, transform=axis.transAxes, fontsize=12, color=ink)
    sign = -1 if second == 1 else 1  # y points down
    axis.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - sign * half, middle[1] + sign * half))
    axis.set_aspect("equal", adjustable="box")
    axis.locator_params(nbins=4)
    axis.set_axisbelow(True)
    axis.grid(color=ink, alpha=0.15, linewidth=0.8)
    axis.tick_params(labelsize=12, colors=ink, length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.set_title(f"Path from {name}", fontsize=15, color=ink, loc="left")
    axis.set_xlabel(_AXES[first], fontsize=13, color=ink)
    axis.set_ylabel(_AXES[second], fontsize=13, color=ink)


def _draw_frusta(axis: Axes, centres: np.ndarray, corners: np.ndarray, colors: np.ndarray, drawn: np.ndarray) -> None:
    axis.add_collection(
        LineCollection(list(np.stack([centres[:-1], centres[1:]], 1)), colors=colors[:-1], linewidths=3, zorder=3)
    )
    quads = corners[drawn]  # (D, 4, 2)
    faces = np.concatenate([colors[drawn], np.full((len(drawn), 1), 0.12)], 1)
    axis.add_collection(PolyCollection(list(quads), facecolors=faces, edgecolors=colors[drawn], linewidths=1.4, zorder=3))
    sides = np.stack([np.repeat(centres[drawn, None], 4, 1), quads], 2).reshape(-1, 2, 2)
    axis.add_collection(LineCollection(list(sides), colors=np.repeat(colors[drawn], 4, 0), linewidths=1.4, zorder=3))
    axis.scatter(centres[:, 0], centres[:, 1], s=26, c=colors, zorder=4, linewidths=0)


def _draw_ellipses(axis: Axes, scene: Scene, plane: tuple[int, int], colors: np.ndarray, least: float) -> int:
    """2-sigma ellipses of the positions in the plane of two world axes.

    Args:
        axis: Where to draw.
        scene: With `pose_covariance`.
        plane: The world axes across and upwards.
        colors: (F, 3) in [0, 1].
        least: Half axis below which an ellipse would hide behind its dot.

    Returns:
        1, or by what round number the ellipses are enlarged so that half of them show.
    """
    ellipses = []  # frame, half axes, angle
    for frame, covariance in enumerate(scene.pose_covariance):
        block = covariance[np.ix_([3 + plane[0], 3 + plane[1]], [3 + plane[0], 3 + plane[1]])]
        if not np.isfinite(block).all() or np.trace(block) <= 0:
            continue  # an undetermined pose has no ellipse, a given one has no size
        values, vectors = np.linalg.eigh((block + block.T) / 2)
        angle = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1]))
        ellipses.append((frame, 2 * np.sqrt(np.maximum(values[::-1], 0)), angle))
    typical = float(np.median([half[0] for _, half, _ in ellipses])) if ellipses else least
    times = next((times for times in _ENLARGED if times * typical >= least), _ENLARGED[-1])
    for frame, half, angle in ellipses:
        where, (width, height) = scene.poses[frame, list(plane), 3], 2 * times * half
        face, edge = (*colors[frame], 0.18), (*colors[frame], 0.9)
        axis.add_patch(Ellipse(where, width, height, angle=angle, facecolor=face, edgecolor=edge))
    return times


def _strip_bars(figure: Figure, axes: list[Axes], scene: Scene, seen: np.ndarray) -> None:
    """The colour scales of the depth and confidence rows, labelled in their own units."""
    inverse = 1 / scene.depth[seen]
    low, high = np.quantile(inverse, [0.02, 0.98])
    sure = np.quantile(np.log(scene.confidence[seen]), [0.02, 0.98])
    for row, colormap, ends, texts in (
        (1, "magma", (low, high), (1 / low, 1 / high)),
        (2, "viridis", sure, np.exp(sure)),
    ):
        middle = (ends[0] + ends[1]) / 2
        span = Normalize(ends[0], max(ends[1], ends[0] + 1e-9))
        bar = color_bar(figure, axes[row], ScalarMappable(span, colormap))
        ticks = [ends[0], middle, ends[1]] if ends[1] > ends[0] else [ends[0]]
        values = [texts[0], 1 / middle if row == 1 else np.exp(middle), texts[1]][: len(ticks)]
        bar.set_ticks(ticks, labels=[f"{value:.3g}" for value in values])


def show_image(axis: Axes, image: np.ndarray, pixels: bool | None = None) -> None:
    """Draw (H, W, 3) uint8 without ticks and frame; small pictures keep their `pixels`."""
    small = min(image.shape[:2]) < 200 if pixels is None else pixels
    axis.imshow(image, interpolation="nearest" if small else "antialiased")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)


def image_rows(
    rows: Sequence[tuple[str, np.ndarray, list[str] | None]], cell: float, *, fontsize: float = 9, ink: str = INK,
    paper: str = "white", bar: bool = False,
) -> tuple[Figure, list[Axes]]:  # fmt: skip
    """Rows of small pictures, each row one image on axes of its own: axes for every picture would take five times as long.

    Args:
        rows: Of each its name, up to C pictures (C, H, W, 3) uint8 of one size, and the titles above them or None.
        cell: Width of a picture in inches.
        fontsize: Of the names.
        ink, paper: Colours of the texts and of what is between the pictures.
        bar: Leave room on the right, for `color_bar`.

    Returns:
        The figure and the axes of the rows.
    """
    columns = max(len(pictures) for _, pictures, _ in rows)
    height, width = rows[0][1].shape[1:3]
    gap = max(1, width // 40)
    left, right = 0.3 if any(name for name, _, _ in rows) else 0.04, 0.62 if bar else 0.04
    between = 0.12 if bar else 0.05  # half of a bar's last label
    across = columns * cell
    tall = across * height / (columns * (width + gap) - gap)
    heights = [tall + (0.21 if titles else between) for _, _, titles in rows]
    size = (left + across + right, sum(heights) + between)
    figure, axes, bottom = Figure(figsize=size, dpi=130, facecolor=paper), [], size[1]
    background = (np.array(to_rgb(paper)) * 255).round().astype(np.uint8)
    for (name, pictures, titles), room in zip(rows, heights, strict=True):
        bottom -= room
        axis = figure.add_axes((left / size[0], bottom / size[1], across / size[0], tall / size[1]))
        image = np.tile(background, (height, columns * (width + gap) - gap, 1))
        for place, picture in enumerate(pictures):
            image[:, place * (width + gap) :][:, :width] = picture
        show_image(axis, image, pixels=min(height, width) < 200)
        axis.set_ylabel(name, fontsize=fontsize, color=ink)
        for place, title in enumerate(titles or []):
            middle = place * (width + gap) + (width - 1) / 2
            axis.annotate(title, (middle, -0.5), (0, 3), textcoords="offset points", ha="center", fontsize=9, color=ink)
        axes.append(axis)
    return figure, axes


def color_bar(figure: Figure, axis: Axes, scale: ScalarMappable, ink: str = INK) -> Colorbar:
    """A colour scale beside a row of `image_rows`."""
    box, width = axis.get_position(), figure.get_figwidth()
    bar = figure.colorbar(scale, cax=figure.add_axes((box.x1 + 0.06 / width, box.y0, 0.1 / width, box.height)))
    bar.ax.tick_params(labelsize=8, colors=ink, length=0)
    bar.outline.set_visible(False)
    return bar


def figure_png(figure: Figure) -> bytes:
    """PNG bytes of a figure."""
    canvas = FigureCanvasAgg(figure)
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.execute(figure)
        figure.set_layout_engine("none")  # or drawing lays out once more
    canvas.draw()  # once, where `savefig` draws twice
    buffer = io.BytesIO()
    # No software version or date inside: the same scene gives the same bytes.
    Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).save(buffer, "PNG")
    return buffer.getvalue()
