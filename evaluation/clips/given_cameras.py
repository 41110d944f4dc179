"""Cameras that anybody's method found: a folder with a file a clip, scored in the same table.

For the clip NAME one of NAME.npz, NAME.json, NAME/cameras.json, NAME/cameras.npz. An npz holds `poses` (F,4,4) camera-to-world,
or `extrinsics` (F,3,4) or (F,4,4) world-to-camera, OpenCV axes; optionally `intrinsics` (F,3,3) in pixels of the clip, `depth`
(F,H,W), `known` (F,) bool. A json is a cameras.json of jog3r. F is that of the clip, or of the whole video, of which the clip's
frames count.
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

    def _fit(self, arrays: dict[str, np.ndarray], index: int, whole: bool) -> dict[str, np.ndarray]:
        """The frames of the clip, of arrays that may be, or are known to be, of the `whole` video."""
        count, frames = len(arrays["poses"]), None
        if isinstance(self._clips, WindowedClips):
            frames = np.array(self._clips.entries[index].frames)
        wanted = len(self._clips[index].poses) if frames is None else len(frames)
        for name, value in arrays.items():
            if name != "size" and (value.ndim == 0 or len(value) != count):
                raise ValueError(f"{name} must have an entry for each of {count} frames, got {value.shape}")
        if frames is not None and (whole or count != wanted) and frames.max() < count:
            arrays = {name: value if name == "size" else value[frames] for name, value in arrays.items()}
        elif whole or count != wanted:
            last = "" if frames is None else f", the last of them number {frames.max()} of the video"
            raise ValueError(f"it has {count} cameras, the clip has {wanted} frames{last}")
        known = arrays.pop("known", np.ones(wanted, bool)).astype(bool)
        arrays["poses"] = np.where(known[:, None, None], arrays["poses"], np.eye(4))
        for name in ("intrinsics", "depth"):
            if name in arrays and (arrays[name].ndim != 3 or len(arrays[name]) != wanted):
                raise ValueError(f"{name} must have an entry for each of {wanted} frames, got {arrays[name].shape}")
        self._match_size(arrays, index)
        if not np.isfinite(arrays["poses"]).all():
            raise ValueError("poses contain NaN or infinity; mark frames without a pose as not known")
        if (fault := pose_fault(arrays["poses"])) is not None:
            raise ValueError(f"poses must be rigid; frame {fault[0]}: {fault[1]}")
        return arrays | {"degenerate": np.where(known, "", NO_OVERLAP)}

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
    if "extrinsics" in arrays:
        matrices = arrays.pop("extrinsics")
        world_to_camera = np.tile(np.eye(4), (len(matrices), 1, 1))
        world_to_camera[:, :3] = matrices[:, :3]
        arrays["poses"] = np.linalg.inv(world_to_camera)
    if arrays["poses"].ndim != 3 or arrays["poses"].shape[1:] != (4, 4):
        raise ValueError(f"poses must be (F,4,4), got {arrays['poses'].shape}")
    return arrays
