"""Training clips straight from posed videos, decoded and encoded as it goes: for small sets, without a cache."""

import json
import logging
from typing import Any, Self

import torch

from jog3r.data.clip import Clip
from jog3r.data.frame_choice import STRIDES, FrameSelection, select_frames, shuffled_index, take_frames
from jog3r.data.source import ClipSource, list_hash
from jog3r.pipelines.latents import encode_frames
from jog3r.training.clips.listed_videos import ListedVideos
from jog3r.training.preparation.caption_embeddings import caption_item
from jog3r.training.preparation.component_files import weights_hash
from jog3r.training.preparation.depth_masks import DepthChecks, ModelledDepth
from jog3r.training.preparation.survey import look_at_videos

__all__ = ["VideoStream"]

logger = logging.getLogger(__name__)


class VideoStream(ListedVideos):
    """Clips of F frames of a source's videos: every video once an epoch in a new order, stride, start and direction drawn.

    The item of a position is a pure function of (seed, position) and the videos.

    Args:
        source: the videos, at the run's size.
        num_frames: F.
        length: positions in the stream.
        seed: of everything drawn.
        vae: frozen; runs in the loader's worker, beside the training. None: items hold frames, no latents.
        reverse_probability: chance of a clip to run backward.
        checks: which known depth is not to be believed.
        needs_depth: whether a video without any is refused.
        depth_model: gives the depth instead of the source, in the loader's worker, too.

    Raises:
        ValueError: no video can be used.
    """

    def __init__(  # noqa: PLR0913  # what an item is a function of
        self,
        source: ClipSource,
        num_frames: int,
        length: int,
        seed: int,
        *,
        vae: Any = None,
        reverse_probability: float = 0.5,
        checks: DepthChecks | None = None,
        needs_depth: bool = True,
        depth_model: ModelledDepth | None = None,
    ):
        self.source, self.num_frames, self.length, self.seed, self.vae = source, num_frames, length, seed, vae
        self.reverse_probability, self.checks, self.needs_depth = reverse_probability, checks, needs_depth
        self.depth_model = depth_model
        self.min_frames = (num_frames - 1) * min(STRIDES) + 1
        self.survey = look_at_videos(source, range(len(source.names)), self.min_frames, threads=2)
        self.videos = [index for index, name in enumerate(source.names) if name not in self.survey.missing]
        if not self.videos:
            raise ValueError(f"there is nothing to train on: {self.survey.complaint()}")
        self.keeps_frames = False
        self._captions: Any = None
        self._caption_length = 0

    def __len__(self) -> int:
        return self.length

    @property
    def list_name(self) -> str:
        """See `ListedVideos`."""
        return f"the source, such as {self.source.names[self.videos[0]]!r},"

    def video_name(self, number: int) -> str:
        """See `ListedVideos`."""
        return self.source.names[number]

    def hold_out(self, names: set[str]) -> Self:
        """See `ListedVideos`; its items have their frames, too."""
        held = super().hold_out(names)
        held.keeps_frames = True
        return held

    def caption_text(self, position: int) -> str:
        """The caption at `position` of a held-out stream."""
        return self.source.captions(self._video(position))[0]

    def caption_texts(self) -> list[str]:
        """All distinct captions, forward and backward, of the videos that are used."""
        return list(dict.fromkeys(text for video in self.videos for text in self.source.captions(video)))

    def keep_captions(self, captions: Any, length: int) -> None:
        """Let items have their captions.

        Args:
            captions: those of `caption_texts` by text, embedded.
            length: tokens that they are padded to.
        """
        self._captions, self._caption_length = captions, length

    def check_missing(self, max_missing_share: float) -> None:
        """Say in one line which listed videos cannot be used: without file, cameras or caption, or too short for a clip.

        Raises:
            ValueError: that is more than `max_missing_share` of the list.
        """
        if not self.survey.missing:
            return
        text = self.survey.complaint()
        if len(self.survey.missing) > max_missing_share * self.survey.looked_at:
            raise ValueError(f"{text}; that is more than max_missing_share={max_missing_share:g}")
        logger.warning("%s", text)

    def describe(self) -> dict[str, Any]:
        """What decides which clip stands where; a run goes on with the same alone."""
        settings = json.loads(json.dumps(self.source.settings()))  # as a checkpoint gives it back
        videos = list_hash([self.source.names[video] for video in self.videos])
        drawn: dict[str, Any] = {"strides": list(STRIDES), "reverse_probability": self.reverse_probability, "seed": self.seed}
        if (found := self.depth_model) is not None:
            fingerprint = weights_hash(found.model.model)
            drawn["depth"] = {"fingerprint": fingerprint, "max_depth": found.max_depth, "align_scale": found.align_scale}
        return {"kind": "videos", "source": settings, "videos_sha256": videos, **drawn}

    def sample_name(self, position: int) -> str:
        """The clip at `position`, for people and logs; of its frames only what is known without decoding the video."""
        video = self._video(position)
        count = self.source.expected_frames(video)
        if count is None:
            return self.source.names[video]
        return f"{self.source.names[video]} {self._selection(position, count)}"

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        """Depth (F, H, W), valid, intrinsics, poses; latents (C, F, h, w) or frames (F, 3, H, W), both of a held-out
        stream; the caption, if kept.

        Raises:
            ValueError: the video is damaged, or has no depth where it needs some.
        """
        video = self._video(position)
        try:
            clip, backward = self._clip(video, position)
            depth, valid = torch.from_numpy(clip.depth), torch.from_numpy(clip.valid)
            intrinsics, poses = torch.from_numpy(clip.intrinsics).float(), torch.from_numpy(clip.poses).float()
            if self.depth_model is not None:
                depth, valid, poses = self.depth_model(torch.from_numpy(clip.frames), intrinsics, poses)
        except (ValueError, OSError) as error:
            raise ValueError(f"video {self.source.names[video]!r}: {error} (`jog3r prepare` skips such videos)") from error
        if self.checks is not None:
            valid = self.checks.apply(depth, valid, intrinsics, poses)
        item = {"depth": depth, "valid": valid, "intrinsics": intrinsics, "poses": poses}
        frames = torch.from_numpy(clip.frames).permute(0, 3, 1, 2).float().div(127.5).sub(1)  # (F, 3, H, W)
        if self.vae is None:
            item["frames"] = frames
        else:
            with torch.no_grad():
                latents = encode_frames(self.vae, frames[None].to(self.vae.device))[0]  # which a validation has on its GPU
            item["latents"] = latents.cpu()
        if self.keeps_frames:
            item["frames"] = frames
        if self._captions is not None:
            text = self.source.captions(video)[int(backward)]
            item |= caption_item(self._captions[text], self._caption_length)
        return item

    def _video(self, position: int) -> int:
        return self.videos[shuffled_index(position, len(self.videos), self.seed)]

    def _selection(self, position: int, available: int) -> FrameSelection:
        return select_frames(available, self.num_frames, self.seed, position, reverse_probability=self.reverse_probability)

    def _clip(self, video: int, position: int) -> tuple[Clip, bool]:
        """The frames chosen of a video, and whether they run backward."""
        whole = self.source.load(video)
        expected = self.source.expected_frames(video)
        if expected is not None and whole.num_frames != expected:
            raise ValueError(f"has {whole.num_frames} frames, its cameras are {expected}")
        if self.needs_depth and self.depth_model is None and not whole.valid.any():
            raise ValueError(
                "has no depth, from which the 3D head learns: name a metric depth model with the option depth, or set "
                "reconstruction_batch=0"
            )
        selection = self._selection(position, whole.num_frames)
        return take_frames(whole, selection), selection.reversed
