"""The stream of training clips that a configuration names, and the loader of one process's share of it."""

import atexit
import math
import multiprocessing
import signal
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.utils.data import DataLoader, default_collate

from jog3r.data.cache import Cache, open_place
from jog3r.data.source_options import build_source
from jog3r.pipelines.loading.depth_model import load_depth_model
from jog3r.training.clips.cached_stream import CachedStream
from jog3r.training.clips.clip_stream import ProceduralStream
from jog3r.training.clips.data_place import HALVES, DataPlace, named_errors
from jog3r.training.clips.mixture import HalfOfStep, MixedStream
from jog3r.training.clips.schedule import Schedule
from jog3r.training.clips.shard_deal import PlaceReaders, Readers
from jog3r.training.clips.shard_stream import ShardStream
from jog3r.training.clips.step_batches import BatchShare, ShareOfStream
from jog3r.training.clips.video_stream import VideoStream
from jog3r.training.config import TrainConfig
from jog3r.training.generators.captions import KeptCaptions, keep_captions
from jog3r.training.generators.options import GENERATORS
from jog3r.training.preparation.caption_embeddings import embed_captions
from jog3r.training.preparation.depth_masks import DepthChecks, ModelledDepth

__all__ = ["ClipStream", "PlaceStream", "build_loader", "build_stream", "end_workers", "join_items", "step_record"]

PlaceStream: TypeAlias = ProceduralStream | CachedStream | VideoStream
ClipStream: TypeAlias = PlaceStream | MixedStream
_CAPTIONS_AT_ONCE = 16


@dataclass(frozen=True)
class _Reading:
    """How the clips of a place are read.

    Attributes:
        config: of the run.
        pipeline: what is trained.
        caption_length: tokens every caption is padded to; None: items have no captions.
        captions, depth: whether the generator learns from the captions, and the 3D head from the depth.
        readers: who takes which clip of the place.
        length: clips, at most.
        seed: of everything drawn.
    """

    config: TrainConfig
    pipeline: Any
    caption_length: int | None
    captions: bool
    depth: bool
    readers: Readers
    length: int
    seed: int

    @property
    def keeps_captions(self) -> bool:
        """Whether captions are embedded before the first step: those of other generators."""
        return self.captions and self.config.model in GENERATORS


def build_stream(config: TrainConfig, pipeline: Any, caption_length: int, share: BatchShare) -> ClipStream:
    """The whole stream of a run; of its clips nothing is read yet.

    Args:
        config: the options.
        pipeline: what is trained.
        caption_length: tokens every caption is padded to.
        share: of this process.
    """
    length, workers = config.num_steps * sum(share.clips_per_step), max(1, config.num_workers)
    if config.generation_data is None and config.reconstruction_data is None:
        captions, depth = config.generation_batch > 0, config.reconstruction_batch > 0
        reading = _Reading(
            config, pipeline, caption_length if captions else None, captions, depth, Readers(share, workers), length, config.seed
        )  # fmt: skip
        return _build_place(config, reading)
    halves = {}
    for number, half in enumerate(HALVES):
        places, clips = config.places(half), share.clips_per_step[number]
        if not places:
            continue
        captions = half == "generation"
        per_process = share.generation if captions else share.reconstruction
        own = replace(share, generation=per_process, reconstruction=0)
        with named_errors(f"{half}_data"):
            schedule = Schedule([entry.weight for entry in places], _seed(config.seed, number, 0))
        streams = []
        for index, entry in enumerate(places):
            seed = _seed(config.seed, number, index + 1)  # or two places would draw alike
            length_of = caption_length if captions else None
            part = entry.weight / sum(other.weight for other in places)
            most = math.ceil(config.num_steps * clips * part)  # no place gets a whole clip more than its part
            readers = PlaceReaders(own, workers, schedule, index)
            reading = _Reading(config, pipeline, length_of, captions, not captions, readers, most, seed)
            with named_errors(f"{half}_data, {entry.place.label()}" if entry.place is not config else "data"):
                streams.append(_build_place(entry.place, reading))
        halves[half] = HalfOfStep(clips, _distinct([entry.place.label() for entry in places]), schedule, streams)
    # Where the model embeds some captions it embeds all: those of a cache have their ids, too.
    return MixedStream(halves, length, without=("caption_embeds",) if config.embeds_captions else ())


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _distinct(labels: list[str]) -> list[str]:
    """Labels that stand several times get numbers."""
    return [
        f"{label} ({labels[: index + 1].count(label)})" if labels.count(label) > 1 else label
        for index, label in enumerate(labels)
    ]


