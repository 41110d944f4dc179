"""The evaluation command: loop 1 exports predictions, loop 2 scores them; tables in Markdown, LaTeX and JSON.

    run_evaluation(task="v2c" | "t2vc" | "all", model="folder or hub id", out="folder", clips=200, videos=64, ...)

is what `jog3r evaluate` calls; every keyword is a field of `EvaluationOptions`, an unknown one is refused. It returns the results
(a dict; `"markdown"` is the report to print) and writes, under `out`:

    v2c/config.json, v2c/000000.npz ...    cameras of held-out clips
    t2vc/config.json, t2vc/000000.npz ...  generated videos with their cameras, and V2C of the same videos
    real/config.json, real/000000.npz ...  the real clips of the same captions through the VAE, and V2C of them (the ceiling)
    results.json, results.md, results.tex  after each task: figures with 95 % intervals over clips
    per_clip.npz                           what each clip contributed, for `jog3r evaluate compare`
    timings.json                           seconds, which differ from run to run

Started again with the same options it makes only what is missing; with other options that change predictions it refuses. Another
task of the same model may go into the same folder: the results of both stand in it. Clip k
is drawn and sampled with its own seed, `seed + k`: results do not depend on the number of clips or processes, or on
interruptions.
"""

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from jog3r import __version__
from jog3r.data import Clip
from jog3r.evaluation import report
from jog3r.evaluation.clips.choosing import choose_clips, write_list
from jog3r.evaluation.clips.clip_sets import ClipSet, as_clip_set
from jog3r.evaluation.clips.given_cameras import GivenCameras
from jog3r.evaluation.exporting import NetworkCameras, TrackCameras
from jog3r.evaluation.judges.choosing import choose_judge, judge_folders
from jog3r.evaluation.judges.renderer_judge import steps_below
from jog3r.evaluation.networks.features import FeatureNetwork, load_features
from jog3r.evaluation.networks.i3d import MIN_FRAMES, VideoFeatures, load_i3d
from jog3r.evaluation.networks.text_network import load_text_network
from jog3r.evaluation.networks.torchscript import is_torchscript, load_inception, load_scripted_i3d
from jog3r.evaluation.options import EvaluationOptions
from jog3r.evaluation.predictions import TEXT_PARTS, pipeline_hash, write_text
from jog3r.evaluation.processes import Processes, join_processes
from jog3r.evaluation.statistics.per_clip import load_samples, save_samples
from jog3r.evaluation.tasks import DistanceNetwork, Plan, text_to_video, video_to_cameras

__all__ = ["EvaluationOptions", "evaluate_t2vc", "evaluate_v2c", "run_evaluation"]

_BLOCKS = {"v2c": report.v2c_blocks, "t2vc": report.t2vc_blocks, "judge": report.judge_blocks}  # of the report, by task


def run_evaluation(**options: Any) -> dict[str, Any]:
    """Evaluate a model folder, or cameras that others found; see the top of this file.

    Of several processes (`accelerate launch`) each makes its share; all but the first return nothing but a line as `markdown`.

    Raises:
        ValueError: an unknown option, a value that cannot work, or a folder made with another configuration.
        NotADirectoryError: `out` is a file.
    """
    known = [field.name for field in fields(EvaluationOptions)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"unknown evaluation option {', '.join(unknown)}; there are {', '.join(known)}")
    config = EvaluationOptions(**options)
    processes = join_processes(config.device)
    features = None if config.features is None else load_features(config.features, config.features_sha256)
    networks = _networks(config)
    text_network = None if config.text_network is None else load_text_network(config.text_network, config.text_network_sha256)
    pipeline = None if config.outside or config.model is None else _load(config, processes)
    judge = choose_judge(config, pipeline, features, processes)
    num_frames, size = config.output_size(pipeline)
    if config.task == "list":
        return {"markdown": write_list(config, num_frames, size)}
    if config.fvd is not None and config.task != "v2c" and num_frames < MIN_FRAMES:
        raise ValueError(
            f"FVD needs clips of at least {MIN_FRAMES} frames, these have {num_frames}: raise num_frames or leave out fvd"
        )
    tasks = ("v2c", "t2vc") if config.task == "all" else (config.task,)
    results: dict[str, Any] = {"model": _name(config), "jog3r": __version__, "torch": torch.__version__}
    results["weights"] = None if pipeline is None or not processes.first else pipeline_hash(pipeline, TEXT_PARTS)
    results |= earlier_results(Path(config.out), tasks, results) if processes.first else {}
    if judge is not None and config.task == "judge":
        if (judged := judge_folders(config, judge, processes)) is None:
            return _share_done(processes)
        return write_results(results | {"judge": {**judged[0], "samples": judged[1], "timings": {}}}, Path(config.out))
    plan = Plan(
        config.seed, config.seeds, config.batch_size, {}, features, networks, text_network, processes, judge, config.sanity_clips
    )
    # what cannot work is refused before the first task takes its hours
    chosen = {task: choose_clips(config, num_frames, size, generate=task == "t2vc") for task in tasks}
    captions = _captions(config, pipeline, chosen["t2vc"]) if "t2vc" in chosen else []
    written: dict[str, Any] = {}
    for task, clips in chosen.items():
        if task == "v2c":
            found = video_to_cameras(_method(config, pipeline, clips), clips, Path(config.out) / "v2c", plan)
        else:
            found = _t2vc(config, pipeline, captions, clips, plan)
        if found is not None:
            results[task] = found
            written = write_results(results | _of_later_tasks(Path(config.out), results), Path(config.out))
    return written if processes.first else _share_done(processes)


