"""Any rule with any treatment of moments and bulk: the step that arXiv 2510.01878 takes apart in its ablation."""

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
)
from subspace_lab.optim.reference.bases import Basis


@for_wide_matrices
def subspace_adam(
    W: Array,
    gradients: Sequence[Array],
    *,
    rule: Basis,
    lr: float,
    rank: int,
    moments: Literal["keep", "reset", "transport"] = "transport",
    recovery: Literal["none", "scaled", "sign", "feedback", "residual"] = "scaled",
    update_interval: int = 200,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    scale: float = 1.0,
    recovery_scale: float = 1.0,
    zeta: float | None = 1.01,
    limiter: Literal["after_bias_correction", "before_bias_correction"] = "after_bias_correction",
    transport: Literal["published", "clamped"] = "published",
    machine_eps: float = MACHINE_EPS,
) -> Trajectory:
    """``W = (1 - lr wd) W - lr scale (S O + L)``, step by step.

    Args:
        W: Matrix (m, n).
        gradients: One per step.
        rule: Chooses bases.
        lr: Learning rate.
        rank: r.
        moments: What becomes of M and V at a refresh.
        recovery: What becomes of ``G - S A``.
        update_interval: T.
        betas: Adam's decay rates.
        eps: Adam's eps.
        weight_decay: Decoupled.
        scale: On the whole step.
        recovery_scale: On L.
        zeta: The limiter's factor, or None.
        limiter: Whether norms are compared after or before bias correction, which multiplies all of a step alike.
        transport: Absolute value of the sum, or clamped variance.
        machine_eps: Rounding of the arithmetic that is compared.

    Returns:
        The matrix after every step.
    """
    (m, n), (b1, b2) = W.shape, betas
    r = min(rank, m)
    M, V, error = np.zeros((r, n)), np.zeros((r, n)), np.zeros((m, n))
    last_norm, since, trajectory = 0.0, 0, []
    for t, gradient in enumerate(gradients, start=1):
        G = gradient + error
        lost = np.zeros((m, n))
        if t == 1:
            S = rule(None, G, 1, 0, None)
        elif (t - 1) % update_interval == 0 and r < m:
            S_old, M_old = S, M
            Mh, Vh = M / (1 - b1**since), V / (1 - b2**since)
            S = rule(S_old, G, t, (t - 1) // update_interval, Mh)
            Q = S.T @ S_old
            if moments == "reset":
                M, V, since = np.zeros((r, n)), np.zeros((r, n)), 0
            elif moments == "transport":
                variance = Vh - Mh**2 if transport == "published" else np.maximum(Vh - Mh**2, 0)
                V = (1 - b2**since) * np.abs((Q * Q) @ variance + (Q @ Mh) ** 2)
                M = Q @ M
            lost = S_old @ M_old - S @ (Q @ M_old)
        since += 1  # t, unless the moments were reset
        A = S.T @ G
        M, V, O = adam(A, M, V, t=since, betas=betas, eps=eps)
        R = G - S @ A if r < m else np.zeros((m, n))
        L = np.zeros((m, n))
        if recovery == "scaled":
            phi = recovery_scale * column_factors(O, A, G, machine_eps)
            c = bias_correction(since, betas) if limiter == "before_bias_correction" else 1.0
            L, last_norm = limited(R * phi / c, last_norm, zeta, resolution=resolution(G * phi / c, machine_eps))
            L = c * L
        elif recovery == "sign":
            there = np.abs(R) > 8 * machine_eps * np.linalg.norm(G, axis=0)
            L = recovery_scale * np.where(there, np.sign(R), 0)
        elif recovery == "feedback":
            error = R + b1 / (1 - b1) * lost
        elif recovery == "residual":
            error = R
        W = (1 - lr * weight_decay) * W - lr * scale * (S @ O + L)
        trajectory.append(W)
    return trajectory
