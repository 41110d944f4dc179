"""Features of all frames and their verified matches, found by pycolmap in a database of its own."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jog3r.sfm.colmap import images_by_name, load_pycolmap
from jog3r.sfm.frames import Grid, rgb_frame
from jog3r.sfm.matching.retrieval import loop_pairs

PEAK_THRESHOLD = 0.002  # a third of COLMAP's: walls and compressed video have few strong corners
MAX_FEATURES = 1200
ENLARGED_SIDE = 400  # pictures with a shorter longer side are searched at twice their size, too, which costs four times as much
EXHAUSTIVE_FRAMES = 24
NEIGHBOURS = 4  # following frames to which each frame of a longer video is matched; then 8, 16, 32, ... ahead
_FRAMES_AT_ONCE, _PAIRS_AT_ONCE = 64, 1024

Advance = Callable[[float], Any]


def no_progress(share: float) -> None:  # noqa: ARG001  # nobody looks
    """Tell nobody."""


@dataclass(frozen=True)
class Matches:
    """Features of F frames and P verified pairs of frames."""

    database: Path
    """COLMAP's database with all this."""
    xy: tuple[np.ndarray, ...]
    """Per frame (K, 2) float64 in work pixels."""
    pairs: np.ndarray
    """(P, 2) frames of each pair, the first smaller."""
    indices: tuple[np.ndarray, ...]
    """Per pair (M, 2) numbers of the matched features."""

    @property
    def num_frames(self) -> int:
        """F."""
        return len(self.xy)


def frame_pairs(num_frames: int) -> np.ndarray:
    """Pairs (P, 2) to match: all of a short clip; of a longer one neighbours, powers of two ahead, and frame 1 with every 8th.

    The number grows as F log F.
    """
    if num_frames <= EXHAUSTIVE_FRAMES:
        return np.stack(np.triu_indices(num_frames, 1), 1)
    gaps = sorted({*range(1, NEIGHBOURS + 1), *(2**power for power in range(7))})  # 1 to 64
    pairs = [np.stack([np.arange(num_frames - gap), np.arange(gap, num_frames)], 1) for gap in gaps if gap < num_frames]
    star = np.arange(8, min(num_frames, 257), 8)
    return np.unique(np.concatenate([*pairs, np.stack([np.zeros_like(star), star], 1)]), axis=0)


def all_pairs(database: Path, num_frames: int, seed: int) -> np.ndarray:
    """Pairs (P, 2) to match: those of `frame_pairs`, and of a long video frames that look alike, wherever they are."""
    near = frame_pairs(num_frames)
    again = loop_pairs(database, num_frames, seed)
    return np.unique(np.concatenate([near, again]), axis=0) if len(again) else near


def find_features(video: Any, grid: Grid, folder: Path, focal_px: float, seed: int, advance: Advance = no_progress) -> Path:
    """Write a database with the features of all frames, in small pixels; returns its path.

    Args:
        video: the frames.
        grid: of them.
        folder: for the database and, a few at a time, the reduced frames.
        focal_px: in work pixels.
        seed: of all draws.
        advance: is told the share that was done since it was told last.
    """
    pycolmap = load_pycolmap()
    images, database = folder / "images", folder / "database.db"
    images.mkdir()
    options = pycolmap.FeatureExtractionOptions()
    options.use_gpu = False
    options.sift.peak_threshold = PEAK_THRESHOLD
    options.sift.max_num_features = MAX_FEATURES
    options.sift.first_octave = -1 if max(grid.small_size) < ENLARGED_SIDE else 0
    pycolmap.set_random_seed(seed)
    for start in range(0, len(video), _FRAMES_AT_ONCE):
        names = write_frames(video, grid, images, range(start, min(start + _FRAMES_AT_ONCE, len(video))))
        reader = import_frames(database, images, names, grid, focal_px)
        pycolmap.extract_features(
            database,
            images,
            image_names=names,
            camera_mode=pycolmap.CameraMode.SINGLE,
            reader_options=reader,
            extraction_options=options,
        )
        for name in names:
            (images / name).unlink()
        advance(len(names) / len(video))
    return database


def write_frames(video: Any, grid: Grid, folder: Path, frames: range) -> list[str]:
    """Write reduced grey frames as PNG; returns their names, which sort as the frames."""
    names = []
    for index in frames:
        frame = rgb_frame(video, index)
        if frame.size != grid.small_size:
            frame = frame.resize(grid.small_size, Image.Resampling.LANCZOS, reducing_gap=3.0)
        names.append(f"{index:06d}.png")
        frame.convert("L").save(folder / names[-1], compress_level=1)
    return names