def earlier_results(out: Path, tasks: Sequence[str], of: Mapping[str, Any]) -> dict[str, Any]:
    """What `out` holds of other tasks than `tasks`, which stays there.

    Args:
        out: folder of the results.
        tasks: that are made now.
        of: the `model`, its `weights` and the version of `jog3r` that they are of.

    Raises:
        ValueError: results of other tasks are of another model or version, or cannot be read.
    """
    path = out / "results.json"
    if not path.is_file():
        return {}
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        others = [task for task in _BLOCKS if task in stored and task not in tasks]
        if not others:
            return {}
        timings = json.loads((out / "timings.json").read_text(encoding="utf-8"))
        samples = load_samples(out)
        found = {task: report.from_json(stored[task]) | {"samples": samples[task], "timings": timings[task]} for task in others}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"the results in {str(out)!r} cannot be read ({error}); give another folder, or delete them") from error
    if stored.get("weights", of["weights"]) != of["weights"] and stored.get("model") == of["model"]:
        raise ValueError(
            f"{str(out)!r} holds results of {', '.join(others)} of {of['model']!r} with other weights: give another folder"
        )
    if any(stored.get(name) != of[name] for name in ("model", "jog3r")):
        raise ValueError(
            f"{str(out)!r} holds results of {', '.join(others)} of {stored.get('model')!r} by jog3r {stored.get('jog3r')}, "
            f"not of {of['model']!r} by {of['jog3r']}: give another folder"
        )
    return found


def _of_later_tasks(out: Path, results: Mapping[str, Any]) -> dict[str, Any]:
    """What `out` holds of tasks that are still to come, which stands until they are done, too; none of another model."""
    try:
        return earlier_results(out, [task for task in _BLOCKS if task in results], results)
    except ValueError:
        return {}


def write_results(results: dict[str, Any], out: Path) -> dict[str, Any]:
    """Write what a run found, and what was there of other tasks; returns the results with the report as `markdown`."""
    tasks = [name for name in _BLOCKS if name in results]
    blocks: list[report.Block] = [report.Heading(1, f"Evaluation of {results['model']}")]
    blocks += [block for task in tasks for block in _BLOCKS[task](results[task])]
    save_samples(out, {task: results[task]["samples"] for task in tasks})
    timings = {task: results[task]["timings"] for task in tasks}
    write_text(out / "timings.json", json.dumps(report.as_json(timings), indent=2) + "\n")
    found = {name: _without(value, "timings") if name in tasks else value for name, value in results.items()}
    kept = {name: _without(value, "samples") if name in tasks else value for name, value in found.items()}
    write_text(out / "results.json", json.dumps(report.as_json(kept), indent=2, allow_nan=False) + "\n")
    text = report.markdown(blocks)
    write_text(out / "results.md", text)
    write_text(out / "results.tex", report.latex(blocks))
    return found | {"markdown": text}


def _without(result: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key != name}


def evaluate_v2c(pipeline: Any, clips: Sequence[Clip], out: str | Path, *, seed: int = 0, **call: Any) -> dict[str, Any]:
    """Cameras of clips by `task="v2c"`, against the true ones, beside the constant-pose and always-forward baselines.

    Args:
        pipeline: a `Jog3rPipeline`.
        clips: with true poses; `ProceduralClips` and `WindowedClips` load them when needed.
        out: folder of the predictions; resumed if it holds some of the same configuration.
        seed: clip k uses seed + k.
        call: further arguments of the pipeline's call, JSON values.

    Returns:
        `settings`, `first` and `all` (figures by method, for pairs with the first frame and for all pairs), `by_baseline`,
        `by_motion`, `ratios`, `geometry`, `errors`, `timings`, `samples` (what each clip contributed). A figure is a `Figure`, a
        number with `low`, `high` and `n`.
    """
    return video_to_cameras(NetworkCameras(pipeline, call), as_clip_set(clips), out, Plan(seed=seed)) or {}


