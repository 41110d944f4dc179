"""Cameras that anybody's method found: a folder with a file a clip, scored in the same table.

For the clip NAME one of NAME.npz, NAME.json, NAME/cameras.json, NAME/cameras.npz. An npz holds `poses` camera-to-world or
`extrinsics` world-to-camera, (F,3,4) or (F,4,4), OpenCV axes; optionally `intrinsics` (F,3,3), or (3,3) of all frames, in pixels
of the clip, `depth` (F,H,W), `known` (F,) bool. A json is a cameras.json of jog3r. F is that of the clip, or of the whole video,
of which the clip's frames count: with every frame, or with those that `frame_step` keeps.
"""

from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np

from jog3r.data.camera_formats.cameras_json import read_cameras
from jog3r.data.files import NPZ_FAULTS
from jog3r.evaluation.clips.clip_sets import ClipSet
from jog3r.evaluation.clips.windows import WindowedClips
from jog3r.geometry.pose_checks import pose_fault
from jog3r.geometry.registration.degeneracy import NO_OVERLAP

__all__ = ["GivenCameras"]

_SAME_ASPECT = 0.02  # two sizes whose aspects differ by more are not a picture and its reduction
_PATTERNS = ("{}.npz", "{}.json", "{}/cameras.json", "{}/cameras.npz")


class GivenCameras(Sequence[dict[str, np.ndarray]]):
    """A prediction a clip; one without a file, or with one that cannot be used, is a failed one, with the reason.

    Raises:
        ValueError: no such folder, or none of the clips has a file in it.
    """

    def __init__(self, folder: str | Path, clips: ClipSet) -> None:
        """Look for the files."""
        self._folder, self._clips = Path(folder), clips
        if not self._folder.is_dir():
            raise ValueError(f"predictions {str(folder)!r} is no folder")
        self._files = [self._find(k) for k in range(len(clips))]
        if not any(self._files):
            names = ", ".join(pattern.format(clips.names[0]) for pattern in _PATTERNS)
            raise ValueError(f"{str(folder)!r} has a file for none of {len(clips)} clips; for the first it would be {names}")

        self._numbers: Sequence[int] = range(len(clips))

    @property
    def place(self) -> str:
        """The folder, wherever it is named from."""
        return str(self._folder.resolve())

    def of(self, clips: Sequence[int]) -> "GivenCameras":
        """Those of the clips with these numbers."""
        chosen = copy(self)
        chosen._numbers = clips
        return chosen

    def __len__(self) -> int:
        """As many as clips."""
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        """Arrays as of `Predictions.load`; no slices."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        index = self._numbers[index]
        path = self._files[index]
        if path is None:
            return {"error": np.array(f"no prediction for {self._clips.names[index]!r}")}
        try:
            return self._fit(_read(path), index, path not in self._candidates(self._clips.names[index]))
        except (*NPZ_FAULTS, KeyError) as error:
            return {"error": np.array(f"{path.name}: {error}")}

    def _find(self, index: int) -> Path | None:
        """The clip's file: by its own name, else by that of its video."""
        names = (self._clips.names[index], self._clips.videos[self._clips.owners[index]])
        return next((path for name in names for path in self._candidates(name) if path.is_file()), None)

    def _candidates(self, name: str) -> list[Path]:
        return [self._folder / pattern.format(name) for pattern in _PATTERNS]

    def check(self) -> None:
        """Refuse files none of which can be used: that is a mistake in how they were written, no failure of a method.

        Raises:
            ValueError: with the reason of the first.
        """
        numbers = [place for place, index in enumerate(self._numbers) if self._files[index] is not None]
        first = None
        for place in numbers:
            found = self[place]
            if "error" not in found:
                return
            first = first or str(found["error"])
        if first is not None:
            raise ValueError(f"none of the {len(numbers)} files in {str(self._folder)!r} can be used; the first: {first}")

    def _fit(self, arrays: dict[str, np.ndarray], index: int, whole: bool) -> dict[str, np.ndarray]:
        """The frames of the clip, of arrays that may be, or are known to be, of the `whole` video."""
        count = len(arrays["poses"])
        if arrays.get("intrinsics", np.empty(0)).shape == (3, 3):
            arrays["intrinsics"] = np.tile(arrays["intrinsics"], (count, 1, 1))  # the same camera throughout
        _check_arrays(arrays, count)
        chosen = self._chosen(count, index, whole)
        arrays = {name: value if name == "size" else value[chosen] for name, value in arrays.items()}
        known = arrays.pop("known", np.ones(len(arrays["poses"]), bool)).astype(bool)
        # in the file's own precision, which says how equal two positions are
        arrays["poses"] = np.where(known[:, None, None], arrays["poses"], np.eye(4, dtype=arrays["poses"].dtype))
        self._match_size(arrays, index)
        if not np.isfinite(arrays["poses"]).all():
            raise ValueError("poses contain NaN or infinity; mark frames without a pose as not known")
        if (fault := pose_fault(arrays["poses"].astype(np.float64))) is not None:
            raise ValueError(f"poses must be rigid; frame {fault[0]}: {fault[1]}")
        return arrays | {"degenerate": np.where(known, "", NO_OVERLAP)}

    def _chosen(self, count: int, index: int, whole: bool) -> np.ndarray:
        """Which of `count` cameras are the clip's."""
        clips = self._clips
        if not isinstance(clips, WindowedClips):
            if count != (wanted := len(clips[index].poses)):
                raise ValueError(f"it has {count} cameras, the clip has {wanted} frames")
            return np.arange(count)
        frames, step = np.array(clips.entries[index].frames), clips.frame_step
        if count == len(frames) and not whole:
            return np.arange(count)
        if step == 1:
            if frames.max() < count:
                return frames
            last = f"the last of them number {frames.max()} of the video"
            raise ValueError(f"it has {count} cameras, the clip has {len(frames)} frames, {last}")
        kept = clips.video_frames(index)
        if count == kept:
            return frames
        if len(range(0, count, step)) == kept:
            return frames * step
        raise ValueError(
            f"it has {count} cameras, the clip has {len(frames)} frames, and its video {(kept - 1) * step + 1} to {kept * step} "
            f"frames, of which frame_step={step} keeps {kept}: give cameras of one of these three"
        )

    def _match_size(self, arrays: dict[str, np.ndarray], index: int) -> None:
        """Bring intrinsics of a cameras.json to the clip's pixels; refuse depth of another size."""
        size = arrays.pop("size", None)  # width, height
        if size is None and "depth" not in arrays:
            return
        height, width = self._clips[index].frames.shape[1:3]
        if size is not None and tuple(size) != (width, height):
            ratio = np.array([width, height]) / size
            if abs(ratio[0] / ratio[1] - 1) > _SAME_ASPECT:
                del arrays["intrinsics"]  # it was cropped: what of it is in the clip is not known
            else:
                scale = np.diag([*ratio, 1.0])
                half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # pixel centres lie at whole numbers
                arrays["intrinsics"] = np.linalg.inv(half) @ scale @ half @ arrays["intrinsics"]
        if "depth" in arrays and arrays["depth"].shape[1:] != (height, width):
            raise ValueError(f"depth must have the clip's {height} x {width} pixels, got {arrays['depth'].shape[1:]}")


