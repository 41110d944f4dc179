"""The caption checks against the renderer that draws the captions: ceiling, chance, parsing, refusals. Train-split clips only."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from jog3r.data import procedural_clip
from jog3r.data.procedural.scene_grammar import MOTIONS, scene_words
from jog3r.evaluation import caption_following, classify_motion, detect_colours
from jog3r.evaluation.caption_checks import OBJECTS, WALLS, DetectedColours, calibrate_object_shares, parse_caption
from jog3r.evaluation.scoring import Items, score_captions
from jog3r.evaluation.statistics.per_clip import Samples


@pytest.fixture(scope="module")
def clips():
    return [procedural_clip(1000 + k, "train", num_frames=5) for k in range(48)]


def path(step_right: float = 0.0, step_forward: float = 0.0, yaw_deg: float = 0.0, num_frames: int = 8) -> np.ndarray:
    poses = np.tile(np.eye(4), (num_frames, 1, 1))
    for f, u in enumerate(np.linspace(0, 1, num_frames)):
        angle = np.radians(yaw_deg) * u
        poses[f, :3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
        poses[f, :3, 3] = [step_right * u, 0, step_forward * u]
    return poses


# ---- on real clips


def test_rendered_clips_reach_the_ceiling_and_strangers_do_not(clips):
    colours = [detect_colours(clip.frames) for clip in clips]
    distances = [np.linalg.norm(clip.depth[0]) / 64 for clip in clips]
    motions = [classify_motion(clip.poses, distance) for clip, distance in zip(clips, distances, strict=True)]
    result = caption_following(colours, motions, [clip.attributes for clip in clips])
    assert result["followed"]["wall"] >= 95
    assert result["followed"]["floor"] >= 95
    assert result["followed"]["motion"] == 100
    assert result["followed"]["object_f1"] >= 90
    assert result["chance"]["wall"] < 30
    assert result["chance"]["motion"] < 30
    assert result["chance"]["object_f1"] < 50


def test_clips_that_know_no_scene_are_judged_by_their_captions(clips):
    """Of another source, with captions of the grammar; and one clip alone, which has no others' captions."""
    attributes = [parse_caption(clip.caption) for clip in clips[:2]]
    plain = [replace(clip, attributes={}, caption="", valid=np.zeros_like(clip.valid)) for clip in clips[:2]]
    made = [{"frames": clip.frames, "v2c_poses": clip.poses} for clip in clips[:2]]
    for count in (2, 1):
        items, asked = Items.one_each(count), attributes[:count]
        known = score_captions(made[:count], made[:count], clips[:count], asked, items, Samples(items.names))
        found = score_captions(made[:count], made[:count], plain[:count], asked, items, Samples(items.names))
        assert set(known) - set(found) == {"real clips as rendered, true motion"} and set(found) <= set(known)
        assert ("chance (other captions)" in found) == (count == 2)
        row = "real clips through the VAE, motion by V2C"
        assert found[row] == known[row] and found[row]["wall"] == 100


def test_size_frame_count_and_type_do_not_matter():
    small = procedural_clip(1003, "train", num_frames=16)
    large = procedural_clip(1003, "train", num_frames=4, height=128, width=128)
    seen = detect_colours(small.frames)
    assert detect_colours(torch.from_numpy(small.frames).float() / 255) == seen
    again = detect_colours(large.frames)
    assert (again.wall, again.floor, again.objects) == (seen.wall, seen.floor, seen.objects)


def test_blur_and_noise_are_survived(clips):
    """A generator's pictures are softer and noisier than the renderer's."""
    noise = np.random.default_rng(0)
    colours = []
    for clip in clips[:24]:
        video = torch.from_numpy(clip.frames).permute(0, 3, 1, 2).float()
        video = torch.nn.functional.avg_pool2d(video, 3, stride=1, padding=1, count_include_pad=False)
        video = video + torch.from_numpy(noise.normal(scale=6, size=video.shape)).float()
        colours.append(detect_colours(video.clamp(0, 255) / 255))
    result = caption_following(colours, [None] * 24, [clip.attributes for clip in clips[:24]])
    assert result["followed"]["wall"] >= 90
    assert result["followed"]["floor"] >= 90
    assert result["followed"]["object_f1"] >= 80
    assert result["followed"]["motion"] == 0


