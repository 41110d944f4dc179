"""`jog3r reconstruct` in the video's own pixels: cameras from tracks, from the network, or the better of the two."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jog3r.commands.options import option
from jog3r.commands.output_folder import OutputFolder, UsageError
from jog3r.commands.reconstruction.dense import aligned_scene, check_depth, model_depth, tracks_of_maps
from jog3r.commands.reconstruction.known_cameras import compare_cameras, doubtful_poses, read_true_cameras
from jog3r.commands.reconstruction.network import TooManyFrames, find_maps
from jog3r.commands.reconstruction.network_maps import NetworkMaps
from jog3r.commands.reconstruction.selection import check_count, chosen_cameras, open_frames, picture_names
from jog3r.commands.reconstruction.spool import Spool
from jog3r.commands.reconstruction.windows import check_long_options
from jog3r.commands.results import report, result_names, write_exports, written_line
from jog3r.commands.running import TINY_NOTE, stages

__all__ = ["camera_arguments", "refuse_options_without_effect", "run_tracked"]

FULL_SIZE = ("colmap", "nerfstudio", "tum", "kitti", "blender")  # exports of all frames as they are; the others are of the cloud
ONLY_TRACKS: dict[str, Any] = {
    "max_side": None,
    "focal_px": None,
    "pixel_aspect": None,
    "distortion": None,
    "interpolate": False,
    "depth": None,
    "matcher": None,
}
# As `track_cameras` calls them.
TRACK_OPTIONS = ("max_side", "focal_px", "pixel_aspect", "distortion", "interpolate", "matcher", "device")
ONLY_NETWORK: dict[str, Any] = {
    **dict(model=None, registration="fast", focal_per_frame=False, reconstruction_timestep=None, height=None, width=None),
    **dict(both_directions=False, window=None, overlap=None, close_loops=False, keyframes=None, resize="crop"),
    **dict(dtype="float32", offload=False),
}


def camera_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the cameras come from, and the options of tracks."""
    parser.add_argument(
        "--cameras",
        choices=("auto", "network", "tracks"),
        default="auto",
        help="feature tracks and bundle adjustment, the network, or the better by the evidence in the pictures (default)",
    )
    option(
        parser,
        "depth",
        default=None,
        metavar="MODEL",
        help="a point for every pixel: depth of the `network`, or a depth model of transformers (folder or hub repository)",
    )
    option(parser, "max_side", type=int, default=None, metavar="PIXELS", help="features are found in frames of at most this side")
    option(parser, "focal_px", type=float, default=None, metavar="PIXELS", help="focal length in pixels of the video, if known")
    option(
        parser,
        "pixel_aspect",
        type=float,
        default=None,
        help="fy / fx of a stretched video, such as 1.78 (default: square, or what tracks ask for)",
    )
    option(
        parser,
        "distortion",
        type=float,
        default=None,
        metavar="K",
        help="of the lens, as printed for another clip of it, with its --focal_px; 0: none (default: what tracks ask for)",
    )
    option(
        parser,
        "matcher",
        default=None,
        metavar="MODEL",
        help="SuperPoint + LightGlue or EfficientLoFTR of transformers instead of SIFT (folder or hub repository)",
    )
    option(parser, "interpolate", action="store_true", help="lay poses of frames without one between their neighbours'")


def refuse_options_without_effect(options: argparse.Namespace) -> None:
    """Refuse options of the network where it has no part, and options of tracks for the network alone.

    Raises:
        UsageError: see above.
    """
    if options.cameras == "network":
        unused = ONLY_TRACKS
    elif options.cameras == "tracks" and options.depth != "network":
        unused = ONLY_NETWORK
    else:
        return
    given = [name for name, default in unused.items() if getattr(options, name) != default]
    if options.cameras == "tracks" and options.device != "cpu" and options.depth is None and options.matcher is None:
        raise UsageError("--device has no effect on tracks of SIFT features: leave it out, or add --matcher or --depth")
    if given:
        others = "network" if options.cameras == "tracks" else "tracks"
        raise UsageError(f"--{given[0]} has no effect with --cameras {options.cameras}: it belongs to the {others}; leave it out")


