"""What there is to prepare, counted before a model is loaded: videos that are missing, frames, bytes."""

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from jog3r.data.source import ClipSource

__all__ = ["Survey", "cache_bytes", "free_bytes", "look_at_videos"]


@dataclass(frozen=True)
class Survey:
    """A list of videos as its cameras, captions and file names show it; no picture is decoded for it.

    Attributes:
        looked_at: number of videos.
        missing: name -> reason of those that cannot be used.
        num_frames: of the others together, those of which only loading tells left out.
        num_untold: how many these are.
    """

    looked_at: int
    missing: dict[str, str]
    num_frames: int
    num_untold: int

    def complaint(self) -> str:
        """How many are missing, and the first three."""
        first = "; ".join(f"{name!r}: {reason}" for name, reason in list(self.missing.items())[:3])
        return f"{len(self.missing)} of {self.looked_at} videos cannot be used, such as {first}"


def look_at_videos(source: ClipSource, indices: Sequence[int], min_frames: int, threads: int) -> Survey:
    """Look at the videos `indices` of a source; those with fewer than `min_frames` frames cannot be used."""

    def look(index: int) -> int | str | None:
        try:
            source.captions(index)
            count = source.expected_frames(index)
        except (ValueError, FileNotFoundError) as error:
            return str(error)
        return f"{count} frames, fewer than min_frames={min_frames}" if count is not None and count < min_frames else count

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(look, indices))
    missing = {source.names[index]: one for index, one in zip(indices, found, strict=True) if isinstance(one, str)}
    return Survey(len(indices), missing, sum(one for one in found if isinstance(one, int)), found.count(None))


def cache_bytes(num_frames: int, latent_shape: tuple[int, int, int], size: tuple[int, int]) -> int:
    """The most that the frames of a cache take: latents (C, h, w) and depth in 16 bits, a bit a pixel for what is known.

    Depth is compressed and often takes half of it. Captions come on top: two bytes for each token and channel.
    """
    channels, latent_height, latent_width = latent_shape
    pixels = size[0] * size[1]
    return num_frames * (2 * channels * latent_height * latent_width + 2 * pixels + pixels // 8)


def free_bytes(folder: Path) -> int:
    """Room on the disk of a folder that need not exist yet."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
