"""Does a video follow its caption? Colours and camera motion of procedural captions, read off frames and poses.

The captions are those of `jog3r.data.procedural.scene_grammar`; the renderer that draws them is the ground truth. Colours: every
pixel is explained as a palette colour times a brightness, as the renderer shades (chromaticity is free of shading, lightness has
a usual range); walls vote in the upper part of the picture, the floor in the lower, objects by the area left after thin
structures are taken away. Motion: the camera-to-world poses are reduced to one turn and one displacement.

No checker is perfect: print the share followed beside `chance` (the same detections against strangers' captions) and beside
real clips through the VAE (the ceiling). Shapes of objects are not checked. White objects are the weak spot (ceiling, window
frames and pillows are white too).

Letters: F frames, H W pixels, K palette entries.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from jog3r.data.procedural.scene_grammar import KINDS, MOTIONS, PALETTE
from jog3r.evaluation.baselines import shuffled_pairs
from jog3r.evaluation.consistency import as_video

WALLS, FLOORS, OBJECTS = (tuple(PALETTE[group]) for group in ("walls", "floor", "objects"))
ANALYSIS_SIZE = 64  # pixels of the shorter side; thresholds below are areas at this size
MAX_FRAMES = 8  # evenly spaced; more say nothing new
NUM_SHUFFLES = 20  # pairings with strangers' captions, of the row that shows chance

# Least share of a frame that an object's colour fills after erosion. The best F1 on 800 clips of the train split, but not below
# 0.004 (16 of 64 x 64 pixels): exact renderings would allow 0, generated videos have stray pixels. See `calibrate_object_shares`.
OBJECT_SHARES = {"white": 0.0325, "black": 0.0224}
LEAST_OBJECT_SHARE = 0.004

TURN_THRESHOLD_DEG = 11.0  # moves drift up to 3 degrees, orbits and turns make at least 18
ORBIT_RATIO = -0.19  # sideways displacement per radian of turn, in mean scene distances: orbits below -0.46, turns above +0.08

# Colours that the renderer uses and no caption names: ceiling, panes, doors, frames, pictures, wood, pots, books, cushions.
_UNNAMED = (
    (244, 243, 240), (186, 220, 244), (206, 226, 206), (150, 108, 76), (78, 58, 46), (226, 210, 176),
    (96, 128, 138), (176, 116, 96), (112, 76, 48), (62, 58, 58), (236, 226, 206), (150, 152, 158),
)  # fmt: skip
_CEILING, _FRAME, _DARK, _METAL = 0, 4, 9, 11
_SIGMA = 12.0  # levels of 0..255 by which a pixel may leave the line of shades
_WALL_SHADE, _OTHER_SHADE, _UNNAMED_SHADE = (0.93, 0.09), (0.85, 0.17), (0.95, 0.1)  # mean and spread of the brightness
_UNEXPLAINED = -4.5  # log-likelihood (up to a constant) below which a pixel is nothing of these
_WALL_ROWS, _FLOOR_ROWS = 0.45, 0.6  # walls vote above, floors below these shares of the height
_VERBS = {"glides": "moves", "circles": "orbits", "pans": "turns"}


@dataclass(frozen=True)
class DetectedColours:
    """What `detect_colours` sees.

    Attributes:
        wall, floor: names of `PALETTE["walls"]` and `PALETTE["floor"]`; None where no pixel looks like any.
        objects: names of `PALETTE["objects"]`.
        object_shares: largest share of a frame per object colour, after erosion.
    """

    wall: str | None
    floor: str | None
    objects: frozenset[str]
    object_shares: dict[str, float]


def detect_colours(frames: Tensor | np.ndarray) -> DetectedColours:
    """Wall colour, floor colour and the set of object colours of a clip, frames (F,H,W,3), uint8 or float in 0..1.

    The floor is never reported in the name of the wall's colour, an object in neither: the grammar draws no such captions.
    """
    video = _shrunk(as_video(frames))  # (F,3,H,W), 0..255
    scores = _pixel_scores(video)  # (F,H,W,K)
    height, num_walls, num_floors = video.shape[2], len(WALLS), len(FLOORS)
    first_object = num_walls + num_floors
    first_unnamed = first_object + len(OBJECTS)
    others = list(range(first_object, scores.shape[-1]))
    # Look-alikes that would take votes away: metal is the walls' gray; dark frames, furniture and metal are floors in the shade.
    upper = [*range(num_walls), *(k for k in others if k != first_unnamed + _METAL)]
    wall = _winner(scores[:, : round(_WALL_ROWS * height)], upper, range(num_walls))
    candidates = [k for k in range(num_walls, first_object) if wall is None or FLOORS[k - num_walls] != WALLS[wall]]
    lower = [
        *candidates,
        *(k for k in others if k - first_unnamed not in (_FRAME, _DARK, _METAL)),
        *([] if wall is None else [wall]),
    ]
    floor = _winner(scores[:, round(_FLOOR_ROWS * height) :], lower, range(num_walls, first_object))
    wall_name = None if wall is None else WALLS[wall]
    floor_name = None if floor is None else FLOORS[floor - num_walls]

    # Second look, in which only the decided wall and floor compete with the objects.
    decided = [k for k in (wall, floor) if k is not None]
    label, explained = _labels(scores, [*decided, *others])
    shares = {}
    for number, name in enumerate(OBJECTS):
        mask = explained & (label == first_object + number)  # (F,H,W)
        if name == "white":
            mask = _without_ceiling(mask | explained & (label == first_unnamed + _CEILING))
        shares[name] = 0.0 if name in (wall_name, floor_name) else float(_eroded(mask).float().mean((1, 2)).max())
    seen = frozenset(name for name, share in shares.items() if share > OBJECT_SHARES.get(name, LEAST_OBJECT_SHARE))
    return DetectedColours(wall_name, floor_name, seen, shares)


def classify_motion(poses: Tensor | np.ndarray, mean_distance: float = 1.0) -> str:
    """One of `MOTIONS` for camera-to-world poses (F,4,4) whose first is the identity.

    The displacement and the turn are fitted over the whole path (least squares of a straight course through the origin). Little
    turn: a move along the larger of sideways and forward. Otherwise an orbit if the camera walks to the side that it turns away
    from, else a turn.

    Args:
        poses (F,4,4): F >= 2.
        mean_distance: mean distance of frame 1's points in the unit of the poses; 1 for the pipeline's output.

    Raises:
        ValueError: another shape, NaN, or a distance that is not positive.
    """
    path = torch.as_tensor(poses).detach().double().cpu().numpy()
    if path.ndim != 3 or path.shape[1:] != (4, 4) or len(path) < 2 or not np.isfinite(path).all():
        raise ValueError(f"poses must be finite and have shape (F,4,4) with at least 2 frames, got {path.shape}")
    if not mean_distance > 0:
        raise ValueError(f"mean_distance must be positive, got {mean_distance}")
    time = np.linspace(0.0, 1.0, len(path))
    weights = time / (time**2).sum()
    yaw_deg = float(weights @ np.degrees(np.unwrap(np.arctan2(path[:, 0, 2], path[:, 2, 2]))))
    right, down, forward = weights @ path[:, :3, 3] / mean_distance
    if abs(yaw_deg) > TURN_THRESHOLD_DEG:
        if right / np.radians(yaw_deg) < ORBIT_RATIO:
            return "orbits left" if right < 0 else "orbits right"
        return "turns right" if yaw_deg > 0 else "turns left"
    if abs(right) > np.hypot(down, forward):
        return "moves right" if right > 0 else "moves left"
    return "moves forward" if forward > 0 else "moves backward"


def parse_caption(caption: str) -> dict[str, Any]:
    """What a procedural caption asks for: `wall_colour`, `floor_colour`, `objects` (list of [colour, kind]), `motion`.

    Raises:
        ValueError: a caption that the grammar cannot have made; it names the part that is missing.
    """
    text = caption.lower()
    wall = re.search(rf"\b({'|'.join(WALLS)}) walls\b", text)
    floor = re.search(rf"\b({'|'.join(FLOORS)})(?: checkered| plank| tiled)? floor\b(?! lamp)", text)
    move = re.search(r"\bthe camera (\w+) (forward|backward|left|right)\b", text)
    synonyms = {"couch": "sofa", "bookcase": "bookshelf"}
    nouns = "|".join([*KINDS, *synonyms])
    objects = re.findall(rf"\ban? ({'|'.join(OBJECTS)}) (?:floor )?({nouns})\b", text)
    motion = f"{_VERBS.get(move[1], move[1])} {move[2]}" if move else ""
    missing = [
        name
        for name, found in (("wall colour", wall), ("floor colour", floor), ("objects", objects), ("motion", motion in MOTIONS))
        if not found
    ]
    if wall is None or floor is None or missing:
        raise ValueError(f"not a procedural caption, {', '.join(missing)} not found: {caption!r}")
    return {
        "wall_colour": wall[1],
        "floor_colour": floor[1],
        "objects": [[colour, synonyms.get(kind, kind)] for colour, kind in objects],
        "motion": motion,
    }


def caption_following(
    colours: Sequence[DetectedColours], motions: Sequence[str | None], attributes: Sequence[Mapping[str, Any]], seed: int = 0
) -> dict[str, dict[str, float]]:
    """Shares of captions followed, percent, and chance: the same detections against the captions of other clips.

    Args:
        colours: `detect_colours` of each clip.
        motions: `classify_motion` of each clip; None where there are no poses, which counts as not followed.
        attributes: `Clip.attributes` or `parse_caption` of each clip's caption.
        seed: of the shuffling behind `chance` (over `NUM_SHUFFLES` shufflings).

    Returns:
        `followed` and `chance`, each with `wall`, `floor`, `motion` (percent of clips), and `object_precision`, `object_recall`,
        `object_f1` over all object colours of all clips (percent).

    Raises:
        ValueError: lists of different length, or fewer than two clips.
    """
    if not len(colours) == len(motions) == len(attributes) >= 2:
        raise ValueError(
            f"need as many colours, motions and attributes, at least 2; got {len(colours)}, {len(motions)}, {len(attributes)}"
        )
    counts = agreement_counts(colours, motions, attributes, range(len(colours)))
    by_chance = [
        agreement_counts(colours, motions, attributes, shuffled_pairs(len(colours), seed + repeat))
        for repeat in range(NUM_SHUFFLES)
    ]
    chance = {name: np.sum([table[name] for table in by_chance], axis=0) for name in counts}
    rows = {"followed": counts, "chance": chance}
    return {
        row: {name: float(100 * top.sum() / max(bottom.sum(), 1)) for name, (top, bottom) in table.items()}
        for row, table in rows.items()
    }


def calibrate_object_shares(clips: Iterable[Any]) -> dict[str, float]:
    """Best threshold per object colour, by F1 on clips with known `attributes`; use clips of the train split only.

    Thresholds below `LEAST_OBJECT_SHARE` are raised to it.
    """
    rows = [(detect_colours(clip.frames).object_shares, {colour for colour, _ in clip.attributes["objects"]}) for clip in clips]
    best = {}
    for name in OBJECTS:
        share = np.array([shares[name] for shares, _ in rows])
        true = np.array([name in named for _, named in rows])
        candidates = np.unique(np.append(share[share >= LEAST_OBJECT_SHARE], LEAST_OBJECT_SHARE))
        f1 = [2 * ((share > c) & true).sum() / max((share > c).sum() + true.sum(), 1) for c in candidates]
        best[name] = float(candidates[int(np.argmax(f1))])
    return best


def agreement_counts(
    colours: Sequence[DetectedColours],
    motions: Sequence[str | None],
    attributes: Sequence[Mapping[str, Any]],
    partner: Sequence[int] | np.ndarray,
) -> dict[str, np.ndarray]:
    """For each figure (2,N): what clip k got right of caption `partner[k]`, and out of how many; a share is a ratio of sums."""
    asked = [attributes[k] for k in partner]
    named = [{colour for colour, _ in item["objects"]} for item in asked]
    hits = np.array([len(seen.objects & true) for seen, true in zip(colours, named, strict=True)], dtype=np.float64)
    reported, wanted = (
        np.array([len(item) for item in sets], dtype=np.float64) for sets in ([c.objects for c in colours], named)
    )
    one = np.ones(len(hits))

    def flags(values: Iterable[bool]) -> np.ndarray:
        return np.stack([np.array(list(values), dtype=np.float64), one])

    return {
        "wall": flags(seen.wall == item["wall_colour"] for seen, item in zip(colours, asked, strict=True)),
        "floor": flags(seen.floor == item["floor_colour"] for seen, item in zip(colours, asked, strict=True)),
        "motion": flags(motion == item["motion"] for motion, item in zip(motions, asked, strict=True)),
        "object_precision": np.stack([hits, reported]),
        "object_recall": np.stack([hits, wanted]),
        "object_f1": np.stack([2 * hits, reported + wanted]),
    }


def _pixel_scores(video: Tensor) -> Tensor:
    """Log-likelihood (F,H,W,K), up to a constant, of each palette entry at each pixel of video (F,3,H,W) in 0..255."""
    groups: list[tuple[Iterable, tuple[float, float]]] = [
        (PALETTE["walls"].values(), _WALL_SHADE),
        (PALETTE["floor"].values(), _OTHER_SHADE),
        (PALETTE["objects"].values(), _OTHER_SHADE),
        (_UNNAMED, _UNNAMED_SHADE),
    ]
    palette = torch.tensor([colour for colours, _ in groups for colour in colours], dtype=torch.float32)  # (K,3)
    usual = torch.tensor([shade for colours, shade in groups for _ in colours])  # (K,2)
    pixel = video.permute(0, 2, 3, 1)  # (F,H,W,3)
    squared = (palette**2).sum(-1)
    shade = pixel @ palette.T / squared  # (F,H,W,K), the brightness that explains the pixel best
    off_line = ((pixel**2).sum(-1, keepdim=True) - shade**2 * squared).clamp_min(0)
    return -off_line / (2 * _SIGMA**2) - (shade - usual[:, 0]) ** 2 / (2 * usual[:, 1] ** 2)


def _labels(scores: Tensor, entries: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Best of `entries` at each pixel (...), and whether it explains the pixel, of scores (...,K)."""
    kept = torch.tensor(entries)
    best = scores[..., kept].max(-1)
    return kept[best.indices], best.values > _UNEXPLAINED


