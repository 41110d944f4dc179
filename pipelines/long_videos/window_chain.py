"""The chain of windows of a long video, built as they come; finished frames go to a store, so that memory does not grow.

Letters: F frames of the video, n frames of a window, K windows, H W pixels.
"""

from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from jog3r.geometry.cameras import invert, unproject
from jog3r.geometry.pointmaps import mean_distance
from jog3r.geometry.pose_graph import Edge, chain_nodes
from jog3r.geometry.registration.degeneracy import pose_known
from jog3r.geometry.similarity import sim3
from jog3r.geometry.windows import JoinError, WindowGeometry, blend_depth, border_weights, frame_shares, join_windows, unit_ratio
from jog3r.pipelines.long_videos.loop_closing import WindowMemory, remember

HALF_MAX = 6e4  # just below the largest float16


class FrameStore(Protocol):
    """Where depth and confidence of the frames are kept until they are asked for."""

    def write(self, index: int, depth: Tensor, confidence: Tensor) -> None:
        """Keep the maps (H, W) of a frame; each frame comes once, in order."""

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Depth and confidence (H, W) of a frame."""


class MemoryStore:
    """Keeps the maps in float16: 4 bytes a pixel; depth to a relative 5e-4 of any unit, confidence above 6e4 cut off."""

    def __init__(self) -> None:
        self._maps: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def write(self, index: int, depth: Tensor, confidence: Tensor) -> None:
        """Keep the maps (H, W) of a frame."""
        known = depth[depth > 0]
        unit = known.median() if len(known) else depth.new_ones(())
        self._maps[index] = ((depth / unit).clamp(max=HALF_MAX).half(), confidence.clamp(max=HALF_MAX).half(), unit)

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Depth and confidence (H, W) of a frame, float32."""
        depth, confidence, unit = self._maps[index]
        return depth.float() * unit, confidence.float()


class _Maps(NamedTuple):
    """Maps of the last window's frames that are not written yet, and the trust that went into them."""

    depth: Tensor  # (n, H, W)
    confidence: Tensor  # (n, H, W)
    weights: Tensor  # (n,)


