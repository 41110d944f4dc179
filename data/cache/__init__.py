"""A cache of prepared videos: latents, depth, cameras and caption embeddings in Parquet, readable at random or as a stream.

    manifest.json            what made it: models with hashes of their weights, sizes; every file with its size and SHA-256
    plan.json                the same without the files: what a restart is compared with
    report.json              what was skipped, and why
    clips-00000.parquet ...  a row a frame; a row group is up to 16 frames of one video (of format 1: one frame), so that a
                             stream reads many at once, and a clip picked out of a long video little more than its own;
                             where the VAE compresses time, windows take the place of videos, a latent stands in the first row
                             of its frames, and the other rows have none
    captions-00000.parquet   a row a distinct caption: its tokens' embeddings, without padding
    parts/*.json             one beside each Parquet file: its index, written when it was complete

Written by `jog3r.training.prepare`. Letters: F frames, H W pixels, h w latents, C channels, L caption tokens, D caption channels.
"""

from jog3r.data.cache.places import Place, open_place
from jog3r.data.cache.reader import FORMAT, MANIFEST, PLAN, REPORT, Cache
from jog3r.data.cache.rows import (
    FRAMES_PER_GROUP,
    CachedCaption,
    CachedFrames,
    caption_rows,
    clip_rows,
    decode_frame,
    part_name,
    read_caption,
    require_pyarrow,
    write_rows,
)
from jog3r.data.cache.shard_rows import ShardRows, stream_frames

__all__ = [
    "FORMAT", "FRAMES_PER_GROUP", "MANIFEST", "PLAN", "REPORT", "Cache", "CachedCaption", "CachedFrames", "Place", "ShardRows",
    "caption_rows", "clip_rows", "decode_frame", "open_place", "part_name", "read_caption", "require_pyarrow", "stream_frames",
    "write_rows",
]  # fmt: skip
