"""Videos of any length: windows of frames, each reconstructed by itself, joined by what they share, then one global pass.

Memory does not grow with the length but for what is kept of each frame, and that can be kept elsewhere (`FrameStore`). Letters:
F frames of the video, n frames of a window, K windows, H W pixels.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from operator import length_hint
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from jog3r.geometry.cameras import transform, unproject
from jog3r.geometry.pose_graph import solve_pose_graph
from jog3r.geometry.similarity import sim3_parts
from jog3r.geometry.windows import WindowGeometry, blend_poses, check_windows, count_windows, iterate_windows
from jog3r.pipelines.checks import check_number, check_registration
from jog3r.pipelines.generators.fit import check_frames, check_head
from jog3r.pipelines.generators.mixin import GeneratorMixin
from jog3r.pipelines.long_videos.loop_closing import Loop, LoopOptions, Reconstruct, find_candidates, verify_loop
from jog3r.pipelines.long_videos.window_chain import FrameStore, MemoryStore, WindowChain
from jog3r.pipelines.reconstruction import num_train_timesteps
from jog3r.pipelines.video_input import load_frames, resize


@dataclass(frozen=True)
class FrameGeometry:
    """All that is known of one frame; float32; world = camera of frame 1."""

    index: int
    pose: Tensor
    """(4, 4) camera-to-world."""
    intrinsics: Tensor
    """(3, 3) in pixels."""
    depth: Tensor
    """(H, W) z in the camera; 0 where nothing is known."""
    pointmap: Tensor
    """(H, W, 3) world points; the camera centre where depth is 0."""
    confidence: Tensor
    """(H, W); 0 where depth is 0."""


@dataclass(frozen=True)
class LongReconstruction:
    """Cameras of a long video; world = camera of frame 1, whose valid points lie at mean distance 1. Iterate for the frames."""

    poses: Tensor
    """(F, 4, 4) camera-to-world, float32; the first is the identity."""
    intrinsics: Tensor
    """(F, 3, 3) in pixels, float32."""
    chained_poses: Tensor
    """(F, 4, 4) before the global pass; the same as `poses` where no loop was found."""
    window_starts: tuple[int, ...]
    """First frame of each of the K windows."""
    window_to_world: Tensor
    """(K, 4, 4) float64, the similarity [[s R, t], [0, 1]] of each window."""
    join_residual: Tensor
    """(K-1,) relative error per axis of the shared pointmaps after joining."""
    join_inliers: Tensor
    """(K-1,) share of their weight that fits, 0..1."""
    energies: Tensor
    """(K,) of the windows' registrations."""
    degenerate: tuple[str, ...]
    """Per frame why its pose deserves no trust, if no window finds it sound; see `Registration.degenerate`."""
    loops: tuple[Loop, ...]
    """All loops that were tried, with what became of them."""
    depth_scale: Tensor
    """(F,) from the unit of the stored depths to that of the world."""
    store: FrameStore
    """The maps of the frames, in their own units."""

    def __len__(self) -> int:
        """F."""
        return len(self.poses)

    def __iter__(self) -> Iterator[FrameGeometry]:
        """All frames in order, one in memory at a time."""
        return (self.frame(index) for index in range(len(self)))

    def frame(self, index: int) -> FrameGeometry:
        """Depth, points and confidence of one frame.

        Raises:
            IndexError: there is no such frame.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of a video with {len(self)} frames")
        depth, confidence = self.store.read(index)
        depth = depth * self.depth_scale[index]
        pose, intrinsics = self.poses[index], self.intrinsics[index]
        return FrameGeometry(index, pose, intrinsics, depth, transform(pose, unproject(depth, intrinsics)), confidence)


def join_video(
    reconstruct: Reconstruct,
    frames: Iterable[Any],
    *,
    window: int = 16,
    overlap: int = 4,
    store: FrameStore | None = None,
    loops: LoopOptions | None = None,
    progress: bool = True,
) -> LongReconstruction:
    """Reconstruct a long video with any reconstructor of short ones.

    Args:
        reconstruct: a list of frames -> their geometry, in any world and any unit of length.
        frames: of any type that `reconstruct` understands; read once, in order.
        window: frames of a window, >= 2.
        overlap: frames that neighbours share, 1 .. window - 1.
        store: takes the maps; default: float16 in memory.
        loops: how to look for places seen again; None does not.
        progress: show a bar.

    Raises:
        ValueError: sizes that make no windows, fewer than 2 frames, neighbours with too little in common.
    """
    check_windows(window, overlap)
    store = MemoryStore() if store is None else store
    known = length_hint(frames, 0)
    total = count_windows(known, window, overlap) if known else None
    chain = WindowChain(store, keep=loops is not None)
    with tqdm(total=total, desc="windows", unit="window", disable=not progress) as bar:
        for start, items in iterate_windows(frames, window, overlap):
            chain.add(start, items, reconstruct(items))
            bar.update()
    chain.finish()
    return _finish(chain, _close(chain, reconstruct, loops, progress))


def _close(chain: WindowChain, reconstruct: Reconstruct, options: LoopOptions | None, progress: bool) -> list[Loop]:
    """Find and verify loops."""
    if options is None:
        return []
    candidates = find_candidates(chain.memories, chain.nodes(), options)
    tried = tqdm(candidates, desc="loops", unit="loop", disable=not progress)
    return [verify_loop(pair, chain.memories, reconstruct, options) for pair in tried]


def _finish(chain: WindowChain, loops: list[Loop]) -> LongReconstruction:
    """The global pass, and everything in the world of frame 1."""
    accepted = [loop for loop in loops if loop.accepted]
    graph = solve_pose_graph(chain.edges, [loop.edge for loop in accepted if loop.edge is not None])
    believed = iter(graph.loop_weights.tolist())
    loops = [replace(loop, weight=next(believed)) if loop.accepted else loop for loop in loops]
    to_world = chain.first_camera()
    nodes = to_world @ graph.nodes
    count = len(chain.owner)
    quality = torch.tensor(chain.quality, dtype=torch.float32).reshape(-1, 2)
    return LongReconstruction(
        poses=blend_poses(chain.entries, nodes, count).float(),
        intrinsics=chain.blended_intrinsics().float(),
        chained_poses=blend_poses(chain.entries, to_world @ chain.nodes(), count).float(),
        window_starts=tuple(start for start, _, _ in chain.entries),
        window_to_world=nodes,
        join_residual=quality[:, 0],
        join_inliers=quality[:, 1],
        energies=torch.tensor(chain.energies),
        degenerate=chain.degenerate(),
        loops=tuple(loops),
        depth_scale=sim3_parts(nodes)[0][torch.tensor(chain.owner)].float(),
        store=chain.store,
    )


def reconstruct_long_video(  # noqa: PLR0913  # the options of one call, as everywhere in the pipeline
    pipeline: Any,
    frames: Iterable[Any],
    *,
    window: int = 16,
    overlap: int = 4,
    stride: int = 1,
    close_loops: bool | LoopOptions = False,
    store: FrameStore | None = None,
    progress: bool = True,
    **options: Any,
) -> LongReconstruction:
    """Cameras and depth of a video of any length.

    Args:
        pipeline: a `Jog3rPipeline` with a pointmap head, or that of another generator with a trained one.
        frames: images (H, W, 3), (3, H, W) or PIL, uint8 in 0..255 or floating point in 0..1, as an array, a list or a stream
            that is read once. Not a path: see `jog3r.data.video_stream.stream_video`.
        window: frames that go through the network together; best what it was trained with. Other generators take 1 more than a
            multiple of their `frame_multiple`.
        overlap: frames that neighbours share.
        stride: take every stride-th frame.
        close_loops: look for places seen again, with these options or the default ones. Half of the frames are then kept. Not
            with other generators.
        store: takes the maps of the frames; default: float16 in memory.
        progress: show a bar.
        **options: height and width to stretch to; reconstruction_timestep, generator, decode_chunk_size, registration_kwargs,
            both_directions: see `Jog3rPipeline.__call__`; the last and decode_chunk_size not with other generators.

    Raises:
        ValueError: sizes that make no windows, fewer than 2 frames, frames of different sizes or sizes that are no whole tokens,
            neighbours with too little in common.
        TypeError: a path, an option that does not exist.
    """
    check_windows(window, overlap, stride)
    if not hasattr(pipeline, "transformer"):
        raise ValueError(f"windows are joined by the features of a video generator, which a {type(pipeline).__name__} has not")
    if isinstance(frames, str | PathLike):
        raise TypeError(f"frames must be images, got the path {str(frames)!r}; read it with jog3r.data.video_stream.stream_video")
    reconstruct = PipelineWindows(pipeline, window, **options)
    if close_loops and isinstance(pipeline, GeneratorMixin):
        raise ValueError(
            "close_loops shows the network halves of two windows as one video, whose frames at the cut the VAE of a "
            f"{type(pipeline).__name__} would mix: leave it out"
        )
    loops = LoopOptions() if close_loops is True else close_loops or None
    chosen: Iterable[Tensor] = _Prepared(strided(frames, stride), options.get("height"), options.get("width"))
    try:
        return join_video(reconstruct, chosen, window=window, overlap=overlap, store=store, loops=loops, progress=progress)
    finally:
        pipeline.maybe_free_model_hooks()


class PipelineWindows:
    """Reconstructs windows with a pipeline, by its public steps; keeps the mean features as the looks of a window."""

    def __init__(  # noqa: PLR0913  # as `Jog3rPipeline.__call__`
        self,
        pipeline: Any,
        window: int,
        height: int | None = None,
        width: int | None = None,
        reconstruction_timestep: float | None = None,
        generator: torch.Generator | None = None,
        decode_chunk_size: int | None = None,
        registration_kwargs: dict[str, Any] | None = None,
        both_directions: bool = False,
    ) -> None:
        if pipeline.pointmap_head is None:
            raise ValueError("cameras need the pointmap head, which this pipeline was loaded without")
        if (height is None) != (width is None):
            raise ValueError(f"give both height and width, or neither; got height={height}, width={width}")
        if window > pipeline.max_video_frames:
            raise ValueError(f"window must be at most {pipeline.max_video_frames}, the longest video taken in, got {window}")
        if reconstruction_timestep is not None:
            check_number("reconstruction_timestep", reconstruction_timestep, 0, num_train_timesteps(pipeline.scheduler) - 1)
        check_registration(registration_kwargs)
        self.pipeline = pipeline
        self.timestep = pipeline.default_reconstruction_timestep if reconstruction_timestep is None else reconstruction_timestep
        self.generator = generator
        self.encoding: dict[str, Any] = {"chunk_size": decode_chunk_size}
        self.reading: dict[str, Any] = {"both_directions": both_directions}
        if isinstance(pipeline, GeneratorMixin):
            for name, given in (("both_directions", both_directions), ("decode_chunk_size", decode_chunk_size is not None)):
                if given:
                    raise ValueError(f"{name} is for JOG3R models, the pipeline is a {type(pipeline).__name__}: leave it out")
            check_head(pipeline, "v2c")
            check_frames(pipeline, window, pipeline.token_size, pipeline.token_size)
            if None in (pipeline.text_encoder, pipeline.tokenizer):
                raise ValueError("windows are read with the empty caption: load the pipeline with its text encoder and tokenizer")
            with torch.no_grad():
                self.encoding, self.reading = {}, {"given": pipeline.caption_of_videos()}
        self.registration_kwargs = registration_kwargs or {}

    @torch.no_grad()
    def __call__(self, frames: list[Tensor]) -> WindowGeometry:
        """Frames, each (3, H, W) uint8, to their geometry on the CPU."""
        pipe = self.pipeline
        video = pipe.prepare_video(torch.stack(frames))
        latents = pipe.encode_video(video, **self.encoding)
        pairs, features = pipe.reconstruct_pairs(latents, self.timestep, self.generator, **self.reading)
        found = pipe.register(pairs, len(frames), **self.registration_kwargs)[0]
        return WindowGeometry(
            *(getattr(found, name).cpu() for name in ("poses", "intrinsics", "depth", "confidence")),
            found.energy,
            found.degenerate,
            features.float().mean((0, 1, 2)).cpu(),
        )


class _Prepared:
    """Frames as (3, H, W) uint8 of one size, one at a time."""

    def __init__(self, frames: Iterable[Any], height: int | None, width: int | None) -> None:
        self.frames = frames
        self.size = None if height is None or width is None else (height, width)

    def __iter__(self) -> Iterator[Tensor]:
        shape = None
        for index, frame in enumerate(self.frames):
            clips = load_frames([frame, frame])  # a video has two frames at least
            if len(clips) != 1:
                raise ValueError(f"frames must be images (H, W, 3), got {tuple(np.shape(frame))}: give one clip, not a batch")
            image = clips[:, :1]  # (1, 1, 3, H, W)
            image = image if self.size is None else resize(image, *self.size)
            image = (image[0, 0] * 255).round().clamp(0, 255).byte()  # (3, H, W)
            if shape not in (None, image.shape):
                raise ValueError(
                    f"frame {index} is {image.shape[2]} x {image.shape[1]} pixels, unlike those before; give height and width"
                )
            shape = image.shape
            yield image

    def __length_hint__(self) -> int:
        return length_hint(self.frames, 0)


def strided(frames: Iterable[Any], stride: int) -> Iterable[Any]:
    """Every stride-th frame; keeps the length known where it is."""
    if stride == 1:
        return frames
    return frames[::stride] if hasattr(frames, "__getitem__") else islice(frames, 0, None, stride)
