"""Pictures to look at while training: validation captions generated, and the cameras and depth found in validation clips."""

import logging
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image

from jog3r.data.clip import Clip
from jog3r.data.errors import first_line
from jog3r.data.procedural import procedural_clip
from jog3r.pipelines.pipeline_output import Jog3rPipelineOutput
from jog3r.training.config import TrainConfig
from jog3r.training.generators import samples as generators
from jog3r.training.generators.options import GENERATORS
from jog3r.training.run.card import named_places

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

NUM_CLIPS = 6
MAX_COLUMNS = 8


def save_samples(
    pipeline: Any,
    config: TrainConfig,
    directory: str | Path,
    step: int,
    *,
    device: torch.device | None = None,
    embedded: dict[str, Any] | None = None,
    clips: Callable[[int], list[Clip]] | None = None,
) -> dict[str, Path]:
    """Write pictures of validation clips, and their captions beside them.

    `step-0000123.png` has, per clip: frames generated from its caption, its own frames, the depth found in them.
    `step-0000123-cameras.png` has the clips' paths from above: the true one, and the one found.

    Args:
        pipeline: to look at.
        config: of the run.
        directory: to write to.
        step: number in the files' names.
        device: where the pipeline computes; None is where its transformer (or baseline) lies.
        embedded: keeps the embedded captions from one call to the next; None embeds them again, as a text encoder in training
            demands.
        clips: gives so many to show, asked once all parts are on the device; None: the first procedural ones.

    Returns:
        The pictures by name, "frames" and "cameras"; what the configuration does not train is left out, and, with a warning,
        generation where the pipeline has no text encoder or no tokenizer.
    """
    count = NUM_CLIPS if config.model not in GENERATORS else generators.NUM_CLIPS
    if clips is None:
        size = (config.num_frames, config.height, config.width)
        shown = [procedural_clip(index, "validation", *size) for index in range(count)]
    else:
        with in_evaluation(pipeline, device):  # a cache's are decoded
            shown = clips(count)
    generated = found = None
    embedded = {} if embedded is None else embedded
    if config.model in GENERATORS:  # before anything but the text encoder changes its device
        generators.embed_for_samples(pipeline, [clip.caption for clip in shown], embedded)
    with in_evaluation(pipeline, device):
        if config.generation_batch:
            generated = _generate(pipeline, shown, config, embedded)
        if config.reconstruction_batch:
            found = _reconstruct(pipeline, shown, config, embedded)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "captions.txt").write_text("\n".join(clip.caption for clip in shown) + "\n", encoding="utf-8")
    pictures = {"frames": directory / f"step-{step:07d}.png"}
    _sheet(shown, generated, found).save(pictures["frames"])
    if found is not None:
        pictures["cameras"] = directory / f"step-{step:07d}-cameras.png"
        _paths_from_above(shown, found.poses.cpu().numpy()).savefig(pictures["cameras"])
    return pictures


def check_tracker(name: str) -> str:
    """The tracker's name, refused where its package is not installed."""
    if find_spec(name) is None:
        extra = "train" if name == "tensorboard" else name
        raise ValueError(
            f"tracker={name} needs the package {name}: pip install '.[{extra}]' in the checkout of jog3r, or set tracker=none"
        )
    return name


def start_trackers(accelerator: Accelerator, config: TrainConfig) -> None:
    """Open the tracker; a resumed run goes on in the wandb run that it began.

    Raises:
        ValueError: wandb refuses, such as without a login.
    """
    if config.tracker == "none":
        return
    kept = Path(config.output_dir) / "wandb-id.txt"
    if config.tracker == "wandb" and accelerator.is_main_process and not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(f"{secrets.token_hex(8)}\n", encoding="utf-8")
    wandb = {"resume": "allow", "name": Path(config.output_dir).name}
    if kept.is_file():
        wandb["id"] = kept.read_text(encoding="utf-8").strip()
    options = {name: str(value) for name, value in named_places(config).items()}
    with _tracker_refusals(config.tracker):
        accelerator.init_trackers("jog3r", config=options, init_kwargs={"wandb": wandb})


@contextmanager
def _tracker_refusals(tracker: str) -> Iterator[None]:
    """Make one line of what wandb raises where nobody has logged in, or its server cannot be reached."""
    if tracker != "wandb":
        yield
        return
    import wandb

    try:
        yield
    except wandb.errors.Error as error:
        reason = first_line(error)
        raise ValueError(
            f"tracker=wandb cannot start: {reason}; `wandb login` first, or set WANDB_MODE=offline or tracker=tensorboard"
        ) from error


def log_pictures(trackers: list[Any], pictures: dict[str, Path], step: int) -> None:
    """Show the pictures of `save_samples` in accelerate's trackers."""
    arrays = {f"samples/{name}": np.asarray(Image.open(path).convert("RGB")) for name, path in pictures.items()}
    for tracker in trackers:
        if tracker.name == "trackio":  # accelerate's wrapper of it has no pictures
            import trackio

            tracker.log({name: trackio.Image(array) for name, array in arrays.items()}, step=step)
        else:
            options = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({name: array[None] for name, array in arrays.items()}, step=step, **options)


