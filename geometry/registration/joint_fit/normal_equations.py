"""The joint normal equations of all cameras: every pair is summed up by a small matrix, chunk by chunk, then added together.

Unknowns, in this order: 6 per frame (rotation vector and translation in world axes: R -> exp(w) R, t -> t + v), the log scale of
each pair, and the log focals (one if shared, else one per frame).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from jog3r.geometry.cameras import invert
from jog3r.geometry.registration.joint_fit.distances import calm_factors
from jog3r.geometry.registration.joint_fit.noise import (
    NoiseModel,
    estimate_noise,
    flat_top_weight,
    normal_equations,
    robust_weights,
)
from jog3r.geometry.registration.joint_fit.pair_terms import (
    across_ray,
    along_ray,
    distance_along,
    local_points,
    log_depth_columns,
    pose_chain,
)
from jog3r.geometry.registration.joint_fit.samples import Samples, sample_rays, tangent_basis
from jog3r.geometry.registration.joint_fit.tree import State

_LEAST_DEPTH = 0.1  # of a point's distance from its host: nearer to a camera's plane, log depth says nothing


@dataclass
class System:
    """Normal equations of all unknowns, float64, at some state."""

    normal: Tensor  # (n, n)
    gradient: Tensor  # (n,)
    fit: Tensor  # (P,) share of the valid pixels of the second maps that are inliers

    def add(self, small: Tensor, index: Tensor) -> None:
        """Add small systems (m, c + 1, c + 1), whose last column belongs to the residual, at the unknowns `index` (m, c)."""
        small = small.to(self.normal)
        core = small[:, :-1, :-1]
        self.normal.index_put_((index[:, :, None].expand_as(core), index[:, None].expand_as(core)), core, accumulate=True)
        self.gradient.index_put_((index,), small[:, :-1, -1], accumulate=True)


@dataclass(frozen=True)
class Layout:
    """Where the unknowns stand."""

    num_frames: int
    num_pairs: int
    shared_focal: bool

    @property
    def scales(self) -> int:
        """Index of the first log scale."""
        return 6 * self.num_frames

    @property
    def focals(self) -> int:
        """Index of the first log focal."""
        return self.scales + self.num_pairs

    @property
    def size(self) -> int:
        """Number of unknowns."""
        return self.focals + (1 if self.shared_focal else self.num_frames)

    def focal_of(self, frames: Tensor) -> Tensor:
        """Indices of the log focals of frames."""
        return self.focals + (torch.zeros_like(frames) if self.shared_focal else frames)

    def pair_unknowns(self, samples: Samples) -> Tensor:
        """Indices (P, 14): host pose, own pose, log scale, log focal of the second maps."""
        host, frame = samples.pairs.T
        six = torch.arange(6, device=host.device)
        scale = self.scales + torch.arange(self.num_pairs, device=host.device)
        parts = (6 * host[:, None] + six, 6 * frame[:, None] + six, scale[:, None], self.focal_of(frame)[:, None])
        return torch.cat(parts, dim=1)


def relative_poses_of_pairs(samples: Samples, state: State) -> Tensor:
    """Host camera -> own camera (P, 4, 4) of the second maps, in pair units."""
    host, frame = samples.pairs.T
    relative = invert(state.poses)[frame] @ state.poses[host]
    scale = torch.ones_like(relative)
    scale[:, :3, 3] = 1 / state.pair_scale[:, None]
    return relative * scale


class Assembler:
    """Builds the normal equations at successive states; remembers the noise model between them."""

    def __init__(self, samples: Samples, layout: Layout, chunk_pairs: int) -> None:
        """Nothing is computed before the first `assemble`, which must learn."""
        self.samples, self.layout, self.chunk_pairs = samples, layout, chunk_pairs
        # Second maps tell the poses and need all pixels; first maps tell only the focal and the pair scales.
        coarse, self.shared = samples.coarse()
        self.halves = (coarse, samples)
        self.noise: dict[tuple[int, int], NoiseModel] = {}  # by half and start of the chunk, as is
        # (m, N) factors from second maps' distances along the rays to those of the neighbours, by start of the chunk. First maps
        # need none: their errors along the ray do not show across it.
        self.calm: dict[int, Tensor] = {}
        self.unknowns = layout.pair_unknowns(samples)

    def chunks(self) -> list[slice]:
        """Slices of pairs that are worked on together."""
        count = self.samples.num_pairs
        return [slice(start, min(start + self.chunk_pairs, count)) for start in range(0, count, self.chunk_pairs)]

    def _local(self, half: int, chunk: slice, state: State, relative: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """First (0) or second (1) maps: points in their own cameras, rays, distances along them (0 where invalid or behind)."""
        samples, maps = self.halves[half], self._maps(half, chunk)
        local = samples.points[maps]
        if half == 1:
            local = local_points(local, relative[chunk])
        rays = sample_rays(samples, state.intrinsics, samples.frame[maps])
        along = torch.where(samples.valid[maps], distance_along(local, rays), 0.0).clamp(min=0)
        return local, rays, along

    def _maps(self, half: int, chunk: slice) -> slice:
        """The chunk's maps among all M."""
        start = half * self.samples.num_pairs
        return slice(start + chunk.start, start + chunk.stop)

    def assemble(self, state: State, learn: bool) -> System:
        """Normal equations of the data at a state.

        Args:
            state: near the optimum.
            learn: whether the noise is fitted to the residuals first; exponents and correlation to those of the first chunk.
        """
        samples, layout = self.samples, self.layout
        options = {"dtype": torch.float64, "device": samples.points.device}
        system = System(
            torch.zeros(layout.size, layout.size, **options),
            torch.zeros(layout.size, **options),
            torch.zeros(samples.num_pairs, **options),
        )
        relative = relative_poses_of_pairs(samples, state)
        frame = samples.pairs[:, 1]
        chain = pose_chain(state.poses, frame, relative, state.pair_scale)  # (P, 6, 13)
        several = samples.frame.bincount(minlength=layout.num_frames)[samples.frame] > 1  # maps of frames that others show too
        depths: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        for chunk in self.chunks():
            for half in (0, 1):
                local, rays, along = self._local(half, chunk, state, relative)
                valid = along > 0
                if half == 1:
                    if learn:
                        self.calm[chunk.start] = calm_factors(along, valid, samples.grid)
                    along *= self.calm[chunk.start]
                columns = across_ray(local, along, rays, tangent_basis(rays), pose_columns=half == 1)
                if learn:
                    self._fit_noise(half, chunk, columns[:, -1], along)
                noise = self.noise[half, chunk.start]
                columns /= noise.smooth_std[:, None, None]
                robust = robust_weights(columns[:, -1], noise, self.halves[half].grid) * valid
                omega = noise.weight * robust
                small = normal_equations(columns, omega, noise)
                if half == 0:
                    system.add(small, layout.focal_of(frame_of(samples, 0)[chunk])[:, None])
                else:
                    lift = self._lift(chain[chunk])
                    system.add(lift.transpose(1, 2) @ small.double() @ lift, self.unknowns[chunk])
                    system.fit[chunk] = (robust > 0.5).sum(1) / samples.valid[samples.num_pairs :][chunk].sum(1).clamp(min=1)
                self._keep_depths(depths, half, chunk, local, omega, noise, several)
        self._depth_agreement(system, depths, chain, state)
        return system

    def _fit_noise(self, half: int, chunk: slice, residual: Tensor, along: Tensor) -> None:
        """Learn the noise of a chunk's first or second maps; exponents and correlation are those of the first chunk."""
        like = None if chunk.start == 0 else self.noise[half, 0]
        confidence = self.halves[half].confidence[self._maps(half, chunk)]
        self.noise[half, chunk.start] = estimate_noise(residual, along, confidence, self.halves[half].grid, like=like)

    @staticmethod
    def _lift(chain: Tensor) -> Tensor:
        """(m, 8, 15): pair columns to the pair's unknowns, focal and residual passing through."""
        lift = chain.new_zeros(chain.shape[0], 8, 15)
        lift[:, :6, :13], lift[:, 6, 13], lift[:, 7, 14] = chain, 1, 1
        return lift

    def _keep_depths(
        self,
        depths: dict[int, tuple[Tensor, Tensor, Tensor]],
        half: int,
        chunk: slice,
        local: Tensor,
        omega: Tensor,
        noise: NoiseModel,
        several: Tensor,
    ) -> None:
        """Log depths, inverse variances and derivatives of maps whose frame other maps show too, at the coarse pixels."""
        start = half * self.samples.num_pairs + chunk.start
        chosen = several[start : start + local.shape[0]].nonzero()[:, 0]  # (k,)
        if not len(chosen):
            return
        local, omega, smooth_std = local[chosen], omega[chosen], noise.smooth_std[chosen]
        if half == 1:
            local, omega, smooth_std = local[:, :, self.shared], omega[:, self.shared], smooth_std[:, self.shared]
        size = self.halves[0].size[start + chosen]
        # Near the camera's plane the logarithm explodes.
        weights = omega * (size / smooth_std).square() * (local[:, 2] > _LEAST_DEPTH * size)
        weights = weights / noise.pixels_per_datum(len(self.shared))
        log_depth, derivatives = log_depth_columns(local)
        if half == 0:  # its camera is the pair's own: only the pair's scale moves the depth
            derivatives = derivatives[:, 6:]
        for entry, *values in zip((start + chosen).tolist(), log_depth, weights, derivatives, strict=True):
            depths[entry] = (values[0], values[1], values[2])

    def _depth_agreement(
        self, system: System, depths: dict[int, tuple[Tensor, Tensor, Tensor]], chain: Tensor, state: State
    ) -> None:
        """Add the terms that make maps of one frame agree on its depth."""
        count = self.samples.num_pairs
        log_scale = state.pair_scale.log()
        frames = self.samples.frame.tolist()
        of_frame: dict[int, list[int]] = {}
        for entry in depths:
            of_frame.setdefault(frames[entry], []).append(entry)
        for entries in of_frame.values():
            depth = torch.stack([depths[entry][0] + log_scale[entry % count].to(chain.dtype) for entry in entries]).float()
            weights = torch.stack([depths[entry][1] for entry in entries])
            middle = torch.where(weights > 0, depth, torch.nan).nanmedian(0).values.nan_to_num()
            weights = weights * flat_top_weight((depth - middle).square() * weights * 4)
            owner, unknowns, lifts = [], [], []
            for position, entry in enumerate(entries):
                if entry < count:
                    owner += [position]
                    unknowns.append(self.unknowns[entry, 12:13])
                    lifts.append(torch.ones_like(chain[0, :1, :1]))
                else:
                    owner += [position] * 7
                    unknowns.append(self.unknowns[entry - count, :13])
                    own = chain.new_zeros(7, 13)
                    own[:6], own[6, 12] = chain[entry - count], 1
                    lifts.append(own)
            columns = torch.cat([depths[entry][2] for entry in entries])
            normal, gradient = along_ray(depth, weights, columns, torch.tensor(owner, device=depth.device))
            lift = torch.block_diag(*lifts)
            full = torch.cat((lift.T @ normal.double() @ lift, (lift.T @ gradient.double())[:, None]), 1)
            full = torch.cat((full, torch.zeros_like(full[:1])), 0)
            system.add(full[None], torch.cat(unknowns)[None])


def frame_of(samples: Samples, half: int) -> Tensor:
    """Frames (P,) that the first (0) or second (1) maps show."""
    return samples.frame[half * samples.num_pairs : (half + 1) * samples.num_pairs]
