"""Overlapping windows of a long video: cutting them, joining neighbours by their shared frames, and blending what both say.

Letters: F frames of the video, n frames of a window, K windows, H W pixels.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from jog3r.geometry.cameras import check_tensors, pose_from, so3_exp, so3_log, transform, unproject
from jog3r.geometry.registration.degeneracy import pose_known
from jog3r.geometry.similarity import SimilarityFit, fit_similarity, move_cameras, sim3_adjoint, sim3_parts

MAX_POINTS = 4096  # matched pixels that take part in a join
Item = TypeVar("Item")


class JoinError(ValueError):
    """Two windows of a video have nothing that joins them."""


@dataclass(frozen=True)
class WindowGeometry:
    """What is known of the n frames of one window, in the window's own world and unit of length.

    Depth and confidence of frames whose pose is unknown become 0: their points would lie anywhere.
    """

    poses: Tensor
    """(n, 4, 4) camera-to-world."""
    intrinsics: Tensor
    """(n, 3, 3) in pixels."""
    depth: Tensor
    """(n, H, W) z in each camera; 0 where nothing is known."""
    confidence: Tensor
    """(n, H, W) >= 0; 0 where nothing is known."""
    energy: float = 0.0
    """Of the registration."""
    degenerate: tuple[str, ...] = ()
    """Per frame why its pose deserves no trust, "" for a sound one; () for nothing known."""
    descriptor: Tensor | None = None
    """(D,) what the window looks like, for finding places seen before; None for unknown."""

    def __post_init__(self) -> None:
        """Check that the shapes go together, and drop what cannot be placed."""
        for name in ("poses", "intrinsics", "depth", "confidence"):
            check_tensors(**{f"a window's {name}": getattr(self, name)})
        count = len(self.depth)
        shapes = {"poses": (count, 4, 4), "intrinsics": (count, 3, 3), "confidence": tuple(self.depth.shape)}
        for name, shape in shapes.items():
            if self.depth.dim() != 3 or tuple(getattr(self, name).shape) != shape:
                raise ValueError(
                    f"a window's {name} must have shape {shape} to go with depth (n, H, W), got "
                    f"{tuple(getattr(self, name).shape)} with depth {tuple(self.depth.shape)}"
                )
        if len(self.degenerate) not in (0, count):
            raise ValueError(f"a window's degenerate must have {count} entries to go with depth, got {len(self.degenerate)}")
        known = self.pose_known
        if not bool(known.all()):
            for name in ("depth", "confidence"):
                maps = getattr(self, name)
                object.__setattr__(self, name, torch.where(known.to(maps.device)[:, None, None], maps, torch.zeros_like(maps)))

    @property
    def pose_known(self) -> Tensor:
        """(n,) bool: False where "no overlap" or "too few points" stands for the pose, which is then the identity."""
        return pose_known(self.degenerate or ("",) * len(self.depth))

    def frames(self, selection: slice) -> "WindowGeometry":
        """Some of the frames, in the same world; energy and descriptor stay those of the whole window."""
        poses, intrinsics, depth, confidence = (
            values[selection] for values in (self.poses, self.intrinsics, self.depth, self.confidence)
        )
        return WindowGeometry(poses, intrinsics, depth, confidence, self.energy, self.degenerate[selection], self.descriptor)

    def points(self) -> Tensor:
        """World points (n, H, W, 3) in float64."""
        return transform(self.poses.double(), unproject(self.depth.double(), self.intrinsics.double()))


def check_windows(window: int, overlap: int, stride: int = 1) -> None:
    """Refuse sizes that make no chain of windows."""
    for name, value, low in (("window", window, 2), ("overlap", overlap, 1), ("stride", stride, 1)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be a whole number of frames, got {value!r}")
        if value < low:
            raise ValueError(f"{name} must be at least {low}, got {value}")
    if overlap >= window:
        raise ValueError(f"overlap must be smaller than window, got overlap={overlap} and window={window}")


def count_windows(num_frames: int, window: int, overlap: int) -> int:
    """K for a video of F frames."""
    return 1 if num_frames <= window else 1 + -(-(num_frames - window) // (window - overlap))


def iterate_windows(frames: Iterable[Item], window: int, overlap: int) -> Iterator[tuple[int, list[Item]]]:
    """Cut a stream into windows, holding no more than one of them.

    Neighbours share `overlap` frames. The last window is moved back so that it is full too, and then shares more.

    Yields:
        index of the window's first frame, and its frames; fewer than `window` only if the whole stream is shorter.

    Raises:
        ValueError: fewer than 2 frames, or sizes that make no windows.
    """
    check_windows(window, overlap)
    held: list[Item] = []
    count, fresh = 0, 0
    for frame in frames:
        held.append(frame)
        del held[:-window]
        count, fresh = count + 1, fresh + 1
        if len(held) == window and fresh >= window - (overlap if count > window else 0):
            yield count - window, list(held)
            fresh = 0
    if count < 2:
        raise ValueError(f"cameras need at least 2 frames, the video has {count}")
    if fresh:
        yield count - len(held), held


def join_windows(earlier: WindowGeometry, later: WindowGeometry, growth: float = 1.0) -> SimilarityFit:
    """The similarity later window's world -> earlier window's world, from frames that both hold.

    Args:
        earlier: the shared frames in the earlier window, see `WindowGeometry.frames`.
        later: the same frames in the later window.
        growth: frames of a window per shared frame. The fit itself knows nothing of how far a window's own cameras are off; what
            the two say differently about the shared cameras tells, and grows like a random walk over the frames of a window.

    Raises:
        ValueError: other numbers or sizes of frames; no frame whose pose both know; too few pixels that both know.
    """
    if earlier.depth.shape != later.depth.shape:
        raise ValueError(
            f"both windows must hold the same frames, got depths {tuple(earlier.depth.shape)} and {tuple(later.depth.shape)}"
        )
    trust = (earlier.confidence.double() * later.confidence.double()).clamp(min=0).sqrt()
    if not bool((earlier.pose_known & later.pose_known).any()):
        raise ValueError("no frame has a pose in both windows")
    known = (earlier.depth > 0) & (later.depth > 0) & (trust > 0)
    chosen = known.flatten().nonzero()[:, 0]
    if len(chosen) > MAX_POINTS:  # evenly over frames and pixels
        chosen = chosen[torch.linspace(0, len(chosen) - 1, MAX_POINTS, dtype=torch.float64).round().long()]
    source, target = (side.points().flatten(0, 2)[chosen] for side in (later, earlier))
    # Errors of depth grow with the distance.
    distance = earlier.depth.double().flatten()[chosen]
    fit = fit_similarity(source, target, trust.flatten()[chosen], distance)
    covariance = torch.linalg.inv(fit.information) + growth * _camera_covariance(fit.transform, earlier, later, distance.mean())
    return replace(fit, information=torch.linalg.inv(covariance))


def _camera_covariance(join: Tensor, earlier: WindowGeometry, later: WindowGeometry, distance: Tensor) -> Tensor:
    """(7, 7) from what two windows say differently about the cameras that both know, about the middle of these cameras."""
    both = earlier.pose_known & later.pose_known
    cameras = earlier.poses.double()[both]
    moved = move_cameras(join, later.poses.double()[both])
    rotation = so3_log(cameras[:, :3, :3].mT @ moved[:, :3, :3]).square().mean()
    shift = (moved[:, :3, 3] - cameras[:, :3, 3]).square().mean()
    variances = torch.stack((*rotation.expand(3), shift / distance**2, *shift.expand(3)))
    middle = torch.eye(4).to(cameras)
    middle[:3, 3] = cameras[:, :3, 3].mean(0)
    carry = sim3_adjoint(middle)
    return carry @ variances.diag() @ carry.mT


def border_weights(count: int) -> Tensor:
    """Trust (n,) in the frames of a window, least at its borders: what two windows share fades from one into the other."""
    position = torch.arange(1, count + 1, dtype=torch.float64)
    return torch.minimum(position, position.flip(0))


def blend_depth(old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], share: Tensor) -> tuple[Tensor, Tensor]:
    """One depth and confidence of frames that two windows know, in one unit.

    Args:
        old: depth and confidence (n, H, W) of the earlier window.
        new: the same of the later one.
        share: (n,) how much of the later one to take, 0..1.

    Returns:
        depth and confidence (n, H, W); where only one side knows a pixel, it alone counts.
    """
    portion = share.to(old[0])[:, None, None]
    weights = (1 - portion) * old[1], portion * new[1]
    total = weights[0] + weights[1]
    known = total > 0
    safe = torch.where(known, total, torch.ones_like(total))
    depth = (weights[0] * old[0] + weights[1] * new[0]) / safe
    either = (old[1] > 0).to(total) * (1 - portion) + (new[1] > 0).to(total) * portion
    confidence = total / torch.where(known, either, torch.ones_like(either))
    return torch.where(known, depth, 0.0), torch.where(known, confidence, 0.0)


def blend_poses(entries: Sequence[tuple[int, Tensor, Tensor]], nodes: Tensor, num_frames: int) -> Tensor:
    """World poses of all frames from those of all windows.

    Args:
        entries: per window k its first frame, poses (n, 4, 4) in its own world and weights (n,) >= 0; frames that no window gives
            a weight count alike in all.
        nodes: (K, 4, 4) similarities window -> world.
        num_frames: F; every frame lies in some window.

    Returns:
        (F, 4, 4) float64, rigid: centres averaged, rotations averaged about one of them.
    """
    frame = torch.cat([torch.arange(start, start + len(poses)) for start, poses, _ in entries])  # (E,)
    window = torch.cat([torch.full((len(poses),), k) for k, (_, poses, _) in enumerate(entries)])
    weights = torch.cat([weights for _, _, weights in entries]).double()
    world = move_cameras(nodes[window], torch.cat([poses for _, poses, _ in entries]).double())  # (E, 4, 4)
    share = frame_shares(frame, weights, num_frames)
    centres = weights.new_zeros(num_frames, 3).index_add(0, frame, share[:, None] * world[:, :3, 3])
    reference = weights.new_zeros(num_frames, 3, 3)
    heard = share > 0
    reference[frame[heard]] = world[heard, :3, :3]  # any one of a frame's entries that count
    apart = so3_log(reference[frame].mT @ world[:, :3, :3])
    mean = weights.new_zeros(num_frames, 3).index_add(0, frame, share[:, None] * apart)
    return pose_from(reference @ so3_exp(mean), centres)


def frame_shares(frame: Tensor, weights: Tensor, num_frames: int) -> Tensor:
    """Shares (E,) of entries in what is said of their frames (E,), summing to 1 a frame; all alike where all weights are 0."""
    none = weights.new_zeros(num_frames).index_add(0, frame, weights)[frame] == 0
    weights = torch.where(none, 1.0, weights)
    return weights / weights.new_zeros(num_frames).index_add(0, frame, weights)[frame]


def unit_ratio(join: Tensor) -> float:
    """Length units of the later window in one of the earlier one's: earlier = ratio * later, for a join later -> earlier."""
    return float(sim3_parts(join)[0])
