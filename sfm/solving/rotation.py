"""A camera that only turns, or stands still: rotations and focal length from matched pixels alone, without any points.

Where parallax is missing nothing else can be known, and a scene's depth would be made up of noise. It is also the beginning from
which bundle adjustment finds small motions.
"""

from dataclasses import replace

import numpy as np
import torch

from jog3r.geometry.cameras import so3_exp
from jog3r.sfm.lens import LEAST_STRETCH, bending_of, bent, stretch
from jog3r.sfm.matching.features import frame_pairs
from jog3r.sfm.matching.tracks import Tracks
from jog3r.sfm.solving.prior import FocalPrior
from jog3r.sfm.solving.solution import ROBUST_PX, Solution

MAX_FRAMES = 200  # solved together: the normal equations are dense
_MIN_MATCHES = 15
_MAX_MATCHES = 200  # of a pair that take part


def rotating_camera(tracks: Tracks, prior: FocalPrior, iterations: int = 15, lens: bool = False) -> Solution | None:
    """Rotations of all frames that hang together with the first, focal length and distortion, by robust Gauss-Newton steps.

    Minimises the distances in work pixels between matched features of each pair, carried over by the rotation between the frames.
    Of more than `MAX_FRAMES` frames as many, evenly chosen, are solved so; each other one is turned from its nearest of these.
    The distortion stays 0 without `lens`.

    Returns:
        The solution, all cameras at one place; None if frame 1 has no matches.
    """
    count = tracks.num_frames
    if count > MAX_FRAMES:
        return _rotating_long(tracks, prior, iterations, lens)
    used = _matched_pixels(tracks)
    rotations, known = _chain(used, count, prior.focal)
    used = {pair: xy for pair, xy in used.items() if known[pair[0]] and known[pair[1]]}
    if not used:
        return None
    focal, distortion, scale = prior.focal, 0.0, 64.0
    radius = float(np.linalg.norm(tracks.xy, axis=1).max())
    held = np.zeros(3 * count + 2, bool)
    held[:-2] = np.repeat(~known | (np.arange(count) == known.argmax()), 3)
    held[-2:] = prior.known, not lens
    for _ in range(iterations):
        normal, gradient = np.zeros((3 * count + 2,) * 2), np.zeros(3 * count + 2)
        for (i, j), xy in used.items():
            residual, jacobian = _residuals(xy, rotations[j] @ rotations[i].T, focal, distortion)
            weight = 1 / (1 + (residual**2).sum(1) / scale**2) ** 2
            jacobian, residual = jacobian.reshape(-1, 5), residual.reshape(-1)
            block = jacobian.T @ (np.repeat(weight, 2)[:, None] * jacobian)
            side = jacobian.T @ (np.repeat(weight, 2) * residual)
            _scatter(normal, gradient, (i, j), rotations[j] @ rotations[i].T, block, side)
        if not prior.known:
            normal[-2, -2] += _FACT / prior.spread**2
            gradient[-2] += _FACT * np.log(focal / prior.focal) / prior.spread**2
        normal[held], normal[:, held], gradient[held] = 0, 0, 0
        normal[held, held] = 1
        step = -np.linalg.solve(normal + 1e-9 * np.diag(normal.diagonal()), gradient)
        rotations = so3_exp(torch.from_numpy(step[:-2].reshape(-1, 3).clip(-0.5, 0.5))).numpy() @ rotations
        focal *= float(np.exp(step[-2].clip(-0.3, 0.3)))
        distortion = max(distortion + float(step[-1].clip(-0.1, 0.1)), (LEAST_STRETCH - 1) * (focal / radius) ** 2)
        scale = max(scale / 2, ROBUST_PX / 2)
    cameras = np.tile(np.eye(4), (count, 1, 1))
    cameras[:, :3, :3] = rotations
    name = "rotating camera, distortion fitted" if lens else "rotating camera"
    return Solution(name, cameras, known, focal, distortion=distortion).rebased()


def _rotating_long(tracks: Tracks, prior: FocalPrior, iterations: int, lens: bool) -> Solution | None:
    """`rotating_camera` of a long clip."""
    numbers = np.linspace(0, tracks.num_frames - 1, MAX_FRAMES).round().astype(int)
    found = rotating_camera(tracks.of_frames(numbers), prior, iterations, lens)
    if found is None:
        return None
    cameras, known = np.tile(np.eye(4), (tracks.num_frames, 1, 1)), np.zeros(tracks.num_frames, bool)
    cameras[numbers], known[numbers] = found.world_to_camera, found.known
    solved = numbers[found.known]
    seen = _by_frame(tracks)
    for frame in np.setdiff1d(np.arange(tracks.num_frames), numbers).tolist():
        nearest = int(solved[np.abs(solved - frame).argmin()])
        xy = _pixels_of_pair(tracks, seen[nearest], seen[frame])
        if xy is not None:
            turn = _turn(xy, found.focal, found.distortion)
            cameras[frame, :3, :3], known[frame] = turn @ cameras[nearest, :3, :3], True
    return replace(found, world_to_camera=cameras, known=known)


_FACT = 5.0  # squared pixels: what the matches of one independent fact add up to (see `jog3r.sfm.solving.adjust`)


def _matched_pixels(tracks: Tracks) -> dict[tuple[int, int], np.ndarray]:
    """Per pair of frames (K, 4): x, y in the first and the second."""
    seen = _by_frame(tracks)
    found = {(i, j): _pixels_of_pair(tracks, seen[i], seen[j]) for i, j in frame_pairs(tracks.num_frames).tolist()}
    return {pair: xy for pair, xy in found.items() if xy is not None}


