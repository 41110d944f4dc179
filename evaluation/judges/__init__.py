"""Outside judges of generated videos: feature tracks, and another pipeline's geometry."""
