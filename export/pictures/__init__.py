"""Pictures of a scene as PNG bytes: plots and strips, renderings and turntables, matches, consistency."""

from jog3r.export.pictures.animation import overview_animation
from jog3r.export.pictures.correspondences import reciprocal_matches
from jog3r.export.pictures.plots import (
    contact_sheet,
    correspondences_picture,
    overview_picture,
    strips_picture,
    trajectory_picture,
)
from jog3r.export.pictures.rendering import turntable_video

__all__ = [
    "contact_sheet",
    "correspondences_picture",
    "overview_animation",
    "overview_picture",
    "reciprocal_matches",
    "strips_picture",
    "trajectory_picture",
    "turntable_video",
]
