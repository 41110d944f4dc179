"""Precompute what training reads: a latent a frame, metric depth, caption embeddings; see `jog3r.data.cache` for the files.

    jog3r prepare --source realestate10k --model FOLDER --cameras ... --frames ... --output_dir CACHE
    accelerate launch training/prepare.py --config FILE.yaml [--option value ...]

Restartable and idempotent: shard k depends on the options and the data alone, is written aside and renamed, and is not done
again. The same files come out of one process or many, killed or not. Processes share nothing but the folder (several machines:
a shared folder); whoever finds all shards complete writes the manifest.
"""

import hashlib
import logging
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from jog3r.data.cache import (
    FORMAT,
    MANIFEST,
    REPORT,
    CachedCaption,
    CachedFrames,
    caption_rows,
    clip_rows,
    part_name,
    write_rows,
)  # fmt: skip
from jog3r.data.clip import Clip
from jog3r.data.files import write_aside
from jog3r.data.source import ClipSource
from jog3r.pipelines.captions import embed_texts
from jog3r.pipelines.latents import encode_frames, vae_scale_factor
from jog3r.pipelines.loading.depth_model import DepthModel, load_depth_model
from jog3r.training.config import load_config
from jog3r.training.preparation.component_files import load_text_models, load_vae, transformer_config, weights_hash
from jog3r.training.preparation.depth_masks import known_depth, pose_scale
from jog3r.training.preparation.prepare_config import PrepareConfig, build_source
from jog3r.training.preparation.shards import ShardFolder

