"""Video files come as players show them, by every entrance: stream, pixels, orientation, colours, names and times."""

import gc
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from jog3r.data.video import VideoLimits, read_frames, read_video
from jog3r.data.video_stream import EndsEarly, stream_video
from jog3r.pipelines.video_input import load_frames


def read(path: Any) -> np.ndarray:
    return read_video(path).frames


def stream(path: Any) -> np.ndarray:
    return np.stack(list(stream_video(path)))


def pipeline_input(path: Any) -> np.ndarray:
    return (load_frames(path)[0].permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)


def by_number(path: Any) -> np.ndarray:
    return read_frames(path, range(6)).frames


ENTRANCES = [read, stream, pipeline_input, by_number]
every_entrance = pytest.mark.parametrize("entrance", ENTRANCES)


def scene(height: int = 48, width: int = 64) -> np.ndarray:
    """(6, H, W, 3): a corner that turning and mirroring move to eight different places, and a level that counts the frames."""
    frames = np.stack([np.full((height, width, 3), 90 + 15 * number, np.uint8) for number in range(6)])
    frames[:, : height // 4, : width // 2] = 10
    frames[:, height // 4 : height // 2, : width // 4] = 250
    return frames


def write(
    path: Path,
    frames: np.ndarray,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    aspect: Fraction | None = None,
    times_ms: Sequence[int] = (),
    title: str = "",
    **options: Any,
) -> Path:
    with av.open(str(path), "w", **options) as container:
        if title:
            container.metadata["title"] = title
        track: Any = container.add_stream(codec, rate=10)
        track.height, track.width, track.pix_fmt = *frames.shape[1:3], pix_fmt
        track.options = {"crf": "4"} if codec.startswith("libx26") else {}
        if codec == "libx265":
            track.options |= {"x265-params": "log-level=none"}
        if aspect is not None:
            track.codec_context.sample_aspect_ratio = aspect
        if times_ms:
            track.codec_context.time_base = Fraction(1, 1000)
        for number, frame in enumerate(frames):
            image = av.VideoFrame.from_ndarray(frame, format="rgba" if frame.shape[-1] == 4 else "rgb24")
            if times_ms:
                image.pts, image.time_base = times_ms[number], Fraction(1, 1000)
            container.mux(track.encode(image))
        container.mux(track.encode())
    return path


def assert_shows(frames: np.ndarray, expected: np.ndarray, tolerance: float = 2.5) -> None:
    assert frames.shape == expected.shape and frames.dtype == np.uint8
    assert np.abs(frames.astype(float) - expected).mean() < tolerance


# Pixels that are not square


@every_entrance
@pytest.mark.parametrize(("aspect", "height", "width"), [((4, 3), 48, 64), ((3, 4), 64, 48), ((32, 27), 48, 57)])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_pixels_become_square(tmp_path: Path, entrance: Callable, name: str, aspect: tuple, height: int, width: int) -> None:
    stored = scene(48, 48)
    shown = np.stack([np.asarray(Image.fromarray(frame).resize((width, height))) for frame in stored])
    assert_shows(entrance(write(tmp_path / name, stored, aspect=Fraction(*aspect))), shown, 4)


def test_crops_are_taken_of_square_pixels(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", scene(48, 48), aspect=Fraction(4, 3))
    shown = np.stack([np.asarray(Image.fromarray(frame).resize((64, 48))) for frame in scene(48, 48)])
    assert_shows(read_video(path, size=(48, 48), resize_mode="crop").frames, shown[:, :, 8:56], 4)
    assert_shows(read_video(path, size=(48, 64)).frames, shown, 4)


def test_an_absurd_aspect_is_refused_by_the_size_it_leads_to(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", scene(), aspect=Fraction(40, 1))
    with pytest.raises(ValueError, match="2560 x 48 pixels, more than the 1000 allowed a side"):
        read_video(path, limits=VideoLimits(max_side=1000))


# Orientation

MATRICES = {  # a, b, c, d of the track header, and what players show
    "as stored": ((1, 0, 0, 1), lambda frames: frames),
    "left-right": ((-1, 0, 0, 1), lambda frames: frames[:, :, ::-1]),
    "up-down": ((1, 0, 0, -1), lambda frames: frames[:, ::-1]),
    "half turn": ((-1, 0, 0, -1), lambda frames: frames[:, ::-1, ::-1]),
    "clockwise": ((0, 1, -1, 0), lambda frames: np.rot90(frames, -1, (1, 2))),
    "counterclockwise": ((0, -1, 1, 0), lambda frames: np.rot90(frames, 1, (1, 2))),
    "main diagonal": ((0, 1, 1, 0), lambda frames: frames.swapaxes(1, 2)),
    "other diagonal": ((0, -1, -1, 0), lambda frames: frames[:, ::-1, ::-1].swapaxes(1, 2)),
}


def with_matrix(path: Path, a: float, b: float, c: float, d: float) -> Path:
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 40
    content[place : place + 36] = struct.pack(">9i", *(int(v * 65536) for v in (a, b, 0, c, d, 0, 64, 64)), 1 << 30)
    path.write_bytes(content)
    return path


@every_entrance
@pytest.mark.parametrize("name", MATRICES)
def test_all_eight_orientations(tmp_path: Path, entrance: Callable, name: str) -> None:
    values, shown = MATRICES[name]
    assert_shows(entrance(with_matrix(write(tmp_path / "a.mp4", scene()), *values)), shown(scene()))


@every_entrance
def test_turned_and_not_square(tmp_path: Path, entrance: Callable) -> None:
    """Stored 48 x 48 of width 4/3, shown turned: 48 wide, 64 high."""
    path = with_matrix(write(tmp_path / "a.mp4", scene(48, 48), aspect=Fraction(4, 3)), 0, 1, -1, 0)
    upright = np.rot90(scene(48, 48), -1, (1, 2))
    shown = np.stack([np.asarray(Image.fromarray(frame).resize((48, 64))) for frame in upright])
    assert_shows(entrance(path), shown, 4)


def test_a_turn_by_another_angle_is_refused(tmp_path: Path) -> None:
    path = with_matrix(write(tmp_path / "a.mp4", scene()), 0.866, 0.5, -0.5, 0.866)
    with pytest.raises(ValueError, match=r"a\.mp4.* turned by .*30 degrees; export it upright"):
        read_video(path)


# Which stream


@every_entrance
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_thumbnail_in_front_is_not_the_video(tmp_path: Path, entrance: Callable, name: str) -> None:
    with av.open(str(tmp_path / name), "w") as container:
        small: Any = container.add_stream("mjpeg", rate=1)
        small.width, small.height, small.pix_fmt = 32, 24, "yuvj420p"
        track: Any = container.add_stream("libx264", rate=10)
        track.width, track.height, track.pix_fmt, track.options = 64, 48, "yuv420p", {"crf": "4"}
        track.disposition = av.stream.Disposition.default
        container.mux(small.encode(av.VideoFrame.from_ndarray(np.zeros((24, 32, 3), np.uint8), format="rgb24")))
        container.mux(small.encode())
        for frame in scene():
            container.mux(track.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(track.encode())
    assert_shows(entrance(tmp_path / name), scene())


def test_a_cover_alone_is_no_video(tmp_path: Path) -> None:
    """An MP3 with an ID3 picture, written by hand: two silent frames of MPEG-1 layer III behind the tag."""
    Image.new("RGB", (32, 32)).save(tmp_path / "cover.png")
    picture = b"\0image/png\0\3\0" + (tmp_path / "cover.png").read_bytes()
    frame = b"APIC" + struct.pack(">IH", len(picture), 0) + picture
    size = bytes(len(frame) >> shift & 127 for shift in (21, 14, 7, 0))
    path = tmp_path / "song.mp3"
    path.write_bytes(b"ID3\3\0\0" + size + frame + (b"\xff\xfb\x90\x00" + bytes(413)) * 20)
    with pytest.raises(ValueError, match="only a cover picture"):
        read_video(path)


# Colours


@every_entrance
@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.mp4", "libx264", "yuv420p10le"),
        ("a.mp4", "libx265", "yuv420p10le"),
        ("a.mkv", "libx265", "yuv422p12le"),
        ("a.mkv", "ffv1", "gray16le"),
        ("a.mkv", "ffv1", "gray10le"),
        ("a.mkv", "ffv1", "bgr0"),
    ],
)
def test_other_depths_of_colour(tmp_path: Path, entrance: Callable, name: str, codec: str, pix_fmt: str) -> None:
    assert_shows(entrance(write(tmp_path / name, scene(), codec=codec, pix_fmt=pix_fmt)), scene())


HIDDEN = np.concatenate([scene(), np.full((6, 48, 64, 1), 255, np.uint8)], -1)
HIDDEN[:, :, 40:] = (255, 0, 255, 0)
WHITE_BEHIND = scene()
WHITE_BEHIND[:, :, 40:] = 255


@every_entrance
@pytest.mark.parametrize(("name", "codec", "pix_fmt"), [("a.mov", "qtrle", "argb"), ("a.mkv", "ffv1", "bgra")])
def test_hidden_colours_of_videos_never_show(tmp_path: Path, entrance: Callable, name: str, codec: str, pix_fmt: str) -> None:
    assert_shows(entrance(write(tmp_path / name, HIDDEN, codec=codec, pix_fmt=pix_fmt)), WHITE_BEHIND)


# Animated pictures


def animated(path: Path, frames: np.ndarray, durations: Sequence[int], **options: Any) -> Path:
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(path, save_all=True, append_images=images[1:], duration=list(durations), **options)
    return path


DURATIONS = (100, 200, 50, 70, 300, 40)
KINDS = [("gif", {"disposal": 2}), ("webp", {"lossless": True, "exact": True}), ("png", {}), ("avif", {"quality": 100})]


@every_entrance
@pytest.mark.parametrize(("name", "options"), KINDS)
def test_animated_pictures_are_videos(tmp_path: Path, entrance: Callable, name: str, options: dict) -> None:
    path = animated(tmp_path / f"a%d.{name}", scene(), DURATIONS, **options)
    assert_shows(entrance(path), scene())
    np.testing.assert_allclose(read_video(path).times, np.cumsum((0, *DURATIONS[:-1])) / 1000, atol=6e-3)  # GIF has hundredths
    assert read_video(path).fps == pytest.approx(6 / 0.76, rel=0.02)


@every_entrance
@pytest.mark.parametrize(("name", "options"), KINDS)
def test_hidden_colours_of_animations_never_show(tmp_path: Path, entrance: Callable, name: str, options: dict) -> None:
    frames = entrance(animated(tmp_path / f"a.{name}", HIDDEN, DURATIONS, **options))
    inside = np.r_[0:32, 48:64]  # AVIF blurs the edge
    assert_shows(frames[:, :, inside], WHITE_BEHIND[:, :, inside], 4)


@pytest.mark.parametrize(("name", "options"), KINDS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_animated_pictures_that_are_cut_off_are_refused(tmp_path: Path, name: str, options: dict, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (6, 48, 64, 3), dtype=np.uint8)
    path = animated(tmp_path / f"a.{name}", noise, DURATIONS, **options)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ValueError, match=rf"a\.{name}.*(cut off|cannot be opened)"):
        read_video(path)


def test_a_gif_without_durations_plays_as_in_a_browser(tmp_path: Path) -> None:
    path = animated(tmp_path / "a.gif", scene(), [0] * 6)
    np.testing.assert_allclose(read_video(path).times, np.arange(6) / 10)
    with pytest.raises(ValueError, match="s long, more than"):
        read_video(path, limits=VideoLimits(max_seconds=0.5))


@pytest.mark.parametrize(("name", "options"), KINDS[1:])
def test_animations_of_sixty_frames_a_second_keep_their_times(tmp_path: Path, name: str, options: dict) -> None:
    path = animated(tmp_path / f"a.{name}", scene(), [16] * 6, **options)
    np.testing.assert_allclose(read_video(path).times, np.arange(6) * 0.016, atol=1e-3)


def test_a_picture_for_programs_without_animation_is_no_frame(tmp_path: Path) -> None:
    path = animated(tmp_path / "a.png", np.concatenate([255 - scene()[:1], scene()]), DURATIONS, default_image=True)
    video = read_video(path)
    assert_shows(video.frames, scene())
    np.testing.assert_allclose(video.times, np.cumsum((0, *DURATIONS[:-1])) / 1000)


# Names and texts


@every_entrance
@pytest.mark.parametrize(
    "name",
    [
        "2024-05-01T12:30:05.mp4",
        "file:a.mp4",
        "http:a.mp4",
        "-x.mp4",
        "a%d.mp4",
        "a%03d.png",
        "a#1?x=y.mp4",
        "vidéo 日本.mp4",
        "a|b.mp4",
    ],
)
def test_any_name_is_a_local_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entrance: Callable, name: str) -> None:
    write(tmp_path / "plain.mp4", scene()).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for path in (name, Path(name), tmp_path / name):
        assert_shows(entrance(path), scene())


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = Path(str(tmp_path) + "/v\udce9.mp4")
    write(tmp_path / "plain.mp4", scene()).rename(path)
    assert_shows(read(path), scene())


@every_entrance
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_a_title_in_another_encoding(tmp_path: Path, entrance: Callable, name: str) -> None:
    path = write(tmp_path / name, scene(), codec="mpeg4" if name == "a.avi" else "libx264", title="XXXX")
    path.write_bytes(path.read_bytes().replace(b"XXXX", "vídé".encode("latin-1")))
    assert_shows(entrance(path), scene(), 6)


# Times


IRREGULAR_MS = (0, 100, 150, 400, 1000, 1100)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm"])
def test_times_are_those_of_the_frames(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, scene(), codec="libvpx" if name == "a.webm" else "libx264", times_ms=IRREGULAR_MS)
    true = np.array(IRREGULAR_MS) / 1000
    with av.open(str(path)) as container:
        np.testing.assert_allclose([float(frame.time) for frame in container.decode(video=0)], true, atol=1e-3)
    for selection in ({}, {"start": 2}, {"stride": 2}, {"start": 1, "stop": 5, "stride": 3}):
        expected = true[slice(*(selection.get(key) for key in ("start", "stop", "stride")))]
        np.testing.assert_allclose(read_video(path, **selection).times, expected, atol=1e-3)
        np.testing.assert_allclose([time for time, _ in stream_video(path, **selection).timed()], expected, atol=1e-3)
    video = read_frames(path, [0, 2, 5])
    np.testing.assert_allclose(video.times, true[[0, 2, 5]], atol=1e-3)
    assert video.fps == pytest.approx(2 / 1.1, rel=1e-3)
    assert_shows(video.frames, scene()[[0, 2, 5]], 6)


@pytest.mark.parametrize("codec", ["mjpeg", "mpeg4"])
def test_an_avi_may_say_nothing_for_a_while(tmp_path: Path, codec: str) -> None:
    """Its header counts the moments of a gap as frames."""
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write(tmp_path / "a.avi", scene(), codec=codec, pix_fmt=pix_fmt, times_ms=(0, 100, 200, 600, 700, 800))
    video = read_video(path)
    assert_shows(video.frames, scene(), 8)
    np.testing.assert_allclose(video.times - video.times[0], [0, 0.1, 0.2, 0.6, 0.7, 0.8], atol=1e-3)
    assert not stream_video(path).counted
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    with pytest.raises(ValueError, match="a.avi'.*cut off"):
        read_video(path)


def test_streams_without_times_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h264", scene(), format="h264")
    np.testing.assert_allclose(np.diff(read_video(path).times), 1 / read_video(path).fps)


def test_times_of_a_folder_are_places(tmp_path: Path) -> None:
    for number, frame in enumerate(scene()):
        Image.fromarray(frame).save(tmp_path / f"{number + 7}.png")
    video = read_video(tmp_path, start=1, stride=2)
    np.testing.assert_allclose(video.times, [1 / 8, 3 / 8, 5 / 8])
    assert video.fps == 4


@pytest.mark.parametrize("name", ["a.mkv", "a.nut"])
def test_frames_far_apart_are_refused_also_where_no_duration_is_stated(tmp_path: Path, name: str) -> None:
    """Written as a live stream, Matroska states no duration."""
    path = write(
        tmp_path / name, scene(), codec="mpeg4", times_ms=[number * 7_200_000 for number in range(6)], options={"live": "1"}
    )
    with pytest.raises(ValueError, match="s long, more than 3600 s"):
        read_video(path)
    with pytest.raises(ValueError, match="s long, more than 3600 s"):
        list(stream_video(path))
    assert len(read_video(path, limits=VideoLimits(max_seconds=1e6)).frames) == 6


def test_frames_that_were_read_are_let_go_of(tmp_path: Path) -> None:
    """Without the help of the garbage collector, which comes when it wants."""
    path = write(tmp_path / "a.mp4", np.concatenate([scene()] * 20))
    gc.collect()
    gc.disable()
    try:
        for number, _ in enumerate(stream_video(path)):
            if number % 20 != 19:  # looking through all objects takes a third of a second
                continue
            held = sum(type(thing) is av.VideoFrame for thing in gc.get_objects())
            assert held <= 40, f"{held} of {number + 1}"  # the decoder hands out what its threads hold at once
    finally:
        gc.enable()


# Frames by their numbers


def test_numbers_that_are_not_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", scene())
    with pytest.raises(EndsEarly, match="has 6 frames; there is no frame 6") as caught:
        read_frames(path, [0, 3, 6])
    assert caught.value.count == 6
    for numbers in ([0], [3, 1], [-1, 2], [1, 1]):
        with pytest.raises(ValueError, match="ascending frame numbers"):
            read_frames(path, numbers)
