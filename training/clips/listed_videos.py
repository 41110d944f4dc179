"""What streams of a list of videos share: some of the videos can be kept from training."""

import copy
from typing import Self

from torch.utils.data import Dataset

from jog3r.data.source import list_hash

__all__ = ["ListedVideos"]


class ListedVideos(Dataset):
    """A stream of clips of listed videos, each once an epoch.

    Attributes:
        videos: numbers of the entries that clips are taken from.
        reverse_probability: chance of a clip to run backward.
        seed: of everything drawn.
    """

    videos: list[int]
    reverse_probability: float
    seed: int

    def video_name(self, number: int) -> str:
        """Name of the video that entry `number` is, or is a window of."""
        raise NotImplementedError  # each kind of list has its own

    @property
    def list_name(self) -> str:
        """What the videos are listed by, for messages."""
        raise NotImplementedError  # as above

    def held_out_names(self, count: int) -> set[str]:
        """Names of `count` videos, always the same of the same list.

        Raises:
            ValueError: then none would be left to train on.
        """
        names = {self.video_name(number) for number in self.videos}
        if count >= len(names):
            raise ValueError(
                f"to hold out {count} of the {len(names)} videos of {self.list_name} leaves none to train on: lower "
                "validation_clips"
            )
        return set(sorted(names, key=lambda name: list_hash([name]))[:count])

    def hold_out(self, names: set[str]) -> Self:
        """A stream of those videos that `names` has, forward, each once an epoch; this stream has them no more.

        Raises:
            ValueError: then it has none.
        """
        held = copy.copy(self)
        held.videos = [number for number in self.videos if self.video_name(number) in names]
        held.reverse_probability, held.seed = 0.0, 0
        left = [number for number in self.videos if self.video_name(number) not in names]
        if not left:
            raise ValueError(f"what is held out leaves no video of {self.list_name} to train on: lower validation_clips")
        self.videos = left
        return held
