"""Global registration: pairwise pointmaps -> camera poses, intrinsics and depth of all frames.

`register_pointmaps` takes anybody's pairwise pointmaps (DUSt3R, MASt3R, or the head of this package). docs/registration.md
explains the two methods, their terms and the weights.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jog3r.geometry.cameras import check_tensors, intrinsics_from_focal, relative_poses, transform, unproject
from jog3r.geometry.pointmaps import mean_distance
from jog3r.geometry.registration.checks import Given, check_given, check_inputs
from jog3r.geometry.registration.degeneracy import find_degenerate, pose_known
from jog3r.geometry.registration.dense import Dense, dense_depth, frame_confidence
from jog3r.geometry.registration.energy import BASE_SCALE, Pairwise, objective
from jog3r.geometry.registration.joint_fit.refinement import RefineOptions, refine
from jog3r.geometry.registration.joint_fit.samples import take_samples
from jog3r.geometry.registration.joint_fit.smoothness import TemporalWeights
from jog3r.geometry.registration.joint_fit.tree import first_intrinsics, first_state, unit_length
from jog3r.geometry.registration.reference import ReferenceOptions, reference_alignment
from jog3r.geometry.registration.threads import full_precision, one_thread_if_small

MAX_PIXELS = 4096  # of each map that take part in the fast solve


@dataclass(frozen=True)
class Registration:
    """Cameras and depth of F frames; float32; world = camera of frame 1; scale: mean distance of frame 1's valid points is 1."""

    poses: Tensor
    """(F, 4, 4) camera-to-world, OpenCV axes; the first is the identity."""
    intrinsics: Tensor
    """(F, 3, 3) in pixels of the maps."""
    depth: Tensor
    """(F, H, W) z in the frame's camera; 0 where no map has a valid pixel."""
    pointmaps: Tensor
    """(F, H, W, 3) in world coordinates; the camera centre where depth is 0."""
    confidence: Tensor
    """(F, H, W) the highest confidence any pair gave to the pixel; 0 where depth is 0."""
    pair_scale: Tensor
    """(P,) factors from the length unit of each pair's pointmaps to that of the world."""
    energy: float
    """DUSt3R's objective at this state, without temporal terms, at its own scale (geometric mean of pair scales 0.5)."""
    converged: bool
    """Whether the last step was shorter than 0.3 standard deviations of each unknown (fast; steps shrink about tenfold), or the
    last tenth of the steps lowered the energy by under 0.1 % (reference)."""
    num_iterations: int
    """Steps taken."""
    degenerate: tuple[str, ...]
    """Per frame why its pose deserves no trust, joined by ", ": "no parallax", "planar scene", "poor fit"; "too few points" and
    "no overlap" for a frame that has no pose (see `pose_known`); "" for a sound frame. Clips that zoom often get "poor fit" with
    one focal length for all frames: give `shared_focal=False`."""
    pose_covariance: Tensor
    """(F, 6, 6) covariance of rotation vector (radians) and translation of each pose, in world axes (R -> exp(w) R, t -> t + v);
    zero for frame 1 and given poses, inf on the diagonal where the pose is unknown; NaN-filled by the reference, which
    knows none."""

    @property
    def pose_known(self) -> Tensor:
        """(F,) bool: False for frames whose pose nothing tells: the identity stands there, depth and points mean nothing."""
        return pose_known(self.degenerate)


