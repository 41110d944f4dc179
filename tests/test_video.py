"""Reading clips: what comes out is exactly what was asked for, and everything else is refused with a remedy."""

import itertools
import wave
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from jog3r.data.recordings.resizing import _crop_box
from jog3r.data.video import FOLDER_FPS, VideoLimits, read_video, resize_frames


def counted_frames(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Frames whose number can be read from their grey level, also after a lossy codec: frame i is 8 + 6 i."""
    return np.stack([np.full((height, width, 3), 8 + 6 * index, np.uint8) for index in range(count)])


def numbers(frames: np.ndarray) -> list[int]:
    return ((frames.mean((1, 2, 3)) - 8) / 6).round().astype(int).tolist()


def write_video(
    path: Path, frames: np.ndarray, *, codec: str = "libx264", rate: int = 10, fast: bool = True, sound: bool = False
) -> Path:
    options = {"movflags": "faststart"} if fast and path.suffix in (".mp4", ".mov") else {}
    file: Any = av.open(str(path), "w", options=options)
    with file as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.options, stream.bit_rate = {"crf": "12", "g": "8"}, 4_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.mp4", counted_frames(20))


def refused(path: Path, *words: str, **options: object) -> str:
    with pytest.raises(ValueError) as caught:
        read_video(path, **options)
    message = str(caught.value)
    assert str(path) in message and all(word in message for word in words), message
    assert "\n" not in message
    return message


def test_reads_every_frame_in_order_with_its_rate(clip: Path) -> None:
    video = read_video(clip)
    frames, fps = video
    assert frames.shape == (20, 48, 64, 3) and frames.dtype == np.uint8
    assert numbers(frames) == list(range(20)) and fps == 10


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"stride": 3}, range(0, 20, 3)),
        ({"start": 4}, range(4, 20)),
        ({"stop": 7}, range(7)),
        ({"start": 3, "stop": 18, "stride": 4}, range(3, 18, 4)),
        ({"stop": 100}, range(20)),
    ],
)
def test_start_stop_and_stride_are_those_of_a_slice(clip: Path, options: dict, expected: range) -> None:
    video = read_video(clip, **options)
    assert numbers(video.frames) == list(expected)
    assert video.fps == pytest.approx(10 / options.get("stride", 1))


def test_both_orders_of_bidirectional_frames_and_long_groups_come_back_in_display_order(tmp_path: Path) -> None:
    path = tmp_path / "b.mp4"
    file: Any = av.open(str(path), "w")
    with file as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.options = {"bf": "3", "g": "100", "crf": "10"}
        for frame in counted_frames(30):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    assert numbers(read_video(path).frames) == list(range(30))


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mkv", "libx264"), ("a.avi", "mpeg4"), ("a.webm", "libvpx"), ("a.mov", "libx264")]
)
def test_other_containers(tmp_path: Path, name: str, codec: str) -> None:
    path = write_video(tmp_path / name, counted_frames(12), codec=codec)
    assert numbers(read_video(path).frames) == list(range(12))


def test_content_decides_not_the_extension(clip: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "clip.txt"
    renamed.write_bytes(clip.read_bytes())
    assert len(read_video(renamed).frames) == 20


def test_size_resizes_while_reading(clip: Path) -> None:
    assert read_video(clip, size=(32, 32)).frames.shape == (20, 32, 32, 3)
    frames = read_video(clip).frames
    np.testing.assert_array_equal(
        read_video(clip, size=(20, 16), resize_mode="crop").frames, resize_frames(frames, 20, 16, "crop")[0]
    )


def test_display_rotation_of_telephones_is_applied(tmp_path: Path) -> None:
    """A track header that says "show turned clockwise by 90 degrees": the top left corner is shown at the top right."""
    frames = np.full((4, 48, 64, 3), 20, np.uint8)
    frames[:, :24, :32] = 220
    path = write_video(tmp_path / "r.mp4", frames)
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40
    turned = [0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0, 1 << 30]
    content[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in turned)
    path.write_bytes(content)
    video = read_video(path).frames
    assert video.shape == (4, 64, 48, 3)
    assert video[0, :30, 26:].min() > 150 and video[0, :30, :22].max() < 100 and video[0, 34:].max() < 100


# Refusals


def test_missing(tmp_path: Path) -> None:
    refused(tmp_path / "none.mp4", "does not exist", "give the path")


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "e.mp4").touch()
    refused(tmp_path / "e.mp4", "empty")


@pytest.mark.parametrize(
    "content", [b"hello, I am a text\n" * 50, bytes(range(256)) * 40, b"\0" * 5000, b"\x00\x00\x00\x18ftypmp42"]
)
def test_not_a_video(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "n.mp4"
    path.write_bytes(content)
    refused(path)


def test_sound_only(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "s.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(b"\0\1" * 4000)
    refused(tmp_path / "s.wav", "no video stream", "audio")


def test_one_frame(tmp_path: Path) -> None:
    refused(write_video(tmp_path / "one.mp4", counted_frames(1)), "1 frame", "at least 2")


def test_a_single_picture_is_no_clip(tmp_path: Path) -> None:
    Image.fromarray(counted_frames(1)[0]).save(tmp_path / "p.png")
    refused(tmp_path / "p.png", "1 frame")


def test_selection_past_the_end(clip: Path) -> None:
    refused(clip, "no frame with", "start=50", start=50)


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.75, 0.9, 0.97])
@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv", "cut.avi", "cut.webm"])
def test_cut_off_files_are_recognised(tmp_path: Path, name: str, fraction: float) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (30, 48, 64, 3), dtype=np.uint8)
    codec = {"cut.avi": "mpeg4", "cut.webm": "libvpx"}.get(name, "libx264")
    whole = write_video(tmp_path / f"whole{name[-4:]}" if name[-4] == "." else tmp_path / "whole.webm", noise, codec=codec)
    assert len(read_video(whole).frames) == 30
    content = whole.read_bytes()
    path = tmp_path / name
    path.write_bytes(content[: int(len(content) * fraction)])
    refused(path)


def test_index_at_the_end_cut_off(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "w.mp4", counted_frames(20), fast=False)
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole.read_bytes()[:-200])
    refused(path, "cut off")


def test_a_cut_off_file_can_still_give_its_intact_start(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = write_video(tmp_path / "w.mp4", rng.integers(0, 255, (30, 48, 64, 3), dtype=np.uint8))
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 3 // 4])
    assert len(read_video(path, stop=8).frames) == 8


def test_too_many_frames_says_how_many_and_what_to_do(clip: Path) -> None:
    refused(clip, "20 frames", "max_frames=16", "stride", "start", max_frames=16)
    assert len(read_video(clip, max_frames=16, stride=2).frames) == 10
    assert len(read_video(clip, max_frames=16, stop=16).frames) == 16


def test_too_many_frames_in_a_container_without_a_count(tmp_path: Path) -> None:
    refused(write_video(tmp_path / "c.mkv", counted_frames(20)), "more than 16 frames", max_frames=16)


def test_limits_are_checked_before_decoding(clip: Path) -> None:
    refused(clip, "2 s long", "max_seconds", limits=VideoLimits(max_seconds=1.5))
    refused(clip, "64 x 48", "max_side", limits=VideoLimits(max_side=63))


@pytest.mark.parametrize("options", [{"stride": 0}, {"start": -1}, {"start": 5, "stop": 5}, {"max_frames": 1}])
def test_bad_arguments(clip: Path, options: dict) -> None:
    with pytest.raises(ValueError, match=r"got"):
        read_video(clip, **options)


def test_fuzzed_files_give_a_clip_or_a_clear_error(clip: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    content = np.frombuffer(clip.read_bytes(), np.uint8)
    path, taken = tmp_path / "f.mp4", 0
    for number in range(60):
        damaged = content.copy()
        places = rng.integers(0, len(damaged), rng.integers(1, 40 if number % 2 else 4))
        damaged[places] = rng.integers(0, 256, len(places))
        path.write_bytes(damaged[: rng.integers(1, len(damaged) + 1) if number % 2 else None].tobytes())
        try:
            video = read_video(path)
        except ValueError as error:
            assert str(path) in str(error)
        else:
            assert video.frames.dtype == np.uint8 and len(video.frames) >= 2 and np.isfinite(video.fps)
            taken += 1
    assert 0 < taken < 60


# Folders


def test_folder_in_natural_order(tmp_path: Path) -> None:
    for index, frame in enumerate(counted_frames(12)):
        Image.fromarray(frame).save(tmp_path / f"frame_{index}.png")
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_bytes(b"")
    video = read_video(tmp_path, stride=2)
    assert numbers(video.frames) == list(range(0, 12, 2)) and video.fps == FOLDER_FPS / 2


def test_folder_refusals(tmp_path: Path) -> None:
    refused(tmp_path, "no images")
    frames = counted_frames(3)
    Image.fromarray(frames[0]).save(tmp_path / "a.png")
    refused(tmp_path, "1 frame")
    Image.fromarray(frames[1][:40]).save(tmp_path / "b.png")
    refused(tmp_path, "differ in size", "'b.png' is 64 x 40")
    assert read_video(tmp_path, size=(16, 16)).frames.shape == (2, 16, 16, 3)
    (tmp_path / "c.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(ValueError, match=r"c\.png.*no readable image"):
        read_video(tmp_path, size=(16, 16))
    refused(tmp_path, "3 frames", "max_frames=2", max_frames=2)


def test_transparent_and_grey_images_become_rgb(tmp_path: Path) -> None:
    Image.new("L", (8, 6), 100).save(tmp_path / "1.png")
    Image.new("RGBA", (8, 6), (100, 100, 100, 255)).save(tmp_path / "2.png")
    assert (read_video(tmp_path).frames == 100).all()


# Resizing


def blob(height: int, width: int, x: float, y: float, sigma: float) -> np.ndarray:
    """A clip of one frame with a Gaussian spot whose centre has pixel coordinates (x, y)."""
    v, u = np.mgrid[:height, :width]
    value = 255 * np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * sigma**2))
    return np.repeat(value.round().astype(np.uint8)[None, ..., None], 3, -1)


def centroid(frame: np.ndarray) -> np.ndarray:
    weight = frame[..., 0].astype(float)
    v, u = np.mgrid[: weight.shape[0], : weight.shape[1]]
    return np.array([(u * weight).sum(), (v * weight).sum(), weight.sum()]) / weight.sum()


@pytest.mark.parametrize("mode", ["stretch", "crop"])
@pytest.mark.parametrize(("height", "width"), [(40, 40), (90, 200), (24, 50), (60, 80), (121, 77)])
def test_resize_moves_image_points_as_its_transform_says(mode: str, height: int, width: int) -> None:
    frames = blob(60, 80, 43.3, 27.8, 5)
    resized, transform = resize_frames(frames, height, width, mode)
    assert resized.shape == (1, height, width, 3)
    np.testing.assert_allclose(centroid(resized[0]), transform @ centroid(frames[0]), atol=0.03)


def test_crops_never_leave_the_picture() -> None:
    """What is left and above of the middle part may come out as -5e-14, which Pillow refuses."""
    for (old_height, old_width), (height, width) in (
        ((480, 640), (464, 32)),
        ((480, 854), (464, 464)),
        ((3024, 4032), (352, 352)),
    ):
        frames = np.zeros((1, old_height, old_width, 3), np.uint8)
        assert resize_frames(frames, height, width, "crop")[0].shape == (1, height, width, 3)
    boxes = [
        _crop_box(*old, *new, "crop")
        for old in ((480, 640), (738, 994), (1200, 1600), (4032, 3024))
        for new in itertools.product(range(16, 1024, 8), repeat=2)
    ]
    assert min(min(left, top) for left, top, _, _ in boxes) == 0


def test_resize_known_values() -> None:
    frames = np.zeros((1, 4, 4, 3), np.uint8)
    # Twice as small: pixel 0 of the new image covers pixels 0 and 1 of the old one, whose middle is 0.5.
    _, half = resize_frames(frames, 2, 2)
    np.testing.assert_allclose(half @ [0.5, 0.5, 1], [0, 0, 1])
    _, same = resize_frames(frames, 4, 4)
    np.testing.assert_array_equal(same, np.eye(3))
    _, cropped = resize_frames(np.zeros((1, 4, 8, 3), np.uint8), 4, 4, "crop")
    np.testing.assert_allclose(cropped, [[1, 0, -2], [0, 1, 0], [0, 0, 1]])


def test_resize_to_the_same_size_keeps_every_pixel() -> None:
    frames = np.random.default_rng(0).integers(0, 255, (2, 9, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_frames(frames, 9, 7)[0], frames)


def test_resize_refusals() -> None:
    frames = np.zeros((1, 4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="'fit'"):
        resize_frames(frames, 2, 2, "fit")
    with pytest.raises(ValueError, match="height 0"):
        resize_frames(frames, 0, 2)
    with pytest.raises(ValueError, match="float64"):
        resize_frames(frames.astype(float), 2, 2)


def test_real_clips_read_whole(shared_data) -> None:
    for path in sorted((shared_data("re10k") / "videos").glob("*.mp4"))[:2]:
        video = read_video(path)
        assert video.frames.shape == (16, 256, 384, 3) and video.fps == 8
