"""Angles, overlap and the subspace error against closed forms, scipy and finite differences."""

import numpy as np
import pytest
import scipy.linalg
import torch

from subspace_lab import numerics


def orthonormal(m: int, r: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(m, r, dtype=torch.float64, generator=generator)).Q


def rotated(S: torch.Tensor, N: torch.Tensor, angles: torch.Tensor, seed: int) -> torch.Tensor:
    """A basis at exactly the given angles to S, hidden behind a random rotation of its columns."""
    r = S.shape[1]
    turned = S * angles.cos() + N * angles.sin()
    return turned @ orthonormal(r, r, seed)


def test_planted_angles_are_exact_down_to_1e_8():
    Q = orthonormal(512, 256, 0)
    angles = torch.cat([torch.logspace(-8, 0, 100, dtype=torch.float64), torch.linspace(1.01, np.pi / 2, 28).double()])
    S1 = Q[:, :128] @ orthonormal(128, 128, 1)
    S2 = rotated(Q[:, :128], Q[:, 128:], angles, 2)
    got = numerics.principal_angles(S1, S2)
    np.testing.assert_allclose(got, angles.sort().values, rtol=1e-6)
    arccos = torch.linalg.svdvals(S1.T @ S2).clamp_max(1).acos()
    assert abs(arccos.min() - 1e-8) > 1e-9, "the plain arccos is the noise that the sines avoid"


def test_planted_angles_are_exact_up_to_a_right_one():
    """Where an arcsin alone is off by 1e-8."""
    Q = orthonormal(64, 24, 0)
    complements = torch.logspace(-12, -1, 12, dtype=torch.float64)
    got = numerics.principal_angles(Q[:, :12], rotated(Q[:, :12], Q[:, 12:], np.pi / 2 - complements, 1))
    np.testing.assert_allclose(np.pi / 2 - got.numpy(), complements.flip(0), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("smallest", [0.0045, 0.0055, 0.1])
def test_planted_angles_are_exact_to_a_hundred_roundings_on_both_ways_to_the_sines(smallest):
    """The roots of the eigenvalues serve from a sine of 0.005 on, singular values below it."""
    Q = orthonormal(512, 256, 0)
    angles = torch.logspace(np.log10(smallest), np.log10(1.5), 128, dtype=torch.float64)
    got = numerics.principal_angles(Q[:, :128] @ orthonormal(128, 128, 1), rotated(Q[:, :128], Q[:, 128:], angles, 2))
    np.testing.assert_allclose(got, angles, rtol=0, atol=100 * np.finfo(np.float64).eps)


@pytest.mark.parametrize(("m", "r"), [(10, 1), (10, 4), (10, 10), (64, 16)])
def test_angles_agree_with_scipy(m, r):
    S1, S2 = orthonormal(m, r, 3), orthonormal(m, r, 4)
    expected = np.sort(scipy.linalg.subspace_angles(S1.numpy(), S2.numpy()))
    np.testing.assert_allclose(numerics.principal_angles(S1, S2), expected, rtol=1e-9, atol=1e-13)


def test_angles_are_those_of_the_spans_not_of_the_bases():
    S = orthonormal(20, 5, 5)
    np.testing.assert_allclose(numerics.principal_angles(S, S @ orthonormal(5, 5, 6)), 0, atol=1e-14)


def test_unequal_shapes_are_refused():
    with pytest.raises(ValueError, match="bases of one shape"):
        numerics.principal_angles(orthonormal(8, 2, 0), orthonormal(8, 3, 0))


def test_overlap_is_the_mean_squared_cosine_and_r_over_m_at_random():
    S1 = orthonormal(64, 16, 0)
    S2 = orthonormal(64, 16, 1)
    cosines = np.cos(scipy.linalg.subspace_angles(S1.numpy(), S2.numpy()))
    assert numerics.overlap(S1, S2) == pytest.approx((cosines**2).mean())
    overlaps = [numerics.overlap(S1, orthonormal(64, 16, seed)) for seed in range(2, 102)]
    assert np.mean(overlaps) == pytest.approx(16 / 64, abs=4 * np.std(overlaps) / 10)


def test_tangent_is_the_derivative_of_the_subspace_error():
    G = torch.randn(12, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    C = numerics.gram(G, "left")
    S = orthonormal(12, 4, 1)
    tangent = numerics.subspace_error_tangent(S, C @ S)
    torch.testing.assert_close(S.T @ tangent, torch.zeros(4, 4, dtype=torch.float64), atol=1e-12, rtol=0)
    direction = orthonormal(12, 4, 2)
    direction = direction - S @ (S.T @ direction)
    step = 1e-5

    def error(t: float) -> float:  # the literal definition, by least squares
        basis = torch.linalg.qr(S + t * direction).Q
        return float((G - basis @ torch.linalg.lstsq(basis, G).solution).square().sum())

    slope = (error(step) - error(-step)) / (2 * step)
    assert slope == pytest.approx(float((tangent * direction).sum()), rel=1e-7)
    assert numerics.subspace_error(C, S) == pytest.approx(error(0.0), rel=1e-12)


def test_tangent_vanishes_at_the_fresh_basis():
    C = numerics.gram(torch.randn(12, 30, dtype=torch.float64), "left")
    S = numerics.gram_eigh(C, 4)[1]
    assert numerics.subspace_error_tangent(S, C @ S).abs().max() < 1e-12 * C.trace()


def test_at_full_rank_nothing_is_left_to_bend():
    C = numerics.gram(torch.randn(6, 30), "left")
    S = numerics.gram_eigh(C, 6)[1]
    assert torch.equal(numerics.subspace_error_tangent(S, C @ S), torch.zeros(6, 6))
