"""Fréchet and kernel distances: known values, an oracle, behaviour at small N, every refusal."""

import numpy as np
import pytest
import torch

from jog3r.evaluation import frechet_distance, kernel_distance, real_floor, spread_at_this_size
from jog3r.evaluation.video_metrics import polynomial_mmd

linalg = pytest.importorskip("scipy.linalg")


def gaussian(count: int, dim: int = 5, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(dim, dim))
    return generator.normal(size=(count, dim)) @ mixing + shift


def frechet_oracle(a: np.ndarray, b: np.ndarray) -> float:
    difference = a.mean(0) - b.mean(0)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    return difference @ difference + np.trace(cov_a + cov_b - 2 * linalg.sqrtm(cov_a @ cov_b).real)


# ---- Fréchet


def test_equals_the_textbook_formula_where_it_is_stable():
    a, b = gaussian(200, seed=1), gaussian(150, seed=2, shift=0.5) * 1.3
    assert frechet_distance(a, b) == pytest.approx(frechet_oracle(a, b), rel=1e-8)


def test_known_value_in_one_dimension():
    a, b = np.array([[-1.0], [1.0]]), np.array([[1.0], [5.0]])  # means 0 and 3, variances 2 and 8
    assert frechet_distance(a, b) == pytest.approx(9 + 2 + 8 - 2 * 4)


def test_identical_sets_symmetry_and_rotation():
    a, b = gaussian(40, seed=1), gaussian(50, seed=2)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)
    q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))
    assert frechet_distance(a @ q, b @ q) == pytest.approx(frechet_distance(a, b), rel=1e-10)


def test_fewer_samples_than_features_is_exact():
    """Both sets live in a line of a 50-dimensional space: the one-dimensional value must come out."""
    direction = np.random.default_rng(0).normal(size=50)
    direction /= np.linalg.norm(direction)
    a, b = np.array([-1.0, 1.0]), np.array([1.0, 5.0])
    assert frechet_distance(a[:, None] * direction, b[:, None] * direction) == pytest.approx(11.0, rel=1e-12)
    wide_a, wide_b = gaussian(8, dim=50, seed=1), gaussian(9, dim=50, seed=2)
    noise_free = frechet_distance(wide_a, wide_b)
    epsilon = np.eye(50) * 1e-9
    cov = [np.cov(x, rowvar=False) + epsilon for x in (wide_a, wide_b)]
    root = linalg.sqrtm(cov[0])
    eigen = np.linalg.eigvalsh(root @ cov[1] @ root).clip(0)
    difference = wide_a.mean(0) - wide_b.mean(0)
    reference = difference @ difference + np.trace(cov[0]) + np.trace(cov[1]) - 2 * np.sqrt(eigen).sum()
    assert noise_free == pytest.approx(float(reference.real), rel=1e-4)


def test_torch_half_precision_is_widened_first():
    a, b = (torch.from_numpy(gaussian(30, seed=s)).half() for s in (1, 2))
    assert frechet_distance(a, b) == frechet_distance(a.double().numpy(), b.double().numpy())


# ---- kernel


def test_polynomial_mmd_equals_the_double_sum():
    a, b = gaussian(5, seed=1), gaussian(7, seed=2)

    def kernel(x, y):
        return (x @ y / 5 + 1) ** 3

    aa = np.mean([kernel(a[i], a[j]) for i in range(5) for j in range(5) if i != j])
    bb = np.mean([kernel(b[i], b[j]) for i in range(7) for j in range(7) if i != j])
    ab = np.mean([kernel(x, y) for x in a for y in b])
    assert polynomial_mmd(a, b) == pytest.approx(aa + bb - 2 * ab)


def test_kernel_distance_is_unbiased_where_frechet_is_not():
    equal = [polynomial_mmd(gaussian(16, seed=s) / 3, gaussian(16, seed=s + 500) / 3) for s in range(200)]
    assert abs(np.mean(equal)) < 3 * np.std(equal) / np.sqrt(200)
    assert np.mean([frechet_distance(gaussian(16, seed=s), gaussian(16, seed=s + 500)) for s in range(20)]) > 1


