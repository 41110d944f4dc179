"""Depth between pixels, and the two tests for edges with what each is for."""

import math

import pytest
import torch

from jog3r.data.procedural import procedural_clip
from jog3r.geometry.depth_maps import away_from_bends, away_from_jumps, sample_depth


def plain_sample(depth, valid, x, y, inverse, spare_unweighted) -> float:
    """One pixel at a time, in Python numbers."""
    height, width = depth.shape
    x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
    total = 0.0
    for row in range(height):
        for column in range(width):
            weight = max(1 - abs(x - column), 0) * max(1 - abs(y - row), 0)
            # The four pixels of the cell, of which some may have no weight.
            left, top = min(math.floor(x), max(width - 2, 0)), min(math.floor(y), max(height - 2, 0))
            if not (0 <= column - left <= 1 and 0 <= row - top <= 1):
                continue
            if not valid[row, column]:
                if weight > 0 or not spare_unweighted:
                    return math.nan
                continue
            value = float(depth[row, column])
            total += weight * (1 / value if inverse else value)
    return 1 / total if inverse else total


@pytest.mark.parametrize("inverse", [True, False])
@pytest.mark.parametrize("spare_unweighted", [True, False])
@pytest.mark.parametrize("size", [(5, 6), (1, 6), (5, 1), (1, 1)])
def test_agrees_with_a_plain_loop(inverse: bool, spare_unweighted: bool, size: tuple[int, int]) -> None:
    random = torch.Generator().manual_seed(0)
    depth = 1 + torch.rand(3, *size, generator=random, dtype=torch.float64)
    valid = torch.rand(3, *size, generator=random) > 0.2
    depth[~valid] = torch.tensor([0.0, torch.nan, torch.inf]).double()[torch.arange(int((~valid).sum())) % 3]
    place = torch.rand(60, 2, generator=random, dtype=torch.float64) * (torch.tensor([size[1], size[0]]) + 1) - 1
    pixels = torch.cat((place, place.round()))  # also exactly on pixels, and outside
    frames = torch.arange(len(pixels)) % 3
    options = {"inverse": inverse, "spare_unweighted": spare_unweighted}
    found = sample_depth(depth, valid, pixels, frames, **options)
    expected = torch.tensor(
        [plain_sample(depth[f], valid[f], float(x), float(y), **options) for f, (x, y) in zip(frames, pixels, strict=True)],
        dtype=torch.float64,
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0, equal_nan=True)
    one = sample_depth(depth[1], valid[1], pixels[frames == 1].reshape(-1, 2, 2), **options)
    assert torch.equal(one.flatten().nan_to_num(), found[frames == 1].nan_to_num())


def test_is_exact_on_planes() -> None:
    v, u = torch.meshgrid(torch.arange(5.0).double(), torch.arange(6.0).double(), indexing="ij")
    depth = 1 / (0.2 + 0.03 * u + 0.01 * v)
    pixels = torch.rand(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.tensor([5, 4])
    expected = 1 / (0.2 + pixels @ torch.tensor([0.03, 0.01], dtype=torch.float64))
    torch.testing.assert_close(sample_depth(depth, depth > 0, pixels), expected, rtol=1e-12, atol=0)


def test_a_hole_spoils_what_needs_it_and_on_a_pixel_only_that_counts_if_asked() -> None:
    depth = torch.full((5, 6), 2.0)
    valid = torch.ones(5, 6, dtype=torch.bool)
    valid[2, 3] = False
    on_pixel, between = torch.tensor([2.0, 2.0]), torch.tensor([2.5, 1.5])
    assert sample_depth(depth, valid, on_pixel, spare_unweighted=True) == 2
    assert sample_depth(depth, valid, on_pixel).isnan()
    assert sample_depth(depth, valid, between, spare_unweighted=True).isnan()


def test_both_sides_of_a_jump_are_edges_and_slopes_are_not() -> None:
    depth = torch.linspace(2.0, 2.2, 8).expand(6, 8).clone()
    depth[:, 4:] += 1.0
    valid = torch.ones(6, 8, dtype=torch.bool)
    for away in (away_from_jumps, away_from_bends):
        assert (~away(depth, valid)).nonzero()[:, 1].unique().tolist() == [3, 4]
        assert away(depth, valid, 2.0).all()
        assert (~away(depth.T, valid.T)).nonzero()[:, 0].unique().tolist() == [3, 4]
        for size in ((1, 1), (2, 1), (1, 2), (2, 2)):
            assert away(torch.ones(size), torch.ones(size, dtype=torch.bool)).all()
    valid[:, 4] = False  # beside the unknown nothing is known to jump
    depth[:, 4] = torch.nan
    for away in (away_from_jumps, away_from_bends):
        assert torch.equal(away(depth, valid), valid)


@pytest.mark.parametrize("away", [away_from_jumps, away_from_bends])
@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan])
def test_a_limit_must_be_positive(away, limit: float) -> None:
    with pytest.raises(ValueError, match="must be positive, got"):
        away(torch.ones(2, 2), torch.ones(2, 2, dtype=torch.bool), limit)


def test_only_bends_spare_grazing_floors() -> None:
    v, u = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    slanted = 1 / (0.05 + 0.02 * u + 0.005 * v)  # a plane from depth 20 to 1
    everywhere = torch.ones(40, 40, dtype=torch.bool)
    assert away_from_bends(slanted, everywhere).all()
    assert not away_from_jumps(slanted, everywhere)[0, :4].any()
    found = ~away_from_bends(torch.where(u > 20, 3 * slanted, slanted), everywhere)
    assert found[:, 20:22].all() and not found[:, :20].any() and not found[:, 22:].any()


def test_only_jumps_endure_noise() -> None:
    """Why training does not use bends: they cut a third of depth that is off by 3 %."""
    clip = procedural_clip(0, "train", num_frames=4)
    valid = torch.from_numpy(clip.valid)
    exact = torch.from_numpy(clip.depth)
    noisy = exact * (0.03 * torch.randn(exact.shape, generator=torch.Generator().manual_seed(0))).exp()
    kept = {
        away: [float(away(depth, valid)[valid].float().mean()) for depth in (exact, noisy)]
        for away in (away_from_jumps, away_from_bends)
    }
    assert abs(kept[away_from_jumps][0] - kept[away_from_bends][0]) < 0.03
    assert kept[away_from_jumps][1] > kept[away_from_bends][1] + 0.1
