"""The joint normal equations of all cameras: every pair is summed up by a small matrix, chunk by chunk, then added together.

Unknowns, in this order: 6 per frame (rotation vector and translation in world axes: R -> exp(w) R, t -> t + v), the log scale of
each pair, and the log focals (one if shared, else one per frame).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from jog3r.geometry.cameras import invert
from jog3r.geometry.registration.joint_fit.depth_agreement import (
    Agreement,
    MapDepth,
    disagreement,
    excess_variance,
    in_world,
    map_depths,
)
from jog3r.geometry.registration.joint_fit.distances import calm_factors
from jog3r.geometry.registration.joint_fit.noise import NoiseModel, estimate_noise, field_factor, normal_equations, robust_weights
from jog3r.geometry.registration.joint_fit.pair_terms import Rays, local_points, pose_chain
from jog3r.geometry.registration.joint_fit.samples import Samples, sample_rays
from jog3r.geometry.registration.joint_fit.tree import State

# Of the typical distance from the host: depths that are zero put points into their own camera, where they are on every ray.
_NEAREST = 1e-3


@dataclass
class System:
    """Normal equations of all unknowns, float64, at some state."""

    normal: Tensor  # (n, n)
    gradient: Tensor  # (n,)
    fit: Tensor  # (P,) share of the valid pixels of the second maps that are inliers
    value: Tensor  # scalar: the objective, whose half gradient this is

    def pull(self, normal: Tensor, gradient: Tensor, value: float) -> None:
        """Add further terms: normal equations (n, n), gradient (n,) and objective."""
        self.normal, self.gradient, self.value = self.normal + normal, self.gradient + gradient, self.value + value

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


@dataclass(frozen=True)
class Held:
    """A chunk's first or second maps with the weights of some state, which stay while steps are tried."""

    half: int
    chunk: slice
    points: Tensor  # (m, 3, N) in the cameras of their own frames, at calm distances along the rays
    noise: NoiseModel
    omega: Tensor  # (m, N)
    factor: Tensor | None  # of `field_factor`

    def value(self, local: Tensor, rays: Rays) -> Tensor:
        """Weighted squared distances of points (m, 3, N) from rays, which end at the camera; a scalar."""
        residual = rays.offsets(local) / self.noise.smooth_std[:, None]
        small = normal_equations(residual[:, None], self.omega, self.noise, self.factor)
        behind = local[:, 2].clamp(max=0) / self.noise.smooth_std
        return small.sum(dtype=torch.float64) + (self.omega * behind.square()).sum(dtype=torch.float64)


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
        self.excess: dict[int, Tensor] = {}  # of variance along the rays, by frame
        self.rays: dict[int, tuple[Tensor, Rays]] = {}  # the last ones of cameras that are all alike, with these, by half
        # Of the last `assemble`, for `value`.
        self.relative = torch.empty(0)
        self.held: list[Held] = []
        self.agreements: list[Agreement] = []
        self.unknowns = layout.pair_unknowns(samples)

    def chunks(self) -> list[slice]:
        """Slices of pairs that are worked on together."""
        count = self.samples.num_pairs
        return [slice(start, min(start + self.chunk_pairs, count)) for start in range(0, count, self.chunk_pairs)]

    def _local(self, half: int, chunk: slice, state: State, relative: Tensor) -> tuple[Tensor, Rays, Tensor]:
        """First (0) or second (1) maps: points in their own cameras, rays, distances along them (0 where no point is ahead)."""
        samples, maps = self.halves[half], self._maps(half, chunk)
        local = samples.points[maps]
        if half == 1:
            local = local_points(local, relative[chunk])
        rays = self._rays(half, chunk, state.intrinsics)
        along = rays.distances(local)
        return local, rays, torch.where(samples.valid[maps] & (along > _NEAREST), along, 0.0)

    def _rays(self, half: int, chunk: slice, intrinsics: Tensor) -> Rays:
        """Rays of a chunk's maps; a state that is tried, then taken, asks twice for the same."""
        samples = self.halves[half]
        if not bool((intrinsics == intrinsics[:1]).all()):
            return sample_rays(samples, intrinsics, samples.frame[self._maps(half, chunk)])
        if half not in self.rays or not torch.equal(self.rays[half][0], intrinsics):
            self.rays[half] = intrinsics, sample_rays(samples, intrinsics, samples.frame[:1])
        return self.rays[half][1]

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
            torch.zeros((), **options),
        )
        relative = relative_poses_of_pairs(samples, state)
        frame = samples.pairs[:, 1]
        chain = pose_chain(state.poses, frame, relative, state.pair_scale)  # (P, 6, 13)
        several = samples.frame.bincount(minlength=layout.num_frames)[samples.frame] > 1  # maps of frames that others show too
        depths: dict[int, MapDepth] = {}
        self.relative, self.held, self.agreements = relative, [], []
        for chunk in self.chunks():
            for half in (0, 1):
                local, rays, along = self._local(half, chunk, state, relative)
                valid, points = along > 0, local
                if half == 1:
                    if learn:
                        self.calm[chunk.start] = calm_factors(along, valid, samples.grid)
                    along, noisy = along * self.calm[chunk.start], along
                    points = torch.addcmul(local, (along - noisy)[:, None], rays.direction)
                columns = rays.columns(local, along, pose=half == 1)
                if learn:
                    self._fit_noise(half, chunk, columns[:, -1], along)
                noise = self.noise[half, chunk.start]
                columns /= noise.smooth_std[:, None, None]
                robust = robust_weights(columns[:, -1], noise, self.halves[half].grid) * valid
                omega = noise.weight * robust
                factor = field_factor(omega, noise)
                small = normal_equations(columns, omega, noise, factor)
                system.value += small[:, -1, -1].sum(dtype=torch.float64)
                self.held.append(Held(half, chunk, points, noise, omega, factor))
                if half == 0:
                    system.add(small, layout.focal_of(samples.frame[: samples.num_pairs][chunk])[:, None])
                else:
                    lift = self._lift(chain[chunk])
                    system.add(lift.transpose(1, 2) @ small.double() @ lift, self.unknowns[chunk])
                    system.fit[chunk] = (robust > 0.5).sum(1) / samples.valid[samples.num_pairs :][chunk].sum(1).clamp(min=1)
                depths |= self._depths_of(half, chunk, local, omega, noise, several)
        self._agree(system, depths, chain, state, learn)
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

    def _depths_of(
        self, half: int, chunk: slice, local: Tensor, omega: Tensor, noise: NoiseModel, several: Tensor
    ) -> dict[int, MapDepth]:
        """Depths of a chunk's maps whose frame other maps show too, at the coarse pixels, by their index among all M."""
        start = half * self.samples.num_pairs + chunk.start
        chosen = several[start : start + local.shape[0]].nonzero()[:, 0]  # (k,)
        if not len(chosen):
            return {}
        local, omega, smooth_std = local[chosen], omega[chosen], noise.smooth_std[chosen]
        if half == 1:
            local, omega, smooth_std = local[:, :, self.shared], omega[:, self.shared], smooth_std[:, self.shared]
        size = self.halves[0].size[start + chosen]
        precision = omega * (size / smooth_std).square()
        found = map_depths(local, size, precision, noise.pixels_per_datum(len(self.shared)), second=half == 1)
        return dict(zip((start + chosen).tolist(), found, strict=True))

    def _agree(self, system: System, depths: dict[int, MapDepth], chain: Tensor, state: State, learn: bool) -> None:
        """Add the terms that make maps of one frame agree on its depth."""
        count = self.samples.num_pairs
        log_scale = state.pair_scale.log().repeat(2)
        frames = self.samples.frame.tolist()
        of_frame: dict[int, list[int]] = {}
        for entry in depths:
            of_frame.setdefault(frames[entry], []).append(entry)
        for frame, entries in of_frame.items():
            maps = [depths[entry] for entry in entries]
            if learn:
                precision = torch.stack([item.precision for item in maps])
                self.excess[frame] = excess_variance(in_world(maps, log_scale[entries]), precision)
            agreement = Agreement.of(entries, maps, log_scale[entries], self.excess[frame])
            self.agreements.append(agreement)
            system.value += agreement.value
            unknowns, lifts = [], []
            for entry in entries:
                if entry < count:
                    unknowns.append(self.unknowns[entry, 12:13])
                    lifts.append(torch.ones_like(chain[0, :1, :1]))
                else:
                    unknowns.append(self.unknowns[entry - count, :13])
                    own = chain.new_zeros(7, 13)
                    own[:6], own[6, 12] = chain[entry - count], 1
                    lifts.append(own)
            lift = torch.block_diag(*lifts)
            full = torch.cat((lift.T @ agreement.normal.double() @ lift, (lift.T @ agreement.gradient.double())[:, None]), 1)
            full = torch.cat((full, torch.zeros_like(full[:1])), 0)
            system.add(full[None], torch.cat(unknowns)[None])

    def value(self, state: State) -> float:
        """The data's objective at another state, with noise, weights and calm distances of the last `assemble`.

        Weights fall as residuals grow, so that where this is lower than the system's `value`, the robust objective is, too.
        """
        relative = relative_poses_of_pairs(self.samples, state)
        change = relative @ invert(self.relative)
        total = torch.zeros((), dtype=torch.float64, device=relative.device)
        for held in self.held:
            rays = self._rays(held.half, held.chunk, state.intrinsics)
            local = held.points if held.half == 0 else local_points(held.points, change[held.chunk])
            total += held.value(local, rays)
        log_scale = state.pair_scale.log().repeat(2)
        identity = torch.eye(4, dtype=relative.dtype, device=relative.device).expand_as(relative)
        axis = torch.cat((identity, relative))[:, 2].to(self.samples.points.dtype)  # (M, 4), row of z
        for agreement in self.agreements:
            entries = agreement.entries
            z = (axis[entries, :3, None] * self.halves[0].points[entries]).sum(1) + axis[entries, 3:]
            total += disagreement(z.clamp(min=1e-9).log() + log_scale[entries, None].to(z), agreement.weights)
        return float(total)