def run_tracked(options: argparse.Namespace) -> str:
    """`jog3r reconstruct` with `--cameras auto` or `tracks`: returns what to print."""
    from jog3r.geometry.registration.checks import check_in_pixels
    from jog3r.sfm.checks import check_distortion

    check_long_options(options)
    _check_positive(options)
    true_poses = None if options.true_cameras is None else read_true_cameras(options.true_cameras)
    if options.depth not in (None, "network"):
        check_depth(options.depth)
    if options.matcher is not None:
        _check_matcher(options.matcher)
    missing = _missing_pycolmap(options.cameras)
    notes = [] if missing is None else [f"note: {missing}; these cameras are the network's"]
    inputs = (options.video, options.true_cameras)
    with OutputFolder(options.out, options.overwrite, result_names(options.export), inputs) as folder, stages(5) as stage:
        with Spool(folder / ".spool") as spool:
            stage("reading the video")
            fps, times = read_frames(options, spool)
            frames = spool.frames()
            if options.focal_px is not None:  # before the network works for minutes
                check_in_pixels("--focal_px", options.focal_px, (frames.shape[1], frames.shape[2]))
            if options.distortion is not None:
                check_distortion(options.distortion, options.focal_px, (frames.shape[1], frames.shape[2]))
            if true_poses is not None:
                true_poses = chosen_cameras(options, true_poses, len(frames))
            stage("asking the network")
            maps = None
            if options.cameras == "auto" or options.depth == "network":
                maps = _ask_network(options, frames, folder, notes)
            stage("following features")
            initial = maps if options.cameras == "auto" else None
            found = None
            if missing is None:
                chosen = {name: getattr(options, name) for name in TRACK_OPTIONS}
                found = _follow(frames, initial, (options.seed, chosen), notes)
            cameras = camera_scene((frames, fps, times), found, maps, options.interpolate)
            cameras = replace(cameras, images=picture_names(options, len(frames)))
            stage("finding depth")
            cameras, cloud, failed, more = make_clouds(cameras, maps, options.depth, options.device)
            stage("writing")
            failed |= write_tracked(cameras, cloud, options.export, folder)
        names = sorted(path.name for path in folder.iterdir())
    lines = [written_line(options.out, names), describe(cameras, found), *more, *notes, *doubtful_poses(cameras.doubtful)]
    lines += _without_effect(options, cameras.source, found is not None)
    if options.model is None and cameras.source == "network":
        lines.append(TINY_NOTE)
    if true_poses is not None:
        lines.append(compare_cameras(cameras.poses, cameras.pose_known, true_poses))
    return report("\n".join(lines), options.out, failed)


def _ask_network(options: argparse.Namespace, frames: np.ndarray, folder: Path, notes: list[str]) -> NetworkMaps | None:
    """What the network finds; None, and a note, where it cannot and tracks can."""
    from jog3r.geometry.windows import JoinError

    try:
        return find_maps(options, frames, folder)
    except (TooManyFrames, JoinError) as error:
        if notes or options.depth == "network":  # nothing else would find cameras, or depth
            raise
        notes.append(f"note: the network {'was not asked' if isinstance(error, TooManyFrames) else 'has no say'}; {error}")
        return None


def _follow(frames: np.ndarray, initial: NetworkMaps | None, how: tuple[int, dict[str, Any]], notes: list[str]) -> Any:
    """`find_tracks`; where it finds nothing, what `notes` say of the network is part of the error."""
    try:
        return find_tracks(frames, initial, *how)
    except ValueError as error:
        raise UsageError("; ".join([str(error), *(note.removeprefix("note: ") for note in notes)])) from error


