"""Tracks of matches that no geometry has judged, but of which a third frame says the same.

Verification keeps of each pair what one rigid motion explains, and throws the rest of the picture away if that is an object which
moves by itself. Here the rest is still there; chance matches go, as a third frame hardly repeats them.
"""

from dataclasses import replace

import numpy as np

from jog3r.sfm.colmap import images_by_name, load_pycolmap
from jog3r.sfm.matching.features import Matches
from jog3r.sfm.matching.tracks import Tracks, build_tracks

_LARGEST_GAP = 8  # frames between those of a pair: enough to chain tracks, and few pairs in long videos


def supported_tracks(matches: Matches) -> Tracks:
    """Tracks of all matches in COLMAP's database that frames near each other repeat, verified or not."""
    found = _unverified(matches)
    partner = _partners(found, [len(xy) for xy in matches.xy])
    neighbours: dict[int, list[int]] = {}
    for i, j in partner:
        neighbours.setdefault(i, []).append(j)
    pairs, kept = sorted(found), []
    for i, j in pairs:
        first, second = found[i, j].T
        repeated = np.zeros(len(first), bool)
        for k in set(neighbours[i]) & set(neighbours[j]):
            through = partner[i, k][first]
            repeated |= (through >= 0) & (through == partner[j, k][second])
        kept.append(found[i, j][repeated])
    return build_tracks(replace(matches, pairs=np.array(pairs, np.int64).reshape(-1, 2), indices=tuple(kept)))


def _unverified(matches: Matches) -> dict[tuple[int, int], np.ndarray]:
    """Per pair of near frames (i < j) the matched features (M, 2), as matched."""
    pycolmap = load_pycolmap()
    found = {}
    with pycolmap.Database.open(matches.database) as opened:
        images = images_by_name(opened)
        frame_of = {image.image_id: frame for frame, image in enumerate(images)}
        for pair_id, matched in zip(*opened.read_all_matches(), strict=True):
            i, j = (frame_of[image_id] for image_id in pycolmap.pair_id_to_image_pair(pair_id))
            if len(matched) and abs(i - j) <= _LARGEST_GAP:
                indices = np.asarray(matched).astype(np.int64)
                found[min(i, j), max(i, j)] = indices if i < j else indices[:, ::-1]
    return found


def _partners(found: dict[tuple[int, int], np.ndarray], counts: list[int]) -> dict[tuple[int, int], np.ndarray]:
    """For each ordered pair (i, j) of frames the feature of j matched with each of i, -1 without."""
    partner = {}
    for (i, j), indices in found.items():
        for a, b, source, target in ((i, j, *indices.T), (j, i, *indices.T[::-1])):
            partner[a, b] = np.full(counts[a], -1)
            partner[a, b][source] = target
    return partner
