"""Varied procedural clips: exact geometry, textures that stick to their surfaces, pictures as cameras spoil them."""

import itertools

import numpy as np
import pytest
from test_clip import reprojection_errors

from jog3r.data.procedural import procedural_clip
from jog3r.data.procedural.photograph import photograph
from jog3r.data.procedural.scene_grammar import Draw, clip_seed, scene_words
from jog3r.data.procedural.scene_layout import CLEARANCE, footprint_distance
from jog3r.data.procedural.varied_scenes import draw_texture, draw_varied_layout
from jog3r.data.source_options import SourceOptions, build_source
from jog3r.evaluation.clips.clip_sets import ProceduralClips
from jog3r.evaluation.options import EvaluationOptions


@pytest.mark.parametrize("index", range(6))
def test_frames_reproject_onto_each_other(index: int) -> None:
    clip = procedural_clip(index, "validation", num_frames=4, style="varied")
    assert clip.caption == "" and clip.attributes == {}
    errors = np.concatenate([reprojection_errors(clip, *pair) for pair in itertools.permutations((0, 2, 3), 2)])
    assert len(errors) > 2000 and np.median(errors) < 5e-6


def test_a_clip_is_a_function_of_its_index_and_its_scene_does_not_depend_on_the_size() -> None:
    few = procedural_clip(5, num_frames=3, height=16, width=16, style="varied")
    many = procedural_clip(5, num_frames=5, height=32, width=32, style="varied")
    np.testing.assert_array_equal(few.poses, many.poses[::2])
    np.testing.assert_allclose(few.depth, many.depth[::2, ::2, ::2], rtol=1e-5)
    again = procedural_clip(5, num_frames=3, height=16, width=16, style="varied")
    np.testing.assert_array_equal(few.frames, again.frames)
    np.testing.assert_allclose(few.depth.mean(), 2.3247, atol=1e-3)  # checkpoints are trained on these scenes
    np.testing.assert_allclose(few.poses[-1, :3, 3], (0.0653, 0.0783, -2.5904), atol=1e-4)


def test_lenses_paths_and_pictures_vary() -> None:
    clips = [procedural_clip(index, "test", 2, 16, 16, "varied") for index in range(60)]
    view = np.array([2 * np.rad2deg(np.arctan(8 / clip.intrinsics[0, 0, 0])) for clip in clips])
    assert 45 <= view.min() < 52 and 100 < view.max() <= 110
    way = np.stack([clip.poses[-1, :3, 3] for clip in clips])
    assert 0.35 < (way[:, 2] > np.abs(way[:, 0])).mean() < 0.75  # forwards
    assert np.linalg.norm(way, axis=1).max() > 2.5
    brightness = np.array([clip.frames.mean() for clip in clips])
    assert brightness.min() < 70 and brightness.max() > 160


def test_the_camera_keeps_its_clearance() -> None:
    for index in range(60):
        layout = draw_varied_layout(Draw(clip_seed(index, "test"), 2), scene_words(index, "test"))
        positions = layout.path.cam_to_room(np.linspace(0, 1, 65))[:, :3, 3]
        assert (positions > layout.room_low + 0.2).all() and (positions < layout.room_high - 0.2).all()
        for item in layout.objects:
            assert footprint_distance(item, positions[:, 0], positions[:, 2]).min() > CLEARANCE - 5e-3


def test_a_texture_belongs_to_points_and_fades_before_it_flickers() -> None:
    rng = np.random.default_rng(0)
    texture = draw_texture(Draw(3, 2), num_surfaces=5)
    points, surface = rng.uniform(-3, 3, (400, 3)).astype(np.float32), rng.integers(0, 5, 400).astype(np.uint8)
    near, far = np.full(400, 1e-4, np.float32), np.full(400, 10.0, np.float32)
    factor = texture.factor(points, surface, near)
    assert factor.shape == (400, 3) and factor.std() > 0.1 and factor.min() >= 0.1 and factor.max() <= 2
    order = rng.permutation(400)
    np.testing.assert_array_equal(texture.factor(points[order], surface[order], near), factor[order])
    np.testing.assert_allclose(texture.factor(points, surface, far), 1, atol=1e-6)
    moved = texture.factor(points + np.float32(1e-4), surface, near)
    assert np.median(np.abs(moved - factor)) < 5e-3  # a surface's pattern goes on beside a point


def test_a_photograph_keeps_things_in_their_places() -> None:
    frames = np.full((3, 32, 32, 3), 40, np.uint8)
    frames[:, 8:20, 6:26] = 200
    for seed in range(20):
        taken = photograph(frames, Draw(seed, 0))
        assert taken.shape == frames.shape and taken.dtype == np.uint8
        inside, outside = taken[:, 10:18, 8:24].mean(), taken[:, 24:30, 8:24].mean()
        assert inside > outside + 30
        assert not np.array_equal(taken, frames)


def test_a_source_and_an_evaluation_of_them() -> None:
    options = SourceOptions(source="procedural", procedural_style="varied", first_clip=3)
    source = build_source(options, (16, 16), num_clips=2, num_frames=3)
    assert source.names == ["varied/train/00000003", "varied/train/00000004"] and source.captions(0) == ("", "")
    np.testing.assert_array_equal(source.load(1).poses, procedural_clip(4, "train", 3, 16, 16, "varied").poses)
    clips = ProceduralClips("test", 3, 2, 3, 16, 16, "varied")
    np.testing.assert_array_equal(clips.load(1).depth, procedural_clip(4, "test", 3, 16, 16, "varied").depth)
    assert clips.describe()["style"] == "varied"
    with pytest.raises(ValueError, match="varied scenes have no captions to make videos of: task v2c takes them, got t2vc"):
        EvaluationOptions(task="t2vc", model="unused", out="unused", procedural_style="varied")


def test_an_unknown_style_is_refused() -> None:
    with pytest.raises(ValueError, match="style must be one of rooms, varied, got 'real'"):
        procedural_clip(0, style="real")
