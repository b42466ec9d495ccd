"""Cosines between random subspaces against simulation, moments, and the exact law of lines."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from subspace_lab.numerics import null_cosines


def simulated(rank: int, m: int, pairs: int) -> np.ndarray:
    """Cosines between pairs that are drawn as they come, by the SVD of the product of two orthonormal bases."""
    rng = np.random.default_rng(7)
    cosines = []
    for _ in range(pairs):
        first, second = (np.linalg.qr(rng.standard_normal((m, rank)))[0] for _ in range(2))
        cosines.append(np.linalg.svd(first.T @ second, compute_uv=False))
    return np.concatenate(cosines)


@pytest.mark.parametrize(
    ("rank", "m"), [(64, 256), (16, 128), (100, 128), (3, 40), (20, 32)], ids=lambda value: str(value)
)
def test_against_simulated_pairs(rank: int, m: int) -> None:
    """Within the 5 % bound of Kolmogorov and Smirnov for two samples; angles of one pair repel, and so err less."""
    cosines, grid = simulated(rank, m, pairs=40), np.linspace(0, 0.999, 200)
    share = (cosines[:, None] <= grid).mean(0)
    bound = 1.36 * (1 / len(cosines) + 1 / (400 * rank)) ** 0.5
    assert np.abs(null_cosines(grid, rank, m) - share).max() < bound


@pytest.mark.parametrize(("rank", "m"), [(16, 128), (64, 256), (128, 256), (200, 256)])
def test_the_mean_squared_cosine_is_the_null_of_the_overlap(rank: int, m: int) -> None:
    """``E c^2 = int_0^1 2 c (1 - F(c)) dc = r/m``, exactly."""
    edge = 2 * np.sqrt(rank / m * (1 - rank / m))
    mean, _ = integrate.quad(lambda c: 2 * c * (1 - null_cosines(np.array([c]), rank, m)[0]), 0, 1, points=[edge])
    assert mean == pytest.approx(rank / m, rel=1e-6)


def test_lines_follow_the_beta_law() -> None:
    """At rank 1 the squared cosine is Beta(1/2, (m - 1)/2) whatever m is."""
    grid = np.linspace(0.01, 0.99, 50)
    exact = stats.beta(0.5, (24 - 1) / 2).cdf(grid**2)
    assert np.abs(null_cosines(grid, 1, 24) - exact).max() < 1.63 / 400**0.5  # the 1 % bound


def test_nothing_lies_beyond_the_edge_and_intersections_are_ones() -> None:
    assert null_cosines(np.array([0.0, 2 * (0.25 * 0.75) ** 0.5, 1.0]), 64, 256).tolist() == [0.0, 1.0, 1.0]
    assert null_cosines(np.array([0.999]), 192, 256) == pytest.approx(1 / 3)  # (2a - 1)/a = 2/3 of them are 1
    assert null_cosines(np.array([0.5, 1.0]), 64, 64).tolist() == [0.0, 1.0]
    assert null_cosines(np.array([0.5, 1.0]), 99, 64).tolist() == [0.0, 1.0]
