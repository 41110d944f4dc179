"""The models of the Space and what is computed with them."""

import importlib.util
import inspect
import os
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch

from jog3r.data.video import resize_frames
from jog3r.export.player import sheet_jpeg
from jog3r.export.scene import Scene
from jog3r.pipelines.generators.mixin import GeneratorMixin
from jog3r.pipelines.loading.any_pipeline import load_pipeline
from jog3r.pipelines.loading.model_card import is_untrained
from jog3r.pipelines.pipeline_dust3r import Dust3rPipeline
from jog3r.pipelines.pipeline_jog3r import Jog3rPipeline
from jog3r.space.guard.limits import GenerateSettings, Refused
from jog3r.space.jobs import Done, Failed, Job, Step, run_job, watch

BUNDLED_STEPS = 20  # the bundled model's clips after 20 steps and after 30 can hardly be told apart
DTYPES = ("float32", "bfloat16", "float16")
TRACK_SIDE = 384  # of the square whose features are followed; smaller uploads are left to the network
_PREVIEWS = 10  # a request; decoding for each step would cost as much as the steps
_PREVIEW_FRAMES = 4
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Result:
    """What a request gives.

    Attributes:
        scene: The clip with its geometry.
        source: Where its cameras come from, in a sentence.
    """

    scene: Scene
    source: str = "Cameras from the network."


@dataclass(frozen=True)
class SpaceModel:
    """A loaded pipeline under the name that people read."""

    name: str
    path: str
    pipe: Any  # `Jog3rPipeline`, `Dust3rPipeline`, or that of another generator

    @property
    def makes_videos(self) -> bool:
        """Whether it is a video generator; a DUSt3R baseline finds cameras alone."""
        return not isinstance(self.pipe, Dust3rPipeline)

    @property
    def is_other(self) -> bool:
        """Whether it is one of diffusers' generators, with sizes and lengths of its own."""
        return isinstance(self.pipe, GeneratorMixin)

    @property
    def names(self) -> str:
        """What a program of one's own imports for it."""
        return "Jog3rPipeline, tiny_checkpoint" if isinstance(self.pipe, Jog3rPipeline) else type(self.pipe).__name__

    @property
    def max_frames(self) -> int:
        """Frames that the model was made for."""
        return int(self.pipe.output_size(None, None, None)[0])

    @property
    def max_video_frames(self) -> int:
        """Frames that are taken of a video: some more than the model was made for."""
        most = min(4 * self.max_frames, self.pipe.max_video_frames)
        return most - (most - 1) % self.frame_step

    @property
    def frame_step(self) -> int:
        """Numbers of frames that the model takes are this apart, from 1."""
        return int(getattr(self.pipe, "frame_multiple", 1))

    def least_frames(self, low: int) -> int:
        """The smallest number of frames from `low` on that the model takes."""
        return low if self.frame_step == 1 else 1 + self.frame_step

    def check_frames(self, count: int) -> None:
        """Refuse a number of frames that the model does not take.

        Raises:
            Refused: Naming those that it takes.
        """
        if count < self.least_frames(1) or (count - 1) % self.frame_step:
            raise Refused(f"This model takes 1 more than a multiple of {self.frame_step} frames, not {count}.")

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        _, height, width = self.pipe.output_size(None, None, None)
        return int(height), int(width)

    @property
    def size(self) -> int:
        """The shorter side in pixels."""
        return min(self.frame_size)

    @property
    def can_track(self) -> bool:
        """Whether features of videos can be followed, which needs pycolmap, in larger pictures than the model's."""
        return importlib.util.find_spec("pycolmap") is not None and self.size < TRACK_SIDE

    @property
    def has_geometry(self) -> bool:
        """Whether it finds cameras; a generation-only checkpoint has no pointmap head, most other generators no trained one."""
        head = getattr(self.pipe, "pointmap_head", None)
        return not self.makes_videos or (head is not None and not is_untrained(head))

    @property
    def dtype(self) -> str:
        """Precision of the weights, as torch calls it."""
        network = self.pipe.baseline if not self.makes_videos else getattr(self.pipe, "main_transformer", self.pipe.transformer)
        return str(network.dtype).removeprefix("torch.")

    def part_read(self, prompt: str) -> str | None:
        """The beginning of a prompt that the model reads, as it reads it (ours: lower case); None if that is all of it."""
        tokenizer, text = self.pipe.tokenizer, prompt
        if self.is_other:
            most = inspect.signature(type(self.pipe).__call__).parameters["max_sequence_length"].default
        else:
            most, text = self.pipe.transformer.config.max_caption_length, prompt.lower()
        if len(tokenizer(text, verbose=False).input_ids) <= most:
            return None
        tokens = tokenizer(text, max_length=most, truncation=True).input_ids
        return str(tokenizer.decode(tokens, skip_special_tokens=True)).strip()


_models: dict[str, SpaceModel] = {}


def load_model(path: str, name: str | None = None, dtype: str = "float32") -> SpaceModel:
    """Load a folder or hub repository once, onto the GPU if there is one.

    Args:
        path: Folder or hub id.
        name: What to show; None is the path's last part.
        dtype: "float32", "bfloat16" or "float16".

    Raises:
        ValueError, OSError: As `from_pretrained`; another `dtype`.
    """
    if dtype not in DTYPES:
        raise ValueError(f"the precision of a model is one of {', '.join(DTYPES)}, got {dtype!r}")
    if path not in _models:
        pipe: Any = load_pipeline(path, dtype=getattr(torch, dtype))
        pipe.set_progress_bar_config(disable=True)
        for component in pipe.components.values():
            if isinstance(component, torch.nn.Module):
                watch(component)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        _models[path] = SpaceModel(name or os.path.basename(path.rstrip("/")), path, pipe.to(device))
    return _models[path]


