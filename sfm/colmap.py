"""pycolmap, which is optional: loaded on first use, quiet while we call it."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any


def load_pycolmap() -> Any:
    """The module pycolmap.

    Raises:
        ImportError: it is not installed; the message names the extra to install.
    """
    try:
        return import_module("pycolmap")
    except ImportError as error:
        raise ImportError(
            f"cameras from tracks need pycolmap: pip install '.[sfm]' in the checkout of jog3r ({error})"
        ) from error


@contextmanager
def quiet(pycolmap: Any) -> Iterator[None]:
    """Only errors of COLMAP reach the terminal inside; its level is put back afterwards."""
    before = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = int(pycolmap.logging.Level.ERROR)
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = before


def images_by_name(database: Any) -> list[Any]:
    """The images of an open database in the order of the frames, as which their names sort."""
    return sorted(database.read_all_images(), key=lambda image: image.name)
