"""Which frames a training clip takes, in which direction; lists, images and poses."""

import numpy as np
import pytest

from jog3r.data.clip import Clip
from jog3r.data.frame_choice import (
    STRIDES,
    FrameSelection,
    select_frames,
    shuffled_index,
    take_frames,
)
from jog3r.data.poses import rebase_poses
from jog3r.data.procedural import procedural_clip
from jog3r.data.source import ProceduralSource, list_hash, read_image
from jog3r.geometry.pose_checks import pose_fault


@pytest.fixture(scope="module")
def video() -> Clip:
    return procedural_clip(3, "train", num_frames=12, height=16, width=24)


def test_a_selection_depends_on_seed_and_position_alone() -> None:
    np.random.seed(0)
    first = [select_frames(200, 16, 5, position) for position in range(50)]
    np.random.seed(1)
    assert [select_frames(200, 16, 5, position) for position in range(50)] == first
    assert [select_frames(200, 16, 6, position) for position in range(50)] != first


def test_strides_starts_and_directions_are_drawn_uniformly_from_what_fits() -> None:
    drawn = [select_frames(130, 16, 0, position) for position in range(2000)]
    counts = {stride: sum(one.stride == stride for one in drawn) for stride in STRIDES}
    assert all(420 < count < 580 for count in counts.values()), counts
    assert 920 < sum(one.reversed for one in drawn) < 1080
    for one in drawn:
        assert 0 <= one.indices.min() <= one.indices.max() < 130
        assert len(one.indices) == 16
        assert set(np.diff(one.indices)) == {-one.stride if one.reversed else one.stride}
    assert {one.start for one in drawn if one.stride == 8} == set(range(130 - 120))


@pytest.mark.parametrize(("available", "strides"), [(16, {1}), (31, {1, 2}), (61, {1, 2, 4}), (121, {1, 2, 4, 8})])
def test_only_strides_that_fit_are_drawn(available: int, strides: set[int]) -> None:
    assert {select_frames(available, 16, 0, position).stride for position in range(60)} == strides


def test_a_short_video_and_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="15 frames is too short for 16 frames at stride 1"):
        select_frames(15, 16, 0, 0)
    with pytest.raises(ValueError, match="at least 1"):
        select_frames(20, 16, 0, 0, strides=(0, 1))
    with pytest.raises(ValueError, match="reverse_probability"):
        select_frames(20, 16, 0, 0, reverse_probability=2)
    with pytest.raises(ValueError, match="count >= 1"):
        shuffled_index(0, 0, 1)


def test_every_video_stands_once_in_every_epoch() -> None:
    order = [shuffled_index(position, 7, seed=1) for position in range(21)]
    for epoch in range(3):
        assert sorted(order[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert order[:7] != order[7:14]
    assert shuffled_index(20, 7, seed=1) == order[20]  # without those before


def test_frames_and_cameras_go_together(video: Clip) -> None:
    clip = take_frames(video, FrameSelection(2, 3, 4, reversed=False))
    np.testing.assert_array_equal(clip.frames, video.frames[[2, 5, 8, 11]])
    np.testing.assert_array_equal(clip.depth, video.depth[[2, 5, 8, 11]])
    relative = np.linalg.inv(video.poses[5].astype(float)) @ video.poses[11]
    np.testing.assert_allclose(np.linalg.inv(clip.poses[1].astype(float)) @ clip.poses[3], relative, atol=1e-5)
    np.testing.assert_array_equal(clip.poses[0], np.eye(4))


def test_a_reversed_clip_has_the_opposite_motion_in_cameras_and_caption(video: Clip) -> None:
    forward = take_frames(video, FrameSelection(2, 3, 4, reversed=False))
    backward = take_frames(video, FrameSelection(2, 3, 4, reversed=True))
    np.testing.assert_array_equal(backward.frames, forward.frames[::-1])
    np.testing.assert_allclose(backward.poses[3], np.linalg.inv(forward.poses[3].astype(float)), atol=1e-5)
    source = ProceduralSource("train", 3, 1, 12, 16, 24)
    assert (forward.caption, backward.caption) == source.captions(0)


def test_frames_outside_the_video_are_refused(video: Clip) -> None:
    with pytest.raises(ValueError, match="outside a video of 12"):
        take_frames(video, FrameSelection(0, 4, 4, reversed=False))


def test_rebased_poses_do_not_depend_on_the_world(video: Clip) -> None:
    world = np.linalg.inv(video.poses[7].astype(float))
    world[:3, 3] += [100.0, -50.0, 3.0]
    np.testing.assert_allclose(rebase_poses(world @ video.poses), video.poses, atol=1e-5)


def test_lists_have_hashes_and_images_have_reasons(tmp_path) -> None:
    assert list_hash(["a", "b"]) != list_hash(["b", "a"])
    (tmp_path / "a.png").write_bytes(b"no image")
    for name in ("a.png", "b.png"):
        with pytest.raises(ValueError, match=f"{name}.*no readable image"):
            read_image(tmp_path / name)
    with pytest.raises(ValueError, match="count"):
        ProceduralSource("train", 0, 0, 4, 8, 8)


def test_poses_that_are_none_are_told_with_the_first_frame_and_the_reason(video: Clip) -> None:
    poses = video.poses.astype(np.float64)
    assert pose_fault(poses) is None
    mirrored, bent, endless, projective = (poses.copy() for _ in range(4))
    mirrored[2:] = mirrored[2:] @ np.diag([1.0, 1, -1, 1])
    bent[3, 0, 0] += 0.5
    endless[4, 0, 3] = np.nan
    projective[5, 3] = [0, 0, 0.5, 1]
    for wrong, frame, reason in (
        (mirrored, 2, "mirrors the scene"),
        (bent, 3, "not a rotation"),
        (endless, 4, "NaN"),
        (projective, 5, "last row is 0 0 0.5 1"),
    ):
        found = pose_fault(wrong)
        assert found is not None and found[0] == frame and reason in found[1]