def _build_place(place: DataPlace, reading: _Reading) -> PlaceStream:
    """The stream of one place, checked against what its clips are for."""
    config, pipeline = reading.config, reading.pipeline
    size = (config.num_frames, config.height, config.width)
    if place.data in ("cache", "stream"):
        options: dict[str, Any] = {
            "vae": pipeline.vae, "caption_length": reading.caption_length, "size": size, "length": reading.length,
            "seed": reading.seed, "reverse_probability": place.reverse_probability,
            "checks": DepthChecks(place.edge_threshold, place.agreement_threshold),
        }  # fmt: skip
        if place.data == "stream":
            cache = Cache(open_place(str(place.dataset), place.dataset_revision))
            stream: CachedStream = ShardStream(cache, reading.readers, place.open_shards, place.stream_retries, **options)
        else:
            stream = CachedStream(Path(str(place.cache_dir)), **options)
        if reading.captions:
            # One that is trained embeds the captions itself, and is no longer the cache's after its first step.
            text_encoder = None if config.train_text_encoder else pipeline.text_encoder
            settings = pipeline.transformer.config
            channels = pipeline.text_encoder.config.d_model if config.model in GENERATORS else settings.caption_channels
            stream.check_captions(channels, text_encoder)
        if reading.depth:
            stream.check_depth()
        stream.check_missing(place.max_missing_share)
        return stream
    if place.data == "videos":
        return _video_stream(place, reading)
    tokenizer = getattr(pipeline, "tokenizer", None)  # a DUSt3R has none
    length = reading.caption_length
    procedural = ProceduralStream(
        _vae_of_workers(reading), None if length is None else tokenizer, length or 0, size, place.first_clip, reading.length,
        reading.seed, place.procedural_style,
    )  # fmt: skip
    if reading.keeps_captions:
        generation, clips = reading.readers.share.clips_per_step[0], sum(reading.readers.share.clips_per_step)
        texts = [procedural.caption_text(number) for number in range(reading.length) if number % clips < generation]
        if config.validate_every:
            held = procedural.hold_out(set())
            texts += [held.caption_text(number) for number in range(config.validation_clips)]
        procedural.keep_captions(_kept(texts, reading), length or 0)
    return procedural


def _vae_of_workers(reading: _Reading) -> Any:
    """None for a DUSt3R, which reads frames, and for a VAE that compresses time: a CPU takes minutes where the GPU takes one."""
    return None if reading.config.model in GENERATORS else getattr(reading.pipeline, "vae", None)


def _kept(texts: list[str], reading: _Reading) -> KeptCaptions:
    return keep_captions(reading.pipeline, texts, Path(reading.config.output_dir), reading.caption_length or 0)


def _video_stream(place: DataPlace, reading: _Reading) -> VideoStream:
    config, pipeline = reading.config, reading.pipeline
    if reading.caption_length is None and place.default_caption is None:
        place = replace(place, default_caption="")  # else videos without a caption would count as missing
    model = None
    if place.depth != "dataset":
        model = ModelledDepth(load_depth_model(place.depth, place.assume_metric), place.max_depth, place.align_scale)
    source = build_source(place, (config.height, config.width), 0, config.num_frames)
    stream = VideoStream(
        source, config.num_frames, reading.length, reading.seed, vae=_vae_of_workers(reading),
        reverse_probability=place.reverse_probability, checks=DepthChecks(place.edge_threshold, place.agreement_threshold),
        needs_depth=reading.depth, depth_model=model,
    )  # fmt: skip
    stream.check_missing(place.max_missing_share)
    if reading.captions and reading.caption_length is not None:
        tokenizer, encoder = pipeline.tokenizer, pipeline.text_encoder
        texts, captions = stream.caption_texts(), []
        if not any(texts):
            raise ValueError(
                "no video has a caption, and the generator learns from captions: give captions or default_caption, or let the "
                "reconstruction half alone read it"
            )
        if reading.keeps_captions:
            stream.keep_captions(_kept(texts, reading), reading.caption_length)
            return stream
        for start in range(0, len(texts), _CAPTIONS_AT_ONCE):
            captions += embed_captions(
                tokenizer, encoder, texts[start : start + _CAPTIONS_AT_ONCE], reading.caption_length, encoder.device
            )
        stream.keep_captions({caption.text: caption for caption in captions}, reading.caption_length)
    return stream


def step_record(stream: ClipStream, positions: list[int]) -> dict[str, Any]:
    """For `StepLog.append`: the names of the clips at `positions`, of a mixture also its weights and counts."""
    mixture = stream.mixture(positions) if isinstance(stream, MixedStream) else None
    return {"samples": [stream.sample_name(position) for position in positions], "mixture": mixture}


def build_loader(stream: ClipStream, share: BatchShare, config: TrainConfig, first_step: int) -> DataLoader:
    """Batches of one process from step `first_step` on, one a micro-step."""
    workers = config.num_workers
    atexit.unregister(end_workers)
    atexit.register(end_workers)
    return DataLoader(
        ShareOfStream(stream, share, first_step, config.num_steps),
        batch_size=share.clips_per_micro_step,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        timeout=config.loader_timeout if workers else 0,
        worker_init_fn=_start_worker,
        multiprocessing_context="fork" if workers else None,
        collate_fn=join_items,
    )


def join_items(items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """A batch of items; keys that some items alone have, such as the captions of generation clips, hold as many as these are.

    Where some have latents and the others frames, "has_latents" (B,) tells which.
    """
    names = dict.fromkeys(name for item in items for name in item)
    batch = {name: default_collate([item[name] for item in items if name in item]) for name in names}
    if "latents" in names and "frames" in names:
        batch["has_latents"] = torch.tensor(["latents" in item for item in items])
    return batch


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)  # the other cores are the trainer's
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # preemption reaches the whole group: the trainer decides when to stop


def end_workers() -> None:
    """Kill what is left at the end of a run that broke off: Python would terminate these and wait, and they take no SIGTERM.

    torch raises wherever the main thread is when a worker is killed: in the middle of `logging`, a lock would stay locked.
    """
    left = [process for process in multiprocessing.active_children() if process.daemon]
    told = signal.getsignal(signal.SIGCHLD)
    if in_main := threading.current_thread() is threading.main_thread():  # no other may set a handler, or is interrupted
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for process in left:
        process.kill()
        process.join(10.0)  # killed, it ends at once; until then its end would still be told
    if in_main:
        signal.signal(signal.SIGCHLD, told)
