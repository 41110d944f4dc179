"""The stream of training clips that a configuration names, and the loader of one process's share of it."""

import atexit
import multiprocessing
import signal
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch.utils.data import DataLoader

from jog3r.data.cache import Cache, open_place
from jog3r.data.source_options import build_source
from jog3r.training.clips.cached_stream import CachedStream
from jog3r.training.clips.clip_stream import ProceduralStream
from jog3r.training.clips.shard_deal import Readers
from jog3r.training.clips.shard_stream import ShardStream
from jog3r.training.clips.step_batches import BatchShare, ShareOfStream
from jog3r.training.clips.video_stream import VideoStream
from jog3r.training.config import TrainConfig
from jog3r.training.preparation.caption_embeddings import embed_captions
from jog3r.training.preparation.depth_masks import DepthChecks

__all__ = ["build_loader", "build_stream", "end_workers"]

ClipStream: TypeAlias = ProceduralStream | CachedStream | VideoStream
_CAPTIONS_AT_ONCE = 16


def build_stream(config: TrainConfig, pipeline: Any, caption_length: int, share: BatchShare) -> ClipStream:
    """The whole stream of a run; of its clips nothing is read yet.

    Args:
        config: the options.
        pipeline: what is trained.
        caption_length: tokens every caption is padded to.
        share: of this process.
    """
    size = (config.num_frames, config.height, config.width)
    length = config.num_steps * sum(share.clips_per_step)
    if config.data in ("cache", "stream"):
        options: dict[str, Any] = {
            "vae": pipeline.vae, "caption_length": caption_length, "size": size, "length": length, "seed": config.seed,
            "reverse_probability": config.reverse_probability,
            "checks": DepthChecks(config.edge_threshold, config.agreement_threshold),
        }  # fmt: skip
        if config.data == "stream":
            cache = Cache(open_place(str(config.dataset), config.dataset_revision), 2 * config.open_shards + 2)
            readers = Readers(share, max(1, config.num_workers))
            stream: CachedStream = ShardStream(cache, readers, config.open_shards, config.stream_retries, **options)
        else:
            stream = CachedStream(Path(str(config.cache_dir)), **options)
        if config.generation_batch:
            # One that is trained embeds the captions itself, and is no longer the cache's after its first step.
            text_encoder = None if config.train_text_encoder else pipeline.text_encoder
            stream.check_captions(pipeline.transformer.config.caption_channels, text_encoder)
        if config.reconstruction_batch:
            stream.check_depth()
        stream.check_missing(config.max_missing_share)
        return stream
    if config.data == "videos":
        return _video_stream(config, pipeline, caption_length, length)
    vae, tokenizer = getattr(pipeline, "vae", None), getattr(pipeline, "tokenizer", None)  # a DUSt3R has neither
    return ProceduralStream(vae, tokenizer, caption_length, size, config.first_clip, length, config.seed)


def _video_stream(config: TrainConfig, pipeline: Any, caption_length: int, length: int) -> VideoStream:
    source = build_source(config, (config.height, config.width), 0, config.num_frames)
    stream = VideoStream(
        source, config.num_frames, length, config.seed, vae=getattr(pipeline, "vae", None),
        reverse_probability=config.reverse_probability, checks=DepthChecks(config.edge_threshold, config.agreement_threshold),
        needs_depth=config.reconstruction_batch > 0,
    )  # fmt: skip
    stream.check_missing(config.max_missing_share)
    if config.generation_batch:
        tokenizer, encoder = pipeline.tokenizer, pipeline.text_encoder
        if tokenizer is None or encoder is None:
            raise ValueError(
                f"init_from={config.init_from!r} has no text encoder or no tokenizer to embed captions with: add them, or "
                "set generation_batch=0"
            )
        texts, captions = stream.caption_texts(), []
        for start in range(0, len(texts), _CAPTIONS_AT_ONCE):
            captions += embed_captions(
                tokenizer, encoder, texts[start : start + _CAPTIONS_AT_ONCE], caption_length, encoder.device
            )
        stream.keep_captions(captions, caption_length)
    return stream


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
    )


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)  # the other cores are the trainer's
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # preemption reaches the whole group: the trainer decides when to stop


def end_workers() -> None:
    """Kill what is left at the end of a run that broke off: Python would terminate these and wait, and they take no SIGTERM."""
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()
