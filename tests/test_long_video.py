"""Long videos: joined windows against an exact walk, loops right and wrong, memory, refusals, and the tiny real pipeline."""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from long_video_scene import Errors, LoopWalk
from PIL import Image
from tiny_components import seeded, tiny_pipeline
from tiny_generators import tiny_generator
from torch import Tensor

from jog3r.geometry.cameras import invert, rotation_angle_deg, umeyama_sim3
from jog3r.geometry.similarity import move_cameras, sim3_exp, sim3_parts
from jog3r.geometry.windows import WindowGeometry, iterate_windows
from jog3r.pipelines.long_videos.long_video import (
    LongReconstruction,
    PipelineWindows,
    join_video,
    reconstruct_long_video,
    strided,
)
from jog3r.pipelines.long_videos.loop_closing import LoopOptions, find_candidates, remember, verify_loop, view_agreement
from jog3r.pipelines.long_videos.window_chain import MemoryStore
from jog3r.pipelines.pipeline_jog3r import Jog3rPipeline

SMALL = {"window": 8, "overlap": 3, "progress": False}


def walk_of(num_frames: int, errors: Errors | None = None, seed: int = 0) -> LoopWalk:
    return LoopWalk(num_frames, size=24, errors=errors, seed=seed)


def unit_of(walk: LoopWalk) -> float:
    """Mean distance of frame 1's points."""
    geometry = LoopWalk(len(walk), walk.size).reconstruct([0])
    return float(geometry.points().norm(dim=-1).mean())


def drift(poses: Tensor, walk: LoopWalk) -> float:
    """RMS distance of the centres after the best similarity, over the radius of the walk."""
    ours, true = poses[:, :3, 3].double(), walk.poses[:, :3, 3]
    scale, rotation, translation = umeyama_sim3(ours, true)
    return float((scale * ours @ rotation.T + translation - true).square().sum(-1).mean().sqrt()) / 2.75


def test_exact_windows_with_units_of_their_own_give_the_exact_walk() -> None:
    walk = walk_of(61, Errors(pixel=0, smooth=0, rotation_deg=0, translation=0, scale=0.5))
    result = join_video(walk.reconstruct, range(61), **SMALL)
    unit = unit_of(walk)
    torch.testing.assert_close(result.poses[0], torch.eye(4))
    torch.testing.assert_close(result.poses[:, :3, 3] * unit, walk.poses[:, :3, 3].float(), atol=2e-3, rtol=0)
    apart = invert(result.poses.double()) @ walk.poses
    assert float(rotation_angle_deg(apart[:, :3, :3]).amax()) < 0.02
    depth = walk.depth(list(range(61)))
    for frame in result:
        torch.testing.assert_close(frame.depth.double() * unit, depth[frame.index], rtol=2e-3, atol=0)
    assert float(result.frame(0).pointmap.norm(dim=-1).mean()) == pytest.approx(1, abs=1e-3)
    assert result.window_starts == tuple(start for start, _ in iterate_windows(range(61), 8, 3))
    assert result.energies.tolist() == list(range(1, len(result.window_starts) + 1))
    assert float(result.join_residual.amax()) < 1e-5
    assert float(result.join_inliers.amin()) > 0.95


def test_world_does_not_depend_on_the_windows_own_worlds() -> None:
    walk = walk_of(40)
    rng = seeded(3)

    def elsewhere(numbers: list[int]) -> WindowGeometry:
        geometry = walk.reconstruct(numbers)
        move = sim3_exp(torch.randn(7, generator=rng, dtype=torch.float64))
        scale = float(sim3_parts(move)[0])
        poses = move_cameras(move, geometry.poses.double())
        return WindowGeometry(poses, geometry.intrinsics, geometry.depth * scale, geometry.confidence)

    result, other = (join_video(function, range(40), **SMALL) for function in (walk.reconstruct, elsewhere))
    torch.testing.assert_close(result.poses, other.poses, atol=1e-3, rtol=0)
    torch.testing.assert_close(result.frame(33).pointmap, other.frame(33).pointmap, atol=5e-3, rtol=0)


