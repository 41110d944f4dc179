"""The DUSt3R baseline behind the same call as JOG3R: video to cameras, with an image encoder instead of a video generator.

The rows "DUSt3R" of the paper's table 2 come from this class under the same registration and metrics (arXiv 2312.14132).
"""

from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.video_processor import VideoProcessor

from jog3r.models.dust3r_baseline import Dust3rBaseline
from jog3r.models.registry import register_pipeline
from jog3r.pipelines.checks import OUTPUT_TYPES, check_registration, check_size
from jog3r.pipelines.geometry_steps import GeometryMixin
from jog3r.pipelines.loading.checked_weights import Jog3rCheckpointMixin
from jog3r.pipelines.pipeline_output import Jog3rPipelineOutput
from jog3r.pipelines.video_input import MAX_FRAMES, load_frames, resize

CARD_CHANGE = (
    "from jog3r import Dust3rBaseline\n\nmodel = Dust3rBaseline.from_pretrained",
    "from jog3r import Dust3rPipeline  # pipe(video=...).poses; or: jog3r reconstruct VIDEO --model FOLDER\n\n"
    "pipe = Dust3rPipeline.from_pretrained",
)


class Dust3rPipeline(Jog3rCheckpointMixin, DiffusionPipeline, GeometryMixin):
    """Video to cameras with DUSt3R's image encoder and coupled decoders.

    Args:
        baseline: random, trained by `training/train_joint.py`, or read by `Dust3rBaseline.from_single_file`.
    """

    model_cpu_offload_seq = "baseline"

    def __init__(self, baseline: Dust3rBaseline):
        super().__init__()
        self.register_modules(baseline=baseline)
        self.video_processor = VideoProcessor(vae_scale_factor=1)

    @property
    def token_size(self) -> int:
        """Side of a token in pixels; heights and widths are multiples of it."""
        return self.baseline.config.patch_size

    @property
    def default_size(self) -> int:
        """Height and width that videos are brought to where none is given, in pixels: 16 tokens."""
        return 16 * self.token_size

    @property
    def max_video_frames(self) -> int:
        """Longest video that is taken in."""
        return MAX_FRAMES

    def card(self) -> str:
        """The model card, with the licence of the weights."""
        return self.baseline.card().replace(*CARD_CHANGE)

    def output_size(self, num_frames: int | None, height: int | None, width: int | None) -> tuple[int, int, int]:
        """Frames, height and width of clips to evaluate on: what is given, else 16 frames of 16 tokens a side."""
        return num_frames or 16, height or self.default_size, width or self.default_size

    @torch.no_grad()
    def __call__(  # noqa: PLR0913  # those of `Jog3rPipeline` that reconstruct
        self,
        video: Any,
        task: str | None = "v2c",
        height: int | None = None,
        width: int | None = None,
        registration: bool = True,
        registration_kwargs: dict[str, Any] | None = None,
        generator: torch.Generator | None = None,  # noqa: ARG002  # nothing is random: accepted so that callers need no case
        output_type: str = "pil",
        reconstruction_timestep: float | None = None,
        both_directions: bool = False,
    ) -> Jog3rPipelineOutput:
        """Cameras, depth and pointmaps of a video.

        Args:
            video: path, PIL images, or array/tensor, as for `Jog3rPipeline`.
            task: "v2c", or None for it; a DUSt3R generates nothing.
            height, width: stretch the frames to this size; multiples of `token_size`.
            registration: False returns pointmaps and confidence only.
            registration_kwargs: for `register_pointmaps`.
            generator: not used.
            output_type: of `frames`: "pil", "np" or "pt".
            reconstruction_timestep, both_directions: of the video generator; refused here.

        Raises:
            ValueError, TypeError: another task, a video that cannot be read, a size or options that do not fit.
        """
        if task not in (None, "v2c"):
            raise ValueError(f'the DUSt3R baseline does task "v2c" only, got {task!r}')
        if reconstruction_timestep is not None or both_directions:
            raise ValueError(
                f"{reconstruction_timestep=} and {both_directions=} belong to a video generator; the DUSt3R baseline reads "
                "images without noise, and every pair alone: leave them out"
            )
        if (height is None) != (width is None):
            raise ValueError(f"give both height and width to resize the video, or neither; got height={height}, width={width}")
        if output_type not in (kinds := [kind for kind in OUTPUT_TYPES if kind != "latent"]):
            raise ValueError(f"output_type must be one of {', '.join(map(repr, kinds))}, got {output_type!r}")
        check_registration(registration_kwargs, registration)
        frames = load_frames(video, MAX_FRAMES)  # (B, F, 3, H, W)
        if height is not None and width is not None:
            frames = resize(frames, height, width)
        check_size(frames.shape[-2], frames.shape[-1], self.token_size)
        frames = frames.to(self._execution_device)
        pairs = self.baseline((frames * 2 - 1).to(self.baseline.dtype))
        shown = self.video_processor.postprocess_video(frames.transpose(1, 2) * 2 - 1, output_type=output_type)
        geometry = self.assemble_geometry(pairs, frames.shape[1], registration, registration_kwargs)
        self.maybe_free_model_hooks()
        return Jog3rPipelineOutput(frames=shown, pairwise=pairs, **geometry)


register_pipeline(Dust3rPipeline)
