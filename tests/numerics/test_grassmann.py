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


@pytest.mark.parametrize(("m", "r1", "r2"), [(12, 1, 5), (12, 3, 12), (64, 40, 7)])
def test_of_unequal_ranks_there_are_as_many_angles_as_the_smaller_has_in_either_order(m, r1, r2):
    S1, S2 = orthonormal(m, r1, 3), orthonormal(m, r2, 4)
    expected = np.sort(scipy.linalg.subspace_angles(S1.numpy(), S2.numpy()))
    got = numerics.principal_angles(S1, S2)
    assert len(got) == min(r1, r2)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-13)
    assert torch.equal(got, numerics.principal_angles(S2, S1))
    assert numerics.overlap(S1, S2) == numerics.overlap(S2, S1) == pytest.approx((np.cos(expected) ** 2).mean())


def test_a_space_within_a_larger_one_has_angles_of_zero_and_overlaps_wholly():
    S = orthonormal(20, 9, 5)
    within = S @ orthonormal(9, 4, 6)
    np.testing.assert_allclose(numerics.principal_angles(within, S), 0, atol=1e-14)
    assert numerics.overlap(within, S) == pytest.approx(1, rel=1e-14)


def test_planted_angles_to_a_larger_space_are_exact():
    Q = orthonormal(64, 40, 0)
    angles = torch.tensor([1e-8, 1e-4, 0.3, 1.5], dtype=torch.float64)
    larger = Q[:, :16] @ orthonormal(16, 16, 1)
    got = numerics.principal_angles(rotated(Q[:, :4], Q[:, 16:20], angles, 2), larger)
    np.testing.assert_allclose(got, angles, rtol=1e-6)


def test_bases_of_different_spaces_are_refused():
    for measure in (numerics.principal_angles, numerics.overlap):
        with pytest.raises(ValueError, match="bases of one space"):
            measure(orthonormal(8, 2, 0), orthonormal(9, 2, 0))


def test_overlap_is_the_mean_squared_cosine_and_r_over_m_at_random():
    S1 = orthonormal(64, 16, 0)
    S2 = orthonormal(64, 16, 1)
    cosines = np.cos(scipy.linalg.subspace_angles(S1.numpy(), S2.numpy()))
    assert numerics.overlap(S1, S2) == pytest.approx((cosines**2).mean())
    overlaps = [numerics.overlap(S1, orthonormal(64, 16, seed)) for seed in range(2, 102)]
    assert np.mean(overlaps) == pytest.approx(16 / 64, abs=4 * np.std(overlaps) / 10)


def test_random_spaces_of_unequal_ranks_overlap_by_the_larger_over_m():
    S1 = orthonormal(64, 4, 0)
    overlaps = [numerics.overlap(S1, orthonormal(64, 16, seed)) for seed in range(2, 102)]
    assert numerics.null_overlap(4, 16, 64) == numerics.null_overlap(16, 4, 64) == 0.25
    assert np.mean(overlaps) == pytest.approx(0.25, abs=4 * np.std(overlaps) / 10)
    assert numerics.null_overlap(80, 2, 64) == 1


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
