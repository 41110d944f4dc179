"""Learned matchers of transformers in the place of SIFT: SuperPoint + LightGlue, and EfficientLoFTR."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from jog3r.sfm.colmap import images_by_name, load_pycolmap
from jog3r.sfm.frames import Grid
from jog3r.sfm.matching.features import (
    Advance,
    Matches,
    import_frames,
    listed_pairs,
    no_progress,
    read_matches,
    to_work_pixels,
    verification,
    write_frames,
)

KINDS = ("lightglue", "efficientloftr")
_SIDE = 32  # pixels: frames are padded to a multiple, as EfficientLoFTR asks for
_CELL_PX = 2.0  # matches of different pairs that meet in one cell of a frame are one feature
_FRAMES_KEPT = 64


@dataclass(frozen=True)
class LearnedMatcher:
    """A matcher of transformers.

    Attributes:
        name: folder or hub repository.
        model: the network, frozen.
    """

    name: str
    model: nn.Module

    @torch.no_grad()
    def __call__(self, first: Tensor, second: Tensor) -> np.ndarray:
        """Matched places (K, 4): x, y in two grey frames (H, W) in 0..1, first pixel's centre at 0.5.

        transformers' own way from the output to pixels rounds them down to whole ones, and pictures are stretched.
        """
        height, width = first.shape
        pair = torch.stack([first, second])[None, :, None]  # (1, 2, 1, H, W)
        padded = functional.pad(pair, (0, -width % _SIDE, 0, -height % _SIDE))
        parameter = next(self.model.parameters())
        output = self.model(pixel_values=padded.expand(-1, -1, 3, -1, -1).to(parameter))
        size = torch.tensor([padded.shape[-1], padded.shape[-2]]).to(output.keypoints)
        places = output.keypoints[0].float() * size.float() + 0.5  # (2, K, 2)
        # LightGlue without early stopping leaves out the batch.
        partner, score = output.matches.reshape(2, -1).long(), output.matching_scores.reshape(2, -1)
        if getattr(self.model.config, "model_type", "") == "lightglue":  # `partner` numbers the other frame's features
            good = (partner[0] > -1) & (score[0] > 0) & (output.mask.reshape(2, -1)[0] > 0)
            matched = torch.cat([places[0][good], places[1][partner[0][good]]], 1)
        else:  # row by row
            good = ((partner > -1) & (score > 0)).all(0)
            matched = torch.cat([places[0][good], places[1][good]], 1)
        inside = ((matched >= 0) & (matched <= torch.tensor([width, height] * 2).to(matched))).all(1)
        return np.asarray(matched[inside].cpu().double())


def check_matcher(name: str) -> str:
    """Look at the config of a matcher, of which it returns the kind; no weights are read.

    Raises:
        TypeError, ValueError: no such folder or repository, or of another kind.
    """
    from transformers import AutoConfig

    if not isinstance(name, str):
        raise TypeError(f"matcher must be a folder or hub repository, got {type(name).__name__}")
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(f"matcher {name!r} holds no model of transformers: {str(error).splitlines()[0]}") from error
    if config.model_type not in KINDS:
        raise ValueError(f"matcher {name!r} must be one of {', '.join(KINDS)}, got a {config.model_type}")
    return str(config.model_type)


def efficient_loftr() -> Any:
    """The class EfficientLoFTR of transformers, with rows of matches that belong together.

    Up to transformers 5.23 row k of the first frame is what cell k of the second frame matches, and the other way round: the two
    are refined against each other as if they were one match, and handed out so.
    """
    from transformers import EfficientLoFTRForKeypointMatching

    class RowMatchedLoFTR(EfficientLoFTRForKeypointMatching):
        def _get_matches_from_scores(self, scores: Tensor) -> tuple[Tensor, Tensor]:
            indices, matching_scores = super()._get_matches_from_scores(scores)
            second = indices[:, 1]  # (B, N): of cell k of the first frame
            first = torch.arange(second.shape[1], device=second.device).expand_as(second)
            rows = torch.stack([first.where(second > -1, second), second], 1)
            return rows, matching_scores[:, 1:].expand(-1, 2, -1)

    return RowMatchedLoFTR


def load_matcher(name: str, device: str | None = None) -> LearnedMatcher:
    """SuperPoint + LightGlue or EfficientLoFTR from a folder or hub repository, on a device (None: a GPU if there is one).

    Raises:
        TypeError, ValueError: as `check_matcher`, or weights that are not there or damaged.
    """
    from safetensors import SafetensorError
    from transformers import LightGlueForKeypointMatching

    kind = check_matcher(name)
    model_class = LightGlueForKeypointMatching if kind == "lightglue" else efficient_loftr()
    try:
        model = model_class.from_pretrained(name).requires_grad_(False).eval()
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"matcher {name!r} cannot be loaded: {str(error).splitlines()[0]}") from error
    return LearnedMatcher(name, model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")))


def learned_matches(
    video: Any,
    grid: Grid,
    folder: Path,
    pairs: np.ndarray,
    matcher: LearnedMatcher,
    focal: tuple[float, bool],
    seed: int,
    advance: Advance = no_progress,
) -> Matches:
    """Match pairs of frames by a network and keep what one rigid scene explains.

    Args:
        video: the frames.
        grid: of them.
        folder: empty, for the database and the reduced frames.
        pairs: (P, 2) frames.
        matcher: the network.
        focal: in work pixels, and whether it is right.
        seed: of verification.
        advance: is told the share that was done since it was told last.
    """
    pycolmap = load_pycolmap()
    images, database = folder / "images", folder / "database.db"
    images.mkdir()
    names = write_frames(video, grid, images, range(len(video)))
    import_frames(database, images, names, grid, focal[0])

    @lru_cache(_FRAMES_KEPT)
    def grey(frame: int) -> Tensor:
        return torch.from_numpy(np.asarray(Image.open(images / names[frame])).copy()).float() / 255

    matched = []
    for i, j in pairs.tolist():
        matched.append(matcher(grey(i), grey(j)))
        advance(1 / len(pairs))
    features, indices = merge_features(len(video), pairs, matched)
    with pycolmap.Database.open(database) as opened:
        ids = [image.image_id for image in images_by_name(opened)]
        for frame, xy in enumerate(features):
            opened.write_keypoints(ids[frame], xy.astype(np.float32))
        for (i, j), rows in zip(pairs.tolist(), indices, strict=True):
            opened.write_matches(ids[i], ids[j], rows.astype(np.uint32))
    names, ids, xy = to_work_pixels(database, grid, focal[1])
    for listed, _ in listed_pairs(database, names, pairs):
        pycolmap.verify_matches(database, listed, verification(seed))
    return read_matches(database, ids, xy)


def merge_features(num_frames: int, pairs: np.ndarray, matched: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Features that several pairs have in common, from places that were matched pair by pair.

    Args:
        num_frames: F.
        pairs: (P, 2) frames.
        matched: per pair (K, 4) places, x, y in its first and its second frame.

    Returns:
        Per frame (N, 2) features, each the mean of the places in one cell; per pair (M, 2) numbers of the matched features, each
        feature at most once.
    """
    spots: list[list[np.ndarray]] = [[np.zeros((0, 2))] for _ in range(num_frames)]
    for (i, j), places in zip(pairs.tolist(), matched, strict=True):
        spots[i].append(places[:, :2])
        spots[j].append(places[:, 2:])
    features, numbers = [], []
    for mine in spots:
        xy = np.concatenate(mine)
        cell = np.floor(xy / _CELL_PX).astype(np.int64)
        _, number, count = np.unique(cell, axis=0, return_inverse=True, return_counts=True)
        number = number.reshape(-1)
        sums = np.stack([np.bincount(number, xy[:, axis], len(count)) for axis in (0, 1)], 1)
        features.append(sums / np.maximum(count, 1)[:, None])
        numbers.append(np.split(number, np.cumsum([len(part) for part in mine])[:-1])[1:])
    taken, indices = [0] * num_frames, []
    for i, j in pairs.tolist():
        rows = np.stack([numbers[i][taken[i]], numbers[j][taken[j]]], 1)
        taken[i], taken[j] = taken[i] + 1, taken[j] + 1
        for side in (0, 1):
            rows = rows[np.sort(np.unique(rows[:, side], return_index=True)[1])]
        indices.append(rows)
    return features, indices
