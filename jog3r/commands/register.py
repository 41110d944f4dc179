"""`jog3r register`: the results of `reconstruct`, from the geometry that any model found."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jog3r.commands.options import registration_arguments, registration_kwargs, result_options
from jog3r.commands.output_folder import OutputFolder, UsageError
from jog3r.commands.reconstruction.geometry_file import FORMS, read_geometry, solve
from jog3r.commands.reconstruction.known_cameras import doubtful_poses
from jog3r.commands.reconstruction.network_maps import NetworkMaps, grid_transform
from jog3r.commands.reconstruction.selection import picture_names, ranged_frames, read_chosen, selection_arguments
from jog3r.commands.reconstruction.spool import Spool
from jog3r.commands.reconstruction.tracked import (
    camera_scene,
    describe,
    find_tracks,
    make_clouds,
    read_frames,
    write_tracked,
)
from jog3r.commands.results import check_exports, report, result_names, write_results_of, written_line
from jog3r.commands.running import stages

FPS = 8.0  # of results whose frames have no clock
_APART = 0.03  # median relative difference of depths from which there is probably a mistake


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("file", type=Path, help=f"npz with {', '.join(FORMS)}; names in docs/registration.md")
    result_options(parser)
    registration_arguments(parser)
    parser.add_argument(
        "--video",
        type=Path,
        default=None,
        help="video file or folder of images of the same frames (default: those in the file)",
    )
    parser.add_argument(
        "--cameras",
        choices=("file", "auto"),
        default="file",
        help="of the file (default), or with --video: in its own pixels, from its feature tracks where these are better",
    )
    selection_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> str:
    """Returns what to print."""
    check_exports(options.export, has_geometry=True)
    form, arrays = read_geometry(options.file)
    for name, default in {"registration": "fast", "focal_per_frame": False}.items():
        if getattr(options, name) != default and form != "pairwise pointmaps":
            raise UsageError(f"--{name} belongs to pairwise pointmaps, {str(options.file)!r} has {form}")
    if options.focal_per_frame and "intrinsics" in arrays:
        raise UsageError(f"--focal_per_frame has no effect: {str(options.file)!r} gives the intrinsics; leave one of the two out")
    _refuse_selection_without_video(options)
    if options.video is None and "frames" not in arrays:
        raise UsageError(
            f"the pictures are missing: {str(options.file)!r} has no frames (F, H, W, 3) uint8; add them, or name a --video"
        )
    size = arrays["depth" if form == "depth with cameras" else "pointmaps"].shape[1:3]
    inputs = (options.file, options.video)
    with OutputFolder(options.out, options.overwrite, result_names(options.export), inputs) as folder, stages(3) as stage:
        if options.video is not None:
            ranged_frames(options)  # refuses what is no video
        stage("finding the cameras")
        found = solve(form, arrays, registration_kwargs(options))
        stage("reading the pictures")
        if options.video is None:
            frames, fps, times = arrays["frames"], FPS, None
        else:
            video = read_chosen(options, (size[0], size[1]), most=len(found.depth))
            frames, fps, times = video.frames, video.fps, video.times
        _check_fit(options, frames, found)
        if options.cameras == "auto":
            lines, failed = _refined(options, NetworkMaps.of_registration(found, frames, np.eye(3)), folder)
        else:
            stage("writing")
            scene = replace(_scene(found, frames, fps, times), images=picture_names(options, len(frames)))
            failed = write_results_of(scene, options.export, folder)
            lines = [_quality(found, set(arrays)), *doubtful_poses(found.degenerate)]
        names = sorted(path.name for path in folder.iterdir())
    return report("\n".join([written_line(options.out, names), *lines]), options.out, failed)


def _refined(options: argparse.Namespace, maps: NetworkMaps, folder: Path) -> tuple[list[str], dict[str, Exception]]:
    """Results in the video's own pixels, by the tracks in it; the lines to print, and what could not be made."""
    with Spool(folder / ".spool") as spool:
        fps, times = read_frames(options, spool)
        frames = spool.frames()
        size = (frames.shape[1], frames.shape[2])
        maps = replace(maps, transform=grid_transform(size, (maps.depth.shape[1], maps.depth.shape[2]), options.resize))
        found = find_tracks(frames, maps, chosen={"distortion": 0.0})  # the maps are those of the pictures as they are
        cameras = camera_scene((frames, fps, times), found, maps, other="file")
        cameras = replace(cameras, images=picture_names(options, len(frames)))
        cameras, cloud, failed, lines = make_clouds(cameras, maps, "file", "cpu")
        failed |= write_tracked(cameras, cloud, options.export, folder)
        return [describe(cameras, found), *lines, *doubtful_poses(cameras.doubtful)], failed


def _refuse_selection_without_video(options: argparse.Namespace) -> None:
    unused = {"start": 0, "stop": None, "stride": 1, "frames": None, "resize": "crop"}
    given = [name for name, default in unused.items() if getattr(options, name) != default]
    if options.video is None and given:
        raise UsageError(f"--{given[0]} chooses frames of a video: add --video")
    if options.video is None and options.cameras == "auto":
        raise UsageError("--cameras auto follows features in the video of the file's geometry: add --video")


def _check_fit(options: argparse.Namespace, frames: np.ndarray, found: Any) -> None:
    count, height, width = found.depth.shape
    if frames.shape[:3] != (count, height, width):
        place = options.file if options.video is None else options.video
        more = "" if options.video is None else f" (--frames {count} takes as many, evenly)"
        raise UsageError(
            f"{str(place)!r} has {len(frames)} frames of {frames.shape[2]} x {frames.shape[1]} pixels, the geometry in "
            f"{str(options.file)!r} is of {count} frames of {width} x {height}{more}"
        )


def _quality(found: Any, given: set[str]) -> str:
    """How well the geometry agrees with itself: the usual mistakes with other models' results show here."""
    from jog3r.training.preparation.depth_masks import median_disagreement

    valid = (found.depth > 0) & (found.confidence > 0) & found.pose_known[:, None, None]
    apart = median_disagreement(found.depth, valid, found.intrinsics, found.poses)
    text = f"focal length {float(found.intrinsics[:, 0, 0].median()):.0f} pixels"
    if len(found.depth) < 2:
        return text
    lone = "no frame sees what another one does"
    text += f"; {lone}" if apart is None else f"; depth of frames a quarter of the clip apart agrees to {100 * apart:.1f} %"
    questions = []
    if given & {"poses", "extrinsics"}:
        questions += ["are the poses what they are called, camera-to-world or extrinsics, and in the unit of the depth?"]
    questions += ["are the intrinsics of these pixels?"] if "intrinsics" in given else []
    return " ".join([f"{text};" if questions else text, *questions]) if apart is None or apart > _APART else text


def _scene(found: Any, frames: np.ndarray, fps: float, times: np.ndarray | None) -> Any:
    from jog3r.export.scene import Scene

    covariance = None if bool(found.pose_covariance.isnan().all()) else found.pose_covariance
    return Scene(
        frames,
        found.poses,
        found.intrinsics,
        found.pointmaps,
        found.confidence * found.pose_known[:, None, None],
        found.depth,
        fps,
        pose_covariance=covariance,
        pose_known=found.pose_known,
        doubtful=found.degenerate,
        times=times,
        source="file",
    )
