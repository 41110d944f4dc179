"""`jog3r generate`: a video with its cameras and point cloud, from a prompt."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from jog3r.commands.options import option, output_options, registration_kwargs
from jog3r.commands.output_folder import OutputFolder, UsageError
from jog3r.commands.reconstruction.known_cameras import doubtful_poses
from jog3r.commands.results import check_exports, report, result_names, write_scene, write_video, written_line
from jog3r.commands.running import pipeline_of_options, seeded_generator, stages

MAX_FPS = 100_000  # what a video file can state


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    example = "a room with blue walls and a brown floor, with a red sofa, the camera moves forward"
    parser.add_argument("prompt", help=f"what to show, for example '{example}'")
    output_options(parser)
    parser.add_argument("--task", choices=("t2v+c", "t2v"), default="t2v+c", help="with cameras (default) or the video alone")
    option(parser, "num_frames", type=int, default=None, help="default: what the model was made for")
    option(parser, "num_inference_steps", type=int, default=30, help="sampling steps (default 30)")
    option(parser, "guidance_scale", type=float, default=None, help="how closely to follow the prompt (default: the pipeline's)")
    option(parser, "negative_prompt", default=None, help="what to steer away from")
    parser.add_argument("--fps", type=float, default=8.0, help="frames per second written to the video (default 8)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> str:
    """Returns what to print."""
    if not options.prompt.strip():
        raise UsageError(
            "the prompt is empty; describe the scene, for example 'a room with blue walls, the camera moves forward'"
        )
    if not 0 < options.fps <= MAX_FPS:  # written so that NaN is wrong, too
        raise UsageError(f"--fps must be positive and at most {MAX_FPS}, got {options.fps:g}")
    check_exports(options.export, has_geometry=options.task != "t2v")
    if options.task == "t2v" and registration_kwargs(options) != {"method": "fast"}:
        raise UsageError("--task t2v finds no cameras: leave out --registration and --focal_per_frame")
    expected = ["video.mp4"] if options.task == "t2v" else result_names(options.export)
    failed: dict[str, Exception] = {}
    notes: list[str] = []
    with OutputFolder(options.out, options.overwrite, expected) as folder, stages(4) as stage:
        stage("loading the model")
        pipe = pipeline_of_options(options, generator=True)
        stage("generating")
        chosen = {
            name: value
            for name in ("num_frames", "height", "width", "guidance_scale", "negative_prompt", "reconstruction_timestep")
            if (value := getattr(options, name)) is not None
        }
        if options.task != "t2v":
            chosen["registration_kwargs"] = registration_kwargs(options)
        output = pipe(
            options.prompt,
            task=options.task,
            num_inference_steps=options.num_inference_steps,
            generator=seeded_generator(options.seed),
            **chosen,
        )
        stage("writing")
        if options.task == "t2v":
            write_video(output.frames[0], options.fps, folder)
        else:
            failed = write_scene(output, (options.fps, None), options.prompt, options.export, folder)
            stage("following features")
            notes = [*doubtful_poses(output.registration[0].degenerate), f"note: {_judge(output, options.seed, folder)}"]
        names = sorted(path.name for path in folder.iterdir())
    return report("\n".join([written_line(options.out, names), *notes]), options.out, failed)


def _judge(output: Any, seed: int, folder: Path) -> Any:
    """How well tracks in the pictures agree with the model's cameras; also written into cameras.json, as `track_agreement`."""
    from jog3r.evaluation.judges.track_agreement import track_agreement

    frames = np.stack([np.asarray(frame) for frame in output.frames[0]])
    cameras = [array[0].cpu().numpy() for array in (output.poses, output.intrinsics)]
    agreement = track_agreement(frames, *cameras, output.registration[0].pose_known.numpy(), seed)
    path = folder / "cameras.json"
    document = json.loads(path.read_text())
    document["track_agreement"] = agreement.to_dict()
    path.write_text(json.dumps(document, indent=1))
    return agreement
