"""Streamed frames are those that `read_video` gives, and as much is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jog3r.data.video import VideoLimits, read_video
from jog3r.data.video_stream import stream_video
from jog3r.export.video import encode_video


def frames(count: int = 12) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, 16, 24, 3), dtype=np.uint8)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(encode_video(frames(), 8.0, scale=1))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "images"
    path.mkdir()
    for index, frame in enumerate(frames()):
        Image.fromarray(frame).save(path / f"frame_{index}.png")
    return path


SELECTIONS = [{}, {"stride": 3}, {"start": 2, "stop": 7}, {"size": (8, 8), "resize_mode": "crop"}]


@pytest.mark.parametrize("options", SELECTIONS)
@pytest.mark.parametrize("kind", ["clip", "folder"])
def test_stream_is_the_video(kind: str, options: dict, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(kind)
    whole, stream = read_video(path, **options), stream_video(path, **options)
    assert stream.__length_hint__() == len(whole.frames)
    assert stream.fps == whole.fps
    for _ in range(2):  # it may be read again
        np.testing.assert_array_equal(np.stack(list(stream)), whole.frames)


def test_what_is_no_video_is_refused_at_once(tmp_path: Path, clip: Path) -> None:
    with pytest.raises(ValueError, match="is an address; download the video first"):
        stream_video("https://example.com/a.mp4")
    with pytest.raises(ValueError, match="does not exist"):
        stream_video(tmp_path / "none.mp4")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(ValueError, match="0 bytes"):
        stream_video(tmp_path / "empty.mp4")
    (tmp_path / "text.mp4").write_text("no video at all" * 100)
    with pytest.raises(ValueError, match="cannot be opened as a video"):
        stream_video(tmp_path / "text.mp4")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="holds no images"):
        stream_video(tmp_path / "nothing")
    with pytest.raises(ValueError, match="more than 1 s"):
        stream_video(clip, limits=VideoLimits(max_seconds=1.0))
    with pytest.raises(ValueError, match="24 x 16 pixels, more than the 8"):
        stream_video(clip, limits=VideoLimits(max_side=8))
    with pytest.raises(ValueError, match="stride must be at least 1, got 0"):
        stream_video(clip, stride=0)


def test_damage_is_found_while_reading(clip: Path, folder: Path) -> None:
    clip.write_bytes(clip.read_bytes()[:-700])
    with pytest.raises(ValueError, match="damaged|cut off"):
        list(stream_video(clip))
    Image.fromarray(frames()[0, :8]).save(folder / "frame_3.png")
    with pytest.raises(ValueError, match="differ in size: 'frame_3.png' is 24 x 8"):
        list(stream_video(folder))
