"""Video files for tests of the Space: good ones, and the kinds that strangers send."""

import zipfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_video(path: Path, frames: int = 8, height: int = 64, width: int = 64, fps: int = 8, *, plain: bool = False) -> Path:
    """An H.264 (or, for WebM, VP8) file of a moving pattern; `plain` is one colour, which compresses to nothing."""
    codec = "libvpx" if path.suffix == ".webm" else "libx265" if path.name.endswith(".hevc.mov") else "libx264"
    y, x = np.mgrid[:height, :width]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options={} if codec == "libvpx" else {"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(frames):
            shade = np.full((height, width), 90) if plain else 40 + (x * 3 + y * 2 + 5 * index) % 160
            image = np.repeat(shade[..., None], 3, -1).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_slow_video(path: Path, seconds: int) -> Path:
    """Two frames that are shown for `seconds`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.time_base = 64, 64, "yuv420p", Fraction(1, 1)
        for time in (0, seconds):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 80, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    """Sound in a video container."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        for _ in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 44100
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def hostile_files(folder: Path) -> dict[str, Path]:
    """Name of the case to a file that has to be refused."""
    good = write_video(folder / "good.mp4", 24).read_bytes()
    files = {
        "ten thousand frames": write_video(folder / "many.mp4", 10_000, 32, 32, 240, plain=True),
        "an hour": write_slow_video(folder / "hour.mp4", 3600),
        "huge frames": write_video(folder / "huge.mp4", 2, 16, 4096, plain=True),
        "tiny frames": write_video(folder / "small.mp4", 4, 8, 8),
        "one frame": write_video(folder / "one.mp4", 1),
        "only sound": write_sound(folder / "sound.mp4"),
    }
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    contents = {
        "empty": b"",
        "one byte": b"\0",
        "zeros": bytes(100_000),
        "text": b"this is no video\n" * 100,
        "html": b"<html><script>alert(1)</script></html>",
        "playlist to a local file": playlist,
        "concat list": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "session description": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
        "png": b"\x89PNG\r\n\x1a\n" + bytes(1000),
        "gif": b"GIF89a" + bytes(1000),
        "elf": b"\x7fELF" + bytes(1000),
        "header alone": good[:64],
        "first half": good[: len(good) // 2],
        "index lost": good.replace(b"moov", b"junk"),
        "index first, data lost": good.replace(b"mdat", b"free")[: len(good) // 3],
        "random behind a header": good[:40] + np.random.default_rng(0).bytes(50_000),
        "bits flipped": _flip(good),
        "matroska header, noise": b"\x1a\x45\xdf\xa3" + np.random.default_rng(1).bytes(50_000),
        "avi header, noise": b"RIFF\xff\xff\xff\x7fAVI LIST" + np.random.default_rng(2).bytes(50_000),
        "size field of 2^63": b"\0\0\0\x01ftyp" + b"\x7f" + b"\xff" * 7 + b"isom",
    }
    for name, content in contents.items():
        files[name] = folder / f"{name.replace(' ', '_').replace(',', '')}.mp4"
        files[name].write_bytes(content)
    files["zip bomb"] = folder / "bomb.mp4"
    with zipfile.ZipFile(files["zip bomb"], "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("frames.raw", bytes(200 * 2**20))
    return files


def _flip(content: bytes) -> bytes:
    data = np.frombuffer(content, np.uint8).copy()
    start = content.index(b"mdat") + 40
    data[start : start + 2000 : 3] ^= 0xFF
    return data.tobytes()
