"""Which frames a training clip takes, in which direction, at which size."""

import numpy as np
import pytest

from jog3r.data.clip import Clip
from jog3r.data.frame_choice import (
    STRIDES,
    FrameSelection,
    rebase_poses,
    resize_clip,
    sample_clip,
    select_frames,
    shuffled_index,
    take_frames,
)
from jog3r.data.procedural import procedural_clip
from jog3r.data.source import ProceduralSource, clip_dataset, list_hash, read_image


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


@pytest.mark.parametrize(("mode", "size"), [("crop", (8, 8)), ("stretch", (8, 8)), ("crop", (32, 48)), ("stretch", (24, 20))])
def test_points_stay_where_they_are_when_a_clip_is_resized(video: Clip, mode: str, size: tuple[int, int]) -> None:
    """Depth and intrinsics of the new size give the surface that the old ones gave."""
    resized = resize_clip(video, *size, mode)
    assert resized.size == size
    old, new = video.intrinsics[0], resized.intrinsics[0]
    rows, columns = np.meshgrid(np.arange(size[0]), np.arange(size[1]), indexing="ij")
    rays = np.stack([(columns - new[0, 2]) / new[0, 0], (rows - new[1, 2]) / new[1, 1]], -1)
    back = rays * [old[0, 0], old[1, 1]] + old[:2, 2]  # where those rays meet the old image
    nearest = np.rint(back[..., ::-1]).astype(int).clip(0, [15, 23])
    assert (resized.depth[0] == video.depth[0][nearest[..., 0], nearest[..., 1]]).mean() > 0.8  # the rest are ties
    if mode == "crop":
        assert new[0, 0] == pytest.approx(new[1, 1], rel=1e-5)


def test_any_source_streams_as_a_dataset_and_resumes() -> None:
    pytest.importorskip("datasets")
    source = ProceduralSource("train", 0, 4, 6, 8, 8)
    stream = clip_dataset(source, num_frames=3, seed=2, num_shards=2)
    rows = list(stream)
    assert stream.num_shards == 2
    clips = [Clip(**{**row, "poses": np.asarray(row["poses"])}) for row in rows]
    for index, clip in enumerate(clips):
        np.testing.assert_array_equal(clip.frames, sample_clip(source.load(index), 3, 2, index).frames)
    parts = [[row["caption"] for row in stream.shard(2, part)] for part in range(2)]
    assert parts[0] + parts[1] == [clip.caption for clip in clips]


def test_a_stream_leaves_out_what_cannot_be_loaded_up_to_a_share() -> None:
    pytest.importorskip("datasets")

    class Broken(ProceduralSource):
        def load(self, index: int) -> Clip:
            if index == 1:
                raise ValueError("cut off")
            return super().load(index)

    source = Broken("train", 0, 4, 4, 8, 8)
    assert len(list(clip_dataset(source, 3, max_bad_share=0.25))) == 3
    with pytest.raises(ValueError, match="1 of 4 videos cannot be used.*cut off"):
        list(clip_dataset(source, 3))
    with pytest.raises(ValueError, match="num_shards"):
        clip_dataset(source, 3, num_shards=5)


def test_lists_have_hashes_and_images_have_reasons(tmp_path) -> None:
    assert list_hash(["a", "b"]) != list_hash(["b", "a"])
    (tmp_path / "a.png").write_bytes(b"no image")
    for name in ("a.png", "b.png"):
        with pytest.raises(ValueError, match=f"{name}.*no readable image"):
            read_image(tmp_path / name)
    with pytest.raises(ValueError, match="count"):
        ProceduralSource("train", 0, 0, 4, 8, 8)
