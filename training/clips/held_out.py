"""Clips of the training data that are never trained on."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from jog3r.data.clip import Clip
from jog3r.pipelines.latents import decode_frames, in_tiles
from jog3r.training.clips.mixture import MixedStream
from jog3r.training.clips.streams import ClipStream, PlaceStream
from jog3r.training.config import TrainConfig

__all__ = ["HeldClip", "hold_out"]


@dataclass(frozen=True)
class HeldClip:
    """One clip: the item at `position` of a held-out stream."""

    stream: PlaceStream
    position: int

    def item(self) -> dict[str, torch.Tensor]:
        """As training has it."""
        item = self.stream[self.position]
        return {name: value for name, value in item.items() if name != "frames" or "latents" not in item}

    def clip(self, vae: Any) -> Clip:
        """The clip itself; frames that a cache does not hold are decoded from its latents by `vae`."""
        item = self.stream[self.position]
        if "frames" in item:
            frames = item["frames"]  # (F, 3, H, W)
        else:
            with torch.no_grad(), in_tiles(vae):
                frames = decode_frames(vae, item["latents"][None].to(vae.device))[0].transpose(0, 1).cpu()
        pixels = frames.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()  # (F, H, W, 3)
        depth, valid, poses, intrinsics = (item[name].numpy() for name in ("depth", "valid", "poses", "intrinsics"))
        return Clip(pixels.numpy(), depth.astype(np.float32), valid, poses, intrinsics, self.stream.caption_text(self.position))


def hold_out(stream: ClipStream, config: TrainConfig) -> dict[str, list[HeldClip]]:
    """Take clips out of a run's stream: `config.validation_clips` of the data of each half, whose places share them by weight.

    Of scenes drawn as it goes they are of the validation split. Of videos they are those whose names' hashes come first, whatever
    the seed, and a video that is held out of one place is held out of all.

    Args:
        stream: of the run; it loses the videos.
        config: the options.

    Returns:
        The clips of each half that is on.

    Raises:
        ValueError: that leaves a place without videos.
    """
    count, plan = config.validation_clips, {}
    for half in ("generation", "reconstruction"):
        if not getattr(config, f"{half}_batch"):
            continue
        if isinstance(stream, MixedStream):
            own = stream.halves[half]
            plan[half] = [(own.streams[place], clip) for place, clip in map(own.schedule.locate, range(count))]
        else:
            plan[half] = [(stream, clip) for clip in range(count)]
    # a stream is looked for by what it is, not by what it holds
    places = {id(one): one for one in _streams(stream)}
    wanted = {
        key: 1 + max((clip for clips in plan.values() for one, clip in clips if id(one) == key), default=-1) for key in places
    }
    names = set[str]().union(*(one.held_out_names(wanted[key]) for key, one in places.items()))
    held = {key: one.hold_out(names) for key, one in places.items()}
    return {half: [HeldClip(held[id(one)], clip) for one, clip in clips] for half, clips in plan.items()}


def _streams(stream: ClipStream) -> list[PlaceStream]:
    if isinstance(stream, MixedStream):
        return [one for half in stream.halves.values() for one in half.streams]
    return [stream]