def test_a_gray_picture_names_no_object():
    frames = np.full((2, 64, 64, 3), 145, np.uint8)
    frames[:, 32:] = (140, 93, 58)
    seen = detect_colours(frames)
    assert (seen.wall, seen.floor, seen.objects) == ("gray", "brown", frozenset())
    magenta = detect_colours(np.full((2, 64, 64, 3), (255, 0, 255), np.uint8))
    assert (magenta.wall, magenta.floor) == (None, None)


def test_calibration_never_goes_below_the_least_share(clips):
    shares = calibrate_object_shares(clips[:12])
    assert set(shares) == set(OBJECTS)
    assert min(shares.values()) >= 0.004


# ---- motion


@pytest.mark.parametrize(
    ("poses", "motion"),
    [
        (path(step_forward=0.5), "moves forward"),
        (path(step_forward=-0.5), "moves backward"),
        (path(step_right=-0.4, step_forward=0.1), "moves left"),
        (path(step_right=0.4, yaw_deg=-3), "moves right"),
        (path(step_right=-0.5, yaw_deg=40), "orbits left"),
        (path(step_right=0.5, yaw_deg=-40), "orbits right"),
        (path(step_right=0.1, yaw_deg=30), "turns right"),
        (path(step_right=-0.1, yaw_deg=-30), "turns left"),
        (path(yaw_deg=30), "turns right"),
    ],
)
def test_motion_of_plain_paths(poses, motion):
    assert classify_motion(poses) == motion
    assert classify_motion(torch.from_numpy(poses)) == motion


def test_all_motions_of_the_grammar_are_told_apart():
    seen = {}
    for index in range(60):
        words = scene_words(index, "train")
        if words.motion not in seen:
            clip = procedural_clip(index, "train", num_frames=4, height=8, width=8)
            seen[words.motion] = classify_motion(clip.poses, 3.0)
    assert seen == {motion: motion for motion in MOTIONS}


# ---- captions


def test_parsing_gives_back_what_the_grammar_drew():
    for split in ("train", "validation"):
        for index in range(400):
            words = scene_words(index, split)
            expected = {key: value for key, value in words.attributes().items() if key != "floor_pattern"}
            assert parse_caption(words.caption) == expected, words.caption


# ---- scores


def test_following_counts_known_values():
    def seen(wall, floor, *objects):
        return DetectedColours(wall, floor, frozenset(objects), {})

    attributes = [
        {"wall_colour": "white", "floor_colour": "gray", "objects": [["red", "sofa"], ["blue", "bed"]], "motion": "turns left"},
        {"wall_colour": "pink", "floor_colour": "beige", "objects": [["green", "lamp"]], "motion": "moves left"},
    ]
    result = caption_following(
        [seen("white", "gray", "red"), seen(None, "black", "green", "red")], ["turns left", None], attributes
    )
    followed = result["followed"]
    assert (followed["wall"], followed["floor"], followed["motion"]) == (50, 50, 50)
    assert followed["object_precision"] == pytest.approx(200 / 3)
    assert followed["object_recall"] == pytest.approx(200 / 3)
    assert followed["object_f1"] == pytest.approx(200 / 3)
    assert result["chance"]["wall"] == 0
    assert "white" in WALLS


def test_refusals():
    with pytest.raises(ValueError, match="floor colour, objects, motion"):
        parse_caption("a room with white walls")
    with pytest.raises(ValueError, match=r"\(F,4,4\)"):
        classify_motion(np.eye(4))
    with pytest.raises(ValueError, match="positive"):
        classify_motion(path(), 0)
    with pytest.raises(ValueError, match="at least 2"):
        caption_following([], [], [])
