"""Options of `jog3r prepare`."""

from dataclasses import dataclass
from typing import Literal

from jog3r.data.option_checks import check_options_of, places_as_text
from jog3r.data.source import ClipSource
from jog3r.data.source_options import SOURCE_OPTIONS, SourceOptions, build_source

__all__ = ["PrepareConfig", "source_of"]


@dataclass(kw_only=True)
class PrepareConfig(SourceOptions):
    """Options of `jog3r prepare`."""

    output_dir: str  # the cache; an unfinished one of the same options is gone on with
    model: str  # pipeline folder or hub repository: its vae, tokenizer and text_encoder are used
    num_clips: int = 200  # procedural: how many scenes
    num_frames: int = 16  # procedural: frames of each path
    height: int = 256  # in pixels, of what is prepared; a multiple of a token's
    width: int = 256  # likewise
    min_frames: int = 16  # shorter videos are skipped
    depth: str = "dataset"  # "dataset", "none", or a metric depth model of transformers (folder or hub repository)
    assume_metric: bool = False  # take `depth` for metric though it cannot be recognised as such
    max_depth: float = 1000.0  # what is farther counts as sky: unknown
    align_scale: bool = True  # with a depth model: bring the cameras' translations to the unit of the depth
    caption_length: int | None = None  # tokens at most; None is what the model's transformer takes, 120 if it has none
    # how
    clips_per_shard: int = 16  # videos in one file
    captions_per_shard: int = 1024  # captions in one file
    max_bad_share: float = 0.05  # of all videos; above it the run stops
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # of the models while they run
    batch_size: int = 16  # frames (or captions) at once
    loader_threads: int = 2  # that read videos ahead
    num_threads: int | None = None  # of torch, on a CPU
    retry_skipped: bool = False  # try again the shards in which something was skipped: the videos may be there now

    def __post_init__(self) -> None:
        places_as_text(self)
        counts = ("clips_per_shard", "captions_per_shard", "batch_size", "loader_threads", "min_frames", "height", "width")
        for name in (*counts, "frame_step", "caption_length", "num_threads"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"max_bad_share must lie in [0, 1], got {self.max_bad_share}")
        if self.max_depth <= 0:
            raise ValueError(f"max_depth must be positive, got {self.max_depth}")
        own = {"procedural": (*SOURCE_OPTIONS["procedural"], "num_clips", "num_frames")}
        check_options_of(self, "source", SOURCE_OPTIONS | own)

    def check_depth(self) -> None:
        """Refuse to take depth from a source that never has any.

        Raises:
            ValueError: it is RealEstate10K.
        """
        if self.depth == "dataset" and self.source.startswith("realestate10k"):
            raise ValueError(f"source={self.source} has no depth: name a depth model with the option depth, or set depth=none")


def source_of(config: PrepareConfig) -> ClipSource:
    """The source that the options name."""
    return build_source(config, (config.height, config.width), config.num_clips, config.num_frames)
