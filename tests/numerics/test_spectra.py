"""Spectra and energies against closed forms and float64 SVDs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from subspace_lab import numerics

SHAPES = [(8, 8), (8, 40), (40, 8), (1, 5), (5, 1), (33, 57)]


def planted(rows: int, cols: int, sigma: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """A float64 matrix with the given singular values."""
    generator = torch.Generator().manual_seed(seed)
    k = len(sigma)
    U = torch.linalg.qr(torch.randn(rows, k, dtype=torch.float64, generator=generator)).Q
    V = torch.linalg.qr(torch.randn(cols, k, dtype=torch.float64, generator=generator)).Q
    return U @ torch.diag(sigma.double()) @ V.T


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_gram_is_that_of_the_oriented_gradient(shape, side):
    G = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    expected = G.numpy().astype(np.float64)
    expected = expected if side == "left" else expected.T
    np.testing.assert_allclose(numerics.gram(G, side), expected @ expected.T, rtol=1e-5, atol=1e-5)


def test_half_precision_gradients_are_multiplied_in_float32():
    G = torch.randn(16, 64).bfloat16()
    C = numerics.gram(G, "left")
    assert C.dtype == torch.float32
    torch.testing.assert_close(C, G.float() @ G.float().T)


def test_known_spectrum_is_recovered():
    sigma = torch.tensor([5.0, 2.0, 1.0, 0.5, 1e-3], dtype=torch.float64)
    G = planted(5, 30, sigma)
    torch.testing.assert_close(numerics.gram_singular_values(numerics.gram(G, "left")), sigma, rtol=1e-6, atol=0)


def test_float32_gram_loses_the_digits_that_its_docstring_says():
    sigma = torch.logspace(0, -3, 64, dtype=torch.float64)
    got = numerics.gram_singular_values(numerics.gram(planted(64, 128, sigma).float(), "left")).double()
    error = (got - sigma).abs() / sigma
    assert error[0] < 1e-5
    assert error[sigma > 1e-2].max() < 1e-3
    assert 1e-5 < error[-1] < 0.1


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_captured_energy_equals_the_float64_svd(rows, cols, seed):
    G = torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))
    side = numerics.default_side(rows, cols)
    C = numerics.gram(G, side)
    values, S = numerics.gram_eigh(C, C.shape[0])
    fractions = numerics.captured_energy(S, C @ S, float(C.trace()))
    sigma = np.linalg.svd(G.numpy().astype(np.float64), compute_uv=False)
    expected = np.cumsum(sigma**2) / np.sum(sigma**2)
    np.testing.assert_allclose(fractions, expected, atol=1e-5)
    np.testing.assert_allclose(values.sqrt()[0], sigma[0], rtol=1e-4)


def test_summaries_of_a_spectrum_have_their_closed_forms():
    flat = torch.full((7,), 3.0)
    single = torch.tensor([2.0, 0.0, 0.0])
    for summary in (numerics.stable_rank, numerics.effective_rank, numerics.participation_ratio):
        assert summary(flat) == pytest.approx(7)
        assert summary(single) == pytest.approx(1)
    sigma = torch.tensor([3.0, 1.0])
    assert numerics.stable_rank(sigma) == pytest.approx(10 / 9)
    assert numerics.participation_ratio(sigma) == pytest.approx(100 / 82)
    assert numerics.effective_rank(sigma) == pytest.approx(np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25)))


@pytest.mark.parametrize("m", [1, 2, 3, 4, 7, 64, 65])
def test_packing_is_exact_and_takes_half_the_numbers(m):
    C = torch.randn(m, m)
    C = C + C.T
    packed = numerics.pack_symmetric(C)
    assert tuple(packed.shape) == numerics.packed_shape(m)
    assert packed.numel() == m * (m + 1) // 2
    assert torch.equal(numerics.unpack_symmetric(packed), C)
