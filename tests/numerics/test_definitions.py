"""Numbers by their definitions, off by a tenth of a percent is wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, optimize

from subspace_lab import numerics
from subspace_lab.numerics import nulls


def law(rank: int, m: int, n: int) -> float:
    """The energy above the quantile of the Marchenko-Pastur law, by integration of its density."""
    small, large = sorted((m, n))
    c, share = small / large, rank / small
    low, high = (1 - c**0.5) ** 2, (1 + c**0.5) ** 2

    def above(x: float, power: int) -> float:
        """By the substitution ``lambda = 1 + c + 2 sqrt(c) cos(phi)``, which takes the edges' roots away."""
        phi = math.acos(np.clip((x - 1 - c) / (2 * c**0.5), -1, 1))

        def weight(p: float) -> float:
            x = 1 + c + 2 * c**0.5 * math.cos(p)
            return x**power * 2 * math.sin(p) ** 2 / (math.pi * x) if x > 1e-14 else 0.0

        return integrate.quad(weight, 0, phi, epsabs=1e-12)[0]

    edge = optimize.brentq(lambda x: above(x, 0) - share, low + 1e-12, high)
    return above(edge, 1)


@pytest.mark.parametrize(("m", "n"), [(128, 128), (128, 300), (300, 128), (150, 1000), (1000, 150)])
@pytest.mark.parametrize("part", [0.02, 0.25, 0.5, 0.9])
def test_null_noise_is_the_law_of_the_smaller_side(m, n, part):
    rank = max(1, round(part * min(m, n)))
    assert numerics.null_noise(rank, m, n) == pytest.approx(law(rank, m, n), rel=1e-4)