def _read(path: Path) -> dict[str, np.ndarray]:
    """`poses` camera-to-world (F,4,4) and what else the file has."""
    if path.suffix == ".json":
        document, poses, intrinsics, known = read_cameras(path)
        sides = [document.get(name) for name in ("width", "height")]
        size = {"size": np.array(sides)} if all(isinstance(side, int) and side > 0 for side in sides) else {}
        return {"poses": poses, "intrinsics": intrinsics, "known": known, **size}
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in ("poses", "extrinsics", "intrinsics", "depth", "known") if name in stored.files}
    if ("poses" in arrays) == ("extrinsics" in arrays):
        raise ValueError("it must hold either poses or extrinsics")
    name = "poses" if "poses" in arrays else "extrinsics"
    matrices = arrays.pop(name)
    if matrices.ndim != 3 or matrices.shape[1:] not in ((3, 4), (4, 4)):
        raise ValueError(f"{name} must be (F,3,4) or (F,4,4), got {matrices.shape}")
    _check_numbers(name, matrices)
    precision = matrices.dtype if matrices.dtype.kind == "f" else np.dtype(np.float64)
    if name == "extrinsics":
        matrices = np.linalg.inv(_four_rows(matrices[:, :3].astype(np.float64))).astype(precision)
    return {"poses": _four_rows(matrices.astype(precision)), **arrays}


def _four_rows(matrices: np.ndarray) -> np.ndarray:
    """(F,4,4) of (F,3,4) or (F,4,4)."""
    if matrices.shape[1] == 4:
        return matrices
    last = np.tile(np.array([[[0, 0, 0, 1]]], matrices.dtype), (len(matrices), 1, 1))
    return np.concatenate((matrices, last), axis=1)


def _check_arrays(arrays: dict[str, np.ndarray], count: int) -> None:
    """Refuse optional arrays that are not of `count` frames, or no numbers."""
    shapes = {"known": (1, ()), "intrinsics": (3, (3, 3)), "depth": (3, ())}
    for name, (num_axes, last) in shapes.items():
        if name not in arrays:
            continue
        shape = arrays[name].shape
        if len(shape) != num_axes or shape[0] != count or shape[num_axes - len(last) :] != last:
            raise ValueError(f"{name} must have an entry for each of {count} frames{' of 3 x 3' * bool(last)}, got {shape}")
        _check_numbers(name, arrays[name])


def _check_numbers(name: str, array: np.ndarray) -> None:
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be numbers, got an array of {array.dtype}")