def _by_frame(tracks: Tracks) -> list[np.ndarray]:
    """Numbers of the observations of each frame."""
    order = np.argsort(tracks.frame, kind="stable")
    starts = np.searchsorted(tracks.frame[order], np.arange(tracks.num_frames + 1))
    return [order[starts[frame] : starts[frame + 1]] for frame in range(tracks.num_frames)]


def _pixels_of_pair(tracks: Tracks, seen: np.ndarray, other: np.ndarray) -> np.ndarray | None:
    """(K, 4): x, y in two frames that have these observations; None of too few."""
    _, first, second = np.intersect1d(tracks.point[seen], tracks.point[other], assume_unique=True, return_indices=True)
    if len(first) < _MIN_MATCHES:
        return None
    thin = slice(None, None, max(1, len(first) // _MAX_MATCHES))
    return np.concatenate([tracks.xy[seen[first[thin]]], tracks.xy[other[second[thin]]]], 1)


def _chain(used: dict[tuple[int, int], np.ndarray], count: int, focal: float) -> tuple[np.ndarray, np.ndarray]:
    """First rotations (F, 3, 3) world-to-camera along the strongest pairs from frame 1 on, and which frames they reach."""
    rotations, known = np.tile(np.eye(3), (count, 1, 1)), np.zeros(count, bool)
    if not used:
        return rotations, known
    known[min(min(pair) for pair in used)] = True
    order = sorted(used, key=lambda pair: -len(used[pair]))
    while True:
        pair = next((pair for pair in order if known[pair[0]] != known[pair[1]]), None)
        if pair is None:
            return rotations, known
        turn = _turn(used[pair], focal)
        i, j = pair
        if known[i]:
            rotations[j] = turn @ rotations[i]
        else:
            rotations[i] = turn.T @ rotations[j]
        known[i] = known[j] = True


def _turn(xy: np.ndarray, focal: float, distortion: float = 0.0) -> np.ndarray:
    """Robust rotation (3, 3) from rays of the first frame of a pair to those of the second."""
    slopes = xy.reshape(-1, 2) / focal
    rays = np.concatenate([slopes / stretch(slopes, distortion), np.ones((2 * len(xy), 1))], 1)
    rays = (rays / np.linalg.norm(rays, axis=1, keepdims=True)).reshape(-1, 2, 3)
    weight, rotation = np.ones(len(rays)), np.eye(3)
    for _ in range(5):
        u, _, vt = np.linalg.svd((rays[:, 1] * weight[:, None]).T @ rays[:, 0])
        rotation = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt
        distance = np.linalg.norm(rays[:, 1] - rays[:, 0] @ rotation.T, axis=1)
        weight = 1 / (1 + (distance / max(float(np.median(distance)), 1e-6)) ** 2) ** 2
    return rotation


def _residuals(xy: np.ndarray, turn: np.ndarray, focal: float, distortion: float) -> tuple[np.ndarray, np.ndarray]:
    """(K, 2) pixels between carried-over and matched features; derivatives (K, 2, 5): turn of frame 2, log focal, distortion."""
    slopes = xy[:, :2] / focal
    pixel, square = stretch(slopes, distortion), (slopes**2).sum(1, keepdims=True)
    rays = np.concatenate([slopes / pixel, np.ones((len(xy), 1))], 1)
    carried = rays @ turn.T
    depth = np.maximum(carried[:, 2], 1e-3)
    u, v = carried[:, 0] / depth, carried[:, 1] / depth
    one = np.ones_like(u)
    jacobian = np.empty((len(xy), 2, 5))
    jacobian[:, 0, :3] = np.stack([-u * v, one + u * u, -v], 1)
    jacobian[:, 1, :3] = np.stack([-one - v * v, u * v, u], 1)
    # What the logarithm of the focal length and the distortion do to the first two numbers of a ray.
    for column, change in ((3, -slopes * (2 - pixel) / pixel**2), (4, -slopes * square / pixel**2)):
        moved = change @ turn[:, :2].T
        jacobian[:, 0, column], jacobian[:, 1, column] = (
            (moved[:, 0] - u * moved[:, 2]) / depth,
            (moved[:, 1] - v * moved[:, 2]) / depth,
        )
    carried_slopes = np.stack([u, v], 1)
    by_slopes, by_distortion = bending_of(carried_slopes, distortion)
    seen = bent(carried_slopes, distortion)
    jacobian = by_slopes @ jacobian
    jacobian[:, :, 3] += seen
    jacobian[:, :, 4] += by_distortion
    return focal * seen - xy[:, 2:], focal * jacobian


def _scatter(
    normal: np.ndarray, gradient: np.ndarray, pair: tuple[int, int], turn: np.ndarray, block: np.ndarray, side: np.ndarray
) -> None:
    """Add a pair's equations: a turn w of the first frame turns what is carried over by -turn w."""
    i, j = pair
    expand = np.zeros((5, 8))
    expand[:3, :3], expand[:3, 3:6], expand[3:, 6:] = -turn, np.eye(3), np.eye(2)
    places = np.r_[3 * i : 3 * i + 3, 3 * j : 3 * j + 3, len(gradient) - 2, len(gradient) - 1]
    normal[np.ix_(places, places)] += expand.T @ block @ expand
    gradient[places] += expand.T @ side