def evaluate_t2vc(
    pipeline: Any,
    captions: Sequence[str],
    out: str | Path,
    real_clips: Sequence[Clip] | None = None,
    *,
    seed: int = 0,
    features: FeatureNetwork | None = None,
    fvd: VideoFeatures | None = None,
    sampling: Mapping[str, Any] | None = None,
    **call: Any,
) -> dict[str, Any]:
    """Videos with cameras from captions: closed loop, captions followed, consistency, distance to real clips.

    Args:
        pipeline: a `Jog3rPipeline`.
        captions: at least two; only those of the procedural grammar can be checked for being followed.
        out: folder; predictions go to its `t2vc` and `real`.
        real_clips: the real clips of the same captions: the ceiling of every row.
        seed: caption k uses seed + k, for sampling and for V2C.
        features: feature network for `met3r_self` and a distance to real clips; None: colours, no distance.
        fvd: I3D, for FVD.
        sampling: arguments of the text-to-video call, such as `num_inference_steps`.
        call: arguments of both calls; `both_directions` goes to V2C alone.

    Returns:
        `settings`, `closed_loop`, `captions`, `text agreement`, `consistency`, `distributions`, `errors`, `timings`, `samples`.
    """
    if len(captions) < 2 or (real_clips is not None and len(real_clips) != len(captions)):
        raise ValueError(
            f"need at least 2 captions and one real clip for each or none, got {len(captions)} captions"
            f" and {None if real_clips is None else len(real_clips)} clips"
        )
    plan = Plan(seed=seed, sampling=dict(sampling or {}), features=features, networks=[] if fvd is None else [fvd])
    clips = None if real_clips is None else as_clip_set(real_clips)
    return text_to_video(pipeline, captions, clips, out, plan, call) or {}


def _networks(config: EvaluationOptions) -> list[DistanceNetwork]:
    """Those for distances alone."""
    found: list[DistanceNetwork] = []
    if config.inception is not None:
        found.append(load_inception(config.inception, config.inception_sha256))
    if config.fvd is not None:
        load = load_scripted_i3d if is_torchscript(config.fvd) else load_i3d
        found.append(load(config.fvd, config.fvd_sha256))
    return found


def _share_done(processes: Processes) -> dict[str, Any]:
    return {"markdown": f"process {processes.index} of {processes.count}: done"}


def _load(config: EvaluationOptions, processes: Processes) -> Any:
    """The pipeline on its device."""
    from jog3r.pipelines.loading.any_pipeline import load_pipeline  # here: it brings in diffusers and transformers

    dtype = getattr(torch, config.dtype)
    pipeline: Any = load_pipeline(str(config.model), with_text=config.task in ("t2vc", "all"), dtype=dtype)
    pipeline = processes.place(pipeline)
    if config.task in ("t2vc", "all") and not hasattr(pipeline, "transformer"):
        raise ValueError(f"{type(pipeline).__name__} generates nothing: evaluate it with task v2c, not {config.task}")
    if config.both_directions and not hasattr(pipeline, "transformer"):
        raise ValueError(f"{type(pipeline).__name__} sees pairs of images: both_directions would change nothing")
    if config.both_directions and "both_directions" not in inspect.signature(type(pipeline).__call__).parameters:
        raise ValueError(f"{type(pipeline).__name__} does not read videos backwards: leave both_directions out")
    if not getattr(pipeline, "makes_cameras", True):
        raise ValueError(f"{config.model!r} has no trained 3D head: it makes videos and no cameras, which are what is evaluated")
    return pipeline


def _name(config: EvaluationOptions) -> str:
    """What is evaluated."""
    if config.predictions is not None:
        return f"predictions of {Path(config.predictions).name}"
    if config.task == "judge":
        return f"videos of {', '.join(Path(folder).name for folder in config.judged)}"
    return "cameras from tracks" if config.cameras_from == "tracks" else str(config.model)


def _call(config: EvaluationOptions) -> dict[str, Any]:
    return {"registration_kwargs": config.registration_kwargs(), **({"both_directions": True} if config.both_directions else {})}


def _method(config: EvaluationOptions, pipeline: Any, clips: ClipSet) -> NetworkCameras | TrackCameras | GivenCameras:
    """Whoever finds the cameras."""
    if config.predictions is not None:
        return GivenCameras(config.predictions, clips)
    return TrackCameras(config.pixel_aspect) if pipeline is None else NetworkCameras(pipeline, _call(config))


def _captions(config: EvaluationOptions, pipeline: Any, clips: ClipSet) -> list[str]:
    """Of all clips.

    Raises:
        ValueError: fewer than two, a clip without any, or a judge that would have nothing to look at.
    """
    if len(clips) < 2:
        raise ValueError(f"text to video needs at least 2 captions (for the shuffled baseline), got {len(clips)}")
    if config.judge == "renderer":
        steps_below(pipeline, config.redraw_level, config.num_inference_steps)
    return [clips.caption(k) for k in range(len(clips))]


def _t2vc(config: EvaluationOptions, pipeline: Any, captions: Sequence[str], clips: ClipSet, plan: Plan) -> dict[str, Any] | None:
    num_frames, height, width = pipeline.output_size(config.num_frames, config.height, config.width)
    sampling: dict[str, Any] = {"num_inference_steps": config.num_inference_steps}
    sampling |= {"num_frames": num_frames, "height": height, "width": width}
    sampling |= {} if config.guidance_scale is None else {"guidance_scale": config.guidance_scale}
    return text_to_video(pipeline, captions, clips, config.out, replace(plan, sampling=sampling), _call(config))
