"""The pictures of docs/cameras.md: a rendered room, its cameras and points from tracks, and depth aligned to them.

    python benchmarks/camera_pictures.py --out docs/pictures/cameras.png
    python benchmarks/camera_pictures.py --frames FOLDER --out docs/pictures/cameras_real.png

No weights are needed: the depth "of a model" is the true one, bent, noisy, and in a unit and with a shift of its own. With
`--frames`, a folder of pictures of your own, the points and cameras alone are drawn, from two sides.
"""

import argparse
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from sfm_scenes import RenderedClip, make_room, path, render

from jog3r.commands.reconstruction.dense import aligned_scene
from jog3r.commands.reconstruction.network_maps import NetworkMaps
from jog3r.commands.reconstruction.tracked import camera_scene, find_tracks
from jog3r.export.conventions import camera_size
from jog3r.export.files import write_file
from jog3r.export.pictures import overview_picture
from jog3r.export.pictures.images import png_bytes
from jog3r.export.pictures.rendering import LINE_RADIUS, camera_lines, orbit_views, point_radius, render_points
from jog3r.export.scene import Scene
from jog3r.geometry.camera_metrics import pose_errors

FRAMES, SIZE, FOCAL = 10, (240, 320), 260.0


def main() -> None:
    """Render, reconstruct, print the errors and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="PNG file")
    parser.add_argument("--frames", type=Path, help="folder of a real clip's pictures instead of the room")
    options = parser.parse_args()
    picture = _room() if options.frames is None else _real(options.frames)
    print(write_file(options.out, _palette(picture), overwrite=True))


def _real(folder: Path) -> bytes:
    frames = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.iterdir())])
    scene = camera_scene((frames, 10.0, np.arange(len(frames)) / 10), find_tracks(frames, None), None)
    print(f"{len(scene.tracks)} points, {scene.registered.sum()} of {scene.num_frames} frames")
    cloud, length = scene.points(), camera_size(scene.poses, scene.median_depth())
    lines, colors = camera_lines(scene, length, samples=150)
    points, colors = np.concatenate([cloud.points, lines]), np.concatenate([cloud.colors, colors])
    radius = np.concatenate([1.4 * point_radius(scene, cloud), np.full(len(lines), LINE_RADIUS * length)])
    drawn = [
        render_points(view, points, colors, radius, background=(250, 250, 252), shading=0.0, oversampling=2)
        for view in orbit_views(scene, cloud, np.array([-35.0, 35.0]), (430, 620), raise_deg=20)
    ]
    return png_bytes(np.concatenate(drawn, axis=1))


def _room() -> bytes:
    clip = render(make_room(3, contrast=0.8), path(FRAMES, sideways=1.0, forward=0.6, turn_deg=-6), SIZE, FOCAL)
    found = find_tracks(clip.frames, None)
    cameras = camera_scene((clip.frames, 10.0, np.arange(FRAMES) / 10), found, None)
    errors = pose_errors(cameras.poses, clip.poses)
    print(f"rotation {errors['rotation_deg'].mean():.2f} deg, direction {errors['translation_deg'].mean():.2f} deg, ", end="")
    print(f"focal length {cameras.intrinsics[0, 0, 0]:.1f} of {FOCAL:.0f} pixels, {len(cameras.tracks)} points")
    dense, line = aligned_scene(cameras, _bent_maps(clip, cameras), inverse=True, source="a model")
    unit = np.linalg.norm(cameras.poses[-1, :3, 3]) / np.linalg.norm(clip.poses[-1, :3, 3])
    left = np.abs(np.log(dense.depth / (clip.depth * unit)))[dense.confidence > 0]
    print(f"{line}; of the true depth: within {np.median(left):.1%} (median), {np.quantile(left, 0.9):.1%} (nine of ten pixels)")
    captions = ("points of the tracks, and their cameras", "inverse depth of a model, aligned to these points")
    scenes = [_named(scene, caption) for scene, caption in zip((cameras, dense), captions, strict=True)]
    return overview_picture(scenes)


def _bent_maps(clip: RenderedClip, cameras: Scene) -> NetworkMaps:
    """Inverse depth as a model might give it: own unit and shift in each frame, bent by up to a seventh, 2 % noise."""
    random = np.random.default_rng(0)
    bend = np.exp(0.15 * np.sin(np.linspace(0, 3, SIZE[1])) * np.cos(np.linspace(0, 2, SIZE[0]))[:, None])
    inverse = bend / clip.depth * np.exp(random.normal(0, 0.02, clip.depth.shape))
    inverse = random.uniform(0.5, 30, (FRAMES, 1, 1)) * (inverse + random.uniform(-0.05, 0.1, (FRAMES, 1, 1)))
    known = np.ones(inverse.shape, np.float32)
    poses, intrinsics = cameras.poses, cameras.intrinsics
    return NetworkMaps(poses, intrinsics, ("",) * FRAMES, np.arange(FRAMES), clip.frames, inverse, known, np.eye(3))


def _palette(png: bytes) -> bytes:
    """The picture in 128 colours, a quarter of the bytes."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(128).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _named(scene: Scene, caption: str) -> Scene:
    return replace(scene, caption=caption)


if __name__ == "__main__":
    main()
