"""Depth and cameras that a network found in reduced frames, beside the frames in their own size.

Letters: F frames of the video, K of them with maps, H W pixels of the video, h w of the maps.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from jog3r.geometry.registration import Registration

__all__ = ["NetworkMaps", "grid_transform"]


@dataclass(frozen=True)
class NetworkMaps:
    """What a network found.

    Attributes:
        poses: (F, 4, 4) camera-to-world.
        intrinsics: (F, 3, 3) in pixels of the maps.
        degenerate: per frame, as in `Registration`.
        numbers: (K,) the frames that have maps.
        frames: (K, h, w, 3) uint8, as the network saw them.
        depth, confidence: (K, h, w) float32, z in each camera, and 0 where there is none.
        transform: (3, 3) from pixels of the video to those of the maps.
    """

    poses: np.ndarray
    intrinsics: np.ndarray
    degenerate: tuple[str, ...]
    numbers: np.ndarray
    frames: np.ndarray
    depth: np.ndarray
    confidence: np.ndarray
    transform: np.ndarray

    @classmethod
    def of_registration(cls, found: Registration, frames: np.ndarray, transform: np.ndarray) -> "NetworkMaps":
        """Those of a clip whose frames all have maps."""
        maps = [array.float().cpu().numpy() for array in (found.poses, found.intrinsics, found.depth, found.confidence)]
        return cls(maps[0], maps[1], found.degenerate, np.arange(len(frames)), frames, maps[2], maps[3], transform)

    def initial(self, size: tuple[int, int]) -> Registration:
        """The cameras as a beginning for `track_cameras` on frames of `size` (H, W), which takes maps for all of a frame."""
        height, width = self.depth.shape[1:]
        intrinsics = self.intrinsics.copy()
        for axis, stretch in enumerate((size[1] / width, size[0] / height)):
            intrinsics[:, axis, axis] /= stretch * self.transform[axis, axis]
        count = len(self.poses)
        empty = torch.zeros(1, 1, 1).expand(count, height, width)
        return Registration(
            poses=torch.from_numpy(self.poses),
            intrinsics=torch.from_numpy(intrinsics),
            depth=empty,
            pointmaps=empty[..., None].expand(-1, -1, -1, 3),
            confidence=empty,
            pair_scale=torch.zeros(0),
            energy=float("nan"),
            converged=True,
            num_iterations=0,
            degenerate=self.degenerate,
            pose_covariance=torch.full((1, 1, 1), torch.nan).expand(count, 6, 6),
        )

    def undistorted(self, cameras: Any) -> "NetworkMaps":
        """The maps of frames from which the distortion of their lens was taken, as it was from those of the `Scene`."""
        from jog3r.sfm.lens import undistorted_images

        if not cameras.distortion:
            return self
        intrinsics = self.transform @ cameras.intrinsics[self.numbers]
        straight: dict[str, Any] = {}
        for name, nearest in (("frames", False), ("depth", True), ("confidence", True)):
            maps = getattr(self, name).reshape(*self.depth.shape, -1)
            images = undistorted_images(maps, intrinsics, cameras.distortion, nearest=nearest)
            straight[name] = np.stack(list(images)).reshape(getattr(self, name).shape)
        return replace(self, **straight)

    def scene(self, cameras: Any) -> Any:
        """The network's own cloud under its own cameras: a `Scene` of the frames that have maps.

        Args:
            cameras: the `Scene` of all frames with the same poses.
        """
        from jog3r.export.scene import unproject

        poses, intrinsics = self.poses[self.numbers], self.intrinsics[self.numbers]
        points = unproject(self.depth, poses, intrinsics)
        return replace(
            frames_of(cameras, self.numbers),
            frames=self.frames,
            intrinsics=intrinsics,
            pointmaps=points,
            confidence=self.confidence * cameras.pose_known[self.numbers, None, None],
            depth=self.depth,
        )


_OF_FRAMES = ("frames", "poses", "intrinsics", "pose_known", "registered", "doubtful", "images")


def frames_of(cameras: Any, numbers: np.ndarray) -> Any:
    """A `Scene` of some of the frames, without points, their numbers and times kept."""
    chosen = {name: value[numbers] for name in _OF_FRAMES if (value := getattr(cameras, name)) is not None}
    return replace(cameras, **chosen, frame_index=cameras.frame_index[numbers], times=cameras.times[numbers], tracks=None)


def grid_transform(size: tuple[int, int], maps: tuple[int, int], mode: str) -> np.ndarray:
    """(3, 3) from pixels of frames of `size` (H, W) to those of maps (h, w), as `resize_frames` maps them."""
    from jog3r.data.video import resize_frames

    return resize_frames(np.zeros((1, *size, 3), np.uint8), *maps, mode)[1]