def test_outliers_and_noise_leave_a_small_drift() -> None:
    walk = walk_of(120, Errors(outliers=0.3))
    result = join_video(walk.reconstruct, range(120), **SMALL)
    assert drift(result.poses, walk) < 0.15
    assert bool((result.join_inliers < 0.85).all())


def test_one_window_is_enough_for_a_short_video() -> None:
    result = join_video(walk_of(50).reconstruct, range(5), **SMALL)
    assert len(result) == 5
    assert result.window_to_world.shape == (1, 4, 4)
    assert result.join_residual.shape == (0,)


def test_a_loop_is_noticed_and_takes_the_drift_out() -> None:
    before, after = [], []
    for seed in range(2):
        walk = walk_of(100, Errors(rotation_deg=0.3, translation=0.1), seed)
        numbers = [*range(100), *range(12)]  # once round and a little more
        result = join_video(walk.reconstruct, numbers, loops=LoopOptions(max_candidates=4), **SMALL)
        assert any(loop.accepted and loop.weight > 0.5 for loop in result.loops)
        before.append(drift(result.chained_poses[:100], walk))
        after.append(drift(result.poses[:100], walk))
    assert sum(after) < 0.7 * sum(before)


class LookAlikes(LoopWalk):
    """Windows of two places look the same, and the network is fooled: mixed windows put one beside the other."""

    def __init__(self, consistent: bool) -> None:
        super().__init__(100, size=24, errors=Errors())
        self.consistent = consistent

    def reconstruct(self, numbers: list[int]) -> WindowGeometry:
        geometry = super().reconstruct(numbers)
        jumps = [index for index in range(1, len(numbers)) if abs(numbers[index] - numbers[index - 1]) > 10]
        if jumps:
            cut = jumps[0]
            if self.consistent:
                # The second half of the walk is imagined 1.5 m beside the first, whichever is shown first.
                shift = torch.tensor([0.2, 1.0, 0.3, 0.0, 1.5, 0.5, -1.0], dtype=torch.float64)
                ahead = sim3_exp(shift) if numbers[0] < numbers[cut] else torch.linalg.inv(sim3_exp(shift))
                base = geometry.poses[0].double() if numbers[0] < numbers[cut] else torch.eye(4, dtype=torch.float64)
            else:
                ahead, base = sim3_exp(0.5 * torch.randn(7, dtype=torch.float64)), torch.eye(4, dtype=torch.float64)
                ahead[:3, :3] = sim3_parts(ahead)[1]
            block = geometry.poses[cut:].double()
            poses = torch.cat((geometry.poses[:cut].double(), base @ ahead @ invert(block[:1]) @ block))
            geometry = WindowGeometry(poses, geometry.intrinsics, geometry.depth, geometry.confidence)
        # Windows around frames 10 and 60 look alike.
        place = 10 if abs(numbers[0] - 60) < 6 else numbers[0]
        descriptor = torch.nn.functional.one_hot(torch.tensor(place // 6), 20).float()
        return WindowGeometry(geometry.poses, geometry.intrinsics, geometry.depth, geometry.confidence, descriptor=descriptor)


@pytest.mark.parametrize("consistent", [False, True])
def test_a_wrong_loop_is_rejected(consistent: bool) -> None:
    walk = LookAlikes(consistent)
    result = join_video(walk.reconstruct, range(100), loops=LoopOptions(max_distance=0.01), **SMALL)
    assert result.loops, "the look-alikes must be tried"
    assert all(not loop.accepted or loop.weight == 0 for loop in result.loops), result.loops
    torch.testing.assert_close(result.poses, result.chained_poses)


def test_a_true_loop_is_verified_and_a_pair_without_common_view_is_not() -> None:
    walk = walk_of(100)
    memories = [remember(frames, walk.reconstruct(frames)) for _, frames in iterate_windows([*range(100), *range(8)], 8, 3)]
    true = verify_loop((0, len(memories) - 1), memories, walk.reconstruct, LoopOptions())
    assert true.accepted, true.reason
    assert true.edge is not None
    expected = walk.poses[memories[0].frames[0] - 2].inverse() @ walk.poses[memories[-1].frames[0] - 2]
    torch.testing.assert_close(true.edge.transform, expected, atol=1e-3, rtol=0)
    strict = verify_loop((0, 10), memories, walk.reconstruct, LoopOptions(min_overlap=0.9))
    assert not strict.accepted
    assert "seen by both" in strict.reason


def test_candidates_are_near_in_place_and_far_in_time() -> None:
    walk = walk_of(100)
    cut = list(iterate_windows([*range(100), *range(8)], 8, 3))
    memories = [remember(frames, walk.reconstruct(frames)) for _, frames in cut]
    nodes = walk.poses[[frames[0] for _, frames in cut]]
    pairs = find_candidates(memories, nodes, LoopOptions(max_distance=0.3, max_candidates=3))
    assert pairs[0] in {(0, len(cut) - 1), (1, len(cut) - 1), (0, len(cut) - 2)}
    assert all(j - i >= 3 for i, j in pairs)
    assert len(pairs) <= 3


def test_view_agreement_knows_same_and_shifted_surfaces() -> None:
    walk = walk_of(100)
    first, second = walk.reconstruct([0, 1, 2]), walk.reconstruct([1, 2, 3])
    exact = walk.poses[1]
    assert min(view_agreement(first, second, exact, 0.1)) > 0.9
    nearer = exact.clone()
    nearer[:3, :3] *= 0.5
    assert view_agreement(first, second, nearer, 0.1)[1] < 0.3


class CountingStore:
    """Forgets everything but the first frame and how it was called."""

    def __init__(self) -> None:
        self.indices: list[int] = []
        self.first: tuple[Tensor, Tensor] | None = None

    def write(self, index: int, depth: Tensor, confidence: Tensor) -> None:
        self.indices.append(index)
        self.first = self.first or (depth, confidence)

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        assert index == 0 and self.first is not None
        return self.first


def test_store_gets_each_frame_once_in_order_and_nothing_else_is_kept() -> None:
    store = CountingStore()
    result = join_video(walk_of(70).reconstruct, iter(range(70)), store=store, **SMALL)
    assert store.indices == list(range(70))
    kept = sum(getattr(result, name).numel() for name in ("poses", "intrinsics", "chained_poses", "window_to_world"))
    assert kept <= 70 * (16 + 9 + 16 + 16)


@pytest.mark.parametrize("unit", [1e-7, 1.0, 1e6])
def test_depth_is_kept_in_any_unit(unit: float) -> None:
    depth, store = unit * (1 + torch.rand(3, 4, generator=seeded())), MemoryStore()
    depth[0, 0] = 0
    store.write(5, depth, torch.ones(3, 4))
    torch.testing.assert_close(store.read(5)[0], depth, rtol=5e-4, atol=0)


def test_degenerate_frames_are_flagged_unless_a_window_finds_them_sound() -> None:
    walk = walk_of(50)

    def flagged(numbers: list[int]) -> WindowGeometry:
        geometry = walk.reconstruct(numbers)
        flags = tuple("no parallax" if number in (3, 6) and numbers[0] == 0 else "" for number in numbers)
        return WindowGeometry(geometry.poses, geometry.intrinsics, geometry.depth, geometry.confidence, 0.0, flags)

    result = join_video(flagged, range(20), **SMALL)
    assert [index for index, flag in enumerate(result.degenerate) if flag] == [3]


def lost(walk: LoopWalk, frames: set[int], start: int) -> Callable[[list[int]], WindowGeometry]:
    """A reconstructor whose window from `start` on has no pose for some frames of the video."""

    def reconstruct(numbers: list[int]) -> WindowGeometry:
        geometry = walk.reconstruct(numbers)
        unknown = [numbers[0] == start and number in frames for number in numbers]
        poses, intrinsics, depth = geometry.poses.clone(), geometry.intrinsics.clone(), geometry.depth.clone()
        poses[unknown] = torch.eye(4, dtype=poses.dtype)
        intrinsics[unknown, 0, 0] *= 3
        depth[unknown] = 7.0
        flags = tuple("no overlap" if missing else "" for missing in unknown)
        return WindowGeometry(poses, intrinsics, depth, geometry.confidence, 0.0, flags)

    return reconstruct


@pytest.mark.parametrize(("frames", "start"), [({7}, 0), ({5, 6}, 0), ({5, 7}, 5), ({6}, 5)])
def test_an_unknown_pose_of_one_window_changes_nothing(frames: set[int], start: int) -> None:
    walk = walk_of(50)
    result, whole = (join_video(function, range(20), **SMALL) for function in (lost(walk, frames, start), walk.reconstruct))
    torch.testing.assert_close(result.poses, whole.poses, atol=1e-3, rtol=0)
    torch.testing.assert_close(result.intrinsics, whole.intrinsics)
    for frame in frames:
        torch.testing.assert_close(result.frame(frame).depth, whole.frame(frame).depth, rtol=3e-3, atol=0)
    assert not any(result.degenerate)


def test_a_pose_that_no_window_knows_is_said_to_be_unknown() -> None:
    walk = walk_of(50)
    result = join_video(lost(walk, {3}, 0), range(20), **SMALL)  # in the first window alone
    assert [index for index, flag in enumerate(result.degenerate) if flag] == [3]
    assert torch.isfinite(result.poses).all() and float(result.frame(3).confidence.max()) == 0
    with pytest.raises(
        ValueError, match="frames 5 to 7 of those taken do not join their windows: no frame has a pose in both windows"
    ):
        join_video(lost(walk, {5, 6, 7}, 5), range(20), **SMALL)


def test_windows_without_common_pixels_say_which_frames() -> None:
    walk = walk_of(50)

    def blank(numbers: list[int]) -> WindowGeometry:
        geometry = walk.reconstruct(numbers)
        depth = geometry.depth if numbers[0] == 0 else torch.zeros_like(geometry.depth)
        return WindowGeometry(geometry.poses, geometry.intrinsics, depth, geometry.confidence)

    with pytest.raises(ValueError, match="frames 5 to 7 of those taken do not join"):
        join_video(blank, range(30), **SMALL)
    with pytest.raises(ValueError, match="gave 1 frames for 8"):
        join_video(lambda numbers: walk.reconstruct(numbers[:1]), range(30), **SMALL)


def test_frames_out_of_range_are_refused() -> None:
    result = join_video(walk_of(50).reconstruct, range(5), **SMALL)
    for index in (-1, 5):
        with pytest.raises(IndexError, match="a video with 5 frames"):
            result.frame(index)


# The tiny real pipeline


@cache
def pipeline() -> Jog3rPipeline:
    return tiny_pipeline()


def video(count: int = 7) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, 16, 16, 3), dtype=np.uint8)


