"""Windows of videos, for VAEs that compress time: which frames are encoded together, drawn when a cache is prepared.

A latent step of such a VAE stands for several frames, so that no other frames can be taken out of a cache later.
"""

import re
from dataclasses import dataclass
from typing import Any

from jog3r.data.clip import Clip
from jog3r.data.frame_choice import FrameSelection, select_frames, take_frames

__all__ = ["Windows", "video_of"]

_WINDOW = re.compile(r" \d+\+\d+\*\d+( reversed)?")


def video_of(name: str) -> str:
    """The video of a window, by the window's name."""
    found = [*_WINDOW.finditer(name)]
    return name[: found[-1].start()] if found and found[-1].end() == len(name) else name


@dataclass(frozen=True)
class Windows:
    """How windows are drawn: for each a stride among those that fit, then a start and a direction.

    Attributes:
        num_frames: of each.
        strides: to choose from.
        per_video: at most; equal ones are kept once.
        reverse_probability: chance of running backward.
        seed: of what is drawn.
    """

    num_frames: int
    strides: tuple[int, ...]
    per_video: int
    reverse_probability: float
    seed: int

    @property
    def min_frames(self) -> int:
        """Of a video, for the smallest stride."""
        return (self.num_frames - 1) * min(self.strides) + 1

    def settings(self) -> dict[str, Any]:
        """For the plan of a cache: what decides the windows."""
        return {**vars(self), "strides": list(self.strides)}

    def draw(self, index: int, available: int) -> list[FrameSelection]:
        """Windows of video `index`, which has `available` frames."""
        drawn = [
            select_frames(
                available, self.num_frames, self.seed, index * self.per_video + number, self.strides, self.reverse_probability
            )
            for number in range(self.per_video)
        ]
        return list(dict.fromkeys(drawn))

    def cut(self, name: str, clip: Clip, index: int, caption_ids: tuple[int, int]) -> list[tuple[str, Clip, tuple[int, int]]]:
        """The windows of a video: name, frames in the order of the window, captions (of this direction, of the other)."""
        cut = []
        for one in self.draw(index, clip.num_frames):
            ids = caption_ids[::-1] if one.reversed else caption_ids
            cut.append((f"{name} {one}", take_frames(clip, one), ids))
        return cut
