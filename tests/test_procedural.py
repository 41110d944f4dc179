"""Procedural clips: exact depth and cameras, captions that tell the truth, splits apart, the same bits every time."""

import hashlib
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_clip import reprojection_errors

from jog3r.data.clip import Clip
from jog3r.data.direction_words import mirrored_words, reversed_words
from jog3r.data.procedural import procedural_caption, procedural_captions, procedural_clip
from jog3r.data.procedural.scene_grammar import (
    KINDS,
    MOTIONS,
    PALETTE,
    Draw,
    clip_seed,
    scene_words,
)
from jog3r.data.procedural.scene_layout import CLEARANCE, _overlap, _visible_share, draw_layout, draw_path, footprint_distance

ROOT = Path(__file__).resolve().parents[1]


def layout_of(index: int, split: str = "train"):
    return draw_layout(Draw(clip_seed(index, split), 1), scene_words(index, split))


def slow_depth(layout, pose: np.ndarray, focal_px: float, size: int, row: int, column: int) -> float:
    """The plain oracle: one ray, float64, every surface tested for itself, the nearest one wins."""
    direction = pose[:3, :3] @ [(column - size / 2) / focal_px, (row - size / 2) / focal_px, 1.0]
    origin, found = pose[:3, 3], []
    for axis in range(3):
        plane = layout.room_high[axis] if direction[axis] > 0 else layout.room_low[axis]
        found.append((plane - origin[axis]) / direction[axis])
    for item in layout.objects:
        c, s = np.cos(item.yaw), np.sin(item.yaw)
        to_object = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
        o, d = to_object @ (origin - [item.x, 0, item.z]), to_object @ direction
        for solid in item.furniture.solids:
            p, q = (o - solid.centre) / solid.half, d / solid.half
            found += [t for t in _unit_hits(solid.shape, p, q) if t > 0]
    return min(found)


def _unit_hits(shape: str, p: np.ndarray, q: np.ndarray) -> list[float]:
    """Where p + t q meets the surface of the unit cube, cylinder (axis y) or sphere."""
    hits = []
    if shape in ("box", "cylinder"):
        for axis in range(3) if shape == "box" else (1,):
            others = [other for other in range(3) if other != axis]
            for t in ((-1 - p[axis]) / q[axis], (1 - p[axis]) / q[axis]):
                at = (p + t * q)[others]
                if (np.abs(at) <= 1).all() if shape == "box" else at @ at <= 1:
                    hits.append(t)
    if shape in ("cylinder", "ellipsoid"):
        axes = [0, 2] if shape == "cylinder" else [0, 1, 2]
        roots = np.roots([q[axes] @ q[axes], 2 * p[axes] @ q[axes], p[axes] @ p[axes] - 1])
        if np.isreal(roots).all():
            hits += [t for t in roots.real if shape == "ellipsoid" or abs(p[1] + t * q[1]) <= 1]
    return hits


# --- geometry ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", range(12))
def test_depth_agrees_with_the_slow_oracle(index):
    size, layout = 40, layout_of(index)
    clip = procedural_clip(index, num_frames=2, height=size, width=size)
    poses = layout.path.cam_to_room(np.array([0.0, 1.0]))
    focal = layout.path.focal_at(np.array([0.0, 1.0])) * size
    pixels = np.random.default_rng(index).integers(0, size, (120, 2))
    for frame in (0, 1):
        slow = np.array([slow_depth(layout, poses[frame], focal[frame], size, i, j) for i, j in pixels])
        wrong = np.abs(clip.depth[frame, pixels[:, 0], pixels[:, 1]] / slow - 1) > 1e-4
        # float32 may take the other side of an edge that a ray hits exactly; nothing else may differ.
        assert wrong.sum() <= 1


def test_the_oracle_test_meets_every_kind_of_object():
    assert {kind for index in range(12) for _, kind in scene_words(index, "train").objects} == set(KINDS)


@pytest.mark.parametrize("index", range(20, 32))
def test_frames_reproject_onto_each_other(index):
    clip = procedural_clip(index, "validation", num_frames=4)
    for source, target in itertools.permutations((0, 2, 3), 2):
        errors = reprojection_errors(clip, source, target)
        assert len(errors) > 400
        assert np.median(errors) < 2e-6


def test_more_frames_sample_the_same_path_and_size_does_not_change_the_scene():
    few, many = procedural_clip(5, num_frames=3, height=16, width=16), procedural_clip(5, num_frames=5, height=32, width=32)
    np.testing.assert_array_equal(few.poses, many.poses[::2])
    np.testing.assert_allclose(few.intrinsics[:, 0, 0] * 2, many.intrinsics[::2, 0, 0], rtol=1e-6)
    # Pixel (i, j) of the small picture lies on pixel (2i, 2j) of the large one: both grids have (W/2, H/2) on the axis.
    np.testing.assert_allclose(few.depth, many.depth[::2, ::2, ::2], rtol=1e-5)


