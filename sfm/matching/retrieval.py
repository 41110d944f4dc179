"""Places of a long video that are seen again: frames that look alike, by descriptors of whole frames made of their own features.

A vocabulary of words is found in the video itself (k-means of a sample of its features); a frame is described by what its
features differ from their words (VLAD). Which of the pairs proposed are the same place is left to matching and verification.
"""

from pathlib import Path

import numpy as np

from jog3r.sfm.colmap import images_by_name, load_pycolmap

LEAST_GAP = 96  # frames; closer ones are matched in sequence
_WORDS = 32
_SAMPLE = 8192  # features from which words are found
_PER_FRAME = 400  # features, the strongest, that describe a frame
_EVERY = 4  # frames between those for which others are looked for
_FOUND = 2  # most alike frames of each
_APART = 8  # frames between two of those


def loop_pairs(database: Path, num_frames: int, seed: int) -> np.ndarray:
    """Pairs (P, 2) of frames at least `LEAST_GAP` apart that look alike; at most one for every second frame.

    Args:
        database: COLMAP's, with the features of all frames.
        num_frames: F.
        seed: of the vocabulary.
    """
    if num_frames <= LEAST_GAP:
        return np.zeros((0, 2), np.int64)
    frames = np.arange(0, num_frames, _EVERY)
    descriptors = _frame_descriptors(database, frames, seed)
    alike = descriptors @ descriptors.T
    alike[np.abs(frames[:, None] - frames) < LEAST_GAP] = -np.inf
    pairs = set()
    for query in range(len(frames)):
        row = alike[query].copy()
        for _ in range(_FOUND):
            best = int(row.argmax())
            if not np.isfinite(row[best]):
                break
            pairs.add((min(frames[query], frames[best]), max(frames[query], frames[best])))
            row[np.abs(frames - frames[best]) < _APART] = -np.inf
    return np.array(sorted(pairs), np.int64).reshape(-1, 2)


def _frame_descriptors(database: Path, frames: np.ndarray, seed: int) -> np.ndarray:
    """(K, D) float32 unit vectors of the frames with these numbers."""
    pycolmap = load_pycolmap()
    rng = np.random.default_rng(seed)
    with pycolmap.Database.open(database) as opened:
        images = images_by_name(opened)

        def features(frame: int) -> np.ndarray:
            described = np.asarray(opened.read_descriptors(images[frame].image_id).data)
            if not described.size:  # black, or without texture
                return np.zeros((0, 128), np.float32)
            scale = np.asarray(opened.read_keypoints(images[frame].image_id))[:, 2:]
            largest = np.argsort(-np.abs(scale).max(1, initial=0), kind="stable")[:_PER_FRAME]
            rooted = np.sqrt(described[largest].astype(np.float32))
            return rooted / np.maximum(np.linalg.norm(rooted, axis=1, keepdims=True), 1e-6)

        share = max(1, _SAMPLE // max(len(frames), 1))
        sample = np.concatenate([found[rng.permutation(len(found))[:share]] for found in map(features, frames.tolist())])
        words = _vocabulary(sample, rng)
        return np.stack([_describe(features(frame), words) for frame in frames.tolist()])


def _vocabulary(sample: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(W, 128) words: k-means of features (K, 128)."""
    words = sample[rng.permutation(len(sample))[:_WORDS]]
    for _ in range(10):
        nearest = (sample @ words.T).argmax(1) if len(sample) else np.zeros(0, np.int64)
        sums = np.zeros_like(words)
        np.add.at(sums, nearest, sample)
        norm = np.linalg.norm(sums, axis=1, keepdims=True)
        words = np.where(norm > 0, sums / np.maximum(norm, 1e-6), words)
    return words


def _describe(features: np.ndarray, words: np.ndarray) -> np.ndarray:
    """(W * 128,) of one frame: sums of the differences from each word, each word's of length 1."""
    total = np.zeros_like(words)
    nearest = (features @ words.T).argmax(1) if len(features) and len(words) else np.zeros(0, np.int64)
    np.add.at(total, nearest, features[: len(nearest)] - words[nearest] if len(nearest) else np.zeros((0, 128), np.float32))
    total /= np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-6)
    flat = total.reshape(-1)
    return flat / max(float(np.linalg.norm(flat)), 1e-6)
