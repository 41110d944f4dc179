"""Precompute what training reads: latents of frames or windows, metric depth, caption embeddings (files: `jog3r.data.cache`).

    jog3r prepare --source realestate10k --model FOLDER --cameras ... --frames ... --output_dir CACHE
    accelerate launch training/prepare.py --config FILE.yaml [--option value ...]

Restartable and idempotent: shard k depends on the options and the data alone, is written aside and renamed, and is not done
again. The same files come out of one process or many, killed or not. Processes share nothing but the folder (several machines:
a shared folder); whoever finds all shards complete writes the manifest.
"""

import logging
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from jog3r.data.cache import (
    FORMAT,
    FRAMES_PER_GROUP,
    MANIFEST,
    REPORT,
    CachedCaption,
    CachedFrames,
    caption_rows,
    clip_rows,
    require_pyarrow,
    write_rows,
)  # fmt: skip
from jog3r.data.clip import Clip
from jog3r.data.files import write_aside
from jog3r.data.source import ClipSource, list_hash
from jog3r.pipelines.latents import FLOAT32_VAES, encode_frames, vae_scale_factor
from jog3r.pipelines.loading.depth_model import DepthModel, check_depth_model, load_depth_model
from jog3r.training.config import load_config
from jog3r.training.folder_lock import check_world
from jog3r.training.generators.captions import caption_length, embed_for
from jog3r.training.generators.preparing import generator_parts, latent_shape
from jog3r.training.last_words import say_why
from jog3r.training.preparation.caption_embeddings import embed_captions
from jog3r.training.preparation.component_files import (
    check_parts,
    load_text_models,
    load_vae,
    transformer_config,
    weights_hash,
)
from jog3r.training.preparation.depth_masks import ModelledDepth, depth_agreement, known_depth
from jog3r.training.preparation.hub_copy import HubCopy
from jog3r.training.preparation.plan import expectation, model_names, number_captions, summary
from jog3r.training.preparation.prepare_config import PrepareConfig, source_of
from jog3r.training.preparation.shards import ShardFolder, lock_cache
from jog3r.training.preparation.survey import Survey, look_at_videos

logger = logging.getLogger(__name__)
OPENSORA_CAPTION_LENGTH = 120  # tokens
_TIMED_FRAMES = 4
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class UnusableVideo(Exception):
    """A video that is skipped, and why."""


