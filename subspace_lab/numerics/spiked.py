"""What a noisy gradient's top space holds of a signal of low rank: of the signal itself, and of its own energy.

The model: an (m, n) gradient of energy 1 of which the share s is a signal, a random matrix of rank p with equal
directions, and the rest isotropic Gaussian noise. Its own top-r space holds less than the signal, and fits noise.

Legend: m, n shape, ``m <= n``; p rank of the signal; s its share of the energy; r rank of the space; ``c = m / n``;
``l = (s / p) / ((1 - s) / m)`` energy of a direction of the signal over that of a direction of noise.
"""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Float

from subspace_lab.numerics.nulls import null_noise

_SIMULATED = 64  # rows of simulated matrices at most: shares of energy depend on the ratios of m, n, p and r
_NUM_DRAWS = 8
_SHARES = np.array([0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9, 0.98])


def spiked_energies(
    ranks: Float[np.ndarray, " R"], m: int, n: int, planted: Float[np.ndarray, " P"], shares: Float[np.ndarray, " Q"]
) -> tuple[Float[np.ndarray, "P Q R"], Float[np.ndarray, "P Q R"]]:
    """Energies of top-r spaces, above what they would be by chance.

    Simulated with 8 matrices of at most 64 rows for every rank and share of a grid (fixed seed), and linear in the
    logarithms of p and s between. A signal of fewer than m/64 directions stands far out of the noise, and has the
    limits of large matrices (D. Paul, Statistica Sinica 17, 2007): of a direction the top space holds
    ``(1 - c/l^2) / (1 + c/l)``, and the energy there is ``(1 + l)(1 + c/l)`` times that of a direction of noise.

    Args:
        ranks: r, each at least 1.
        m: Rows of the oriented gradient.
        n: Columns.
        planted: p, from 1 to m.
        shares: s, from 0.01 to 0.98; others count as the nearest.

    Returns:
        For every p, s and r the energy above r/m that the space holds of a gradient of the same signal and of other
        noise; and its own energy above `null_noise`.
    """
    size = min(m, _SIMULATED)
    of_signal, own, simulated = _simulated(size, max(size, round(n * size / m)))
    log_share = np.log(np.clip(shares, _SHARES[0], _SHARES[-1]))
    at = np.minimum(np.asarray(ranks, dtype=float), m)
    directions = np.arange(size + 1)
    stale_of, own_of = (
        np.apply_along_axis(lambda profile: np.interp(at * size / m, directions, profile), 2, table)
        for table in (of_signal, own)
    )  # (P', Q', R)
    place = np.interp(np.log(np.maximum(planted * size / m, 1)), np.log(simulated), np.arange(len(simulated)))
    column = np.interp(log_share, np.log(_SHARES), np.arange(len(_SHARES)))
    stale, own_excess = (_bilinear(table, place, column) for table in (stale_of, own_of))
    few = planted < m / size
    if few.any():
        stale[few], own_excess[few] = _limits(at, m, n, planted[few], np.exp(log_share))
    blind = at / m
    return (stale - blind) * np.exp(log_share)[:, None], own_excess


def _bilinear(table: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """A table (P', Q', R) between its rows and columns: (P, Q, R)."""
    low_row, low_column = (
        np.minimum(each.astype(int), limit - 2) for each, limit in ((rows, len(table)), (columns, table.shape[1]))
    )
    u, v = (rows - low_row)[:, None, None], (columns - low_column)[None, :, None]
    parts = [[table[np.ix_(low_row + i, low_column + j)] for j in (0, 1)] for i in (0, 1)]
    found: np.ndarray = (1 - u) * ((1 - v) * parts[0][0] + v * parts[0][1]) + u * (
        (1 - v) * parts[1][0] + v * parts[1][1]
    )
    return found


def _limits(
    ranks: np.ndarray, m: int, n: int, planted: np.ndarray, shares: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Share of the signal that is held, and own energy above noise, of few directions far out of the noise."""
    p, s, c = planted[:, None, None], shares[None, :, None], m / n
    strength = (s / p) / ((1 - s) / m)
    held = np.clip((1 - c / strength**2) / (1 + c / strength), 0, 1)
    found = np.minimum(ranks, p)  # (P, 1, R)
    of_signal = held * found / p + (1 - held) * ranks / m
    noise = np.array([null_noise(max(int(r), 1), m, n) for r in ranks])
    own = found * (1 - s) / m * (1 + strength) * (1 + c / strength) + (1 - s) * noise * (
        1 - found / np.maximum(ranks, 1)
    )
    return of_signal, own - noise


@functools.lru_cache(maxsize=64)
def _simulated(m: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share of the signal that the first r = 0 ... m directions hold, own energy above noise, and which p there are."""
    planted = np.unique(np.round(np.geomspace(1, m, 16))).astype(int)
    rng = np.random.default_rng(0)
    held, own = np.zeros((2, len(planted), len(_SHARES), m + 1))
    nulls = np.array([0.0, *(null_noise(r, m, n) for r in range(1, m + 1))])
    for _ in range(_NUM_DRAWS):
        noise = rng.standard_normal((m, n)) / np.sqrt(m * n)
        signal = rng.standard_normal((m, n))
        for i, p in enumerate(planted):
            for j, s in enumerate(_SHARES):
                G = np.sqrt(1 - s) * noise
                G[:p] += np.sqrt(s / (p * n)) * signal[:p]  # in coordinates where the signal has the first p
                energies, U = np.linalg.eigh(G @ G.T)
                energies, U = energies[::-1], U[:, ::-1]
                held[i, j, 1:] += np.square(U[:p]).sum(0).cumsum() / p
                own[i, j, 1:] += energies.cumsum() / energies.sum()
    return held / _NUM_DRAWS, own / _NUM_DRAWS - nulls, planted.astype(float)
