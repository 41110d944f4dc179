"""Pictures of every kind become the 8-bit RGB that a viewer shows, at every entrance; what cannot be read is refused by name."""

import base64
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jog3r.commands.parser import main
from jog3r.data.local_files import visible_files
from jog3r.data.recordings.pictures import rgb_array
from jog3r.data.source import read_image
from jog3r.data.video import read_video
from jog3r.data.video_stream import stream_video
from jog3r.pipelines.video_input import load_frames

RAMP = np.tile(np.linspace(0, 1, 64), (48, 1))  # (48, 64) grey
EXPECTED = np.repeat(np.rint(RAMP * 255).astype(np.uint8)[..., None], 3, -1)


def first_of_video(path: Path) -> np.ndarray:
    return read_video(path.parent).frames[0]


def first_of_stream(path: Path) -> np.ndarray:
    return next(iter(stream_video(path.parent)))


def first_of_path_for_pipeline(path: Path) -> np.ndarray:
    return (load_frames(str(path.parent))[0, 0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


def first_of_images_for_pipeline(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return (load_frames([image, image])[0, 0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


ENTRANCES = [first_of_video, first_of_stream, first_of_path_for_pipeline, first_of_images_for_pipeline, read_image]


def save_two(folder: Path, image: Image.Image, name: str, **options: object) -> Path:
    for number in range(2):
        image.save(folder / f"{number}.{name}", **options)
    return folder / f"0.{name}"


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize(("name", "kind"), [("png", np.uint16), ("tif", np.uint16), ("tif", np.float32), ("tif", ">u2")])
def test_deep_pictures_are_scaled_to_8_bits(tmp_path: Path, entrance: Callable, name: str, kind: type) -> None:
    values = RAMP if kind is np.float32 else (RAMP * 65535).round()
    path = save_two(tmp_path, Image.fromarray(values.astype(kind)), name)
    np.testing.assert_allclose(entrance(path), EXPECTED, atol=1)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LA", "RGBA", "PA", "RGBX", "HSV"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    """A picture of black and white, which all of these modes can hold."""
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[4:9, 2:8] = 255
    np.testing.assert_array_equal(rgb_array(Image.fromarray(picture).convert(mode)), picture)


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("name", ["tif", "jpg"])
def test_cmyk_and_palettes_from_files(tmp_path: Path, entrance: Callable, name: str) -> None:
    flat = np.full((16, 16, 3), (200, 40, 90), np.uint8)
    path = save_two(tmp_path, Image.fromarray(flat).convert("CMYK"), name)
    np.testing.assert_allclose(entrance(path), flat, atol=3)


def test_values_without_a_known_range_are_refused_by_name(tmp_path: Path) -> None:
    for values, words in (
        ((RAMP * 255).astype(np.float32), "must lie in 0..1, got 0..255"),
        (np.where(RAMP > 0.5, np.nan, RAMP).astype(np.float32), "must lie in 0..1"),
        ((RAMP * 1e6).astype(np.int32), "32-bit integers"),
    ):
        save_two(tmp_path, Image.fromarray(values), "tif")
        with pytest.raises(ValueError, match=rf"0\.tif.*{words}"):
            read_video(tmp_path)
        with pytest.raises(ValueError, match=words):
            load_frames([Image.fromarray(values)] * 2)


# Transparency


def half_transparent(hidden: tuple[int, int, int]) -> np.ndarray:
    """(16, 16, 4): the left half a colour, the right half another one, hidden."""
    picture = np.full((16, 16, 4), (*hidden, 0), np.uint8)
    picture[:, :8] = (10, 20, 30, 255)
    return picture


WHITE_BEHIND = np.where(np.arange(16)[None, :, None] < 8, np.array([10, 20, 30]), 255).repeat(16, 0).astype(np.uint8)


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("name", ["png", "webp", "tif", "avif", "gif"])
def test_hidden_colours_never_show(tmp_path: Path, entrance: Callable, name: str) -> None:
    image = Image.fromarray(half_transparent((255, 0, 255)))
    path = save_two(tmp_path, image, name, **({"lossless": True, "exact": True} if name == "webp" else {}))
    np.testing.assert_allclose(
        entrance(path)[:, [0, 1, 2, 3, 12, 13, 14, 15]], WHITE_BEHIND[:, [0, 1, 2, 3, 12, 13, 14, 15]], atol=6
    )


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "I;16"])
def test_a_transparent_colour_of_a_png(tmp_path: Path, mode: str) -> None:
    grey = np.full((16, 16), 100, np.uint8)
    grey[:, 8:] = 7
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    colour = {"RGB": (7, 7, 7), "L": 7, "P": 7, "I;16": 7 * 257}[mode]
    path = save_two(tmp_path, image, "png", transparency=colour)
    for entrance in ENTRANCES:
        assert (entrance(path)[:, :8] == 100).all() and (entrance(path)[:, 8:] == 255).all()


def test_half_transparent_pixels_are_mixed_with_white() -> None:
    image = Image.new("RGBA", (4, 4), (0, 100, 200, 128))
    np.testing.assert_allclose(rgb_array(image)[0, 0], np.array([0, 100, 200]) * 128 / 255 + 127, atol=1)


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_followed_where_no_camera_is_known(tmp_path: Path, orientation: int) -> None:
    stored = np.zeros((16, 24, 3), np.uint8)
    stored[:8, :8] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save_two(tmp_path, Image.fromarray(stored), "png", exif=exif)
    shown = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.swapaxes(0, 1),
        6: np.rot90(stored, -1),
        7: np.rot90(stored, 2).swapaxes(0, 1),
        8: np.rot90(stored),
    }[orientation]
    for entrance in ENTRANCES[:-1]:
        np.testing.assert_array_equal(entrance(path), shown)
    np.testing.assert_array_equal(read_image(path), stored)


# Folders


def grey_picture(path: Path, value: int) -> None:
    Image.new("RGB", (16, 16), (value,) * 3).save(path, format="jpeg" if path.suffix.lower() == ".jpg" else None)


def values(folder: Path) -> list[int]:
    streamed = [int(frame.mean().round()) for frame in stream_video(folder)]
    assert streamed == read_video(folder).frames.mean((1, 2, 3)).round().astype(int).tolist()
    return streamed


def test_kinds_are_mixed_and_capitals_count(tmp_path: Path) -> None:
    for number, name in enumerate(("IMG_1.JPG", "img_2.png", "IMG_3.AVIF", "IMG_4.WebP", "IMG_5.TIFF", "IMG_6.gif", "IMG_7.jp2")):
        grey_picture(tmp_path / name, 20 + 10 * number)
    np.testing.assert_allclose(values(tmp_path), [20, 30, 40, 50, 60, 70, 80], atol=1)


@pytest.mark.parametrize("name", ["IMG_2.HEIC", "IMG_2.heif", "IMG_2.DNG", "IMG_2.exr", "IMG_2.jxl"])
def test_a_kind_that_cannot_be_read_is_refused_by_name(tmp_path: Path, name: str) -> None:
    for number in (0, 1, 3):
        grey_picture(tmp_path / f"IMG_{number}.JPG", 100)
    (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    for read in (read_video, lambda path: stream_video(path), load_frames):
        with pytest.raises(ValueError, match=name):
            list(read(tmp_path))


HEIC = (  # 64 x 64, left half (200, 60, 30), right half (20, 90, 220)
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAVZtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9jAAAAAERAAAEAAQAAAAAB"
    "egABAAAAAAAAACQAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA1mlwcnAAAAC3aXBjbwAAAHhodmNDAQNwAAAAkAAAAAAA"
    "HvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQArQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbqSSmubgIaDAgAAAMAyAAAAwAIQGIAAQAHRAHB"
    "crAiQAAAABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABAAAAAQAAAABBwaXhpAAAAAAMICAgAAAAXaXBtYQAAAAAAAAABAAEEgQIDBAAAACxtZGF0AAAAICgB"
    "rxmA93yFN//zJl/5TSv97Evf/gvNfgU1/1fI7zOA"
)


def test_heic_is_read_where_its_library_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("pi_heif")
    for number in range(2):
        (tmp_path / f"IMG_{number}.HEIC").write_bytes(base64.b64decode(HEIC))
    for entrance in ENTRANCES[:3]:
        picture = entrance(tmp_path / "IMG_0.HEIC")
        np.testing.assert_allclose(picture[30, [10, 50]], [(200, 60, 30), (20, 90, 220)], atol=4)


def test_hidden_files_and_texts_are_no_frames(tmp_path: Path) -> None:
    for number in range(3):
        grey_picture(tmp_path / f"{number}.png", 100 + number)
        (tmp_path / f"._{number}.png").write_bytes(b"\0\5\x16\7" + bytes(60))
    (tmp_path / ".DS_Store").write_bytes(bytes(9))
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "old.png").mkdir()
    assert values(tmp_path) == [100, 101, 102]


def test_numbers_of_any_length_stand_in_their_order(tmp_path: Path) -> None:
    names = [
        "frame_1.png",
        "frame_02.png",
        "Frame_3.png",
        "frame_10.png",
        "frame_0100.png",
        "frame_\u0661\u0660\u0661.png",
        "x\u00b2.png",
    ]
    for number, name in enumerate(names):
        grey_picture(tmp_path / name, 100 + number)
    assert values(tmp_path) == list(range(100, 100 + len(names)))


def test_what_may_or_may_not_be_meant_is_asked_back(tmp_path: Path) -> None:
    for number in range(3):
        grey_picture(tmp_path / f"{number}.png", 100)
    (tmp_path / "3").write_bytes((tmp_path / "2.png").read_bytes())
    with pytest.raises(ValueError, match="'3' in .* is a picture by its content, not by its name"):
        read_video(tmp_path)
    (tmp_path / "3").rename(tmp_path / "clip.mp4")
    with pytest.raises(ValueError, match=r"images and the video 'clip\.mp4'"):
        read_video(tmp_path)
    (tmp_path / "clip.mp4").unlink()
    Image.new("L", (16, 16)).save(tmp_path / "3.gif", save_all=True, append_images=[Image.new("L", (16, 16), 9)])
    with pytest.raises(ValueError, match=r"3\.gif.* is an animation of 2 pictures"):
        read_video(tmp_path)


@pytest.mark.parametrize("name", ["png", "jpg", "webp", "tif", "gif", "avif", "bmp", "jp2"])
def test_damaged_pictures_are_refused_by_name(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(0)
    path = save_two(tmp_path, Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)), name)
    content = np.frombuffer(path.read_bytes(), np.uint8)
    for _ in range(40):
        damaged = content.copy()
        damaged[rng.integers(0, len(damaged), 8)] = rng.integers(0, 256, 8)
        path.write_bytes(damaged[: rng.integers(1, len(damaged) + 1)].tobytes())
        try:
            frames = read_video(tmp_path, size=(8, 8)).frames
        except ValueError as error:
            assert path.name in str(error) or str(tmp_path) in str(error)
        else:
            assert frames.shape == (2, 8, 8, 3)


def test_links_to_pictures_that_are_not_there_are_refused_by_name(tmp_path: Path) -> None:
    """Data sets that keep large files elsewhere leave such links until the files are fetched."""
    save_two(tmp_path, Image.new("RGB", (8, 8)), "png")
    (tmp_path / "notes.txt").symlink_to(tmp_path / "nowhere.txt")  # no picture
    assert len(read_video(tmp_path).frames) == 2
    (tmp_path / "2.png").symlink_to(tmp_path / "store" / "2.png")
    for read in (read_video, stream_video, load_frames, lambda folder: visible_files(folder, (".png",))):
        with pytest.raises(ValueError, match="2.png' is a link to '.*store/2.png', which is not there"):
            read(tmp_path)


def test_a_place_that_cannot_be_looked_at_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    place = tmp_path / f"{'a' * 300}.mp4"
    for read in (read_video, stream_video, load_frames):
        with pytest.raises(ValueError, match="a.mp4' cannot be read: File name too long"):
            read(place)
    for command in (["reconstruct", str(place)], ["register", str(place)], ["view", str(place)]):
        assert main([*command, *([] if command[0] == "view" else ["--out", str(tmp_path / "out")])]) == 2
        assert len((line := capsys.readouterr().err).splitlines()) == 1 and "File name too long" in line