def _check_positive(options: argparse.Namespace) -> None:
    """Refuse early what `track_cameras` would refuse when the network is done."""
    for name, least in (("max_side", 64), ("focal_px", 0), ("pixel_aspect", 0)):
        value = getattr(options, name)
        if value is not None and not (value >= least and value > 0):
            raise UsageError(f"--{name} must be {f'at least {least} pixels' if least else 'a positive number'}, got {value}")


def _without_effect(options: argparse.Namespace, source: str, tracked: bool) -> list[str]:
    """A note on options of tracks where the network's cameras were taken as they are, or of clouds that are not the network's."""
    if source != "network":
        points = "the tracks', of all frames" if options.depth is None else "the depth model's, of up to 64 frames"
        shows = options.keyframes is None or options.depth == "network"
        return [] if shows else [f"note: --keyframes had no effect: these points are {points}"]
    names = ("focal_px", "pixel_aspect", "distortion", "interpolate", *(() if tracked else ("max_side", "matcher")))
    given = [name for name in names if getattr(options, name) != ONLY_TRACKS[name]]
    named = ", ".join(f"--{name}" for name in given)
    return [f"note: {named} had no effect: these cameras are the network's, as it found them"] if given else []


def _check_matcher(name: str) -> None:
    """Refuse early a `--matcher` that is none."""
    from jog3r.sfm.matching.learned import check_matcher

    try:
        check_matcher(name)
    except ValueError as error:
        raise UsageError(f"--{error}") from error


def _missing_pycolmap(wanted: str) -> str | None:
    """Why there are no tracks; None where there are."""
    from jog3r.sfm.colmap import load_pycolmap

    try:
        load_pycolmap()
    except ImportError as error:
        if wanted == "tracks":
            raise
        return str(error)
    return None


def read_frames(options: argparse.Namespace, spool: Spool) -> tuple[float, np.ndarray]:
    """All chosen frames in their own size, to disk; frames per second, and the time of each."""
    from jog3r.data.video_stream import EndsEarly

    def read(video: Any) -> tuple[float, np.ndarray]:
        times: list[float] = []
        for time, frame in video.timed():
            if not times:
                spool.check_room(frame, video.__length_hint__())
            spool.add_frame(frame)
            times.append(time)
        check_count(options, len(times))
        return video.fps, np.array(times)

    try:
        return read(open_frames(options))
    except EndsEarly as error:  # some packets show nothing: an edit list hides them, or they only help to decode others
        spool.clear("frames")
        return read(open_frames(options, recorded=error.count))


def find_tracks(frames: np.ndarray, initial: NetworkMaps | None, seed: int = 0, chosen: dict[str, Any] | None = None) -> Any:
    """`TrackedCameras` of frames (F, H, W, 3).

    Args:
        frames: they may lie on disk.
        initial: cameras to judge beside those of tracks.
        seed: same seed, same result.
        chosen: other arguments of `track_cameras`; those that are None are left to it.
    """
    from jog3r.sfm import track_cameras

    return track_cameras(
        frames,
        initial=None if initial is None else initial.initial((frames.shape[1], frames.shape[2])),
        seed=seed % 2**31,
        progress=sys.stderr.isatty(),  # so that an error is one line in a log
        **{name: value for name, value in (chosen or {}).items() if value is not None},
    )