class WindowChain:
    """Windows as they come: joins each to the one before and hands finished frames to the store."""

    def __init__(self, store: FrameStore, keep: bool) -> None:
        self.store, self.keep = store, keep
        self.edges: list[Edge] = []
        self.quality: list[tuple[float, float]] = []
        self.entries: list[tuple[int, Tensor, Tensor]] = []  # first frame, poses, weights
        self.intrinsics: list[Tensor] = []
        self.flags: list[tuple[str, ...]] = []
        self.energies: list[float] = []
        self.memories: list[WindowMemory] = []
        self.owner: list[int] = []  # the window in whose unit a frame's depth is stored
        self.last: WindowGeometry | None = None
        self.pending = _Maps(*torch.zeros(3, 0))

    def add(self, start: int, items: list[Any], geometry: WindowGeometry) -> None:
        """Take the next window: its first frame, its frames and what is known of them."""
        if len(geometry.depth) != len(items):
            raise ValueError(f"the reconstructor gave {len(geometry.depth)} frames for {len(items)}")
        on_cpu = {name: getattr(geometry, name).cpu() for name in ("poses", "intrinsics", "depth", "confidence")}
        geometry = replace(geometry, **on_cpu)
        weights = border_weights(len(items)) * geometry.pose_known  # an unknown pose is no opinion
        fresh = _Maps(geometry.depth.float(), geometry.confidence.float(), weights)
        if self.last is not None:
            fresh = self._join(start - self.entries[-1][0], self.last, geometry, fresh)
        self.pending = fresh
        self.entries.append((start, geometry.poses.double(), weights))
        self.intrinsics.append(geometry.intrinsics.double())
        self.flags.append(geometry.degenerate or ("",) * len(items))
        self.energies.append(geometry.energy)
        self.last = geometry
        if self.keep:
            self.memories.append(remember(items, geometry))

    def _join(self, shift: int, last: WindowGeometry, geometry: WindowGeometry, fresh: "_Maps") -> "_Maps":
        """Add the edge, write what is finished, and blend the maps of the shared frames in the new window's unit."""
        shared = len(last.depth) - shift
        try:
            fit = join_windows(last.frames(slice(shift, None)), geometry.frames(slice(0, shared)), len(last.depth) / shared)
        except ValueError as error:
            start = self.entries[-1][0] + shift
            raise JoinError(
                f"frames {start} to {start + shared - 1} of those taken do not join their windows: {error}; cut there "
                "or overlap more"
            ) from error
        number = len(self.edges)
        self.edges.append(Edge(number, number + 1, fit.transform, fit.information))
        self.quality.append((fit.residual, fit.inlier_share))
        self._write(shift)
        old = _Maps(*(values[shift:] for values in self.pending))
        weights = old.weights + fresh.weights[:shared]
        depth, confidence = blend_depth(
            (old.depth / unit_ratio(fit.transform), old.confidence),
            (fresh.depth[:shared], fresh.confidence[:shared]),
            torch.where(weights > 0, fresh.weights[:shared] / weights, 0.5),
        )
        blended = _Maps(depth, confidence, weights)
        return _Maps(*(torch.cat((head, values[shared:])) for head, values in zip(blended, fresh, strict=True)))

    def _write(self, count: int) -> None:
        """Hand the first `count` pending frames to the store: no later window holds them."""
        for depth, confidence in zip(self.pending.depth[:count], self.pending.confidence[:count], strict=True):
            self.store.write(len(self.owner), depth, confidence)
            self.owner.append(len(self.entries) - 1)

    def finish(self) -> None:
        """Hand the rest to the store."""
        self._write(len(self.pending.depth))
        self.last = None

    def nodes(self) -> Tensor:
        """(K, 4, 4) window -> first window, chained."""
        steps = [edge.transform for edge in self.edges]
        return chain_nodes(torch.stack(steps) if steps else torch.zeros(0, 4, 4, dtype=torch.float64))

    def first_camera(self) -> Tensor:
        """(4, 4) first window's world -> camera of frame 1, in units of the mean distance of its points."""
        depth, confidence = self.store.read(0)
        points = unproject(depth[None].double(), self.intrinsics[0][:1])
        unit = 1 / mean_distance(points, (depth > 0)[None] & (confidence > 0)[None])[0]
        return sim3(unit, torch.eye(3).to(unit), torch.zeros(3).to(unit)) @ invert(self.entries[0][1][0])

    def blended_intrinsics(self) -> Tensor:
        """(F, 3, 3) float64, those of shared frames averaged."""
        count = len(self.owner)
        frame = torch.cat([torch.arange(start, start + len(weights)) for start, _, weights in self.entries])  # (E,)
        share = frame_shares(frame, torch.cat([weights for _, _, weights in self.entries]), count)
        total = torch.zeros(count, 3, 3, dtype=torch.float64)
        return total.index_add(0, frame, share[:, None, None] * torch.cat(self.intrinsics))

    def degenerate(self) -> tuple[str, ...]:
        """Per frame why its pose deserves no trust, "" if any window finds it sound; a window without its pose has no say."""
        count = len(self.owner)
        said: list[set[str]] = [set() for _ in range(count)]
        unknown: list[set[str]] = [set() for _ in range(count)]
        for (start, _, _), flags in zip(self.entries, self.flags, strict=True):
            for offset, (flag, known) in enumerate(zip(flags, pose_known(flags).tolist(), strict=True)):
                (said if known else unknown)[start + offset].add(flag)
        words = [{word for flag in flags or lost for word in flag.split(", ")} for flags, lost in zip(said, unknown, strict=True)]
        return tuple("" if "" in found else ", ".join(sorted(found)) for found in words)
