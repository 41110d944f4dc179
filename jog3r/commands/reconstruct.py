"""`jog3r reconstruct`: cameras and point cloud of a video."""

import argparse
from pathlib import Path
from typing import Any

from jog3r.commands.options import option, output_options
from jog3r.commands.output_folder import OutputFolder, UsageError
from jog3r.commands.reconstruction.known_cameras import compare_cameras, doubtful_poses, read_true_cameras
from jog3r.commands.reconstruction.network import check_length, run_pipeline
from jog3r.commands.reconstruction.selection import (
    chosen_cameras,
    open_frames,
    picture_names,
    read_chosen,
    selection_arguments,
)
from jog3r.commands.reconstruction.tracked import camera_arguments, refuse_options_without_effect, run_tracked
from jog3r.commands.reconstruction.windows import is_long, long_video_arguments, run_long_reconstruct
from jog3r.commands.results import check_exports, report, result_names, write_scene, written_line
from jog3r.commands.running import TINY_NOTE, pipeline_of_options, stages


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("video", type=Path, help="video file, or folder of images; for long ones add --window")
    output_options(parser)
    camera_arguments(parser)
    selection_arguments(parser)
    option(
        parser, "true_cameras", type=Path, default=None, metavar="FILE", help="RealEstate10K or cameras.json: print the errors"
    )
    option(parser, "both_directions", action="store_true", help="read the video backwards, too: twice the time, smaller errors")
    long_video_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> str:
    """Returns what to print."""
    refuse_options_without_effect(options)
    if (options.height is None) != (options.width is None):
        raise UsageError("give both --height and --width, or neither")
    check_exports(options.export, has_geometry=True)
    if options.cameras != "network":
        return run_tracked(options)
    if is_long(options):
        return run_long_reconstruct(options)
    true_poses = None if options.true_cameras is None else read_true_cameras(options.true_cameras)

    inputs = (options.video, options.true_cameras)
    with OutputFolder(options.out, options.overwrite, result_names(options.export), inputs) as folder, stages(4) as stage:
        stage("loading the model")
        open_frames(options)  # a bad file is refused at once
        pipe = pipeline_of_options(options, with_text=False)
        stage("reading the video")
        video = _read(options, pipe)
        if true_poses is not None:
            true_poses = chosen_cameras(options, true_poses, len(video.frames))
        stage("finding the cameras")
        output = run_pipeline(options, pipe, video.frames)
        stage("writing")
        failed = write_scene(
            output, (video.fps, video.times), "", options.export, folder, picture_names(options, len(video.frames))
        )
        names = sorted(path.name for path in folder.iterdir())
    lines = [written_line(options.out, names), *doubtful_poses(output.registration[0].degenerate)]
    if options.model is None:
        lines.append(TINY_NOTE)
    if true_poses is not None:
        lines.append(compare_cameras(output.poses[0].cpu().numpy(), output.registration[0].pose_known.cpu().numpy(), true_poses))
    return report("\n".join(lines), options.out, failed)


def _read(options: argparse.Namespace, pipe: Any) -> Any:
    from jog3r.data.video import read_video

    size = pipe.output_size(None, options.height, options.width)[1:]
    if options.frames is not None:
        check_length(options.frames, pipe)
        return read_chosen(options, size)
    chosen = dict(start=options.start, stop=options.stop, stride=options.stride, max_frames=pipe.max_video_frames)
    return read_video(options.video, **chosen, size=size, resize_mode=options.resize)