def run(frames: object, **options: object) -> LongReconstruction:
    return reconstruct_long_video(pipeline(), frames, **{"window": 4, "overlap": 2, "progress": False, **options})


def test_pipeline_takes_arrays_lists_and_streams_alike() -> None:
    frames = video()
    images = [Image.fromarray(frame) for frame in frames]
    results = [run(form, generator=seeded()) for form in (frames, iter(images), torch.from_numpy(frames).permute(0, 3, 1, 2))]
    assert results[0].poses.shape == (7, 4, 4)
    assert results[0].frame(6).pointmap.shape == (16, 16, 3)
    for other in results[1:]:
        torch.testing.assert_close(other.poses, results[0].poses)
        torch.testing.assert_close(other.frame(5).depth, results[0].frame(5).depth)


def test_a_batch_of_clips_is_no_video() -> None:
    with pytest.raises(ValueError, match=r"frames must be images \(H, W, 3\), got \(3, 16, 16, 3\): give one clip, not a batch"):
        run(np.stack([video(3)] * 4))


def test_stride_takes_every_other_frame() -> None:
    frames = video()
    strided_result, cut = run(frames, stride=2, generator=seeded()), run(frames[::2], generator=seeded())
    torch.testing.assert_close(strided_result.poses, cut.poses)
    assert list(strided(iter(range(7)), 3)) == [0, 3, 6]


