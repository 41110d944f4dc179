"""Videos longer than the model's window: overlapping windows, joined into one path, with loops closed."""

from jog3r.pipelines.long_videos.long_video import LongReconstruction, join_video, reconstruct_long_video

__all__ = ["LongReconstruction", "join_video", "reconstruct_long_video"]
