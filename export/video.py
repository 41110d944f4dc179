"""MP4 files that every player shows: colour frames, depth and confidence."""

import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import matplotlib
import numpy as np
from PIL import Image

__all__ = ["colorize", "confidence_frames", "decode_video", "depth_frames", "encode_video", "player_scale"]

PLAYER_SIDE = 256  # below this short side players show a stamp or blur it themselves


def encode_video(frames: np.ndarray, fps: float, *, scale: int | None = None, resample: str = "lanczos", crf: int = 16) -> bytes:
    """H.264 in MP4 (yuv420p, index in front, so it also plays while loading).

    yuv420p needs even sides: an odd side that stays odd after scaling gets its last row or column repeated once.

    Args:
        frames: (F, H, W, 3) uint8 RGB.
        fps: Frames per second.
        scale: Whole factor of enlargement; None takes `player_scale`. Frame times and content stay as they are, cameras scale
            with the frame.
        resample: "lanczos" (smooth) or "nearest" (pixels stay visible).
        crf: Quality, 0 (lossless) to 51; 16 is visually lossless.

    Returns:
        The file's bytes.

    Raises:
        ValueError: Wrong shape, dtype, fps, scale or resample.
    """
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise ValueError(f"frames must be (F, H, W, 3) uint8 RGB, got shape {frames.shape} of {frames.dtype}")
    if not (np.isfinite(fps) and fps > 0):
        raise ValueError(f"fps must be a positive number, got {fps!r}")
    if resample not in ("lanczos", "nearest"):
        raise ValueError(f"resample must be 'lanczos' or 'nearest', got {resample!r}")
    scale = player_scale(*frames.shape[1:3]) if scale is None else scale
    if scale < 1:
        raise ValueError(f"scale must be a whole number >= 1, got {scale!r}")
    height, width = (side * scale + side * scale % 2 for side in frames.shape[1:3])
    # Moving the index to the front rereads the file, which a buffer in memory does not allow.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(10_000))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.options = {"crf": str(crf), "preset": "medium"}
            # The conversion below is BT.601 in video range; without the tag players guess, and guess BT.709 for large frames.
            stream.codec_context.colorspace, stream.codec_context.color_range = 6, 1
            for frame in frames:
                image = av.VideoFrame.from_ndarray(_enlarge(frame, scale, resample, height, width), format="rgb24")
                container.mux(stream.encode(image))
            container.mux(stream.encode())
        return path.read_bytes()


def player_scale(height: int, width: int) -> int:
    """The smallest whole factor that brings the short side to at least 256 pixels and, for small clips, both sides to even."""
    scale = max(1, -(-PLAYER_SIDE // min(height, width)))
    return scale + 1 if scale > 1 and scale % 2 and (height % 2 or width % 2) else scale


def depth_frames(depth: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """Depth as colours, near bright and far dark, one scale for the whole clip (linear in 1/z).

    Args:
        depth: (F, H, W) z.
        valid: (F, H, W) bool, pixels that count; others are drawn grey. None: where depth is positive.

    Returns:
        (F, H, W, 3) uint8.
    """
    with np.errstate(invalid="ignore"):
        seen = np.isfinite(depth) & (depth > 0)
    seen = seen if valid is None else seen & valid
    return colorize(1 / np.where(seen, depth, 1), seen, "magma")


def confidence_frames(confidence: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Confidence (F, H, W) as colours (F, H, W, 3) uint8, sure bright; pixels that are not `valid` (F, H, W) bool are grey."""
    return colorize(np.log(np.where(valid, confidence, 1)), valid, "viridis")


def colorize(values: np.ndarray, valid: np.ndarray, colormap: str) -> np.ndarray:
    """Values (...) to colours (..., 3) uint8 between their 2 % and 98 % quantiles; pixels that are not `valid` are grey."""
    values = np.asarray(values, dtype=np.float64)
    low, high = np.quantile(values[valid], [0.02, 0.98]) if valid.any() else (0.0, 1.0)
    scaled = (values - low) / max(high - low, 1e-6 * max(abs(high), 1e-12))
    colors = matplotlib.colormaps[colormap](np.clip(np.where(valid, scaled, 0), 0, 1))[..., :3]
    return np.where(valid[..., None], (colors * 255).round(), 128).astype(np.uint8)


def _enlarge(frame: np.ndarray, scale: int, resample: str, height: int, width: int) -> np.ndarray:
    if scale > 1:
        size = (frame.shape[1] * scale, frame.shape[0] * scale)
        frame = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling[resample.upper()]))
    return np.pad(frame, ((0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0)), mode="edge")


def decode_video(path: Path, size: tuple[int, int], count: int) -> Iterator[Image.Image]:
    """The frames of a video.mp4 of ours one by one, brought back from the size for players.

    Args:
        path: Of the file.
        size: (H, W) in pixels, of the cameras beside it.
        count: How many cameras there are.

    Raises:
        ValueError: It is no video, not of a multiple of `size`, or has another number of frames.
    """
    height, width = size
    found = 0
    try:
        # FFmpeg gets no path: in one, it would take a folder "12:30" for a protocol.
        with path.open("rb") as file, av.open(file, mode="r", metadata_errors="replace") as container:
            for frame in container.decode(video=0):
                found += 1
                image = frame.to_image()
                scale = image.height // height
                if scale < 1 or scale != image.width // width:
                    raise ValueError(
                        f"{str(path)!r} does not have the size {width} x {height} of cameras.json times a whole number"
                    )
                # An odd side was made even by one repeated row or column, which the box leaves out.
                yield image.resize((width, height), Image.Resampling.BOX, box=(0, 0, width * scale, height * scale))
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as a video ({error}); write the results again") from error
    if found != count:
        raise ValueError(f"{str(path)!r} has {found} frames, cameras.json {count}; they are of different runs")
