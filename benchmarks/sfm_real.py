"""Cameras of real clips with known cameras: from tracks, from the network alone, from pycolmap alone, and two that do not look.

    python benchmarks/sfm_real.py DATA [--only METHOD ...] [--model FOLDER]

DATA holds re10k/ (videos/, pose_files/), sevenscenes_redkitchen/clip_*/ and lund_door/ (scene.json); folders that are missing are
named and skipped. Errors are means over the pairs (1, f), in degrees; frames without a camera keep that of the nearest one that
has one, and are counted. The true focal length is that of the data set, which for 7-Scenes is its depth camera's.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sfm_clips import TrueClip, read_clips

from jog3r import tiny_checkpoint
from jog3r.data.video import resize_frames
from jog3r.evaluation.baselines import constant_poses, forward_poses
from jog3r.geometry.camera_metrics import pose_errors, pose_metrics
from jog3r.pipelines.loading.any_pipeline import load_pipeline
from jog3r.sfm import track_cameras
from jog3r.sfm.colmap import load_pycolmap, quiet
from jog3r.sfm.result import fill_poses
from jog3r.sfm.solving.mapping import mapper_options

Found = tuple[np.ndarray, float, int]  # poses (F, 4, 4), focal length in x (NaN: none), frames with a camera


def main() -> int:
    """Print a line for each clip and the means of each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", nargs="*", default=None, help="only these methods")
    parser.add_argument("--model", default=tiny_checkpoint(), help="folder of the network")
    options = parser.parse_args()
    clips = list(read_clips(options.data))
    if not clips:
        sys.stderr.write(f"error: no clips in {str(options.data)!r}\n")
        return 2
    methods = {name: find for name, find in make_methods(options.model).items() if options.only is None or name in options.only}
    print("| clip | frames | true focal | " + " | ".join(methods) + " |\n" + "|---" * (3 + len(methods)) + "|")
    errors: dict[tuple[str, str], list] = {}
    seconds = 0.0
    for clip in clips:
        cells = []
        for name, find in methods.items():
            start = time.process_time()
            poses, focal, registered = find(clip)
            seconds += (time.process_time() - start) / len(clip.frames) if name == "tracks" else 0.0
            found = pose_errors(poses, clip.poses)
            errors.setdefault((_set_of(clip.name), name), []).append(found)
            numbers = pose_metrics([found])
            note = "" if np.isnan(focal) else f" (f {focal:.0f}, {registered})"
            cells.append(f"{numbers['rotation_deg']:.2f}, {numbers['translation_deg']:.1f}{note}")
        print(f"| {clip.name} | {len(clip.frames)} | {clip.focal_px:.0f} | {' | '.join(cells)} |", flush=True)
    for group in dict.fromkeys(group for group, _ in errors):
        means = [pose_metrics(errors[group, name]) for name in methods]
        print(f"| {group} | | | " + " | ".join(f"{m['rotation_deg']:.2f}, {m['translation_deg']:.1f}" for m in means) + " |")
    if seconds:
        print(f"tracks: {seconds / len(clips):.2f} processor seconds a frame")
    return 0


def _set_of(name: str) -> str:
    """clip_00 stands alone: published settings fail on it."""
    if name.startswith("clip_"):
        return "7-Scenes clip_00" if name == "clip_00" else "7-Scenes, others"
    return "lund_door" if name == "lund_door" else "RealEstate10K"


def make_methods(model: str) -> dict[str, Callable[[TrueClip], Found]]:
    """All methods by name."""
    pipe = load_pipeline(model, with_text=False)

    def network(clip: TrueClip) -> Found:
        small, _ = resize_frames(clip.frames, pipe.default_size, pipe.default_size, "crop")  # as `jog3r reconstruct` does
        poses = pipe(video=small, generator=torch.Generator().manual_seed(0)).poses[0].numpy()
        return poses, np.nan, len(poses)

    return {
        "tracks": lambda clip: from_tracks(clip, {}),
        "tracks, true focal": lambda clip: from_tracks(clip, {"focal_px": clip.focal_px, "pixel_aspect": clip.aspect}),
        "pycolmap's defaults": lambda clip: from_pycolmap(clip, tuned=False, true_focal=False),
        "pycolmap, tuned": lambda clip: from_pycolmap(clip, tuned=True, true_focal=False),
        "pycolmap, true focal": lambda clip: from_pycolmap(clip, tuned=True, true_focal=True),
        "network alone": network,
        "constant pose": lambda clip: (constant_poses(len(clip.frames)), np.nan, len(clip.frames)),
        "always forward": lambda clip: (forward_poses(len(clip.frames)), np.nan, len(clip.frames)),
    }


def from_tracks(clip: TrueClip, options: dict) -> Found:
    """`track_cameras`."""
    try:
        found = track_cameras(clip.frames, **options)
    except ValueError as error:
        sys.stderr.write(f"{clip.name}: {error}\n")
        return constant_poses(len(clip.frames)), np.nan, 0
    return found.poses.numpy(), float(found.intrinsics[0, 0, 0]), int(found.registered.sum())


def from_pycolmap(clip: TrueClip, tuned: bool, true_focal: bool) -> Found:
    """pycolmap's own steps on the frames: with its defaults, or our settings of features and mapper; no second beginning."""
    pycolmap = load_pycolmap()
    count, height, width = clip.frames.shape[:3]
    with quiet(pycolmap), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index, frame in enumerate(clip.frames):
            Image.fromarray(frame).save(folder / f"{index:04d}.png")
        reader, features = pycolmap.ImageReaderOptions(), pycolmap.FeatureExtractionOptions()
        mapper = pycolmap.IncrementalPipelineOptions()
        if tuned:
            focal = clip.focal_px if true_focal else 0.75 * max(width, height)
            reader.camera_model = "PINHOLE" if true_focal else "SIMPLE_PINHOLE"
            fy = [focal * clip.aspect] if true_focal else []
            reader.camera_params = ",".join(str(number) for number in [focal, *fy, width / 2, height / 2])
            features.sift.peak_threshold = 0.002
            mapper = mapper_options(pycolmap, not true_focal, 0)
        mapper.random_seed = 0
        database, single = folder / "database.db", pycolmap.CameraMode.SINGLE
        pycolmap.extract_features(database, folder, camera_mode=single, reader_options=reader, extraction_options=features)
        pycolmap.match_exhaustive(database)
        (folder / "models").mkdir()
        models = pycolmap.incremental_mapping(database, folder, folder / "models", mapper)
    if not models:
        return constant_poses(count), np.nan, 0
    best = max(models.values(), key=lambda model: model.num_reg_images())
    poses, known = np.tile(np.eye(4), (count, 1, 1)), np.zeros(count, bool)
    for image_id in best.reg_image_ids():
        image = best.image(image_id)
        frame = int(Path(image.name).stem)
        poses[frame, :3], known[frame] = image.cam_from_world().inverse().matrix(), True
    focal_px = float(next(iter(best.cameras.values())).params[0])
    return fill_poses(poses, known, interpolate=False), focal_px, int(known.sum())


if __name__ == "__main__":
    sys.exit(main())
