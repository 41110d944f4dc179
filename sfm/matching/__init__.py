"""Evidence: features of all frames, their verified matches, and the tracks that these make up."""

from jog3r.sfm.matching.features import Matches, find_features, frame_pairs, match_features
from jog3r.sfm.matching.tracks import Tracks, build_tracks

__all__ = ["Matches", "Tracks", "build_tracks", "find_features", "frame_pairs", "match_features"]