@pytest.mark.parametrize(("m", "n"), [(12, 40), (127, 300), (130, 500)])
def test_nulls_of_own_spaces_do_not_know_which_side_is_which(m, n):
    for rank in (1, m // 4, m - 1, m, m + 1):
        assert numerics.null_noise(rank, m, n) == numerics.null_noise(rank, n, m)
        assert numerics.null_noise_margin(rank, m, n, 3) == numerics.null_noise_margin(rank, n, m, 3)
    assert numerics.null_noise(m, n, m) == numerics.null_noise(n, n, m) == 1
    assert numerics.null_noise(m - 1, n, m) < 1


def test_null_noise_of_small_matrices_in_closed_form():
    """Of 2 x 2: ``E lambda_1 / (lambda_1 + lambda_2)`` is ``1/2 + pi/8``; of one row everything."""
    assert numerics.null_noise(1, 2, 2) == pytest.approx(0.5 + math.pi / 8, abs=4 * 0.12 / 200**0.5)
    assert numerics.null_noise(1, 1, 9) == numerics.null_noise(1, 9, 1) == 1


@pytest.mark.parametrize(("m", "n"), [(12, 40), (24, 24), (40, 12)])
def test_simulated_nulls_scatter_around_the_truth(m, n):
    """As far as a mean of 200 draws does."""
    rng = np.random.default_rng(3)
    energies = np.linalg.svd(rng.standard_normal((4000, m, n)), compute_uv=False) ** 2
    shares = (energies / energies.sum(1, keepdims=True)).cumsum(1)
    for rank in (1, 4, 11):
        one = shares[:, rank - 1]
        assert abs(numerics.null_noise(rank, m, n) - one.mean()) < 4 * one.std() / 200**0.5
        margin = numerics.null_noise_margin(rank, m, n, 1) - 0.01 * numerics.null_noise(rank, m, n)
        assert margin == pytest.approx(4 * one.std() * (1 + 1 / 200) ** 0.5, rel=0.2)  # 5 % is a sigma of 200 draws


@pytest.mark.parametrize("draws", [2, 20, 500])
def test_the_margin_is_four_errors_of_a_mean_and_a_percent(draws):
    def errors(count: int) -> float:
        return numerics.null_noise_margin(16, 64, 128, count) - 0.01 * numerics.null_noise(16, 64, 128)

    assert errors(draws) / errors(1) == pytest.approx(((1 / draws + 1 / 200) / (1 + 1 / 200)) ** 0.5, rel=1e-9)
    scatter = nulls._simulated_shares(64, 128)[:, :16].sum(1).std(ddof=1)
    assert errors(draws) == pytest.approx(4 * scatter * (1 / draws + 1 / 200) ** 0.5, rel=1e-9)
    larger = numerics.null_noise_margin(64, 256, 512, draws) - 0.01 * numerics.null_noise(64, 256, 512)
    assert larger / errors(draws) == pytest.approx(64 / 256, rel=1e-9)  # a share scatters like one over the size


@pytest.mark.parametrize(("rank", "m", "n"), [(8, 24, 60), (8, 60, 24), (20, 60, 24), (30, 60, 24)])
def test_the_null_of_a_tangent_has_the_energy_of_two_gaussians(rank, m, n):
    """``E ||2 R A^T||_F^2`` is ``4 r (m - r) n`` entries over ``E ||G||^4``; all values are asked for."""
    values = np.array(numerics.null_tangent(rank, m, n, 1000))
    assert len(values) == min(rank, m - rank)
    size = m * n
    expected = 4 * rank * (m - rank) * n / (size * (size + 2))
    assert np.sum(values**2) == pytest.approx(expected, rel=0.15)  # of a mean over ten, and the square of a mean
    tall = np.sum(np.square(numerics.null_tangent(rank, n, m, 1000)))
    if rank < min(m, n):
        assert tall / np.sum(values**2) == pytest.approx((n - rank) * m / ((m - rank) * n), rel=0.15)


@pytest.mark.parametrize(("rank", "m", "n"), [(6, 20, 50), (6, 50, 20), (30, 50, 20)])
def test_the_null_of_a_tangent_by_whole_matrices(rank, m, n):
    rng = np.random.default_rng(1)
    S = np.linalg.qr(rng.standard_normal((m, rank)))[0]
    values = []
    for _ in range(300):
        G = rng.standard_normal((m, n))
        core = S.T @ G
        values.append(np.linalg.svd(-2 * (G - S @ core) @ core.T, compute_uv=False)[:3] / np.sum(G**2))
    mean, spread = np.mean(values, 0), np.std(values, 0)
    assert np.all(np.abs(np.array(numerics.null_tangent(rank, m, n, 3)) - mean) < 3.5 * spread / 10**0.5)


@pytest.mark.parametrize(("m", "n"), [(128, 200), (200, 128), (40, 90)])
def test_the_null_of_a_spectrum_is_normed_and_adds_up_to_the_nulls_of_ranks(m, n):
    values = np.array(numerics.null_spectrum(m, n))
    assert len(values) == min(m, n)
    assert np.all(np.diff(values) <= 0)
    assert np.sum(values**2) == pytest.approx(1, rel=1e-12)
    for rank in (1, 10, 30):
        assert np.sum(values[:rank] ** 2) == pytest.approx(numerics.null_noise(rank, m, n), rel=2e-3)


def test_angles_and_summaries_of_a_hand_made_pair():
    """Two planes in four dimensions at 30 and 60 degrees."""
    first = torch.eye(4, 2, dtype=torch.float64)
    angles = torch.tensor([math.pi / 6, math.pi / 3], dtype=torch.float64)
    second = torch.cat([torch.diag(angles.cos()), torch.diag(angles.sin())])
    torch.testing.assert_close(numerics.principal_angles(first, second), angles, rtol=1e-12, atol=0)
    assert numerics.overlap(first, second) == pytest.approx((0.75 + 0.25) / 2, rel=1e-12)


def test_energy_error_and_tangent_of_a_hand_made_gradient():
    """Of diag(3, 2, 1), at the basis that is 30 degrees off the first direction towards the second."""
    C = torch.diag(torch.tensor([9.0, 4.0, 1.0], dtype=torch.float64))
    c, s = math.cos(math.pi / 6), math.sin(math.pi / 6)
    S = torch.tensor([[c], [s], [0.0]], dtype=torch.float64)
    held = 9 * 0.75 + 4 * 0.25
    assert numerics.captured_energy(S, C @ S, 14.0).tolist() == pytest.approx([held / 14], rel=1e-12)
    assert numerics.subspace_error(C, S) == pytest.approx(14 - held, rel=1e-12)
    tangent = numerics.subspace_error_tangent(S, C @ S)
    assert float(tangent.norm()) == pytest.approx(2 * 5 * s * c, rel=1e-12)  # 2 (9 - 4) sin cos
    values, vectors = numerics.gram_eigh(C, 2)
    assert values.tolist() == [9, 4, 1]
    torch.testing.assert_close(vectors.abs(), torch.eye(3, 2, dtype=torch.float64))


@pytest.mark.parametrize("m", [1, 2, 3, 6, 7])
def test_symmetric_matrices_are_packed_without_loss(m):
    C = torch.randn(m, m, generator=torch.Generator().manual_seed(m), dtype=torch.float64)
    C = C + C.mT
    packed = numerics.pack_symmetric(C)
    assert packed.numel() == m * (m + 1) // 2
    assert torch.equal(numerics.unpack_symmetric(packed), C)
    assert sorted(packed.flatten().tolist()) == sorted(C[torch.ones(m, m).tril().bool()].tolist())
