"""Options of `run_evaluation`."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast

from jog3r.data.option_checks import check_options_of, places_as_text
from jog3r.data.source_options import SOURCE_OPTIONS, SourceOptions

__all__ = ["TASKS", "EvaluationOptions"]

TASKS = ("v2c", "t2vc", "all", "list", "judge")
_METHODS = ("network", "tracks")
_PROCEDURAL_CLIPS, _PROCEDURAL_VIDEOS, _FRAMES = 200, 64, 16
REDRAW_LEVEL = 0.3
_OF_VIDEOS = (
    *("videos", "seeds", "num_inference_steps", "guidance_scale", "sanity_clips", "features", "text_network", "inception", "fvd"),
)
_ONLY_PROCEDURAL_SPLITS = ("validation", "test")


@dataclass(kw_only=True)
class EvaluationOptions(SourceOptions):
    """Options of `run_evaluation`; checked when made."""

    task: str  # "v2c", "t2vc", "all"; "list" writes a clip list, "judge" looks at folders of videos
    judged: tuple[str, ...] = ()  # of task judge: folders of videos, a row each
    model: str | None = None  # folder or hub repository of a pipeline; tracks and predictions need none
    out: str  # output folder (of list: file); an earlier one of the same options is resumed
    # which clips
    source: Literal[
        "realestate10k", "realestate10k_tars", "realestate10k_table", "realestate10k_chunks", "posed", "procedural"
    ] = "procedural"  # kind of the videos, as of `jog3r prepare`, see docs/data.md
    procedural_split: Literal["validation", "test"] = "test"  # procedural: part of the scenes; "train" is refused
    first_clip: int = 0  # procedural: first scene
    captions: str | int | None = None  # json of captions; a number is taken for `videos`
    resize_mode: Literal["stretch", "crop"] = "crop"  # stretch all of the frame, or cut the middle of the model's aspect ratio
    clip_list: str | None = None  # file of a clip list, or name of one in the package: fixes the clips and their frames
    clips: int | None = None  # N videos of video to cameras; None: 200 procedural ones, all of another source
    videos: int | None = None  # N captions of text to video; None: 64 procedural ones, all of another source
    stride: int | None = None  # real videos: take every n-th frame; None: the longest of 1, 2, 4, 8 that fits
    windows: Literal["first", "all"] = "first"  # real videos: the first window, or all that fit behind each other
    num_frames: int | None = None  # of a clip; None: what the model was made for
    height: int | None = None  # None: what the model was made for; with tracks or predictions: that of the videos
    width: int | None = None  # likewise
    # whose cameras
    cameras_from: Literal["network", "tracks"] = "network"  # video to cameras by the model, or by feature tracks
    predictions: str | None = None  # folder of anybody's cameras for the clips, see docs/evaluation.md
    pixel_aspect: float | None = None  # tracks: fy / fx of stretched videos, such as 1.185 of 16:9 stored as 3:2; None: square
    focal_px: float | None = None  # tracks as judge: focal length in pixels of the videos, if known
    # who judges generated videos
    judge: str | None = None  # "sfm" (feature tracks), "renderer" (procedural clips), or a pipeline's folder, such as a DUSt3R
    redraw_level: float = REDRAW_LEVEL  # of judge renderer: share of the schedule to which clips are noised and drawn anew
    sanity_clips: int = 8  # real clips on which the judge itself is judged, beside noise, frozen and shuffled ones
    # how
    seed: int = 0  # clip k uses seed + k
    seeds: int = 1  # videos of each caption, one a seed
    num_inference_steps: int = 30  # of the sampling
    guidance_scale: float | None = None  # None: the pipeline's default
    registration: Literal["fast", "reference"] = "fast"  # how cameras are solved for
    smoothness_focal: float = 0.0  # weight of the paper's temporal term of focal lengths, see docs/registration.md
    smoothness_translation: float = 0.0  # weight of the paper's temporal term of translations, see docs/registration.md
    focal_per_frame: bool = False  # a focal length for each frame, not one for all
    both_directions: bool = False  # video to cameras reads each video backwards, too (see `Jog3rPipeline.__call__`)
    features: str | None = None  # folder or hub id of a feature network (DINO); None: met3r_self on colours, no distances with it
    features_sha256: str | None = None  # pinned hash of its weights; a must for a hub id
    text_network: str | None = None  # folder or hub id of a CLIP: agreement of videos with their captions
    text_network_sha256: str | None = None  # pinned hash of its weights; a must for a hub id
    inception: str | None = None  # TorchScript file of Inception; None: no FID and KID of frames
    inception_sha256: str | None = None  # pinned hash of that file
    fvd: str | None = None  # I3D, a weights file or TorchScript; None: no FVD
    fvd_sha256: str | None = None  # pinned hash of that file
    device: str = "cpu"  # where the pipeline runs
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # of the networks
    batch_size: int = 1  # clips at once

    def __post_init__(self) -> None:
        """Turn paths into texts and old spellings into new ones, and refuse what cannot work, also across fields."""
        places_as_text(self)
        self._read_old_spellings()
        if self.task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, got {self.task!r}")
        for name, values in _choices().items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} must be {' or '.join(values)}, got {getattr(self, name)!r}")
        self._check_numbers()
        self._check_task()
        if min(self.smoothness_focal, self.smoothness_translation) < 0:
            raise ValueError(f"smoothness weights must be >= 0, got {self.smoothness_focal} and {self.smoothness_translation}")
        if self.smoothness_focal > 0 and not self.focal_per_frame:
            raise ValueError("smoothness_focal does nothing with one focal length for all frames: add focal_per_frame")
        for name in ("features", "text_network", "inception", "fvd"):
            if getattr(self, f"{name}_sha256") is not None and getattr(self, name) is None:
                raise ValueError(f"{name}_sha256 is given without {name}: name the feature network too")
        self.judged = tuple(map(str, self.judged))
        if self.task != "list" and Path(self.out).is_file():
            raise NotADirectoryError(f"{self.out} is a file; give a folder")
        check_options_of(self, "source", SOURCE_OPTIONS)
        self._check_method()
        self._check_clips()

    def _check_task(self) -> None:
        """Refuse options that the task has no use for."""
        by_network = self.task == "judge" and self.judge not in (None, "sfm")  # a pipeline as judge of given videos
        for field in fields(self):
            if self.task in ("t2vc", "all") or field.name not in _OF_VIDEOS or getattr(self, field.name) == field.default:
                continue
            if (field.name == "features" and by_network) or (field.name == "sanity_clips" and self.task == "judge"):
                continue
            raise ValueError(f"{field.name} is for generated videos: it means nothing to task {self.task}, leave it out")

        if self.task == "t2vc" and self.clips is not None:
            raise ValueError(f"clips={self.clips} counts held-out clips, of which task t2vc reads none: take videos")

    def _check_numbers(self) -> None:
        for name in ("clips", "stride", "seeds", "batch_size", "height", "width", "frame_step"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        # pairs of frames; strangers for the shuffled baseline; mixtures of clips
        for name in ("num_frames", "videos", "sanity_clips"):
            if (value := getattr(self, name)) is not None and value < 2:
                raise ValueError(f"{name} must be at least 2, got {value}")
        if (self.height is None) != (self.width is None):
            raise ValueError(f"give both height and width, or neither; got {self.height} and {self.width}")

    def _read_old_spellings(self) -> None:
        """A number of captions is `videos`; a part of the procedural scenes is `procedural_split`; a method is no folder."""
        if isinstance(self.captions, int) or (self.captions or "").isdecimal():
            self.videos, self.captions = int(str(self.captions)), None
        part: str | None = vars(self)["split"]
        folder: str | None = vars(self)["cameras"]
        if self.source == "procedural" and part is not None:
            if part not in _ONLY_PROCEDURAL_SPLITS:
                raise ValueError(f"evaluation is for held-out clips: split must be validation or test, got {part!r}")
            self.procedural_split, self.split = cast(Any, part), None
        if folder in _METHODS:
            self.cameras_from, self.cameras = cast(Any, folder), None

    def _check_method(self) -> None:
        """Refuse options that whoever finds the cameras has no use for."""
        outside = "tracks" if self.cameras_from == "tracks" else "predictions" if self.predictions is not None else None
        if self.predictions is not None and self.cameras_from == "tracks":
            raise ValueError("predictions and cameras_from=tracks are two answers: give one")
        if outside and self.task in ("t2vc", "all"):
            raise ValueError(f"{outside} are cameras of given videos, and generate none: use task v2c, not {self.task}")
        unused = {"model", "registration", "smoothness_focal", "smoothness_translation", "focal_per_frame", "both_directions"}
        unused |= {"dtype", "batch_size"}
        for field in fields(self):
            if outside and field.name in unused and getattr(self, field.name) != field.default:
                raise ValueError(f"{field.name} has no effect with {outside}, which need no model: leave it out")
        self._check_judge(outside == "tracks")
        if outside is None and self.task not in ("list", "judge") and self.model is None:
            raise ValueError("model is needed: name a pipeline's folder or hub repository")

    def _check_judge(self, tracks: bool) -> None:
        """Refuse what no judge looks at, and what only tracks have a use for."""
        for name, used in (("pixel_aspect", tracks or self.judge == "sfm"), ("focal_px", self.judge == "sfm")):
            if (value := getattr(self, name)) is not None and (not used or value <= 0):
                raise ValueError(
                    f"{name} is for cameras from tracks{' as judge' * (name == 'focal_px')} and above 0, got {value}"
                )
        if self.judge is not None and self.task not in ("t2vc", "all", "judge"):
            raise ValueError(f"a judge looks at generated videos: judge={self.judge} means nothing to task {self.task}")
        if self.task == "judge" and (self.judge is None or self.model is not None):
            raise ValueError("task judge needs the option judge, sfm or a pipeline's folder, and no model")
        self._check_renderer()
        if bool(self.judged) != (self.task == "judge"):
            raise ValueError(
                f"folders of videos belong to task judge, which needs at least one; got {self.judged} for {self.task}"
            )

    def _check_renderer(self) -> None:
        """Refuse clips whose true geometry the renderer does not know, and a level that nothing is drawn from."""
        if self.judge == "renderer" and (self.task == "judge" or self.source != "procedural" or self.seeds > 1):
            raise ValueError(
                "judge=renderer knows the procedural clips alone, and looks at one video of each: it means nothing to task "
                f"{self.task} with source={self.source} and seeds={self.seeds}"
            )
        if self.judge != "renderer" and self.redraw_level != REDRAW_LEVEL:
            raise ValueError(f"redraw_level={self.redraw_level:g} belongs to judge=renderer, got judge={self.judge}")
        if not 0 < self.redraw_level <= 1:
            raise ValueError(f"redraw_level is a share of the schedule above 0 and up to 1, got {self.redraw_level:g}")

    def _check_clips(self) -> None:
        """Refuse choices of frames that mean nothing to the source."""
        chosen = [name for name in ("clip_list", "stride") if getattr(self, name) is not None]
        chosen += ["windows"] if self.windows != "first" else []
        if self.source == "procedural" and chosen:
            raise ValueError(
                f"{chosen[0]} means nothing to source=procedural, whose clips are made with their frames; leave it out"
            )
        if self.procedural_style == "varied" and self.task in ("t2vc", "all"):
            raise ValueError(f"varied scenes have no captions to make videos of: task v2c takes them, got {self.task}")
        if self.task == "list" and self.source == "procedural":
            raise ValueError("procedural clips need no list: split, first_clip and clips say which they are")

    @property
    def outside(self) -> bool:
        """Cameras come from tracks or from a folder, not from a pipeline."""
        return self.cameras_from == "tracks" or self.predictions is not None

    @property
    def frame_size(self) -> tuple[int, int] | None:
        """Height and width, if given."""
        return None if self.height is None or self.width is None else (self.height, self.width)

    def count(self, generate: bool) -> int | None:
        """How many videos: None for all."""
        given = self.videos if generate else self.clips
        if given is None and self.source == "procedural":
            return _PROCEDURAL_VIDEOS if generate else _PROCEDURAL_CLIPS
        return given

    def output_size(self, pipeline: Any) -> tuple[int, tuple[int, int] | None]:
        """Frames of a clip, and height and width; None: that of the videos. `pipeline` None: there is none."""
        if pipeline is None:
            size = (64, 64) if self.source == "procedural" and self.frame_size is None else self.frame_size
            return self.num_frames or _FRAMES, size
        frames, height, width = pipeline.output_size(self.num_frames, self.height, self.width)
        return frames, (height, width)

    def registration_kwargs(self) -> dict[str, Any]:
        """Arguments of `register_pointmaps`; what was left at its default is not named, so that older predictions still fit."""
        named = {name: getattr(self, name) for name in ("smoothness_focal", "smoothness_translation") if getattr(self, name)}
        return {"method": self.registration, **named, **({"shared_focal": False} if self.focal_per_frame else {})}


def _choices() -> dict[str, tuple[str, ...]]:
    return {
        "registration": ("fast", "reference"),
        "procedural_split": _ONLY_PROCEDURAL_SPLITS,
        "procedural_style": ("rooms", "varied"),
        "cameras_from": _METHODS,
        "windows": ("first", "all"),
        "dtype": ("float32", "bfloat16", "float16"),
        "resize_mode": ("stretch", "crop"),
        "source": tuple(SOURCE_OPTIONS),
    }
