"""What every literal algorithm here needs: orientation, Adam's moments, and what to do without a core or a bulk."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import wraps

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Draw = Callable[[int], Array]
Trajectory = list[Array]
MACHINE_EPS = float(np.finfo(np.float64).eps)


def for_wide_matrices(algorithm: Callable[..., Trajectory]) -> Callable[..., Trajectory]:
    """Let an algorithm written for ``m <= n`` run on any matrix, from its first non-zero gradient on.

    Until then there is nothing to choose a basis by, and weights only decay.

    Args:
        algorithm: From (W, gradients) of shape (m, n) and settings to the matrices after every step.

    Returns:
        The same with an option ``side``: "auto", or the side of the matrix that is projected, "left" or "right".
    """

    @wraps(algorithm)
    def run(
        W: Array,
        gradients: Sequence[Array],
        *,
        lr: float,
        weight_decay: float = 0.0,
        side: str = "auto",
        **settings: object,
    ) -> Trajectory:
        W = np.asarray(W, dtype=np.float64)
        turned = W.shape[0] > W.shape[1] if side == "auto" else side == "right"
        oriented = [np.asarray(G, dtype=np.float64).T if turned else np.asarray(G, dtype=np.float64) for G in gradients]
        W = W.T if turned else W
        waiting: Trajectory = []
        while len(waiting) < len(oriented) and not oriented[len(waiting)].any():
            W = (1 - lr * weight_decay) * W
            waiting.append(W)
        steps = algorithm(W, oriented[len(waiting) :], lr=lr, weight_decay=weight_decay, **settings)
        return [step.T if turned else step for step in waiting + steps]

    return run


def adam(A: Array, M: Array, V: Array, *, t: int, betas: tuple[float, float], eps: float) -> tuple[Array, Array, Array]:
    """Adam (arXiv 1412.6980, algorithm 1): the new moments, and the direction without the learning rate."""
    b1, b2 = betas
    M = b1 * M + (1 - b1) * A
    V = b2 * V + (1 - b2) * A**2
    O = (M / (1 - b1**t)) / (np.sqrt(V / (1 - b2**t)) + eps)
    return M, V, O


def top_left(G: Array, rank: int, like: Array | None = None) -> Array:
    """The first r left singular vectors of G, with the signs of those of ``like``."""
    S = np.linalg.svd(G)[0][:, :rank]
    return S if like is None else S * np.where((S * like).sum(0) < 0, -1.0, 1.0)


def column_factors(O: Array, A: Array, G: Array, machine_eps: float) -> Array:
    """``phi_j = |O_:j| / |A_:j|``, 0 where the core misses the column: ``|A_:j| <= 8 eps |G_:j|``."""
    core, column = np.linalg.norm(A, axis=0), np.linalg.norm(G, axis=0)
    there = core > 8 * machine_eps * column
    return np.where(there, np.linalg.norm(O, axis=0) / np.where(there, core, 1), 0.0)


def limited(L: Array, last_norm: float, zeta: float | None, *, resolution: float = 0.0) -> tuple[Array, float]:
    """The norm-growth limiter of Fira (arXiv 2410.01623): a norm grows by at most the factor zeta per step.

    After a norm of 0 it may take any value. A norm that is only rounding, at most ``resolution``, counts as 0: else a
    first gradient of low rank would pin all that follow.

    Args:
        L: Matrix (m, n).
        last_norm: Norm of the last step.
        zeta: Largest growth, or None.
        resolution: Rounding of the norm.

    Returns:
        L, scaled down if it grew too fast, and its norm.
    """
    norm = float(np.linalg.norm(L))
    if norm <= resolution:
        return L, 0.0
    if zeta is not None and last_norm > 0 and norm > zeta * last_norm:
        return L * (zeta * last_norm / norm), zeta * last_norm
    return L, norm


def bias_correction(t: int, betas: tuple[float, float]) -> float:
    """What Adam's bias correction multiplies a direction by: ``sqrt(1 - b2^t) / (1 - b1^t)``."""
    return math.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t)


def resolution(G: Array, machine_eps: float) -> float:
    """What ``sqrt(|G|^2 - |A|^2)`` cannot tell from 0: squares have lost half of the digits."""
    return math.sqrt(64 * machine_eps) * float(np.linalg.norm(G))
