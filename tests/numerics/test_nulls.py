"""Null references against simulated noise and the published values."""

import numpy as np
import pytest
import torch

from subspace_lab import numerics


@pytest.mark.parametrize(
    ("rank", "m", "n", "ratio"),
    [(256, 1024, 1024, 0.789), (512, 2048, 5461, 0.685), (256, 768, 768, 0.861), (256, 768, 2048, 0.761)],
)
def test_null_noise_gives_the_known_ratios(rank, m, n, ratio):
    assert numerics.null_noise(rank, m, n) ** 0.5 == pytest.approx(ratio, abs=6e-4)


@pytest.mark.parametrize(("m", "n"), [(12, 12), (12, 40), (127, 127), (128, 128), (128, 350), (256, 300)])
def test_null_noise_is_what_the_own_space_captures_of_noise(m, n):
    rng = np.random.default_rng(7)
    energies = np.stack([np.linalg.svd(rng.standard_normal((m, n)), compute_uv=False) ** 2 for _ in range(40)])
    shares = energies.cumsum(1) / energies.sum(1, keepdims=True)
    for rank in (1, m // 4, m // 2, m - 1):
        mean, error = shares[:, rank - 1].mean(), shares[:, rank - 1].std() / np.sqrt(40)
        law = 0.0 if m < 128 else 0.01 * mean
        assert abs(numerics.null_noise(rank, m, n) - mean) < law + 5 * error, rank


@pytest.mark.parametrize(("m", "n"), [(12, 12), (12, 40), (40, 12), (128, 128), (130, 350)])
def test_no_mean_over_noise_lies_above_the_null_by_the_margin_and_what_lies_above_is_not_far(m, n):
    rng = np.random.default_rng(11)
    energies = np.stack([np.linalg.svd(rng.standard_normal((m, n)), compute_uv=False) ** 2 for _ in range(60)])
    shares = energies.cumsum(1) / energies.sum(1, keepdims=True)
    for rank in (max(1, min(m, n) // 8), min(m, n) // 4, min(m, n) // 2):
        excess = shares[:, rank - 1] - numerics.null_noise(rank, m, n)
        margin = numerics.null_noise_margin(rank, m, n, 1)
        assert excess.max() < margin, rank
        law = 0.01 * numerics.null_noise(rank, m, n)
        assert margin - law == pytest.approx(4 * excess.std(ddof=1), rel=0.4), rank
        means = excess.reshape(6, 10).mean(1)
        assert means.max() < numerics.null_noise_margin(rank, m, n, 10) < margin, rank


def test_isotropic_noise_lands_on_null_isotropic_for_a_fixed_basis():
    m, n, rank = 32, 200, 8
    generator = torch.Generator().manual_seed(0)
    S = torch.linalg.qr(torch.randn(m, rank, generator=generator)).Q
    fractions = []
    for _ in range(50):
        C = numerics.gram(torch.randn(m, n, generator=generator), "left")
        fractions.append(float(numerics.captured_energy(S, C @ S, float(C.trace()))[-1]))
    assert np.mean(fractions) == pytest.approx(numerics.null_isotropic(rank, m), abs=5 * np.std(fractions) / 50**0.5)


@pytest.mark.parametrize(("m", "n"), [(20, 64), (128, 128), (128, 512)])
def test_null_spectrum_is_that_of_noise(m, n):
    sigma = np.linalg.svd(np.random.default_rng(0).standard_normal((100, m, n)), compute_uv=False)
    sigma = np.sqrt((sigma**2 / (sigma**2).sum(1, keepdims=True)).mean(0))
    expected = np.array(numerics.null_spectrum(m, n))
    assert np.sum(expected**2) == pytest.approx(1)
    assert numerics.null_spectrum(n, m) == numerics.null_spectrum(m, n)
    np.testing.assert_allclose(expected, sigma, rtol=0.01, atol=0.002 * sigma[0])


def test_a_rank_above_m_is_the_effective_rank():
    assert numerics.null_isotropic(99, 16) == numerics.null_noise(99, 16, 40) == 1.0


@pytest.mark.parametrize(("m", "n", "rank"), [(16, 40, 4), (16, 16, 8), (40, 16, 20), (64, 200, 16)])
def test_null_tangent_is_that_of_noise_at_a_basis_chosen_blindly(m, n, rank):
    generator = torch.Generator().manual_seed(3)
    S = torch.linalg.qr(torch.randn(m, rank, generator=generator, dtype=torch.float64)).Q
    values = []
    for _ in range(200):
        C = numerics.gram(torch.randn(m, n, generator=generator, dtype=torch.float64), "left")
        values.append(torch.linalg.svdvals(numerics.subspace_error_tangent(S, C @ S))[:3] / C.trace())
    mean, spread = torch.stack(values).mean(0).numpy(), torch.stack(values).std(0).numpy()
    expected = np.array(numerics.null_tangent(rank, m, n, 3))
    assert np.all(np.abs(expected - mean) < 4 * spread / 10**0.5)
    assert numerics.null_tangent(m, m, n, 2) == (0.0, 0.0)
