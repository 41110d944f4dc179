"""Loop 1: predictions are made and stored, what is there is left alone, failures are stored with their reason."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from jog3r.data import Clip
from jog3r.evaluation.clips.clip_sets import ClipSet, RemainingClips, UnreadableClip, WrongClip
from jog3r.evaluation.predictions import TEXT_PARTS, DamagedPrediction, Predictions, pipeline_hash
from jog3r.evaluation.processes import Processes

__all__ = ["NetworkCameras", "TrackCameras", "cameras_of_clips", "export", "geometry_arrays", "readable", "to_uint8"]

logger = logging.getLogger(__name__)
_FEW = 3  # if the first so many items all fail with one message, the call is taken to be wrong

Arrays = dict[str, np.ndarray]
Predict = Callable[[Sequence[int]], list[Arrays]]  # numbers of items to their arrays
FAILURES = (ValueError, ArithmeticError, torch.linalg.LinAlgError)


def export(
    store: Predictions,
    keys: Sequence[str],
    predict: Predict,
    title: str,
    processes: Processes,
    batch_size: int = 1,
    strict: bool = True,
) -> None:
    """Make and store what is missing of this process's share.

    Batches are the same whatever is there and however many processes share them, so that results are the same, too. A failing
    batch is made anew one by one. In an empty folder early failures are stored only once an item succeeds. If the first few fail
    alike, the call is wrong: the error is raised and nothing is stored. Items whose clip cannot be read are none of it: they stay
    missing, and are tried again by the next run.

    Args:
        store: the folder.
        keys: of all items, in order.
        predict: makes a batch of items by their numbers.
        title: of the progress bar.
        processes: those that share the work.
        batch_size: items at once.
        strict: False stores failures that are all alike, too.
    """
    batches = [range(k, min(k + batch_size, len(keys))) for k in range(0, len(keys), batch_size)]
    mine = processes.share(batches)
    missing = [batch for batch in mine if store.missing([keys[k] for k in batch])]
    held: dict[int, Arrays] = {}
    few = min(_FEW, sum(map(len, mine)))

    def any_stored() -> bool:
        return len(store.missing(keys)) < len(keys)

    works = not strict or any_stored()
    with tqdm(
        total=sum(map(len, mine)),
        initial=sum(map(len, mine)) - sum(map(len, missing)),
        desc=title if processes.count == 1 else f"{title} (process {processes.index} of {processes.count})",
        unit="clip",
        disable=not missing or not processes.first,
    ) as bar:
        for batch in missing:
            attempted = zip(batch, _attempt(predict, batch, title), strict=True)
            found = {k: item for k, item in attempted if item is not None}
            failed = [item for item in found.values() if "error" in item]
            if not works and len(failed) == len(found):
                held |= found
                if len(held) < few and batch is not missing[-1]:
                    continue
                alike = {str(item["error"]) for item in held.values()}
                if len(alike) == 1 and not any_stored():  # another process may have had better luck
                    raise ValueError(f"{title}: {alike.pop()}")
            works = True
            for k, arrays in {**held, **found}.items():
                store.save(keys[k], arrays)
            held.clear()
            bar.update(len(batch))


def _attempt(predict: Predict, batch: Sequence[int], title: str) -> list[Arrays | None]:
    """A batch, or each of it alone where one breaks it; what is not finite has failed; None of a clip that cannot be read."""
    try:
        found = predict(batch)
    except (WrongClip, DamagedPrediction):
        raise
    except FAILURES as error:
        if len(batch) > 1:
            return [arrays for k in batch for arrays in _attempt(predict, [k], title)]
        if isinstance(error, UnreadableClip):
            logger.warning("left out: %s", error)
            return [None]
        logger.warning("%s: clip %d failed: %s", title, batch[0], error)
        return [{"error": np.array(str(error))}]
    for place, arrays in enumerate(found):
        broken = [name for name in ("poses", "v2c_poses") if name in arrays and not np.isfinite(arrays[name]).all()]
        if broken:
            found[place] = {"error": np.array(f"{', '.join(broken)} not finite")}
    return list(found)


def readable(clips: ClipSet, suspects: Sequence[int]) -> tuple[ClipSet, list[int]]:
    """The clips without those of `suspects` that cannot be read, which are named in its `left_out`; and which they are.

    Raises:
        ValueError: not even one can be read.
    """
    faults: dict[int, str] = {}
    for k in suspects:
        try:
            clips[k]
        except UnreadableClip as error:
            faults[k] = f"{clips.names[k]}: {error}"
    kept = [k for k in range(len(clips)) if k not in faults]
    if not kept:
        raise ValueError(f"none of {len(clips)} clips can be read; the first: {faults[0]}")
    return (RemainingClips(clips, kept, list(faults.values())) if faults else clips), kept


@dataclass(frozen=True)
class NetworkCameras:
    """Video to cameras by a pipeline.

    Attributes:
        pipeline: any of this package.
        call: further arguments of its call, JSON values.
    """

    pipeline: Any
    call: dict[str, Any]

    def describe(self) -> dict[str, Any]:
        """What decides the predictions; no text is read: with or without a text encoder they are the same."""
        return {"weights": pipeline_hash(self.pipeline, TEXT_PARTS), "call": self.call}

    def find(self, frames: Sequence[np.ndarray], seeds: Sequence[int]) -> list[Arrays]:
        """Arrays of each clip (F,H,W,3) uint8, all of one size: poses, intrinsics, depth, degenerate, seconds."""
        started = time.perf_counter()
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        # a clip alone is given as one, not as a batch of one: pipelines of others may know no batches
        video, generator = (np.stack(frames), generators) if len(frames) > 1 else (frames[0], generators[0])
        output = self.pipeline(video=video, task="v2c", generator=generator, output_type="np", **self.call)
        seconds = np.array((time.perf_counter() - started) / len(frames))
        return [{**geometry_arrays(output, place), "seconds": seconds} for place in range(len(frames))]


@dataclass(frozen=True)
class TrackCameras:
    """Video to cameras by feature tracks, in the videos' own pixels.

    Attributes:
        pixel_aspect: fy / fx of stretched videos; None: square pixels.
    """

    pixel_aspect: float | None = None

    def describe(self) -> dict[str, Any]:
        """Tracks and what they are told."""
        told = {} if self.pixel_aspect is None else {"pixel_aspect": self.pixel_aspect}
        return {"cameras": "tracks", "call": told}

    def find(self, frames: Sequence[np.ndarray], seeds: Sequence[int]) -> list[Arrays]:
        """As of `NetworkCameras`, but without depth; frames that could not be registered are flagged as such.

        Raises:
            ValueError: a video in which tracks tell nothing.
            ImportError: pycolmap is not installed.
        """
        from jog3r.sfm import track_cameras

        found = []
        for clip, seed in zip(frames, seeds, strict=True):
            started = time.perf_counter()
            cameras = track_cameras(clip, seed=seed, pixel_aspect=self.pixel_aspect)
            arrays = {name: getattr(cameras, name).numpy() for name in ("poses", "intrinsics", "num_inliers", "reprojection_px")}
            arrays |= {"degenerate": np.array(cameras.degenerate), "registered": cameras.registered.numpy()}
            found.append(arrays | {"seconds": np.array(time.perf_counter() - started)})
        return found


def cameras_of_clips(method: NetworkCameras | TrackCameras, clips: ClipSet, seed: int) -> Predict:
    """Loads the clips of a batch and finds their cameras."""

    def predict(batch: Sequence[int]) -> list[Arrays]:
        loaded: list[Clip] = [clips[k] for k in batch]
        return method.find([clip.frames for clip in loaded], [seed + clips.keys[k] for k in batch])

    return predict


def geometry_arrays(output: Any, place: int) -> Arrays:
    """Cameras and depth of clip `place` of a pipeline's output, and per frame why its pose deserves no trust."""
    arrays = {name: getattr(output, name)[place].float().cpu().numpy() for name in ("poses", "intrinsics", "depth")}
    return {**arrays, "degenerate": np.array(output.registration[place].degenerate)}


def to_uint8(frames: np.ndarray) -> np.ndarray:
    """Frames in 0..1 as uint8."""
    return (np.asarray(frames) * 255).round().clip(0, 255).astype(np.uint8)
