"""Spectra of gradients by way of their Gram matrix, and the scalar summaries of a spectrum.

Legend: ``C = G G^T`` (m, m) Gram matrix; ``sigma`` singular values of G, descending; ``S (m, r)`` orthonormal basis.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def gram_singular_values(C: Float[Tensor, "m m"]) -> Float[Tensor, " m"]:
    """Singular values of G from ``C = G G^T``: the square roots of its eigenvalues.

    Several times cheaper than an SVD of G, the more so the wider G is. The price is half of the digits: with a float32
    ``C`` values below 1e-3 of the largest are not to be trusted; with float64 the limit is 1e-7.

    Args:
        C: Gram matrix (m, m), float32 or float64.

    Returns:
        The singular values (m,), descending, never negative.

    >>> gram_singular_values(torch.diag(torch.tensor([9.0, 16.0])))
    tensor([4., 3.])
    """
    values: Tensor = torch.linalg.eigvalsh(C)
    return values.clamp_min_(0).sqrt_().flip(0)


def gram_eigh(C: Float[Tensor, "m m"], k: int) -> tuple[Float[Tensor, " m"], Float[Tensor, "m k"]]:
    """Squared singular values and the top-k left singular vectors of G from ``C = G G^T``, largest first.

    Args:
        C: Gram matrix (m, m), float32 or float64.
        k: How many vectors, at most m.

    Returns:
        Eigenvalues (m,), descending and never negative, and eigenvectors (m, k) as columns in the same order.
    """
    values, vectors = torch.linalg.eigh(C)
    return values.clamp_min_(0).flip(0), vectors[:, C.shape[0] - k :].flip(1)


def captured_energy(S: Float[Tensor, "m r"], CS: Float[Tensor, "m r"], total: float) -> Float[Tensor, " r"]:
    """Share of ``||G||_F^2`` that the first 1, 2, ..., r columns of a basis capture: ``tr(S_k^T C S_k) / tr(C)``.

    Args:
        S: Orthonormal basis (m, r).
        CS: The product ``C @ S`` (m, r), which the curvature tangent needs as well.
        total: ``tr(C) = ||G||_F^2``, positive.

    Returns:
        The cumulative fractions (r,) in float64.
    """
    return (S * CS).sum(0).double().cumsum(0) / total


def stable_rank(sigma: Float[Tensor, " m"]) -> float:
    """``||G||_F^2 / ||G||_2^2``: how many directions of the largest one's strength would hold the energy.

    Args:
        sigma: Singular values (m,), descending, the first positive.

    Returns:
        A number in [1, m].

    >>> stable_rank(torch.tensor([2.0, 2.0, 1.0]))
    2.25
    """
    squares = sigma.double().square()
    return float(squares.sum() / squares[0])


def effective_rank(sigma: Float[Tensor, " m"]) -> float:
    """``exp(-sum p log p)`` with ``p = sigma / sum(sigma)``: the exponential of the spectrum's entropy.

    Args:
        sigma: Singular values (m,), not all zero.

    Returns:
        A number in [1, m]; m for a flat spectrum.

    >>> round(effective_rank(torch.ones(8)), 6)
    8.0
    """
    p = sigma.double() / sigma.double().sum()
    return float(torch.special.entr(p).sum().exp())


def participation_ratio(sigma: Float[Tensor, " m"]) -> float:
    """``(sum sigma^2)^2 / sum sigma^4``: how many directions share the energy.

    Args:
        sigma: Singular values (m,), not all zero.

    Returns:
        A number in [1, m]; m for a flat spectrum.

    >>> participation_ratio(torch.tensor([1.0, 1.0, 0.0]))
    2.0
    """
    squares = sigma.double().square()
    return float(squares.sum().square() / squares.square().sum())