def import_frames(database: Path, images: Path, names: list[str], grid: Grid, focal_px: float) -> Any:
    """Add frames to the database in their order, all of one camera; returns the reader's options.

    Else images are numbered as threads happen to end, and the mapper's draws depend on the numbers.
    """
    pycolmap = load_pycolmap()
    reader = pycolmap.ImageReaderOptions()
    reader.camera_model = "SIMPLE_PINHOLE"
    reader.camera_params = f"{focal_px},{grid.small_size[0] / 2},{grid.small_size[1] / 2}"
    with pycolmap.Database.open(database) as opened:
        if opened.num_images():
            reader.existing_camera_id = opened.read_all_cameras()[0].camera_id
    pycolmap.import_images(database, images, camera_mode=pycolmap.CameraMode.SINGLE, image_names=names, options=reader)
    return reader


def match_features(
    database: Path, grid: Grid, pairs: np.ndarray, focal_known: bool, seed: int, advance: Advance = no_progress
) -> Matches:
    """Match the features of the pairs given and keep what one rigid scene explains.

    Args:
        database: with all features, in small pixels; they are brought to work pixels.
        grid: of the frames.
        pairs: (P, 2) frames.
        focal_known: the focal length in the database is right.
        seed: of all draws.
        advance: is told the share that was done since it was told last.
    """
    pycolmap = load_pycolmap()
    names, ids, xy = to_work_pixels(database, grid, focal_known)
    matching = pycolmap.FeatureMatchingOptions()
    matching.use_gpu = False
    # With several threads pycolmap 4.2 now and then loses up to half the matches of a pair.
    matching.num_threads = 1
    for listed, share in listed_pairs(database, names, pairs):
        pairing = pycolmap.ImportedPairingOptions()
        pairing.match_list_path = listed
        pycolmap.match_image_pairs(
            database, matching_options=matching, pairing_options=pairing, verification_options=verification(seed)
        )
        advance(share)
    return read_matches(database, ids, xy)


def verification(seed: int) -> Any:
    """Settings of COLMAP's geometric verification."""
    options = load_pycolmap().TwoViewGeometryOptions()
    options.ransac.random_seed = seed
    return options


def listed_pairs(database: Path, names: list[str], pairs: np.ndarray) -> Iterator[tuple[Path, float]]:
    """Files of pairs by name beside the database, as many pairs as are matched at once, and their share of all."""
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        some = pairs[start : start + _PAIRS_AT_ONCE]
        listed = database.with_name("pairs.txt")
        listed.write_text("".join(f"{names[i]} {names[j]}\n" for i, j in some))
        yield listed, len(some) / len(pairs)


def to_work_pixels(database: Path, grid: Grid, focal_known: bool) -> tuple[list[str], list[int], tuple]:
    """Bring the database's features to work pixels: names and numbers of its images, places in work pixels."""
    pycolmap = load_pycolmap()
    offset = np.array(grid.small_size) / 2
    with pycolmap.Database.open(database) as opened:
        images = images_by_name(opened)
        xy = []
        for frame, image in enumerate(images):
            keypoints = np.array(opened.read_keypoints(image.image_id), dtype=np.float32)  # (K, 6): place and affine shape
            keypoints = keypoints.reshape(len(keypoints), -1) if keypoints.size else keypoints.reshape(0, 6)
            xy.append(grid.to_work(keypoints[:, :2].astype(np.float64), frame))
            keypoints[:, :2] = xy[-1] + offset
            opened.update_keypoints(image.image_id, keypoints)
        camera = opened.read_all_cameras()[0]
        camera.has_prior_focal_length = focal_known
        opened.update_camera(camera)
    return [image.name for image in images], [image.image_id for image in images], tuple(xy)


def read_matches(database: Path, ids: list[int], xy: tuple) -> Matches:
    """The verified matches of a database whose images, in the order of the frames, have these numbers."""
    pycolmap = load_pycolmap()
    frame_of = {image_id: frame for frame, image_id in enumerate(ids)}
    found = []
    with pycolmap.Database.open(database) as opened:
        for pair_id, geometry in zip(*opened.read_two_view_geometries(), strict=True):
            matched = np.array(geometry.inlier_matches, dtype=np.int64).reshape(-1, 2)
            if not len(matched):
                continue
            first, second = (frame_of[image_id] for image_id in pycolmap.pair_id_to_image_pair(pair_id))
            found.append((first, second, matched) if first < second else (second, first, matched[:, ::-1]))
    found.sort(key=lambda entry: entry[:2])
    pairs = np.array([entry[:2] for entry in found], dtype=np.int64).reshape(-1, 2)
    return Matches(database, xy, pairs, tuple(entry[2] for entry in found))
