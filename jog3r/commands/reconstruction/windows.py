"""`jog3r reconstruct` for videos longer than the model takes at once: windows, joined. Memory does not grow with the length.

Frames and maps wait in files of the result folder until it is complete, and are then removed.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jog3r.commands.options import registration_kwargs
from jog3r.commands.output_folder import OutputFolder, UsageError
from jog3r.commands.reconstruction.known_cameras import compare_cameras, doubtful_poses, read_true_cameras
from jog3r.commands.reconstruction.selection import chosen_cameras, open_frames
from jog3r.commands.reconstruction.spool import Spool, Tee
from jog3r.commands.results import report, result_names, write_exports, written_line
from jog3r.commands.running import TINY_NOTE, pipeline_of_options, seeded_generator, stages

EVERY_FRAME = ("tum", "kitti")  # exports of cameras alone; the others show the key frames


def long_video_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `jog3r reconstruct` that only matter for long videos."""
    group = parser.add_argument_group("long videos, window by window (with one of these options)")
    group.add_argument(
        "--window",
        type=int,
        default=None,
        help="frames reconstructed together (default: as the model was made for)",
    )
    group.add_argument("--overlap", type=int, default=None, help="frames that neighbouring windows share (default: a quarter)")
    for name in ("--close_loops", "--close-loops"):
        group.add_argument(
            name,
            action="store_true",
            dest="close_loops",
            help="look for places seen again" if name == "--close_loops" else argparse.SUPPRESS,
        )
    group.add_argument("--keyframes", type=int, default=None, help="frames shown in point clouds and scene exports (default 64)")


def is_long(options: argparse.Namespace) -> bool:
    """Whether windows are asked for; without, a video that is too long is refused with the ways out."""
    asked = options.window is not None or options.overlap is not None or options.close_loops
    if options.keyframes is not None and not asked:
        raise UsageError("--keyframes chooses among the frames of a long video: add --window, --overlap or --close_loops")
    return asked


def check_long_options(options: argparse.Namespace) -> None:
    """Refuse what no long video takes, before anything is read.

    Raises:
        UsageError: see above.
    """
    if options.keyframes is not None and options.keyframes < 1:
        raise UsageError(f"--keyframes must be at least 1, got {options.keyframes}")
    if not is_long(options):
        return
    if options.window is not None and options.window < 2:
        raise UsageError(f"--window must be at least 2 frames, got {options.window}")
    if options.overlap is not None and options.overlap < 1:
        raise UsageError(f"--overlap must be at least 1 frame, got {options.overlap}")


def run_long_reconstruct(options: argparse.Namespace) -> str:
    """`jog3r reconstruct` with windows: returns what to print."""
    from jog3r.data.video_stream import EndsEarly
    from jog3r.geometry.registration.degeneracy import pose_known

    check_long_options(options)
    keyframes = 64 if options.keyframes is None else options.keyframes
    if keyframes < 2 and "colmap" in options.export:
        raise UsageError("--export colmap needs points that several frames see: raise --keyframes to 2 at least, got 1")
    true_poses = None if options.true_cameras is None else read_true_cameras(options.true_cameras)
    inputs = (options.video, options.true_cameras)
    with OutputFolder(options.out, options.overwrite, result_names(options.export), inputs) as folder:
        with stages(1) as stage:
            stage("loading the model")
            open_frames(options)  # a bad file is refused at once
            pipe = pipeline_of_options(options, with_text=False, generator=True)
        size = pipe.output_size(None, options.height, options.width)[1:]

        def attempt(video: Any) -> tuple[Any, int, Any]:
            with Spool(folder / ".spool") as spool:
                tee = Tee(video, spool)
                result = reconstruct_windows(options, pipe, tee, spool)
                shown, failed = _write(
                    result, (spool.frames(), video.fps, np.array(tee.times)), video.names, options.export, keyframes, folder
                )
                return result, shown, failed

        try:
            result, shown, failed = attempt(open_frames(options, size))
        except EndsEarly as error:  # fewer frames than the file's own count, of which --frames took some
            result, shown, failed = attempt(open_frames(options, size, error.count))
        names = sorted(path.name for path in folder.iterdir())
    lines = [written_line(options.out, names), _summary(result, shown, options.close_loops), *doubtful_poses(result.degenerate)]
    if options.model is None:
        lines.append(TINY_NOTE)
    if true_poses is not None:
        try:
            true = chosen_cameras(options, true_poses, len(result))
            lines.append(compare_cameras(result.poses.numpy(), pose_known(result.degenerate).numpy(), true))
        except UsageError as error:  # how many frames there are shows at the end
            failed["the comparison"] = error
    return report("\n".join(lines), options.out, failed)