class Preparation:
    """One run of one process.

    Args:
        config: the options.
        source: the videos; None builds the one that the options name.
        process: (this one, of how many); shards are dealt out in turn.
        device: where the models run.
    """

    def __init__(
        self,
        config: PrepareConfig,
        source: ClipSource | None = None,
        process: tuple[int, int] = (0, 1),
        device: torch.device | str = "cpu",
    ):
        self.config, self.device = config, torch.device(device)
        self.directory = Path(config.output_dir)
        self.shards = ShardFolder(self.directory, process)
        self.source = source_of(config) if source is None else source
        if self.source.size is None:
            raise ValueError("a cache needs frames of one size: give the source height and width")
        self.size = self.source.size
        # 1. what can be refused without a model: a T5-XXL takes minutes to load
        require_pyarrow()
        self.transformer = transformer_config(config.model)  # of what is to be trained on the cache; only its sizes are read
        self.windows = config.windows
        self.generator = generator_parts(config.model, self.windows, self.size)
        self.min_frames = max(config.min_frames, 0 if self.windows is None else self.windows.min_frames)
        self.caption_length = self._choose_caption_length()
        if self.generator is None:
            self._check_size(check_parts(config.model))
        if source is None:
            config.check_depth()
        if config.depth not in ("dataset", "none"):
            check_depth_model(config.depth, config.assume_metric)
        self.caption_ids, self.texts = number_captions(self.source, lower=self.generator is None)
        self.num_clip_shards = -(-len(self.source.names) // config.clips_per_shard)
        self.num_caption_shards = -(-len(self.texts) // config.captions_per_shard)
        self.shards.check(self._plan_of_options())
        self.hub: HubCopy | None = None
        if config.push_to_hub is not None:
            self.hub = HubCopy(config.push_to_hub, self.directory, config.hub_private, process[1])
            self.hub.open(self._plan_of_options())
        self.survey = self._look_at_videos()
        # 2. models
        dtype = _DTYPES[config.dtype]
        self.vae: Any = load_vae(config.model)
        self.tokenizer, encoder = load_text_models(config.model)
        self.text_encoder: Any = encoder
        if self.generator is not None:
            self.generator.register_modules(vae=self.vae, tokenizer=self.tokenizer, text_encoder=self.text_encoder)
        self.depth_model: DepthModel | None = None
        if config.depth not in ("dataset", "none"):
            self.depth_model = load_depth_model(config.depth, config.assume_metric)
        # 3. the plan: everything that decides what comes out
        self.plan = self._make_plan()
        if self.hub is not None:
            self.hub.open(self.plan)  # now with the fingerprints of the models
        models = {"vae": (config.model, self.vae), "text_encoder": (config.model, self.text_encoder)}
        models |= {"depth": (config.depth, self.depth_model.model)} if self.depth_model is not None else {}
        self.model_names = model_names(models)
        # Fingerprints are of the weights as stored; only then may they become smaller. T5 moves to the device while it is needed.
        for model in (self.vae, *([self.depth_model.model] if self.depth_model else [])):
            model.to(self.device)
            if model.dtype != dtype and not (model is self.vae and self._keeps_vae()):
                model.to(dtype)
        self.text_encoder.to(dtype)
        self.allowed = 0.0  # how many of its videos may be skipped before those of all are counted

    def run(self) -> bool:
        """Do this process's share; true when the cache is complete.

        Raises:
            ValueError: the folder holds something else, or more videos than `max_bad_share` could not be used.
        """
        shards = self.shards
        shards.claim(self.plan)
        if self.survey.looked_at:
            processes = shards.process[1]
            logger.info("%s", expectation(self.survey, self.plan, self._seconds_a_frame(), processes, self.directory))
        todo = shards.todo("captions", self.num_caption_shards)
        if todo:
            self.text_encoder.to(self.device)
        for number in todo:
            self._write_captions(number)
        self.text_encoder = None  # of an XXL's size: makes room for the videos
        if self.generator is not None:
            self.generator.register_modules(text_encoder=None)
        mine = shards.mine(self.num_clip_shards)
        todo = shards.todo("clips", self.num_clip_shards, self.config.retry_skipped)
        done = sorted({*mine} - {*todo})
        skipped = sum(len(shards.part("clips", number)["skipped"]) for number in done)
        sizes = {number: len(self._indices(number)) for number in mine}
        self.allowed = self.config.max_bad_share * sum(sizes.values())
        with tqdm(
            total=sum(sizes.values()),
            initial=sum(sizes[number] for number in done),
            unit="video",
            desc="prepare",
            disable=shards.process[0] != 0,
        ) as bar:
            for number in todo:
                skipped += self._write_clips(number, bar, skipped)
        return self._finish()

    # The plan

    def _choose_caption_length(self) -> int:
        wanted, model = self.config.caption_length, self.config.model
        if self.transformer is None and self.generator is None:
            return OPENSORA_CAPTION_LENGTH if wanted is None else wanted
        taken: int = caption_length(self.generator) if self.transformer is None else self.transformer["max_caption_length"]
        if wanted is not None and wanted > taken:
            raise ValueError(
                f"caption_length must be at most {taken}, what the transformer of {model!r} takes, got {wanted}; leave it out"
            )
        return taken if wanted is None else wanted

    def _check_size(self, scale: int) -> None:
        height, width = self.size
        patch = 1 if self.transformer is None else self.transformer["patch_size"]
        if height % (scale * patch) or width % (scale * patch):
            text = f"{scale}, the VAE's" if patch == 1 else f"{scale * patch} (the VAE's {scale} times patch_size={patch})"
            raise ValueError(f"height and width must be multiples of {text}, got {height} x {width}")

    def _plan_of_options(self) -> dict[str, Any]:
        """What of the plan is known before the models are."""
        config = self.config
        height, width = self.size
        return {
            "source": self.source.settings(),
            "num_videos": len(self.source.names),
            "height": height,
            "width": width,
            "min_frames": self.min_frames,
            "caption_length": self.caption_length,
            "captions_sha256": list_hash(self.texts),
            "clips_per_shard": config.clips_per_shard,
            "captions_per_shard": config.captions_per_shard,
            "dtype": config.dtype,
            "format": 1,  # of the rows; the manifest has that of the files, which is no reason to begin anew
            **({} if self.windows is None else {"windows": self.windows.settings()}),
        }

    def _keeps_vae(self) -> bool:
        """Whether the VAE computes in float32 beside other models in half precision."""
        return self.config.dtype != "float32" and type(self.vae).__name__ in FLOAT32_VAES

    def _make_plan(self) -> dict[str, Any]:
        config, vae = self.config, self.vae
        if self.generator is None:
            scale, (height, width) = vae_scale_factor(vae), self.size
            latents = [vae.config.latent_channels, height // scale, width // scale]
        else:
            latents = latent_shape(self.generator, self.size)
        depth: dict[str, Any] = {"kind": config.depth} if self.depth_model is None else {
            "kind": "model", "fingerprint": weights_hash(self.depth_model.model), "align_scale": config.align_scale
        }  # fmt: skip
        return self._plan_of_options() | {
            "latent_shape": latents,
            "vae": {"fingerprint": weights_hash(vae), **({"dtype": "float32"} if self._keeps_vae() else {})},
            "text_encoder": {"fingerprint": weights_hash(self.text_encoder)},
            "depth": {**depth, "max_depth": config.max_depth},
            "caption_channels": self.text_encoder.config.d_model,
        }

    def _look_at_videos(self) -> Survey:
        """Count what is missing of the videos still to be done; of several processes, the first counts for all.

        Raises:
            ValueError: more than `max_bad_share` of the list.
        """
        config, names = self.config, self.source.names
        done = {number for number in range(self.num_clip_shards) if self.shards.part("clips", number) is not None}
        todo = [index for index in range(len(names)) if index // config.clips_per_shard not in done]
        mine = todo if self.shards.process[0] == 0 else []
        survey = look_at_videos(self.source, mine, self.min_frames, config.loader_threads)
        if survey.missing:
            text = self._without_paths(survey.complaint())
            if len(survey.missing) > config.max_bad_share * len(names):
                raise ValueError(f"{text}; of {len(names)} listed that is more than max_bad_share={config.max_bad_share:g}")
            logger.warning("%s; they are left out", text)
        return survey

    @torch.no_grad()
    def _seconds_a_frame(self) -> float:
        """Time of VAE and depth model for a frame, from a few blank ones."""
        timed = _TIMED_FRAMES if self.windows is None else self.windows.num_frames
        frames = torch.zeros(timed, *self.size, 3, dtype=torch.uint8)
        for count in (1, timed):  # what comes first warms up
            begin = time.perf_counter()
            self._latents(frames[:count])
            if self.depth_model is not None:
                self.depth_model(frames[:count])
        return (time.perf_counter() - begin) / timed

    def _latents(self, frames: torch.Tensor) -> torch.Tensor:
        """Latents (C, f, h, w) on the CPU of frames (F, H, W, 3) uint8."""
        pixels = frames.permute(0, 3, 1, 2).float().div(127.5).sub(1)[None]  # (1, F, 3, H, W)
        return encode_frames(self.vae, pixels.to(self.device), self.config.batch_size)[0].cpu()

    # Shards

    def _indices(self, number: int) -> range:
        first = number * self.config.clips_per_shard
        return range(first, min(first + self.config.clips_per_shard, len(self.source.names)))

    def _write_captions(self, number: int) -> None:
        first = number * self.config.captions_per_shard
        texts = self.texts[first : first + self.config.captions_per_shard]
        captions: list[CachedCaption] = []
        for start in range(0, len(texts), self.config.batch_size):
            some = texts[start : start + self.config.batch_size]
            if self.generator is not None:
                captions += embed_for(self.generator, some, self.caption_length, self.device)
            else:
                captions += embed_captions(self.tokenizer, self.text_encoder, some, self.caption_length, self.device)
        table = caption_rows(first, captions)

        def write(aside: Path) -> None:
            with write_rows(aside) as rows:
                rows.append(table)

        write_aside(self.shards.data("captions", number), write)
        self._seal("captions", number, {"captions": len(texts)})

    def _write_clips(self, number: int, bar: tqdm, skipped_before: int) -> int:
        """Write one shard; the number of videos skipped."""
        videos: list[dict[str, Any]] = []
        skipped: list[dict[str, str]] = []
        path = self.shards.data("clips", number)

        def write(aside: Path) -> None:
            with write_rows(aside, FRAMES_PER_GROUP) as rows:
                for index, clip in self._load(self._indices(number)):
                    try:
                        for name, frames, caption_ids in self._entries(index, clip):
                            rows.append(clip_rows(name, frames, caption_ids))
                            video = {"name": name, "num_frames": len(frames.poses), "caption_ids": list(caption_ids)}
                            videos.append(video | depth_agreement(name, frames))
                    except UnusableVideo as error:
                        skipped.append({"name": self.source.names[index], "reason": str(error)})
                        if skipped_before + len(skipped) > self.allowed:  # of this process: time to count those of all
                            self._check_share(skipped)
                    bar.update()
                if not videos:
                    aside.touch()

        write_aside(path, write)
        if not videos:  # a Parquet file without rows would have no columns
            path.unlink()
        self._seal("clips", number, {"videos": videos, "skipped": skipped})
        return len(skipped)

    def _seal(self, kind: str, number: int, content: dict[str, Any]) -> None:
        self.shards.seal(kind, number, content)
        if self.hub is not None:
            self.hub.offer(self.shards.data(kind, number))

    def _entries(self, index: int, clip: Clip | str) -> list[tuple[str, CachedFrames, tuple[int, int]]]:
        """What a video becomes in the cache: itself, or its windows. Name, frames, captions of each.

        Raises:
            UnusableVideo: it, or one of its windows, cannot be used.
        """
        if isinstance(clip, str):
            raise UnusableVideo(clip)
        name, caption_ids = self.source.names[index], self.caption_ids[index]
        parts = [(name, clip, caption_ids)]
        if self.windows is not None:
            parts = self.windows.cut(name, clip, index, caption_ids)
        return [(label, self._frames(part), ids) for label, part, ids in parts]

    def _load(self, indices: range) -> Iterator[tuple[int, Clip | str]]:
        """Videos in order, or the reason why one cannot be used; a few are loaded ahead."""
        threads = self.config.loader_threads
        with ThreadPoolExecutor(threads) as pool:
            ahead: deque[tuple[int, Future[Clip | str]]] = deque()
            for index in indices:
                ahead.append((index, pool.submit(self._load_one, index)))
                if len(ahead) > threads:
                    first, future = ahead.popleft()
                    yield first, future.result()
            for first, future in ahead:
                yield first, future.result()

    def _load_one(self, index: int) -> Clip | str:
        # Other errors of the operating system (no permission, a lost disk) are no property of the video: they end the run.
        if self.caption_ids[index][0] < 0:
            try:
                self.source.captions(index)
            except ValueError as error:
                return self._without_paths(str(error))
            return "it had no caption when this run began: start it in a new output_dir"
        try:
            clip = self.source.load(index)
        except (ValueError, FileNotFoundError) as error:
            return self._without_paths(str(error))
        if clip.num_frames < self.min_frames:
            return f"{clip.num_frames} frames, fewer than min_frames={self.min_frames}"
        if self.config.depth == "dataset" and not clip.valid.any():
            return "the data set has no depth for it; name a depth model with the option depth"
        return clip

    def _without_paths(self, text: str) -> str:
        """Reports travel with the cache: folders of this machine stay out of them."""
        for folder in (self.config.frames, self.config.cameras):
            text = text if folder is None else text.replace(f"{Path(folder)}/", "")
        return text

    @torch.no_grad()
    def _frames(self, clip: Clip) -> CachedFrames:
        """What the cache holds of a video or window.

        Raises:
            UnusableVideo: it has no depth or no scale.
        """
        config = self.config
        frames = torch.from_numpy(clip.frames)  # (F, H, W, 3)
        latents = self._latents(frames)  # (C, f, h, w)
        depth, valid = torch.from_numpy(clip.depth), torch.from_numpy(clip.valid)
        poses, intrinsics = torch.from_numpy(clip.poses), torch.from_numpy(clip.intrinsics)
        if self.depth_model is not None:
            try:
                depth, valid, poses = ModelledDepth(self.depth_model, config.max_depth, config.align_scale)(
                    frames, intrinsics, poses
                )
            except ValueError as error:
                raise UnusableVideo(str(error)) from error
        elif config.depth == "none":
            valid = torch.zeros_like(valid)
        else:
            near = valid & known_depth(depth, config.max_depth)
            if valid.any() and not near.any():
                raise UnusableVideo(f"all of its depth lies beyond max_depth={config.max_depth:g} in its own unit: raise that")
            valid = near
        return CachedFrames(
            latents.transpose(0, 1).half().numpy(),  # (f, C, h, w)
            depth.numpy(),
            valid.numpy(),
            poses.numpy(),
            intrinsics.numpy(),
        )

    # The end

    def _check_share(self, latest: list[dict[str, str]]) -> None:
        """Stop, with a report of what is known so far of all processes, when too many videos are unusable."""
        total, last = len(self.source.names), latest[-1]
        parts = [part for number in range(self.num_clip_shards) if (part := self.shards.part("clips", number)) is not None]
        entries = {entry["name"]: entry for part in parts for entry in part["skipped"]}
        entries |= {entry["name"]: entry for entry in latest}
        if len(entries) > self.config.max_bad_share * total:
            report = {"stopped": True, "skipped": len(entries), "skipped_videos": list(entries.values())}
            self.shards.write(REPORT, report)
            raise ValueError(
                f"{len(entries)} of {total} videos cannot be used, more than max_bad_share={self.config.max_bad_share:g}; "
                f"the last, {last['name']!r}: {last['reason']}"
            )

    def _finish(self) -> bool:
        """Report and manifest, if all shards of all processes are there."""
        clips = [self.shards.part("clips", number) for number in range(self.num_clip_shards)]
        captions = [self.shards.part("captions", number) for number in range(self.num_caption_shards)]
        missing = sum(part is None for part in (*clips, *captions))
        if missing:
            if self.hub is not None:
                self.hub.flush()
            logger.info("this process is done; %d shards of others are still missing", missing)
            return False
        skipped = [entry for part in clips for entry in part["skipped"]]
        num_frames = sum(video["num_frames"] for part in clips for video in part["videos"])
        totals = {"videos": len(self.source.names) - len(skipped), "skipped": len(skipped), "frames": num_frames}
        if skipped:
            self._check_share(skipped)
        report, files = summary(clips, captions)
        self.shards.write(REPORT, {**totals, "skipped_videos": skipped, **report})
        manifest = {"format": FORMAT, **totals, "models": self.model_names, "plan": self.plan, **files}
        self.shards.write(MANIFEST, manifest)
        if self.hub is not None:
            self.hub.finish(manifest)
        return True


def prepare(config: PrepareConfig) -> Path:
    """Fill `config.output_dir`, or this process's share of it; returns the folder.

    Raises:
        ValueError: options or data that do not fit, too many videos that cannot be used, or another process at the same work.
    """
    from accelerate import Accelerator

    state = Accelerator()  # and not PartialState, which does not know ACCELERATE_USE_CPU
    check_world(state.num_processes)
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    process, directory = (state.process_index, state.num_processes), Path(config.output_dir)
    with lock_cache(directory, process):
        Preparation(config, None, process, state.device).run()
    return directory


def main(arguments: list[str]) -> int:
    """Entry point; a user's mistake ends in one line and exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        prepare(load_config(PrepareConfig, arguments))
    except (ValueError, OSError) as error:  # such as a model that is neither a folder nor on the hub
        say_why(str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
