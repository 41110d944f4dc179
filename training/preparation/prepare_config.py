"""Options of `jog3r prepare`."""

import re
from dataclasses import dataclass
from typing import Literal

from jog3r.data.frame_choice import REVERSE_PROBABILITY, STRIDES
from jog3r.data.option_checks import check_least, check_options_of, places_as_text
from jog3r.data.source import ClipSource
from jog3r.data.source_options import SOURCE_OPTIONS, SourceOptions, build_source
from jog3r.training.preparation.windows import Windows

__all__ = ["PrepareConfig", "source_of"]

_WINDOWS = ("window_strides", "windows_per_video", "window_reverse_probability", "window_seed")
_PER_VIDEO = 4


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
    # windows, for models that compress time (Wan, CogVideoX, LTX-Video)
    window_frames: int | None = None  # of each: 17, 49, 81, ...; the frames of a clip in training
    window_strides: tuple[int, ...] | None = None  # to draw from; None is 1, 2, 4, 8
    windows_per_video: int | None = None  # at most; None is 4
    window_reverse_probability: float | None = None  # share of the windows that run backward; None is 0.5
    window_seed: int | None = None  # of what is drawn; None is 0
    # how
    clips_per_shard: int = 16  # videos in one file
    captions_per_shard: int = 1024  # captions in one file
    max_bad_share: float = 0.05  # of all videos; above it the run stops
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # of the models while they run
    batch_size: int = 16  # frames (or captions) at once
    loader_threads: int = 2  # that read videos ahead
    num_threads: int | None = None  # of torch, on a CPU
    push_to_hub: str | None = None  # dataset repository OWNER/NAME that gets the shards as they get ready, the manifest last
    hub_private: bool = True  # whether a new repository is
    retry_skipped: bool = False  # try again the shards in which something was skipped: the videos may be there now

    def __post_init__(self) -> None:
        places_as_text(self)
        counts = ("clips_per_shard", "captions_per_shard", "batch_size", "loader_threads", "min_frames", "height", "width")
        check_least(self, {1: (*counts, "frame_step", "caption_length", "num_threads")})
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"max_bad_share must lie in [0, 1], got {self.max_bad_share}")
        if self.max_depth <= 0:
            raise ValueError(f"max_depth must be positive, got {self.max_depth}")
        if self.push_to_hub is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.push_to_hub):
            raise ValueError(f"push_to_hub must be OWNER/NAME, got {self.push_to_hub!r}")
        if self.push_to_hub is None and not self.hub_private:
            raise ValueError("hub_private=false is for push_to_hub, which is not given: leave it out")
        if self.depth in ("dataset", "none") and (self.assume_metric or not self.align_scale):
            raise ValueError("assume_metric and align_scale are for a depth model: name one with the option depth")
        if self.depth == "none" and self.max_depth != type(self).max_depth:
            raise ValueError(f"max_depth={self.max_depth:g} means nothing to depth=none: leave it out")
        self._check_windows()
        own = {"procedural": (*SOURCE_OPTIONS["procedural"], "num_clips", "num_frames")}
        check_options_of(self, "source", SOURCE_OPTIONS | own)

    def _check_windows(self) -> None:
        given = [name for name in _WINDOWS if getattr(self, name) is not None]
        if given and self.window_frames is None:
            raise ValueError(f"{', '.join(given)} belongs to window_frames, for models that compress time: give it, too")
        check_least(self, {2: ("window_frames",), 1: ("windows_per_video",), 0: ("window_seed",)})
        if self.window_strides is not None and (not self.window_strides or min(self.window_strides) < 1):
            raise ValueError(f"window_strides must be whole numbers of at least 1, got {list(self.window_strides)}")
        if self.window_reverse_probability is not None and not 0 <= self.window_reverse_probability <= 1:
            raise ValueError(f"window_reverse_probability must lie in [0, 1], got {self.window_reverse_probability}")

    @property
    def windows(self) -> Windows | None:
        """How windows are drawn, None where videos are prepared frame by frame."""
        if self.window_frames is None:
            return None
        chance, per_video = self.window_reverse_probability, self.windows_per_video
        return Windows(
            self.window_frames,
            STRIDES if self.window_strides is None else self.window_strides,
            _PER_VIDEO if per_video is None else per_video,
            REVERSE_PROBABILITY if chance is None else chance,
            self.window_seed or 0,
        )

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
