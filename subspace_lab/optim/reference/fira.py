"""Fira (arXiv 2410.01623, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from subspace_lab.optim.reference.arrays import (
    MACHINE_EPS,
    Array,
    Trajectory,
    adam,
    bias_correction,
    column_factors,
    for_wide_matrices,
    limited,
    resolution,
    top_left,
)


@for_wide_matrices
def fira(
    W: Array,
    gradients: Sequence[Array],
    *,
    lr: float,
    rank: int,
    update_interval: int,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    scale: float = 1.0,
    zeta: float | None = 1.01,
    limiter: Literal["after_bias_correction", "before_bias_correction"] = "after_bias_correction",
    like: Sequence[Array] | None = None,
    machine_eps: float = MACHINE_EPS,
) -> Trajectory:
    """``W -= lr scale (S O + phi(A) (G - S A))``: GaLore, and the rest of the gradient scaled as Adam scaled the core.

    Args:
        W: Matrix (m, n).
        gradients: One per step.
        lr: Learning rate.
        rank: r.
        update_interval: T.
        betas: Adam's decay rates.
        eps: Adam's eps.
        weight_decay: Decoupled.
        scale: The paper's alpha, on the whole step.
        zeta: The limiter's gamma, or None.
        limiter: Whether norms are compared after or before bias correction, which multiplies all of a step alike.
        like: Bases of every step whose signs to take.
        machine_eps: Rounding of the arithmetic that is compared.

    Returns:
        The matrix after every step.
    """
    m, n = W.shape
    r = min(rank, m)
    M, V, last_norm, trajectory = np.zeros((r, n)), np.zeros((r, n)), 0.0, []
    for t, G in enumerate(gradients, start=1):
        if t == 1 or ((t - 1) % update_interval == 0 and r < m):
            S = top_left(G, r, None if like is None else like[t - 1])
        A = S.T @ G
        M, V, O = adam(A, M, V, t=t, betas=betas, eps=eps)
        residual = G - S @ A if r < m else np.zeros_like(G)
        phi = column_factors(O, A, G, machine_eps)
        c = bias_correction(t, betas) if limiter == "before_bias_correction" else 1.0
        L, last_norm = limited(residual * phi / c, last_norm, zeta, resolution=resolution(G * phi / c, machine_eps))
        W = (1 - lr * weight_decay) * W - lr * scale * (S @ O + c * L)
        trajectory.append(W)
    return trajectory
