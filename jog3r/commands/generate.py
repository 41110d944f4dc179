"""`jog3r generate`: a video with its cameras and point cloud, from a prompt."""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jog3r.commands.options import option, output_options, registration_kwargs
from jog3r.commands.output_folder import OutputFolder, UsageError
from jog3r.commands.reconstruction.known_cameras import doubtful_poses
from jog3r.commands.reconstruction.tracked import camera_scene, describe, find_tracks, make_clouds, write_tracked
from jog3r.commands.results import check_exports, report, result_names, write_scene, write_video, written_line
from jog3r.commands.running import pipeline_of_options, seeded_generator, stages

MAX_FPS = 100_000  # what a video file can state


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    example = "a room with blue walls and a brown floor, with a red sofa, the camera moves forward"
    parser.add_argument("prompt", help=f"what to show, for example '{example}'")
    output_options(parser)
    parser.add_argument("--task", choices=("t2v+c", "t2v"), default="t2v+c", help="with cameras (default) or the video alone")
    parser.add_argument(
        "--cameras",
        choices=("auto", "network", "tracks"),
        default="auto",
        help="from the model's trained 3D head, or from feature tracks in the video where it has none (default auto)",
    )
    option(parser, "num_frames", type=int, default=None, help="default: what the model was made for")
    option(parser, "num_inference_steps", type=int, default=30, help="sampling steps (default 30)")
    option(parser, "guidance_scale", type=float, default=None, help="how closely to follow the prompt (default: the pipeline's)")
    option(parser, "negative_prompt", default=None, help="what to steer away from")
    parser.add_argument("--fps", type=float, default=None, help="frames per second written to the video (default: the model's)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> str:
    """Returns what to print."""
    if not options.prompt.strip():
        raise UsageError(
            "the prompt is empty; describe the scene, for example 'a room with blue walls, the camera moves forward'"
        )
    if options.fps is not None and not 0 < options.fps <= MAX_FPS:  # written so that NaN is wrong, too
        raise UsageError(f"--fps must be positive and at most {MAX_FPS}, got {options.fps:g}")
    if options.task == "t2v" and options.cameras != "auto":
        raise UsageError(f"--cameras {options.cameras} needs --task t2v+c: t2v is the video alone")
    if options.negative_prompt is not None and options.guidance_scale is not None and options.guidance_scale <= 1:
        raise UsageError(f"--negative_prompt has no effect with --guidance_scale {options.guidance_scale:g}: take more than 1")
    check_exports(options.export, has_geometry=options.task != "t2v")
    if options.task == "t2v" and registration_kwargs(options) != {"method": "fast"}:
        raise UsageError("--task t2v finds no cameras: leave out --registration and --focal_per_frame")
    expected = ["video.mp4"] if options.task == "t2v" else result_names(options.export)
    failed: dict[str, Exception] = {}
    notes: list[str] = []
    with OutputFolder(options.out, options.overwrite, expected) as folder, stages(4) as stage:
        stage("loading the model")
        pipe = pipeline_of_options(options, generator=True)
        source = _camera_source(options, pipe)
        fps = options.fps or pipe.fps
        stage("generating")
        output = _generate(options, pipe, "t2v+c" if source == "network" else "t2v")
        stage("writing")
        if source == "network":
            failed = write_scene(output, (fps, None), options.prompt, options.export, folder)
            stage("following features")
            try:
                said = _judge(output, options.seed, folder)
            except (OSError, RuntimeError) as error:  # such as a full disk for temporary files: the results are there
                said = f"tracks could not be asked how well they agree: {error}"
            notes = [*doubtful_poses(output.registration[0].degenerate), f"note: {said}"]
        else:
            write_video(output.frames[0], fps, folder)
        if source == "tracks":
            stage("following features")
            notes, failed = _follow(output.frames[0], fps, options, folder)
        names = sorted(path.name for path in folder.iterdir())
    notes = notes if options.model is not None else [*notes, *_strange_to_the_tiny_model(options, pipe)]
    return report("\n".join([written_line(options.out, names), *notes]), options.out, failed)


def _strange_to_the_tiny_model(options: argparse.Namespace, pipe: Any) -> list[str]:
    """A note on words and sizes that the bundled model has never seen."""
    from jog3r.data.procedural import caption_words

    words = dict.fromkeys(word.strip(".,;:!?\"'()") for word in options.prompt.lower().split())
    strange = [word for word in words if word and word not in caption_words()]
    told = [f"knows nothing of {', '.join(strange[:6])}{', ...' if len(strange) > 6 else ''}"] if strange else []
    usual, asked = pipe.output_size(None, None, None), pipe.output_size(options.num_frames, options.height, options.width)
    told += (
        [f"has never made pictures of {asked[2]} x {asked[1]}, only of {usual[2]} x {usual[1]}"] if asked[1:] != usual[1:] else []
    )
    return [f"note: the bundled tiny model {' and '.join(told)}; its words stand in jog3r/tiny/README.md"] if told else []


def _camera_source(options: argparse.Namespace, pipe: Any) -> str | None:
    """Where cameras come from: "network", "tracks", or None where none are asked for.

    Raises:
        UsageError: frames or sizes that the model does not take, a head's options without a head, or no way to cameras.
    """
    from jog3r.pipelines.generators.fit import check_frames, check_head
    from jog3r.pipelines.generators.mixin import GeneratorMixin
    from jog3r.pipelines.loading.model_card import is_untrained
    from jog3r.sfm.colmap import load_pycolmap

    other = isinstance(pipe, GeneratorMixin)
    if other:
        check_frames(pipe, *pipe.output_size(options.num_frames, options.height, options.width))
    if options.task == "t2v":
        return None
    has_head = pipe.makes_cameras if other else pipe.pointmap_head is not None and not is_untrained(pipe.pointmap_head)
    if options.cameras == "network" or (options.cameras == "auto" and has_head):
        if other:
            check_head(pipe, "t2v+c")
        return "network"
    if options.reconstruction_timestep is not None or registration_kwargs(options) != {"method": "fast"}:
        raise UsageError(
            "--reconstruction_timestep, --registration and --focal_per_frame belong to a trained 3D head; these cameras come "
            "from tracks: leave them out"
        )
    try:
        load_pycolmap()
    except ImportError as error:
        why = "" if options.cameras == "tracks" else "this model has no trained 3D head, and "
        raise UsageError(f"{why}{error}; or take the video alone with --task t2v") from error
    return "tracks"


def _generate(options: argparse.Namespace, pipe: Any, task: str) -> Any:
    names = ("num_frames", "height", "width", "guidance_scale", "negative_prompt", "reconstruction_timestep")
    chosen = {name: value for name in names if (value := getattr(options, name)) is not None}
    if task != "t2v":
        chosen["registration_kwargs"] = registration_kwargs(options)
    return pipe(
        options.prompt,
        task=task,
        num_inference_steps=options.num_inference_steps,
        generator=seeded_generator(options.seed),
        output_type="pil",
        **chosen,
    )


def _follow(frames: list[Any], fps: float, options: argparse.Namespace, folder: Path) -> tuple[list[str], dict[str, Exception]]:
    """Cameras of the finished video, which stays in any case, from feature tracks: lines to print, and what could not be made."""
    pictures = np.stack([np.asarray(frame) for frame in frames])
    try:
        found = find_tracks(pictures, None, options.seed)
    except (ValueError, OSError, RuntimeError) as error:  # nothing to follow, nothing at rest; no room for the matches
        return [], {"cameras": error}
    cameras = replace(camera_scene((pictures, fps, np.arange(len(pictures)) / fps), found, None), caption=options.prompt)
    cameras, cloud, failed, more = make_clouds(cameras, None, None, options.device)
    failed |= write_tracked(cameras, cloud, options.export, folder)
    return [describe(cameras, found), *more, *doubtful_poses(cameras.doubtful)], failed


def _judge(output: Any, seed: int, folder: Path) -> Any:
    """How well tracks in the pictures agree with the model's cameras; also written into cameras.json, as `track_agreement`."""
    from jog3r.evaluation.judges.track_agreement import track_agreement
    from jog3r.export.files import write_file

    frames = np.stack([np.asarray(frame) for frame in output.frames[0]])
    cameras = [array[0].cpu().numpy() for array in (output.poses, output.intrinsics)]
    agreement = track_agreement(frames, *cameras, output.registration[0].pose_known.numpy(), seed)
    path = folder / "cameras.json"
    document = json.loads(path.read_text())
    document["track_agreement"] = agreement.to_dict()
    write_file(path, json.dumps(document, indent=1).encode(), overwrite=True)
    return agreement
