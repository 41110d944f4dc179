"""What the pipeline returns. Letters: B clips, F frames, H W pixels, P = F-1 pairs."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils import BaseOutput

from jog3r.geometry.registration import Registration
from jog3r.models.pointmap_head import Pointmap3DHeadOutput


@dataclass
class Jog3rPipelineOutput(BaseOutput):
    """Frames and, except for task "t2v", their geometry in float32 on the device the models ran on.

    Cameras are OpenCV (x right, y down, z forward). The world is the camera of frame 1. There are no metres: lengths are scaled
    so that frame 1's points have a mean distance of 1 from its camera. What registration finds on mps lies on the CPU.

    Args:
        frames: by `output_type`: list of B lists of F PIL images, array (B, F, H, W, 3) in 0..1, tensor (B, F, 3, H, W) in 0..1,
            or latents (B, C, F, h, w). For "v2c" the video given, in the size that the model saw.
        pointmaps (B, F, H, W, 3): the world point of every pixel.
        confidence (B, F, H, W): of every point; larger is surer.
        depth (B, F, H, W): z of every pixel in its own camera; None without registration.
        poses (B, F, 4, 4): camera-to-world, pose 1 is the identity; None without registration.
        intrinsics (B, F, 3, 3): in pixels of H x W, pixel centres at integers; None without registration.
        pairwise: the head's own prediction for all pairs (1, f), before registration, each pair with a scale of its own.
        registration: the B results of `register_pointmaps` with all they know (covariances, which frames are degenerate, energy).
        reconstruction_timestep: the noise level at which the features were taken, in steps of the training schedule.
    """

    frames: Any
    pointmaps: torch.Tensor | None = None
    confidence: torch.Tensor | None = None
    depth: torch.Tensor | None = None
    poses: torch.Tensor | None = None
    intrinsics: torch.Tensor | None = None
    pairwise: Pointmap3DHeadOutput | None = None
    registration: list[Registration] | None = None
    reconstruction_timestep: float | None = None

    def clip(self, index: int = 0) -> dict[str, Any]:
        """The fields of one clip, named as the arguments of `jog3r.export.scene.Scene`.

        Frames whose pose nothing tells (`Registration.pose_known`) have confidence 0 here: the identity stands in its place, and
        their points would lie anywhere.

        Args:
            index: which of the B clips.

        Raises:
            ValueError: the output has no cameras (task "t2v", or registration=False).
        """
        if self.registration is None or self.poses is None:
            raise ValueError('this output has no cameras; use task "t2v+c" or "v2c" with registration=True')
        names = ("frames", "poses", "intrinsics", "pointmaps", "confidence", "depth")
        fields = {name: getattr(self, name)[index] for name in names}
        found = self.registration[index]
        fields["confidence"] = fields["confidence"] * found.pose_known.to(fields["confidence"])[:, None, None]
        known = {"pose_covariance": found.pose_covariance, "pose_known": found.pose_known}
        return {**fields, **known, "doubtful": found.degenerate}