def reconstruct_windows(options: argparse.Namespace, pipe: Any, frames: Any, spool: Spool) -> Any:
    """The joined windows of frames in the network's size; their maps are then in the spool."""
    from jog3r.pipelines.long_videos.long_video import reconstruct_long_video

    window = pipe.output_size(None, None, None)[0] if options.window is None else options.window
    return reconstruct_long_video(
        pipe,
        frames,
        window=window,
        overlap=max(1, window // 4) if options.overlap is None else options.overlap,
        close_loops=options.close_loops,
        store=spool,
        progress=sys.stderr.isatty(),  # so that an error is one line in a log
        generator=seeded_generator(options.seed),
        reconstruction_timestep=options.reconstruction_timestep,
        registration_kwargs=registration_kwargs(options),
        both_directions=options.both_directions,
    )


def _summary(result: Any, shown: int, looked: bool) -> str:
    text = f"{len(result)} frames in {len(result.window_starts)} windows; clouds show {shown} of them"
    if len(result.join_residual):
        middle, worst = (100 * float(value) for value in (result.join_residual.median(), result.join_residual.max()))
        begin = result.window_starts[int(result.join_residual.argmax()) + 1]
        text += f"; joins fit to {middle:.1f} % of the distance, the worst, at frame {begin}, to {worst:.1f} %"
    if looked:
        text += f"; {sum(loop.weight > 0.5 for loop in result.loops)} loops closed of {len(result.loops)} tried"
    return text


def _write(
    result: Any,
    video: tuple[np.ndarray, float, np.ndarray],
    images: list[str] | None,
    exports: list[str],
    keyframes: int,
    folder: Path,
) -> tuple[int, dict[str, Exception]]:
    """All results; returns how many key frames the clouds show, and the exports that could not be made.

    Args:
        result: of `reconstruct_long_video`.
        video: frames (F, H, W, 3), frames per second, and times (F,).
        images: names of the pictures that the frames are, if any.
        exports, keyframes: as asked for.
        folder: to write to.
    """
    from jog3r.export.exporters import EXPORTERS, result_files
    from jog3r.export.files import write_files
    from jog3r.export.scene import Scene
    from jog3r.geometry.registration.degeneracy import pose_known

    frames, fps, times = video
    known = pose_known(result.degenerate)
    doubtful = np.array(result.degenerate)
    clock = {"fps": fps, "times": times, "source": "network"}
    cameras = Scene(frames, result.poses, result.intrinsics, pose_known=known, doubtful=doubtful, images=images, **clock)
    chosen = np.unique(np.linspace(0, len(result) - 1, min(keyframes, len(result))).round().astype(int))
    maps = [result.frame(int(index)) for index in chosen]
    pointmaps, confidence, depth = (torch.stack([getattr(m, name) for m in maps]) for name in ("pointmap", "confidence", "depth"))
    keys = Scene(
        frames[chosen],
        result.poses[chosen],
        result.intrinsics[chosen],
        pointmaps,
        confidence,
        depth,
        pose_known=known[chosen],
        doubtful=doubtful[chosen],
        images=None if images is None else np.array(images)[chosen],
        frame_index=chosen,
        **clock | {"times": times[chosen]},
    )
    write_files(folder, {**result_files(cameras), **EXPORTERS["ply"](keys), **EXPORTERS["glb"](keys)}, overwrite=True)
    return len(chosen), write_exports(exports, lambda name: cameras if name in EVERY_FRAME else keys, folder)
