"""What a clip is and where clips come from."""

from jog3r.data.clip import Clip
from jog3r.data.procedural import procedural_clip

__all__ = ["Clip", "procedural_clip"]
