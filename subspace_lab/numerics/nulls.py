"""Null references: what a subspace captures of a gradient that is nothing but noise.

Two nulls, both fractions of the energy. *Isotropic*: any basis chosen without looking at G captures r/m of isotropic
noise. *Noise*: the own top-r space of a matrix of independent Gaussian entries captures more than that, because it is
chosen after looking. Both reject isotropic noise and no more: the noise of real gradients is not isotropic, so a
fraction above them is structure, which need not be signal.

Legend: G (m, n); r rank; ``c = min(m, n) / max(m, n)`` aspect ratio; ``lambda = 1 + c + 2 sqrt(c) cos(phi)``
eigenvalues under the Marchenko-Pastur law, parametrized by the angle phi, 0 at the upper edge.
"""

from __future__ import annotations

import functools
import math

import numpy as np

_SIMULATED_BELOW = 128  # the law is 1 % low for matrices smaller than this
_NUM_DRAWS = 200
_SCATTER_AT = 64
_NUM_NODES = 20_001


def null_isotropic(rank: int, m: int) -> float:
    """Energy fraction that a fixed or random basis captures of isotropic noise: r/m.

    Args:
        rank: Rank as asked, at least 1; the effective rank is ``min(rank, m)``.
        m: Rows of the oriented gradient.

    Returns:
        A fraction in (0, 1].

    >>> null_isotropic(64, 256)
    0.25
    """
    return min(rank, m) / m


@functools.lru_cache(maxsize=4096)
def null_noise(rank: int, m: int, n: int) -> float:
    """Energy fraction that the own top-r left space captures of an (m, n) matrix of independent Gaussian entries.

    From the Marchenko-Pastur law when both sides are at least 128, where it is exact to about a percent; for smaller
    matrices the mean of 200 simulated ones (fixed seed). In the angle phi the energy above an eigenvalue has the
    closed form ``(phi - sin(phi) cos(phi)) / pi``; only the angle above which the share r/m of all eigenvalues lies
    is read off a table of the law.

    Args:
        rank: Rank as asked, at least 1; the effective rank is ``min(rank, m, n)``.
        m: Rows of the oriented gradient.
        n: Columns of the oriented gradient.

    Returns:
        A fraction in (0, 1].

    >>> round(null_noise(512, 2048, 2048) ** 0.5, 3), round(null_noise(256, 768, 2048) ** 0.5, 3)
    (0.789, 0.762)
    """
    small, large = sorted((m, n))
    if rank >= small:
        return 1.0
    if small < _SIMULATED_BELOW:
        return float(np.sum(_simulated_energies(small, large)[:rank]))
    phi = _quantile_angles(np.array([rank / small]), small / large)[0]
    return float((phi - np.sin(phi) * np.cos(phi)) / np.pi)


@functools.lru_cache(maxsize=4096)
def null_noise_margin(rank: int, m: int, n: int, num_draws: int) -> float:
    """How far above `null_noise` a mean energy fraction must lie to be significantly above noise.

    Half of all noise lies above its own mean. The margin is four standard deviations of the mean over ``num_draws``
    independent noise matrices, the simulated reference's own error among them, and the percent to which the
    Marchenko-Pastur law is exact: in thousands of layers of noise no mean was above the margin.

    The standard deviation of one fraction is that of 200 simulated matrices with the same aspect; those of matrices
    larger than 64 are taken from matrices of 64 rows, for a share of the spectrum scatters like one over the size.

    Args:
        rank: Rank as asked, at least 1; the effective rank is ``min(rank, m, n)``.
        m: Rows of the oriented gradient.
        n: Columns of the oriented gradient.
        num_draws: Over how many gradients the fraction is a mean.

    Returns:
        A fraction.

    >>> round(null_noise_margin(64, 256, 256, 1), 3), round(null_noise_margin(64, 256, 256, 20), 3)
    (0.013, 0.008)
    """
    small, large = sorted((m, n))
    size = min(small, _SCATTER_AT)
    shares = _simulated_shares(size, round(size * large / small))
    like = max(1, round(min(rank, small) * size / small))
    scatter = float(shares[:, :like].sum(1).std(ddof=1)) * size / small
    return 4.0 * scatter * math.sqrt(1 / num_draws + 1 / _NUM_DRAWS) + 0.01 * null_noise(rank, m, n)


