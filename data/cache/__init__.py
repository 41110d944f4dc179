"""A cache of prepared videos: latents, depth, cameras and caption embeddings in Parquet, readable at random or as a stream.

    manifest.json            what made it: models with hashes of their weights, sizes; every file with its size and SHA-256
    plan.json                the same without the files: what a restart is compared with
    report.json              what was skipped, and why
    clips-00000.parquet ...  a row a frame; a row group is one frame, so that a clip of any stride reads its own frames only
    captions-00000.parquet   a row a distinct caption: its tokens' embeddings, without padding
    parts/*.json             one beside each Parquet file: its index, written when it was complete

Written by `jog3r.training.prepare`. Letters: F frames, H W pixels, h w latents, C channels, L caption tokens, D caption channels.
"""

from jog3r.data.cache.places import Place, open_place
from jog3r.data.cache.reader import FORMAT, MANIFEST, PLAN, REPORT, Cache, stream_frames
from jog3r.data.cache.rows import (
    CachedCaption,
    CachedFrames,
    caption_rows,
    clip_rows,
    decode_frame,
    part_name,
    write_rows,
)

__all__ = [
    "FORMAT", "MANIFEST", "PLAN", "REPORT", "Cache", "CachedCaption", "CachedFrames", "Place", "caption_rows", "clip_rows",
    "decode_frame", "open_place", "part_name", "stream_frames", "write_rows",
]  # fmt: skip