def camera_scene(
    video: tuple[np.ndarray, float, np.ndarray],
    found: Any,
    maps: NetworkMaps | None,
    interpolate: bool = False,
    other: str = "network",
) -> Any:
    """All frames with the cameras found, in the video's own pixels, and the points that were tracked: a `Scene`.

    Args:
        video: frames (F, H, W, 3), frames per second, and times (F,); frames on the disk are undistorted where they lie.
        found: `TrackedCameras`, or None where there are no tracks.
        maps: what a network found; its cameras are taken where tracks have not won.
        interpolate: poses that are laid between others' count as known.
        other: what is written as source of the cameras of `maps`.
    """
    from jog3r.export.scene import Scene
    from jog3r.geometry.registration.degeneracy import pose_known

    frames, fps, times = video
    if found is None or found.chosen == "network":
        if maps is None:
            raise ValueError("cameras of the network were chosen, but there are none")
        known = pose_known(maps.degenerate).numpy()
        if not known.any():
            raise UsageError(f"neither the {other} nor tracks know a camera of this video")
        intrinsics = np.linalg.inv(maps.transform) @ maps.intrinsics
        reasons = maps.degenerate if found is None else found.degenerate
        more = {"pose_known": known, "source": other, "doubtful": reasons}
        return Scene(frames, maps.poses, intrinsics, fps=fps, times=times, **more)
    registered, known = found.registered.numpy(), found.pose_known.numpy()
    if interpolate:
        places = np.flatnonzero(registered)
        known = known | (np.arange(len(known)) > places[0]) & (np.arange(len(known)) < places[-1])
    frames, straight = found.undistorted(frames, out=frames if isinstance(frames, np.memmap) else None)
    scene = Scene.from_tracks(frames, straight, fps=fps, times=times, known=known)
    scene = replace(scene, distortion=found.distortion)
    laid = scene.pose_known & ~scene.registered
    return replace(scene, doubtful=np.where(laid, "interpolated", scene.doubtful))


def make_clouds(
    cameras: Any, maps: NetworkMaps | None, depth: str | None, device: str
) -> tuple[Any, Any, dict[str, Exception], list[str]]:
    """The clouds: the scene of all frames, the one with a point for every pixel or None, what failed, and lines to print.

    Args:
        cameras: `Scene` of all frames.
        maps: what the network found, if it was asked.
        depth: "network", "file" (of given maps), a depth model, or None for the points that were tracked alone.
        device: of the depth model.
    """
    from jog3r.export.formats.tracks import build_tracks

    if cameras.tracks is None and maps is not None and cameras.source in ("network", "file"):
        own = maps.scene(cameras)
        cameras = replace(cameras, tracks=tracks_of_maps(own, maps, build_tracks))
        if depth in (None, "network", "file"):
            return cameras, own, {}, []
    if depth is None:
        return cameras, None, {}, []
    if depth in ("network", "file") and maps is not None:
        chosen, inverse = maps.undistorted(cameras), False
    else:
        chosen, inverse = model_depth(cameras, depth, device)
    try:
        cloud, line = aligned_scene(cameras, chosen, inverse, repr(depth))
    except ValueError as error:
        return cameras, None, {f"--depth {depth}": error}, []
    return cameras, cloud, {}, [line]


def write_tracked(cameras: Any, cloud: Any, exports: list[str], folder: Path) -> dict[str, Exception]:
    """All results; returns the exports that could not be made."""
    from jog3r.export.exporters import EXPORTERS, result_files
    from jog3r.export.files import write_files

    shown = cameras if cloud is None else cloud
    files = result_files(cameras)
    if cloud is not None:
        files |= {**EXPORTERS["ply"](cloud), **EXPORTERS["glb"](cloud)}
    write_files(folder, files, overwrite=True)
    return write_exports(exports, lambda name: cameras if name in FULL_SIZE else shown, folder)


def describe(cameras: Any, found: Any) -> str:
    """Where the cameras come from, and how sure they are."""
    if found is None:
        return f"cameras: {cameras.source}"
    across, down = np.median(cameras.intrinsics[:, [0, 1], [0, 1]], 0)
    focal = f"{across:.0f}" if abs(down / across - 1) < 0.005 else f"{across:.0f} across and {down:.0f} down"
    text = f"cameras: {cameras.source} ({found.reason}); focal length {focal} pixels{cameras.focal_deviation}"
    if cameras.source != "tracks":
        return text
    if cameras.tracks is None:
        return f"{text}; no points: nothing is seen from two places"
    error = float(cameras.tracks.error_px.mean())  # over the points, as COLMAP states it
    return f"{text}, {len(cameras.tracks)} points, mean reprojection error {error:.3f} pixels of the video"
