"""The frames given, checked, and the grid in which features are found and cameras solved.

Three grids of pixels:
- video: the frames as given, first pixel's centre at 0 (jog3r's convention).
- small: the frames reduced to `max_side`, first pixel's centre at 0.5 (COLMAP's convention). Features are found here.
- work: centred on the principal point, square pixels, about as large as those of `small`. In it every frame has the intrinsics
  diag(f, f, 1), whatever the video's pixel aspect, principal point or known intrinsics. Cameras are solved here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from jog3r.sfm.lens import bent, stretch

MIN_SIDE = 32


def check_frames(video: Any) -> Sequence[Any]:
    """The frames as a sequence of F (H, W, 3) arrays or images, all of one size.

    Raises:
        TypeError: neither an array or tensor nor a list of images.
        ValueError: fewer than two frames, frames of other shapes or sizes, or values out of range.
    """
    if isinstance(video, torch.Tensor):
        video = video.detach().cpu().numpy()
    if isinstance(video, np.ndarray):
        if video.ndim != 4 or video.shape[-1] != 3:
            raise ValueError(f"video must have shape (F, H, W, 3), got {tuple(video.shape)}")
        if video.dtype != np.uint8:
            if not np.issubdtype(video.dtype, np.floating):
                raise ValueError(f"video must be uint8 in 0..255 or floating point in 0..1, got {video.dtype}")
            if video.size and not (video.min() >= 0 and video.max() <= 1):
                raise ValueError(f"video in floating point must lie in 0..1, got {video.min():.4g} to {video.max():.4g}")
    elif isinstance(video, (list, tuple)) and video and all(isinstance(frame, Image.Image) for frame in video):
        sizes = {frame.size for frame in video}
        if len(sizes) > 1:
            raise ValueError(f"all frames must have one size, got {sorted(sizes)}")
        for image in video:
            _check_image(image)
    else:
        kind = "an empty list" if isinstance(video, (list, tuple)) and not video else type(video).__name__
        raise TypeError(f"video must be an array or tensor (F, H, W, 3) or a list of PIL images, got {kind}")
    if len(video) < 2:
        raise ValueError(f"cameras from tracks need at least 2 frames, got {len(video)}")
    height, width = frame_size(video)
    if min(height, width) < MIN_SIDE:
        raise ValueError(f"frames must be at least {MIN_SIDE} pixels wide and high, got {width} x {height}")
    return video


def _check_image(image: Image.Image) -> None:
    """Refuse pictures that PIL would bring to RGB by changing what they show."""
    hidden = "transparency" in image.info or ("A" in image.getbands() and np.asarray(image.getchannel("A")).min() < 255)
    if image.mode == "F" or image.mode.startswith("I") or hidden:
        what = "with transparency" if hidden else "of more than 8 bits"
        raise ValueError(
            f"frames hold a PIL image {what} (mode {image.mode!r}); bring it to 8-bit RGB first: "
            "jog3r.data.recordings.pictures.rgb_array(image)"
        )


def frame_size(video: Sequence[Any]) -> tuple[int, int]:
    """(H, W) of checked frames."""
    first = video[0]
    return (first.height, first.width) if isinstance(first, Image.Image) else (first.shape[0], first.shape[1])


def rgb_frame(video: Sequence[Any], index: int) -> Image.Image:
    """One frame as an RGB image."""
    frame = video[index]
    if isinstance(frame, Image.Image):
        return frame.convert("RGB")
    if frame.dtype != np.uint8:
        frame = (frame * 255).round().astype(np.uint8)
    return Image.fromarray(frame)


@dataclass(frozen=True)
class Grid:
    """Sizes and the transforms between the three grids of pixels."""

    height: int
    width: int
    """Of the video."""
    small_size: tuple[int, int]
    """(w, h) of the frames in which features are found."""
    inverse_intrinsics: np.ndarray
    """(F, 3, 3) from the video's pixels to rays, up to one focal length if that is unknown."""
    focal_scale: float
    """Focal length in work pixels of a ray of slope 1: the focal length of the video in x times this is that of the work grid."""
    pixel_aspect: float
    """fy / fx of the video."""
    bend: float = 0.0
    """Given distortion of the lens, per work pixel squared; the work grid is a pinhole's."""

    def to_work(self, small_xy: np.ndarray, frame: int) -> np.ndarray:
        """Work pixels (K, 2) of small pixels (K, 2)."""
        video_xy = self.to_video(small_xy)
        rays = np.concatenate([video_xy, np.ones((len(video_xy), 1))], 1) @ self.inverse_intrinsics[frame].T
        work = rays[:, :2] * self.focal_scale
        return work / stretch(work, self.bend)

    def from_work(self, xy: np.ndarray, frame: np.ndarray) -> np.ndarray:
        """Video pixels (M, 2) of work pixels (M, 2) in frames (M,)."""
        rays = np.concatenate([bent(xy, self.bend) / self.focal_scale, np.ones((len(xy), 1))], 1)
        return np.einsum("mij,mj->mi", np.linalg.inv(self.inverse_intrinsics)[frame], rays)[:, :2]

    def to_video(self, small_xy: np.ndarray) -> np.ndarray:
        """Video pixels (K, 2) of small pixels (K, 2)."""
        return small_xy * (self.width / self.small_size[0], self.height / self.small_size[1]) - 0.5


def make_grid(
    num_frames: int, size: tuple[int, int], max_side: int, pixel_aspect: float, known_intrinsics: np.ndarray | None
) -> Grid:
    """The grids of `num_frames` frames of `size` (H, W); `known_intrinsics` (F, 3, 3) in video pixels or None."""
    height, width = size
    scale = min(1.0, max_side / max(size))
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    if known_intrinsics is None:
        # Focal length 1 / scale stands for 1 work pixel; the true one multiplies it.
        unit = np.array([[1.0, 0, width / 2], [0, pixel_aspect, height / 2], [0, 0, 1]])
        inverse = np.broadcast_to(np.linalg.inv(unit), (num_frames, 3, 3))
        return Grid(height, width, small, inverse, scale, pixel_aspect)
    focal = float(known_intrinsics[:, 0, 0].mean())
    return Grid(height, width, small, np.linalg.inv(known_intrinsics), focal * scale, pixel_aspect)
