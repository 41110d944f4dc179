"""Tracks: which features of all frames are one point of the scene, by the transitive closure of the matches."""

from dataclasses import dataclass

import numpy as np

from jog3r.sfm.matching.features import Matches

_SAME_PLACE_PX = 1.0  # SIFT gives one corner two features if two orientations are likely

_PARTS = 8  # of a picture across and down


@dataclass(frozen=True)
class Tracks:
    """M observations of N points; sorted by point, then frame; a point is seen at most once a frame.

    Attributes:
        num_frames: F.
        point: (M,) int64.
        frame: (M,) int64.
        xy: (M, 2) float64 in work pixels.
        feature: (M,) int64, number of the feature within its frame.
    """

    num_frames: int
    point: np.ndarray
    frame: np.ndarray
    xy: np.ndarray
    feature: np.ndarray

    @property
    def num_points(self) -> int:
        """N."""
        return int(self.point[-1]) + 1 if len(self.point) else 0

    @property
    def length(self) -> np.ndarray:
        """(N,) frames that see each point."""
        return np.bincount(self.point, minlength=self.num_points)

    def parts(self) -> tuple[np.ndarray, np.ndarray]:
        """(M,) which part of which frame's picture an observation lies in, a number; (M,) bool whether at the border."""
        low, high = self.xy.min(0), self.xy.max(0)
        cell = np.minimum((self.xy - low) / np.maximum(high - low, 1e-9) * _PARTS, _PARTS - 1).astype(np.int64)
        at_border = ((cell == 0) | (cell == _PARTS - 1)).any(1)
        return (self.frame * _PARTS + cell[:, 1]) * _PARTS + cell[:, 0], at_border

    def select(self, kept: np.ndarray) -> "Tracks":
        """The observations where `kept` (M,), of the points that keep at least two; points are numbered anew."""
        count = np.bincount(self.point[kept], minlength=self.num_points)
        kept = kept & (count >= 2)[self.point]
        _, point = np.unique(self.point[kept], return_inverse=True)
        return Tracks(self.num_frames, point, self.frame[kept], self.xy[kept], self.feature[kept])

    def of_frames(self, numbers: np.ndarray) -> "Tracks":
        """The observations of these frames (ascending), which are numbered anew."""
        place = np.full(self.num_frames, -1)
        place[numbers] = np.arange(len(numbers))
        kept = self.select(place[self.frame] >= 0)
        return Tracks(len(numbers), kept.point, place[kept.frame], kept.xy, kept.feature)

    def confirmed(self, least: int) -> "Tracks":
        """Without points that only two frames see, which any shift along the epipolar line leaves right.

        They stay where they touch a frame that has fewer than `least` others.
        """
        many = self.length >= 3
        poor = np.bincount(self.frame[many[self.point]], minlength=self.num_frames) < least
        needed = np.bincount(self.point[poor[self.frame]], minlength=self.num_points) > 0
        return self.select((many | needed)[self.point])

    def limited(self, per_frame: int, seed: int) -> "Tracks":
        """So many points that a frame sees about `per_frame` on average, somewhat more, as long tracks are kept."""
        wanted = per_frame * self.num_frames / max(len(self.point), 1)
        return self if wanted >= 1 else self.thin(round(wanted * self.num_points), seed)

    def thin(self, max_points: int, seed: int) -> "Tracks":
        """At most `max_points` of the points, drawn in proportion to the number of frames that see them."""
        if self.num_points <= max_points:
            return self
        length = self.length.astype(np.float64)
        drawn = np.random.default_rng(seed).choice(self.num_points, max_points, replace=False, p=length / length.sum())
        return self.select(np.isin(self.point, drawn))


def build_tracks(matches: Matches) -> Tracks:
    """Tracks of all matched features; those that meet two places of one frame contradict themselves and are left out."""
    counts = [len(xy) for xy in matches.xy]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    edges = [indices + starts[pair] for pair, indices in zip(matches.pairs, matches.indices, strict=True)]
    edge = np.concatenate(edges) if edges else np.zeros((0, 2), np.int64)
    label = _components(int(starts[-1]), edge)
    node = np.unique(edge)
    frame = np.searchsorted(starts, node, side="right") - 1
    xy = np.concatenate(matches.xy)[node] if len(node) else np.zeros((0, 2))
    order = np.lexsort((node, frame, label[node]))
    node, frame, xy, label = node[order], frame[order], xy[order], label[node[order]]
    repeated = np.zeros(len(node), bool)
    repeated[1:] = (label[1:] == label[:-1]) & (frame[1:] == frame[:-1])
    apart = np.zeros(len(node), bool)
    apart[1:] = repeated[1:] & (np.abs(xy[1:] - xy[:-1]).max(1, initial=0) > _SAME_PLACE_PX)
    _, point = np.unique(label, return_inverse=True)
    contradicted = np.bincount(point[apart], minlength=int(point.max()) + 1 if len(point) else 0) > 0
    kept = ~repeated & ~contradicted[point]
    return Tracks(matches.num_frames, point, frame, xy, node - starts[frame]).select(kept)


def _components(num_nodes: int, edge: np.ndarray) -> np.ndarray:
    """(num_nodes,) the smallest node that each node is connected with."""
    label = np.arange(num_nodes)
    while len(edge):
        low = label[edge].min(1)
        before = label.copy()
        np.minimum.at(label, label[edge[:, 0]], low)
        np.minimum.at(label, label[edge[:, 1]], low)
        label = label[label]
        label = label[label]
        if bool((label == before).all()):
            break
    return label