def test_first_window_is_what_the_pipeline_alone_says() -> None:
    frames = video(4)
    # The same memory layout, as rounding grows large in pointmaps of a random network.
    alone = pipeline()(video=np.ascontiguousarray(frames.transpose(0, 3, 1, 2)), generator=seeded())
    long = run(frames, generator=seeded())
    torch.testing.assert_close(long.poses, alone.poses[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(long.intrinsics, alone.intrinsics[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(long.frame(2).depth, alone.depth[0, 2], atol=1e-3, rtol=1e-3)


def test_windows_of_other_generators_are_what_their_pipeline_says() -> None:
    """Weights drawn at random find no cameras that would join: each window by itself."""
    pipe = tiny_generator("wan")
    assert pipe.max_video_frames == 81
    frames = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8, generator=seeded(1))
    found = PipelineWindows(pipe, 5, generator=seeded())([*frames])
    alone = pipe(video=frames, generator=seeded())
    for name in ("poses", "intrinsics"):  # which of random depths are believed hangs on their last digits
        torch.testing.assert_close(getattr(found, name), getattr(alone, name)[0], rtol=1e-4, atol=1e-4)
    assert found.descriptor is not None and found.descriptor.shape == (24,)
    refused = [
        (dict(window=6), "1 more than a multiple of 4"),
        (dict(window=85), "window must be at most 81"),
        (dict(window=5, decode_chunk_size=2), "decode_chunk_size is for JOG3R models, the pipeline is a Jog3rWanPipeline"),
    ]
    for given, message in refused:
        with pytest.raises(ValueError, match=message):
            reconstruct_long_video(pipe, frames, overlap=1, **given)
    pipe.pointmap_head = tiny_generator("wan", trained=False).pointmap_head
    with pytest.raises(ValueError, match="is not trained"):
        reconstruct_long_video(pipe, frames, window=5, overlap=1)


def test_loops_and_sizes_go_through_the_pipeline() -> None:
    result = run(video(), close_loops=LoopOptions(min_gap=2, max_candidates=1, max_distance=math.inf, max_angle_deg=180.0))
    assert len(result.loops) == 1
    assert run(video(5), height=24, width=32).frame(0).depth.shape == (24, 32)


def test_refusals() -> None:
    with pytest.raises(TypeError, match="stream_video"):
        run("walk.mp4")
    with pytest.raises(ValueError, match="at least 2 frames, the video has 1"):
        run(video(1))
    with pytest.raises(ValueError, match="overlap=4 and window=4"):
        run(video(), overlap=4)
    with pytest.raises(ValueError, match="window must be at most 64"):
        run(video(), window=65)
    with pytest.raises(ValueError, match="both height and width"):
        run(video(), height=16)
    with pytest.raises(ValueError, match="reconstruction_timestep"):
        run(video(), reconstruction_timestep=1e6)
    with pytest.raises(TypeError, match="no_such_option"):
        run(video(), no_such_option=1)
    with pytest.raises(ValueError, match="frame 1 is 24 x 16 pixels"):
        run([video(1)[0], np.zeros((16, 24, 3), np.uint8)])
    with pytest.raises(ValueError, match="pointmap head"):
        reconstruct_long_video(tiny_pipeline(pointmap_head=None), video())
