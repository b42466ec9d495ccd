"""RSO, randomized subspace optimization (arXiv 2502.07222, algorithm 1 with Adam as the inner solver)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from subspace_lab.optim.reference.arrays import Array, Draw, Trajectory, adam, for_wide_matrices


@for_wide_matrices
def rso(
    W: Array,
    gradients: Sequence[Array],
    *,
    lr: float,
    rank: int,
    draw: Draw,
    update_interval: int = 200,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    scale: float = 1.0,
    prox: float | None = None,
) -> Trajectory:
    """Outer steps of T inner ones: Adam from zero on B of ``f(W + P B) + ||B||^2 / (2 prox)``, a random P for each.

    P is Gaussian with variance 1/r.

    Args:
        W: Matrix (m, n).
        gradients: Of f at ``W + P B``, one per step.
        lr: Learning rate of B.
        rank: r.
        draw: ``P sqrt(r)`` (m, r) of an outer step.
        update_interval: T.
        betas: Adam's decay rates.
        eps: Adam's eps.
        weight_decay: Decoupled, of W.
        scale: On the whole step.
        prox: The paper's eta; None for no penalty on B.

    Returns:
        ``W + P B`` after every step.
    """
    m, n = W.shape
    r, trajectory = min(rank, m), []
    for t, G in enumerate(gradients, start=1):
        since = (t - 1) % update_interval
        if since == 0:
            P = draw((t - 1) // update_interval) / math.sqrt(r)
            B, M, V = np.zeros((r, n)), np.zeros((r, n)), np.zeros((r, n))
        penalty = 0 * B if prox is None else B / prox
        M, V, O = adam(P.T @ G + penalty, M, V, t=since + 1, betas=betas, eps=eps)
        B = B - lr * scale * O
        W = (1 - lr * weight_decay) * W - lr * scale * (P @ O)
        trajectory.append(W)
    return trajectory
