"""Options that name a source of videos, the same for every command that reads one, and the source they name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jog3r.data.posed_video import PosedFolders
from jog3r.data.realestate10k import RealEstate10K, RealEstate10KChunks, RealEstate10KTars
from jog3r.data.realestate10k.table import RealEstate10KTable, open_table
from jog3r.data.source import ClipSource, ProceduralSource

__all__ = ["SOURCE_OPTIONS", "SourceOptions", "build_source"]

_VIDEOS = ("frames", "captions", "default_caption", "resize_mode", "frame_step")
SOURCE_OPTIONS = {  # what each source takes; to another one the option would mean nothing, so it is refused
    "realestate10k": (*_VIDEOS, "cameras", "split"),
    "realestate10k_tars": _VIDEOS,
    "realestate10k_table": (*_VIDEOS, "table_split", "table_revision"),
    "realestate10k_chunks": _VIDEOS,
    "posed": (*_VIDEOS, "image_folder"),
    "procedural": ("procedural_split", "procedural_style", "first_clip"),
}


@dataclass
class SourceOptions:
    """Where videos with cameras come from; what a source has no use for is refused (`check_options_of`)."""

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
    procedural_style: Literal["rooms", "varied"] = "rooms"  # procedural: varied has textures, other lenses and paths, no captions
    first_clip: int = 0  # procedural: first scene
    # what becomes of them
    resize_mode: Literal["stretch", "crop"] = "stretch"  # stretch all of the frame, or cut the middle of its aspect ratio


def build_source(config: SourceOptions, size: tuple[int, int] | None, num_clips: int, num_frames: int) -> ClipSource:
    """The source that the options name.

    Args:
        config: the options.
        size: (H, W) to resize to; None leaves real videos as they are.
        num_clips: of procedural scenes.
        num_frames: of a procedural clip.

    Raises:
        ValueError: options that the source lacks or has no use for, or a place that does not hold what it should.
    """
    if config.source == "procedural":
        if size is None:
            raise ValueError("source=procedural has no size of its own: give height and width")
        scenes = (config.procedural_split, config.first_clip, num_clips)
        return ProceduralSource(*scenes, num_frames, *size, config.procedural_style)
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
        given = [name for name in ("table_split", "table_revision") if getattr(config, name) != getattr(SourceOptions, name)]
        if given and frames.exists():
            raise ValueError(
                f"{', '.join(given)} means nothing to the folder {config.frames!r}; it is for repositories of the hub"
            )
        return RealEstate10KTable(open_table(config.frames, config.table_split, config.table_revision), **common)
    if config.cameras is None:
        raise ValueError("source=realestate10k needs the option cameras, the folder of camera files")
    split = None if config.split is None else Path(config.split)
    return RealEstate10K(Path(config.cameras), frames, split=split, **common)
