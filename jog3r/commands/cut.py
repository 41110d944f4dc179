"""`jog3r cut`: clips out of your own copies of full videos, at the times of RealEstate10K's camera files."""

import argparse
import json
import logging
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from jog3r.commands.output_folder import UsageError

logger = logging.getLogger(__name__)
REPORT = "cut.json"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--cameras", type=Path, required=True, metavar="DIR", help="official camera files, <clip>.txt")
    parser.add_argument(
        "--videos",
        type=Path,
        required=True,
        metavar="DIR",
        help="full videos: <video>.mp4 or `title [<video>].mp4`, where the first line of a camera file names the <video>",
    )
    parser.add_argument("--output_dir", type=Path, required=True, metavar="DIR", help="gets <clip>.mp4 and the report cut.json")
    parser.add_argument(
        "--split", type=Path, default=None, metavar="FILE", help="list of clips to cut (default: every camera file)"
    )
    parser.add_argument(
        "--short_side",
        type=int,
        default=360,
        metavar="PIXELS",
        help="reduce larger frames to this (default 360; 0 keeps their size)",
    )
    parser.add_argument("--crf", type=int, default=16, metavar="N", help="quality of H.264, 0 (lossless) to 51 (default 16)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> str:
    """Cut every clip that is not there yet; returns what became of them."""
    from jog3r.data.realestate10k.full_videos import find_videos

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.short_side < 0 or not 0 <= options.crf <= 51:
        raise UsageError(f"--short_side must be 0 or more and --crf 0 to 51, got {options.short_side} and {options.crf}")
    clips = _camera_files(options)
    videos = find_videos(options.videos)
    failed, missing, found = _places(clips, videos)
    lost = sum(map(len, missing.values()))
    logger.info("%d clips; %d of them are of %d videos that are missing", len(clips), lost, len(missing))
    settings = {"short_side": options.short_side, "crf": options.crf}
    _begin(options.output_dir, settings)
    there = 0
    for name, (video, times) in tqdm(found.items(), desc="cutting", unit="clip"):
        target = options.output_dir / f"{name}.mp4"
        if target.exists():
            there += 1
            continue
        try:
            _cut(video, times, target, options)
        except ValueError as error:
            failed[name] = str(error)
        except OSError as error:
            raise UsageError(f"{str(target)!r} cannot be written: {error.strerror}") from error
    made = len(found) - there - sum(name in failed for name in found)
    report = {"settings": settings, "clips": made + there, "missing_videos": missing, "failed": failed}
    _write_report(options.output_dir, report)
    if not made + there:
        raise UsageError(f"no clip could be cut out of {len(clips)}: see {str(options.output_dir / REPORT)!r}")
    return (
        f"{options.output_dir}: {made} clips cut, {there} were there, {lost} without their video, {len(failed)} failed "
        f"({REPORT}); read them with --source realestate10k --cameras {options.cameras} --frames {options.output_dir}"
    )


def _camera_files(options: argparse.Namespace) -> dict[str, Path]:
    """Camera file of each clip."""
    from jog3r.data.local_files import visible_files
    from jog3r.data.realestate10k.lists import read_split

    if not options.cameras.is_dir():
        raise UsageError(f"--cameras {str(options.cameras)!r} is no folder")
    if options.split is not None:
        entries = read_split(options.split, options.videos, options.cameras)  # some state a file of their own
        here = {entry.name: options.cameras / f"{Path(entry.name).name}.txt" for entry in entries}
        return {entry.name: here[entry.name] if here[entry.name].is_file() else entry.cameras for entry in entries}
    clips = {path.stem: path for path in visible_files(options.cameras, (".txt",))}
    if not clips:
        raise UsageError(f"--cameras {str(options.cameras)!r} holds no camera files (*.txt)")
    return clips


def _places(
    clips: dict[str, Path], videos: dict[str, Path]
) -> tuple[dict[str, str], dict[str, list[str]], dict[str, tuple[Path, np.ndarray]]]:
    """Why camera files are wrong, by clip; clips of each missing video; video and times (F,) of the others, video by video."""
    from jog3r.data.realestate10k.camera_files import read_camera_file
    from jog3r.data.realestate10k.full_videos import video_id

    failed: dict[str, str] = {}
    missing: dict[str, list[str]] = defaultdict(list)
    found: dict[str, tuple[Path, np.ndarray]] = {}
    for name, cameras in clips.items():
        try:
            if Path(name).name != name:
                raise ValueError(f"{name!r} is no name of a file; take the folders out of the list")
            content = read_camera_file(cameras)
            video = video_id(content.url)
            if len(content.timestamps) < 2:
                raise ValueError(f"{str(cameras)!r} has {len(content.timestamps)} camera; a clip needs at least 2")
        except ValueError as error:
            failed[name] = str(error)
            continue
        if video in videos:
            found[name] = (videos[video], content.timestamps)
        else:
            missing[video].append(name)
    return failed, dict(missing), dict(sorted(found.items(), key=lambda item: (item[1][0], item[0])))


def _begin(folder: Path, settings: dict[str, Any]) -> None:
    """Make the folder, or see that what is in it was cut in the same way."""
    from jog3r.data.local_files import read_json

    report = folder / REPORT
    if report.exists():
        before = read_json(report).get("settings")
        if before != settings:
            raise UsageError(
                f"{str(folder)!r} holds clips cut with {json.dumps(before)}, not {json.dumps(settings)}; name another"
            )
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if clips := sorted(path.name for path in folder.glob("*.mp4")):
            raise UsageError(f"{str(folder)!r} holds videos of something else, such as {clips[0]!r}; name another folder")
    except OSError as error:
        raise UsageError(f"--output_dir {str(folder)!r} cannot be made: {error.strerror}") from error
    _write_report(folder, {"settings": settings})


def _write_report(folder: Path, report: dict[str, Any]) -> None:
    from jog3r.data.files import write_json

    try:
        write_json(folder / REPORT, report)
    except OSError as error:
        raise UsageError(f"{str(folder / REPORT)!r} cannot be written: {error.strerror}") from error


def _cut(video: Path, times: np.ndarray, target: Path, options: argparse.Namespace) -> None:
    """One clip, whole or not at all."""
    from jog3r.data.files import write_aside
    from jog3r.data.realestate10k.full_videos import frames_at
    from jog3r.export.video import encode_video

    try:
        frames = frames_at(video, times, options.short_side or None)
    except OSError as error:  # of this video alone
        raise ValueError(f"{str(video)!r} cannot be read: {error.strerror}") from error
    content = encode_video(frames, 1e6 / float(np.median(np.diff(times))), scale=1, crf=options.crf)
    write_aside(target, lambda aside: aside.write_bytes(content))