def register_pointmaps(  # noqa: PLR0913  # the public contract's signature
    anchor_pointmaps: Tensor,  # (P, H, W, 3)
    anchor_confidence: Tensor,  # (P, H, W)
    pointmaps: Tensor,  # (P, H, W, 3)
    confidence: Tensor,  # (P, H, W)
    pairs: Tensor,  # (P, 2)
    num_frames: int,
    *,
    method: str = "fast",
    shared_focal: bool = True,
    focal_px: float | Tensor | None = None,
    pixel_aspect: float | None = None,
    intrinsics: Tensor | None = None,
    known_poses: Tensor | None = None,
    smoothness: str | None = "auto",
    smoothness_focal: float = 0.0,
    smoothness_translation: float = 0.0,
    max_iterations: int | None = None,
    chunk_pairs: int = 32,
    generator: torch.Generator | None = None,
) -> Registration:
    """Register pairwise pointmaps globally.

    Args:
        anchor_pointmaps: points of frame i of each pair (i, j), in camera i.
        anchor_confidence: > 0; DUSt3R's are above 1. 0, NaN or inf marks invalid pixels, as do non-finite points.
        pointmaps: points of frame j, in camera i, in the same unit as the pair's anchor points.
        confidence: the same for frame j.
        pairs: (i, j) from 0; any graph, best connected to frame 0. The star (0, f) is what the pipeline gives.
        num_frames: F; frames in temporal order if smoothness is to mean anything.
        method: "fast", or "reference" for DUSt3R's energy minimised by Adam (slow; the graph must be connected): the
            paper's with both temporal weights and a focal per frame, DUSt3R's own with the defaults.
        shared_focal: one focal length for all frames.
        focal_px: given focal length fx in pixels, one or one per frame.
        pixel_aspect: given ratio fy / fx, such as 16 / 9 for frames of that aspect stretched to squares. None: from the maps, 1
            unless they clearly say otherwise (fast only; 1 for the reference and with `focal_px`).
        intrinsics: given (3, 3) or (F, 3, 3) in pixels, e.g. with non-square pixels (fast only).
        known_poses: given (F, 4, 4) camera-to-world poses, in any world and any scale; they are kept.
        smoothness: "auto" adds a prior on accelerations whose strength is estimated from the data; None adds none (fast only).
        smoothness_focal: weight of the paper's L_fl, which is 0 for `shared_focal`.
        smoothness_translation: weight of the paper's L_transl. For both methods' units see docs/registration.md.
        max_iterations: default 10 (fast), 300 (reference).
        chunk_pairs: pairs worked on at a time; bounds the memory (fast only).
        generator: unused: both methods are deterministic.

    Raises:
        ValueError: shapes, ranges or options that make no sense, maps on different devices, or no valid pixel at all.
        TypeError: maps or pairs that are not torch tensors, such as arrays. Any real dtype will do; `focal_px`, `intrinsics` and
            `known_poses` may be arrays and lists.
    """
    del generator
    check_tensors(pointmaps=pointmaps)
    with torch.no_grad(), full_precision(pointmaps.device):
        data, masks = check_inputs(anchor_pointmaps, anchor_confidence, pointmaps, confidence, pairs, num_frames)
        given = check_given((num_frames, *data.size), data.pointmaps.device, focal_px, pixel_aspect, intrinsics, known_poses)
        weights = TemporalWeights(smoothness_focal, smoothness_translation)
        check_options(max_iterations, chunk_pairs, weights, smoothness)
        if method == "fast":
            options = RefineOptions(
                iterations=max_iterations or 10,
                fixed_poses=given.poses is not None,
                fixed_focal=given.focal_known,
                shared_focal=shared_focal,
                motion_prior=smoothness == "auto",
                temporal=weights,
                chunk_pairs=chunk_pairs,
            )
            return _fast(data, masks, num_frames, given, options)
        if method == "reference":
            # Its gradients need ordinary tensors, which nothing made inside torch.inference_mode is.
            with torch.inference_mode(False), torch.no_grad():
                return _reference(data.clone(), masks, num_frames, given.clone(), weights, max_iterations or 300, shared_focal)
    raise ValueError(f"method must be 'fast' or 'reference', got {method!r}")


