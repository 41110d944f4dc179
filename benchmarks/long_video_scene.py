"""A synthetic long walk with exact geometry, and a reconstructor of its windows that errs as networks do.

A camera walks once round the inside of a box room: the last frames see what the first saw. Frames are plain numbers, so that
thousands of them cost nothing.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jog3r.geometry.cameras import invert, pixel_rays, pose_from, relative_poses, so3_exp
from jog3r.geometry.windows import WindowGeometry

ROOM = (6.0, 2.5, 5.0)  # half sizes along x, y (down) and z


@dataclass(frozen=True)
class Errors:
    """Of a window's geometry; all standard deviations."""

    pixel: float = 0.02
    """Relative depth noise of each pixel."""
    smooth: float = 0.02
    """Relative depth error that varies slowly over the image."""
    rotation_deg: float = 0.05
    """Of each step between neighbouring frames of a window."""
    translation: float = 0.03
    """Of each step, relative to its length."""
    scale: float = 0.5
    """Of the log of a window's unit of length."""
    outliers: float = 0.0
    """Share of pixels with a wild depth."""


class LoopWalk:
    """`num_frames` cameras on a closed path; `reconstruct` takes a list of frame numbers.

    Args:
        num_frames: F, once round.
        size: H = W in pixels.
        errors: of the reconstructions; None for exact ones.
        seed: of the errors; each call errs anew.
    """

    def __init__(self, num_frames: int, size: int = 24, errors: Errors | None = None, seed: int = 0) -> None:
        self.size, self.errors = size, errors
        self.generator = torch.Generator().manual_seed(seed)
        self.calls = 0
        angle = torch.arange(num_frames, dtype=torch.float64) / num_frames * 2 * math.pi
        centres = torch.stack((3.0 * angle.cos(), 0.3 * torch.sin(3 * angle), 2.5 * angle.sin()), dim=-1)
        yaw = torch.zeros(num_frames, 3, dtype=torch.float64)
        yaw[:, 1] = 0.25 - angle  # along the path, a little outwards
        tilt = torch.zeros_like(yaw)
        tilt[:, 0] = 0.1 * torch.sin(2 * angle)
        self.room_poses = pose_from(so3_exp(yaw) @ so3_exp(tilt), centres)  # camera-to-room
        self.poses = relative_poses(self.room_poses)
        focal = 0.6 * size
        self.intrinsics = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]], dtype=torch.float64)

    def __len__(self) -> int:
        """F."""
        return len(self.poses)

    def depth(self, numbers: list[int]) -> Tensor:
        """Exact z (n, H, W)."""
        pose = self.room_poses[numbers]
        rays = pixel_rays(self.intrinsics, self.size, self.size)  # (H, W, 3)
        ways = torch.einsum("nij,hwj->nhwi", pose[:, :3, :3], rays)
        walls = torch.tensor(ROOM, dtype=torch.float64)
        centres = pose[:, None, None, :3, 3]
        ways = torch.where(ways == 0, torch.full_like(ways, 1e-12), ways)
        # Distance to the wall ahead along each axis; the nearest one is hit.
        return ((walls * ways.sign() - centres) / ways).amin(-1)

    def reconstruct(self, numbers: list[int]) -> WindowGeometry:
        """The window of these frames, in the first one's camera and a unit of its own."""
        self.calls += 1
        poses, depth = relative_poses(self.room_poses[numbers]), self.depth(numbers)
        confidence = torch.ones_like(depth)
        if self.errors is not None:
            poses, depth, confidence = self._err(poses, depth, confidence, self.errors)
        intrinsics = self.intrinsics.expand(len(numbers), 3, 3)
        return WindowGeometry(poses.float(), intrinsics.float(), depth.float(), confidence.float(), energy=float(self.calls))

    def _err(self, poses: Tensor, depth: Tensor, confidence: Tensor, errors: Errors) -> tuple[Tensor, Tensor, Tensor]:
        steps = invert(poses[:-1]) @ poses[1:]
        turn = so3_exp(math.radians(errors.rotation_deg) * self._normal(len(steps), 3))
        length = steps[:, :3, 3].norm(dim=-1).median()
        shift = steps[:, :3, 3] + errors.translation * length * self._normal(len(steps), 3)
        wrong = [poses[0]]
        for step in pose_from(turn @ steps[:, :3, :3], shift):
            wrong.append(wrong[-1] @ step)
        grid = torch.linspace(-1, 1, self.size, dtype=torch.float64)
        slope = errors.smooth * self._normal(len(depth), 2)
        smooth = slope[:, :1, None] * grid[:, None] + slope[:, 1:, None] * grid
        depth = depth * (1 + smooth + errors.pixel * self._normal(*depth.shape)).clamp(min=0.1)
        wild = torch.rand(depth.shape, generator=self.generator, dtype=torch.float64) < errors.outliers
        depth = torch.where(wild, depth * (0.3 + 2 * torch.rand(depth.shape, generator=self.generator)), depth)
        unit = (errors.scale * self._normal(1)).exp()
        poses = torch.stack(wrong)
        poses[:, :3, 3] *= unit
        return poses, depth * unit, confidence

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)