def gpu(duration: Callable[..., int]) -> Callable[[Function], Function]:
    """Book a GPU for each call on ZeroGPU, where the package `spaces` is installed, for as many seconds as `duration` says."""
    try:
        import spaces
    except ImportError:
        return lambda function: function
    return spaces.GPU(duration=duration)


def _generation_seconds(_: str, settings: GenerateSettings, *__: Any) -> int:
    """GPU seconds to book on ZeroGPU: generous for a full-size model, since unused time is given back."""
    return min(120, 15 + round(0.05 * settings.steps * settings.frames))


@gpu(_generation_seconds)
def generate_video(
    path: str, settings: GenerateSettings, with_cameras: bool, seconds: float
) -> Generator[Step | Done | Failed | None, None, None]:
    """Text to video, with cameras or without.

    Args:
        path: Of a loaded model that makes videos.
        settings: What is wanted.
        with_cameras: Task "t2v+c"; else "t2v".
        seconds: Time limit.

    Yields:
        Steps with previews, then `Done`: a `Result`, or the frames (F, H, W, 3) uint8 without cameras; or `Failed`.
    """
    model = load_model(path)
    pipe = model.pipe

    def work(job: Job) -> Any:
        model.check_frames(settings.frames)

        def on_step_end(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            total = pipe.num_timesteps
            # a single latent step of the other generators is no picture, and their VAEs take longer than a step of ours
            wanted = step % max(1, total // _PREVIEWS) == 0 and not model.is_other
            preview = _preview(pipe, tensors["latents"]) if wanted else None
            job.report(Step(f"step {step + 1} of {total}", (step + 1) / (total + 2), preview))  # then pictures and cameras
            return {}

        output = pipe(
            settings.prompt,
            task="t2v+c" if with_cameras else "t2v",
            num_frames=settings.frames,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            generator=torch.Generator().manual_seed(settings.seed),
            callback_on_step_end=on_step_end,
            output_type="pil",
        )
        if not with_cameras:
            return np.stack([np.asarray(frame) for frame in output.frames[0]])
        return _result(output, pipe.fps, settings.prompt)

    yield from run_job(work, seconds)


def _finding_seconds(_: str, frames: np.ndarray, *__: Any) -> int:
    return min(120, 15 + len(frames))


@gpu(_finding_seconds)
def find_cameras(
    path: str, frames: np.ndarray, fps: float, seconds: float, times: np.ndarray | None = None, method: str = "auto"
) -> Generator[Step | Done | Failed | None, None, None]:
    """Video to cameras.

    Args:
        path: Of a loaded model.
        frames: (F, H, W, 3) uint8, in the model's size; in larger squares features are followed as well.
        fps: Frames per second.
        seconds: Time limit.
        times: (F,) of the frames in seconds; None: index / fps.
        method: "network", "tracks", or "auto" for the better one.

    Yields:
        None while it works, then `Done` with a `Result`, or `Failed`.
    """
    model = load_model(path)
    pipe = model.pipe

    def work(job: Job) -> Result:
        model.check_frames(len(frames))
        job.report(Step("finding the cameras", 0.3))
        is_large = min(frames.shape[1:3]) > model.size and method != "network"
        if method == "tracks" and not is_large:
            raise Refused(f"Tracks need a video whose shorter side has at least {TRACK_SIDE} pixels; take the network.")
        fits = frames.shape[1:3] == model.frame_size
        reduced = frames if fits else resize_frames(frames, *model.frame_size)[0]
        output = pipe(video=reduced, generator=torch.Generator().manual_seed(0), output_type="pil")
        of_network = _result(output, fps, "", times)
        if not is_large:
            return of_network
        job.report(Step("following features", 0.5))
        from jog3r.sfm import track_cameras

        found = track_cameras(frames, initial=output.registration[0], check=job.check)
        if found.chosen != "tracks" or not len(found.points):
            why = found.reason if found.chosen != "tracks" else "tracks see no parallax"
            if method == "tracks":
                raise Refused(f"Tracks do not tell the cameras of this video: {why}. Take the network.")
            return replace(of_network, source=f"Cameras from the network ({why}).")
        scene = Scene.from_tracks(frames, found, fps=fps, times=times)
        why = f"{len(found.points)} points, within {found.reprojection_px[found.registered].median():.2f} pixels"
        return Result(scene, f"Cameras from feature tracks ({why}).")

    yield from run_job(work, seconds)


def _result(output: Any, fps: float, caption: str, times: np.ndarray | None = None) -> Result:
    return Result(Scene(**output.clip(), fps=fps, caption=caption, times=times, source="network"))


def _preview(pipe: Jog3rPipeline, latents: torch.Tensor) -> bytes:
    """JPEG of four frames in two rows, of latents (1, C, F, h, w) that are still noisy."""
    chosen = np.unique(np.linspace(0, latents.shape[2] - 1, _PREVIEW_FRAMES).round().astype(int))
    return sheet_jpeg([np.asarray(frame) for frame in pipe.decode_latents(latents[:, :, chosen], "pil")[0]])