@functools.lru_cache(maxsize=256)
def null_spectrum(m: int, n: int) -> tuple[float, ...]:
    """Expected singular values of an (m, n) matrix of independent Gaussian entries with Frobenius norm 1.

    The k-th value is the Marchenko-Pastur quantile at ``(k - 1/2) / min(m, n)``, rescaled to unit norm; for
    matrices with a side below 128 the root of the mean squared value over 200 simulated ones.

    Args:
        m: Rows.
        n: Columns.

    Returns:
        ``min(m, n)`` values, descending, whose squares sum to 1.
    """
    small, large = sorted((m, n))
    if small < _SIMULATED_BELOW:
        return tuple(np.sqrt(_simulated_energies(small, large)).tolist())
    c = small / large
    angles = _quantile_angles((np.arange(small) + 0.5) / small, c)
    eigenvalues = 1 + c + 2 * np.sqrt(c) * np.cos(angles)
    return tuple(np.sqrt(eigenvalues / eigenvalues.sum()).tolist())


@functools.lru_cache(maxsize=256)
def null_tangent(rank: int, m: int, n: int, top: int) -> tuple[float, ...]:
    """Expected leading singular values of the subspace error's derivative for noise, divided by ``||G||_F^2``.

    For G of independent Gaussian entries and a basis chosen without looking at it, the derivative ``-2 R A^T`` is a
    product of two independent Gaussian matrices, R (m - r, n) in the bulk and A (r, n) in the core. The mean over
    ten simulated ones (fixed seed); the cost does not depend on n, since R A^T = (R Q) L^T with A^T = Q L^T, where
    R Q is again Gaussian and L has Bartlett's distribution. Small values are what noise gives: only the ratio to
    this reference tells a flat landscape from a noisy gradient.

    Args:
        rank: Rank as asked, at least 1; zeros where ``rank >= m``.
        m: Rows of the oriented gradient.
        n: Columns of the oriented gradient.
        top: How many values.

    Returns:
        At most ``min(top, rank, m)`` values, descending.
    """
    r = min(rank, m)
    if r == m:
        return (0.0,) * min(top, r)
    rng = np.random.default_rng(0)
    values = []
    for _ in range(10):
        k = min(r, n)
        L = np.zeros((r, k))
        L[np.tril_indices(r, -1, k)] = rng.standard_normal(len(np.tril_indices(r, -1, k)[0]))
        L[range(k), range(k)] = np.sqrt(rng.chisquare(n - np.arange(k)))
        RQ = rng.standard_normal((m - r, k))
        rest = rng.chisquare((m - r) * (n - k)) if n > k else 0.0
        norm = np.sum(L**2) + np.sum(RQ**2) + rest
        values.append(np.linalg.svd(2 * RQ @ L.T / norm, compute_uv=False)[:top])
    return tuple(np.mean(values, 0).tolist())


def _quantile_angles(shares: np.ndarray, c: float) -> np.ndarray:
    """The angles phi above which (towards the upper edge) lie the given shares of the eigenvalues."""
    phi = np.linspace(0, np.pi, _NUM_NODES)
    eigenvalues = 1 + c + 2 * np.sqrt(c) * np.cos(phi)
    hard_edge = eigenvalues < 1e-12  # c = 1 at phi = pi, where the density 2 sin^2 / (pi lambda) has the limit 2 / pi
    density = np.where(hard_edge, 2 / np.pi, 2 * np.sin(phi) ** 2 / (np.pi * np.where(hard_edge, 1, eigenvalues)))
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(phi))])
    return np.asarray(np.interp(shares, mass / mass[-1], phi))


@functools.lru_cache(maxsize=256)
def _simulated_energies(m: int, n: int) -> np.ndarray:
    """Mean energy shares (m,) of the singular directions of Gaussian (m, n) matrices, m <= n, descending."""
    return np.asarray(_simulated_shares(m, n).mean(0))


@functools.lru_cache(maxsize=16)
def _simulated_shares(m: int, n: int) -> np.ndarray:
    """Energy shares (draws, m) of each of them."""
    # The m x m triangular factor of such a matrix is drawn directly (Bartlett's decomposition: chi-distributed
    # diagonal, Gaussian below it), so that the cost does not depend on n.
    rng = np.random.default_rng(0)
    factor = np.tril(rng.standard_normal((_NUM_DRAWS, m, m)), -1)
    factor[:, range(m), range(m)] = np.sqrt(rng.chisquare(n - np.arange(m), (_NUM_DRAWS, m)))
    energies = np.linalg.svd(factor, compute_uv=False) ** 2
    return np.asarray(energies / energies.sum(1, keepdims=True))
