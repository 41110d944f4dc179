"""Cameras of a video from feature tracks: the recipe."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from jog3r.sfm.checks import check_given
from jog3r.sfm.colmap import load_pycolmap, quiet
from jog3r.sfm.frames import check_frames, frame_size
from jog3r.sfm.matching.features import EXHAUSTIVE_FRAMES, all_pairs, find_features, match_features
from jog3r.sfm.matching.learned import learned_matches, load_matcher
from jog3r.sfm.matching.supported import supported_tracks
from jog3r.sfm.matching.tracks import build_tracks
from jog3r.sfm.result import finish
from jog3r.sfm.solving.beginnings import solve
from jog3r.sfm.solving.second_motion import has_two_motions
from jog3r.sfm.tracked_cameras import TrackedCameras

MOST_SEEN = 600  # points that a frame of a long video has on average: time and memory stay in proportion to the frames
_STAGES = ("features", "matches", "cameras", "points")
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}"


def track_cameras(  # noqa: PLR0913  # the public contract's signature
    video: Any,
    *,
    initial: Any = None,
    focal_px: float | None = None,
    known_intrinsics: Any = None,
    pixel_aspect: float | None = None,
    distortion: float | None = None,
    max_side: int = 640,
    matcher: str | None = None,
    device: str | None = None,
    interpolate: bool = False,
    seed: int = 0,
    progress: bool = False,
    check: Callable[[], object] = lambda: None,
) -> TrackedCameras:
    """Find cameras and points of a video by feature tracks and bundle adjustment (pycolmap), from several beginnings.

    Args:
        video: (F, H, W, 3) array or tensor, uint8 or floating point in 0..1, or a list of F PIL images; F >= 2; one shot of a
            scene at rest.
        initial: a `Registration` or `Jog3rPipelineOutput` of the same F frames: its focal length narrows what is expected, and
            its cameras are the answer where tracks cannot tell.
        focal_px: focal length in x in pixels of the video, if known.
        known_intrinsics: (3, 3) or (F, 3, 3) in pixels of the video, if known; not with focal_px or pixel_aspect.
        pixel_aspect: ratio fy / fx of the frames, such as 1.185 for 16:9 squeezed to 3:2; None: square, or what the
            tracks clearly ask for where no focal length is given.
        distortion: of the lens, as `TrackedCameras.distortion` has it, with its focal length; 0 for a pinhole. None: 0, or what
            the tracks clearly ask for where no focal length is given.
        max_side: features are found in frames reduced so that their longer side is at most this.
        matcher: folder or hub repository of SuperPoint + LightGlue or EfficientLoFTR of transformers, instead of SIFT.
        device: of the matcher; None: a GPU if there is one.
        interpolate: give frames that could not be registered a pose between their neighbours'; they stay flagged.
        seed: of everything that draws; same seed, same result, on any number of cores.
        progress: show the stages.
        check: is called many times on the way; what it raises ends the work.

    Returns:
        Cameras, points and their tracks in pixels of the video; what deserves no trust is flagged.

    Raises:
        ImportError: pycolmap is not installed.
        TypeError, ValueError: arguments that make no sense, one frame, or a video in which no two frames have enough in common
            (no texture, unrelated pictures) while `initial` is not given.
    """
    pycolmap = load_pycolmap()
    frames = check_frames(video)
    given = check_given(frame_size(frames), len(frames), initial, focal_px, known_intrinsics, pixel_aspect, distortion)
    if max_side < 64:
        raise ValueError(f"max_side must be at least 64 pixels, got {max_side}")
    network = None if matcher is None else load_matcher(matcher, device)
    grid = given.grid(len(frames), frame_size(frames), max_side)
    prior = given.focal_prior(grid)
    bar = tqdm(total=len(_STAGES), disable=not progress, bar_format=_BAR)

    def advance(share: float) -> None:
        check()
        bar.update(share)

    with quiet(pycolmap), bar, tempfile.TemporaryDirectory(prefix="jog3r_sfm_") as folder:
        bar.set_description(_STAGES[0])
        database = find_features(frames, grid, Path(folder), prior.focal, seed, advance)
        pairs = all_pairs(database, len(frames), seed)
        bar.set_description(_STAGES[1])
        if network is None:
            matches = match_features(database, grid, pairs, prior.known, seed, advance)
        else:
            other = Path(folder) / "learned"
            other.mkdir()
            matches = learned_matches(frames, grid, other, pairs, network, (prior.focal, prior.known), seed, advance)
        tracks = build_tracks(matches)
        if len(frames) > EXHAUSTIVE_FRAMES:
            tracks = tracks.limited(MOST_SEEN, seed)
        bar.set_description(_STAGES[2])
        best, trials = solve(matches, tracks, prior, given.network(grid), given.freedom, seed, check)
        bar.update()
        bar.set_description(_STAGES[3])
        features = np.array([len(xy) for xy in matches.xy])
        two_motions = best is not None and has_two_motions(supported_tracks(matches), best.solution)
        return finish(frames, grid, features, tracks, (best, trials), given, interpolate, two_motions)
