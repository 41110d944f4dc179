"""Options of `jog3r prepare` and the source of videos that they name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jog3r.data.posed_video import PosedFolders
from jog3r.data.realestate10k import RealEstate10K, RealEstate10KChunks, RealEstate10KTars
from jog3r.data.realestate10k.table import RealEstate10KTable, open_table
from jog3r.data.source import ClipSource, ProceduralSource
from jog3r.training.config import check_options_of, places_as_text

__all__ = ["PrepareConfig", "build_source"]

_VIDEOS = ("frames", "captions", "default_caption", "resize_mode", "frame_step")
SOURCE_OPTIONS = {  # what each source takes; to another one the option would mean nothing, so it is refused
    "realestate10k": (*_VIDEOS, "cameras", "split"),
    "realestate10k_tars": _VIDEOS,
    "realestate10k_table": (*_VIDEOS, "table_split", "table_revision"),
    "realestate10k_chunks": _VIDEOS,
    "posed": (*_VIDEOS, "image_folder"),
    "procedural": ("procedural_split", "first_clip", "num_clips", "num_frames"),
}


@dataclass
class PrepareConfig:
    """Options of `jog3r prepare`."""

    output_dir: str  # the cache; an unfinished one of the same options is gone on with
    model: str  # pipeline folder or hub repository: its vae, tokenizer and text_encoder are used
    source: Literal[
        "realestate10k", "realestate10k_tars", "realestate10k_table", "realestate10k_chunks", "posed", "procedural"
    ] = "realestate10k"  # kind of the videos, see docs/data.md
    # where the videos are
    cameras: str | None = None  # realestate10k: folder of camera files
    frames: str | None = None  # folder of videos or images, of tars, tables or chunks, of posed folders; _table: or a repository
    table_split: str = "train"  # realestate10k_table, of a repository
    table_revision: str | None = None  # realestate10k_table, of a repository: a commit, so that it stays the same
    split: str | None = None  # realestate10k: list of clips
    captions: str | None = None  # json of captions
    default_caption: str | None = None  # of videos without one; without it they are skipped
    image_folder: str | None = None  # posed: such as images_4 of DL3DV-10K
    frame_step: int = 1  # of real videos: take every n-th frame, which saves time and space
    procedural_split: Literal["train", "validation", "test"] = "train"  # procedural: part of the scenes
    first_clip: int = 0  # procedural: first scene
    num_clips: int = 200  # procedural: how many scenes
    num_frames: int = 16  # procedural: frames of each path
    # what becomes of them
    height: int = 256  # in pixels, of what is prepared; a multiple of a token's
    width: int = 256  # likewise
    resize_mode: Literal["stretch", "crop"] = "stretch"  # stretch all of the frame, or cut the middle of its aspect ratio
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
        check_options_of(self, "source", SOURCE_OPTIONS)

    def check_depth(self) -> None:
        """Refuse to take depth from a source that never has any.

        Raises:
            ValueError: it is RealEstate10K.
        """
        if self.depth == "dataset" and self.source.startswith("realestate10k"):
            raise ValueError(f"source={self.source} has no depth: name a depth model with the option depth, or set depth=none")


def build_source(config: PrepareConfig) -> ClipSource:
    """The source that the options name."""
    size = (config.height, config.width)
    if config.source == "procedural":
        return ProceduralSource(config.procedural_split, config.first_clip, config.num_clips, config.num_frames, *size)
    if config.frames is None:
        raise ValueError(f"source={config.source} needs the option frames, the folder of the videos")
    common: dict[str, Any] = {
        "size": size,
        "captions": None if config.captions is None else Path(config.captions),
        "resize_mode": config.resize_mode,
        "default_caption": config.default_caption,
        "frame_step": config.frame_step,
    }
    frames = Path(config.frames)
    if config.source == "posed":
        return PosedFolders(frames, image_folder=config.image_folder, **common)
    if config.source == "realestate10k_tars":
        return RealEstate10KTars(frames, **common)
    if config.source == "realestate10k_chunks":
        return RealEstate10KChunks(frames, **common)
    if config.source == "realestate10k_table":
        given = [name for name in ("table_split", "table_revision") if getattr(config, name) != getattr(PrepareConfig, name)]
        if given and frames.exists():
            raise ValueError(
                f"{', '.join(given)} means nothing to the folder {config.frames!r}; it is for repositories of the hub"
            )
        return RealEstate10KTable(open_table(config.frames, config.table_split, config.table_revision), **common)
    if config.cameras is None:
        raise ValueError("source=realestate10k needs the option cameras, the folder of camera files")
    split = None if config.split is None else Path(config.split)
    return RealEstate10K(Path(config.cameras), frames, split=split, **common)