def check_options(max_iterations: int | None, chunk_pairs: int, weights: TemporalWeights, smoothness: str | None) -> None:
    """Refuse numbers out of range."""
    for name, value in (("max_iterations", 1 if max_iterations is None else max_iterations), ("chunk_pairs", chunk_pairs)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be at least 1 and whole, got {value!r}")
    if min(weights.focal, weights.translation) < 0:
        raise ValueError(f"smoothness weights must be >= 0, got {weights.focal} and {weights.translation}")
    if smoothness not in ("auto", None):
        raise ValueError(f"smoothness must be 'auto' or None, got {smoothness!r}")


def _fast(data: Pairwise, masks: tuple[Tensor, Tensor], num_frames: int, given: Given, options: RefineOptions) -> Registration:
    pixels = min(data.size[0] * data.size[1], MAX_PIXELS)
    with one_thread_if_small(min(len(data.pairs), options.chunk_pairs) * pixels, data.pointmaps.device):
        # 1. a subset of the pixels, cameras from closed forms and short robust fits
        samples = take_samples(data, *masks, MAX_PIXELS)
        intrinsics = given.intrinsics
        if not given.focal_known:
            intrinsics = first_intrinsics(samples, intrinsics, options.shared_focal, data.size, given.aspect_known)
        state, samples = first_state(samples, intrinsics, num_frames, given.poses)
        options = replace(options, temporal=options.temporal.in_unit(unit_length(samples, state)))
        # 2. all cameras together
        refined = refine(samples, state, options)
        state = refined.state
        known = state.reached if given.poses is None else torch.ones_like(state.reached)
        degenerate = find_degenerate(samples, refined, known)
    # 3. depth of all pixels for these cameras
    pair_scale = state.pair_scale / samples.unit
    dense = dense_depth(data, masks, state.poses, state.intrinsics, pair_scale, options.chunk_pairs)
    covariance = refined.covariance
    unknown = torch.full((6,), torch.inf, dtype=covariance.dtype, device=covariance.device).diag_embed().nan_to_num(nan=0.0)
    covariance = torch.where(known[:, None, None], covariance, unknown)
    return _finish(
        (state.poses, state.intrinsics, pair_scale, covariance),
        dense,
        refined.converged,
        refined.iterations,
        degenerate,
    )


def _reference(
    data: Pairwise,
    masks: tuple[Tensor, Tensor],
    num_frames: int,
    given: Given,
    weights: TemporalWeights,
    iterations: int,
    shared_focal: bool,
) -> Registration:
    if given.intrinsics_given or bool((given.intrinsics[:, 0, 0] != given.intrinsics[:, 1, 1]).any()):
        raise ValueError(
            "method='reference' takes focal_px, not intrinsics or pixel_aspect: its cameras are centred with square pixels"
        )
    options = ReferenceOptions(
        iterations,
        shared_focal and not given.focal_known,
        given.intrinsics[:, 0, 0] if given.focal_known else None,
        given.poses,
        weights.focal,
        weights.translation,
    )
    parameters, history = reference_alignment(data, num_frames, options)
    poses = relative_poses(parameters.cam_to_world().double())
    intrinsics = intrinsics_from_focal(parameters.focals().double(), *data.size)
    best = frame_confidence(data, masks, num_frames)
    depth = torch.where(best > 0, parameters.im_depthmaps.exp().unflatten(1, data.size), 0.0)
    world = transform(poses.float(), unproject(depth, intrinsics.float()))
    final = float(objective(data, parameters))
    energy = final
    if given.poses is not None:  # which fix the scale of everything; the energy is proportional to it
        energy *= BASE_SCALE / float(parameters.pair_scales().log().mean().exp())
    if not math.isfinite(energy):
        raise ValueError(f"method='reference' ended at an energy of {energy}: points of such sizes are beyond it; use 'fast'")
    covariance = torch.full((num_frames, 6, 6), torch.nan, device=poses.device)
    earlier = history[-max(1, len(history) // 10)]
    return _finish(
        (poses, intrinsics, parameters.pair_scales(), covariance),
        Dense(depth, best, world, energy),
        earlier - final < 1e-3 * final,
        iterations,
        ("",) * num_frames,
    )


def _finish(
    cameras: tuple[Tensor, Tensor, Tensor, Tensor],  # poses, intrinsics, pair scales, covariance
    dense: Dense,
    converged: bool,
    iterations: int,
    degenerate: tuple[str, ...],
) -> Registration:
    """Fix the scale: the mean distance of frame 1's valid points becomes 1."""
    poses, intrinsics, pair_scale, covariance = cameras
    unit = 1 / mean_distance(dense.pointmaps[:1], dense.confidence[:1] > 0)[0].double()
    poses = poses.clone()
    poses[:, :3, 3] *= unit
    stretch = torch.cat((torch.ones(3).to(unit), unit.repeat(3)))
    covariance = covariance * stretch[:, None] * stretch
    if not bool(covariance.isnan().all()):  # 0 times inf, off the diagonal of what is unknown
        covariance = covariance.nan_to_num(nan=0.0, posinf=torch.inf)
    return Registration(
        poses.float(),
        intrinsics.float(),
        dense.depth * unit.float(),
        dense.pointmaps * unit.float(),
        dense.confidence,
        (pair_scale.double() * unit).float(),
        dense.energy,
        converged,
        iterations,
        degenerate,
        covariance.float(),
    )
