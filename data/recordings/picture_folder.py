"""A folder of pictures as a recording: one frame each, in the natural order of their names."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from jog3r.data.recordings.pictures import check_kinds, picture_files, read_image
from jog3r.data.recordings.shots import Shot, VideoLimits

__all__ = ["FOLDER_FPS", "PictureFolder"]

FOLDER_FPS = 8.0  # a folder of images has no clock; this one is written to the results


class PictureFolder:
    """A recording in a folder.

    Raises:
        ValueError: no pictures, some of a kind that cannot be read, or a mixture; see `picture_files`.
    """

    counted = True
    fps = FOLDER_FPS

    def __init__(self, path: Path, limits: VideoLimits) -> None:
        self.path, self._limits = path, limits
        self._files = picture_files(path)
        check_kinds(path, self._files)
        self.expected_frames = len(self._files)
        self.names = [file.name for file in self._files]

    def shots(self) -> Iterator[Shot]:
        """See `Recording`; times are the place among the pictures / `FOLDER_FPS`."""
        for number, file in enumerate(self._files):
            yield Shot(number / FOLDER_FPS, partial(read_image, file, max_side=self._limits.max_side), 1.0, repr(file.name))