def test_any_size_gives_the_contracts_shapes():
    clip = procedural_clip(9, "test", num_frames=3, height=24, width=40)
    assert (clip.frames.shape, clip.depth.shape) == ((3, 24, 40, 3), (3, 24, 40))
    assert clip.valid.all()
    assert clip.depth.min() > 0.3
    focal = clip.intrinsics[:, 0, 0]
    assert np.array_equal(focal, clip.intrinsics[:, 1, 1])
    assert ((focal > 0.92 * 50 * 40 / 64) & (focal < 1.08 * 72 * 40 / 64)).all()
    assert (clip.intrinsics[:, :2, 2] == (20, 12)).all()
    assert procedural_clip(9, "test", num_frames=1, height=8, width=8).num_frames == 1


def test_camera_keeps_its_clearance_and_stays_in_the_room():
    for index in range(150):
        layout = layout_of(index, "test")
        positions = layout.path.cam_to_room(np.linspace(0, 1, 65))[:, :3, 3]
        assert (positions > layout.room_low + CLEARANCE).all()
        assert (positions < layout.room_high - CLEARANCE).all()
        for item in layout.objects:
            assert footprint_distance(item, positions[:, 0], positions[:, 2]).min() > CLEARANCE - 1e-3
        assert not any(_overlap(a, b, 0.0) for a, b in itertools.combinations(layout.objects, 2))


def test_every_object_is_seen_and_the_first_frame_looks_at_furniture():
    for index in range(150):
        layout = layout_of(index)
        share = _visible_share(list(layout.objects), layout.path)
        assert share.max(0).min() > 0.015
        assert share[0].sum() > 0.03


@pytest.mark.parametrize("motion", MOTIONS)
def test_the_path_does_what_its_word_says(motion):
    verb, direction = motion.split(" ")
    side = {"left": -1, "right": 1}.get(direction, 0)
    for seed in range(20):
        poses = draw_path(Draw(seed, 7), motion).cam_to_room(np.linspace(0, 1, 16))
        last = np.linalg.inv(poses[0]) @ poses[-1]
        x, z, yaw = last[0, 3], last[2, 3], np.rad2deg(np.arctan2(last[0, 2], last[2, 2]))
        assert np.linalg.norm(last[:3, 3]) > 0.08
        if motion in ("moves forward", "moves backward"):
            assert 0.8 < z * (1 if direction == "forward" else -1) < 2.3
            assert abs(x) < 0.2
        elif verb == "moves":
            assert 0.6 < x * side < 1.7
        elif verb == "orbits":
            assert x * side > 0.6
            assert 20 < -yaw * side < 60
        else:
            assert 16 < yaw * side < 50
        assert verb != "moves" or abs(yaw) < 4
        np.testing.assert_allclose(np.linalg.det(poses[:, :3, :3]), 1.0)


def test_motion_is_smooth():
    for index in range(30):
        positions = layout_of(index).path.cam_to_room(np.linspace(0, 1, 64))[:, :3, 3]
        steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
        assert np.abs(np.diff(steps)).max() < 0.008


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_the_floors_colour_is_in_the_picture():
    hues = {"red": 0, "blue": 2}
    for index in range(60):
        words = scene_words(index, "test")
        if words.floor_colour in hues:
            below = procedural_clip(index, "test", num_frames=1, height=32, width=32).frames[0, -2:].astype(float)
            others = [channel for channel in range(3) if channel != hues[words.floor_colour]]
            floor = below[(below[..., hues[words.floor_colour]][..., None] > below[..., others]).all(-1)]
            assert len(floor) > 12


def test_colours_are_means_of_four_samples_so_edges_are_soft():
    sharp = procedural_clip(15, num_frames=1, height=128, width=128).frames[0].astype(float)
    soft = procedural_clip(15, num_frames=1).frames[0].astype(float)
    assert np.abs(sharp.reshape(64, 2, 64, 2, 3).mean((1, 3)) - soft).mean() < 6
    assert len(np.unique(soft.reshape(-1, 3), axis=0)) > 300


def test_named_colours_are_far_apart():
    for colours in PALETTE.values():
        for a, b in itertools.combinations(colours.values(), 2):
            assert np.linalg.norm(np.subtract(a, b)) > 45


# --- captions ---------------------------------------------------------------------------------------------------------


def test_captions_tell_the_attributes():
    synonyms = {"sofa": "couch", "bookshelf": "bookcase"}
    verbs = {"moves": "glides", "orbits": "circles", "turns": "pans"}
    for index in range(400):
        words = scene_words(index, "validation")
        caption = words.caption
        assert caption == caption.lower()
        assert len(caption.split()) <= 32
        assert f"{words.wall_colour} walls" in caption
        assert f"{words.floor_colour} floor" in caption or f"{words.floor_colour} {words.floor_pattern} floor" in caption
        for colour, kind in words.objects:
            assert any(f"{colour} {name}" in caption for name in (kind, synonyms.get(kind, kind), f"floor {kind}"))
            assert colour not in (words.wall_colour, words.floor_colour)
        verb, direction = words.motion.split(" ")
        assert f"the camera {verb} {direction}" in caption or f"the camera {verbs[verb]} {direction}" in caption


