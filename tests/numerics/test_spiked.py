"""Planted signals against matrices of the full size, drawn here."""

from __future__ import annotations

import numpy as np
import pytest

from subspace_lab.numerics import null_noise, spiked_energies

RANKS = np.array([2.0, 4.0, 8.0, 16.0, 32.0])


def drawn(m: int, n: int, planted: int, share: float, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """What top spaces hold above r/m of another gradient of the same signal space, and of their own above noise."""
    rng = np.random.default_rng(5)
    ranks = RANKS.astype(int) - 1
    S = np.linalg.qr(rng.standard_normal((m, planted)))[0]
    held, own = np.zeros((2, len(RANKS)))
    for _ in range(draws):
        first, second = (
            S @ rng.standard_normal((planted, n)) * np.sqrt(share / (planted * n))
            + rng.standard_normal((m, n)) * np.sqrt((1 - share) / (m * n))
            for _ in range(2)
        )
        U, sigma, _ = np.linalg.svd(first, full_matrices=False)
        held += np.square(U[:, : ranks[-1] + 1].T @ second).sum(1).cumsum()[ranks] / np.square(second).sum() / draws
        own += np.square(sigma).cumsum()[ranks] / np.square(sigma).sum() / draws
    return held - RANKS / m, own - np.array([null_noise(int(r), m, n) for r in RANKS])


@pytest.mark.parametrize(
    ("m", "n", "planted", "share"),
    [
        (48, 144, 6, 0.1), (48, 144, 16, 0.1), (48, 144, 2, 0.5), (64, 64, 6, 0.3), (40, 160, 10, 0.2),
        (192, 300, 20, 0.2), (256, 256, 2, 0.1), (256, 512, 3, 0.5), (150, 400, 40, 0.7),
    ],
)  # fmt: skip
def test_energies_are_those_of_matrices_of_that_size(m, n, planted, share):
    """Within 0.03 of the signal's share: between its grid points, and for matrices larger than the simulated ones."""
    held, own = spiked_energies(RANKS, m, n, np.array([float(planted)]), np.array([share]))
    expected = drawn(m, n, planted, share, draws=24 if m < 100 else 8)
    np.testing.assert_allclose(held[0, 0], expected[0], atol=0.03 * share + 0.002)
    np.testing.assert_allclose(own[0, 0], expected[1], atol=0.05 * share + 0.003)


def test_ranks_from_m_on_hold_everything_and_shares_outside_are_the_nearest():
    ranks, planted = np.array([8.0, 16.0, 40.0]), np.array([3.0])
    held, own = spiked_energies(ranks, 16, 40, planted, np.array([0.2]))
    assert held[0, 0, 1:] == pytest.approx([0, 0], abs=1e-12)
    assert own[0, 0, 1:] == pytest.approx([0, 0], abs=1e-12)
    low, high = (spiked_energies(ranks, 16, 40, planted, np.array([s]))[0] for s in (1e-9, 0.01))
    assert np.array_equal(low, high)
