"""From a result to files, and what a command says of them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jog3r.commands.output_folder import PartlyDone, UsageError

__all__ = [
    "check_exports",
    "report",
    "result_names",
    "write_exports",
    "write_results_of",
    "write_scene",
    "write_video",
    "written_line",
]


def check_exports(names: list[str], has_geometry: bool) -> None:
    """Refuse unknown names of exports, and exports of a video without cameras.

    Raises:
        UsageError: see above.
    """
    if not names:
        return
    from jog3r.export.exporters import EXPORTERS

    unknown = [name for name in names if name not in EXPORTERS]
    if unknown:
        raise UsageError(f"unknown --export {', '.join(map(repr, unknown))}; choose from {', '.join(EXPORTERS)}")
    if not has_geometry:
        raise UsageError("--export needs cameras; use --task t2v+c")


def result_names(exports: list[str]) -> list[str]:
    """Files and folders that a run with these exports leaves in its folder."""
    from jog3r.export.exporters import RESULT_NAMES, TARGETS

    return [*RESULT_NAMES, *(TARGETS[name] for name in exports)]


def write_scene(
    output: Any, clock: tuple[float, Any], caption: str, exports: list[str], folder: Path, images: list[str] | None = None
) -> dict[str, Exception]:
    """All results; returns the exports that could not be made.

    Args:
        output: of the pipeline.
        clock: frames per second, and the times (F,) of the frames in seconds or None.
        caption: the prompt, or empty.
        exports: keys of `EXPORTERS`.
        folder: to write into.
        images: names of the pictures that the frames are, if any.
    """
    from jog3r.export.scene import Scene

    return write_results_of(
        Scene(**output.clip(), fps=clock[0], times=clock[1], caption=caption, source="network", images=images), exports, folder
    )


def write_results_of(scene: Any, exports: list[str], folder: Path) -> dict[str, Exception]:
    """The files of every run and the exports of a scene; returns the exports that could not be made."""
    from jog3r.export.exporters import write_results

    write_results(scene, folder, overwrite=True)
    return write_exports(exports, lambda _: scene, folder)


def write_video(frames: list[Any], fps: float, folder: Path) -> None:
    """Write video.mp4 alone."""
    import numpy as np

    from jog3r.export.video import encode_video

    (folder / "video.mp4").write_bytes(encode_video(np.stack([np.asarray(frame) for frame in frames]), fps))


def write_exports(exports: list[str], scene_of: Callable[[str], Any], folder: Path) -> dict[str, Exception]:
    """Write exports into a folder one by one; returns what was wrong with those that could not be made.

    Args:
        exports: keys of `EXPORTERS`.
        scene_of: the scene of an export.
        folder: which holds the results already, so that none of them is lost.
    """
    from jog3r.export.exporters import EXPORTERS, TARGETS
    from jog3r.export.files import write_files

    failed: dict[str, Exception] = {}
    for name in exports:
        try:
            write_files(folder, EXPORTERS[name](scene_of(name)), overwrite=True)
        except (ValueError, OSError) as error:  # OSError: the disk is full
            failed[f"--export {name}"] = error
            if (begun := folder / TARGETS[name]).is_dir():
                shutil.rmtree(begun)
    return failed


def written_line(out: Path, names: list[str]) -> str:
    """Folder and files written; with --overwrite also what was there before and stays, so that no two runs are mixed up."""
    from jog3r.export.exporters import left_from_earlier

    old = left_from_earlier(out, names)
    return f"{out}: {', '.join(names)}" + (f"\nnote: left from an earlier run: {', '.join(old)}" if old else "")


def report(text: str, out: Path, failed: dict[str, Exception]) -> str:
    """What a command prints of its results in `out`.

    Raises:
        PartlyDone: something has failed (option -> error); it holds the text.
    """
    if not failed:
        return text
    reasons = "; ".join(f"{name} could not be made: {error}" for name, error in failed.items())
    raise PartlyDone(f"{reasons}; everything else is in {str(out)!r}", text) from next(iter(failed.values()))