def test_caption_without_rendering_is_the_clips():
    clip = procedural_clip(77, "test", num_frames=1, height=4, width=4)
    assert procedural_caption(77, "test") == clip.caption
    assert list(procedural_captions("test", 77, 79)) == [clip.caption, procedural_caption(78, "test")]
    assert clip.attributes == scene_words(77, "test").attributes()
    assert json.loads(json.dumps(clip.attributes)) == clip.attributes


def test_all_words_of_the_grammar_come_up():
    words = [scene_words(index, "train") for index in range(600)]
    assert {item.motion for item in words} == set(MOTIONS)
    assert {item.wall_colour for item in words} == set(PALETTE["walls"])
    assert {item.floor_colour for item in words} == set(PALETTE["floor"])
    assert {colour for item in words for colour, _ in item.objects} == set(PALETTE["objects"])
    assert {kind for item in words for _, kind in item.objects} == set(KINDS)
    assert {len(item.objects) for item in words} == {1, 2, 3}


def test_opposite_and_mirrored_motions():
    assert reversed_words("moves forward") == "moves backward"
    assert reversed_words("orbits left") == "orbits right"
    assert mirrored_words("moves forward") == "moves forward"
    assert mirrored_words("turns right") == "turns left"
    for motion in MOTIONS:
        assert reversed_words(reversed_words(motion)) == mirrored_words(mirrored_words(motion)) == motion
    assert reversed_words("a leftover, it turns left.") == "a leftover, it turns right."  # whole words, with what ends them


# --- determinism, splits, refusals ------------------------------------------------------------------------------------


def digest(clip: Clip) -> str:
    parts = (clip.frames, clip.depth, clip.poses, clip.intrinsics)
    return hashlib.sha256(b"".join(part.tobytes() for part in parts) + clip.caption.encode()).hexdigest()


def test_another_process_renders_the_same_bits_after_a_light_import():
    here = [digest(procedural_clip(index, "validation", 3, 24, 32)) for index in (0, 9999)]
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n"
        "import jog3r.data; print('datasets' in sys.modules)\n"
        "from test_procedural import digest, procedural_clip\n"
        "for index in (0, 9999): print(digest(procedural_clip(index, 'validation', 3, 24, 32)))"
    )
    heavy, *there = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert heavy == "False" and there == here


@pytest.mark.parametrize(
    ("index", "split", "caption", "colour", "depth", "position"),
    [
        (0, "train", "a black chair in a living space with white walls and a beige plank floor, the camera turns right",
         (177.8, 170.1, 157.6), 3.2309, (0.3466, -0.0220, -0.1196)),
        (2, "test", "a room with green walls and a red checkered floor, with a black floor lamp, a blue bed and a yellow plant, "
         "the camera pans left", (109.6, 91.9, 78.2), 3.2734, (-0.1554, 0.0156, -0.0267)),
    ],
)  # fmt: skip
def test_a_clip_stays_what_it_was(index, split, caption, colour, depth, position):
    """Checkpoints are trained on these pictures: a change here needs new weights and new results."""
    clip = procedural_clip(index, split, 4, 32, 32)
    assert clip.caption == caption
    np.testing.assert_allclose(clip.frames.mean((0, 1, 2)), colour, atol=0.1)
    np.testing.assert_allclose(clip.depth.mean(), depth, atol=1e-3)
    np.testing.assert_allclose(clip.poses[-1, :3, 3], position, atol=1e-4)


def test_splits_are_disjoint_ranges_of_seeds():
    splits = json.loads((ROOT / "data" / "procedural" / "splits.json").read_text())
    assert {name: item["num_clips"] for name, item in splits.items()} == {
        "train": 10_000_000, "validation": 10_000, "test": 10_000
    }  # fmt: skip
    spans = sorted((item["first_seed"], item["first_seed"] + item["num_clips"]) for item in splits.values())
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    assert clip_seed(9_999_999, "train") == splits["train"]["first_seed"] + 9_999_999
    texts = [[procedural_caption(index, split) for index in range(5)] for split in splits]
    assert len({text for split in texts for text in split}) == 15


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((10_000, "test"), ValueError, "index must lie in 0..9999 for split 'test', got 10000"),
        ((-1, "train"), ValueError, "got -1"),
        ((0, "val"), ValueError, "split must be one of train, validation, test, got 'val'"),
        ((1.0, "train"), TypeError, "index must be an integer, got float"),
        ((True, "train"), TypeError, "index must be an integer, got bool"),
        ((0, "train", 0), ValueError, "num_frames must be at least 1, got 0"),
        ((0, "train", 4, -3), ValueError, "height must be at least 1, got -3"),
        ((0, "train", 4, 8, 8.0), TypeError, "width must be an integer, got float"),
    ],
)
def test_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        procedural_clip(*arguments)
