"""Rooms drawn in code with exact depth and cameras: a clip is a pure function of its index, split and size."""

from jog3r.data.procedural.clips import caption_words, procedural_caption, procedural_captions, procedural_clip, scene_names

__all__ = ["caption_words", "procedural_caption", "procedural_captions", "procedural_clip", "scene_names"]