def _winner(scores: Tensor, competing: Sequence[int], entries: range) -> int | None:
    """The one of `entries` with most pixels when all of `competing` may claim them; None if no pixel is theirs."""
    label, explained = _labels(scores, competing)
    counts = torch.bincount(label[explained], minlength=entries.stop)[entries.start : entries.stop]
    return entries.start + int(counts.argmax()) if int(counts.sum()) > 0 else None


def _without_ceiling(mask: Tensor) -> Tensor:
    """The mask (F,H,W) without everything connected to its top row."""
    reached = torch.zeros_like(mask)
    reached[:, 0] = mask[:, 0]
    while True:
        grown = functional.max_pool2d(reached[:, None].float(), 3, stride=1, padding=1)[:, 0].bool() & mask
        if torch.equal(grown, reached):
            return mask & ~reached
        reached = grown


def _eroded(mask: Tensor) -> Tensor:
    """Places (F,H-1,W-1) where a block of 2 x 2 pixels is all set: lines one pixel wide vanish."""
    return -functional.max_pool2d(-mask[:, None].float(), 2, stride=1)[:, 0] > 0.5


def _shrunk(video: Tensor) -> Tensor:
    """At most `MAX_FRAMES` frames, the shorter side at most `ANALYSIS_SIZE`, values 0..255."""
    if len(video) > MAX_FRAMES:
        video = video[torch.linspace(0, len(video) - 1, MAX_FRAMES).round().long()]
    height, width = video.shape[-2:]
    factor = ANALYSIS_SIZE / min(height, width)
    if factor < 1:
        video = functional.interpolate(video, (round(height * factor), round(width * factor)), mode="area")
    return video * 255
