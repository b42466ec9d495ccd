"""DCT-AdamW (arXiv 2505.17967)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from subspace_lab.optim.reference.arrays import Array, Trajectory, adam, for_wide_matrices
from subspace_lab.optim.reference.bases import cosines


@for_wide_matrices
def dct_adamw(
    W: Array,
    gradients: Sequence[Array],
    *,
    lr: float,
    rank: int,
    update_interval: int = 1,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    scale: float = 1.0,
) -> Trajectory:
    """``R = S^T S_old``, ``M = b1 R M + (1 - b1) A``, ``V = b2 |R V| + (1 - b2) A^2``, ``E = G - S A``.

    Args:
        W: Matrix (m, n).
        gradients: One per step.
        lr: Learning rate.
        rank: r.
        update_interval: T.
        betas: Adam's decay rates.
        eps: Adam's eps.
        weight_decay: Decoupled.
        scale: On the whole step.

    Returns:
        The matrix after every step.
    """
    (m, n), r = W.shape, min(rank, *W.shape)
    C, E, trajectory = cosines(m), np.zeros(W.shape), []
    M, V = np.zeros((r, n)), np.zeros((r, n))
    S = C.T[:, :r]
    for t, gradient in enumerate(gradients, start=1):
        G = gradient + E
        if (t - 1) % update_interval == 0:
            alignment = np.linalg.norm(C @ G, axis=1)
            S_old, S = S, C.T[:, np.sort(np.argsort(-alignment)[:r])]
            R = np.round(S.T @ S_old)  # of columns of one orthogonal matrix: ones and zeros
            M, V = R @ M, np.abs(R @ V)
        A = S.T @ G
        M, V, O = adam(A, M, V, t=t, betas=betas, eps=eps)
        E = G - S @ A
        W = (1 - lr * weight_decay) * W - lr * scale * S @ O
        trajectory.append(W)
    return trajectory