logger = logging.getLogger(__name__)
OPENSORA_CAPTION_LENGTH = 120  # tokens
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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
        self.source = build_source(config) if source is None else source
        # 1. models
        self.transformer = transformer_config(config.model)  # of what is to be trained on the cache; only its sizes are read
        self.caption_length = self._choose_caption_length()
        dtype = _DTYPES[config.dtype]
        self.vae: Any = load_vae(config.model)
        self.tokenizer, encoder = load_text_models(config.model)
        self.text_encoder: Any = encoder
        self.depth_model: DepthModel | None = None
        if config.depth not in ("dataset", "none"):
            self.depth_model = load_depth_model(config.depth, config.assume_metric)
        # 2. the plan: everything that decides what comes out
        self.caption_ids, self.texts = _number_captions(self.source)
        self.plan = self._make_plan()
        self.model_names = self._model_names()
        # Fingerprints are of the weights as stored; only then may they become smaller. T5 moves to the device while it is needed.
        for model in (self.vae, *([self.depth_model.model] if self.depth_model else [])):
            model.to(self.device)
            if model.dtype != dtype:
                model.to(dtype)
        self.text_encoder.to(dtype)
        self.num_clip_shards = -(-len(self.source.names) // config.clips_per_shard)
        self.allowed = 0.0  # how many of its videos may be skipped before those of all are counted
        self.num_caption_shards = -(-len(self.texts) // config.captions_per_shard)

    def run(self) -> bool:
        """Do this process's share; true when the cache is complete.

        Raises:
            ValueError: the folder holds something else, or more videos than `max_bad_share` could not be used.
        """
        shards = self.shards
        shards.claim(self.plan)
        todo = shards.todo("captions", self.num_caption_shards)
        if todo:
            self.text_encoder.to(self.device)
        for number in todo:
            self._write_captions(number)
        self.text_encoder = None  # of an XXL's size: makes room for the videos
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
        if self.transformer is None:
            return OPENSORA_CAPTION_LENGTH if wanted is None else wanted
        taken: int = self.transformer["max_caption_length"]
        if wanted is not None and wanted > taken:
            raise ValueError(
                f"caption_length must be at most {taken}, what the transformer of {model!r} takes, got {wanted}; leave it out"
            )
        return taken if wanted is None else wanted

    def _make_plan(self) -> dict[str, Any]:
        config, vae = self.config, self.vae
        scale = vae_scale_factor(vae)
        height, width = self.source.size
        patch = 1 if self.transformer is None else self.transformer["patch_size"]
        if height % (scale * patch) or width % (scale * patch):
            text = f"{scale}, the VAE's" if patch == 1 else f"{scale * patch} (the VAE's {scale} times patch_size={patch})"
            raise ValueError(f"height and width must be multiples of {text}, got {height} x {width}")
        depth: dict[str, Any] = {"kind": config.depth} if self.depth_model is None else {
            "kind": "model", "fingerprint": weights_hash(self.depth_model.model), "align_scale": config.align_scale
        }  # fmt: skip
        return {
            "source": self.source.settings(),
            "num_videos": len(self.source.names),
            "height": height,
            "width": width,
            "latent_shape": [vae.config.latent_channels, height // scale, width // scale],
            "min_frames": config.min_frames,
            "vae": {"fingerprint": weights_hash(vae)},
            "text_encoder": {"fingerprint": weights_hash(self.text_encoder)},
            "depth": {**depth, "max_depth": config.max_depth},
            "caption_length": self.caption_length,
            "caption_channels": self.text_encoder.config.d_model,
            "captions_sha256": _hash_texts(self.texts),
            "clips_per_shard": config.clips_per_shard,
            "captions_per_shard": config.captions_per_shard,
            "dtype": config.dtype,
            "format": FORMAT,
        }

    # Shards

    def _indices(self, number: int) -> range:
        first = number * self.config.clips_per_shard
        return range(first, min(first + self.config.clips_per_shard, len(self.source.names)))

    def _write_captions(self, number: int) -> None:
        first = number * self.config.captions_per_shard
        texts = self.texts[first : first + self.config.captions_per_shard]
        captions: list[CachedCaption] = []
        for start in range(0, len(texts), self.config.batch_size):
            captions += self._embed(texts[start : start + self.config.batch_size])
        table = caption_rows(first, captions)

        def write(aside: Path) -> None:
            with write_rows(aside) as rows:
                rows.append(table)

        write_aside(self.shards.data("captions", number), write)
        self.shards.seal("captions", number, {"captions": len(texts)})

    @torch.no_grad()
    def _embed(self, texts: list[str]) -> list[CachedCaption]:
        length = self.caption_length
        embeds, mask = embed_texts(self.tokenizer, self.text_encoder, texts, length, self.device)
        ids = self.tokenizer([text.lower().strip() for text in texts], truncation=True, max_length=length).input_ids
        # Trimmed to the tokens: most captions have ten, and padding would be nine tenths of the file.
        return [
            CachedCaption(text, torch.tensor(ids[row]).numpy(), embeds[row, mask[row]].half().cpu().numpy())
            for row, text in enumerate(texts)
        ]

    def _write_clips(self, number: int, bar: tqdm, skipped_before: int) -> int:
        """Write one shard; the number of videos skipped."""
        videos: list[dict[str, Any]] = []
        skipped: list[dict[str, str]] = []
        path = self.shards.data("clips", number)

        def write(aside: Path) -> None:
            with write_rows(aside) as rows:
                for index, clip in self._load(self._indices(number)):
                    name = self.source.names[index]
                    frames = clip if isinstance(clip, str) else self._frames(clip)
                    if isinstance(frames, str):
                        skipped.append({"name": name, "reason": frames})
                        if skipped_before + len(skipped) > self.allowed:  # of this process: time to count those of all
                            self._check_share(skipped)
                    else:
                        caption_ids = self.caption_ids[index]
                        rows.append(clip_rows(name, frames, caption_ids))
                        videos.append({"name": name, "num_frames": len(frames.poses), "caption_ids": list(caption_ids)})
                    bar.update()
                if not videos:
                    aside.touch()

        write_aside(path, write)
        if not videos:  # a Parquet file without rows would have no columns
            path.unlink()
        self.shards.seal("clips", number, {"videos": videos, "skipped": skipped})
        return len(skipped)

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
        try:
            self.source.captions(index)
            clip = self.source.load(index)
        except (ValueError, FileNotFoundError) as error:
            return self._without_paths(str(error))
        if clip.num_frames < self.config.min_frames:
            return f"{clip.num_frames} frames, fewer than min_frames={self.config.min_frames}"
        if self.config.depth == "dataset" and not clip.valid.any():
            return "the data set has no depth for it; name a depth model with the option depth"
        return clip

    def _without_paths(self, text: str) -> str:
        """Reports travel with the cache: folders of this machine stay out of them."""
        for folder in (self.config.frames, self.config.cameras):
            text = text if folder is None else text.replace(f"{folder.rstrip('/')}/", "")
        return text

    @torch.no_grad()
    def _frames(self, clip: Clip) -> CachedFrames | str:
        """What the cache holds of a video, or the reason why it cannot be used."""
        config = self.config
        frames = torch.from_numpy(clip.frames)  # (F, H, W, 3)
        pixels = frames.permute(0, 3, 1, 2).float().div(127.5).sub(1)[None]  # (1, F, 3, H, W)
        latents = encode_frames(self.vae, pixels.to(self.device), config.batch_size)[0]  # (C, F, h, w)
        depth, valid = torch.from_numpy(clip.depth), torch.from_numpy(clip.valid)
        poses, intrinsics = torch.from_numpy(clip.poses), torch.from_numpy(clip.intrinsics)
        if config.depth == "none":
            valid = torch.zeros_like(valid)
        elif self.depth_model is not None:
            depth = self.depth_model(frames)
            valid = torch.ones_like(valid)
        valid = valid & known_depth(depth, config.max_depth)
        if self.depth_model is not None and config.align_scale:
            poses = poses.clone()
            try:
                poses[:, :3, 3] *= pose_scale(depth, valid, intrinsics, poses)
            except ValueError as error:
                return str(error)
        return CachedFrames(
            latents.transpose(0, 1).half().cpu().numpy(),  # (F, C, h, w)
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
            logger.info("this process is done; %d shards of others are still missing", missing)
            return False
        skipped = [entry for part in clips for entry in part["skipped"]]
        num_frames = sum(video["num_frames"] for part in clips for video in part["videos"])
        totals = {"videos": len(self.source.names) - len(skipped), "skipped": len(skipped), "frames": num_frames}
        if skipped:
            self._check_share(skipped)
        self.shards.write(REPORT, {**totals, "skipped_videos": skipped})
        shards = {part_name("clips", number): part for number, part in enumerate(clips)}
        shards |= {part_name("captions", number): part for number, part in enumerate(captions)}
        manifest = {
            "format": FORMAT,
            **totals,
            "models": self.model_names,
            "plan": self.plan,
            "clips": {part_name("clips", number): part["videos"] for number, part in enumerate(clips) if part["bytes"]},
            "files": {
                f"{name}.parquet": {"bytes": part["bytes"], "sha256": part["sha256"]}
                for name, part in shards.items()
                if part["bytes"]
            },
        }
        self.shards.write(MANIFEST, manifest)
        return True

    def _model_names(self) -> dict[str, str]:
        """Names and, for the hub's, revisions: for people; the fingerprints in the plan are what is compared."""
        models: dict[str, Any] = {"vae": self.vae, "text_encoder": self.text_encoder}
        names = {part: self.config.model for part in models}
        if self.depth_model is not None:
            models["depth"], names["depth"] = self.depth_model.model, self.config.depth
        for part, model in models.items():
            revision = getattr(model.config, "_commit_hash", None)
            # Of a folder only its own name: the rest says nothing on another machine.
            name = Path(names[part]).name if Path(names[part]).exists() else names[part]
            names[part] = name if revision is None else f"{name}@{revision}"
        return names


def _number_captions(source: ClipSource) -> tuple[list[tuple[int, int]], list[str]]:
    """Caption numbers (forward, backward) of every video, and the distinct texts in order of first use.

    A video without caption gets (-1, -1); it is skipped, with its reason, when it is its turn.
    """
    numbers: dict[str, int] = {}
    ids = []
    for index in range(len(source.names)):
        try:
            pair = source.captions(index)
        except ValueError:
            ids.append((-1, -1))
            continue
        forward, backward = (numbers.setdefault(text.lower().strip(), len(numbers)) for text in pair)
        ids.append((forward, backward))
    return ids, list(numbers)


def _hash_texts(texts: list[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def prepare(config: PrepareConfig) -> Path:
    """Fill `config.output_dir`, or this process's share of it; returns the folder."""
    from accelerate import Accelerator

    state = Accelerator()  # and not PartialState, which does not know ACCELERATE_USE_CPU
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    Preparation(config, None, (state.process_index, state.num_processes), state.device).run()
    return Path(config.output_dir)


def main(arguments: list[str]) -> int:
    """Entry point; a user's mistake ends in one line and exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        prepare(load_config(PrepareConfig, arguments))
    except (ValueError, OSError) as error:  # such as a model that is neither a folder nor on the hub
        logger.error("error: %s", error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
