"""Training clips out of a cache, with the items of `ProceduralStream`: position k always gives the same clip."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from jog3r.data.cache import REPORT, Cache, CachedFrames
from jog3r.data.frame_choice import REVERSE_PROBABILITY, STRIDES, FrameSelection, select_frames, shuffled_index
from jog3r.data.poses import rebase_poses
from jog3r.data.source import list_hash
from jog3r.training.clips.listed_videos import ListedVideos
from jog3r.training.preparation.caption_embeddings import caption_item
from jog3r.training.preparation.component_files import weights_hash
from jog3r.training.preparation.depth_masks import DepthChecks
from jog3r.training.preparation.windows import video_of

__all__ = ["CachedStream"]

logger = logging.getLogger(__name__)


class CachedStream(ListedVideos):
    """Clips of F frames from prepared videos: every video once an epoch in a new order, stride, start and direction drawn.

    The item of a position is a pure function of (seed, position) and the cache. Latents cannot be mirrored, so nothing is.

    Args:
        cache: what `jog3r prepare` wrote, or its folder.
        vae: of the run; a cache made by another one is refused.
        caption_length: tokens every caption is padded to; None: items have no captions, and the cache may have any.
        size: (F, H, W) of a clip.
        length: positions in the stream.
        seed: of everything drawn.
        reverse_probability: chance of a clip to run backward.
        checks: which known depth is not to be believed; None believes all of it.

    Raises:
        ValueError: no finished cache, another VAE or size, captions longer than `caption_length`, or only short videos.
    """

    def __init__(
        self,
        cache: Cache | str | Path,
        vae: nn.Module,
        caption_length: int | None,
        size: tuple[int, int, int],
        length: int,
        seed: int,
        *,
        reverse_probability: float = REVERSE_PROBABILITY,
        checks: DepthChecks | None = None,
    ):
        self.cache = cache if isinstance(cache, Cache) else Cache(cache)
        place = self.cache.directory
        self.cache.check_model("vae", weights_hash(vae), _name(vae))
        self.num_frames, self.caption_length = size[0], caption_length
        self.length, self.seed = length, seed
        self.reverse_probability = reverse_probability
        self.checks = checks
        if size[1:] != (self.cache.height, self.cache.width):
            raise ValueError(
                f"the cache {place!r} is {self.cache.height} x {self.cache.width} pixels, the run {size[1]} x {size[2]}: "
                "set height and width, or prepare another cache"
            )
        if caption_length is not None and caption_length < self.cache.caption_length:
            raise ValueError(
                f"the cache's captions have up to {self.cache.caption_length} tokens, the model takes {caption_length}; "
                "prepare it with caption_length of the model"
            )
        if not len(self.cache):
            raise ValueError(f"the cache {place!r} holds no video: its {REPORT} says why each was skipped")
        self.windows: dict[str, Any] | None = self.cache.manifest["plan"].get("windows")
        self._check_windows()
        self.min_frames = self.num_frames if self.windows else (self.num_frames - 1) * min(STRIDES) + 1
        self.videos = [index for index in range(len(self.cache)) if self.cache.num_frames(index) >= self.min_frames]
        if not self.videos:
            raise ValueError(f"no video of the cache {place!r} has the {self.min_frames} frames that a clip takes")

    def _check_windows(self) -> None:
        if self.windows is None:
            return
        if self.windows["num_frames"] != self.num_frames:
            raise ValueError(
                f"the cache {self.cache.directory!r} holds windows of {self.windows['num_frames']} frames, the run takes "
                f"{self.num_frames}: set num_frames, or prepare it with window_frames={self.num_frames}"
            )
        if self.reverse_probability != REVERSE_PROBABILITY:
            raise ValueError(
                f"reverse_probability={self.reverse_probability} means nothing to the windows of {self.cache.directory!r}: "
                "their direction was drawn by prepare (window_reverse_probability)"
            )

    def __len__(self) -> int:
        return self.length

    def check_captions(self, caption_channels: int, text_encoder: nn.Module | None) -> None:
        """Refuse caption embeddings that are not those of the run.

        Args:
            caption_channels: that the transformer takes.
            text_encoder: of the run, if its embeddings are to be the cache's.

        Raises:
            ValueError: embeddings of another width, or of another text encoder, or no captions at all.
        """
        if self.cache.caption_channels != caption_channels:
            raise ValueError(
                f"the captions of the cache {self.cache.directory!r} have {self.cache.caption_channels} channels, the "
                f"transformer takes {caption_channels}; prepare it with the model's text encoder"
            )
        if text_encoder is not None:
            self.cache.check_model("text_encoder", weights_hash(text_encoder), _name(text_encoder))
        texts = [self.cache.caption(caption).text for caption in self.cache.caption_ids(self.videos[0])]  # to read all takes long
        self.cache.close()  # workers that are forked must not share a file's position
        if not any(texts):
            raise ValueError(
                f"the first video of the cache {self.cache.directory!r} has no caption, and the generator learns from captions: "
                "prepare it with captions, or let the reconstruction half alone read it"
            )

    def check_depth(self) -> None:
        """Refuse a cache that has nothing to train the 3D head on.

        Raises:
            ValueError: it was prepared without depth.
        """
        if self.cache.manifest["plan"]["depth"]["kind"] == "none":
            raise ValueError(
                f"the cache {self.cache.directory!r} was prepared with depth=none, and the 3D head learns from depth: "
                "prepare it with a depth model, or set reconstruction_batch=0"
            )

    def selection(self, position: int) -> tuple[int, FrameSelection]:
        """Which video of the cache, and which of its frames, stand at `position`; nothing is read for it."""
        video = self.video_at(position)
        available = self.cache.num_frames(video)
        if self.windows is not None:  # whole, in the order in which it was encoded
            return video, FrameSelection(0, 1, available, False)
        return video, select_frames(available, self.num_frames, self.seed, position, reverse_probability=self.reverse_probability)

    def video_at(self, position: int) -> int:
        """Number in the cache of the video at `position`."""
        return self.videos[shuffled_index(position, len(self.videos), self.seed)]

    def describe(self) -> dict[str, Any]:
        """What decides which clip stands where; a run goes on with the same alone."""
        manifest = self.cache.manifest
        videos = list_hash([f"{self.cache.name(index)} {self.cache.num_frames(index)}" for index in self.videos])
        listed = manifest["plan"]["source"]["list_sha256"]
        drawn: dict[str, Any] = {"strides": list(STRIDES), "reverse_probability": self.reverse_probability}
        drawn = {"windows": self.windows} if self.windows is not None else drawn
        drawn["seed"] = self.seed
        return {"kind": "cache", "list_sha256": listed, "videos_sha256": videos, **drawn}

    def sample_name(self, position: int) -> str:
        """The clip at `position`, for people and logs."""
        video, selection = self.selection(position)
        if self.windows is not None:
            return self.cache.name(video)
        return f"{self.cache.name(video)} {selection}"

    @property
    def list_name(self) -> str:
        """See `ListedVideos`."""
        return repr(self.cache.directory)

    def video_name(self, number: int) -> str:
        """See `ListedVideos`."""
        name = self.cache.name(number)
        return name if self.windows is None else video_of(name)

    def caption_text(self, position: int) -> str:
        """The caption at `position`."""
        video, selection = self.selection(position)
        return self.cache.caption(self.cache.caption_ids(video)[int(selection.reversed)]).text

    def check_missing(self, max_missing_share: float) -> None:
        """Say in one line which listed videos are missing: those that `prepare` skipped, and those too short for a clip.

        Raises:
            ValueError: that is more than `max_missing_share` of the list.
        """
        short = sorted({*range(len(self.cache))} - {*self.videos})
        skipped, listed = int(self.cache.manifest["skipped"]), int(self.cache.manifest["plan"]["num_videos"])
        if not short and not skipped:
            return
        names = ", ".join(self.cache.name(index) for index in short[:5]) + (", ..." if len(short) > 5 else "")
        text = (
            f"{skipped + len(short)} of the {listed} videos listed are missing: prepare skipped {skipped} (report.json), "
            f"{len(short)} have fewer than {self.min_frames} frames{f' ({names})' if short else ''}"
        )
        if skipped + len(short) > max_missing_share * listed:
            raise ValueError(f"{text}; that is more than max_missing_share={max_missing_share:g}")
        logger.warning("%s", text)

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        """Latents (C, F, h, w), depth (F, H, W), valid, intrinsics, poses, caption ids, mask (L,) and embeddings (L, D)."""
        video, selection = self.selection(position)
        item = self._tensors(self._frames(position, video, selection.indices.tolist()))
        if self.caption_length is None:
            return item
        caption_id = self.cache.caption_ids(video)[int(selection.reversed)]
        return {**item, **caption_item(self.cache.caption(caption_id), self.caption_length)}

    def _frames(self, _position: int, video: int, numbers: list[int]) -> CachedFrames:
        return self.cache.frames(video, numbers)

    def _tensors(self, frames: CachedFrames) -> dict[str, torch.Tensor]:
        depth, valid = torch.from_numpy(frames.depth), torch.from_numpy(frames.valid)
        intrinsics = torch.from_numpy(frames.intrinsics)
        poses = torch.from_numpy(rebase_poses(frames.poses))
        if self.checks is not None:
            valid = self.checks.apply(depth, valid, intrinsics, poses)
        return {
            "latents": torch.from_numpy(np.ascontiguousarray(frames.latents.transpose(1, 0, 2, 3))).float(),  # (C, F, h, w)
            "depth": depth,
            "valid": valid,
            "intrinsics": intrinsics,
            "poses": poses,
        }


def _name(model: nn.Module) -> str:
    return getattr(model.config, "_name_or_path", None) or "the run's own"