@contextmanager
def in_evaluation(pipeline: Any, device: torch.device | None = None) -> Iterator[None]:
    """In evaluation mode and on `device`, else on that of what is trained. A T5-XXL, six times the rest, stays where it is."""
    modules = {name: module for name, module in pipeline.components.items() if isinstance(module, torch.nn.Module)}
    before = {name: (module.training, module.device) for name, module in modules.items()}
    moved = {name: module for name, module in modules.items() if name != "text_encoder"}
    device = device or modules["transformer" if "transformer" in modules else "baseline"].device
    pipeline.set_progress_bar_config(disable=True)
    try:
        for module in modules.values():
            module.eval()
        for module in moved.values():
            module.to(device)
        yield
    finally:
        for name, module in modules.items():
            module.train(before[name][0])
        for name, module in moved.items():
            module.to(before[name][1])


def _generate(pipeline: Any, clips: list[Clip], config: TrainConfig, embedded: dict[str, Any]) -> np.ndarray | None:
    """Frames (K, F, H, W, 3) uint8 from the clips' captions; None, with a message, without text encoder or tokenizer."""
    if pipeline.text_encoder is None or pipeline.tokenizer is None:
        logger.warning("nothing is generated for the samples: the pipeline has no text encoder or no tokenizer to read captions")
        return None
    if config.model in GENERATORS:
        return generators.generate_samples(pipeline, config, embedded)
    if not embedded:  # on the text encoder's own device, where a T5-XXL may take longer for it than all the rest
        captions = [clip.caption for clip in clips]
        with torch.no_grad():
            embedded["embeds"], embedded["mask"], _, _ = pipeline.encode_prompt(
                captions, do_classifier_free_guidance=False, device=pipeline.text_encoder.device
            )
    frames = pipeline(
        prompt_embeds=embedded["embeds"],
        prompt_attention_mask=embedded["mask"],
        task="t2v",
        num_frames=config.num_frames,
        height=config.height,
        width=config.width,
        num_inference_steps=config.sample_steps,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).frames
    return (frames * 255).round().astype(np.uint8)


def _reconstruct(pipeline: Any, clips: list[Clip], config: TrainConfig, embedded: dict[str, Any]) -> Jog3rPipelineOutput | None:
    """Cameras and depth of the clips; None, with a message, where an early head's pointmaps cannot be registered."""
    try:
        return reconstruct_clips(pipeline, clips, config, embedded)
    except ValueError as error:
        logger.warning("no cameras in these samples: %s", error)
        return None


def reconstruct_clips(pipeline: Any, clips: list[Clip], config: TrainConfig, embedded: dict[str, Any]) -> Jog3rPipelineOutput:
    """Cameras and depth of the clips; `embedded["empty"]` is the caption under which another generator reads them."""
    if config.model in GENERATORS:
        return generators.reconstruct_samples(pipeline, clips, embedded)
    video = np.stack([clip.frames for clip in clips])  # (K, F, H, W, 3)
    return pipeline(video=video, task="v2c", generator=torch.Generator().manual_seed(0), output_type="np")


def _sheet(clips: list[Clip], generated: np.ndarray | None, found: Jog3rPipelineOutput | None) -> Image.Image:
    """Rows of frames side by side, small clips enlarged."""
    num_frames, height = clips[0].frames.shape[:2]
    shown = np.linspace(0, num_frames - 1, min(MAX_COLUMNS, num_frames)).round().astype(int)
    rows = []
    for index, clip in enumerate(clips):
        of_clip = [] if generated is None else [generated[index]]
        of_clip += [clip.frames]
        if found is not None:
            of_clip += [_depth_colors(found.depth[index].cpu().numpy())]
        rows += [np.concatenate(list(frames[shown]), axis=1) for frames in of_clip]
    sheet = Image.fromarray(np.concatenate(rows))
    factor = max(1, 128 // height)
    return sheet.resize((sheet.width * factor, sheet.height * factor), Image.Resampling.NEAREST)


def _depth_colors(depth: np.ndarray) -> np.ndarray:
    """Depth (F, H, W) -> colours (F, H, W, 3) uint8: near is bright, one scale for the clip."""
    import matplotlib  # not above: most of a second, and a run that draws nothing needs none

    inverse = 1 / np.maximum(depth, 1e-6)
    low, high = np.quantile(inverse, [0.02, 0.98])
    share = np.clip((inverse - low) / max(high - low, 1e-9), 0, 1)
    return (matplotlib.colormaps["magma"](share)[..., :3] * 255).round().astype(np.uint8)


def _paths_from_above(clips: list[Clip], poses: np.ndarray) -> "Figure":
    """True paths, and found ones (K, F, 4, 4) at the scale that fits the true path best, in the plane of x and z."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6 * len(clips), 2.9), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, clip, clip_poses in zip(np.ravel(figure.subplots(1, len(clips))), clips, poses, strict=True):
        true, path = clip.poses[:, :3, 3], clip_poses[:, :3, 3]  # (F, 3) each
        path = path * max(0.0, (path * true).sum()) / max((path**2).sum(), 1e-12)
        for points, color, label in ((true, "0.6", "true"), (path, "tab:red", "found")):
            axis.plot(points[:, 0], points[:, 2], color=color, marker=".", markersize=4, linewidth=1, label=label)
        axis.set_aspect("equal", adjustable="datalim")
        axis.tick_params(labelsize=6)
        axis.set_title(str(clip.attributes.get("motion", "")), fontsize=8)
    figure.axes[0].legend(fontsize=7)
    return figure
