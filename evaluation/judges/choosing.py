"""The judge that the options name, and folders of videos that it looks at."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jog3r.data.files import file_hash
from jog3r.data.local_files import is_hidden
from jog3r.data.realestate10k.lists import VIDEO_SUFFIXES
from jog3r.data.video import read_video
from jog3r.evaluation.clips.choosing import choose_clips
from jog3r.evaluation.judges.judging import Judge, JudgedRow, judge_rows, sanity_rows
from jog3r.evaluation.judges.network_judge import NetworkJudge
from jog3r.evaluation.judges.renderer_judge import RendererJudge
from jog3r.evaluation.judges.track_judge import TrackJudge
from jog3r.evaluation.networks.features import FeatureNetwork
from jog3r.evaluation.options import EvaluationOptions
from jog3r.evaluation.predictions import TEXT_PARTS, pipeline_hash
from jog3r.evaluation.processes import Processes
from jog3r.evaluation.statistics.per_clip import Samples

__all__ = ["choose_judge", "judge_folders"]

_MAX_FRAMES = 1024  # of a judged video, all of which is in memory


def choose_judge(options: EvaluationOptions, judged: Any, features: FeatureNetwork | None, processes: Processes) -> Judge | None:
    """The judge, or None.

    Args:
        options: their `judge` is "sfm", "renderer" (which gets its clips later) or a pipeline's folder.
        judged: the pipeline that made the videos; None: not known.
        features: for a pipeline's scores.
        processes: of which this one's device is taken.

    Raises:
        ValueError: the judge is the judged, or cannot be loaded.
    """
    if options.judge is None:
        return None
    if options.judge == "sfm":
        return TrackJudge(options.focal_px, options.pixel_aspect)
    if options.judge == "renderer":
        return RendererJudge(options.redraw_level)
    from jog3r.pipelines.loading.any_pipeline import load_pipeline  # here: it brings in diffusers and transformers

    pipeline: Any = load_pipeline(options.judge, with_text=False, dtype=getattr(torch, options.dtype))
    if not getattr(pipeline, "makes_cameras", True):
        raise ValueError(f"judge {options.judge!r} has no trained 3D head: it finds no cameras to judge by")
    pipeline = processes.place(pipeline)
    if judged is not None and pipeline_hash(pipeline, TEXT_PARTS) == pipeline_hash(judged, TEXT_PARTS):
        raise ValueError(
            f"judge {options.judge!r} has the weights of the model it is to judge: it would praise itself; name another"
        )
    return NetworkJudge(pipeline, features and features.dense, "colours" if features is None else features.name)


def judge_folders(options: EvaluationOptions, judge: Judge, processes: Processes) -> tuple[dict[str, Any], Samples] | None:
    """What the judge says of folders of videos, a row a folder; with a source of real clips also of the sanity rows.

    Videos of the same name in several folders are taken for the same clip.

    Raises:
        ValueError: no folder, two of one name, or one without videos.
    """
    folders = [Path(folder) for folder in options.judged]
    found = {folder.name: _videos(folder) for folder in folders}
    if not folders or len(found) < len(folders):
        raise ValueError(f"judge takes folders of videos with different names, got {', '.join(map(str, folders)) or 'none'}")
    names = sorted({path.stem for videos in found.values() for path in videos})
    rows = [_row(name, videos, names) for name, videos in found.items()]
    digest = {name: [_hash(path) for path in videos] for name, videos in found.items()}
    if options.source != "procedural":
        clips = choose_clips(options, options.num_frames or 16, options.frame_size)
        count = min(len(clips), options.sanity_clips)
        if count < 2:
            raise ValueError(f"the judge is judged on at least 2 clips, of which it sees mixtures; the source has {len(clips)}")
        names += [f"sanity/{name}" for name in clips.names[:count]]
        first = len(names) - count
        sanity = sanity_rows(lambda k: clips[k].frames, clips.keys[:count])
        rows += [replace(row, owners=range(first, first + count)) for row in sanity]
        digest["sanity"] = [str(clips.describe())]
    judged = judge_rows(judge, rows, names, Path(options.out) / "judge", {"videos": digest}, processes)
    errors = [] if judged is None else judged[0]["errors"]
    if len(errors) == sum(len(row.owners) for row in rows):
        raise ValueError(f"the judge could look at none of {len(errors)} videos; the first: {errors[0]}")
    return judged


def _row(name: str, videos: Sequence[Path], names: Sequence[str]) -> JudgedRow:
    def load(k: int) -> np.ndarray:
        path = videos[k] / "video.mp4" if _is_result(videos[k]) else videos[k]
        return read_video(path, max_frames=_MAX_FRAMES).frames

    return JudgedRow(name, load, [names.index(path.stem) for path in videos])


def _videos(folder: Path) -> list[Path]:
    """Videos and folders of pictures in a folder, by name; the folder of a result, such as `generate` writes, is its video."""
    if not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is no folder of videos")
    if _is_result(folder):
        return [folder]
    found = [path for path in folder.iterdir() if not is_hidden(path.name)]
    videos = sorted(path for path in found if path.is_dir() or path.suffix.lower() in (*VIDEO_SUFFIXES, ".gif", ".webp"))
    if not videos:
        raise ValueError(f"{str(folder)!r} holds no videos")
    return videos


def _is_result(path: Path) -> bool:
    """Whether `generate` or `reconstruct` wrote it: the video alone, or with cameras."""
    if not (path / "video.mp4").is_file():
        return False
    others = [item for item in path.iterdir() if not is_hidden(item.name) and item.name != "video.mp4"]
    return not others or (path / "cameras.json").is_file()


def _hash(path: Path) -> str:
    inside = [path / "video.mp4"] if _is_result(path) else sorted(path.iterdir()) if path.is_dir() else [path]
    files = [item for item in inside if item.is_file()]
    return "+".join(file_hash(item)[:16] for item in files)
