"""Features of all frames and their verified matches, found by pycolmap in a database of its own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jog3r.sfm.colmap import load_pycolmap
from jog3r.sfm.frames import Grid, rgb_frame

PEAK_THRESHOLD = 0.002  # a third of COLMAP's: walls and compressed video have few strong corners
MAX_FEATURES = 2048
EXHAUSTIVE_FRAMES = 32
NEIGHBOURS = 4  # following frames to which each frame of a longer video is matched; then 8, 16, 32, ... ahead


@dataclass(frozen=True)
class Matches:
    """Features of F frames and P verified pairs of frames."""

    database: Path
    """COLMAP's database with all this."""
    xy: tuple[np.ndarray, ...]
    """Per frame (K, 2) float64 in work pixels."""
    small_xy: tuple[np.ndarray, ...]
    """Per frame (K, 2) float64 in small pixels."""
    pairs: np.ndarray
    """(P, 2) frames of each pair, the first smaller."""
    indices: tuple[np.ndarray, ...]
    """Per pair (M, 2) numbers of the matched features."""
    focal_free: bool
    """The matches were verified without a focal length."""

    @property
    def num_frames(self) -> int:
        """F."""
        return len(self.xy)


def frame_pairs(num_frames: int) -> np.ndarray:
    """Pairs (P, 2) to match: all of a short clip; of a longer one neighbours, powers of two ahead, and frame 1 with every 8th.

    The number grows as F log F.
    """
    first, second = np.triu_indices(num_frames, 1)
    if num_frames > EXHAUSTIVE_FRAMES:
        gap = second - first
        power = (gap & (gap - 1)) == 0
        wanted = (gap <= NEIGHBOURS) | (power & (gap <= 64)) | ((first == 0) & (second % 8 == 0) & (second <= 256))
        first, second = first[wanted], second[wanted]
    return np.stack([first, second], 1)


def find_features(video: Any, grid: Grid, folder: Path, focal_px: float, seed: int) -> Path:
    """Write a database with the features of all frames, in work pixels; returns its path."""
    pycolmap = load_pycolmap()
    images = folder / "images"
    images.mkdir()
    names = []
    for index in range(len(video)):
        frame = rgb_frame(video, index)
        if frame.size != grid.small_size:
            frame = frame.resize(grid.small_size, Image.Resampling.LANCZOS, reducing_gap=3.0)
        names.append(f"{index:06d}.png")
        frame.convert("L").save(images / names[-1], compress_level=1)
    options = pycolmap.FeatureExtractionOptions()
    options.use_gpu = False
    options.sift.peak_threshold = PEAK_THRESHOLD
    options.sift.max_num_features = MAX_FEATURES
    reader = pycolmap.ImageReaderOptions()
    reader.camera_model = "SIMPLE_PINHOLE"
    reader.camera_params = f"{focal_px},{grid.small_size[0] / 2},{grid.small_size[1] / 2}"
    database = folder / "database.db"
    pycolmap.set_random_seed(seed)
    # Imported first, images are numbered in their order, not in that in which threads happen to end: the mapper's draws depend
    # on it.
    pycolmap.Database.open(database).close()
    single = pycolmap.CameraMode.SINGLE
    pycolmap.import_images(database, images, camera_mode=single, image_names=names, options=reader)
    pycolmap.extract_features(
        database, images, image_names=names, camera_mode=single, reader_options=reader, extraction_options=options
    )
    return database


def match_features(database: Path, grid: Grid, pairs: np.ndarray, focal_known: bool, seed: int) -> Matches:
    """Match the features of the pairs given and keep what one rigid scene explains."""
    pycolmap = load_pycolmap()
    offset = np.array(grid.small_size) / 2
    with pycolmap.Database.open(database) as opened:
        images = sorted(opened.read_all_images(), key=lambda image: image.name)
        ids = [image.image_id for image in images]
        small_xy, xy = [], []
        for frame, image_id in enumerate(ids):
            keypoints = np.array(opened.read_keypoints(image_id), dtype=np.float32)  # (K, 6): place and affine shape
            keypoints = keypoints.reshape(-1, 6)
            small_xy.append(keypoints[:, :2].astype(np.float64))
            xy.append(grid.to_work(small_xy[-1], frame))
            keypoints[:, :2] = xy[-1] + offset
            opened.update_keypoints(image_id, keypoints)
        camera = opened.read_all_cameras()[0]
        camera.has_prior_focal_length = focal_known
        opened.update_camera(camera)
    listed = database.with_name("pairs.txt")
    listed.write_text("".join(f"{images[i].name} {images[j].name}\n" for i, j in pairs))
    pairing = pycolmap.ImportedPairingOptions()
    pairing.match_list_path = listed
    matching = pycolmap.FeatureMatchingOptions()
    matching.use_gpu = False
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = seed
    pycolmap.match_image_pairs(database, matching_options=matching, pairing_options=pairing, verification_options=verification)
    return _read_matches(pycolmap, database, ids, tuple(xy), tuple(small_xy), not focal_known)


def _read_matches(pycolmap: Any, database: Path, ids: list[int], xy: tuple, small_xy: tuple, focal_free: bool) -> Matches:
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
    return Matches(database, xy, small_xy, pairs, tuple(entry[2] for entry in found), focal_free)
