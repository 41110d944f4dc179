"""Whatever takes the path of a file or folder takes a string as well, and says the same of it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jog3r.data.cache import Cache
from jog3r.data.camera_formats import find_cameras, read_posed_frames
from jog3r.data.posed_video import PosedFolders
from jog3r.data.realestate10k import RealEstate10K, RealEstate10KChunks, RealEstate10KTars
from jog3r.data.realestate10k.camera_files import read_camera_file
from jog3r.data.realestate10k.lists import read_captions, read_split
from jog3r.data.source import read_image
from jog3r.data.video import read_frames, read_video
from jog3r.data.video_stream import stream_video
from jog3r.export.exporters import write_results
from jog3r.export.scene import Scene
from jog3r.pipelines.video_input import load_frames

SIZE = (16, 16)
READERS: dict[str, Callable[[Any], Any]] = {
    "read_video": read_video,
    "stream_video": stream_video,
    "read_frames": lambda path: read_frames(path, [0, 1]),
    "read_image": read_image,
    "load_frames": load_frames,
    "Cache": Cache,
    "PosedFolders": lambda path: PosedFolders(path, SIZE),
    "captions of PosedFolders": lambda path: PosedFolders(Path(path).parent / "posed", SIZE, captions=path),
    "RealEstate10K": lambda path: RealEstate10K(path, path, SIZE),
    "split of RealEstate10K": lambda path: RealEstate10K(Path(path).parent, Path(path).parent, SIZE, split=path),
    "RealEstate10KTars": lambda path: RealEstate10KTars(path, SIZE),
    "RealEstate10KChunks": lambda path: RealEstate10KChunks(path, SIZE),
    "read_camera_file": read_camera_file,
    "read_captions": read_captions,
    "read_split": lambda path: read_split(path, path, path),
    "read_posed_frames": read_posed_frames,
}


class Place(os.PathLike):
    """A path of another library."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


@pytest.fixture
def posed(tmp_path: Path) -> Path:
    folder = tmp_path / "posed"
    write_results(Scene(np.zeros((2, 16, 16, 3), np.uint8), [np.eye(4)] * 2, [np.diag([9.0, 9.0, 1.0])] * 2), folder)
    return folder


@pytest.mark.parametrize("name", READERS)
def test_what_is_missing_is_refused_alike(tmp_path: Path, posed: Path, name: str) -> None:
    messages = []
    for form in (Path, str, Place):
        with pytest.raises(ValueError) as caught:
            READERS[name](form(tmp_path / "none"))
        messages.append(str(caught.value))
    assert len(set(messages)) == 1 and "none" in messages[0], messages


@pytest.mark.parametrize("form", [str, Path, Place])
def test_what_is_there_is_read(tmp_path: Path, posed: Path, form: Callable) -> None:
    source = PosedFolders(form(tmp_path), SIZE, default_caption="a room")
    assert source.names == ["posed"] and source.load(0).num_frames == 2
    assert find_cameras(form(posed)) == posed / "cameras.json"
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    assert read_image(form(tmp_path / "a.png")).shape == (16, 16, 3)
    for read in (read_video, load_frames):
        assert len(list(read(form(posed / "video.mp4")))) >= 1
