"""The null of principal angles: cosines between two random subspaces, by Wachter's law.

The squared cosines of the principal angles between two independent, uniformly random r-dimensional subspaces of R^m are
the eigenvalues of a Jacobi (MANOVA) ensemble. For large m at fixed ``a = r/m`` they follow Wachter's law (K. W.
Wachter, Annals of Statistics 8, 1980): no cosine exceeds ``2 sqrt(a (1 - a))``, and for a > 1/2 the share
``(2a - 1)/a`` of them is 1, since two such subspaces must intersect.

Legend: m dimension; r rank; ``a = r/m``; c cosine of a principal angle; ``phi = arcsin(c / (2 sqrt(a (1 - a))))``.
"""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Float

_SIMULATED_BELOW = (128, 16)  # rows, rank: the law is one of large matrices
_NUM_DRAWS = 400


def null_cosines(cosines: Float[np.ndarray, " k"], rank: int, m: int) -> Float[np.ndarray, " k"]:
    """Share of the principal angles between two random subspaces whose cosine is at most the given one.

    Wachter's law from m = 128 and rank 16 on, in closed form:
    ``(phi - |1 - 2a| arctan(|1 - 2a| tan phi)) / (pi a)``. For smaller ones 400 simulated pairs (fixed seed): the law
    has a sharp edge that small subspaces do not have.

    Args:
        cosines: Where, each in [0, 1].
        rank: Dimension r of both subspaces, at least 1; the effective rank is ``min(rank, m)``.
        m: Dimension of the space.

    Returns:
        Shares in [0, 1]; 1 at a cosine of 1.

    >>> null_cosines(np.array([0.25, 0.5, 0.9]), 64, 256).round(3)
    array([0.278, 0.567, 1.   ])
    """
    r, at = min(rank, m), np.asarray(cosines, dtype=np.float64)
    if r == m:
        return np.where(at < 1, 0.0, 1.0)
    if m < _SIMULATED_BELOW[0] or r < _SIMULATED_BELOW[1]:
        drawn = _simulated(r, m)
        return np.where(at < 1, np.searchsorted(drawn, at, side="right") / len(drawn), 1.0)
    a = r / m
    phi = np.arcsin(np.minimum(at / (2 * np.sqrt(a * (1 - a))), 1))
    k = abs(1 - 2 * a)
    share = (phi - k * np.arctan(k * np.tan(phi))) / (np.pi * a)
    return np.where(at < 1, share, 1.0)


@functools.lru_cache(maxsize=64)
def _simulated(r: int, m: int) -> np.ndarray:
    """Cosines of simulated pairs, ascending; one of the two subspaces may be that of the first r coordinates."""
    rng = np.random.default_rng(0)
    bases = (np.linalg.qr(rng.standard_normal((m, r)))[0] for _ in range(_NUM_DRAWS))
    return np.sort(np.concatenate([np.linalg.svd(S[:r], compute_uv=False) for S in bases]))
