"""Learned matchers of transformers behind the same call: tiny random models of the real classes, loaded from their folders."""

from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch
from sfm_scenes import make_room, noise_texture, path, render
from transformers import (
    BertConfig,
    EfficientLoFTRConfig,
    EfficientLoFTRForKeypointMatching,
    LightGlueConfig,
    LightGlueForKeypointMatching,
    SuperPointConfig,
)

from jog3r.commands.reconstruction.tracked import TRACK_OPTIONS
from jog3r.sfm import track_cameras
from jog3r.sfm.frames import make_grid
from jog3r.sfm.matching.learned import learned_matches, load_matcher, merge_features

KINDS = ("lightglue", "efficientloftr")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random weights, but large ones, so that the networks tell places apart."""
    root = tmp_path_factory.mktemp("matchers")
    torch.manual_seed(2)
    sizes = dict(encoder_hidden_sizes=[8, 8, 16, 16], decoder_hidden_size=16, descriptor_decoder_dim=16)
    points = SuperPointConfig(**sizes, keypoint_threshold=0.0, max_keypoints=200, initializer_range=0.2)
    small = dict(descriptor_dim=16, num_hidden_layers=1, num_attention_heads=2, filter_threshold=0.0, initializer_range=0.2)
    glue = LightGlueConfig(keypoint_detector_config=points, depth_confidence=-1.0, width_confidence=-1.0, **small)
    LightGlueForKeypointMatching(glue).save_pretrained(root / KINDS[0])
    torch.manual_seed(0)
    sizes = dict(stage_num_blocks=[1, 1, 1, 1], out_features=[8, 8, 16, 32], hidden_size=32, num_attention_layers=1)
    config = EfficientLoFTRConfig(**sizes, coarse_matching_threshold=0.0, fine_matching_slice_dim=4, initializer_range=0.5)
    EfficientLoFTRForKeypointMatching(config).save_pretrained(root / KINDS[1])
    return {kind: root / kind for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_places_are_pixels_of_the_frames(folders: dict[str, Path], kind: str) -> None:
    """The second frame shows the first 8 pixels farther right: features of a whole stride of the networks are the same."""
    texture = torch.from_numpy(noise_texture(np.random.default_rng(0), 256)[..., 0]).float() / 255
    first, second = texture[40:130, 40:160], texture[40:130, 32:152]  # neither side a multiple of 32
    matcher = load_matcher(str(folders[kind]))
    same, moved = matcher(first, first), matcher(first, second)
    assert len(same) >= 3 and len(moved) >= 1
    assert np.median(same[:, 2:] - same[:, :2], 0) == pytest.approx([0, 0], abs=1)
    assert np.median(moved[:, 2:] - moved[:, :2], 0) == pytest.approx([8, 0], abs=1)
    assert np.array_equal(moved, matcher(first, second))


def test_the_matcher_is_on_the_device_asked_for(folders: dict[str, Path]) -> None:
    assert next(load_matcher(str(folders["lightglue"]), "meta").model.parameters()).is_meta
    assert "device" in TRACK_OPTIONS and set(TRACK_OPTIONS) <= set(signature(track_cameras).parameters)


def test_matches_reach_colmap_and_what_it_verifies_comes_back(folders: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("pycolmap")
    frames = render(make_room(1), path(3, sideways=0.2), (96, 128), 100.0, samples=1).frames
    pairs = np.array([[0, 1], [0, 2], [1, 2]])
    matcher, shares = load_matcher(str(folders["lightglue"])), []
    matches = learned_matches(
        frames, make_grid(3, (96, 128), 640, 1.0, None), tmp_path, pairs, matcher, (100.0, True), 0, shares.append
    )
    assert matches.num_frames == 3 and all(len(xy) > 0 and np.abs(xy).max() <= 64 for xy in matches.xy)
    assert sum(shares) == pytest.approx(1) and len(matches.pairs) <= 3


def test_a_random_matcher_goes_the_whole_way_and_is_refused_for_what_it_finds(folders: dict[str, Path]) -> None:
    pytest.importorskip("pycolmap")
    frames = render(make_room(1), path(3, sideways=0.2), (96, 128), 100.0, samples=1).frames
    with pytest.raises(ValueError, match="no cameras from tracks"):
        track_cameras(frames, matcher=str(folders["efficientloftr"]))


def test_places_of_several_pairs_become_features_once() -> None:
    pairs = np.array([[0, 1], [0, 2], [1, 2]])
    matched = [
        np.array([[10.2, 10.0, 20.0, 20.0], [10.6, 10.0, 30.0, 30.0]]),  # two in one cell of frame 0: the first counts
        np.array([[10.4, 10.6, 40.0, 40.0]]),
        np.array([[20.0, 20.0, 40.0, 40.0]]),
    ]
    features, indices = merge_features(3, pairs, matched)
    assert [len(xy) for xy in features] == [1, 2, 1]
    assert features[0][0] == pytest.approx([10.4, 10.2])
    assert [rows.tolist() for rows in indices] == [[[0, 0]], [[0, 0]], [[0, 0]]]
    assert features[1][0] == pytest.approx([20, 20])


def test_what_is_no_matcher_is_refused_in_one_line(tmp_path: Path, folders: dict[str, Path]) -> None:
    frames = np.zeros((2, 64, 64, 3), np.uint8)
    BertConfig().save_pretrained(tmp_path / "bert")
    broken = tmp_path / "broken"
    LightGlueConfig().save_pretrained(broken)
    for name, message in (
        (str(tmp_path / "bert"), "must be one of lightglue, efficientloftr, got a bert"),
        (str(tmp_path), "holds no model of transformers"),
        (str(broken), "cannot be loaded"),
    ):
        with pytest.raises(ValueError, match=message) as raised:
            track_cameras(frames, matcher=name)
        assert "\n" not in str(raised.value)
    with pytest.raises(TypeError, match="must be a folder or hub repository, got int"):
        track_cameras(frames, matcher=3)