def test_kernel_distance_reports_its_subsets():
    a, b = gaussian(60, seed=1), gaussian(50, seed=2, shift=2.0)
    estimate = kernel_distance(a, b, subset_size=20, num_subsets=10)
    assert (estimate.num_samples, estimate.num_repeats) == (20, 10)
    assert estimate.std > 0
    assert estimate == kernel_distance(a, b, subset_size=20, num_subsets=10)
    assert estimate != kernel_distance(a, b, subset_size=20, num_subsets=10, seed=1)


def test_kernel_distance_of_whole_sets_has_the_standard_error_of_the_jackknife():
    a, b = gaussian(60, seed=1), gaussian(50, seed=2, shift=2.0)
    whole = kernel_distance(a, b)
    assert (whole.num_samples, whole.num_repeats) == (50, 1)
    assert whole.value == pytest.approx(polynomial_mmd(a, b), rel=1e-10)
    left = [np.array([polynomial_mmd(np.delete(a, k, 0), b) for k in range(60)])]
    left += [np.array([polynomial_mmd(a, np.delete(b, k, 0)) for k in range(50)])]
    assert whole.std == pytest.approx(sum((len(x) - 1) * x.var() for x in left) ** 0.5, rel=1e-8)
    assert np.isnan(kernel_distance(a[:2], b).std)
    pairs = [(gaussian(40, seed=s) / 3, gaussian(40, seed=s + 500, shift=1.0) / 3) for s in range(60)]
    estimates = [kernel_distance(*pair) for pair in pairs]
    scatter = np.std([estimate.value for estimate in estimates])
    assert 0.7 < np.median([estimate.std for estimate in estimates]) / scatter < 1.5


# ---- spread and floors


@pytest.mark.parametrize(("count", "dim"), [(60, 1), (100, 10), (16, 50)])
def test_spread_is_that_of_repeated_draws_and_surrounds_the_value(count, dim):
    pairs = [(gaussian(count, dim, seed=s), gaussian(count, dim, seed=s + 500, shift=1.0)) for s in range(60)]
    scatter = np.std([frechet_distance(*pair) for pair in pairs])
    spreads = [spread_at_this_size(frechet_distance, *pair, num_resamples=40) for pair in pairs[:5]]
    assert 0.6 < np.median([spread.std for spread in spreads]) / scatter < 1.8
    for spread, pair in zip(spreads, pairs, strict=False):
        assert spread.value == frechet_distance(*pair) and spread.low < spread.value < spread.high


def test_bias_at_few_samples_is_far_beyond_the_spread():
    """Two sets of one distribution: the true distance is 0. What is printed must not look like an interval for it."""
    generator = np.random.default_rng(0)
    spread = spread_at_this_size(frechet_distance, *generator.normal(size=(2, 64, 768)), num_resamples=10)
    assert spread.value > 50 * spread.std and spread.low < spread.value < spread.high


def test_real_floor_is_what_equal_distributions_score():
    real = gaussian(64, seed=3)
    floor = real_floor(frechet_distance, real, num_samples=16, num_splits=5)
    assert floor.num_samples == 16
    assert 0 < floor.value < frechet_distance(real, gaussian(64, seed=4, shift=3.0))
    assert real_floor(frechet_distance, real).num_samples == 32
    assert real_floor(frechet_distance, real).value < floor.value  # the bias shrinks with N


# ---- refusals


def test_refusals():
    good = gaussian(10)
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(good[:1], good)
    with pytest.raises(ValueError, match="NaN"):
        frechet_distance(np.where(good > 1, np.nan, good), good)
    with pytest.raises(ValueError, match="5 and 4"):
        frechet_distance(good, good[:, :4])
    with pytest.raises(ValueError, match=r"\(samples, features\)"):
        frechet_distance(good[0], good)
    with pytest.raises(ValueError, match="subset_size"):
        kernel_distance(good, good, subset_size=1)
    with pytest.raises(ValueError, match="num_resamples >= 2"):
        spread_at_this_size(frechet_distance, good, good, num_resamples=1)
    with pytest.raises(ValueError, match="at least 4"):
        spread_at_this_size(frechet_distance, good[:3], good)
    with pytest.raises(ValueError, match="needs 12 real samples"):
        real_floor(frechet_distance, good, num_samples=6)
