"""LDAdam (arXiv 2410.16103, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from subspace_lab.optim.reference.arrays import Array, Trajectory, adam, for_wide_matrices, top_left


@for_wide_matrices
def ldadam(
    W: Array,
    gradients: Sequence[Array],
    *,
    lr: float,
    rank: int,
    update_interval: int = 1,
    betas: tuple[float, float] = (0.908, 0.99),
    eps: float = 1e-8,
    rho: float = 0.908,
    weight_decay: float = 0.0,
    scale: float = 1.0,
    like: Sequence[Array] | None = None,
) -> Trajectory:
    """Every step: add the error, follow the space by one power iteration, carry the moments over, keep what was lost.

    The error is ``a - S S^T a + b1/(1-b1) (S_old M_old - S Q M_old)``: what the projections lost of the gradient and of
    the first moment (generalized error feedback). The paper moves the basis at every step, T = 1.

    Args:
        W: Matrix (m, n).
        gradients: One per step.
        lr: Learning rate.
        rank: r.
        update_interval: T.
        betas: Adam's decay rates.
        eps: Adam's eps.
        rho: Weight of the moment in the power iteration.
        weight_decay: Decoupled.
        scale: On the whole step.
        like: Bases of every step whose signs to take, of which only the first is an SVD.

    Returns:
        The matrix after every step.
    """
    (m, n), (b1, b2) = W.shape, betas
    r = min(rank, m)
    M, V, error, trajectory = np.zeros((r, n)), np.zeros((r, n)), np.zeros((m, n)), []
    for t, G in enumerate(gradients, start=1):
        a = G + error
        lost = np.zeros((m, n))
        if t == 1:
            S = top_left(a, r, None if like is None else like[0])
        elif (t - 1) % update_interval == 0 and r < m:
            S_old, M_old, V_old = S, M, V
            Mh, Vh = M_old / (1 - b1 ** (t - 1)), V_old / (1 - b2 ** (t - 1))
            b = rho * (S_old @ Mh) + (1 - rho) * a
            S = np.linalg.qr(b @ (b.T @ S_old))[0]
            Q = S.T @ S_old
            M = Q @ M_old
            V = (1 - b2 ** (t - 1)) * np.abs((Q * Q) @ (Vh - Mh**2) + (Q @ Mh) ** 2)
            lost = S_old @ M_old - S @ M
        A = S.T @ a
        M, V, O = adam(A, M, V, t=t, betas=betas, eps=eps)
        error = (a - S @ A + b1 / (1 - b1) * lost) if r < m else np.zeros((m, n))
        W = (1 - lr * weight_decay) * W - lr * scale * (S @ O)
        trajectory.append(W)
    return trajectory
