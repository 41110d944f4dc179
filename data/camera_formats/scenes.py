"""Which camera file a folder has, and reading whichever it is."""

from os import PathLike
from pathlib import Path

from jog3r.data.camera_formats.cameras_json import read_cameras_json
from jog3r.data.camera_formats.colmap import read_colmap
from jog3r.data.camera_formats.posed_frames import PosedFrames, check_posed
from jog3r.data.camera_formats.transforms_json import read_transforms_json

__all__ = ["find_cameras", "other_models", "read_posed_frames"]

COLMAP_FOLDERS = (".", "sparse/0", "sparse", "colmap/sparse/0", "sparse_text/0")  # the last: our own export
LOOKED_FOR = "transforms.json, cameras.json, or COLMAP model (images.bin or images.txt)"


def find_cameras(folder: str | PathLike[str]) -> Path | None:
    """The camera file of a folder: cameras.json, else transforms.json, else COLMAP's images.bin or images.txt; else None.

    Of a COLMAP model of which only half is there, its images file is named all the same: the scene counts, and reading it says
    what is missing.
    """
    folder = Path(folder)
    candidates = [folder / "cameras.json", folder / "transforms.json"]
    # The binary model first, as COLMAP does.
    models = [folder / place / f"images{suffix}" for place in COLMAP_FOLDERS for suffix in (".bin", ".txt")]
    halves = {path: (path.is_file(), path.with_name(f"cameras{path.suffix}").is_file()) for path in models}
    candidates = [path for path in candidates if path.is_file()] + [path for path in models if all(halves[path])]
    return next(iter(candidates + [path for path in models if any(halves[path])]), None)


def other_models(folder: Path) -> list[Path]:
    """Folders of further COLMAP models of a scene (sparse/1, ...), which COLMAP writes where images do not hang together."""
    path = find_cameras(folder)
    if path is None or path.parent.name != "0":
        return []
    others = (other for other in path.parent.parent.iterdir() if other.name.isdecimal() and other.name != "0")
    return sorted(other for other in others if any((other / name).is_file() for name in ("images.bin", "images.txt")))


def read_posed_frames(folder: str | PathLike[str], image_folder: str | None = None) -> PosedFrames:
    """Read whichever camera file `find_cameras` finds.

    Args:
        folder: of one video.
        image_folder: see `PosedFolders`.

    Raises:
        ValueError: no cameras, a file that is none, a lens model that is not supported, or fewer than 2 frames.
    """
    folder = Path(folder)
    path = find_cameras(folder)
    if path is None:
        raise ValueError(f"{str(folder)!r} holds no {LOOKED_FOR}")
    try:
        if path.name == "cameras.json":
            posed = read_cameras_json(path, image_folder)
        elif path.name == "transforms.json":
            posed = read_transforms_json(path, image_folder)
        else:
            posed = read_colmap(path, folder / (image_folder or "images"))
    except OSError as error:
        raise ValueError(f"{str(path)!r} or a file beside it cannot be read ({error})") from error
    check_posed(posed, path)
    return posed
